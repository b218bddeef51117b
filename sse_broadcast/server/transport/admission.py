"""Admission of connections: count each one when it is accepted, and admit or reject it.

At the descriptor limit `accept` itself fails, for every client. So the connection limit is lower, and the
descriptors in between serve rejected connections, which get an answer (see `rejection`). A connection beyond
the limit of its address is rejected too. A caller with `admin` is admitted beyond the limit, for one request.
"""

import asyncio
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from aiohttp import web

from sse_broadcast.metrics import Share
from sse_broadcast.quantity import Quantity
from sse_broadcast.reminder import Reminder
from sse_broadcast.server.http import client_address
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.http.health import Readiness
from sse_broadcast.server.transport.connection import MAX_HEAD, Connection, ConnectionTimeouts, ListenerInfo
from sse_broadcast.server.transport.counts import ConnectionCounts, RejectReason
from sse_broadcast.server.transport.rejection import (
    RejectionProtocol,
    rejection_response,
    token_of_admin_request,
)
from sse_broadcast.server.transport.reserve import MAX_LET_IN, MAX_REJECTING, Pending, Reserve
from sse_broadcast.server.transport.socket_options import limit_kernel

logger = logging.getLogger("sse_broadcast.connections")

ACCEPTS = 8
"""Connections accepted from one socket in one turn of the loop, before any of them is counted."""

OWN_DESCRIPTORS = 64
"""Descriptors for everything else: the loop, logs, files, uvloop's duplicates of the first listening socket,
and accepted connections that are not counted yet."""

PRIVATE_PART = 16
"""One connection in 16 is reserved for private listeners, if there are any."""

MAX_PRIVATE_SHARE = 256
"""Maximum number of connections reserved for private listeners."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1_048_576
    if soft == resource.RLIM_INFINITY or soft >= hard:
        return min(soft, hard) if soft != resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def room(descriptors: int, *, sockets: int) -> int:
    """Return how many connections fit under a descriptor limit, for a number of listening sockets."""
    # For each further socket: uvloop's duplicates of it, and connections accepted but not counted yet.
    others = 2 * ACCEPTS * (sockets - 1)
    return max(1, descriptors - MAX_REJECTING - MAX_LET_IN - OWN_DESCRIPTORS - others)


def private_share(connections: int) -> int:
    """Return how many of a number of connections are reserved for private listeners, if there are any."""
    return min(MAX_PRIVATE_SHARE, max(1, connections // PRIVATE_PART), connections - 1)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Maximum connections: in total, of public listeners, and of one address (0: no limit).

    `excepted` returns whether an address is exempt from the last limit: a trusted proxy brings many clients.
    """

    connections: int
    public: int
    per_address: int
    excepted: Callable[[str], bool]


class AdminCheck(Protocol):
    """Checks whether a token has the `admin` permission."""

    def is_admin(self, token: str) -> bool | None:
        """Return whether the token has `admin`, or None if it must be verified first."""

    async def verify_admin(self, token: str) -> bool:
        """Verify a token, and return whether it has `admin`."""


