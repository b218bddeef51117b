"""One HTTP connection of a listener: which listener accepted it, its count, and its timeouts."""

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import EMPTY_PAYLOAD, HttpVersion, HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.http import HttpProcessingError, RawRequestMessage

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
"""Seconds after an answer in which the next request must be whole, however many of its bytes have come:
longer than the 60 of the load balancers in front, and than the 10 in which aiohttp reads the rest of a body
that nobody wants."""

MOST_HEAD = 65_536
"""Bytes of a head, and of one of its lines, beyond which a connection is cut."""

MAX_HEAD = 32_768
"""Bytes of a head that is answered. A browser's has two thousand, cookies and all."""

HTTP_2 = b"PRI * HTTP/2.0\r\n\r\n"
"""How a client begins that takes the server to speak HTTP/2 (RFC 9113, 3.4)."""

HTTP_1_1_REQUIRED = (
    b"\0\0\0\4\0\0\0\0\0"  # SETTINGS, as any server must begin
    b"\0\0\4\3\0\0\0\0\1\0\0\0\r"  # RST_STREAM of the first request: error 0xd
    b"\0\0\x08\7\0\0\0\0\0\0\0\0\1\0\0\0\r"  # GOAWAY, likewise
)
"""The answer to it, as frames of HTTP/2: "use HTTP/1.1" (RFC 9113, 7)."""

OPTIONS: Mapping[str, Any] = {
    "keepalive_timeout": 0.0,  # a timer for each; `ConnectionTimeouts` has one for all
    "tcp_keepalive": False,  # handed down by the listening socket
    "auto_decompress": False,
    # The limits of http-api.md are lower: what is above them is told as a problem, with CORS headers.
    "max_line_size": MOST_HEAD,
    "max_field_size": MOST_HEAD,
    "access_log": None,
    "logger": http_logger(),
}
"""What aiohttp is told about each connection."""

SUPPORTED_VERSIONS = (HttpVersion11, HttpVersion10)

