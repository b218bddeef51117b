"""Rejected connections: read one request head of each, and answer it.

A browser gets a stream that says when to reconnect, any other client a problem with `Retry-After`. Health
checks get the real answer. A caller with `admin` is admitted after all, for one request.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import urlsplit

from aiohttp import web

from sse_broadcast.auth.bearer_token import B64TOKEN
from sse_broadcast.server.http import problem
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.http.health import Readiness, examined
from sse_broadcast.server.http.last_event_id import brought_in_head
from sse_broadcast.server.http.refused_stream import RefusalReason, refused_stream, wants_event_stream
from sse_broadcast.server.http.responses import TYPED
from sse_broadcast.server.transport.connection import MAX_HEAD, Connection, ListenerInfo
from sse_broadcast.server.transport.counts import RejectReason
from sse_broadcast.server.transport.reserve import Reserve

REJECTION_TIMEOUT = 2.0
"""Seconds for a rejected client to send its request, and then to read the answer. Also the time limit of its
TLS handshake."""

_BEARER = re.compile(
    rf"\r\nauthorization:[ \t]*bearer[ \t]+({B64TOKEN})[ \t]*\r\n".encode("ascii"), re.IGNORECASE
)


class Rejecting(Protocol):
    """The part of the admission control that a `RejectionProtocol` needs."""

    reserve: Reserve
    is_closed: bool

    def answer(self, protocol: "RejectionProtocol", data: bytes) -> None:
        """Answer or admit the connection. `data` has a whole head, or more than `MAX_HEAD` bytes."""

    def count_refusal(self, reason: RejectReason) -> None:
        """Count a connection that was rejected."""


class RejectionProtocol(asyncio.Protocol):
    """One connection beyond the limit: its head is read, then it is rejected or admitted.

    It is in the reserve from construction until `release`, which the end of the connection calls too. Its
    admission control answers it.
    """

    def __init__(
        self, admission: Rejecting, reason: RejectReason, *, listener_info: ListenerInfo, key: str | None
    ) -> None:
        self._admission = admission
        self._data: bytes | None = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None
        self._counted = False
        self._left = False
        self.reason = reason
        self.listener_info = listener_info
        self.key = key
        self.cancel_handshake: Callable[[], object] | None = None
        """Ends the connection while it has no transport. The TLS acceptor sets it."""
        admission.reserve.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time limit for the request and the answer."""
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(REJECTION_TIMEOUT, transport.abort)

    def queue_handshake(self, sock: socket.socket, begin: Callable[[], None]) -> None:
        """Queue the TLS handshake of this connection, which is only a socket until then."""
        self.cancel_handshake = sock.close
        self._deadline = asyncio.get_running_loop().call_later(REJECTION_TIMEOUT, self.cut)
        self._admission.reserve.queue_handshake(self, begin)

    def data_received(self, data: bytes) -> None:
        """Collect the head, and pass it on when it is complete or too long."""
        if self._transport is None or self._data is None:
            return
        self._data += data
        if b"\r\n\r\n" in self._data or len(self._data) > MAX_HEAD:
            whole, self._data = self._data, None
            self._admission.answer(self, whole)

    def wait_for(self, check: "asyncio.Task[None]") -> None:
        """Stop reading until the token is verified. The time limit stays."""
        assert self._transport is not None
        self._check = check
        self._transport.pause_reading()

    def refuse(self, answer: bytes) -> None:
        """Write the whole answer, and close after the client has read it."""
        self._counted = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._resume()
        transport.write(answer)
        # Half-close only, until the client closes: closing with unread bytes in the kernel would send a
        # reset, and the client would lose the answer.
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def let_in(self, connect: Callable[[], Connection], data: bytes) -> None:
        """Pass the transport to a `Connection`, with all bytes received so far."""
        self._counted = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self.release()
        connection = connect()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._resume()
        connection.data_received(data)

    def _resume(self) -> None:
        if self._check is not None:
            self._check = None
            assert self._transport is not None
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave the reserve."""
        self.release()

    @property
    def connected(self) -> bool:
        """Whether there is a transport, so that `connection_lost` will be called."""
        return self._transport is not None

    @property
    def answered(self) -> bool:
        """Whether the answer is written and only the client has to read it."""
        return self._data is None and self._check is None

    def cut(self) -> None:
        """End at once to make room for another connection, unless a complete head admits this one.

        The kernel still sends what it holds of an answer.
        """
        self._read_what_came()
        if self._left:
            return
        end = self.cancel_handshake if self._transport is None else self._transport.abort
        if end is not None:
            end()
        self.release()

    def _read_what_came(self) -> None:
        """Read the bytes that the kernel holds."""
        # A burst of connections is accepted in one turn of the loop and read in the next. Without this, the
        # burst would push out an operator whose request has already arrived.
        transport = self._transport
        if transport is None or self._data is None or self._admission.is_closed or transport.is_closing():
            return
        if transport.get_extra_info("sslcontext") is not None:
            return  # the kernel holds encrypted bytes
        with contextlib.suppress(OSError):
            self.data_received(os.read(transport.get_extra_info("socket").fileno(), MAX_HEAD))

    def release(self) -> None:
        """Leave the reserve and cancel what is pending. Only the first call has an effect."""
        self._left = True
        self._admission.reserve.remove(self)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._check is not None and self._check is not asyncio.current_task():
            self._check.cancel()
        if not self._counted:
            self._counted = True
            self._admission.count_refusal(self.reason)


REJECTIONS = {
    RejectReason.FULL: (503, "connection limit reached (max_connections)", RefusalReason.FULL),
    RejectReason.ADDRESS: (
        429,
        "connection limit of this address reached (max_connections_per_address)",
        RefusalReason.ADDRESS,
    ),
}
"""Status and detail for any client, and the close reason for a client of an event stream."""


def rejection_response(head: bytes, *, reason: RejectReason, cors: Cors, readiness: Readiness) -> bytes:
    """Return the whole answer to a rejected request.

    A client that accepts an event stream gets one that tells it when to reconnect.
    """
    method, target = _request_line(head)
    sent = _headers(head)
    known = examined(_path(target), readiness) if method in {"GET", "HEAD"} else None
    status, headers, body = _parts(known) if known is not None else _rejected(sent, target, reason)
    cors.tell_origin(sent.get("origin"), headers)
    headers |= {"Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)


def token_of_admin_request(data: bytes) -> str | None:
    """Return the bearer token of a request that could be admitted for `admin`, or None."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end or len(head) > MAX_HEAD:
        return None
    found = _BEARER.search(head + b"\r\n")
    if found is None:
        return None
    # Streams are not admitted: they stay open, and would fill the reserve, which is for requests.
    path = _path(_request_line(head)[1])
    return None if path == "/events" or path.startswith("/events/") else found[1].decode()


