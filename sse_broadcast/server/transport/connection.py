"""One HTTP connection of a listener: which listener accepted it, its count, and its timeouts."""

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import EMPTY_PAYLOAD, HttpVersion, HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.http import HttpProcessingError, RawRequestMessage
from typing_extensions import override

from sse_broadcast.config.schema import Endpoint
from sse_broadcast.server.http import client_address
from sse_broadcast.server.http.log import fault_of, http_logger
from sse_broadcast.server.http.problem import Problem, answer
from sse_broadcast.server.http.request_head import forget_targets
from sse_broadcast.server.http.responses import sign
from sse_broadcast.server.transport.aiohttp_internals import (
    NO_KEEPALIVE_TIMER,
    RequestProtocol,
    has_no_route,
    set_request_version,
)
from sse_broadcast.server.transport.counts import ConnectionCounts, RejectReason
from sse_broadcast.timeouts import Timeouts

KEEP_ALIVE = 75.0
"""Seconds between an answer and the end of the next request. Longer than the 60 of common load balancers, and
than the 10 in which aiohttp reads the rest of an unread body."""

MOST_HEAD = 65_536
"""Maximum bytes of a head, and of one of its lines. Beyond it the connection is aborted."""

MAX_HEAD = 32_768
"""Maximum bytes of a head that is answered. A browser's has about 2,000, with its cookies."""

HTTP_2 = b"PRI * HTTP/2.0\r\n\r\n"
"""The first bytes of a client that starts with HTTP/2 without asking (RFC 9113, 3.4)."""

HTTP_1_1_REQUIRED = (
    b"\0\0\0\4\0\0\0\0\0"  # SETTINGS, the first frame of every server
    b"\0\0\4\3\0\0\0\0\1\0\0\0\r"  # RST_STREAM of the first request: error 0xd
    b"\0\0\x08\7\0\0\0\0\0\0\0\0\1\0\0\0\r"  # GOAWAY with the same error
)
"""The answer to HTTP/2, in its frames: HTTP_1_1_REQUIRED (RFC 9113, 7)."""

OPTIONS: Mapping[str, Any] = {
    "keepalive_timeout": 0.0,  # aiohttp has a timer per connection; `ConnectionTimeouts` has one for all
    "tcp_keepalive": False,  # inherited from the listening socket
    "auto_decompress": False,
    # Above the limits of http-api.md: heads beyond those get a problem with CORS headers.
    "max_line_size": MOST_HEAD,
    "max_field_size": MOST_HEAD,
    "access_log": None,
    "logger": http_logger(),
}
"""aiohttp's options of each connection."""

SUPPORTED_VERSIONS = (HttpVersion11, HttpVersion10)

PROGRESS = 65_536
"""Bytes of its answer that a client must read in each period of the write timeout."""


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """Properties of the listener that accepted a connection."""

    endpoints: frozenset[Endpoint]
    loopback: bool
    """Whether only this machine can reach the listener, by a loopback address or a UNIX socket."""
    unix: bool

    private: bool = field(init=False, compare=False)
    """Whether the listener is for operators: it serves no subscribers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "private", Endpoint.SUBSCRIBE not in self.endpoints)


ALL_ENDPOINTS = frozenset(Endpoint)


class ConnectionTimeouts:
    """Time limits of all connections, in seconds.

    `head` is the time for the first request of a connection, `answer` the time for progress of a client that
    has stopped reading, `idle` the time for the next request.
    """

    def __init__(self, *, head: float, answer: float) -> None:
        self.head = Timeouts[Connection](head, Connection.on_head_timeout)
        self.answer = Timeouts[Connection](answer, Connection.on_write_timeout)
        self.idle = Timeouts[Connection](KEEP_ALIVE, Connection.on_idle_timeout)

    def close(self) -> None:
        """Cancel all timeouts."""
        for each in (self.head, self.answer, self.idle):
            each.close()

    def forget(self, connection: "Connection") -> None:
        """Cancel the timeouts of a connection."""
        for each in (self.head, self.answer, self.idle):
            each.discard(connection)


class Streaming(Protocol):
    """The writer of a stream, which sleeps while the stream is open."""

    def fill(self) -> None:
        """Handle that the transport's buffer is full."""

    def close(self) -> None:
        """Handle that the connection is lost."""


