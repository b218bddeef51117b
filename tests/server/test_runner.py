"""The builder of a server: listening, its settings, and stopping."""

import asyncio
import contextlib
import gc
import json
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from sse_broadcast import broadcaster
from sse_broadcast.config.schema import Config, Endpoint, EventLoop, ListenerRule
from sse_broadcast.errors import ConfigError, ListenError
from sse_broadcast.server import runner
from sse_broadcast.server.http.health import DRAINING_FAULT, READINESS
from sse_broadcast.server.process.loop import new_loop
from sse_broadcast.server.runner import Server
from sse_broadcast.server.transport.socket_activation import InheritedSocket
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.server.blocks import close_block
from tests.support.certificates import write_certificate
from tests.support.internals import web_server_of
from tests.support.sockets import PATIENCE, RawClient, until
from tests.support.supervision import tcp_socket, unix_socket

pytestmark = pytest.mark.both_loops


async def test_a_lost_connection_cancels_its_handler(server: LiveServer) -> None:
    """Subscribers that disconnect are so released at once."""
    assert web_server_of(server).handler_cancellation


# The generated token.

EXPOSED = {"host": "0.0.0.0"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"host": "localhost"},
        {"listener": (ListenerRule(host="0.0.0.0", endpoints=(Endpoint.SUBSCRIBE,)),)},
        {"listener": (ListenerRule(host="unix:/run/x"),)},
        {**EXPOSED, "token": "a-token-that-somebody-chose"},
        {**EXPOSED, "token_secret": "a-secret-of-thirty-two-characters-or-more"},
    ],
)
def test_no_token_is_generated_where_none_is_needed(settings: dict[str, Any]) -> None:
    """Those are loopback listeners, servers for streams only, and servers with credentials."""
    assert Server(Config(**settings)).token is None


@pytest.mark.parametrize(
    "settings",
    [
        EXPOSED,
        {**EXPOSED, "anonymous_subscribe": ("news",)},
        {**EXPOSED, "insecure_publish": True},
        {
            "listener": (
                ListenerRule(host="127.0.0.1"),
                ListenerRule(host="::", endpoints=(Endpoint.INSPECT,)),
            )
        },
    ],
)
def test_a_token_is_generated_if_others_can_connect(settings: dict[str, Any]) -> None:
    """Each is different and cannot be guessed."""
    first, second = Server(Config(**settings)).token, Server(Config(**settings)).token
    assert first is not None
    assert len(first) >= 43
    assert first != second


async def test_the_generated_token_opens_closed_endpoints(serve: Serve) -> None:
    server, client = await serve.connected(**EXPOSED)
    bearer = f"Authorization: Bearer {server.token}\r\n"
    for method, path in (("POST", "/send"), ("GET", "/status")):
        assert (await client.ask(method, path, body=b"x" if method == "POST" else b""))[0] == 401
        body = b"x" if method == "POST" else b""
        assert (await client.ask(method, path, body=body, headers=bearer))[0] == 200
    assert (await client.subscribe()).startswith(b"HTTP/1.1 200 OK\r\n")


def test_unusable_credentials_are_reported_first() -> None:
    with pytest.raises(ConfigError):
        Server(Config(token="short"))


async def test_a_port_in_use_is_reported(server: LiveServer) -> None:
    with pytest.raises(
        ListenError, match=rf"cannot listen on 127.0.0.1 port {server.port}: address already in use"
    ):
        await Server(Config(port=server.port)).start()


async def test_an_address_of_another_machine_is_reported() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192.0.2.1 port 1: "):
        await Server(Config(host="192.0.2.1", port=1)).start()
    with pytest.raises(ListenError, match=r"cannot listen on nowhere.invalid port 1: "):
        await Server(Config(host="nowhere.invalid", port=1)).start()


async def test_a_host_name_listens_on_all_its_addresses(serve: Serve) -> None:
    """`localhost` is 127.0.0.1 and, where there is IPv6, ::1, at the same port."""
    server = await serve(host="localhost")
    client = await RawClient.open(server.port)
    assert (await client.ask("GET", "/status"))[0] == 200
    client.close()
    ports = {sock.getsockname()[1] for listener in server.listeners for sock in listener.sockets}
    assert ports == {server.port}


