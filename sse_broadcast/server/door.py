"""The door: connections are counted as they come, and turned away while there is still room to say so.

At the descriptor limit the accept loop itself fails, for everyone. So a limit of connections
stands below it, and the space between is for those that are told to come back later: read just
far enough to tell a browser from a program, answered, and closed. So are those of an address
that has as many as it may. Who asks whether the server is alive, or ready, is told the truth there too.
"""

import asyncio
import functools
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

from aiohttp import web

from sse_broadcast.count import Count
from sse_broadcast.server import address, problem
from sse_broadcast.server.answers import TYPED
from sse_broadcast.server.attendance import Attendance, Refused
from sse_broadcast.server.connection import Connection, Patience, Place
from sse_broadcast.server.cors import Cors
from sse_broadcast.server.health import examined
from sse_broadcast.server.last_event_id import brought_in_head
from sse_broadcast.server.readiness import Readiness
from sse_broadcast.server.refusal import RefusalReason, refused_stream, wants_event_stream
from sse_broadcast.server.sink import limit_kernel

logger = logging.getLogger(__name__)

LOBBY = 24
"""Connections that may be on their way out at one time. One more, and another is cut: the first of those
that were answered, or else the first. So a health check, which asks at once, is answered in any crowd."""

ACCEPTS = 8
"""Connections that are accepted from one socket in one turn of the loop, before any of them is counted."""

OWN_DESCRIPTORS = 64
"""Descriptors for everything else: the loop, logs, files, those by which uvloop listens to the first socket
of ours, and its accepts that are not counted yet."""

PATIENCE = 2.0
"""Seconds a refused client has to send its request, and then to take the answer."""

HEAD_LIMIT = 8192
"""Bytes of a refused request that are looked at."""

TOLD = 60.0
"""Seconds in which the log says once that connections are refused: each would be a line for an attacker."""


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
    return max(1, descriptors - LOBBY - OWN_DESCRIPTORS - others)


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many connections are let in: in all, and of one address, where 0 is any number.

    `excepted` tells of an address whether it may have any number: that of a proxy, which brings everyone.
    """

    connections: int
    per_address: int
    excepted: Callable[[str], bool]


class Door:
    """Lets connections in while there is room, and turns them away when there is none: the same for all.

    It is shut until `open`, which is called again when there is to be more room, or less.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        attendance: Attendance,
        patience: Patience,
        readiness: Readiness,
    ) -> None:
        self._server = server
        self._readiness = readiness
        self._attendance = attendance
        self._patience = patience
        self._lobby: dict[Refusal, None] = {}  # in the order in which they came
        self._told: dict[Refused, float] = {}
        self.is_shut = False
        """Whether the server has ended."""

    def open(self, capacity: Capacity, cors: Cors) -> None:
        """Let in so many from now on, and tell pages of these origins why there are no more."""
        self._capacity = capacity
        self._cors = cors

    def shut(self) -> None:
        """Abort the connections that are being refused, and from now on each new one."""
        self.is_shut = True
        for refused in list(self._lobby):
            refused.cut()

    def receive(self, place: Place, peer: str | None) -> "Connection | Refusal":
        """Give the protocol of a connection that was just accepted.

        It is counted already; one that never gets as far as `connection_made` must be told to `leave`.
        `peer` is its address, if it has one.
        """
        key = None if place.loopback else self._key(peer)
        if self._attendance.count >= self._capacity.connections:
            return self._refuse(Refused.FULL, peer)
        if key is not None and self._attendance.of(key) >= self._capacity.per_address:
            return self._refuse(Refused.ADDRESS, peer)
        return Connection(
            self._server, place=place, attendance=self._attendance, patience=self._patience, key=key
        )

    def count_failure(self) -> None:
        """Count a connection with which TLS was not agreed upon."""
        self._attendance.metrics.refused(Refused.HANDSHAKE)

    def _key(self, peer: str | None) -> str | None:
        if not self._capacity.per_address:
            return None
        key = address.key(peer)
        return None if key is None or self._capacity.excepted(cast("str", peer)) else key

    def _refuse(self, reason: Refused, peer: str | None) -> "Refusal":
        self._attendance.metrics.refused(reason)
        now = asyncio.get_running_loop().time()
        if now - self._told.get(reason, -TOLD) >= TOLD:
            self._told[reason] = now
            self._log(reason, peer)
        if len(self._lobby) >= LOBBY:
            next((guest for guest in self._lobby if guest.answered), next(iter(self._lobby))).cut()
        return Refusal(
            self._lobby,
            functools.partial(refusal, reason=reason, cors=self._cors, readiness=self._readiness),
        )

    def _log(self, reason: Refused, peer: str | None) -> None:
        if reason is Refused.FULL:
            facts = {"connections": Count(self._capacity.connections, "connection")}
            logger.warning("full: %(connections)s, more are refused", facts)
        else:
            most = Count(self._capacity.per_address, "connection")
            hint = "if it is a proxy, trusted_proxies must name it"
            logger.warning(
                "%(address)s: %(connections)s, more are refused; %(hint)s",
                {"address": peer, "connections": most, "hint": hint},
            )


