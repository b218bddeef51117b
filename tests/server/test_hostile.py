"""Hostile clients: every request is answered or dropped, and no other client is affected."""

import asyncio
import contextlib
import gc
import json
import logging
import random
import re
import types
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from sse_broadcast.config.schema import CallerRule
from sse_broadcast.server.endpoints.metrics import EXPOSITION
from sse_broadcast.server.http import client_address
from sse_broadcast.server.services import LINE_STREAMS, STREAM_EXPIRY
from sse_broadcast.server.transport import connection
from sse_broadcast.server.transport.connection import MOST_HEAD, OPTIONS
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.support.asking import ask, bearer
from tests.support.costly_requests import KINDS
from tests.support.hostile import Tally, besiege, play, statuses
from tests.support.internals import addresses_of, outboxes_of, pipelined_of, web_server_of
from tests.support.inventor import Ending, Inventor, Trick
from tests.support.sockets import RawClient, until

pytestmark = pytest.mark.both_loops

GOOD, NARROW = "a-token-that-may-do-everything", "a-token-that-may-do-little"
CREDENTIALS: Mapping[str, Any] = {
    "token": GOOD,
    "caller": (CallerRule(name="narrow", token=NARROW, subscribe=("a", "b"), publish=("a",)),),
    "anonymous_subscribe": ("a",),
    "cookie": "session",
    "cors_origins": ("https://a.example",),
}
HOST = b"Host: localhost\r\n"
SMUGGLED = b"GET /status HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture
def hasty(monkeypatch: Patch) -> None:
    """Shorten time-outs of seconds to fractions of one."""
    monkeypatch.setattr(connection, "KEEP_ALIVE", 3.0)  # the healthy publisher must keep within it
    options = {**OPTIONS, "lingering_time": 0.3}
    monkeypatch.setattr(connection, "OPTIONS", types.MappingProxyType(options))


@pytest.fixture
def no_loopback(monkeypatch: Patch) -> None:
    """Count loopback addresses like any other."""
    monkeypatch.setattr(client_address, "key", lambda host: host)
    monkeypatch.setattr(client_address, "is_loopback", lambda _: False)


# All attacks at once.


class HealthyClients:
    """Subscribers that want every event, and their publisher."""

    def __init__(self, server: LiveServer, subscribers: list[RawClient], publisher: RawClient) -> None:
        self._server = server
        self._subscribers = subscribers
        self._publisher = publisher
        self._published = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, server: LiveServer, count: int) -> AsyncIterator["HealthyClients"]:
        async with AsyncExitStack() as stack:
            clients = [await RawClient.open(server.port) for _ in range(count + 1)]
            for client in clients:
                stack.callback(client.close)
            *subscribers, publisher = clients
            for subscriber in subscribers:
                await subscriber.subscribe(path="/events/honest", headers=bearer(GOOD))
            yield cls(server, subscribers, publisher)

    async def while_(self, doing: asyncio.Task[Tally]) -> None:
        """Publish until a coroutine is done, and check that all subscribers get everything in order."""
        reading = [asyncio.create_task(self._read(subscriber)) for subscriber in self._subscribers]
        while not doing.done():
            await self._publish(str(self._published))
            await asyncio.sleep(0.002)
        await self._publish("end")
        async with asyncio.timeout(20):
            found = await asyncio.gather(*reading)
        assert all(each == [str(number) for number in range(self._published - 1)] for each in found)

    async def _publish(self, data: str) -> None:
        said = await self._publisher.ask("POST", "/send/honest", body=data.encode(), headers=bearer(GOOD))
        assert said[0] == 200, said
        self._published += 1

    async def _read(self, subscriber: RawClient) -> list[str]:
        found: list[str] = []
        while found[-1:] != ["end"]:
            found += [event.data for event in await subscriber.events(1)]
        return found[:-1]


