"""POST /send?stream=1: lines published as they arrive."""

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.publication import Draft
from sse_broadcast.server.access.rate_limits import RateLimiter
from sse_broadcast.server.endpoints.publish_stream import LINES_PER_PUBLISH, end_line_streams
from sse_broadcast.server.services import LINE_STREAMS
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.support.clock import Clock, stopped
from tests.support.internals import web_server_of
from tests.support.mounting import mounted
from tests.support.process import Programs, programs
from tests.support.publishing import before_publishing
from tests.support.sockets import LEAVING, RawClient, until

NDJSON = "Content-Type: application/x-ndjson\r\n"
CUT = "is not JSON: Input data was truncated"
SURROGATE = "has a lone surrogate, which no event can carry"
MISSPELT = "mesage: unknown member; did you mean message?"
NO_TYPE = "event: must not be empty"
A_SPACE = "channel: must not contain ' ': 'b b'"
TOO_LARGE = "is 1031 bytes as a frame, more than the 1000 that max_event allows"
IN_BODY = "must be in the body, not in the query, for application/x-ndjson"
UTF_16 = "charset 'utf-16' is not supported; use utf-8, iso-8859-1 or us-ascii"

clock = pytest.fixture(stopped)
running = pytest.fixture(programs)


def answer_of(server: LiveServer, count: int, *, clients: int = 0) -> tuple[int, bytes]:
    """Return the expected response to a line stream whose last event is the newest."""
    id = f'"{server.broadcaster.cursor}"' if count else "null"
    return 200, f'{{"status":"sent","count":{count},"clients":{clients},"id":{id}}}\n'.encode()


async def stream(client: RawClient, *pieces: bytes, path: str = "/send?stream=1", headers: str = "") -> None:
    """Send a whole line stream, one chunk for each piece."""
    await client.begin(path, headers=headers)
    for piece in pieces:
        await client.send_chunk(piece)
    await client.send_chunk()


async def begun(server: LiveServer, sent: bytes, *, published: int, headers: str = "") -> RawClient:
    """Return a publisher with an open line stream, once this number of its lines is published."""
    publisher = await server.connect()
    await publisher.begin("/send?stream=1", headers=headers)
    await publisher.send_chunk(sent)
    await until(lambda: server.broadcaster.counts.published == published)
    return publisher


async def reading(server: LiveServer, path: str = "/events") -> RawClient:
    """Return a subscriber that the server has counted."""
    before = server.broadcaster.client_count
    subscriber = await server.subscriber(path)
    await until(lambda: server.broadcaster.client_count == before + 1)
    return subscriber


async def data_of(subscriber: RawClient, count: int) -> list[str]:
    return [event.data for event in await subscriber.events(count)]


@pytest.mark.both_loops
async def test_a_line_is_published_before_the_next_is_sent(server: LiveServer) -> None:
    """`curl -T -` sends such a request: a chunked PUT without a type, with `Expect: 100-continue`."""
    subscriber, publisher = await reading(server, "/events/logs"), await server.connect()
    await publisher.begin("/send/logs?stream=1", headers="Expect: 100-continue\r\n")
    assert await publisher.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    for number in range(20):
        await publisher.send_chunk(f"line {number}\n".encode())
        assert await data_of(subscriber, 1) == [f"line {number}"]
    await publisher.send_chunk()
    assert await publisher.answer() == answer_of(server, 20, clients=1)
    assert (await publisher.ask("GET", "/status"))[0] == 200


