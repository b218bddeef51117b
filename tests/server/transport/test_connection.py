"""One connection: its place, its count, and how long it may keep us waiting."""

import asyncio
import json
import logging
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, RemoteSettingsChanged, StreamReset

from sse_broadcast import create_app
from sse_broadcast.config.schema import Endpoint
from sse_broadcast.server.streams.sink import TransportSink
from sse_broadcast.server.transport import connection
from sse_broadcast.server.transport.aiohttp_internals import NO_KEEPALIVE_TIMER
from sse_broadcast.server.transport.connection import (
    HTTP_1_1_REQUIRED,
    KEEP_ALIVE,
    Connection,
    ListenerInfo,
    listener_of,
)
from sse_broadcast.server.transport.socket_options import kernel_timeout
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.support.internals import web_server_of
from tests.support.memory import held, uncollected
from tests.support.sockets import RawClient, until

EVERYTHING = frozenset(Endpoint)

ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = ASK[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def connections(server: LiveServer) -> list[Connection]:
    return [each for each in web_server_of(server).connections if isinstance(each, Connection)]


# Its place, and what aiohttp is told of it.


async def test_the_settings_of_connections_arrive(server: LiveServer) -> None:
    await (await server.connect()).subscribe()
    (found,) = connections(server)
    assert found.timeouts.idle.seconds == KEEP_ALIVE
    assert found.access_logger is None


async def test_a_connection_knows_its_place(server: LiveServer) -> None:
    await (await server.connect()).subscribe()
    (found,) = connections(server)
    assert found.listener_info == ListenerInfo(EVERYTHING, loopback=True, unix=False)


@pytest.fixture
def places() -> list[ListenerInfo]:
    return []


@pytest.fixture
async def run_elsewhere(places: list[ListenerInfo]) -> AsyncIterator[Callable[..., Awaitable[web.BaseSite]]]:
    """Run an application of somebody else that looks at where its requests came in."""

    async def look(request: web.Request) -> web.Response:
        places.append(listener_of(request))
        return web.Response(text="")

    app = web.Application()
    app.router.add_get("/", look)
    app.add_subapp("/sse", create_app())
    runner = web.AppRunner(app)
    await runner.setup()

    async def run(path: str = "") -> web.BaseSite:
        site = web.UnixSite(runner, path) if path else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return site

    yield run
    await runner.cleanup()


async def test_a_request_of_another_server_is_placed_by_its_address(
    run_elsewhere: Callable[..., Awaitable[web.TCPSite]], places: list[ListenerInfo]
) -> None:
    """The loopback's is for this machine; everything is served there."""
    site = await run_elsewhere()
    client = await RawClient.open(site.port)
    assert (await client.ask("GET", "/"))[0] == 200
    assert (await client.ask("GET", "/sse/status"))[0] == 200
    client.close()
    assert places == [ListenerInfo(EVERYTHING, loopback=True, unix=False)]


async def test_a_request_of_another_servers_unix_socket_is_placed_so(
    run_elsewhere: Callable[..., Awaitable[web.BaseSite]], places: list[ListenerInfo], tmp_path: Path
) -> None:
    await run_elsewhere(str(tmp_path / "other.sock"))
    client = await RawClient.open_unix(str(tmp_path / "other.sock"))
    assert (await client.ask("GET", "/"))[0] == 200
    client.close()
    assert places == [ListenerInfo(EVERYTHING, loopback=True, unix=True)]


@pytest.mark.parametrize(
    ("sockname", "loopback", "unix"),
    [
        (("127.0.0.1", 80), True, False),
        (("127.9.9.9", 80), True, False),
        (("::1", 80, 0, 0), True, False),
        (("::ffff:127.0.0.1", 80, 0, 0), True, False),
        (("192.0.2.1", 80), False, False),
        (("::", 80, 0, 0), False, False),
        (("fe80::1%eth0", 80, 0, 2), False, False),
        ("/run/x.sock", True, True),
        ("", True, True),
        (b"\0abstract", True, True),
        (None, False, False),
    ],
)
def test_any_address_of_another_server_has_a_place(sockname: object, *, loopback: bool, unix: bool) -> None:
    """An address that nobody knows any more is nobody's loopback."""
    request = types.SimpleNamespace(protocol=types.SimpleNamespace(sockname=sockname))
    assert listener_of(request) == ListenerInfo(EVERYTHING, loopback=loopback, unix=unix)  # type: ignore[arg-type]


# Its count.


@pytest.mark.parametrize("leave", ["fin", "rst", "half-close", "refused", "malformed", "cut", "close"])
async def test_whoever_leaves_is_counted_out(serve: Serve, leave: str) -> None:
    server = await serve(head_timeout=0.1 if leave == "cut" else 10)
    for _ in range(20):
        client = await RawClient.open(server.port)
        await until(lambda: server.connections == 1)
        await leave_by(leave, client, server)
        await until(lambda: server.connections == 0)
        client.close()
    await until(lambda: not connections(server))


async def leave_by(way: str, client: RawClient, server: LiveServer) -> None:
    if way == "fin":
        await client.subscribe()
        client.close()
    elif way == "rst":
        await client.subscribe()
        client.reset()
    elif way == "half-close":
        client.half_close()
    elif way == "refused":
        await client.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
    elif way == "malformed":
        await client.send(b"\r\n\r\nnothing\r\n\r\n")
    elif way == "close":
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


# How long it may take.


@pytest.mark.parametrize("head", [b"", b"G", ASK[:-2]], ids=["silent", "a letter", "all but the end"])
async def test_who_asks_nothing_is_cut(serve: Serve, head: bytes) -> None:
    """When `head_timeout` is over, and counted."""
    server, client = await serve.connected(head_timeout=0.1)
    await client.send(head)
    assert await gone(client)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"silent": 1}