async def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    """RFC 3986 requires them."""
    server = Server(Config(host="::1", port=0))
    try:
        await server.start()
    except ListenError:
        pytest.skip("no IPv6 on this machine")
    assert server.url == f"http://[::1]:{server.port}"
    await server.stop()


@pytest.fixture(scope="module")
def authenticator() -> trustme.CA:
    return trustme.CA()


async def test_tls_streams_and_disconnects_a_frozen_client(
    serve: Serve, authenticator: trustme.CA, tmp_path: Path
) -> None:
    """The guarantees hold over TLS: events arrive, and a client that stops reading is disconnected."""
    certificate, key = write_certificate(authenticator, tmp_path)
    server = await serve(
        certificate=certificate,
        key=key,
        send_buffer=16_384,
        write_timeout=0.5,
        queue_size=20,
        overflow="drop-oldest",
    )
    assert server.url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context()
    authenticator.configure_trust(context)
    async with aiohttp.ClientSession(server.url) as session:
        async with session.get("/events", ssl=context) as response:
            await response.content.readuntil(b"\n\n")
            async with session.post("/send", data="x" * 100_000, ssl=context) as answer:
                id = (await answer.json())["id"]
            frame = f"data: {'x' * 100_000}\nid: {id}\n\n"
            assert await response.content.readuntil(b"\n\n") == frame.encode()
        await until(lambda: server.broadcaster.client_count == 0)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=context, server_hostname="127.0.0.1", limit=1
    )
    writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while server.broadcaster.client_count:
        await server.broadcaster.broadcast("x" * 4000)
        await asyncio.sleep(0.001)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.closed["stalled"] == 1
    writer.transport.abort()


async def test_stopping_ends_the_streams_of_a_thousand_subscribers(serve: Serve) -> None:
    """Each gets a reconnection time of its own. Frozen ones are disconnected in time."""
    server = await serve(shutdown_timeout=2, send_buffer=16_384, overflow="drop-oldest", retry=3000)
    subscribers = [await RawClient.open(server.port) for _ in range(1000)]
    for subscriber in subscribers:
        await subscriber.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    frozen = await RawClient.open(server.port, receive_buffer=4096)
    await frozen.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: server.broadcaster.client_count == 1001)
    reading = asyncio.gather(*(subscriber.rest() for subscriber in subscribers))
    for _ in range(50):
        await server.broadcaster.broadcast("x" * 4000)
        await asyncio.sleep(0)
    await server.stop()
    ends = [data[data.index(b"event: $close") :] for data in await reading]
    last = re.compile(close_block("drain", server.broadcaster.cursor).pattern + rb"\r\n0\r\n\r\n")
    assert all(last.fullmatch(end) for end in ends)
    assert len({end.split(b"retry: ")[1].split(b"\n")[0] for end in ends}) > 300
    assert server.broadcaster.client_count == 0
    for client in (*subscribers, frozen):
        client.close()


async def test_a_request_that_arrives_during_the_stop_is_answered(serve: Serve, monkeypatch: Patch) -> None:
    """It comes on a kept connection when all others have ended: the publisher gets a refusal."""
    monkeypatch.setattr(runner, "LINGER", PATIENCE)
    server, publisher = await serve.connected(shutdown_timeout=PATIENCE / runner.RUNNER_SHARE)
    assert (await publisher.ask("POST", "/send", body=b"one"))[0] == 200
    stopping = asyncio.create_task(server.stop())
    for _ in range(100):  # turns after which nothing else is left to do
        await asyncio.sleep(0)
    status, body = await publisher.ask("POST", "/send", body=b"two")
    assert (status, json.loads(body)["status"]) == (503, 503)
    assert await publisher.rest() == b""
    async with asyncio.timeout(PATIENCE / 2):  # less than LINGER: it does not linger for a closed connection
        await stopping


