"""TLS handshakes: counted from the accept, uncounted when they fail."""

import asyncio
import errno
import re
import socket
import ssl
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme
from aiohttp.http_parser import HttpRequestParser

from sse_broadcast.config.schema import Overflow
from sse_broadcast.metrics import Share
from sse_broadcast.server.transport import reserve, tls_accept
from sse_broadcast.server.transport.reserve import MAX_REJECTING
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.support import process
from tests.support.asking import bearer
from tests.support.certificates import write_certificate
from tests.support.credentials import caller, static
from tests.support.internals import outboxes_of, web_server_of
from tests.support.memory import held, uncollected
from tests.support.process import Programs
from tests.support.sockets import RawClient, until

programs = pytest.fixture(process.programs)


class HasPort(Protocol):
    """A server, of this process or of another."""

    @property
    def port(self) -> int:
        """Return the port it listens on."""


HELLO = bytes.fromhex("16030100c8010000c40303") + b"\0" * 40
"""The beginning of a handshake."""


@pytest.fixture(scope="module")
def authenticator() -> trustme.CA:
    return trustme.CA()


class Secure:
    """Starts TLS servers, and sends requests to them."""

    def __init__(self, serve: Serve, files: Mapping[str, str], context: ssl.SSLContext) -> None:
        self._serve = serve
        self.files = files
        self.context = context

    async def __call__(self, **settings: Any) -> LiveServer:
        return await self._serve(**self.files, **settings)

    async def open(
        self, server: HasPort, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect with a handshake."""
        return await asyncio.open_connection("127.0.0.1", server.port, ssl=self.context, **options)

    async def send(self, server: HasPort, request: bytes) -> bytes:
        """Send a request, and return all bytes until the server closes."""
        reader, writer = await self.open(server)
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.transport.abort()

    async def ask(self, server: HasPort, path: str = "/status", *, headers: str = "") -> bytes:
        """Send a request that closes the connection, and return the response."""
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        return await self.send(server, head.encode())


@pytest.fixture
def secure(serve: Serve, authenticator: trustme.CA, tmp_path: Path) -> Secure:
    certificate, key = write_certificate(authenticator, tmp_path)
    context = ssl.create_default_context()
    authenticator.configure_trust(context)
    return Secure(serve, {"certificate": certificate, "key": key}, context)


OpenMany = Callable[..., Awaitable[list[RawClient]]]


@pytest.fixture
async def open_many() -> AsyncIterator[OpenMany]:
    """Open connections that send only the given bytes."""
    with ExitStack() as stack:

        async def come(port: int, count: int, *, saying: bytes = b"") -> list[RawClient]:
            clients = [await RawClient.open(port) for _ in range(count)]
            for client in clients:
                stack.callback(client.close)
                await client.send(saying)
            return clients

        yield come


async def test_a_connection_is_admitted_after_its_handshake(secure: Secure) -> None:
    server = await secure()
    for _ in range(20):
        assert (await secure.ask(server)).startswith(b"HTTP/1.1 200 OK\r\n")
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {}


@pytest.mark.parametrize("saying", [b"", HELLO], ids=["silent", "half a hello"])
async def test_a_handshake_counts_as_a_connection(secure: Secure, open_many: OpenMany, saying: bytes) -> None:
    """It does from its accept on: unfinished ones fill the server, and the next client is rejected."""
    server = await secure(max_connections=3)
    clients = await open_many(server.port, 3, saying=saying)
    await until(lambda: server.connections == 3)
    assert (await secure.ask(server)).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    event_stream = "Accept: text/event-stream\r\n"
    later = await secure.ask(server, headers=event_stream)
    assert later.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
    clients[0].close()
    await until(lambda: server.connections == 2)
    assert (await secure.ask(server)).startswith(b"HTTP/1.1 200 OK\r\n")


def is_cut(client: RawClient) -> bool:
    """Return whether a connection without a response has ended."""
    try:
        return client.sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_a_health_check_is_answered_among_many_handshakes(
    secure: Secure, open_many: OpenMany, monkeypatch: Patch
) -> None:
    """Unfinished ones make room for it, also in a full server, and are closed."""
    monkeypatch.setattr(tls_accept, "REJECTION_TIMEOUT", 600.0)
    server = await secure(max_connections=1, head_timeout=600.0)
    clients = await open_many(server.port, 1 + MAX_REJECTING + 5)
    answer = await secure.ask(server, "/healthz")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b'{"status":"alive"}\n')
    assert server.connections == 1
    await until(lambda: sum(map(is_cut, clients)) >= 5)


async def publish_as(secure: Secure, server: HasPort, caller: str) -> bytes:
    """Publish with a caller's token, and return all received bytes."""
    head = f"POST /send/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n{bearer(static(caller))}\r\n"
    return await secure.send(server, f"{head}x".encode())


async def test_an_admin_publishes_among_many_handshakes(secure: Secure, open_many: OpenMany) -> None:
    """It gets in beyond the limit, beside unfinished ones. Then its connection is as any other."""
    callers = (caller("operator", publish=["a"], admin=["*"]), caller("narrow", publish=["a"]))
    server = await secure(max_connections=1, head_timeout=600.0, caller=callers)
    await open_many(server.port, 1 + MAX_REJECTING + 5)
    for _ in range(3):
        answer = await publish_as(secure, server, "operator")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer
    assert b"connection limit reached" in await publish_as(secure, server, "narrow")
    await until(lambda: server.connections == 1)


async def test_handshakes_beyond_the_limit_take_turns(
    secure: Secure, open_many: OpenMany, monkeypatch: Patch
) -> None:
    """The number of signatures is limited by turns. A waiting one is closed after a while."""
    monkeypatch.setattr(reserve, "HANDSHAKE_INTERVAL", 600.0)
    server = await secure(max_connections=1, head_timeout=600.0)
    hello = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        secure.context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1").do_handshake()
    clients = await open_many(server.port, 1 + MAX_REJECTING + 5, saying=hello.read())
    await until(lambda: server.broadcaster.metrics.shares_reached[Share.CONNECTIONS] == MAX_REJECTING + 5)
    assert len(server.admission.reserve) == MAX_REJECTING
    async with asyncio.timeout(5):
        await server.stop()
    signed = 0
    for client in clients:
        with suppress(ConnectionResetError):
            signed += await client.rest() != b""
    assert 1 <= signed <= 2


@pytest.mark.asyncio_loop
async def test_a_tls_connection_has_no_large_buffer(secure: Secure, open_many: OpenMany) -> None:
    """asyncio's own buffer is 256 KiB for each idle connection. uvloop's is untouched memory."""
    server = await secure()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await open_many(server.port, 20)
        await until(lambda: server.connections == 20)
        await asyncio.sleep(0)  # lets the handshakes begin
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 20 < 65_536


async def test_a_failed_handshake_leaves_no_reference_cycle(secure: Secure, open_many: OpenMany) -> None:
    """asyncio's own TLS may: the garbage collector runs seldom."""
    server = await secure()
    with uncollected():
        (client,) = await open_many(server.port, 1, saying=HELLO)
        await until(lambda: server.connections == 1)
        await end(client, "rst")
        await until(lambda: server.connections == 0)
        await until(lambda: not held(HttpRequestParser))


@pytest.mark.parametrize("fail", ["fin", "rst", "half-close", "no TLS", "cut hello", "late"])
async def test_a_failed_handshake_makes_room(secure: Secure, open_many: OpenMany, fail: str) -> None:
    server = await secure(max_connections=2, head_timeout=0.1 if fail == "late" else 600)
    for _ in range(5):
        clients = await open_many(server.port, 2, saying=HELLO if fail == "cut hello" else b"")
        await until(lambda: server.connections == 2)
        for client in clients:
            await end(client, fail)
        await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"handshake": 10}
    assert (await secure.ask(server)).startswith(b"HTTP/1.1 200 OK\r\n")