async def test_ndjson_lines_are_events(server: LiveServer) -> None:
    subscriber, publisher = await reading(server, "/events/*?format=json"), await server.connect()
    await publisher.begin("/send?stream=1", headers=NDJSON)
    await publisher.send_chunk(b'{"message":"a","event":"t","channel":"one"}\r\n\r\n \n')
    first = json.loads((await data_of(subscriber, 1))[0])
    assert (first["channel"], first["event"], first["data"]) == ("one", "t", "a")
    await publisher.send_chunk(b'{"data":{"x":1},"channels":["two","three"],"id":"mine"}')
    await publisher.send_chunk()
    second = json.loads((await data_of(subscriber, 1))[0])
    assert (second["channel"], second["id"], second["data"]) == ("two", "mine", {"x": 1})
    assert await publisher.answer() == (200, b'{"status":"sent","count":2,"clients":1,"id":"mine"}\n')


TEXTS: list[tuple[list[bytes], list[str]]] = [
    ([b"a\nb\n"], ["a", "b"]),
    ([b"a\r\nb\r\n"], ["a", "b"]),
    ([b"a\nlast without an end"], ["a", "last without an end"]),
    ([b"a\n\nb\n"], ["a", "", "b"]),
    ([b"a", b"b\nc", b"d"], ["ab", "cd"]),
    ([b"a\r", b"\nb"], ["a", "b"]),
    ([b"caf\xc3", b"\xa9\n"], ["caf\u00e9"]),
    ([b'{"message": "x"}\n'], ['{"message": "x"}']),
    ([b"line\n" * 1000], ["line"] * 1000),
]


@pytest.mark.parametrize(("pieces", "found"), TEXTS, ids=range(len(TEXTS)))
async def test_text_lines_are_messages(server: LiveServer, pieces: list[bytes], found: list[str]) -> None:
    """Line ends are removed. Pieces and slices do not matter."""
    publisher = await server.connect()
    await stream(publisher, *pieces)
    assert await publisher.answer() == answer_of(server, len(found))
    subscriber = await server.live("/events?since=earliest")
    seen: list[str] = []
    while len(seen) < len(found):
        seen += [
            line[6:].decode()
            for line in (await subscriber.chunk()).split(b"\n")
            if line.startswith(b"data: ")
        ]
    assert seen == found


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
async def test_lines_of_any_other_type_are_messages(server: LiveServer, kind: str) -> None:
    subscriber, publisher = await reading(server), await server.connect()
    await stream(publisher, b'[{"message":\n1]\n', headers=f"Content-Type: {kind}\r\n")
    assert await data_of(subscriber, 2) == ['[{"message":', "1]"]
    assert await publisher.answer() == answer_of(server, 2, clients=1)


async def test_a_line_stream_may_be_empty(server: LiveServer, client: RawClient) -> None:
    """It may have a Content-Length. The response counts 0 events."""
    assert await client.ask("POST", "/send?stream=1", body=b"a\nb") == answer_of(server, 2)
    assert await client.ask("PUT", "/send?stream=1") == answer_of(server, 0)
    await stream(client)
    assert await client.answer() == answer_of(server, 0)
    await stream(client, b"\n\r\n", headers=NDJSON)
    assert await client.answer() == answer_of(server, 0)


async def test_query_parameters_apply_to_every_line(server: LiveServer) -> None:
    """These are type, key, retry, and the channels of path and `channel=`."""
    subscriber, publisher = await reading(server, "/events/b"), await server.connect()
    await stream(publisher, b"x\ny\n", path="/send/a?stream=1&channel=b&event=t&retry=700&key=k")
    events = await subscriber.events(2)
    assert [(event.data, event.type, event.retry) for event in events] == [("x", "t", 700), ("y", "t", 700)]
    assert server.broadcaster.channel("a").events == 2


