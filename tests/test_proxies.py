"""The proxy configurations of `docs/deploy`, with the real proxies between a server and its clients."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from sse_broadcast.client import Client
from sse_broadcast.config.schema import Config
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import fronts as front_support
from tests.support import process
from tests.support.acceptor import accepting
from tests.support.credentials import STATIC
from tests.support.fronts import (
    CUTTING,
    HASTY,
    REFUSAL,
    SSE,
    Front,
    Fronts,
    Reader,
    ask_for_stream,
    free_port,
    reading,
)
from tests.support.proxy_kinds import CADDY, HAPROXY, KINDS, NGINX, SQUID, VARNISH, Kind, Varnish
from tests.support.sockets import until

EACH = pytest.mark.parametrize("kind", KINDS, ids=str)
WAYS = [(kind, http2) for kind in KINDS for http2 in (False, True) if kind.can.http2 or not http2]
EACH_HTTP = pytest.mark.parametrize(
    ("kind", "http2"), WAYS, ids=[f"{kind} {'2' if http2 else '1.1'}" for kind, http2 in WAYS]
)
LINES = [(kind, http2) for kind, http2 in WAYS if kind.can.passes_lines]
WITH_TLS = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.can.tls], ids=str)

SETTINGS: Mapping[str, Any] = {
    "token": STATIC,
    "anonymous_subscribe": ("*",),
    "trusted_proxies": ("127.0.0.1",),
}
"""The server's settings for the proxy files, with anonymous subscriptions."""

IDLE = 1
"""Seconds of silence after which an impatient proxy cuts a stream."""

IMPATIENT = {
    "nginx": {"proxy_read_timeout 180s;": f"proxy_read_timeout {IDLE}s;"},
    "caddy": {"read_timeout 180s": f"read_timeout {IDLE}s"},
    "haproxy": {"timeout server 180s": f"timeout server {IDLE}s"},
    "apache2": {"ProxyTimeout 180": f"ProxyTimeout {IDLE}"},
    "lighttpd": {'"read-timeout" => 180': f'"read-timeout" => {IDLE}'},
    # It measures in whole seconds of the clock, so that one may take no time at all.
    "squid": {"read_timeout 180 seconds": f"read_timeout {2 * IDLE} seconds"},
    "h2o": {"proxy.timeout.io: 180000": f"proxy.timeout.io: {IDLE * 1000}"},
}
IMPATIENT_VARNISH = Varnish(pipe_timeout=IDLE)
"""Its time-out is an argument of its command line."""

PAGE, FOREIGN = {"Origin": "https://shop.example"}, {"Origin": "https://evil.example"}

ID = re.compile(rb"(?<=\"id\":\")[0-9a-f]+-[0-9]+")

BEARER = {"Authorization": f"Bearer {STATIC}"}

programs = pytest.fixture(process.programs)
fronts = pytest.fixture(front_support.fronts)


@EACH_HTTP
async def test_an_event_arrives_before_the_next_is_published(
    serve: Serve, fronts: Fronts, kind: Kind, *, http2: bool
) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    async with fronts.client(front, http2=http2) as client, reading(client) as subscriber:
        assert subscriber.response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert (await subscriber.block()).startswith(b": \nretry: ")
        for number in range(20):
            answer = await client.post("/send", content=str(number), headers=BEARER)
            id = answer.json()["id"]
            assert await subscriber.block() == f"data: {number}\nid: {id}\n\n".encode()


