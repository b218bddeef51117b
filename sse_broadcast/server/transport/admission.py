"""The door: connections are counted as they come, and turned away while there is still room to say so.

At the descriptor limit the accept loop itself fails, for everyone. So a limit of connections
stands below it, and the space between is for those that are told to come back later: read just
far enough to tell a browser from a program, answered, and closed. So are those of an address
that has as many as it may. Who asks whether the server is alive, or ready, is told the truth there too.
A caller with `admin` is let in beyond the limit, for one request.
"""

import asyncio
import contextlib
import logging
import os
import re
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import urlsplit

from aiohttp import web

from sse_broadcast.metrics import Share
from sse_broadcast.quantity import Quantity
from sse_broadcast.reminder import Reminder
from sse_broadcast.server.http import client_address, problem
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.http.health import Readiness, examined
from sse_broadcast.server.http.last_event_id import brought_in_head
from sse_broadcast.server.http.refused_stream import RefusalReason, refused_stream, wants_event_stream
from sse_broadcast.server.http.responses import TYPED
from sse_broadcast.server.transport.connection import MAX_HEAD, Connection, ConnectionTimeouts, ListenerInfo
from sse_broadcast.server.transport.counts import ConnectionCounts, RejectReason
from sse_broadcast.server.transport.reserve import MAX_LET_IN, MAX_PENDING, Pending, Reserve
from sse_broadcast.server.transport.socket_options import limit_kernel

logger = logging.getLogger("sse_broadcast.connections")

ACCEPTS = 8
"""Connections that are accepted from one socket in one turn of the loop, before any of them is counted."""

OWN_DESCRIPTORS = 64
"""Descriptors for everything else: the loop, logs, files, those by which uvloop listens to the first socket
of ours, and its accepts that are not counted yet."""

PATIENCE = 2.0
"""Seconds a refused client has to send its request, and then to take the answer."""

PRIVATE_PART = 16
"""One connection of so many is for private listeners alone, where there are such."""

MAX_PRIVATE_SHARE = 256
"""Connections that are kept for them at most: strangers cannot take more places than they find."""

_BEARER = re.compile(rb"\r\nauthorization:[ \t]*bearer[ \t]+([!-~]+)[ \t]*\r\n", re.IGNORECASE)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, and give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1_048_576
    if soft == resource.RLIM_INFINITY or soft >= hard:
        return min(soft, hard) if soft != resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def room(descriptors: int, *, sockets: int) -> int:
    """Give how many connections fit under a limit of descriptors, with so many sockets to listen on."""
    others = 2 * ACCEPTS * (sockets - 1)  # those that listen, as uvloop has them, and those just accepted
    return max(1, descriptors - MAX_PENDING - MAX_LET_IN - OWN_DESCRIPTORS - others)