class Arrival(asyncio.Protocol):
    """Whoever was just accepted from a socket, for as long as it takes to see whether they may come in.

    It keeps nothing of a connection, and so is one for all. `send_buffer` is for the sockets that do not
    have it from the one that listens, 0 for the others.
    """

    __slots__ = ("_door", "_place", "_send_buffer")

    def __init__(self, door: Door, place: Place, *, send_buffer: int) -> None:
        self._door = door
        self._place = place
        self._send_buffer = send_buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        if self._door.is_shut:
            # The loop had accepted it when its listener closed, and nobody else would ever close it.
            cast("asyncio.Transport", transport).abort()
            return
        if self._send_buffer:
            limit_kernel(transport.get_extra_info("socket"), self._send_buffer)
        peer = None if self._place.loopback else host_of(transport.get_extra_info("peername"))
        guest = self._door.receive(self._place, peer)
        transport.set_protocol(guest)
        guest.connection_made(transport)


class Refusal(asyncio.Protocol):
    """One connection that is answered with "later" and closed.

    It is in the lobby from its making until `leave`, which its end calls too. `answer` gives the whole
    answer to a head.
    """

    def __init__(self, lobby: "dict[Refusal, None]", answer: Callable[[bytes], bytes]) -> None:
        self._lobby = lobby
        self._answer = answer
        self._head: bytes | None = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.abandon: Callable[[], object] | None = None
        """What ends it before it has begun; whoever is still agreeing upon TLS says so."""
        lobby[self] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._transport is None or self._head is None:
            return
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > HEAD_LIMIT:
            self._transport.write(self._answer(self._head[:HEAD_LIMIT]))
            self._head = None
            # Half of the close now, the other half when the client has read: a close with
            # unread bytes in the kernel would be a reset, and take the answer with it.
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See `asyncio.Protocol`."""
        self.leave()

    @property
    def begun(self) -> bool:
        """Whether its end will be told to it."""
        return self._transport is not None

    @property
    def answered(self) -> bool:
        """Whether all that is left for it to do is to take its answer."""
        return self._head is None

    def cut(self) -> None:
        """Make room for another at once. What the kernel has of an answer is still sent."""
        end = self.abandon if self._transport is None else self._transport.abort
        if end is not None:
            end()
        self.leave()

    def leave(self) -> None:
        """Make room for another. Any call but the first does nothing."""
        self._lobby.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()


TOLD_WHY = {
    Refused.FULL: (503, "connection limit reached (max_connections)", RefusalReason.FULL),
    Refused.ADDRESS: (
        429,
        "connection limit of this address reached (max_connections_per_address)",
        RefusalReason.ADDRESS,
    ),
}
"""The status and the detail that a program is told, and the reason that a subscriber is."""


def refusal(head: bytes, *, reason: Refused, cors: Cors, readiness: Readiness) -> bytes:
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


def _later(sent: dict[str, str], target: str, reason: Refused) -> tuple[int, dict[str, str], bytes]:
    status, detail, told = TOLD_WHY[reason]
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