async def gone(client: RawClient) -> bool:
    """Whether the connection ends without an answer."""
    try:
        return await client.rest() == b""
    except ConnectionResetError:
        return True


async def test_a_head_that_drips_is_cut(serve: Serve) -> None:
    """A byte now and then does not make the time longer."""
    server, client = await serve.connected(head_timeout=0.2)

    async def drip() -> None:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000:
            await client.send(bytes([byte]))
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    await until(lambda: server.broadcaster.counts.refused == {"silent": 1})
    assert await gone(client)
    assert not dripping.done()
    dripping.cancel()


async def test_who_has_asked_once_may_be_silent(serve: Serve) -> None:
    server = await serve(head_timeout=0.1)
    reader, asker, silent = await server.subscriber(), await server.connect(), await server.connect()
    await asker.ask("GET", "/status")
    await gone(silent)
    await asyncio.sleep(0.15)
    assert (await asker.ask("GET", "/status"))[0] == 200
    await server.broadcaster.broadcast("x")
    assert [event.data for event in await reader.events(1)] == ["x"]
    assert server.broadcaster.counts.refused == {"silent": 1}


@pytest.mark.parametrize("first", [ASK, UPGRADE], ids=["plain", "upgrade"])
async def test_a_later_head_that_drips_is_cut(serve: Serve, monkeypatch: Patch, first: bytes) -> None:
    """Whatever has come of it, when the time of an idle connection is over."""
    monkeypatch.setattr(connection, "KEEP_ALIVE", 0.3)
    server, client = await serve.connected()
    await client.send(first)
    await client.answer()

    async def drip() -> None:
        for byte in ASK[:-2] + b"X: " + b"x" * 10_000:
            await client.send(bytes([byte]))
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    await until(lambda: server.connections == 0)
    assert not dripping.done()
    dripping.cancel()


@pytest.mark.parametrize("full", [False, True])
async def test_the_handler_of_a_stream_whose_reader_left_ends_by_itself(
    serve: Serve, *, full: bool, caplog: Caplog
) -> None:
    """Nobody cancels it: neither while it sleeps, nor while it waits for a full socket to empty."""
    server, client = await serve.connected(send_buffer=4096, queue_size=100_000)
    await client.subscribe()
    (found,) = connections(server)
    assert found.current_request is not None
    task, sink = found.current_request.task, found.stream
    assert isinstance(sink, TransportSink)
    while full and not found.writing_paused:
        await server.broadcaster.broadcast("x" * 1000)
        await asyncio.sleep(0)
    client.reset()
    await until(task.done)
    assert (task.cancelled(), task.exception()) == (False, None)
    assert server.broadcaster.counts.closed == {"left": 1}
    assert server.broadcaster.counts.refused == {}
    assert server.broadcaster.metrics.unreported_disconnects == 0  # a heartbeat would find it in the end
    await sink.end_body()  # which finds nobody, and is no fault
    assert server.connections == server.broadcaster.client_count == 0
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_an_idle_connection_is_closed(serve: Serve, monkeypatch: Patch) -> None:
    """Its time begins anew with each answer; a request that takes longer is none of it, nor is a stream."""
    monkeypatch.setattr(connection, "KEEP_ALIVE", 0.3)
    server = await serve()
    reader, publisher, asker = await server.subscriber(), await server.connect(), await server.connect()
    await publisher.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
    for _ in range(4):
        assert (await asker.ask("GET", "/status"))[0] == 200
        await asyncio.sleep(0.1)
    assert await gone(asker)
    await publisher.send(b"y")
    assert (await publisher.answer())[0] == 200
    assert [event.data for event in await reader.events(1)] == ["xy"]
    assert await gone(publisher)
    assert server.connections == 1
    assert server.broadcaster.counts.refused == {}


