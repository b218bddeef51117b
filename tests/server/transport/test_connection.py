"""Connections: listener, count and time-outs."""

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


# The listener of a connection, and the settings of aiohttp.


async def test_the_settings_of_connections_are_applied(server: LiveServer) -> None:
    await (await server.connect()).subscribe()
    (found,) = connections(server)
    assert found.timeouts.idle.seconds == KEEP_ALIVE
    assert found.access_logger is None


async def test_a_connection_knows_its_listener(server: LiveServer) -> None:
    await (await server.connect()).subscribe()
    (found,) = connections(server)
    assert found.listener_info == ListenerInfo(EVERYTHING, loopback=True, unix=False)


@pytest.fixture
def places() -> list[ListenerInfo]:
    return []


@pytest.fixture
async def run_elsewhere(places: list[ListenerInfo]) -> AsyncIterator[Callable[..., Awaitable[web.BaseSite]]]:
    """Run an application of another server that records the listener of its requests."""

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


async def test_a_request_of_another_server_has_its_address_as_listener(
    run_elsewhere: Callable[..., Awaitable[web.TCPSite]], places: list[ListenerInfo]
) -> None:
    """Loopback counts as local, and all endpoints are served."""
    site = await run_elsewhere()
    client = await RawClient.open(site.port)
    assert (await client.ask("GET", "/"))[0] == 200
    assert (await client.ask("GET", "/sse/status"))[0] == 200
    client.close()
    assert places == [ListenerInfo(EVERYTHING, loopback=True, unix=False)]


async def test_a_request_of_another_servers_unix_socket_has_it_as_listener(
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
def test_every_address_of_another_server_makes_a_listener(
    sockname: object, *, loopback: bool, unix: bool
) -> None:
    """An unknown address is not local."""
    request = types.SimpleNamespace(protocol=types.SimpleNamespace(sockname=sockname))
    assert listener_of(request) == ListenerInfo(EVERYTHING, loopback=loopback, unix=unix)  # type: ignore[arg-type]


# The count of connections.


@pytest.mark.parametrize("leave", ["fin", "rst", "half-close", "refused", "malformed", "cut", "close"])
async def test_a_closed_connection_is_uncounted(serve: Serve, leave: str) -> None:
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


# Time-outs.


@pytest.mark.parametrize("head", [b"", b"G", ASK[:-2]], ids=["silent", "a letter", "all but the end"])
async def test_a_connection_without_a_request_is_closed(serve: Serve, head: bytes) -> None:
    """`head_timeout` is over, and it is counted."""
    server, client = await serve.connected(head_timeout=0.1)
    await client.send(head)
    assert await gone(client)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"silent": 1}


async def gone(client: RawClient) -> bool:
    """Return whether the connection ends without a response."""
    try:
        return await client.rest() == b""
    except ConnectionResetError:
        return True


async def test_a_dripping_head_is_cut_off(serve: Serve) -> None:
    """A byte now and then does not extend the time."""
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


async def test_a_connection_may_be_idle_after_a_request(serve: Serve) -> None:
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
async def test_a_later_dripping_head_is_cut_off(serve: Serve, monkeypatch: Patch, first: bytes) -> None:
    """The time is that of an idle connection, however much of the head has arrived."""
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
async def test_the_handler_of_a_closed_stream_ends_without_cancellation(
    serve: Serve, *, full: bool, caplog: Caplog
) -> None:
    """It sleeps, or waits for a full socket."""
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
    assert server.broadcaster.metrics.unreported_disconnects == 0  # A heartbeat would notice it later.
    await sink.end_body()  # Writing to a closed connection is no error.
    assert server.connections == server.broadcaster.client_count == 0
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_an_idle_connection_is_closed(serve: Serve, monkeypatch: Patch) -> None:
    """The time starts again with each response. Requests in progress and streams do not count as idle."""
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


async def test_an_idle_connection_has_no_response_in_progress(server: LiveServer) -> None:
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