@pytest.mark.parametrize("settings", [{}, CREDENTIALS], ids=["open", "with credentials"])
@pytest.mark.usefixtures("hasty")
async def test_hostile_requests_affect_no_other_client(
    serve: Serve, caplog: Caplog, monkeypatch: Patch, settings: Mapping[str, Any]
) -> None:
    """Thousands of them cause no server error and no lost event, and leave nothing behind."""
    if settings:
        monkeypatch.setattr(client_address, "key", lambda host: host)
        monkeypatch.setattr(client_address, "is_loopback", lambda _: False)
    server = await serve(head_timeout=0.5, body_timeout=0.3, max_body=100_000, max_event=100_000, **settings)
    tasks = len(asyncio.all_tasks())
    inventor = Inventor(4, tokens=(GOOD, NARROW))
    async with HealthyClients.connected(server, 20) as honest:
        siege = asyncio.create_task(besiege(server.port, inventor, requests=6000, crowd=30))
        await honest.while_(siege)
        tally = await siege
    assert {200, 204, 400, 403, 404, 405, 413, 414, 415, 417, 422} <= tally.statuses.keys()
    assert not settings or tally.statuses[401]
    long = await RawClient.open(server.port)
    assert b" 431 " in await long.subscribe(headers=f"X: {'a' * 40_000}\r\n")
    long.close()
    await nothing_is_left(server, tasks)
    assert [record.getMessage() for record in caplog.records if is_fault(record)] == []


async def test_costly_requests_get_the_documented_responses(serve: Serve, caplog: Caplog) -> None:
    spender = CallerRule(name="spender", token=NARROW, subscribe=("spend.*",), publish=("spend.*",))
    server = await serve(head_timeout=0.5, body_timeout=0.3, caller=(spender,), anonymous_subscribe=("a",))
    tasks = len(asyncio.all_tasks())
    pieces = [kind(random.Random(1), NARROW) for kind in KINDS]
    tricks = [Trick(tuple(each), 1, pause=0.0, patience=0.5, ending=Ending.FIN) for each in pieces]
    answered = await asyncio.gather(*(play(server.port, trick) for trick in tricks))
    found = {status for each in answered for status in statuses(each)}
    assert {200, 400, 401} <= found
    await nothing_is_left(server, tasks)
    assert [record.getMessage() for record in caplog.records if is_fault(record)] == []


def is_fault(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or bool(record.exc_info) or "Traceback" in record.getMessage()


async def nothing_is_left(server: LiveServer, tasks: int) -> None:
    await until(lambda: server.connections == 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert server.broadcaster.client_count == 0
    counts = server.app[EXPOSITION].connection_counts
    assert counts is not None
    assert addresses_of(counts) == {}
    assert len(server.app[STREAM_EXPIRY]) == 0
    assert server.app[LINE_STREAMS] == set()
    assert not outboxes_of(server.broadcaster)
    gc.collect()


# Limits of a head.


async def test_an_endless_head_is_cut_off(server: LiveServer, client: RawClient) -> None:
    """The limit is far below the two megabytes that aiohttp would read. It is counted."""
    lines = b"".join(b"X%d: %b\r\n" % (number, b"x" * 4000) for number in range(120))
    with contextlib.suppress(ConnectionError):
        await client.send(b"GET /healthz HTTP/1.1\r\n" + HOST + lines[: 4 * MOST_HEAD])
        await client.send(lines)
        assert await client.rest() == b""
    await until(lambda: server.broadcaster.counts.refused == {"malformed": 1})
    await until(lambda: server.connections == 0)


async def test_a_head_of_some_kibibytes_is_accepted(client: RawClient) -> None:
    """It has cookies and a token, one beyond aiohttp's own limit, in two requests of a connection."""
    lines = f"X: {'x' * 24_000}\r\nY: {'y' * 8000}\r\n"
    for _ in range(5):
        assert (await client.ask("GET", "/healthz", headers=lines))[0] == 200


async def test_a_body_is_not_limited_as_a_head(serve: Serve) -> None:
    """It may be longer, also if it is refused and read no further."""
    server, client = await serve.connected(token=GOOD)
    body = b"x" * (4 * MOST_HEAD)
    for _ in range(3):
        assert (await client.ask("POST", "/send", body=body, headers=bearer(GOOD)))[0] == 200
    for _ in range(3):
        assert (await client.ask("POST", "/send", body=body))[0] == 401
    assert "malformed" not in server.broadcaster.counts.refused


async def test_a_hundred_thousand_headers_are_refused(server: LiveServer, client: RawClient) -> None:
    with contextlib.suppress(ConnectionError):
        await client.send(b"GET /healthz HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 100_000 + b"\r\n")
    with contextlib.suppress(ConnectionError):
        assert (await client.rest()).startswith(b"HTTP/1.0 400 Bad Request\r\n")
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"malformed": 1}


@pytest.mark.parametrize("version", ["0.9", "2.0"])
@pytest.mark.parametrize("more", ["", "Expect: 100-continue\r\n"], ids=["plain", "expecting"])
async def test_other_http_versions_are_refused(client: RawClient, version: str, more: str) -> None:
    await client.send(f"GET /healthz HTTP/{version}\r\nHost: localhost\r\n{more}\r\n".encode())
    head, body = (await client.rest()).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert json.loads(body)["detail"] == f"version: HTTP/{version} is not supported; use 1.0 or 1.1"


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /healthz?" + "&".join(["a=1"] * 500),
        "GET /healthz/" + "a" * 20_000,
        "GET /healthz HTTP/2.0\r\nX: " + "a" * 40_000,
    ],
    ids=["parameters", "target", "head"],
)
async def test_every_refusal_is_in_http_1_1(client: RawClient, request_line: str) -> None:
    """A wrong version is reported before any other error."""
    head = request_line if "HTTP/2.0" in request_line else f"{request_line} HTTP/2.0"
    await client.send(f"{head}\r\nHost: localhost\r\n\r\n".encode())
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert b"is not supported" in answer