@pytest.mark.parametrize(
    ("headers", "body", "status", "published", "detail"),
    [
        ("", b"a\nb\n\xff\nc\n", 400, 2, "line 3: body: is not UTF-8 at byte 0"),
        ("", b"\n\r\n\xff", 400, 2, "line 3: body: is not UTF-8 at byte 0"),
        (NDJSON, b'{"message":"a"}\n\n{"mess\n', 400, 1, f"line 3: body: {CUT}"),
        (NDJSON, b'{"message":"a"}\n{"mess', 400, 1, f"line 2: body: {CUT}"),
        (NDJSON, b'{"message":"a"}\n{"message":"\xff"}\n', 400, 1, "line 2: body: is not UTF-8 at byte 12"),
        (NDJSON, b"[]\n", 422, 0, "line 1: must be a JSON object, not a list"),
        (NDJSON, b'{"message":"a"}\n{"mesage":"b"}\n', 422, 1, f"line 2: {MISSPELT}"),
        (NDJSON, b'{"message":"a"}\n{"message":"b","event":""}\n{}', 422, 1, f"line 2: {NO_TYPE}"),
        (NDJSON, b'{"message":"a"}\n{"message":"b","channel":"b b"}\n', 400, 1, f"line 2: {A_SPACE}"),
        (NDJSON, b'{"message":"a\\ud800"}\n', 422, 0, f"line 1: body: {SURROGATE}"),
        ("", b"a\n" + b"x" * 990 + b"\n", 413, 1, f"line 2: data: {TOO_LARGE}"),
        ("", b"a\n" + b"x" * 1001 + b"\n", 413, 1, "line 2: more than 1000 bytes"),
    ],
)
async def test_a_bad_line_ends_the_stream(
    serve: Serve, headers: str, body: bytes, status: int, published: int, detail: str
) -> None:
    """The error has the number of the line and of published events.

    Those stay published, and the connection is closed.
    """
    server, publisher = await serve.connected(max_event=1000)
    await stream(publisher, body, headers=headers)
    head = await publisher.head()
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Content-Type: application/problem+json\r\n" in head
    assert b"Connection: close\r\n" in head
    problem = json.loads(await publisher.rest())
    assert list(problem) == ["title", "status", "detail", "published"]
    assert (problem["status"], problem["published"]) == (status, published)
    assert problem["detail"] == f"{detail}; {published} published"
    assert server.broadcaster.counts.published == published


async def test_a_line_that_is_nested_too_deeply_is_refused(client: RawClient) -> None:
    """The nesting is deeper than a parser allows."""
    deep = b'{"message":"a"}\n{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    await stream(client, deep, headers=NDJSON)
    assert await client.refusal() == (422, "line 2: body: is nested more than 64 deep; 1 published")


async def test_a_bad_line_far_into_a_stream_has_its_number(server: LiveServer, client: RawClient) -> None:
    good = LINES_PER_PUBLISH * 3 + 7
    await stream(
        client, b"x\n" * LINES_PER_PUBLISH, b"x\n" * (good - LINES_PER_PUBLISH) + b"\xff\n" + b"x\n" * 10
    )
    assert await client.refusal() == (400, f"line {good + 1}: body: is not UTF-8 at byte 0; {good} published")
    assert server.broadcaster.counts.published == good


@pytest.mark.parametrize(("headers", "most"), [("", 1_048_576), (NDJSON, 6 * 1_048_576 + 4096)])
async def test_a_line_of_ten_megabytes_is_refused(
    server: LiveServer, client: RawClient, headers: str, most: int
) -> None:
    """The 413 is sent before the line has ended. Earlier lines are published."""
    await client.begin("/send?stream=1", headers=headers)
    await client.send_chunk(b'{"message":"a"}\n')
    sending = asyncio.ensure_future(send_until_cut(client, b"x" * 65_536, 160))
    assert await client.refusal() == (413, f"line 2: more than {most} bytes; 1 published")
    client.half_close()
    await sending
    assert server.broadcaster.counts.published == 1


async def send_until_cut(publisher: RawClient, data: bytes, times: int) -> None:
    try:
        for _ in range(times):
            await publisher.send_chunk(data)
    except OSError:  # the answer came, and we stopped sending
        return