def private_share(connections: int) -> int:
    """Return how many of so many connections are kept for private listeners, where there are such."""
    return min(MAX_PRIVATE_SHARE, max(1, connections // PRIVATE_PART), connections - 1)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections are let in: in all, by public listeners, and of one address (0 for any number).

    `excepted` tells of an address whether it may have any number: that of a proxy, which brings everyone.
    """

    connections: int
    public: int
    per_address: int
    excepted: Callable[[str], bool]


class AdminCheck(Protocol):
    """Tells whether the bearer of a token has `admin`."""

    def is_admin(self, token: str) -> bool | None:
        """Return whether it has, or None of a token that is yet to be verified."""

    async def verify_admin(self, token: str) -> bool:
        """Verify a token, and return whether its bearer has `admin`."""


class AdmissionControl:
    """Lets connections in while there is room, and turns them away when there is none: the same for all.

    It is shut until `open`, which is called again when there is to be more room, or less.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        connection_counts: ConnectionCounts,
        patience: ConnectionTimeouts,
        readiness: Readiness,
    ) -> None:
        self._server = server
        self._readiness = readiness
        self._connection_counts = connection_counts
        self._patience = patience
        self.reserve = Reserve(self._tell_reserve)
        self._checks: set[asyncio.Task[None]] = set()
        self._reminder = Reminder()  # a line for each would be one for an attacker
        self.is_closed = False
        """Whether the server is ending."""

    def configure(self, capacity: ConnectionLimits, cors: Cors, admins: AdminCheck) -> None:
        """Let in so many from now on, and tell pages of these origins why there are no more.

        `admins` tells who is let in beyond them.
        """
        self._capacity = capacity
        self._cors = cors
        self._admins = admins

    async def close(self) -> None:
        """Abort the connections whose request was not read yet, and from now on each new one."""
        self.is_closed = True
        self.reserve.close()
        await asyncio.gather(*self._checks, return_exceptions=True)

    def admit(self, place: ListenerInfo, peer: str | None) -> "Connection | RejectionProtocol":
        """Give the protocol of a connection that was just accepted.

        It is counted already; one that never gets as far as `connection_made` must be told to `leave`.
        `peer` is its address, if it has one.
        """
        key = None if place.loopback else self._key(place, peer)
        connection_counts, capacity = self._connection_counts, self._capacity
        if connection_counts.count >= capacity.connections or (
            not place.private and connection_counts.public >= capacity.public
        ):
            return self._refuse(RejectReason.FULL, place, peer, key)
        if (
            key is not None
            and capacity.per_address
            and connection_counts.for_address(key) >= capacity.per_address
        ):
            return self._refuse(RejectReason.ADDRESS, place, peer, key)
        return self._connection(place, key)

    def _connection(self, place: ListenerInfo, key: str | None, *, once: bool = False) -> Connection:
        return Connection(
            self._server,
            place=place,
            connection_counts=self._connection_counts,
            patience=self._patience,
            key=key,
            once=once,
        )

    def count_failure(self) -> None:
        """Count a connection with which TLS was not agreed upon."""
        self._connection_counts.metrics.refused(RejectReason.HANDSHAKE)

    def _key(self, place: ListenerInfo, peer: str | None) -> str | None:
        """Return what an address is counted by: for private listeners apart from what strangers use up."""
        key = client_address.key(peer)
        if key is None or self._capacity.excepted(cast("str", peer)):
            return None
        return f"private {key}" if place.private else key

    def _refuse(
        self, reason: RejectReason, place: ListenerInfo, peer: str | None, key: str | None
    ) -> "RejectionProtocol":
        self._connection_counts.metrics.share_reached(Share.CONNECTIONS)
        if self._reminder.is_due(reason):
            self._log(reason, place, peer)
        return RejectionProtocol(self, reason, place=place, key=key)

    def _log(self, reason: RejectReason, place: ListenerInfo, peer: str | None) -> None:
        if reason is RejectReason.FULL:
            most = self._capacity.connections if place.private else self._capacity.public
            facts = {"connections": Quantity(most, "connection")}
            logger.warning("full: %(connections)s (max_connections), more are refused", facts)
        else:
            facts = {"connections": Quantity(self._capacity.per_address, "connection")}
            hint = "if it is a proxy, trusted_proxies must name it"
            logger.warning(
                "%(address)s: %(connections)s (max_connections_per_address), more are refused; %(hint)s",
                {**facts, "address": peer, "hint": hint},
            )

    def _tell_reserve(self, pending: Pending) -> None:
        self._connection_counts.metrics.share_reached(Share.RESERVE)
        if self._reminder.is_due(Share.RESERVE):
            logger.warning(
                "%(address)s: its share of the connections beyond max_connections is reached, the first of"
                " them is cut",
                {"address": pending.key},
            )

    def answer(self, guest: "RejectionProtocol", data: bytes) -> None:
        """Answer a connection beyond the limit, of which a whole head has come, or let it in."""
        token = token_of_admin_request(data)
        admin = False if token is None else self._admins.is_admin(token)
        if admin is None:
            assert token is not None
            check = asyncio.get_running_loop().create_task(self._verify(guest, token, data))
            guest.wait_for(check)
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)
        else:
            self._answer(guest, data, admin=admin)

    async def _verify(self, guest: "RejectionProtocol", token: str, data: bytes) -> None:
        admin = False
        try:
            admin = await self._admins.verify_admin(token)
        except Exception:
            logger.exception("a token could not be verified")
        self._answer(guest, data, admin=admin)

    def _answer(self, guest: "RejectionProtocol", data: bytes, *, admin: bool) -> None:
        if admin and self._connection_counts.count < self._capacity.connections + MAX_LET_IN:
            # One request alone: a proxy may send those of strangers behind it.
            guest.let_in(self._connection(guest.place, guest.key, once=True), data)
            return
        if admin:
            self._connection_counts.metrics.share_reached(Share.RESERVE)
            if self._reminder.is_due("admin"):
                most = Quantity(MAX_LET_IN, "connection")
                logger.warning(
                    "callers with admin have %(connections)s beyond max_connections, more are refused",
                    {"connections": most},
                )
        self.count_refusal(guest.reason)
        head = data[:MAX_HEAD]
        guest.refuse(rejection(head, reason=guest.reason, cors=self._cors, readiness=self._readiness))

    def count_refusal(self, reason: RejectReason) -> None:
        """Count a connection that was not let in."""
        self._connection_counts.metrics.refused(reason)