async def test_stopping_does_not_wait_for_a_stalled_body(serve: Serve) -> None:
    """The publisher has its share of the shutdown time, and is disconnected."""
    server, client = await serve.connected(shutdown_timeout=1.0, body_timeout=600)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    await until(lambda: server.connections == 1)
    async with asyncio.timeout(20):
        await server.stop()
    assert server.broadcaster.counts.published == 0


# The drain.


async def test_a_draining_server_keeps_serving(serve: Serve) -> None:
    """It is not ready, and otherwise serves open and new connections as before."""
    server = await serve(drain_delay=3600.0)
    reader, publisher, long = [await server.connect() for _ in range(3)]
    await reader.subscribe()
    await long.begin("/send?stream=1")
    await long.send_chunk(b"a\n")
    retiring = asyncio.ensure_future(server.begin_drain())
    await until(lambda: server.app[READINESS].draining)
    assert (await (await server.connect()).ask("GET", "/healthz"))[0] == 200
    status, body = await (await server.connect()).ask("GET", "/readyz")
    assert (status, json.loads(body)["detail"]) == (503, DRAINING_FAULT)
    assert (await publisher.ask("POST", "/send", body=b"b"))[0] == 200
    await long.send_chunk(b"c\n")
    await server.subscriber()
    assert [event.data for event in await reader.events(3)] == ["a", "b", "c"]
    assert server.broadcaster.client_count == 2
    assert not retiring.done()
    retiring.cancel()


async def test_responses_of_a_draining_server_close_their_connections(server: LiveServer) -> None:
    """The next request then reaches another server. None is refused for the drain."""
    publisher, other = await server.connect(), await server.connect()
    assert (await publisher.ask("POST", "/send", body=b"a"))[0] == 200
    await other.ask("GET", "/status")
    await server.begin_drain()
    await publisher.request("POST", "/send", body=b"b")
    head = await publisher.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert json.loads(await publisher.rest())["message"] == "b"
    assert (await other.ask("GET", "/nowhere"))[0] == 404
    assert await other.rest() == b""
    assert server.broadcaster.counts.published == 2


async def test_a_drain_ends_after_its_delay(serve: Serve) -> None:
    server = await serve(drain_delay=0.02)
    async with asyncio.timeout(20):
        await server.begin_drain()


# The stop.


@pytest.mark.parametrize("turns", range(5))
async def test_a_connection_that_arrives_during_the_stop_is_closed(server: LiveServer, turns: int) -> None:
    client = RawClient(
        socket.create_connection(("127.0.0.1", server.port))
    )  # before the next turn of the loop
    client.sock.setblocking(False)
    for _ in range(turns):
        await asyncio.sleep(0)
    await server.stop()
    await assert_is_closed(client)


async def test_a_connection_being_rejected_is_closed_by_the_stop(serve: Serve) -> None:
    """Its own time-out may come after the end of the loop."""
    server = await serve(max_connections=1)
    clients = [await RawClient.open(server.port) for _ in range(2)]
    await until(lambda: len(server.admission.reserve) > 0)
    clients[0].close()
    await server.stop()
    await assert_is_closed(clients[1])


async def assert_is_closed(client: RawClient) -> None:
    """Assert that a connection was closed and no socket is left to the garbage collector."""
    gc.collect()
    for _ in range(3):
        await asyncio.sleep(0)
    with contextlib.suppress(ConnectionResetError):
        assert client.sock.recv(1) == b""
    client.close()


async def test_a_stopped_listener_refuses_connections(
    serve: Serve, monkeypatch: Patch, tmp_path: Path
) -> None:
    """It does so from the first wave on, with TLS and without: no connection waits in the backlog."""
    monkeypatch.setattr(broadcaster, "DRAIN_BATCH", 1)
    certificate, key = write_certificate(trustme.CA(), tmp_path)
    rules = (
        ListenerRule(host="127.0.0.1", port=0),
        ListenerRule(host="127.0.0.1", port=0, certificate=certificate, key=key),
        ListenerRule(host=f"unix:{tmp_path}/s"),
    )
    server = await serve(listener=rules, drain_timeout=3600.0)
    places = [sock.getsockname() for listener in server.listeners for sock in listener.sockets]
    subscribers = [await server.connect() for _ in range(100)]
    for subscriber in subscribers:
        await subscriber.subscribe()
    stopping = asyncio.ensure_future(server.stop())
    await until(lambda: server.broadcaster.client_count < 100)
    for place in places:
        family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
        with socket.socket(family) as sock, pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            sock.connect(place)
    assert not stopping.done()
    for subscriber in subscribers:
        subscriber.close()
    await stopping