class Connection(RequestProtocol):
    """aiohttp's protocol of a connection, with its listener, its count and its timeouts.

    The connection is counted from construction until `release`, which `connection_lost` calls. So call
    `connection_made` in the same turn of the loop. With `once` it is closed after its first answer.
    """

    __slots__ = (
        "_answered",
        "_body",
        "_connection_counts",
        "_counted",
        "_head",
        "_key",
        "_last",
        "_once",
        "_unsent",
        "had_much",
        "listener_info",
        "stream",
        "timeouts",
    )

    def __init__(  # noqa: PLR0913 - everything that counts and limits the connection
        self,
        server: web.Server,
        *,
        listener_info: ListenerInfo,
        connection_counts: ConnectionCounts,
        timeouts: ConnectionTimeouts,
        key: str | None,
        once: bool = False,
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **OPTIONS)
        self.listener_info = listener_info
        self.had_much = False
        """Whether a head may have been longer than `MAX_HEAD`, judged by the bytes received at one time."""
        self.stream: Streaming | None = None
        """The stream written to this connection, if there is one."""
        self._connection_counts = connection_counts
        self.timeouts = timeouts
        self._key = key
        self._once = once
        self.keepalive_timer = NO_KEEPALIVE_TIMER
        self._body: StreamReader = EMPTY_PAYLOAD  # of the last request received
        self._answered: StreamReader = EMPTY_PAYLOAD  # of the last request answered
        self._head = 0
        self._last = False
        self._unsent = 0
        self._counted = True
        connection_counts.add(key, private=listener_info.private)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.timeouts.head.add(self)

    @override
    def data_received(self, data: bytes) -> None:  # noqa: C901 - inlined: it runs for each request
        if self._last:
            return
        if data.startswith(HTTP_2) and not self.request_count:
            self._refuse_http_2()
            return
        if self._head + len(data) > MAX_HEAD:
            self.had_much = True
        count, between = self.request_count, self._body.is_eof()
        super().data_received(data)
        queued = self.queued
        if queued:
            if self.current_request is not None or len(queued) > 1:
                self._tell_of_broken_bodies()
            self._body = queued[-1][1]
            if not isinstance(queued[-1][0], RawRequestMessage):
                self.drop_error_frames()
        elif self.current_request is not None:
            self._body = self.current_request.content
        if self.request_count > count:
            # A head has come: the connection is neither new nor idle any more.
            self.timeouts.head.discard(self)
            self.timeouts.idle.discard(self)
            self._head = 0
        elif between and self._body.is_eof():
            self._add_to_head(len(data))

    def _refuse_http_2(self) -> None:
        """Tell a client of HTTP/2 to use HTTP/1.1, and read nothing more."""
        self._connection_counts.metrics.refused(RejectReason.MALFORMED)
        self._last = True
        assert self.transport is not None
        self.transport.write(HTTP_1_1_REQUIRED)
        # Half-close only: closing with unread bytes would send a reset, and the client would lose the answer.
        # The client closes after reading; one that does not is aborted by the head timeout.
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def keep_alive(self, val: bool) -> None:  # noqa: FBT001 - aiohttp's
        """Be kept after this answer, or not: then nothing is read any more, or kept, of what comes behind.

        A stream lasts, and so would what its reader sends. The end of the connection is still seen, for
        which it must be read from.
        """
        self.keepalive_timer = None  # there is nothing to cancel
        super().keep_alive(val)
        self.keepalive_timer = NO_KEEPALIVE_TIMER
        if not val:
            # The last answer of the connection may be a stream, which lasts. Drop what its client sends
            # meanwhile, or it would collect in memory.
            self._last = True
            self.queued.clear()
            # Reading goes on, or nobody would see the client leave. aiohttp may have paused it because of the
            # requests just dropped.
            if self.transport is not None:
                self.transport.resume_reading()

    def _add_to_head(self, count: int) -> None:
        """Cut a connection whose head has no end. aiohttp bounds its lines, and how many: to a megabyte."""
        self._head += count
        if self._head > MOST_HEAD:
            self._cut(RejectReason.MALFORMED)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        """Read on, if reading was paused.

        aiohttp 3.14 calls this for every body that was read, and then feeds its parser nothing.
        """
        if self.reading_paused:
            super().resume_reading(resume_parser)

    def _tell_of_broken_bodies(self) -> None:
        """Raise an error in handlers that read a broken body."""
        # aiohttp queues the parser's error behind the request being answered, and that request would wait for
        # the rest of its body until body_timeout. Nothing else can follow an incomplete body.
        bodies = [body for _, body in self.queued][:-1]
        if self.current_request is not None:
            bodies.append(self.current_request.content)
        for body in bodies:
            if not body.is_eof() and body.exception() is None:
                self._connection_counts.metrics.refused(RejectReason.MALFORMED)
                body.set_exception(web.RequestPayloadError("is not in chunks, as Transfer-Encoding says"))

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        if self.stream is not None:
            # The handler of a stream ends by itself. Cancelling it costs a quarter more.
            self.stream.close()
            self.handler_task = None
        elif self._body is self._answered and not self._body.is_eof():
            # aiohttp is reading the rest of an unread body. End it instead of cancelling it: cancelled, the
            # task, its exception and its frame form a reference cycle.
            self._body.feed_eof()
            self.handler_task = None
        super().connection_lost(exc)
        self.release()

    def release(self) -> None:
        """Stop counting the connection, and cancel its timeouts. Only the first call has an effect."""
        if self._counted:
            self._counted = False
            self._connection_counts.remove(self._key, private=self.listener_info.private)
            self.timeouts.forget(self)
            # Bodies refer to their connection. Break the reference cycle: the collector runs seldom.
            self._body = self._answered = EMPTY_PAYLOAD

    def on_head_timeout(self) -> None:
        """Abort a connection without a request in time."""
        self._cut(RejectReason.SILENT)

    def on_idle_timeout(self) -> None:
        """Close a connection without a further request in time.

        A request that is complete by then is still answered, and the time starts again after its answer.
        """
        if self.next_request is not None and not self.next_request.done():
            self.force_close()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self._size()
        self.timeouts.answer.add(self)
        if self.stream is not None:
            self.stream.fill()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self.timeouts.answer.discard(self)

    def on_write_timeout(self) -> None:
        """Abort a connection whose client read less than `PROGRESS` bytes, or extend its time."""
        before, self._unsent = self._unsent, self._size()
        if before - self._unsent < PROGRESS:
            self._cut(RejectReason.STALLED)
        else:
            self.timeouts.answer.add(self)

    @override
    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):
            # Targets without a path match no route: `CONNECT x:1`, `OPTIONS *`.
            resp.__traceback__ = None  # its frames hold the request, which holds the response: a cycle
            resp = no_path_response(request)
            forget_targets()
        if self._once:
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        if self.queued:
            self.drop_error_frames()
        if self._counted:
            self._answered = request.content
            self.timeouts.idle.add(self)
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to malformed HTTP, or aiohttp's answer to other errors."""
        if isinstance(exc, HttpProcessingError):
            self._connection_counts.metrics.refused(RejectReason.MALFORMED)
            message = fault_of(exc)
            forget_targets()  # a handled request clears its target itself, but this one is never handled
        elif isinstance(exc, ConnectionError) and (self.transport is None or self.transport.is_closing()):
            raise exc  # the client left while it was written to: aiohttp logs no error for it
        elif has_no_route(request):
            return no_path_response(request)  # aiohttp's answer fails on an Expect that is not UTF-8
        response = super().handle_error(request, status, exc, message)
        sign(response)
        return response

    def _size(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def _cut(self, reason: RejectReason) -> None:
        self._connection_counts.metrics.refused(reason)
        if self.transport is not None:
            self.transport.abort()


def answer_as_http_1_0(request: web.BaseRequest) -> HttpVersion | None:
    """Answer a request as HTTP/1.0 if its version is not supported, and return its own version then."""
    # aiohttp's parser accepts 0.9 and 2.0 too, and its answer starts with the version of the request.
    if request.version in SUPPORTED_VERSIONS:
        return None
    said = request.version
    set_request_version(request, HttpVersion10)
    return said


def no_path_response(request: web.BaseRequest) -> web.Response:
    """Return the answer to a request whose target has no path."""
    answer_as_http_1_0(request)
    response = answer(Problem(404, f"{request.method} needs a path here", closes=True))
    sign(response)
    return response


def listener_of(request: web.BaseRequest) -> ListenerInfo:
    """Return the properties of the listener that a request came in by.

    In an application that another server runs, every endpoint is served, and the local address decides
    whether the request came by the loopback.
    """
    protocol = request.protocol
    if isinstance(protocol, Connection):
        return protocol.listener_info
    name = protocol.sockname
    if isinstance(name, (tuple, list)):
        return _called(name[0])
    return ListenerInfo(ALL_ENDPOINTS, loopback=name is not None, unix=name is not None)


@functools.lru_cache(maxsize=256)
def _called(host: str) -> ListenerInfo:
    return ListenerInfo(ALL_ENDPOINTS, loopback=client_address.is_loopback(host), unix=False)
