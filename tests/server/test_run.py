"""The builder: what it binds, what it passes on, and how it stops."""

import asyncio
import errno
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme

from sse_broadcast.config import Config, EventLoop
from sse_broadcast.errors import CertificateError, ConfigError, ListenError
from sse_broadcast.server import run
from sse_broadcast.server.run import KEEP_ALIVE, Server, new_loop, tls_context
from tests.conftest import Connect, Serve
from tests.support.certificates import write_certificate
from tests.support.sockets import RawClient, until


async def test_the_settings_of_connections_arrive(serve: Serve, connect: Connect) -> None:
    """One misspelt keyword would have aiohttp drop them all, with no more than a warning."""
    server = await serve()
    await (await connect(server)).subscribe()
    assert server._runner.server is not None
    (connection,) = server._runner.server.connections
    assert connection.keepalive_timeout == KEEP_ALIVE
    assert connection.access_logger is None
    assert server._runner.server.handler_cancellation


async def test_a_port_in_use_is_said_so(serve: Serve) -> None:
    """Naming the address, and leaving no socket behind."""
    server = await serve()
    with pytest.raises(
        ListenError, match=rf"cannot listen on 127.0.0.1 port {server.port}: address already in use"
    ):
        await Server(Config(port=server.port)).start()


async def test_an_address_that_is_not_ours_is_said_so() -> None:
    """And so is a name that has none."""
    with pytest.raises(ListenError, match=r"cannot listen on 192.0.2.1 port 1: "):
        await Server(Config(host="192.0.2.1", port=1)).start()
    with pytest.raises(ListenError, match=r"cannot listen on nowhere.invalid port 1: "):
        await Server(Config(host="nowhere.invalid", port=1)).start()


async def test_a_name_is_listened_on_at_all_its_addresses(serve: Serve) -> None:
    """`localhost` is 127.0.0.1 and, where there is IPv6, ::1; on one port."""
    server = await serve(host="localhost")
    client = await RawClient.open(server.port)
    assert (await client.ask("GET", "/status"))[0] == 200
    client.close()
    ports = {listener.getsockname()[1] for listener in server._listeners}
    assert ports == {server.port}


async def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    """As RFC 3986 wants them."""
    server = Server(Config(host="::1", port=0))
    try:
        await server.start()
    except ListenError:
        pytest.skip("no IPv6 on this machine")
    assert server.url == f"http://[::1]:{server.port}"
    await server.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_tls_streams_and_cuts_a_frozen_reader(
    serve: Serve, authority: trustme.CA, tmp_path: Path
) -> None:
    """The same guarantees through TLS: events arrive, and a reader that stops is cut."""
    certificate, key = write_certificate(authority, tmp_path)
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
    authority.configure_trust(context)
    async with aiohttp.ClientSession(server.url) as session:
        async with session.get("/events", ssl=context) as response:
            await response.content.readuntil(b"\n\n")
            async with session.post("/send", data="x" * 100_000, ssl=context) as answer:
                id = (await answer.json())["id"]
            frame = f"id: {id}\ndata: {'x' * 100_000}\n\n"
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
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    while server.broadcaster.client_count:
        await server.broadcaster.broadcast("x" * 4000)
        await asyncio.sleep(0.001)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.closed["stalled"] == 1
    writer.transport.abort()


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_certificate_that_cannot_be_loaded_is_named(tmp_path: Path, content: str | None) -> None:
    """A missing file and a wrong one alike."""
    file = tmp_path / "cert.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CertificateError, match=f"certificate: cannot load {file}: "):
        tls_context(Config(certificate=str(file)))


async def test_stopping_ends_the_streams_of_a_thousand_readers(serve: Serve) -> None:
    """Each is told, with a time of its own to come back; the frozen ones are cut in time."""
    server = await serve(shutdown_timeout=2, send_buffer=16_384, overflow="drop-oldest", retry=3000)
    readers = [await RawClient.open(server.port) for _ in range(1000)]
    for reader in readers:
        await reader.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    frozen = await RawClient.open(server.port, receive_buffer=4096)
    await frozen.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: server.broadcaster.client_count == 1001)
    reading = asyncio.gather(*(reader.rest() for reader in readers))
    for _ in range(50):
        await server.broadcaster.broadcast("x" * 4000)
        await asyncio.sleep(0)
    await server.stop()
    ends = [data[data.index(b"event: $close") :] for data in await reading]
    assert all(end.endswith(b'data: {"reason": "drain"}\n\n\r\n0\r\n\r\n') for end in ends)
    assert len({end.split(b"retry: ")[1].split(b"\n")[0] for end in ends}) > 300
    assert server.broadcaster.client_count == 0
    for client in (*readers, frozen):
        client.close()


async def test_stopping_does_not_wait_for_a_body_that_stalls(serve: Serve, connect: Connect) -> None:
    """A publisher in the middle of its body is given its share of the time, and cut."""
    server = await serve(shutdown_timeout=1.0, body_timeout=600)
    client = await connect(server)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    await until(lambda: server.connections == 1)
    async with asyncio.timeout(20):
        await server.stop()
    assert server.broadcaster.counts.published == 0


def test_the_loop_is_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop where it is installed; without it, `auto` does without and `uvloop` says what to install."""
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
    with pytest.raises(ConfigError, match=r"event_loop: uvloop is not installed; pip install"):
        new_loop(EventLoop.UVLOOP)


async def test_a_limit_that_does_not_fit_is_lowered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And said: the descriptors decide."""
    monkeypatch.setattr(run, "raise_descriptor_limit", lambda: 256)
    server = Server(Config(port=0, max_connections=10_000))
    await server.start()
    assert server.room == 168
    assert "max_connections: 10000 do not fit, 168 do" in caplog.text
    await server.stop()


def test_errno_texts_are_lower_case() -> None:
    """Messages of ours begin small."""
    assert run._reason(OSError(errno.EADDRINUSE, "Address already in use")) == "address already in use"