@pytest.mark.parametrize(
    ("path", "headers", "status", "detail"),
    [
        (
            "/send?stream=1&id=7",
            "",
            400,
            "id: cannot be used with stream=1: each line is an event of its own",
        ),
        ("/send?stream=1", "Idempotency-Key: k\r\n", 400, "Idempotency-Key: cannot be used with stream=1"),
        ("/send?stream=1&retry=soon", "", 400, "retry: must be a number of milliseconds, not 'soon'"),
        ("/send?stream=1&retry=0", "", 422, "retry: must be 500 to 3600000 milliseconds, not 0"),
        (
            "/send?stream=1&event=$x",
            "",
            422,
            "event: types that begin with $ are reserved for the server: '$x'",
        ),
        ("/send?stream=1&event=a%0Ab", "", 422, "event: must not contain LF: 'a\\nb'"),
        ("/send?stream=1&key=", "", 422, "key: must be 1 to 128 characters: ''"),
        ("/send?stream=1&topic=a", "", 400, "topic: unknown parameter; did you mean channel?"),
        ("/send?stream=1", "Content-Type: text/plain; charset=utf-16\r\n", 415, f"Content-Type: {UTF_16}"),
        ("/send?stream=1&event=t", NDJSON, 400, f"event: {IN_BODY}"),
        ("/send?stream=1&event=", "", 422, "event: must not be empty"),
        ("/send/a%20b?stream=1", "", 400, "channel: must not contain ' ': 'a b'"),
        ("/send/{a}?stream=1", NDJSON, 400, "channel: must not contain '{': '{a}'"),
        ("/send?stream=2", "", 400, "stream: must be 1, not '2'"),
        ("/send?stream=", "", 400, "stream: must be 1, not ''"),
        ("/send?stream=1&stream=1", "", 400, "stream: is given 2 times"),
        ("/send?streem=1", "", 400, "streem: unknown parameter; did you mean stream?"),
        (
            "/send?stream=1",
            "Content-Encoding: gzip\r\n",
            415,
            "Content-Encoding: 'gzip' is not supported; send the body uncompressed",
        ),
    ],
)
async def test_an_invalid_line_stream_is_refused_before_its_first_line(
    server: LiveServer, client: RawClient, path: str, headers: str, status: int, detail: str
) -> None:
    await client.begin(path, headers=headers)
    assert await client.refusal() == (status, detail)
    assert server.broadcaster.counts.published == 0


async def test_stream_0_publishes_the_body_as_one_event(server: LiveServer) -> None:
    subscriber, publisher = await reading(server), await server.connect()
    await stream(publisher, b"a\nb\n", path="/send?stream=0")
    assert await data_of(subscriber, 1) == ["a\nb\n"]


