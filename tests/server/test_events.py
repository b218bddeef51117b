"""GET /events: the head, the first bytes, and every way a stream can end."""

import asyncio
import gc
import re
from collections.abc import Callable

import pytest
from aiohttp import web

from sse_broadcast import BROADCASTER, Config, create_app
from sse_broadcast.server.run import Server
from tests.conftest import Connect, Serve
from tests.support.sockets import RawClient, until

HEAD = re.compile(
    rb"HTTP/1\.1 200 OK\r\n"
    rb"Content-Type: text/event-stream\r\n"
    rb"Cache-Control: no-store, no-transform\r\n"
    rb"X-Accel-Buffering: no\r\n"
    rb"Server: sse-broadcast\r\n"
    rb"Transfer-Encoding: chunked\r\n"
    rb"Date: [^\r]+\r\n"
    rb"Connection: close\r\n\r\n"
)


async def test_the_head_is_these_bytes_and_the_first_bytes_come_at_once(
    serve: Serve, connect: Connect
) -> None:
    """No buffering, no caching, and a jittered time to reconnect before any event."""
    server = await serve(retry=2000)
    reader = await connect(server)
    assert HEAD.fullmatch(await reader.subscribe())
    opening = re.fullmatch(rb":\nretry: (\d+)\n", await reader.chunk())
    assert opening
    assert 1000 <= int(opening[1]) <= 3000


async def test_events_are_these_bytes(serve: Serve, connect: Connect) -> None:
    """A chunk a frame."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe()
    await reader.chunk()
    frame = b"1a\r\nevent: t\ndata: a\ndata: b\n\n\r\n"
    await server.broadcaster.broadcast("a\nb", event="t")
    assert await reader.take(len(frame)) == frame


async def test_http_1_0_gets_bare_frames_and_a_close(serve: Serve, connect: Connect) -> None:
    """Without chunks, and with keep-alive asked for too: the stream's end is the connection's."""
    server = await serve()
    reader = await connect(server)
    head = await reader.subscribe(version="1.0", headers="Connection: keep-alive\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"keep-alive" not in head
    assert re.fullmatch(rb":\nretry: \d+\n", await reader.up_to(b"\nretry: ") + await reader.up_to(b"\n"))
    await server.broadcaster.broadcast("x")
    assert await reader.up_to(b"\n\n") == b"data: x\n\n"
    await server.broadcaster.close(timeout=5)
    assert re.fullmatch(rb'event: \$close\nretry: \d+\ndata: {"reason": "drain"}\n\n', await reader.rest())


async def test_the_end_of_a_stream_is_clean(serve: Serve, connect: Connect) -> None:
    """`$close` with a reason and a time to come back, and the body's last chunk."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe()
    await reader.chunk()
    await server.broadcaster.broadcast("last words")
    await server.broadcaster.close(timeout=5)
    assert await reader.chunk() == b"data: last words\n\n"
    assert re.fullmatch(rb'event: \$close\nretry: \d+\ndata: {"reason": "drain"}\n\n', await reader.chunk())
    assert await reader.chunk() == b""
    assert await reader.rest() == b""
    await until(lambda: server.connections == 0)


async def test_silence_is_broken_by_heartbeats(serve: Serve, connect: Connect) -> None:
    """A comment, which no client takes for an event."""
    server = await serve(heartbeat=0.05)
    reader = await connect(server)
    await reader.subscribe()
    await reader.chunk()
    assert [await reader.chunk() for _ in range(3)] == [b":\n"] * 3