async def test_an_idle_connection_is_one_for_whom_nothing_is_kept(server: LiveServer) -> None:
    asker, leaver = await server.connect(), await server.connect()
    await asker.ask("GET", "/status")
    (found,) = [each for each in connections(server) if each.next_request and each.request_count]
    assert found.keepalive_timer is NO_KEEPALIVE_TIMER
    assert len(found.timeouts.idle) == 1
    await asker.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
    await until(lambda: found.current_request is not None)
    assert len(found.timeouts.idle) == 0
    await asker.send(b"y")
    await asker.answer()
    await leaver.ask("GET", "/status")
    assert len(found.timeouts.idle) == 2
    leaver.reset()
    asker.close()
    await until(lambda: server.connections == 0)
    assert (len(found.timeouts.idle), len(found.timeouts.head)) == (0, 0)


async def test_a_request_that_has_come_whole_by_then_is_answered(serve: Serve, monkeypatch: Patch) -> None:
    """Though the loop was busy when the time of the idle connection was over, and for longer."""
    monkeypatch.setattr(connection, "KEEP_ALIVE", 0.2)
    server, client = await serve.connected()
    for message in (b"a", b"b"):
        await client.ask("GET", "/status")
        await client.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n" + message)
        time.sleep(0.3)
        assert (await client.answer())[0] == 200
    assert server.broadcaster.counts.published == 2
    assert await gone(client)


async def test_who_leaves_before_its_answer_is_not_waited_for(server: LiveServer, monkeypatch: Patch) -> None:
    """The answer is made ready all the same, and nobody is waited for behind it."""
    monkeypatch.setattr(web_server_of(server), "handler_cancellation", False)
    client = await server.connect()
    await client.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
    await until(lambda: any(found.current_request for found in connections(server)))
    (found,) = connections(server)
    client.reset()
    await until(lambda: server.connections == 0)
    await until(lambda: found.current_request is None)
    assert len(found.timeouts.idle) == 0


async def test_who_expects_what_is_not_done_has_asked(serve: Serve) -> None:
    """And may ask again, when a new connection would have been too long silent."""
    server = await serve(head_timeout=0.1)
    client, silent = await server.connect(), await server.connect()
    await client.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\n\r\n")
    assert (await client.answer())[0] == 417
    assert await gone(silent)
    await asyncio.sleep(0.05)
    assert (await client.ask("GET", "/status"))[0] == 200


async def test_who_does_not_take_its_answers_is_cut(serve: Serve) -> None:
    """Answers are no streams, whose deadline is delivery's: this one has its own, and is counted."""
    server = await serve(write_timeout=0.2, send_buffer=4096)
    client = await RawClient.open(server.port, receive_buffer=4096)
    asking = asyncio.create_task(client.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000))
    await until(lambda: server.broadcaster.counts.refused == {"stalled": 1})
    await until(lambda: server.connections == 0)
    asking.cancel()
    client.close()


async def test_who_takes_its_answers_slowly_is_not_cut(serve: Serve, monkeypatch: Patch) -> None:
    """As long as it takes a good piece of them each time, nor when it has taken them and is idle."""
    monkeypatch.setattr(connection, "PROGRESS", 1)
    server = await serve(write_timeout=0.1, send_buffer=4096)
    patience = kernel_timeout(0.1)
    client = await RawClient.open(server.port, receive_buffer=4096)
    count, loop = 2000, asyncio.get_running_loop()
    asking = asyncio.create_task(client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * count))
    await until(lambda: any(found.writing_paused for found in connections(server)))
    (found,) = connections(server)
    paused = loop.time()
    while found.writing_paused or loop.time() - paused < patience * 2:
        client.buffer += await loop.sock_recv(client.sock, 4000)
        await asyncio.sleep(0.04)
    assert loop.time() - paused > patience * 2
    for _ in range(count):
        assert json.loads((await client.answer())[1]) == {"status": "alive"}
    await asking
    await asyncio.sleep(patience * 3)
    assert (await client.ask("GET", "/healthz"))[0] == 200
    assert server.broadcaster.counts.refused == {}
    client.close()