async def test_streams_end_in_waves_and_complete(serve: Serve, monkeypatch: Patch) -> None:
    """Each has all acknowledged events, the reason and a clean end, while later waves still wait."""
    monkeypatch.setattr(broadcaster, "DRAIN_BATCH", 3)
    server = await serve(drain_timeout=1.0)
    subscribers = [await server.connect() for _ in range(10)]
    for subscriber in subscribers:
        await subscriber.subscribe()
    publisher = await server.connect()
    await publisher.ask("POST", "/send", body=b"x" * 100_000)
    left: list[int] = []
    stopping = asyncio.ensure_future(server.stop())
    reading = asyncio.gather(*(subscriber.rest() for subscriber in subscribers))
    while not stopping.done():
        if server.broadcaster.client_count not in left:
            left.append(server.broadcaster.client_count)
        await asyncio.sleep(0)
    assert left == [10, 7, 4, 1, 0]
    for data in await reading:
        assert data.count(f"data: {'x' * 100_000}\nid: {server.broadcaster.cursor}\n\n".encode()) == 1
        last = close_block("drain", server.broadcaster.cursor).pattern + rb"\r\n0\r\n\r\n"
        assert re.search(last + rb"$", data)


async def test_an_inherited_socket_is_released_at_once(tmp_path: Path) -> None:
    """New connections are for the next process, whatever the delay. The socket file stays."""
    with tcp_socket() as tcp, unix_socket(tmp_path / "s") as unix:
        inherited = [InheritedSocket("", sock.dup()) for sock in (tcp, unix)]
        rules = (ListenerRule(host="x"), ListenerRule(host="y"))
        server = Server(Config(listener=rules, drain_delay=3600.0), inherited=inherited)
        await server.start()
        port = int(tcp.getsockname()[1])
        subscriber = await RawClient.open(port)
        await subscriber.subscribe()
        retiring = asyncio.ensure_future(server.begin_drain())
        await until(lambda: server.app[READINESS].draining)
        waiting = [await RawClient.open(port), await RawClient.open_unix(f"{tmp_path}/s")]
        for sock in (tcp, unix):
            sock.setblocking(False)
            connection, _ = await asyncio.get_running_loop().sock_accept(sock)
            connection.close()
        await server.broadcaster.broadcast("still read")
        assert [event.data for event in await subscriber.events(1)] == ["still read"]
        retiring.cancel()
        await server.stop()
        for client in (subscriber, *waiting):
            client.close()


def test_the_loop_is_the_configured_one(monkeypatch: Patch) -> None:
    """`auto` takes uvloop if it is installed. `uvloop` without it is an error with the package to install."""
    for choice, module in (
        (EventLoop.ASYNCIO, "asyncio"),
        (EventLoop.UVLOOP, "uvloop"),
        (EventLoop.AUTO, "uvloop"),
    ):
        loop = new_loop(choice)
        assert type(loop).__module__.split(".")[0] == module
        loop.close()
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    loop = new_loop(EventLoop.AUTO)
    assert type(loop).__module__.startswith("asyncio")
    loop.close()
    with pytest.raises(ConfigError, match=r"event_loop: uvloop is not installed: pip install uvloop"):
        new_loop(EventLoop.UVLOOP)


async def test_a_limit_beyond_the_descriptors_is_lowered(monkeypatch: Patch, caplog: Caplog) -> None:
    """The log has the new limit."""
    monkeypatch.setattr(runner, "raise_descriptor_limit", lambda: 256)
    server = Server(Config(port=0, max_connections=10_000))
    await server.start()
    assert server.room == 144
    assert "max_connections: 10000 needs more file descriptors than allowed, using 144" in caplog.text
    await server.stop()