@pytest.mark.both_loops
@pytest.mark.parametrize("how", LEAVING)
async def test_the_complete_lines_of_a_lost_publisher_are_published(
    server: LiveServer, caplog: Caplog, how: str
) -> None:
    """The unfinished line is dropped, and no error is logged."""
    client = await begun(server, b"a\nb\nhalf", published=2)
    LEAVING[how](client)
    await until(lambda: server.connections == 0)
    assert server.app[LINE_STREAMS] == set()
    assert server.broadcaster.counts.published == 2
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("lines", "published"),
    [(b"x\n" * 5000 + b"half", 5000), (b"x\n" * 3000 + b"\xff\n" + b"x\n" * 2000, 3000)],
)
async def test_the_received_lines_of_a_disconnected_publisher_are_published(
    server: LiveServer, client: RawClient, caplog: Caplog, lines: bytes, published: int
) -> None:
    """All slices up to the first bad line are, and no error is logged."""
    await client.begin("/send?stream=1")
    await client.send_chunk(lines)
    client.close()
    await until(lambda: server.broadcaster.counts.published >= published and not server.app[LINE_STREAMS])
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.published == published
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
async def test_bytes_after_a_broken_chunk_are_not_published(server: LiveServer, caplog: Caplog) -> None:
    """The complete lines before it are. The line stream ends when its publisher has disconnected."""
    client = await begun(server, b"a\nb\nhalf", published=2)
    await client.send(b"no size\r\nc\n\r\n")
    await client.send_chunk(b"d\n")
    client.close()
    await until(lambda: server.connections == 0)
    assert server.app[LINE_STREAMS] == set()
    assert server.broadcaster.counts.published == 2
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
@pytest.mark.parametrize("path", ["/push/send", "/push/send?stream=1"])
async def test_a_publisher_that_leaves_a_mounted_application_is_no_error(caplog: Caplog, path: str) -> None:
    """A runner that does not cancel handlers reads until the body breaks off."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    async with mounted() as inner:
        publisher = await RawClient.open(inner.port)
        await publisher.send(f"{head}a\nb".encode())
        await until(lambda: inner.server.requests_count == 1)
        publisher.reset()
        await until(lambda: not inner.server.connections)
    assert inner.app[LINE_STREAMS] == set()
    assert inner.broadcaster.counts.published == ("stream" in path)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
async def test_a_drain_ends_an_idle_line_stream(serve: Serve, caplog: Caplog) -> None:
    """The 503 with the count comes at once, not after a timeout. The unfinished line is dropped."""
    server = await serve(shutdown_timeout=3600)
    chunked, sized = await server.connect(), await server.connect()
    await chunked.begin("/send?stream=1")
    await chunked.send_chunk(b"a\nb\nhalf")
    await sized.send(b"POST /send?stream=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    await until(lambda: server.broadcaster.counts.published == 2 and len(server.app[LINE_STREAMS]) == 2)
    async with asyncio.timeout(30):
        await server.stop()
    for publisher, published in ((chunked, 2), (sized, 0)):
        head = await publisher.head()
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"Retry-After: 5\r\n" in head
        assert b"Connection: close\r\n" in head
        answer = json.loads(await publisher.rest())
        assert answer["detail"] == f"the server is shutting down; {published} published"
        assert (answer["status"], answer["published"]) == (503, published)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
async def test_a_line_after_the_drain_has_begun_is_refused(server: LiveServer) -> None:
    """The response comes with that line, whatever else the drain waits for."""
    client = await begun(server, b"a\n", published=1)
    await server.broadcaster.close(timeout=5)
    await client.send_chunk(b"b\nc\n")
    assert await client.answer() == (
        503,
        (
            b'{"title":"Service Unavailable","status":503,'
            b'"detail":"the server is shutting down; 1 published","published":1}\n'
        ),
    )


@pytest.mark.both_loops
async def test_a_drain_ends_line_streams_before_it_waits_for_subscribers(
    serve: Serve, caplog: Caplog
) -> None:
    """A frozen subscriber delays the end of the server, but not the publisher's response."""
    stopping_takes = {"drain_timeout": 1, "shutdown_timeout": 1}
    server = await serve(**stopping_takes, send_buffer=16_384, overflow="drop-oldest", write_timeout=60)
    frozen = await server.connect(receive_buffer=4096)
    await frozen.request("GET", "/events")
    await until(lambda: server.broadcaster.client_count == 1)
    for _ in range(200):
        await server.broadcaster.broadcast("x" * 4000)
        await asyncio.sleep(0)
    publisher = await begun(server, b"a\n", published=201)
    stopping = asyncio.ensure_future(server.stop())
    status, answer = await publisher.answer()
    assert (status, json.loads(answer)["published"]) == (503, 1)
    assert not stopping.done()
    await stopping
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
async def test_a_mounted_application_ends_its_line_streams_when_the_runner_stops(caplog: Caplog) -> None:
    """They get the 503 with the count, as from the server itself."""
    async with mounted(shutdown_timeout=4) as inner:
        subscriber, publisher = await inner.subscriber("/push/events"), await inner.connect()
        await publisher.begin("/push/send?stream=1")
        await publisher.send_chunk(b"a\nhalf")
        await until(lambda: inner.broadcaster.counts.published == 1)
        stopping = asyncio.ensure_future(inner.runner.cleanup())
        status, answer = await publisher.answer()
        assert (status, json.loads(answer)["published"]) == (503, 1)
        subscriber.close()
        publisher.close()
        await stopping
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
async def test_other_requests_are_served_between_the_slices(serve: Serve) -> None:
    """A publisher of many lines does not block the loop: another's event is published in between."""
    server = await serve(history_size=200_000, history_bytes=10**9, history_total=10**9)
    many, one = await server.connect(), await server.connect()
    await many.begin("/send/many?stream=1")
    sending = asyncio.ensure_future(send_until_cut(many, b"x\n" * 5000, 20))
    await until(lambda: server.broadcaster.counts.published > 0)
    status, answer = await one.ask("POST", "/send/one", body=b"y")
    assert status == 200
    position = int(json.loads(answer)["id"].rpartition("-")[2])
    await sending
    await many.send_chunk()
    assert json.loads((await many.answer())[1])["count"] == 100_000
    assert position < 100_001