class AcceptProtocol(asyncio.Protocol):
    """Whoever was just accepted from a socket, for as long as it takes to see whether they may come in.

    It keeps nothing of a connection, and so is one for all. `send_buffer` is for the sockets that do not
    have it from the one that listens, 0 for the others.
    """

    __slots__ = ("_admission", "_place", "_send_buffer")

    def __init__(self, admission: AdmissionControl, place: ListenerInfo, *, send_buffer: int) -> None:
        self._admission = admission
        self._place = place
        self._send_buffer = send_buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        if self._admission.is_closed:
            # The loop had accepted it when its listener closed, and nobody else would ever close it.
            cast("asyncio.Transport", transport).abort()
            return
        if self._send_buffer:
            limit_kernel(transport.get_extra_info("socket"), self._send_buffer)
        peer = None if self._place.loopback else host_of(transport.get_extra_info("peername"))
        guest = self._admission.admit(self._place, peer)
        transport.set_protocol(guest)
        guest.connection_made(transport)


class RejectionProtocol(asyncio.Protocol):
    """One connection beyond the limit, whose head is read. It is told "later" and closed, or let in.

    It is in the reserve from its making until `leave`, which its end calls too. The door answers it.
    """

    def __init__(
        self, admission: AdmissionControl, reason: RejectReason, *, place: ListenerInfo, key: str | None
    ) -> None:
        self._admission = admission
        self._data: bytes | None = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None
        self._counted = False
        self._left = False
        self.reason = reason
        self.place = place
        self.key = key
        self.cancel_handshake: Callable[[], object] | None = None
        """What ends it before it has begun; whoever is still agreeing upon TLS says so."""
        admission.reserve.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(PATIENCE, transport.abort)

    def queue_handshake(self, sock: socket.socket, begin: Callable[[], None]) -> None:
        """Queue the TLS handshake of this connection, which is only a socket until then."""
        self.cancel_handshake = sock.close
        self._deadline = asyncio.get_running_loop().call_later(PATIENCE, self.cut)
        self._admission.reserve.queue_handshake(self, begin)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._transport is None or self._data is None:
            return
        self._data += data
        if b"\r\n\r\n" in self._data or len(self._data) > MAX_HEAD:
            whole, self._data = self._data, None
            self._admission.answer(self, whole)

    def wait_for(self, check: "asyncio.Task[None]") -> None:
        """Read nothing more until its credential is verified. Its deadline holds."""
        assert self._transport is not None
        self._check = check
        self._transport.pause_reading()

    def refuse(self, answer: bytes) -> None:
        """Write the whole answer, and close when the client has read it."""
        self._counted = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._resume()
        transport.write(answer)
        # Half of the close now, the other half when the client has read: a close with
        # unread bytes in the kernel would be a reset, and take the answer with it.
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def let_in(self, connection: Connection, data: bytes) -> None:
        """Be a connection like any other from now on, to which all that has come is given."""
        self._counted = True
        transport = self._transport
        if transport is None or transport.is_closing():
            connection.release()
            return
        self.release()
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
        """See `asyncio.Protocol`."""
        self.release()

    @property
    def connected(self) -> bool:
        """Whether its end will be told to it."""
        return self._transport is not None

    @property
    def answered(self) -> bool:
        """Whether all that is left for it to do is to take its answer."""
        return self._data is None and self._check is None

    def cut(self) -> None:
        """Make room for another at once, unless a whole head has come of a caller that is let in.

        What the kernel has of an answer is still sent.
        """
        self._read_what_came()
        if self._left:
            return
        end = self.cancel_handshake if self._transport is None else self._transport.abort
        if end is not None:
            end()
        self.release()

    def _read_what_came(self) -> None:
        """Read what the kernel has: a burst is accepted in one turn of the loop, and read in the next."""
        transport = self._transport
        if transport is None or self._data is None or self._admission.is_closed or transport.is_closing():
            return
        if transport.get_extra_info("sslcontext") is not None:
            return  # what the kernel has is encrypted
        with contextlib.suppress(OSError):
            self.data_received(os.read(transport.get_extra_info("socket").fileno(), MAX_HEAD))

    def release(self) -> None:
        """Make room for another. Any call but the first does nothing."""
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
"""The status and the detail that a program is told, and the reason that a subscriber is."""