@EACH
async def test_a_line_arrives_before_the_next_is_published(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    """No proxy knows that NDJSON is streamed."""
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    headers = {"Accept": "application/x-ndjson"}
    async with fronts.client(front) as client, reading(client, **headers) as subscriber:
        assert json.loads(await subscriber.line())["event"] == "$open"
        for number in range(20):
            await server.broadcaster.broadcast(str(number))
            assert json.loads(await subscriber.line())["data"] == str(number)


@EACH
async def test_nothing_is_compressed(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    async with fronts.client(front) as client:
        for accept in ("text/event-stream", "application/x-ndjson"):
            headers = {"Accept": accept, "Accept-Encoding": "gzip, br, zstd"}
            async with reading(client, "/events?since=earliest", **headers) as subscriber:
                assert subscriber.response.status_code == 200
                assert "content-encoding" not in subscriber.response.headers
                assert subscriber.response.headers["cache-control"] == "no-store, no-transform"


async def wait_at_all(
    serve: Serve, fronts: Fronts, wait: Callable[[Reader], Awaitable[None]], **settings: Any
) -> Server:
    """Wait for a stage of a stream through each kind of proxy with a short time-out. Return the server."""
    server = await serve(**SETTINGS, **settings)

    async def wait_at(kind: Kind) -> None:
        kind = IMPATIENT_VARNISH if kind is VARNISH else kind
        front = await fronts.put(kind, server.port, IMPATIENT.get(kind.program))
        async with fronts.client(front) as client, reading(client) as subscriber:
            await subscriber.block()
            await wait(subscriber)

    outcomes = await asyncio.gather(*map(wait_at, KINDS), return_exceptions=True)
    failed = {str(kind): outcome for kind, outcome in zip(KINDS, outcomes, strict=True) if outcome}
    assert failed == {}
    return server


async def test_a_stream_outlives_the_timeout_of_its_proxy(serve: Serve, fronts: Fronts) -> None:
    """It lasts twice as long, with heartbeats only."""

    async def hear_heartbeats(subscriber: Reader) -> None:
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - begun < 2 * IDLE:
            assert await subscriber.line() == b": \n"

    server = await wait_at_all(serve, fronts, hear_heartbeats, heartbeat=IDLE / 5)
    assert server.broadcaster.counts.opened == len(KINDS)


async def test_a_proxy_cuts_a_stream_without_heartbeats(serve: Serve, fronts: Fronts) -> None:
    """A dead server does not send any."""
    server = await wait_at_all(serve, fronts, Reader.end, heartbeat=3600)
    await until(lambda: server.broadcaster.client_count == 0)


@EACH
async def test_a_client_that_leaves_is_released(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    """Some proxies notice it at once, others when they cannot write the next heartbeats."""
    server = await serve(**SETTINGS, heartbeat=3600 if kind.can.notices_leaving else 0.1)
    front = await fronts.put(kind, server.port)
    async with fronts.client(front, http2=False) as client:
        async with reading(client) as subscriber:
            await subscriber.block()
            assert server.broadcaster.client_count == 1
        await until(lambda: server.broadcaster.client_count == 0)
    assert server.broadcaster.counts.closed == {"left": 1}


REQUESTS = {
    "a preflight": ("OPTIONS", "/events", {**PAGE, "Access-Control-Request-Method": "GET"}, b""),
    "a preflight of a publish": ("OPTIONS", "/send", {**PAGE, "Access-Control-Request-Method": "POST"}, b""),
    "HEAD": ("HEAD", "/events/a", PAGE, b""),
    "a publish": ("POST", "/send/a", {**BEARER, **PAGE}, b"hello"),
    "a PUT": ("PUT", "/send/a", BEARER, b"hello"),
    "a cookie": ("POST", "/send/a", {"Cookie": f"visitor={STATIC}", **PAGE}, b"hello"),
    "a cookie of a foreign page": ("POST", "/send/a", {"Cookie": f"visitor={STATIC}", **FOREIGN}, b"x"),
    "no token": ("POST", "/send/a", PAGE, b"hello"),
    "a bad token": ("POST", "/send/a", {"Authorization": "Bearer not-good-0123456789"}, b"hello"),
    "no channel": ("POST", "/send/a%20b", BEARER, b"hello"),
    "no UTF-8": ("POST", "/send/a", BEARER, b"\xff"),
    "no reading": ("GET", "/send/a", BEARER, b""),
    "too large": ("POST", "/send/a", BEARER, b"x" * 5_000_000),
    "a parameter that is misspelt": ("GET", "/events?chanel=a", {}, b""),
}
"""Requests other than streams: method, path, headers and body."""

OF_THE_WAY = {
    *("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding", "upgrade", "via"),
    *("accept-ranges", "age", "x-accel-buffering", "x-cache", "x-cache-lookup", "x-varnish"),
}
"""Headers of the connection, for the proxy or from it."""


async def said(client: httpx.AsyncClient, what: str) -> tuple[int, dict[str, str], bytes]:
    """Return a response without the headers of its transport."""
    method, path, headers, body = REQUESTS[what]
    answer = await client.request(method, path, headers=headers, content=body)
    reported = {name: value for name, value in answer.headers.items() if name not in OF_THE_WAY}
    return answer.status_code, reported, ID.sub(b"id", answer.content)


@EACH
async def test_responses_of_the_server_are_unchanged(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    server = await serve(**SETTINGS, cookie="visitor", cors_origins=(PAGE["Origin"],))
    front = await fronts.put(kind, server.port)
    async with httpx.AsyncClient(base_url=server.url) as direct, fronts.client(front) as client:
        for what in REQUESTS:
            assert await said(client, what) == await said(direct, what), what


@EACH
async def test_a_full_server_responds_itself(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    """Programs get its 503 with a wait, and browsers a refusal as a stream."""
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    async with fronts.client(front) as client:
        await server.broadcaster.close(timeout=1)
        answer = await client.get("/events")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["detail"] == "the server is shutting down"
        answer = await client.get("/events", headers={"Accept": "text/event-stream"})
        assert answer.status_code == 200
        refusal = rb'event: \$close\nretry: \d+\ndata: {"reason": "drain"}\n\n'
        assert re.fullmatch(refusal, answer.content)


@EACH
async def test_a_subscriber_resumes(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    first, *_ = [(await server.broadcaster.broadcast(str(number))).id for number in range(2)]
    async with fronts.client(front) as client, reading(client, **{"Last-Event-ID": first}) as subscriber:
        await subscriber.block()
        assert (await subscriber.block()).startswith(b"data: 1\nid: ")


@EACH
async def test_the_server_gets_the_address_of_the_client(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    """It is the one that the proxy sees, whatever the client sends."""
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    made_up = {"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7", "X-Real-IP": "192.0.2.7"}
    async with fronts.client(front, source="127.0.0.9") as client, reading(client, **made_up) as subscriber:
        await subscriber.block()
        async with httpx.AsyncClient(base_url=server.url, headers=BEARER) as operator:
            (found,) = (await operator.get("/subscribers")).json()["subscribers"]
    assert found["address"] == "127.0.0.9"


@EACH
async def test_a_client_of_a_local_proxy_is_not_local(server: Server, fronts: Fronts, kind: Kind) -> None:
    """An unconfigured server gives it streams only."""
    front = await fronts.put(kind, server.port)
    async with fronts.client(front) as client:
        assert (await client.post("/send", content=b"x")).status_code == 401
        assert (await client.head("/events")).status_code == 200
    async with httpx.AsyncClient(base_url=server.url) as neighbour:
        assert (await neighbour.post("/send", content=b"x")).status_code == 200


@EACH
async def test_private_endpoints_are_not_passed_on(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    async with fronts.client(front) as client:
        for path in ("/", "/status", "/channels", "/tokens", "/revoke", "/eventsx", "/sending"):
            answer = await client.get(path, headers=BEARER)
            assert answer.status_code == 404, path
            assert answer.headers.get("content-type") != "application/problem+json", path


@WITH_TLS
async def test_a_request_without_tls_is_redirected(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    """Nothing of it is passed on before."""
    front = await fronts.put(kind, free_port())
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{front.place.plain_port}/events?a=b")
    assert answer.status_code in {301, 308}
    assert answer.headers["location"].startswith("https://127.0.0.1")
    assert answer.headers["location"].endswith("/events?a=b")


@pytest.mark.parametrize(
    ("kind", "http2"), LINES, ids=[f"{kind} {'2' if http2 else '1.1'}" for kind, http2 in LINES]
)
async def test_lines_are_published_as_they_come(
    serve: Serve, fronts: Fronts, kind: Kind, *, http2: bool
) -> None:
    """With `?stream=1` a line arrives before the next is written."""
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while line := await lines.get():
            yield line

    async with fronts.client(front, http2=http2) as client:
        # As `curl -T -` does: lighttpd accepts a POST over HTTP/2 only with a Content-Length.
        sending = asyncio.create_task(client.put("/send?stream=1", content=body(), headers=BEARER))
        for number in range(1, 4):
            lines.put_nowait(b"a line\n")
            await until(lambda number=number: server.broadcaster.counts.published == number)  # type: ignore[misc]
        lines.put_nowait(b"")
        assert (await sending).json()["count"] == 3


@EACH
async def test_a_large_batch_is_published(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    line = json.dumps({"message": "x" * 30_000}).encode()
    async with fronts.client(front) as client:
        headers = {"Content-Type": "application/x-ndjson", **BEARER}
        answer = await client.post("/send", content=b"\n".join([line] * 100), headers=headers)
    assert answer.json()["count"] == 100


BROUGHT = {
    "": b"",
    "k3f9-1041": b"id: k3f9-1041\n",
    "A" * 128: b"id: %s\n" % (b"A" * 128),
    "A" * 129: b"",
    "a b": b"",
    "<b>": b"",
    "k3f9-1,": b"",
}
"""Values of `Last-Event-ID`, and the last line of the block in the response."""


@EACH
async def test_without_the_server_a_subscriber_gets_a_refusal_as_a_stream(fronts: Fronts, kind: Kind) -> None:
    """The refusal is the server's own, with the last id as its last line. Retry times have jitter."""
    front = await fronts.put(kind, free_port(), HASTY.get(kind.program))
    lists = {"k3f9-1, k3f9-1041": b"id: k3f9-1041\n"} if kind.can.reads_id_lists else {}
    retries = set()
    async with fronts.client(front) as client:
        for id, line in [*BROUGHT.items(), *lists.items()] * 2:
            answer = await ask_for_stream(client, SSE | ({"Last-Event-ID": id} if id else {}))
            refusal = REFUSAL.fullmatch(answer.content)
            assert refusal is not None, answer.content
            assert (refusal[2] or b"") == line
            retries.add(refusal[1])
    assert len(retries) > 1


@EACH
async def test_without_the_server_a_page_can_read_the_refusal(fronts: Fronts, kind: Kind) -> None:
    """It may be of another origin and have a cookie. A program gets a 503."""
    front = await fronts.put(kind, free_port(), HASTY.get(kind.program))
    async with fronts.client(front) as client:
        reported = {"cache-control": "no-store", "retry-after": "5"}
        origin = {"access-control-allow-origin": PAGE["Origin"]}
        credentials = {"access-control-allow-credentials": "true"}
        answer = await ask_for_stream(client, SSE | PAGE)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (reported | origin | credentials).items() <= answer.headers.items()
        answer = await ask_for_stream(client, PAGE)
        assert answer.status_code == (502 if kind is SQUID else 503)
        assert (reported | origin | credentials).items() <= answer.headers.items()
        answer = await ask_for_stream(client, SSE)
        assert reported.items() <= answer.headers.items()
        assert not origin.keys() & answer.headers.keys()
        # Some of them say so for a publish that cannot have happened.
        answer = await client.post("/send", content=b"x", headers=BEARER)
        assert answer.status_code == kind.can.refused_publish


@EACH
async def test_a_publish_that_may_have_happened_is_a_502(fronts: Fronts, kind: Kind) -> None:
    """The client takes a 502 so, and a 503 for a publish that may be sent again."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"POST"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # the response to a probe

    async with accepting(cut) as server:
        front = await fronts.put(kind, server.port, HASTY.get(kind.program))
        async with fronts.client(front, http2=False) as client:
            assert (await client.post("/send", content=b"x", headers=BEARER)).status_code == 502


@EACH
async def test_a_token_is_in_no_log_of_the_proxy(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    """The stream is accepted, refused, or has no server."""
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port, HASTY.get(kind.program))
    path = f"/events/a?access_token={STATIC}"
    async with fronts.client(front) as client:
        async with reading(client, path) as subscriber:
            await subscriber.block()
        assert (await client.get(f"{path}x")).status_code == 401
        await server.stop()
        assert (await ask_for_stream(client, {}, path)).status_code in {502, 503}
        assert (await ask_for_stream(client, SSE, path)).status_code == 200
    # Squid writes to files only, and takes two seconds to stop.
    await (front.kill() if kind is SQUID else front.stop())
    assert front.said() != ""
    assert STATIC not in front.said()


class Follower:
    """The package's client, subscribed to a channel through a proxy, with the events it got."""

    def __init__(self, fronts: Fronts, front: Front) -> None:
        self.seen: list[str] = []
        self._task = asyncio.create_task(self._follow(fronts, front))

    async def _follow(self, fronts: Fronts, front: Front) -> None:
        async with Client(front.url, tls=fronts.trust) as client:
            async for piece in client.subscribe():
                self.seen += [event.data for event in piece.events if event.type != "$open"]

    async def has(self, *data: str) -> None:
        """Wait until it has got exactly these events."""
        await until(lambda: self._task.done() or len(self.seen) >= len(data))
        if self._task.done():
            self._task.result()
        assert self.seen == list(data)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


Follow = Callable[[Fronts, Front], Follower]


@pytest.fixture
async def follow() -> AsyncIterator[Follow]:
    async with AsyncExitStack() as stack:

        def start(fronts: Fronts, front: Front) -> Follower:
            follower = Follower(fronts, front)
            stack.push_async_callback(follower.close)
            return follower

        yield start


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *(pytest.param(kind, "stopped", id=f"{kind} stopped") for kind in (NGINX, CADDY)),
        *(pytest.param(kind, "killed", id=f"{kind} killed") for kind in (NGINX, CADDY)),
        *(pytest.param(kind, "reloaded", id=f"{kind} reloaded") for kind in (NGINX, HAPROXY)),
    ],
)
async def test_a_client_continues_when_its_proxy_cuts_it(
    serve: Serve, fronts: Fronts, follow: Follow, kind: Kind, how: str
) -> None:
    server = await serve(**SETTINGS, retry=100)
    front = await fronts.put(kind, server.port, CUTTING.get(kind.program))
    follower = follow(fronts, front)
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("before")
    await follower.has("before")
    if how == "reloaded":
        await front.reload()
    else:
        await (front.stop() if how == "stopped" else front.kill())
        await until(lambda: server.broadcaster.client_count == 0)
    await server.broadcaster.broadcast("meanwhile")
    if how != "reloaded":
        await front.start()
    await until(lambda: server.broadcaster.counts.opened == 2 and server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("after")
    await follower.has("before", "meanwhile", "after")
    assert server.broadcaster.counts.resets == {}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.can.reloads], ids=str)
async def test_a_reload_of_the_proxy_keeps_streams(serve: Serve, fronts: Fronts, kind: Kind) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(kind, server.port)
    async with fronts.client(front, http2=False) as client, reading(client) as subscriber:
        await subscriber.block()
        for number in range(2):
            await front.reload()
            # Over HTTP/2 an old process may send GOAWAY, on which browsers reconnect, but not this client.
            async with fronts.client(front, http2=False) as other, reading(other) as newcomer:
                await newcomer.block()
                await server.broadcaster.broadcast(str(number))
                for each in (subscriber, newcomer):
                    assert (await each.block()).startswith(b"data: %d\nid: " % number)
    assert server.broadcaster.counts.opened == 3


async def test_workers_of_nginx_end_with_their_streams(serve: Serve, fronts: Fronts) -> None:
    server = await serve(**SETTINGS)
    front = await fronts.put(NGINX, server.port)
    async with fronts.client(front, http2=False) as client, reading(client) as subscriber:
        await subscriber.block()
        await front.reload()
        await until(lambda: len(NGINX.leaving(front)) == 1)
    await until(lambda: NGINX.leaving(front) == set())


async def test_caddy_needs_a_setting_to_stop(serve: Serve, fronts: Fronts) -> None:
    """Without it it runs as long as there are streams, without listening."""
    server = await serve(**SETTINGS, heartbeat=0.1)
    front = await fronts.put(CADDY, server.port, {"grace_period 5s": ""})
    async with fronts.client(front, http2=False) as client, reading(client) as subscriber:
        await subscriber.block()
        front.running.send_signal(signal.SIGTERM)
        await until(lambda: not front.listens())
        for _ in range(5):
            assert await subscriber.line() == b": \n"
    assert (await front.running.ended()).code == 0


async def test_clients_continue_after_an_outage_of_the_server(fronts: Fronts, follow: Follow) -> None:
    """The proxies stay up. The lost history gives a `$reset`."""
    settings = {"retry": 100, "shutdown_timeout": 4, **SETTINGS}
    first = Server(Config(port=0, **settings))
    await first.start()
    port = first.port
    followers = {
        kind: follow(fronts, await fronts.put(kind, port, HASTY.get(kind.program))) for kind in KINDS
    }
    await until(lambda: first.broadcaster.client_count == len(KINDS))
    await first.broadcaster.broadcast("before")
    for follower in followers.values():
        await follower.has("before")
    await first.stop()
    second = Server(Config(port=port, **settings))
    await second.start()
    try:
        await until(lambda: second.broadcaster.client_count == len(KINDS))
        await second.broadcaster.broadcast("after")
        await until(lambda: all(follower.seen[-1:] == ["after"] for follower in followers.values()))
        for kind, follower in followers.items():
            reasons = [json.loads(data)["reason"] for data in follower.seen[1:-1]]
            assert follower.seen[0] == "before", kind
            assert [reason for reason in reasons if reason != "backend"] == ["drain", "epoch"], kind
    finally:
        await second.stop()