class AdmissionControl:
    """Admits connections up to the limits, and rejects the others. One for all listeners.

    `configure` must be called before the first connection, and again whenever a limit changes.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        connection_counts: ConnectionCounts,
        timeouts: ConnectionTimeouts,
        readiness: Readiness,
    ) -> None:
        self._server = server
        self._readiness = readiness
        self._connection_counts = connection_counts
        self._timeouts = timeouts
        self.reserve = Reserve(self._report_reserve_share)
        self._checks: set[asyncio.Task[None]] = set()
        self._reminder = Reminder()  # a line for each rejection would let a client flood the log
        self.is_closed = False
        """Whether `close` was called."""

    def configure(self, limits: ConnectionLimits, cors: Cors, admins: AdminCheck) -> None:
        """Set the limits, the origins whose pages may read a rejection, and the check for `admin`."""
        self._limits = limits
        self._cors = cors
        self._admins = admins

    async def close(self) -> None:
        """Abort the connections in the reserve, and abort each new connection from now on."""
        self.is_closed = True
        self.reserve.close()
        await asyncio.gather(*self._checks, return_exceptions=True)

    def admit(self, listener_info: ListenerInfo, peer: str | None) -> Connection | RejectionProtocol:
        """Return the protocol of a connection just accepted from `peer`, or from a UNIX socket for None.

        The connection is counted already: call `connection_made` in the same turn of the loop.
        """
        key = None if listener_info.loopback else self._key(listener_info, peer)
        reason = self._reject_reason(listener_info, key)
        if reason is not None:
            return self._reject(reason, listener_info, peer, key)
        return self.connection(listener_info, key)

    def admit_to_handshake(
        self, listener_info: ListenerInfo, peer: str | None
    ) -> "HandshakeProtocol | RejectionProtocol":
        """Return the protocol of a connection just accepted that starts with a TLS handshake.

        The connection is counted already: call `release` if `connection_made` is never called.
        """
        key = None if listener_info.loopback else self._key(listener_info, peer)
        reason = self._reject_reason(listener_info, key)
        if reason is not None:
            return self._reject(reason, listener_info, peer, key)
        return HandshakeProtocol(self, self._connection_counts, listener_info=listener_info, key=key)

    def connection(self, listener_info: ListenerInfo, key: str | None, *, once: bool = False) -> Connection:
        """Return the protocol of an admitted connection (`Connection`)."""
        return Connection(
            self._server,
            listener_info=listener_info,
            connection_counts=self._connection_counts,
            timeouts=self._timeouts,
            key=key,
            once=once,
        )

    def _reject_reason(self, listener_info: ListenerInfo, key: str | None) -> RejectReason | None:
        counts, limits = self._connection_counts, self._limits
        if counts.count >= limits.connections or (
            not listener_info.private and counts.public >= limits.public
        ):
            return RejectReason.FULL
        if key is not None and limits.per_address and counts.for_address(key) >= limits.per_address:
            return RejectReason.ADDRESS
        return None

    def count_failure(self) -> None:
        """Count a connection whose TLS handshake failed."""
        self._connection_counts.metrics.refused(RejectReason.HANDSHAKE)

    def _key(self, listener_info: ListenerInfo, peer: str | None) -> str | None:
        """Return the key that an address is counted by. Private listeners have keys of their own."""
        key = client_address.key(peer)
        if key is None or self._limits.excepted(cast("str", peer)):
            return None
        return f"private {key}" if listener_info.private else key

    def _reject(
        self, reason: RejectReason, listener_info: ListenerInfo, peer: str | None, key: str | None
    ) -> RejectionProtocol:
        self._connection_counts.metrics.share_reached(Share.CONNECTIONS)
        if self._reminder.is_due(reason):
            self._log(reason, listener_info, peer)
        return RejectionProtocol(self, reason, listener_info=listener_info, key=key)

    def _log(self, reason: RejectReason, listener_info: ListenerInfo, peer: str | None) -> None:
        if reason is RejectReason.FULL:
            most = self._limits.connections if listener_info.private else self._limits.public
            facts = {"connections": Quantity(most, "connection")}
            logger.warning("full: %(connections)s (max_connections), rejecting more", facts)
        else:
            facts = {"connections": Quantity(self._limits.per_address, "connection")}
            hint = "if this is a proxy, add it to trusted_proxies"
            logger.warning(
                "%(address)s: %(connections)s (max_connections_per_address), rejecting more; %(hint)s",
                {**facts, "address": peer, "hint": hint},
            )

    def _report_reserve_share(self, pending: Pending) -> None:
        self._connection_counts.metrics.share_reached(Share.RESERVE)
        if self._reminder.is_due(Share.RESERVE):
            logger.warning(
                "%(address)s: too many connections beyond max_connections, aborting its oldest",
                {"address": pending.key},
            )

    def answer(self, protocol: RejectionProtocol, data: bytes) -> None:
        """Answer or admit a connection beyond the limit whose head is complete."""
        token = token_of_admin_request(data)
        admin = False if token is None else self._admins.is_admin(token)
        if admin is None:
            assert token is not None
            check = asyncio.get_running_loop().create_task(self._verify(protocol, token, data))
            protocol.wait_for(check)
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)
        else:
            self._answer(protocol, data, admin=admin)

    async def _verify(self, protocol: RejectionProtocol, token: str, data: bytes) -> None:
        admin = False
        try:
            admin = await self._admins.verify_admin(token)
        except Exception:
            logger.exception("cannot verify the token of a connection beyond max_connections")
        self._answer(protocol, data, admin=admin)

    def _answer(self, protocol: RejectionProtocol, data: bytes, *, admin: bool) -> None:
        if admin and self._connection_counts.count < self._limits.connections + MAX_LET_IN:
            # For one request only: a proxy may send the requests of other clients on the same connection.
            info, key = protocol.listener_info, protocol.key
            protocol.let_in(lambda: self.connection(info, key, once=True), data)
            return
        if admin:
            self._connection_counts.metrics.share_reached(Share.RESERVE)
            if self._reminder.is_due("admin"):
                most = Quantity(MAX_LET_IN, "connection")
                logger.warning(
                    "callers with admin have %(connections)s beyond max_connections, rejecting more",
                    {"connections": most},
                )
        self.count_refusal(protocol.reason)
        head = data[:MAX_HEAD]
        protocol.refuse(
            rejection_response(head, reason=protocol.reason, cors=self._cors, readiness=self._readiness)
        )

    def count_refusal(self, reason: RejectReason) -> None:
        """Count a connection that was rejected."""
        self._connection_counts.metrics.refused(reason)


class HandshakeProtocol(asyncio.Protocol):
    """The protocol of an admitted connection during its TLS handshake. It is counted until `release`."""

    # It stands in for a `Connection`, which forms a reference cycle with its parser until it ends. After a
    # failed handshake that cycle would stay until the collector runs, and the collector runs seldom.
    __slots__ = ("_admission", "_counted", "_counts", "_key", "_listener_info", "connected")

    def __init__(
        self,
        admission: AdmissionControl,
        counts: ConnectionCounts,
        *,
        listener_info: ListenerInfo,
        key: str | None,
    ) -> None:
        self._admission = admission
        self._counts = counts
        self._listener_info = listener_info
        self._key = key
        self._counted = True
        self.connected = False
        """Whether the handshake is done."""
        counts.add(key, private=listener_info.private)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Replace this protocol by a `Connection`, which takes over its count."""
        self.connected = True
        self.release()
        connection = self._admission.connection(self._listener_info, self._key)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def release(self) -> None:
        """Stop counting the connection. Only the first call has an effect."""
        if self._counted:
            self._counted = False
            self._counts.remove(self._key, private=self._listener_info.private)


class AcceptProtocol(asyncio.Protocol):
    """The protocol of a connection between its accept and its admission.

    It holds no state of a connection, so one object serves a listening socket. `send_buffer` is SO_SNDBUF for
    sockets that do not inherit it from the listening one, 0 for the others.
    """

    __slots__ = ("_admission", "_listener_info", "_send_buffer")

    def __init__(self, admission: AdmissionControl, listener_info: ListenerInfo, *, send_buffer: int) -> None:
        self._admission = admission
        self._listener_info = listener_info
        self._send_buffer = send_buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Replace this protocol by that of an admitted or a rejected connection."""
        if self._admission.is_closed:
            # The loop accepted it just before the listener closed. Nothing else would close it.
            cast("asyncio.Transport", transport).abort()
            return
        if self._send_buffer:
            limit_kernel(transport.get_extra_info("socket"), self._send_buffer)
        peer = None if self._listener_info.loopback else host_of(transport.get_extra_info("peername"))
        protocol = self._admission.admit(self._listener_info, peer)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def host_of(peer: object) -> str | None:
    """Return the address in a socket's name of its peer, or None for a UNIX socket."""
    return cast("str", peer[0]) if isinstance(peer, tuple) else None