def transports_of(server: LiveServer) -> list[asyncio.Transport]:
    """Return the transports of the open connections."""
    return [each.transport for each in web_server_of(server).connections if each.transport is not None]


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@pytest.mark.both_loops
async def test_backpressure_stops_a_publisher(
    server: LiveServer, client: RawClient, monkeypatch: Patch
) -> None:
    """While nothing can be published, nothing more is read.

    Afterwards reading goes on, and nothing is lost.
    """
    away = asyncio.Event()

    async def publish_later(drafts: Sequence[Draft]) -> None:
        await away.wait()

    before_publishing(server.broadcaster, monkeypatch, publish_later)
    await client.begin("/send?stream=1")
    sending = asyncio.ensure_future(send_until_cut(client, (b"x" * 999 + b"\n") * 1000, 50))
    await until(lambda: any(not transport.is_reading() for transport in transports_of(server)))
    (content,) = server.app[LINE_STREAMS]
    assert content.total_bytes < 2_000_000
    assert not sending.done()
    away.set()
    await sending
    await client.send_chunk()
    assert await client.answer() == answer_of(server, 50_000)


@pytest.mark.both_loops
async def test_a_fast_publisher_uses_bounded_memory(running: Programs) -> None:
    """It sends 50 MB of lines to one subscriber. Memory stays near the limit of the history."""
    serving = await running.serve("--history-total", "1000000", "--history-bytes", "1000000")
    subscriber, publisher = await RawClient.open(serving.port), await RawClient.open(serving.port)
    await subscriber.subscribe()
    pid = serving.process.id
    peaks = [resident(pid)]
    reads = asyncio.ensure_future(drain(subscriber))
    await publisher.begin("/send?stream=1")
    piece = (b"x" * 999 + b"\n") * 1000
    for _ in range(50):
        await publisher.send_chunk(piece)
        peaks.append(resident(pid))
    await publisher.send_chunk()
    status, answer = await publisher.answer()
    assert (status, json.loads(answer)["count"]) == (200, 50_000)
    assert max(peaks) - peaks[0] < 30_000_000
    publisher.close()
    subscriber.close()
    reads.cancel()
    await asyncio.gather(reads, return_exceptions=True)