@pytest.mark.parametrize("version", ["1.1", "1.0", "2.0"])
@pytest.mark.parametrize("first", ["CONNECT evil.example:443", "OPTIONS *"])
@pytest.mark.parametrize(
    "more", [b"", b"Expect: x\r\n", b"Expect: \xff\r\n"], ids=["plain", "text", "no text"]
)
async def test_a_target_without_a_path_is_refused(
    client: RawClient, first: str, version: str, more: bytes
) -> None:
    """The problem does not tell which software the server is built of."""
    await client.send(f"{first} HTTP/{version}\r\n".encode() + HOST + more + b"\r\n")
    head, body = (await client.rest()).split(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 404 Not Found\r\n", head)
    assert b"\r\nServer: sse-broadcast" in head
    assert json.loads(body)["detail"] == f"{first.split(maxsplit=1)[0]} needs a path here"


@pytest.mark.parametrize("path", ["/events", "/events/a%2Cb", "/%65vents", "//events", "/./events"])
async def test_a_path_is_protected_in_every_spelling(serve: Serve, path: str) -> None:
    server = await serve(token=GOOD)
    assert (await ask(server, "GET", path)).status in {400, 401, 404}


# Bytes after a stream request, or instead of a body.


async def test_bytes_after_a_stream_request_are_dropped(server: LiveServer, client: RawClient) -> None:
    """The server reads them to see the end of the connection, and does not answer."""
    await client.subscribe()
    (found,) = web_server_of(server).connections
    lines = b"".join(b"X%d: %b\r\n" % (number, b"x" * 8000) for number in range(100))
    for _ in range(50):
        await client.send(b"GET /status HTTP/1.1\r\n" + HOST + lines + b"\r\n")
    assert len(pipelined_of(found)) == 0
    await server.broadcaster.broadcast("x")
    assert [event.data for event in await client.events(1)] == ["x"]
    client.close()
    await until(lambda: server.connections == 0)


async def test_pipelined_requests_do_not_keep_a_stream_open(server: LiveServer, client: RawClient) -> None:
    """A hundred requests come with it, then bytes that are not HTTP. The end of the connection is seen."""
    await client.send(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED * 100)
    await client.head()
    await until(lambda: server.broadcaster.client_count == 1)
    await client.send(b"\0" * 100)
    await server.broadcaster.broadcast("x")
    assert [event.data for event in await client.events(1)] == ["x"]
    client.close()
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {}


@pytest.mark.parametrize("path", ["/send", "/send?stream=1", "/tokens"])
@pytest.mark.parametrize(
    "begins",
    [
        b"Content-Length: 10\r\n\r\n",
        b"Content-Length: 10\r\n\r\n12345",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n123",
        b"Transfer-Encoding: chunked\r\n\r\n5;" + b"e" * 100_000,
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: ",
    ],
    ids=["none", "half", "no chunk", "half a chunk", "an extension", "a trailer"],
)
async def test_a_stalled_body_is_a_408(serve: Serve, path: str, begins: bytes) -> None:
    """A stream of lines has no such limit."""
    server, client = await serve.connected(body_timeout=0.1)
    await client.send(f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n".encode() + HOST + begins)
    if "stream" in path:
        await until(lambda: len(server.app[LINE_STREAMS]) == 1)
        client.close()
    else:
        assert (await client.answer())[0] == 408
        client.close()
    await until(lambda: server.connections == 0)


async def test_a_dripping_body_is_a_408(serve: Serve) -> None:
    """A byte now and then does not prolong the time."""
    server, client = await serve.connected(body_timeout=0.2)
    await client.send(b"POST /send HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n")

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await client.send(b"x")
                await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    assert (await client.answer())[0] == 408
    client.half_close()
    dripping.cancel()
    await until(lambda: server.connections == 0)


async def test_a_compressed_body_is_refused(server: LiveServer) -> None:
    """It is a 415: the decompressed size is not known before."""
    client = await server.connect()
    bomb = zlib.compress(bytes(20_000_000))
    headers = "Content-Encoding: deflate\r\nContent-Type: application/json\r\n"
    for path in ("/send", "/tokens", "/send?stream=1"):
        client = await server.connect()
        assert (await client.ask("POST", path, body=bomb, headers=headers))[0] == 415


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 50\r\n\r\n",
        b"Content-Length: 0, 0\r\n\r\n",
        b"Content-Length: +0\r\n\r\n",
        b"Content-Length: 0x0\r\n\r\n",
        b"Content-Length: \xd9\xa0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Host: evil.example\r\nContent-Length: 0\r\n\r\n",
        b" folded\r\nContent-Length: 0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\n\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1;\nx\r\n0\r\n\r\n",
    ],
)
async def test_an_ambiguous_request_is_the_last_of_its_connection(serve: Serve, framing: bytes) -> None:
    """A proxy in front may see its end elsewhere."""
    server, client = await serve.connected(body_timeout=0.2)
    await client.send(b"POST /send HTTP/1.1\r\n" + HOST + framing + SMUGGLED)
    answered = await client.rest()
    assert re.findall(rb"HTTP/1\.[01] (\d+)", answered) == [b"400"], answered
    assert server.broadcaster.counts.published == 0