def rejection(head: bytes, *, reason: RejectReason, cors: Cors, readiness: Readiness) -> bytes:
    """Give the whole answer to a request that is not let in.

    A client that asks for an event stream gets one that tells it when to come back.
    """
    method, target = _asked(head)
    sent = _headers(head)
    known = examined(_path(target), readiness) if method in {"GET", "HEAD"} else None
    status, headers, body = _said(known) if known is not None else _later(sent, target, reason)
    cors.tell_origin(sent.get("origin"), headers)
    headers |= {"Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)


def token_of_admin_request(data: bytes) -> str | None:
    """Return the bearer's token of a request that `admin` is let in for; None where there is none.

    Streams are not: those that stay would fill the reserve, which is for requests.
    """
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end or len(head) > MAX_HEAD:
        return None
    found = _BEARER.search(head + b"\r\n")
    if found is None:
        return None
    path = _path(_asked(head)[1])
    return None if path == "/events" or path.startswith("/events/") else found[1].decode()


def _later(sent: dict[str, str], target: str, reason: RejectReason) -> tuple[int, dict[str, str], bytes]:
    status, detail, told = REJECTIONS[reason]
    if wants_event_stream(sent.get("accept", "")):
        headers, block = refused_stream(told, brought=brought_in_head(sent, target.partition("?")[2]))
        return 200, {**headers}, block
    headers = {"Content-Type": problem.CONTENT_TYPE, "Retry-After": problem.RETRY_AFTER, **TYPED}
    return status, headers, problem.body(status, detail)


def _said(response: web.Response) -> tuple[int, dict[str, str], bytes]:
    assert isinstance(response.body, bytes)
    return response.status, {**response.headers, **TYPED}, response.body


def _asked(head: bytes) -> tuple[str, str]:
    """Return the method and the target of a request, as far as it has them."""
    method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    return method, rest.partition(" ")[0]


def _path(target: str) -> str:
    """Give the path of a target, which may be a whole URL (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        return target.partition("?")[0]
    try:
        return urlsplit(target).path
    except ValueError:  # half a bracket
        return ""


def _headers(head: bytes) -> dict[str, str]:
    """Give the headers that a request has, by their names in lower case; one that is repeated as a list."""
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name = name.lower()
        headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
    return headers


def host_of(peer: object) -> str | None:
    """Give the address in what a socket says of its peer, or None of a UNIX socket's."""
    return cast("str", peer[0]) if isinstance(peer, tuple) else None