async def test_a_request_that_arrived_before_the_idle_timeout_is_answered(
    serve: Serve, monkeypatch: Patch
) -> None:
    """The loop was blocked at that time and longer."""
    monkeypatch.setattr(connection, "KEEP_ALIVE", 0.2)
    server, client = await serve.connected()
    for message in (b"a", b"b"):
        await client.ask("GET", "/status")
        await client.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n" + message)
        time.sleep(0.3)
        assert (await client.answer())[0] == 200
    assert server.broadcaster.counts.published == 2
    assert await gone(client)


async def test_a_client_that_leaves_before_its_response_is_not_waited_for(
    server: LiveServer, monkeypatch: Patch
) -> None:
    """The response is still made, and no lingering follows."""
    monkeypatch.setattr(web_server_of(server), "handler_cancellation", False)
    client = await server.connect()
    await client.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
    await until(lambda: any(found.current_request for found in connections(server)))
    (found,) = connections(server)
    client.reset()
    await until(lambda: server.connections == 0)
    await until(lambda: found.current_request is None)
    assert len(found.timeouts.idle) == 0


async def test_a_refused_expectation_counts_as_a_request(serve: Serve) -> None:
    """The client may send another after the time-out of a new connection."""
    server = await serve(head_timeout=0.1)
    client, silent = await server.connect(), await server.connect()
    await client.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\n\r\n")
    assert (await client.answer())[0] == 417
    assert await gone(silent)
    await asyncio.sleep(0.05)
    assert (await client.ask("GET", "/status"))[0] == 200


async def test_a_client_that_does_not_read_its_responses_is_disconnected(serve: Serve) -> None:
    """The deadline is not that of streams. It is counted."""
    server = await serve(write_timeout=0.2, send_buffer=4096)
    client = await RawClient.open(server.port, receive_buffer=4096)
    asking = asyncio.create_task(client.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000))
    await until(lambda: server.broadcaster.counts.refused == {"stalled": 1})
    await until(lambda: server.connections == 0)
    asking.cancel()
    client.close()


async def test_a_client_that_reads_its_responses_slowly_stays(serve: Serve, monkeypatch: Patch) -> None:
    """It may take any time if it makes progress, and is not cut off afterwards."""
    monkeypatch.setattr(connection, "PROGRESS", 1)
    server = await serve(write_timeout=0.5, send_buffer=4096)
    patience = kernel_timeout(0.5)
    client = await RawClient.open(server.port, receive_buffer=4096)
    count, loop = 2000, asyncio.get_running_loop()
    asking = asyncio.create_task(client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * count))
    await until(lambda: any(found.writing_paused for found in connections(server)))
    (found,) = connections(server)
    paused = loop.time()
    while found.writing_paused or loop.time() - paused < patience * 2:
        received = await loop.sock_recv(client.sock, 4000)
        assert received, server.broadcaster.counts.refused
        client.buffer += received
        await asyncio.sleep(0.04)
    assert loop.time() - paused > patience * 2
    for _ in range(count):
        assert json.loads((await client.answer())[1]) == {"status": "alive"}
    await asking
    await asyncio.sleep(patience * 3)
    assert (await client.ask("GET", "/healthz"))[0] == 200
    assert server.broadcaster.counts.refused == {}
    client.close()


# Bytes that are not HTTP.

CHUNKED = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("path", [b"/send", b"/send?stream=1"])
async def test_an_invalid_body_is_answered_at_once(serve: Serve, path: bytes) -> None:
    server, client = await serve.connected(body_timeout=600)
    await client.send(b"POST %b HTTP/1.1\r\n" % path + CHUNKED + b"3\r\nab\n\r\n")
    await until(lambda: any(found.current_request for found in connections(server)))
    await client.send(b"no chunk\r\n")
    await told_of_broken_chunks(client, server)


@pytest.mark.parametrize("path", [b"/send", b"/send?stream=1"])
async def test_an_invalid_body_is_answered_before_it_is_read(serve: Serve, path: bytes) -> None:
    """Both pieces may arrive before the handler runs."""
    server, client = await serve.connected(body_timeout=600)
    await until(lambda: len(connections(server)) == 1)
    (found,) = connections(server)
    await asyncio.sleep(0)
    found.data_received(b"POST %b HTTP/1.1\r\n" % path + CHUNKED + b"3\r\nab\n\r\n")
    found.data_received(b"no chunk\r\n")
    await told_of_broken_chunks(client, server)