async def test_head_says_what_get_would(serve: Serve, connect: Connect) -> None:
    """Without opening a stream, and the connection goes on."""
    server = await serve()
    client = await connect(server)
    await client.send(b"HEAD /events HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/event-stream\r\n" in head
    assert b"Cache-Control: no-store, no-transform\r\n" in head
    assert (await client.ask("GET", "/status"))[0] == 200
    assert server.broadcaster.counts.opened == 0


async def test_options_names_the_methods(serve: Serve, connect: Connect) -> None:
    """204 with Allow."""
    server = await serve()
    client = await connect(server)
    await client.send(b"OPTIONS /events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Allow: GET, HEAD, OPTIONS\r\n" in await client.head()


async def test_a_get_with_a_body_is_refused(serve: Serve, connect: Connect) -> None:
    """A body where none belongs is how requests are smuggled."""
    server = await serve()
    client = await connect(server)
    status, answer = await client.ask("GET", "/events", body=b"x")
    assert (status, answer) == (
        400,
        b'{"title":"Bad Request","status":400,"detail":"GET /events takes no body"}',
    )
    assert server.broadcaster.client_count == 0


async def test_what_is_pipelined_behind_a_stream_is_never_served(serve: Serve, connect: Connect) -> None:
    """The stream goes on undisturbed, and the connection ends with it, as its head said."""
    server = await serve()
    reader = await connect(server)
    await reader.send(
        b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    )
    await reader.head()
    await reader.chunk()
    await reader.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" * 100)
    await server.broadcaster.broadcast("y")
    assert await reader.chunk() == b"data: y\n\n"
    await server.broadcaster.close(timeout=5)
    assert b"$close" in await reader.chunk()
    assert await reader.chunk() == b""
    assert server.broadcaster.counts.published == 1


async def test_rubbish_behind_a_stream_harms_nothing(serve: Serve, connect: Connect) -> None:
    """Bytes that are no request wait until the stream is over, and are thrown away."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe()
    await reader.send(b"\0\xff rubbish\r\n\r\n" * 10)
    await server.broadcaster.broadcast("y")
    assert b"data: y\n\n" in [await reader.chunk(), await reader.chunk()]


LEAVING: dict[str, Callable[[RawClient], None]] = {
    "FIN": RawClient.close,
    "RST": RawClient.reset,
    "half-close": RawClient.half_close,
}


@pytest.mark.parametrize("how", LEAVING)
async def test_a_reader_that_leaves_is_out_at_once(serve: Serve, connect: Connect, how: str) -> None:
    """By FIN, RST or half-close, without any event or heartbeat; its socket and tasks go too."""
    server = await serve(heartbeat=3600, write_timeout=3600)
    tasks = len(asyncio.all_tasks())
    reader = await connect(server)
    await reader.subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    LEAVING[how](reader)
    await until(lambda: server.broadcaster.client_count == 0)
    await until(lambda: server.connections == 0)
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert server.broadcaster.counts.closed == {"left": 1}


async def test_a_reader_that_leaves_before_its_head_is_written_leaves_nothing(serve: Serve) -> None:
    """A connection that is reset right behind its request is no error."""
    server = await serve()
    for _ in range(50):
        client = await RawClient.open(server.port)
        await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        client.reset()
    await until(lambda: server.connections == 0)
    assert server.broadcaster.client_count == 0


async def test_a_draining_server_turns_readers_away(serve: Serve, connect: Connect) -> None:
    """A browser is told when to come back, in the only way that does not stop it for good; others get 503."""
    server = await serve()
    browser, program = await connect(server), await connect(server)
    await browser.send(b"")
    await server.broadcaster.close(timeout=1)
    head = await browser.subscribe(headers="Accept: text/event-stream\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    wait = re.fullmatch(rb":\nretry: (\d+)\n", await browser.rest())
    assert wait
    assert 10_000 <= int(wait[1]) <= 30_000
    status, answer = await program.ask("GET", "/events", headers="Accept: */*\r\n")
    assert (status, answer) == (
        503,
        b'{"title":"Service Unavailable","status":503,"detail":"the server is shutting down"}',
    )
    publisher = await connect(server)
    assert (await publisher.ask("POST", "/send", body=b"x"))[0] == 503


class Mounted:
    """Our application inside somebody's, under aiohttp's default runner."""

    def __init__(self, runner: web.AppRunner, inner: web.Application) -> None:
        self.runner = runner
        self.broadcaster = inner[BROADCASTER]

    @property
    def port(self) -> int:
        return int(self.runner.addresses[0][1])

    @property
    def connections(self) -> int:
        assert self.runner.server is not None
        return len(self.runner.server.connections)


@pytest.fixture
async def mounted() -> Mounted:  # type: ignore[misc]
    inner = create_app(Config(heartbeat=0.1, shutdown_timeout=4, send_buffer=16_384))
    outer = web.Application()
    outer.add_subapp("/push/", inner)
    runner = web.AppRunner(outer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Mounted(runner, inner)
    await runner.cleanup()


async def open_mounted(mounted: Mounted) -> RawClient:
    client = await RawClient.open(mounted.port)
    await client.subscribe(path="/push/events")
    return client


async def test_a_mounted_application_serves(mounted: Mounted) -> None:
    """Streams, publishes, errors: under a prefix, with the runner's defaults."""
    reader, publisher = await open_mounted(mounted), await RawClient.open(mounted.port)
    assert (await publisher.ask("POST", "/push/send", body=b"x"))[0] == 200
    assert (await reader.events(1))[0].data == "x"
    assert (await publisher.ask("GET", "/push/nope"))[0] == 404
    await mounted.broadcaster.broadcast("from the program")
    assert (await reader.events(1))[0].data == "from the program"
    reader.close()
    publisher.close()


@pytest.mark.parametrize("how", LEAVING)
async def test_a_mounted_application_lets_go_of_who_left_with_the_next_heartbeat(
    mounted: Mounted, how: str
) -> None:
    """Though aiohttp by default tells no handler that its client is gone."""
    reader = await open_mounted(mounted)
    await until(lambda: mounted.broadcaster.client_count == 1)
    LEAVING[how](reader)
    await until(lambda: mounted.broadcaster.client_count == 0)
    await until(lambda: mounted.connections == 0)
    reader.close()


async def test_a_mounted_application_ends_its_streams_when_the_runner_stops(mounted: Mounted) -> None:
    """With `$close`, like the server itself."""
    reader = await open_mounted(mounted)
    await reader.chunk()
    stopping = asyncio.ensure_future(mounted.runner.cleanup())
    assert b"$close" in await reader.chunk()
    assert await reader.chunk() == b""
    reader.close()
    await stopping


async def test_many_come_and_go_and_nothing_is_left(serve: Serve) -> None:
    """A thousand readers leaving in every way: the count is exact, no task or socket stays."""
    server: Server = await serve()
    tasks = len(asyncio.all_tasks())

    async def come_and_go(number: int) -> None:
        reader = await RawClient.open(server.port)
        await reader.subscribe()
        list(LEAVING.values())[number % 3](reader)
        await asyncio.sleep(0)
        reader.close()

    for start in range(0, 1000, 50):
        await asyncio.gather(*(come_and_go(number) for number in range(start, start + 50)))
        await server.broadcaster.broadcast("x")
    await until(lambda: server.connections == 0)
    assert server.broadcaster.client_count == 0
    counts = server.broadcaster.counts
    assert (counts.opened, counts.closed) == (1000, {"left": 1000})
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert not server.broadcaster._delivery._lanes
    gc.collect()