# What is no HTTP.

CHUNKED = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("path", [b"/send", b"/send?stream=1"])
async def test_a_body_that_breaks_is_answered_at_once(serve: Serve, path: bytes) -> None:
    server, client = await serve.connected(body_timeout=600)
    await client.send(b"POST %b HTTP/1.1\r\n" % path + CHUNKED + b"3\r\nab\n\r\n")
    await until(lambda: any(found.current_request for found in connections(server)))
    await client.send(b"no chunk\r\n")
    await told_of_broken_chunks(client, server)


@pytest.mark.parametrize("path", [b"/send", b"/send?stream=1"])
async def test_a_body_that_breaks_before_it_is_read_is_answered(serve: Serve, path: bytes) -> None:
    """Both pieces may come before the handler has its turn."""
    server, client = await serve.connected(body_timeout=600)
    await until(lambda: len(connections(server)) == 1)
    (found,) = connections(server)
    await asyncio.sleep(0)
    found.data_received(b"POST %b HTTP/1.1\r\n" % path + CHUNKED + b"3\r\nab\n\r\n")
    found.data_received(b"no chunk\r\n")
    await told_of_broken_chunks(client, server)


@pytest.mark.parametrize("length", [b"Content-Length: 300000", b"Transfer-Encoding: chunked"])
async def test_a_large_piece_that_ends_a_body_is_no_head(
    server: LiveServer, client: RawClient, length: bytes
) -> None:
    await until(lambda: len(connections(server)) == 1)
    (found,) = connections(server)
    await asyncio.sleep(0)
    body = b"x" * 300_000
    if length.startswith(b"Transfer"):
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for _ in range(3):
        found.data_received(b"POST /send HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % length)
        await asyncio.sleep(0.01)
        found.data_received(body)
        assert (await client.answer())[0] == 200
    assert server.broadcaster.counts.refused == {}


async def told_of_broken_chunks(client: RawClient, server: LiveServer) -> None:
    head, body = (await client.rest()).split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["detail"].startswith("body: is not in chunks, as Transfer-Encoding says")
    assert server.broadcaster.counts.refused["malformed"] == 1


async def test_what_is_no_http_is_counted_and_not_repeated(server: LiveServer, client: RawClient) -> None:
    """A plain 400 that says what is wrong, and not what was said."""
    await client.send(b"GET /events?access_token=secret HTTP/9.9\r\nHost: x\r\n\r\n")
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert b"\r\nServer: sse-broadcast\r\n" in answer
    assert answer.endswith(b"\r\n\r\nBadStatusLine: Bad status line: Invalid HTTP version")
    assert server.broadcaster.counts.refused == {"malformed": 1}


# Clients that take the server to speak HTTP/2.


def http_2(path: str = "/events") -> H2Connection:
    """Return a client of HTTP/2 that has asked for a path, by its prior knowledge (RFC 9113, 3.3)."""
    client = H2Connection()
    client.initiate_connection()
    headers = {":method": "GET", ":path": path, ":scheme": "http", ":authority": "localhost"}
    client.send_headers(1, list(headers.items()), end_stream=True)
    return client


async def test_a_client_of_http_2_is_told_to_use_http_1_1(server: LiveServer) -> None:
    """In frames of HTTP/2: its request is reset and its connection ended, with HTTP_1_1_REQUIRED."""
    client, asker = http_2(), await server.connect()
    await asker.send(client.data_to_send())
    answer = await asker.rest()
    assert answer == HTTP_1_1_REQUIRED
    settings, reset, ended = client.receive_data(answer)
    assert isinstance(settings, RemoteSettingsChanged)
    assert isinstance(reset, StreamReset)
    assert (reset.stream_id, reset.error_code) == (1, ErrorCodes.HTTP_1_1_REQUIRED)
    assert isinstance(ended, ConnectionTerminated)
    assert (ended.last_stream_id, ended.error_code) == (1, ErrorCodes.HTTP_1_1_REQUIRED)
    asker.close()
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"malformed": 1}
    assert server.broadcaster.counts.opened == 0


