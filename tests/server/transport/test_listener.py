"""Listeners: TCP and UNIX sockets, with TLS or without, each with its endpoints."""

import asyncio
import errno
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from sse_broadcast.config.schema import Config, Endpoint, ListenerRule
from sse_broadcast.errors import CertificateError, ListenError
from sse_broadcast.server.runner import Server
from sse_broadcast.server.transport.admission import ACCEPTS
from sse_broadcast.server.transport.listener import is_local
from tests.conftest import LiveServer, Patch, Serve
from tests.support.asking import bearer
from tests.support.certificates import write_certificate
from tests.support.credentials import STATIC
from tests.support.sockets import RawClient, until

ConnectUnix = Callable[[Path | str], Awaitable[RawClient]]


@pytest.fixture
async def connect_unix() -> AsyncIterator[ConnectUnix]:
    """Open UNIX sockets, and close them when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_socket(path: Path | str) -> RawClient:
            client = await RawClient.open_unix(str(path))
            stack.callback(client.close)
            return client

        yield open_socket


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sse.sock"


def unix(path: Path, **options: Any) -> ListenerRule:
    return ListenerRule(host=f"unix:{path}", **options)


def tcp(*endpoints: Endpoint, **options: Any) -> ListenerRule:
    rule = ListenerRule(**{"host": "127.0.0.1", "port": 0, **options})
    return ListenerRule(
        **{**options, "host": rule.host, "port": rule.port, "endpoints": endpoints or tuple(Endpoint)}
    )


async def ask(port: int, path: str, *, method: str = "GET") -> int:
    client = await RawClient.open(port)
    try:
        await client.request(method, path, body=b"x" if method == "POST" else b"")
        return int((await client.head()).split()[1])
    finally:
        client.close()


# UNIX sockets.


async def test_a_unix_socket_serves_all_endpoints(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """Its address is printed, and it accepts any Host."""
    server = await serve(listener=(unix(path),))
    assert (server.url, server.urls, server.port) == (f"unix:{path}", (f"unix:{path}",), 0)
    subscriber, publisher = await connect_unix(path), await connect_unix(path)
    await subscriber.subscribe()
    await publisher.send(b"POST /send HTTP/1.1\r\nHost: whatever.example\r\nContent-Length: 5\r\n\r\nhello")
    status, body = await publisher.answer()
    assert (status, json.loads(body)["clients"]) == (200, 1)
    assert [event.data for event in await subscriber.events(1)] == ["hello"]


@pytest.mark.parametrize("leave", ["fin", "rst", "half-close", "silent"])
async def test_a_closed_connection_of_a_unix_socket_is_uncounted(
    serve: Serve, connect_unix: ConnectUnix, path: Path, leave: str
) -> None:
    server = await serve(listener=(unix(path),), head_timeout=0.1 if leave == "silent" else 10)
    for _ in range(5):
        client = await connect_unix(path)
        await until(lambda: server.connections == 1)
        if leave == "half-close":
            client.half_close()
        elif leave != "silent":
            await client.subscribe()
            client.reset() if leave == "rst" else client.close()
        await until(lambda: server.connections == 0)


async def test_a_frozen_client_of_a_unix_socket_is_disconnected(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """Its socket has the configured buffer size, and the deadline applies."""
    server = await serve(
        listener=(unix(path),), send_buffer=16_384, write_timeout=0.2, queue_size=10, overflow="drop-oldest"
    )
    frozen = await connect_unix(path)
    await frozen.subscribe()
    while server.broadcaster.client_count:
        await server.broadcaster.broadcast("x" * 4000)
        await asyncio.sleep(0.001)
    assert server.broadcaster.counts.closed == {"stalled": 1}
    taken = 0
    try:
        while data := await asyncio.get_running_loop().sock_recv(frozen.sock, 1 << 20):
            taken += len(data)
    except ConnectionResetError:
        pass
    assert taken < 100_000


async def test_a_unix_socket_with_tls(serve: Serve, path: Path, tmp_path: Path) -> None:
    """It is useful where a socket file is shared over a network."""
    authenticator = trustme.CA()
    certificate, key = write_certificate(authenticator, tmp_path)
    context = ssl.create_default_context()
    authenticator.configure_trust(context)
    server = await serve(listener=(unix(path, certificate=certificate, key=key),), send_buffer=16_384)
    reader, writer = await asyncio.open_unix_connection(str(path), ssl=context, server_hostname="127.0.0.1")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.transport.abort()
    await until(lambda: server.connections == 0)


async def test_the_socket_file_is_removed_when_the_server_stops(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """It goes with the listening socket, so that the next server can bind while streams still end."""
    server = await serve(listener=(unix(path, mode="600"),))
    assert path.stat().st_mode & 0o777 == 0o600
    subscriber = await connect_unix(path)
    await subscriber.subscribe()
    stopping = asyncio.create_task(server.stop())
    await until(lambda: not path.exists())
    await stopping
    assert b"$close" in await subscriber.rest()


async def test_the_socket_file_of_a_killed_server_is_replaced(serve: Serve, path: Path) -> None:
    """It refuses connections."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    await serve(listener=(unix(path),))