async def end(client: RawClient, way: str) -> None:
    if way == "rst":
        client.reset()
    elif way == "half-close":
        client.half_close()
    elif way == "no TLS":
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    elif way in {"fin", "cut hello"}:
        client.close()


async def test_a_client_that_leaves_right_after_its_handshake_is_uncounted(secure: Secure) -> None:
    """Its last handshake bytes and its FIN may arrive together."""
    server = await secure()
    for _ in range(20):
        _, writer = await secure.open(server)
        writer.transport.abort()
    await until(lambda: server.connections == 0)


async def test_a_request_behind_the_handshake_is_answered(secure: Secure) -> None:
    """It arrives in the same piece as the end of the handshake."""
    server = await secure()
    secure.context.maximum_version = ssl.TLSVersion.TLSv1_3
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = secure.context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    client = await RawClient.open(server.port)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await client.send(outgoing.read())
            await client.more()
            incoming.write(await client.take(len(client.buffer)))
        else:
            break
    tls.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.send(outgoing.read())
    await client.more()
    while True:
        incoming.write(await client.take(len(client.buffer)))
        try:
            assert tls.read(17) == b"HTTP/1.1 200 OK\r\n"
        except ssl.SSLWantReadError:
            await client.more()
        else:
            break
    client.close()


async def test_a_silent_client_is_closed_after_its_handshake_too(secure: Secure) -> None:
    """`head_timeout` applies after the handshake."""
    server = await secure(head_timeout=0.2)
    reader, writer = await secure.open(server)
    with pytest.raises((ConnectionResetError, ssl.SSLError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.refused == {"silent": 1}
    writer.transport.abort()


async def test_an_old_tls_version_is_refused(secure: Secure) -> None:
    """1.1 is deprecated (RFC 8996)."""
    server = await secure()
    context = secure.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await secure.ask(server)
    context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert (await secure.ask(server)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_stopping_does_not_wait_for_a_handshake(secure: Secure, open_many: OpenMany) -> None:
    server = await secure()
    clients = await open_many(server.port, 5, saying=HELLO)
    await until(lambda: server.connections == 5)
    async with asyncio.timeout(5):
        await server.stop()
    for client in clients:
        with suppress(ConnectionResetError):
            assert await client.rest() == b""
    assert server.connections == 0


async def test_accepting_pauses_without_descriptors(
    secure: Secure, monkeypatch: Patch, caplog: Caplog
) -> None:
    """A connection that closes makes room for those that wait."""
    monkeypatch.setattr(tls_accept, "ACCEPT_PAUSE", 0.05)
    server = await secure()
    accept = socket.socket.accept
    failed: list[socket.socket] = []

    def fail_once(sock: socket.socket) -> tuple[socket.socket, object]:
        if len(failed) < 2:
            failed.append(sock)
            code = errno.ECONNABORTED if len(failed) == 1 else errno.EMFILE
            raise OSError(code, "Too many open files")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", fail_once)
    assert (await secure.ask(server)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert caplog.messages == ["cannot accept connections for a moment: Too many open files"]


FULL = rb".* WARNING sse_broadcast\.connections: full: 144 connections \(max_connections\), rejecting more\n"


async def test_more_handshakes_than_descriptors_do_not_break_it(
    programs: Programs, secure: Secure, open_many: OpenMany
) -> None:
    """With 256 descriptors a subscriber gets its events, and there is room again after them."""
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    options = [f"--{name}={value}" for name, value in secure.files.items()]
    options += ["--log-level", "warning", "--log-format", "text"]
    serving = await programs.serve(*options, "--event-loop", loop, "--head-timeout", "1", descriptors=256)
    assert serving.room == 144
    reader, writer = await secure.open(serving)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\n\n")
    clients = await open_many(serving.port, 400)
    assert re.fullmatch(FULL, await serving.process.error_line())
    for client in clients:
        client.close()
    while not (await secure.ask(serving)).startswith(b"HTTP/1.1 200 OK\r\n"):
        await asyncio.sleep(0.01)
    publisher, publishing = await secure.open(serving)
    publishing.write(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
    assert (await publisher.readline()) == b"HTTP/1.1 200 OK\r\n"
    assert (await reader.readuntil(b"data: hello\n")).endswith(b"data: hello\n")
    for each in (writer, publishing):
        each.transport.abort()


async def test_a_full_subscriber_over_tls_that_reads_again_gets_everything(secure: Secure) -> None:
    """Its backlog waits in its queue, and not in the TLS layer."""
    server = await secure(send_buffer=16_384, queue_size=100_000, queue_bytes=100_000_000)
    reader, writer = await secure.open(server, server_hostname="127.0.0.1", limit=1024)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"\n\n")
    await until(lambda: server.broadcaster.client_count == 1)
    (outbox,) = outboxes_of(server.broadcaster)
    written = 0
    while not outbox.blocked or len(outbox.subscriber) < 20:
        written += 1
        await server.broadcaster.broadcast(f"{written} {'x' * 4000}")
        await asyncio.sleep(0)
    seen = 0
    while seen < written:
        line = await reader.readuntil(b" ")
        if line.endswith(b"data: "):
            seen += 1
            assert await reader.readuntil(b" ") == f"{seen} ".encode()
            await reader.readexactly(4000)
    await until(lambda: not outbox.blocked)
    writer.transport.abort()


async def test_a_frozen_client_over_tls_is_disconnected(secure: Secure) -> None:
    """The unsent bytes grow in no buffer."""
    server = await secure(
        send_buffer=16_384, queue_size=20, heartbeat=3600.0, overflow=Overflow.DROP_OLDEST, write_timeout=0.3
    )
    _, writer = await secure.open(server, server_hostname="127.0.0.1", limit=1024)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: server.broadcaster.client_count == 1)
    # until its several buffers are full too
    while server.connections:
        await server.broadcaster.broadcast("x" * 4000)
        await asyncio.sleep(0)
    assert server.broadcaster.counts.closed == {"stalled": 1}
    assert server.broadcaster.counts.dropped
    writer.transport.abort()


async def test_tls_connections_have_no_delay(secure: Secure) -> None:
    """Nagle's algorithm would keep an event until the one before is acknowledged."""
    server = await secure()
    reader, writer = await secure.open(server)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: server.broadcaster.client_count == 1)
    (found,) = web_server_of(server).connections
    assert found.transport is not None
    sock = found.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    writer.transport.abort()