async def drain(subscriber: RawClient) -> None:
    """Read and discard all data."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(subscriber.sock, 1 << 20):
        pass


@pytest.mark.both_loops
async def test_the_lines_of_a_disconnected_publisher_do_not_block_the_loop(
    server: LiveServer, monkeypatch: Patch
) -> None:
    """They are published one slice per iteration of the event loop."""
    counted: list[int] = []

    async def counting(drafts: Sequence[Draft]) -> None:
        counted.append(len(drafts))

    before_publishing(server.broadcaster, monkeypatch, counting)
    client = await server.connect()
    await client.begin("/send?stream=1")
    await client.send_chunk(b"\n" * 50_000)
    await until(lambda: bool(counted))
    client.close()
    await until(lambda: server.connections == 0)
    assert max(counted) <= LINES_PER_PUBLISH


# Rate limits: the publishers have an address with a limit.

HERE = "X-Forwarded-For: 192.0.2.1\r\n"


async def slowing(serve: Serve, **settings: Any) -> LiveServer:
    """Return a server with a rate limit of 8 events per second and address, and a burst of 4."""
    limits = {"publish_rate": 8, "publish_burst": 4, "max_batch": 4}
    public = {"anonymous_publish": ("*",), "anonymous_subscribe": ("*",)}
    return await serve(**{"trusted_proxies": ("127.0.0.1",), **public, **limits, **settings})


@pytest.mark.parametrize("rest", [[b"3\n4\n5\n6\n7\n8\n9\n"], [b"3\n4\n5\n", b"6\n7", b"\n8\n9"]])
async def test_a_publisher_over_its_rate_limit_is_slowed_down(
    serve: Serve, clock: Clock, rest: list[bytes]
) -> None:
    """It is not refused, and loses nothing. Other requests of its address are over the limit too."""
    server = await slowing(serve)
    subscriber, publisher, other = await reading(server), await server.connect(), await server.connect()
    await publisher.begin("/send?stream=1", headers=HERE)
    for piece in (b"0\n1\n2\n", *rest):
        await publisher.send_chunk(piece)
    await publisher.send_chunk()
    await until(lambda: server.broadcaster.counts.published == 4)
    for _ in range(10):
        assert (await other.ask("POST", "/send/other", body=b"x", headers=HERE))[0] == 429
    clock.forward(0.25)
    await until(lambda: server.broadcaster.counts.published == 6)
    clock.forward(0.25)
    await until(lambda: server.broadcaster.counts.published == 8)
    clock.forward(10)
    assert await publisher.answer() == answer_of(server, 10, clients=1)
    assert await data_of(subscriber, 10) == [str(number) for number in range(10)]


async def test_a_bad_line_after_slowed_lines_is_reported(serve: Serve, clock: Clock) -> None:
    server = await slowing(serve)
    publisher = await server.connect()
    await stream(publisher, b"x\n" * 6 + b"\xff\n", headers=HERE)
    await until(lambda: server.broadcaster.counts.published == 4)
    clock.forward(1)
    assert await publisher.refusal() == (400, "line 7: body: is not UTF-8 at byte 0; 6 published")


@pytest.mark.both_loops
@pytest.mark.parametrize("how", LEAVING)
async def test_a_slowed_publisher_that_disconnects_ends_at_once(
    serve: Serve, caplog: Caplog, clock: Clock, how: str
) -> None:
    """The events published so far stay, and no error is logged."""
    server = await slowing(serve)
    publisher = await begun(server, b"x\n" * 1000, published=4, headers=HERE)
    LEAVING[how](publisher)
    await until(lambda: server.connections == 0 and not server.app[LINE_STREAMS])
    clock.forward(10)
    await asyncio.sleep(0)
    assert server.broadcaster.counts.published == 4
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.both_loops
async def test_a_disconnected_publisher_is_not_slowed_down(
    serve: Serve, clock: Clock, monkeypatch: Patch
) -> None:
    """The received lines within the rate limit are published, and no more."""
    server = await slowing(serve)

    async def hanging_up(drafts: Sequence[Draft]) -> None:
        if not server.broadcaster.counts.published:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # as the server does when it notices, and here it is in the middle of its work

    before_publishing(server.broadcaster, monkeypatch, hanging_up)
    publisher = await server.connect()
    await publisher.begin("/send?stream=1", headers=HERE)
    await publisher.send_chunk(b"x\n" * 1000)
    assert await publisher.rest() == b""
    assert server.app[LINE_STREAMS] == set()
    assert server.broadcaster.counts.published == 4


@pytest.mark.both_loops
async def test_a_drain_ends_a_slowed_line_stream(serve: Serve, caplog: Caplog, monkeypatch: Patch) -> None:
    """The 503 with the count comes at once, whatever the wait would be."""
    allowed = iter([0.0, 0.0])
    monkeypatch.setattr(RateLimiter, "publish_wait", lambda *_, **__: next(allowed, 3600.0))
    server = await slowing(serve, shutdown_timeout=3600)
    publisher = await begun(server, b"x\n" * 5, published=2, headers=HERE)
    async with asyncio.timeout(30):
        await server.stop()
    head = await publisher.head()
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    answer = json.loads(await publisher.rest())
    assert answer["detail"] == "the server is shutting down; 2 published"
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_line_stream_begun_during_a_drain_is_not_slowed_down(
    serve: Serve, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(RateLimiter, "publish_wait", lambda *_, **__: 3600.0)
    server = await slowing(serve)
    publisher = await server.connect()
    await publisher.ask("GET", "/status")
    end_line_streams(server.app)
    await stream(publisher, b"x\n", headers=HERE)
    assert await publisher.refusal() == (503, "the server is shutting down; 0 published")


@pytest.mark.both_loops
async def test_a_slowed_publisher_that_leaves_a_mounted_application_ends(
    caplog: Caplog, monkeypatch: Patch
) -> None:
    """The runner cancels no handlers, and all lines had been read."""
    monkeypatch.setattr(RateLimiter, "publish_wait", lambda *_, **__: 0.001)
    async with mounted() as inner:
        publisher = await RawClient.open(inner.port)
        await publisher.begin("/push/send?stream=1")
        await publisher.send_chunk(b"a\nb\n")
        await until(lambda: bool(inner.app[LINE_STREAMS]))
        publisher.reset()
        await until(lambda: not inner.app[LINE_STREAMS])
    assert inner.broadcaster.counts.published == 0
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_loopback_publisher_is_not_slowed_down(serve: Serve, clock: Clock) -> None:
    server = await slowing(serve)
    publisher = await server.connect()
    await stream(publisher, b"x\n" * 1000)
    assert await publisher.answer() == answer_of(server, 1000)


@pytest.mark.both_loops
@pytest.mark.parametrize("headers", ["", NDJSON])
async def test_a_line_that_arrives_too_slowly_ends_the_stream(serve: Serve, headers: str) -> None:
    """A line must be complete within `body_timeout`. There is no limit for the time between lines."""
    server = await serve(body_timeout=0.2)
    idle, publisher = await server.connect(), await server.connect()
    await idle.begin("/send?stream=1", headers=headers)
    await publisher.begin("/send?stream=1", headers=headers)
    await publisher.send_chunk(b'{"message":"x"}\n')
    await until(lambda: server.broadcaster.counts.published == 1)

    async def drip() -> None:
        while True:
            await publisher.send_chunk(b"{")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    status, answer = await publisher.answer()
    dripping.cancel()
    assert (status, json.loads(answer)["detail"]) == (408, "line 2: did not arrive within 0.2 s; 1 published")
    await idle.send_chunk(b'{"message":"y"}\n')
    await idle.send_chunk()
    assert (await idle.answer())[0] == 200


async def test_line_streams_count_for_the_share_of_their_caller(serve: Serve) -> None:
    """They count for the token, and for the address behind a proxy, as subscribers do."""
    server = await serve(trusted_proxies=("127.0.0.1",), insecure_publish=True, max_connections_per_address=1)
    first, second = await server.connect(), await server.connect()
    for client in (first, second):
        await client.begin("/send?stream=1", headers="X-Forwarded-For: 192.0.2.1\r\n")
        await client.send_chunk(b"x\n")
        await until(lambda: server.broadcaster.counts.published == 1)
    status, answer = await second.answer()
    assert (status, json.loads(answer)["detail"].partition(":")[0]) == (429, "max_connections_per_address")
