"""Listeners: TCP and UNIX sockets, with TLS and without, each with what it serves."""

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


async def test_a_unix_socket_serves_all_that_a_port_does(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """And says where it is; nobody asks for its Host, which has no name."""
    server = await serve(listener=(unix(path),))
    assert (server.url, server.urls, server.port) == (f"unix:{path}", (f"unix:{path}",), 0)
    reader, publisher = await connect_unix(path), await connect_unix(path)
    await reader.subscribe()
    await publisher.send(b"POST /send HTTP/1.1\r\nHost: whatever.example\r\nContent-Length: 5\r\n\r\nhello")
    status, body = await publisher.answer()
    assert (status, json.loads(body)["clients"]) == (200, 1)
    assert [event.data for event in await reader.events(1)] == ["hello"]


@pytest.mark.parametrize("leave", ["fin", "rst", "half-close", "silent"])
async def test_whoever_leaves_a_unix_socket_is_counted_out(
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


async def test_a_frozen_reader_of_a_unix_socket_is_cut(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """Its kernel buffer has the size that was set, and its deadline holds."""
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
    """For a network that is shared by a file."""
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


async def test_the_file_of_a_unix_socket_goes_with_the_server(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """When it stops to accept, so that the next can take its place while streams still end."""
    server = await serve(listener=(unix(path, mode="600"),))
    assert path.stat().st_mode & 0o777 == 0o600
    reader = await connect_unix(path)
    await reader.subscribe()
    stopping = asyncio.create_task(server.stop())
    await until(lambda: not path.exists())
    await stopping
    assert b"$close" in await reader.rest()


async def test_a_server_that_was_killed_leaves_nothing_in_the_way(serve: Serve, path: Path) -> None:
    """Its socket refuses, and is replaced."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    await serve(listener=(unix(path),))


async def test_a_unix_socket_of_a_living_server_is_refused(
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
async def test_a_unix_socket_that_cannot_be_is_said_so(
    path: Path, options: dict[str, Any], reason: str
) -> None:
    rule = ListenerRule(**{"host": f"unix:{path}", **options})
    with pytest.raises(ListenError, match=rf"^cannot listen on {re.escape(rule.host)}: ({reason})$"):
        await Server(Config(listener=(rule,))).start()
    assert not path.exists()


# Several.


async def test_each_listener_serves_its_own_endpoints(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """The rest is not there; health is everywhere."""
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


async def test_the_limit_is_of_all_listeners_together(
    serve: Serve, connect_unix: ConnectUnix, path: Path
) -> None:
    """Descriptors are."""
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


async def test_all_listen_or_none(path: Path) -> None:
    """The error names the one that could not, and the others are gone."""
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


async def test_one_port_twice_is_said_so() -> None:
    """Linux lets two bind what only one may listen on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ListenError, match=f"^cannot listen on 127.1 port {port}: address already in use$"):
        await Server(Config(listener=(tcp(port=port), tcp(host="127.1", port=port)))).start()
    assert not answers(port)


async def test_a_certificate_that_is_bad_leaves_nothing_listening(path: Path) -> None:
    with pytest.raises(CertificateError):
        await Server(Config(listener=(unix(path), tcp(certificate="/none.pem")))).start()
    assert not path.exists()


async def test_tls_and_none_side_by_side(serve: Serve, tmp_path: Path) -> None:
    """One for the world, one for the proxy on this machine."""
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


# Its own machine, or others.


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
def test_a_listener_is_local_by_what_it_is_called(host: str, *, local: bool) -> None:
    """Whatever a name is resolved to, only the loopback's own are taken for it."""
    assert is_local(ListenerRule(host=host)) is local


async def test_a_wildcard_is_not_the_loopback(serve: Serve) -> None:
    """Also for a caller that comes by the loopback: it may be a proxy, with the world behind it."""
    server = await serve(host="0.0.0.0")
    (listener,) = server.listeners
    assert not listener.info.loopback
    client = await server.connect()
    assert (await client.ask("GET", "/status"))[0] == 401


# Every address.


@pytest.fixture
def ipv6() -> None:
    """Skip a test on a machine whose loopback has no IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")


def bound(server: LiveServer) -> list[tuple[str, int]]:
    """Return where the sockets of the first listener are, by address and port."""
    return [sock.getsockname()[:2] for sock in server.listeners[0].sockets]


@pytest.mark.parametrize(("host", "url"), [("*", "http://0.0.0.0:{}"), ("::", "http://[::]:{}")])
@pytest.mark.usefixtures("ipv6")
async def test_every_address_is_listened_on(serve: Serve, host: str, url: str) -> None:
    """Those of IPv4 and of IPv6, at one port, by a socket each."""
    server = await serve(host=host, token=STATIC)
    assert bound(server) == [("0.0.0.0", server.port), ("::", server.port)]
    assert server.urls == (url.format(server.port),)


@pytest.mark.parametrize("host", ["*", "::"])
@pytest.mark.usefixtures("ipv6")
async def test_a_client_of_every_address_is_seen_by_its_own(serve: Serve, host: str) -> None:
    """One of IPv4 as that, and not as `::ffff:127.0.0.1`, which limits would take for another."""
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
async def test_an_address_of_ipv6_may_be_written_as_in_a_url(serve: Serve) -> None:
    server = await serve(host="[::1]", token=STATIC)
    assert bound(server) == [("::1", server.port)]
    assert server.urls == (f"http://[::1]:{server.port}",)


def without_ipv6(monkeypatch: Patch, code: int) -> None:
    """Pretend that this machine has no IPv6: what binds a socket of it fails."""
    bind = socket.socket.bind

    def fail(sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(code, os.strerror(code))
        bind(sock, address)

    monkeypatch.setattr(socket.socket, "bind", fail)


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_a_machine_without_ipv6_has_every_address_of_ipv4(
    serve: Serve, monkeypatch: Patch, code: int
) -> None:
    """For `*`; whoever names `::` wants it, and is told that there is none."""
    without_ipv6(monkeypatch, code)
    server = await serve(host="*", token=STATIC)
    assert bound(server) == [("0.0.0.0", server.port)]
    with pytest.raises(ListenError, match=rf"^cannot listen on :: port 0: {os.strerror(code).lower()}$"):
        await Server(Config(host="::", port=0, token=STATIC)).start()


async def test_a_port_of_ipv6_that_is_taken_is_said_so(monkeypatch: Patch) -> None:
    without_ipv6(monkeypatch, errno.EADDRINUSE)
    with pytest.raises(ListenError, match=r"^cannot listen on \* port 0: address already in use$"):
        await Server(Config(host="*", port=0, token=STATIC)).start()


# Crowds.


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_crowd_comes_in_by_eights(serve: Serve, path: Path, kind: str) -> None:
    """Not by ones: a turn of the loop is a good part of what a connection costs."""
    server = await serve(listener=(unix(path),) if kind == "unix" else (tcp(),))
    crowd, turns = 20 * ACCEPTS, 0
    with ExitStack() as stack:
        for _ in range(crowd):  # the kernel has them all before the loop turns again
            client = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            stack.enter_context(client).connect(str(path) if kind == "unix" else ("127.0.0.1", server.port))
        while server.connections < crowd:
            await asyncio.sleep(0)
            turns += 1
    assert turns <= 20 + 3


async def test_a_socket_that_cannot_be_watched_is_one_that_cannot_be_listened_on(monkeypatch: Patch) -> None:
    server = Server(Config(port=0))

    def exhausted(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    asyncios_own = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
    monkeypatch.setattr(socket.socket, "listen" if asyncios_own else "dup", exhausted)
    with pytest.raises(ListenError, match=r"^cannot listen on 127\.0\.0\.1 port 0: too many open files$"):
        await server.start()
    assert all(sock.fileno() == -1 for listener in server.listeners for sock in listener.sockets)