async def test_a_unix_socket_of_a_running_server_is_refused(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    server = await serve(listener=(unix(path),))
    with pytest.raises(ListenError, match=rf"^cannot listen on unix:{path}: address already in use$"):
        await Server(Config(listener=(unix(path),))).start()
    assert (await (await connect_unix(path)).ask("GET", "/healthz"))[0] == 200
    assert server.connections >= 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"host": "unix:/no/such/folder/x"}, "no such file or directory"),
        ({"host": "unix:/" + "x" * 200}, "af_unix path too long|file name too long"),
        ({"host": "unix:/tmp"}, "the file exists and is not a socket"),
        ({"owner": "no-such-user-here"}, "owner: 'no-such-user-here': .*"),
    ],
)
async def test_an_impossible_unix_socket_is_reported(
    path: Path, options: dict[str, Any], reason: str
) -> None:
    rule = ListenerRule(**{"host": f"unix:{path}", **options})
    with pytest.raises(ListenError, match=rf"^cannot listen on {re.escape(rule.host)}: ({reason})$"):
        await Server(Config(listener=(rule,))).start()
    assert not path.exists()


# Several listeners.


async def test_each_listener_serves_its_own_endpoints(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """The others are 404. Health checks are on every listener."""
    server = await serve(
        listener=(
            tcp(Endpoint.SUBSCRIBE),
            tcp(Endpoint.PUBLISH, Endpoint.INSPECT),
            unix(path, endpoints=(Endpoint.INSPECT,)),
        )
    )
    world, private = (listener.port for listener in server.listeners if listener.port is not None)
    assert server.port == world
    assert server.url == f"http://127.0.0.1:{world}"
    assert server.urls == (f"http://127.0.0.1:{world}", f"http://127.0.0.1:{private}", f"unix:{path}")
    assert [await ask(world, path) for path in ("/events", "/status", "/healthz")] == [200, 404, 200]
    assert await ask(world, "/send", method="POST") == 404
    assert [await ask(private, path) for path in ("/events", "/status", "/readyz")] == [404, 200, 200]
    assert await ask(private, "/send", method="POST") == 200
    client = await connect_unix(path)
    found = [(await client.ask("GET", path))[0] for path in ("/status", "/events", "/healthz")]
    assert found == [200, 404, 200]
    assert (await client.ask("POST", "/send", body=b"x"))[0] == 404


async def test_the_limit_counts_the_connections_of_all_listeners(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """It follows from the file descriptors."""
    server = await serve(listener=(tcp(), tcp(), unix(path)), max_connections=3)
    first, second = (listener.port for listener in server.listeners if listener.port is not None)
    clients = [await RawClient.open(first), await RawClient.open(second), await connect_unix(path)]
    for client in clients:
        await client.subscribe()
    late = await connect_unix(path)
    await late.request("GET", "/status")
    assert (await late.rest()).startswith(b"HTTP/1.1 503 ")
    assert await ask(second, "/status") == 503
    for client in clients:
        client.close()


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def test_all_listeners_start_or_none(path: Path) -> None:
    """The error names the one that failed, and the others are closed."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = Server(Config(listener=(tcp(port=port), unix(path), tcp(port=taken))))
        with pytest.raises(ListenError, match=f"^cannot listen on 127.0.0.1 port {taken}: address already"):
            await server.start()
    assert not path.exists()
    assert not answers(port)
    await server.stop()


async def test_one_port_twice_is_reported() -> None:
    """Linux lets two sockets bind a port that only one may listen on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ListenError, match=f"^cannot listen on 127.1 port {port}: address already in use$"):
        await Server(Config(listener=(tcp(port=port), tcp(host="127.1", port=port)))).start()
    assert not answers(port)


async def test_a_bad_certificate_leaves_no_listener(path: Path) -> None:
    with pytest.raises(CertificateError):
        await Server(Config(listener=(unix(path), tcp(certificate="/none.pem")))).start()
    assert not path.exists()


async def test_listeners_with_and_without_tls(serve: Serve, tmp_path: Path) -> None:
    """One is public, the other for a proxy on the machine."""
    authenticator = trustme.CA()
    certificate, key = write_certificate(authenticator, tmp_path)
    context = ssl.create_default_context()
    authenticator.configure_trust(context)
    server = await serve(listener=(tcp(certificate=certificate, key=key), tcp()))
    secure, plain = (listener.port for listener in server.listeners)
    assert plain is not None
    assert server.urls == (f"https://127.0.0.1:{secure}", f"http://127.0.0.1:{plain}")
    assert await ask(plain, "/healthz") == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", secure, ssl=context)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.transport.abort()


# Local and public listeners.


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("unix:/run/x", True),
        ("0.0.0.0", False),
        ("::", False),
        ("*", False),
        ("[::1]", True),
        ("192.0.2.1", False),
        ("example.com", False),
    ],
)
def test_a_listener_is_local_by_its_configured_host(host: str, *, local: bool) -> None:
    """Only loopback addresses and `localhost` are local, whatever a name resolves to."""
    assert is_local(ListenerRule(host=host)) is local


