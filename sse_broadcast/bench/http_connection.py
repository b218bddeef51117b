"""HTTP on raw sockets: addresses that are resolved once, requests that are encoded once, a parser in C.

A client object per connection would cost a load generator more than the load does.
"""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from sse_broadcast.bench.histogram import BENCH_EXTRA_NEEDED
from sse_broadcast.errors import ClientError, ExtraError
from sse_broadcast.unix_address import unix_path

if TYPE_CHECKING:
    from httptools import HttpResponseParser

AnyProtocol = TypeVar("AnyProtocol", bound=asyncio.Protocol)

LOAD_CONNECT_TIMEOUT = 10.0
"""Seconds that a connection may take."""

SMALL_RECEIVE_BUFFER = 4096
"""Bytes the kernel may hold for a frozen subscriber, so that the server notices it soon."""

_NO_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Callbacks(Protocol):
    """What the parser calls."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""

    def on_headers_complete(self) -> None:
        """Note that the head is complete."""

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, without its chunked coding."""

    def on_message_complete(self) -> None:
        """Note that the response is complete."""


def new_parser(callbacks: Callbacks) -> "HttpResponseParser":
    """Return a parser of responses. Raises `ExtraError` where the library is not installed."""
    try:
        from httptools import HttpResponseParser  # noqa: PLC0415 - an extra
    except ImportError:
        raise ExtraError(BENCH_EXTRA_NEEDED) from None
    return HttpResponseParser(callbacks)


def parse_failure() -> type[Exception]:
    """Return what a parser raises for bytes that are no HTTP."""
    from httptools import HttpParserError  # noqa: PLC0415 - an extra

    return HttpParserError


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a URL points: the socket's family and address, and TLS if it has it."""

    family: socket.AddressFamily
    where: tuple[str, int] | str
    host: str
    """For the Host header, with the port where it is no default."""
    server_name: str
    tls: ssl.SSLContext | None

    @property
    def port(self) -> int | None:
        """The TCP port; None of a UNIX socket."""
        return self.where[1] if isinstance(self.where, tuple) else None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        if isinstance(self.where, str):
            return True
        return self.where[0].startswith("127.") or self.where[0] == "::1"

    async def open_socket(self, *, frozen: bool = False) -> socket.socket:
        """Return a connected socket. Raises `OSError`, `TimeoutError`."""
        sock = socket.socket(self.family)
        try:
            sock.setblocking(False)
            if frozen:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RECEIVE_BUFFER)
            if self.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(LOAD_CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, self.where)
        except BaseException:
            sock.close()
            raise
        return sock

    async def connect(self, make: Callable[[], AnyProtocol], *, frozen: bool = False) -> AnyProtocol:
        """Open a connection with a protocol of its own. Raises `OSError`, `TimeoutError`."""
        sock = await self.open_socket(frozen=frozen)
        name = self.server_name if self.tls is not None else None
        try:
            async with asyncio.timeout(LOAD_CONNECT_TIMEOUT):
                _, protocol = await asyncio.get_running_loop().create_connection(
                    make, sock=sock, ssl=self.tls, server_hostname=name
                )
        except BaseException:
            sock.close()
            raise
        return protocol


async def resolve(url: str, tls: ssl.SSLContext | None = None) -> PeerAddress:
    """Return where a URL points. Raises `ClientError` for a host that nobody knows."""
    path = unix_path(url)
    if path is not None:
        return PeerAddress(socket.AF_UNIX, path, "localhost", "localhost", None)
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    name = parts.hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ClientError(f"cannot reach {parts.scheme}://{parts.netloc}: no such host") from None
    family, where = await _first_that_answers(found)
    context = (tls or ssl.create_default_context()) if secure else None
    host = parts.netloc.rpartition("@")[2]
    return PeerAddress(family, (str(where[0]), int(where[1])), host, name, context)


Found = Iterable[tuple[int, int, int, str, tuple[Any, ...]]]
"""What getaddrinfo returns."""


async def _first_that_answers(found: Found) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Return the first address that takes a connection, or the first of all: `localhost` is two addresses."""
    choices = [(socket.AddressFamily(family), where) for family, _, _, _, where in found]
    for family, where in choices if len(choices) > 1 else ():
        with socket.socket(family) as sock, contextlib.suppress(OSError, TimeoutError):
            sock.setblocking(False)
            async with asyncio.timeout(LOAD_CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, where)
            return family, where
    return choices[0]


def encode_request(
    method: str, target: str, address: PeerAddress, headers: Mapping[str, str], body: bytes | None = None
) -> bytes:
    """Return the bytes of a request. Raises `ClientError` for a header with a control character."""
    said = {"Host": address.host, "User-Agent": "sse-broadcast bench", **headers}
    if body is not None:
        said["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items())]
    if any(map(_NO_HEADER.search, lines)):
        raise ClientError("a header, or the URL, has a control character")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")