async def test_httpx_says_that_http_1_1_is_required(server: LiveServer) -> None:
    """A real client of HTTP/2, which shows the error's number and not a fault in a head."""
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        with pytest.raises(httpx.RemoteProtocolError, match=r"error_code:(13|ErrorCodes.HTTP_1_1_REQUIRED)"):
            await client.get(f"{server.url}/status")


async def test_what_a_client_of_http_2_sends_on_is_not_read(server: LiveServer, client: RawClient) -> None:
    """It has its answer all the same: no reset takes that away."""
    await client.send(http_2().data_to_send())
    await until(lambda: server.broadcaster.counts.refused == {"malformed": 1})
    for _ in range(10):
        await client.send(bytes(20_000))
    assert await client.rest() == HTTP_1_1_REQUIRED
    client.close()
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"malformed": 1}


async def test_a_client_of_http_2_that_stays_is_cut(serve: Serve) -> None:
    """When `head_timeout` is over: it has asked nothing."""
    server, asker = await serve.connected(head_timeout=0.1)
    await asker.send(http_2().data_to_send())
    await until(lambda: server.broadcaster.counts.refused == {"malformed": 1, "silent": 1})
    await until(lambda: server.connections == 0)


async def test_a_client_of_http_2_leaves_no_cycle(server: LiveServer, client: RawClient) -> None:
    with uncollected():
        await client.send(http_2().data_to_send())
        await client.rest()
        client.close()
        await until(lambda: server.connections == 0)
        await until(lambda: not held(Connection))


async def test_http_2_is_begun_by_the_first_bytes_alone(client: RawClient) -> None:
    await client.send(ASK)
    assert (await client.answer())[0] == 200
    await client.send(http_2().data_to_send())
    assert (await client.rest()).startswith(b"HTTP/1.0 400 Bad Request\r\n")


async def test_a_fault_of_ours_is_aiohttps_to_answer(server: LiveServer, monkeypatch: Patch) -> None:
    """500, which nothing that a client sends may cause; it is counted like any other answer."""

    def fail() -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(type(server.broadcaster), "counts", property(lambda _: fail()))
    client = await server.connect()
    status, body = await client.ask("GET", "/status")
    monkeypatch.undo()
    assert (status, body[:3]) == (500, b"500")
    assert server.broadcaster.counts.refused == {"500": 1}


ENDED = {
    "asked": ASK,
    "published": b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
    "no version": b"GET /healthz\r\n\r\n" + b"x" * 50_000,
    "no method": b"G,T / HTTP/1.1\r\n\r\n",
    "second is none": ASK + b"G,T / HTTP/1.1\r\n\r\n",
    "no path": b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\xff\r\n\r\n",
    "a body that nobody wants": b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
    "none behind an upgrade": UPGRADE + b"G,T / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("said", ENDED.values(), ids=ENDED)
async def test_a_connection_that_is_over_leaves_no_cycle(
    server: LiveServer, client: RawClient, said: bytes
) -> None:
    """Whatever it said goes with it at once: the collector looks seldom."""
    with uncollected():
        await client.send(said)
        await client.head()
        client.close()
        await until(lambda: server.connections == 0)
        await until(lambda: not held(Connection))


async def test_what_is_refused_and_never_answered_leaves_no_cycle(server: LiveServer) -> None:
    await server.connect()
    await until(lambda: len(connections(server)) == 1)
    (found,) = connections(server)
    with uncollected():
        found.data_received(b"G,T / HTTP/1.1\r\n\r\n")
        assert found.transport is not None
        found.transport.abort()
        del found
        await until(lambda: server.connections == 0)
        await until(lambda: not held(Connection))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(
    "before", [b"", ASK, b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"]
)
@pytest.mark.parametrize("length", [b"Content-Length: 300", b"Transfer-Encoding: chunked"])
async def test_what_is_cut_short_is_not_published(
    server: LiveServer, turns: int, before: bytes, length: bytes
) -> None:
    """Whenever its connection is lost: before anybody has looked at it, or while it is read."""
    await server.connect()
    await until(lambda: len(connections(server)) == 1)
    (found,) = connections(server)
    if before:
        found.data_received(before)
        await until(lambda: found.next_request is not None and found.request_count == 1)
    found.data_received(b"POST /send HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n1\r\nx\r\n" % length)
    for _ in range(turns):
        await asyncio.sleep(0)
    assert found.transport is not None
    found.transport.abort()
    await until(lambda: server.connections == 0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert server.broadcaster.counts.published == 0