async def test_a_wildcard_is_not_local(serve: Serve) -> None:
    """This holds for a client from loopback too: it may be a proxy for the world."""
    server = await serve(host="0.0.0.0")
    (listener,) = server.listeners
    assert not listener.info.loopback
    client = await server.connect()
    assert (await client.ask("GET", "/status"))[0] == 401


# All addresses.


@pytest.fixture
def ipv6() -> None:
    """Skip a test on a machine without IPv6 on loopback."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")


def bound(server: LiveServer) -> list[tuple[str, int]]:
    """Return the addresses and ports of the first listener's sockets."""
    return [sock.getsockname()[:2] for sock in server.listeners[0].sockets]


@pytest.mark.parametrize(("host", "url"), [("*", "http://0.0.0.0:{}"), ("::", "http://[::]:{}")])
@pytest.mark.usefixtures("ipv6")
async def test_every_address_is_listened_on(serve: Serve, host: str, url: str) -> None:
    """IPv4 and IPv6 have a socket each, at one port."""
    server = await serve(host=host, token=STATIC)
    assert bound(server) == [("0.0.0.0", server.port), ("::", server.port)]
    assert server.urls == (url.format(server.port),)


@pytest.mark.parametrize("host", ["*", "::"])
@pytest.mark.usefixtures("ipv6")
async def test_a_client_of_every_address_has_its_own_address(serve: Serve, host: str) -> None:
    """An IPv4 one is not `::ffff:127.0.0.1`, which limits would count as another."""
    server = await serve(host=host, token=STATIC)
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (address, server.port))
            client = RawClient(sock)
            await client.subscribe(headers=bearer(STATIC))
            await until(lambda: server.broadcaster.client_count == 1)
            asker = await RawClient.open(server.port)
            _, page = await asker.ask("GET", "/subscribers", headers=bearer(STATIC))
            asker.close()
            assert [each["address"] for each in json.loads(page)["subscribers"]] == [address]
        await until(lambda: server.broadcaster.client_count == 0)


@pytest.mark.usefixtures("ipv6")
async def test_an_ipv6_address_may_have_brackets(serve: Serve) -> None:
    server = await serve(host="[::1]", token=STATIC)
    assert bound(server) == [("::1", server.port)]
    assert server.urls == (f"http://[::1]:{server.port}",)


def without_ipv6(monkeypatch: Patch, code: int) -> None:
    """Simulate a machine without IPv6: binding a socket of it fails."""
    bind = socket.socket.bind

    def fail(sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(code, os.strerror(code))
        bind(sock, address)

    monkeypatch.setattr(socket.socket, "bind", fail)


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_without_ipv6_every_address_is_that_of_ipv4(
    serve: Serve, monkeypatch: Patch, code: int
) -> None:
    """This holds for `*`. `::` is an error."""
    without_ipv6(monkeypatch, code)
    server = await serve(host="*", token=STATIC)
    assert bound(server) == [("0.0.0.0", server.port)]
    with pytest.raises(ListenError, match=rf"^cannot listen on :: port 0: {os.strerror(code).lower()}$"):
        await Server(Config(host="::", port=0, token=STATIC)).start()


async def test_a_taken_port_of_ipv6_is_reported(monkeypatch: Patch) -> None:
    without_ipv6(monkeypatch, errno.EADDRINUSE)
    with pytest.raises(ListenError, match=r"^cannot listen on \* port 0: address already in use$"):
        await Server(Config(host="*", port=0, token=STATIC)).start()


# Many connections.


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_connections_are_accepted_eight_at_a_time(serve: Serve, path: Path, kind: str) -> None:
    """A turn of the loop is a good part of the cost of a connection."""
    server = await serve(listener=(unix(path),) if kind == "unix" else (tcp(),))
    crowd, turns = 20 * ACCEPTS, 0
    with ExitStack() as stack:
        for _ in range(crowd):  # The kernel has accepted all before the loop's next turn.
            client = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            stack.enter_context(client).connect(str(path) if kind == "unix" else ("127.0.0.1", server.port))
        while server.connections < crowd:
            await asyncio.sleep(0)
            turns += 1
    assert turns <= 20 + 3


async def test_a_socket_that_the_loop_cannot_watch_is_reported(monkeypatch: Patch) -> None:
    server = Server(Config(port=0))

    def exhausted(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    asyncios_own = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
    monkeypatch.setattr(socket.socket, "listen" if asyncios_own else "dup", exhausted)
    with pytest.raises(ListenError, match=r"^cannot listen on 127\.0\.0\.1 port 0: too many open files$"):
        await server.start()
    assert all(sock.fileno() == -1 for listener in server.listeners for sock in listener.sockets)
