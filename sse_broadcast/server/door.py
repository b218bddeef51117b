"""The door: connections are counted as they come, and turned away while there is still room to say so.

At the descriptor limit the accept loop itself fails, for everyone. So a limit of connections
stands below it, and the space between is for those that are told to come back later: read just
far enough to tell a browser from a program, answered, and closed.
"""

import asyncio
import logging
import resource
from typing import cast

from aiohttp import web

from sse_broadcast import wire
from sse_broadcast.delivery import jittered
from sse_broadcast.server import problem
from sse_broadcast.server.events import COME_BACK, wants_event_stream

logger = logging.getLogger(__name__)

LOBBY = 24
"""Connections that may be on their way out at one time; beyond, they are closed unanswered."""

ACCEPTS = 8
"""Connections asyncio accepts in one turn of its loop, before any of them is counted."""

OWN_DESCRIPTORS = 64
"""Descriptors for everything else: the loop, logs, files, and accepts that are not counted yet."""

HANDSHAKE = 10.0
"""Seconds a TLS handshake may take."""

PATIENCE = 2.0
"""Seconds a refused client has to send its request, and then to take the answer."""

HEAD_LIMIT = 8192
"""Bytes of a refused request that are looked at."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, and give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1_048_576
    if soft == resource.RLIM_INFINITY or soft >= hard:
        return min(soft, hard) if soft != resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def room(descriptors: int) -> int:
    """Give how many connections fit under a limit of descriptors."""
    return max(1, descriptors - LOBBY - OWN_DESCRIPTORS)


class Door:
    """The protocol factory of the listening socket: aiohttp's below `limit` connections, a refusal above."""

    def __init__(self, server: web.Server, *, limit: int) -> None:
        self._server = server
        self._limit = limit
        self._free = limit
        self._lobby: set[Refusal] = set()

    def __call__(self) -> asyncio.Protocol:
        """Give the protocol of a connection that was just accepted."""
        if self._free <= 0:
            # Connections that closed are noticed here and not one by one: while there is
            # room, counting costs nothing.
            self._free = self._limit - len(self._server.connections)
        if self._free > 0:
            self._free -= 1
            return self._server()
        if not self._lobby:
            logger.warning("full: %d connections, more are refused", self._limit)
        return Refusal(self._lobby)


class Refusal(asyncio.Protocol):
    """One connection that is answered with "later" and closed."""

    def __init__(self, lobby: "set[Refusal]") -> None:
        self._lobby = lobby
        self._head: bytes | None = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if len(self._lobby) >= LOBBY:
            transport.abort()
            return
        self._transport = transport
        self._lobby.add(self)
        self._deadline = asyncio.get_running_loop().call_later(PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._transport is None or self._head is None:
            return
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > HEAD_LIMIT:
            self._transport.write(refusal(self._head))
            self._head = None
            # Half of the close now, the other half when the client has read: a close with
            # unread bytes in the kernel would be a reset, and take the answer with it.
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See `asyncio.Protocol`."""
        self._lobby.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()


def refusal(head: bytes) -> bytes:
    """Give the whole answer to a request that meets a full server.

    A browser's EventSource would stop for good at a 503; it gets an empty stream that tells
    it when to come back.
    """
    lines = head.decode("latin-1").split("\r\n")
    accept = ",".join(line for line in lines if line.lower().startswith("accept:"))
    if wants_event_stream(accept):
        body = wire.opening(jittered(COME_BACK))
        first = ["HTTP/1.1 200 OK", f"Content-Type: {wire.CONTENT_TYPE}", "Cache-Control: no-store"]
    else:
        body = problem.body(503, "the server has as many connections as it takes")
        first = [
            "HTTP/1.1 503 Service Unavailable",
            f"Content-Type: {problem.CONTENT_TYPE}",
            f"Retry-After: {problem.RETRY_AFTER}",
        ]
    lines = [*first, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body