@pytest.mark.parametrize("length", [b"Content-Length: 300000", b"Transfer-Encoding: chunked"])
async def test_a_large_end_of_a_body_does_not_count_as_head(
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


async def test_bytes_that_are_not_http_are_counted_and_not_repeated(
    server: LiveServer, client: RawClient
) -> None:
    """The plain 400 has the kind of the error and nothing of the bytes."""
    await client.send(b"GET /events?access_token=secret HTTP/9.9\r\nHost: x\r\n\r\n")
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert b"\r\nServer: sse-broadcast\r\n" in answer
    assert answer.endswith(b"\r\n\r\nBadStatusLine: Bad status line: Invalid HTTP version")
    assert server.broadcaster.counts.refused == {"malformed": 1}


# Clients that expect HTTP/2.


def http_2(path: str = "/events") -> H2Connection:
    """Return an HTTP/2 client with prior knowledge that has sent a request (RFC 9113, 3.3)."""
    client = H2Connection()
    client.initiate_connection()
    headers = {":method": "GET", ":path": path, ":scheme": "http", ":authority": "localhost"}
    client.send_headers(1, list(headers.items()), end_stream=True)
    return client


async def test_an_http_2_client_gets_http_1_1_required(server: LiveServer) -> None:
    """RST_STREAM and GOAWAY frames have the error code HTTP_1_1_REQUIRED."""
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


async def test_httpx_reports_that_http_1_1_is_required(server: LiveServer) -> None:
    """It is a real HTTP/2 client, and reports the code instead of an invalid head."""
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        with pytest.raises(httpx.RemoteProtocolError, match=r"error_code:(13|ErrorCodes.HTTP_1_1_REQUIRED)"):
            await client.get(f"{server.url}/status")


async def test_further_bytes_of_an_http_2_client_are_dropped(server: LiveServer, client: RawClient) -> None:
    """It gets its response all the same: no TCP reset discards it."""
    await client.send(http_2().data_to_send())
    await until(lambda: server.broadcaster.counts.refused == {"malformed": 1})
    for _ in range(10):
        await client.send(bytes(20_000))
    assert await client.rest() == HTTP_1_1_REQUIRED
    client.close()
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"malformed": 1}


async def test_an_http_2_client_that_stays_is_disconnected(serve: Serve) -> None:
    """`head_timeout` is over, and it has sent no request."""
    server, asker = await serve.connected(head_timeout=0.1)
    await asker.send(http_2().data_to_send())
    await until(lambda: server.broadcaster.counts.refused == {"malformed": 1, "silent": 1})
    await until(lambda: server.connections == 0)


async def test_an_http_2_client_leaves_no_reference_cycle(server: LiveServer, client: RawClient) -> None:
    with uncollected():
        await client.send(http_2().data_to_send())
        await client.rest()
        client.close()
        await until(lambda: server.connections == 0)
        await until(lambda: not held(Connection))


async def test_http_2_is_detected_by_the_first_bytes_only(client: RawClient) -> None:
    await client.send(ASK)
    assert (await client.answer())[0] == 200
    await client.send(http_2().data_to_send())
    assert (await client.rest()).startswith(b"HTTP/1.0 400 Bad Request\r\n")


async def test_an_unexpected_error_is_answered_by_aiohttp(server: LiveServer, monkeypatch: Patch) -> None:
    """The 500, which no client can cause, is counted like any other response."""

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
async def test_a_closed_connection_leaves_no_reference_cycle(
    server: LiveServer, client: RawClient, said: bytes
) -> None:
    """All its data is freed at once: the garbage collector runs seldom."""
    with uncollected():
        await client.send(said)
        await client.head()
        client.close()
        await until(lambda: server.connections == 0)
        await until(lambda: not held(Connection))


async def test_an_unanswered_refusal_leaves_no_reference_cycle(server: LiveServer) -> None:
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
async def test_an_incomplete_request_is_not_published(
    server: LiveServer, turns: int, before: bytes, length: bytes
) -> None:
    """The connection is lost before the handler runs or while it reads."""
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