def _rejected(sent: dict[str, str], target: str, reason: RejectReason) -> tuple[int, dict[str, str], bytes]:
    status, detail, close_reason = REJECTIONS[reason]
    if wants_event_stream(sent.get("accept", "")):
        headers, block = refused_stream(close_reason, brought=brought_in_head(sent, target.partition("?")[2]))
        return 200, {**headers}, block
    headers = {"Content-Type": problem.PROBLEM_TYPE, "Retry-After": problem.RETRY_AFTER, **TYPED}
    return status, headers, problem.body(status, detail)


def _parts(response: web.Response) -> tuple[int, dict[str, str], bytes]:
    assert isinstance(response.body, bytes)
    return response.status, {**response.headers, **TYPED}, response.body


def _request_line(head: bytes) -> tuple[str, str]:
    """Return the method and the target of a request; empty strings if the line has none."""
    method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    return method, rest.partition(" ")[0]


def _path(target: str) -> str:
    """Return the path of a target, which may be a whole URL (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        return target.partition("?")[0]
    try:
        return urlsplit(target).path
    except ValueError:  # an unclosed bracket, "http://[::1"
        return ""


def _headers(head: bytes) -> dict[str, str]:
    """Return the headers by lower-case name; repeated ones are joined with commas (RFC 9110, 5.2)."""
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name = name.lower()
        headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
    return headers