# Bytes that are not UTF-8.

NO_UTF8 = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80")


@pytest.mark.parametrize("bad", NO_UTF8)
async def test_bytes_that_are_not_utf8_are_refused(server: LiveServer, bad: bytes) -> None:
    """This holds for a path or a query, percent-encoded or not, and for a body."""
    quoted = b"".join(b"%%%02x" % byte for byte in bad)
    requests = [
        b"GET /events/%b HTTP/1.1\r\n%b\r\n",
        b"GET /events?event=%b HTTP/1.1\r\n%b\r\n",
        b"GET /events?%b=1 HTTP/1.1\r\n%b\r\n",
        b"POST /send/%b HTTP/1.1\r\n%bContent-Length: 0\r\n\r\n",
        b"POST /send?id=%b HTTP/1.1\r\n%bContent-Length: 0\r\n\r\n",
        b"GET /%b HTTP/1.1\r\n%b\r\n",
    ]
    whole = [request % (form, HOST) for request in requests for form in (bad, quoted)]
    for kind in (b"text/plain", b"application/json", b"application/x-ndjson"):
        body = b'{"message": "%b"}' % bad
        head = b"POST /send HTTP/1.1\r\n%bContent-Type: %b\r\n" % (HOST, kind)
        whole.append(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    for request in whole:
        client = await server.connect()
        await client.send(request)
        assert (await client.head()).startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), request
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize("bad", NO_UTF8)
@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Cookie", "Origin", "Accept", "Content-Type", "Content-Encoding", "Expect",
        "Last-Event-ID", "Idempotency-Key", "Forwarded", "X-Forwarded-For", "Connection",
        "Access-Control-Request-Method", "X-Any",
    ],
)  # fmt: skip
async def test_a_header_that_is_not_utf8_is_no_server_error(serve: Serve, name: str, bad: bytes) -> None:
    """It gets the response that any unknown header gets."""
    server = await serve(**CREDENTIALS, trusted_proxies=("127.0.0.1",))
    for method, path in (("GET", "/events"), ("POST", "/send"), ("POST", "/tokens"), ("OPTIONS", "/send")):
        client = await server.connect()
        said = {"Authorization": b"Bearer " + bad, "Cookie": b"session=" + bad}.get(name, bad)
        lines = HOST + name.encode() + b": " + said + b"\r\n"
        if name != "Authorization":
            lines += bearer(GOOD).encode()
        await client.send(f"{method} {path} HTTP/1.1\r\n".encode() + lines + b"Content-Length: 0\r\n\r\n")
        assert int((await client.head()).split()[1]) < 500