PROGRESS = 65_536
"""Bytes of its answer that a reader must take in each period of the write timeout."""


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """Where a connection came in: what is served there, and who can be at the other end."""

    endpoints: frozenset[Endpoint]
    loopback: bool
    """Whether only this machine can reach it, by the loopback or by a UNIX socket."""
    unix: bool

    private: bool = field(init=False, compare=False)
    """Whether it is an operators' listener: one that serves no subscribers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "private", Endpoint.SUBSCRIBE not in self.endpoints)


ALL_ENDPOINTS = frozenset(Endpoint)


class ConnectionTimeouts:
    """How long connections may keep us waiting, in seconds.

    `head` is for a new one to ask something; `answer` for one that has stopped taking its answer; `idle`
    for one that has been answered to ask again.
    """

    def __init__(self, *, head: float, answer: float) -> None:
        self.head = Timeouts[Connection](head, Connection.on_head_timeout)
        self.answer = Timeouts[Connection](answer, Connection.on_write_timeout)
        self.idle = Timeouts[Connection](KEEP_ALIVE, Connection.on_idle_timeout)

    def close(self) -> None:
        """Wait for nobody any more."""
        for each in (self.head, self.answer, self.idle):
            each.close()

    def forget(self, connection: "Connection") -> None:
        """Wait for this one no more."""
        for each in (self.head, self.answer, self.idle):
            each.discard(connection)


class Streaming(Protocol):
    """What writes a stream to a connection, and sleeps while it lasts."""

    def fill(self) -> None:
        """Take note that the transport is full."""

    def close(self) -> None:
        """Take note that the stream is over."""


class Connection(RequestProtocol):
    """aiohttp's protocol of a connection, with its listener, its count and its timeouts.

    It is counted from its construction until `release`, which the end of the connection calls. So call
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

    def __init__(  # noqa: PLR0913 - what it is counted by
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
        """Whether so much has come at one time that a head may have been longer than `MAX_HEAD`."""
        self.stream: Streaming | None = None
        """What hears that the transport is full, and that it is lost, if a stream is written to it."""
        self._connection_counts = connection_counts
        self.timeouts = timeouts
        self._key = key
        self._once = once
        self.keepalive_timer = NO_KEEPALIVE_TIMER
        self._body: StreamReader = EMPTY_PAYLOAD  # of the last request that has come
        self._answered: StreamReader = EMPTY_PAYLOAD  # of the last that was answered
        self._head = 0
        self._last = False
        self._unsent = 0
        self._counted = True
        connection_counts.add(key, private=listener_info.private)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.timeouts.head.add(self)

    def data_received(self, data: bytes) -> None:  # noqa: C901 - in one piece: each request comes by here
        """See `asyncio.Protocol`."""
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
        """Answer a client of HTTP/2 with a refusal that names HTTP/1.1, and read nothing more."""
        self._connection_counts.metrics.refused(RejectReason.MALFORMED)
        self._last = True
        assert self.transport is not None
        self.transport.write(HTTP_1_1_REQUIRED)
        # The client closes when it has read that. A close with unread bytes would be a reset, and take the
        # answer with it; one that does not close is cut as silent.
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
            self._last = True
            self.queued.clear()
            # aiohttp may have paused it for what has just been dropped.
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
        """Have whoever reads a body know that it is broken.

        aiohttp puts what its parser found behind the request that is being answered, and that one would
        wait for the rest of its body: nothing else can come behind a body that is not whole.
        """
        bodies = [body for _, body in self.queued][:-1]
        if self.current_request is not None:
            bodies.append(self.current_request.content)
        for body in bodies:
            if not body.is_eof() and body.exception() is None:
                self._connection_counts.metrics.refused(RejectReason.MALFORMED)
                body.set_exception(web.RequestPayloadError("is not in chunks, as Transfer-Encoding says"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        if self.stream is not None:
            # Its handler is told to end. To cancel it costs a quarter more.
            self.stream.close()
            self.handler_task = None
        elif self._body is self._answered and not self._body.is_eof():
            # aiohttp is reading the rest of a body that no handler wanted. Let that end too: if it is
            # cancelled, task, exception and frame are a reference cycle.
            self._body.feed_eof()
            self.handler_task = None
        super().connection_lost(exc)
        self.release()

    def release(self) -> None:
        """Stop counting it and waiting for it. Any call but the first does nothing."""
        if self._counted:
            self._counted = False
            self._connection_counts.remove(self._key, private=self.listener_info.private)
            self.timeouts.forget(self)
            # Bodies refer to their connection: break the cycle, since the collector runs seldom.
            self._body = self._answered = EMPTY_PAYLOAD

    def on_head_timeout(self) -> None:
        """Be cut for not having asked anything in time."""
        self._cut(RejectReason.SILENT)

    def on_idle_timeout(self) -> None:
        """Be closed for not having asked anything more in time.

        What has come whole by then is answered, and its time begins anew behind that.
        """
        if self.next_request is not None and not self.next_request.done():
            self.force_close()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        self._unsent = self._size()
        self.timeouts.answer.add(self)
        if self.stream is not None:
            self.stream.fill()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        self.timeouts.answer.discard(self)

    def on_write_timeout(self) -> None:
        """Be cut for taking next to nothing of an answer, or be given as long again for the rest of it."""
        before, self._unsent = self._unsent, self._size()
        if before - self._unsent < PROGRESS:
            self._cut(RejectReason.STALLED)
        else:
            self.timeouts.answer.add(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """See `web.RequestHandler`. What has no path is found by no route: `CONNECT x:1`, `OPTIONS *`."""
        if isinstance(resp, web.HTTPException):
            resp.__traceback__ = None  # whose frames have the request, which has it
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
        """Return the answer to what is no HTTP, counted and not repeated; the rest is aiohttp's."""
        if isinstance(exc, HttpProcessingError):
            self._connection_counts.metrics.refused(RejectReason.MALFORMED)
            message = fault_of(exc)
            forget_targets()  # of one that is none no request is made, which would have it forgotten
        elif isinstance(exc, ConnectionError) and (self.transport is None or self.transport.is_closing()):
            raise exc  # it left while it was written to, and aiohttp knows that for no fault of ours
        elif has_no_route(request):
            return no_path_response(request)  # aiohttp's own answer to its Expect cannot say what is no UTF-8
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
    """Have a request answered in a version we speak, and give the one it said if it is another.

    The parser takes 0.9 and 2.0 too, and aiohttp begins its answer with what the request said.
    """
    if request.version in SUPPORTED_VERSIONS:
        return None
    said = request.version
    set_request_version(request, HttpVersion10)
    return said


def no_path_response(request: web.BaseRequest) -> web.Response:
    """Return the answer to a request that no route is for, which there is for every path."""
    answer_as_http_1_0(request)
    response = answer(Problem(404, f"{request.method} needs a path here", closes=True))
    sign(response)
    return response


def listener_of(request: web.BaseRequest) -> ListenerInfo:
    """Return where a request came in.

    In an application that another server runs, everything is served; the address that was called tells
    whether it was the loopback's.
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