# Clients that do not read.


async def test_a_client_that_never_reads_is_disconnected_and_delays_no_other(serve: Serve) -> None:
    server = await serve(write_timeout=0.2, send_buffer=4096, queue_bytes=100_000, max_event=50_000)
    honest, greedy = await server.connect(), await server.connect(receive_buffer=4096)
    await honest.subscribe()
    await greedy.send(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: server.broadcaster.client_count == 2)
    for number in range(40):
        data = f"{number:020000}"
        await server.broadcaster.broadcast(data)
        assert [event.data for event in await honest.events(1)] == [data]
    await until(lambda: server.broadcaster.client_count == 1)
    await until(lambda: server.connections == 1)


async def test_a_client_that_reads_too_slowly_is_disconnected(serve: Serve) -> None:
    """It reads a byte now and then, until its queue overflows."""
    server = await serve(write_timeout=0.3, send_buffer=4096, queue_bytes=100_000, max_event=50_000)
    greedy = await server.connect(receive_buffer=4096)
    await greedy.send(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: server.broadcaster.client_count == 1)
    for number in range(40):
        await server.broadcaster.broadcast(f"{number:020000}")
        await asyncio.get_running_loop().sock_recv(greedy.sock, 1)
        await asyncio.sleep(0)
    await until(lambda: server.broadcaster.client_count == 0)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.closed == {"slow": 1}


# Many connections.


@pytest.mark.usefixtures("no_loopback")
async def test_a_flood_from_one_address_affects_no_other(serve: Serve) -> None:
    """It gets its limit of connections. Other addresses get theirs, and their events."""
    server = await serve(max_connections_per_address=20, head_timeout=0.3)
    honest = await server.subscriber(source="127.0.0.3")
    flood = [await server.connect(source="127.0.0.2") for _ in range(200)]
    other = await server.connect(source="127.0.0.4")
    assert (await other.ask("GET", "/healthz"))[0] == 200
    await server.broadcaster.broadcast("x")
    assert [event.data for event in await honest.events(1)] == ["x"]

    # On a slow machine the first time out before the last arrive, and make room for them.
    def refused(reason: str) -> int:
        return server.broadcaster.counts.refused.get(reason, 0)

    await until(lambda: refused("address") + refused("silent") == 200)
    assert refused("silent") >= 20
    await until(lambda: server.connections == 2)
    for client in flood:
        client.close()


async def test_only_the_beginning_of_a_refused_head_is_parsed(serve: Serve) -> None:
    """The limit is 8 KiB. Parsing a quarter of a megabyte would take a tenth of a second."""
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    late = await server.connect()
    await late.send(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 10_000 + b"Accept: text/event-stream\r\n\r\n")
    assert (await late.head()).startswith(b"HTTP/1.1 503 ")
