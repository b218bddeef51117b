"""GET /events: a stream of what is published."""

import functools
from collections.abc import Mapping

from aiohttp import hdrs, web

from sse_broadcast import wire
from sse_broadcast.auth.access import Action
from sse_broadcast.backends.base import Start
from sse_broadcast.config import Endpoint
from sse_broadcast.delivery import jittered
from sse_broadcast.encoding import NDJSON, Encoding
from sse_broadcast.errors import ClosedError, FullError, SinkClosedError
from sse_broadcast.server.address import key
from sse_broadcast.server.gate import require
from sse_broadcast.server.head import ENDED, EventStream, chunked_head
from sse_broadcast.server.problem import Problem, problem_of
from sse_broadcast.server.roster import ROSTER
from sse_broadcast.server.sessions import Session
from sse_broadcast.server.sink import TransportSink, kernel_timeout, limit_send_buffer
from sse_broadcast.server.state import BROADCASTER, IN_FORCE, SESSIONS, TUNED
from sse_broadcast.server.wish import Wish, read_wish

COME_BACK = 20_000
"""Milliseconds, give or take half, after which a browser that was refused tries again."""

GONE = 499
"""nginx's status for a client that left before its answer; nobody reads it."""


class Events:
    """The handlers of an application's /events: what they need of it they have at hand."""

    def __init__(self, app: web.Application) -> None:
        self._broadcaster = app[BROADCASTER]
        self._in_force = app[IN_FORCE]
        self._roster = app[ROSTER]
        self._sessions = app[SESSIONS]
        self._tuned = app[TUNED]

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Stream to a reader until it leaves or is made to."""
        if request.body_exists:
            raise Problem(400, f"{request.method} {request.path} takes no body", closes=True)
        wish = read_wish(request)
        access = require(request, Action.SUBSCRIBE, wish.interest.channels)
        session = None
        try:
            client = self._require_open(request)
            session = self._sessions.enter(access, address=key(client))
            return await self._stream(request, wish, session, client)
        except Problem as problem:
            return refusal(request, problem)
        except FullError as error:
            return refusal(request, problem_of(error))
        except (ConnectionError, SinkClosedError):
            # The reader is gone: there is nobody to tell, and nothing that failed.
            return web.Response(status=GONE)
        finally:
            if session is not None:
                self._sessions.close(session)

    def _require_open(self, request: web.Request) -> str | None:
        """Raise the `Problem` for which a reader should come back later; give whom a proxy speaks for."""
        if self._broadcaster.closed:
            raise Problem(503, "the server is shutting down")
        setup = self._in_force.setup
        setup.limits.stream()
        return setup.proxies.behind(request)

    async def _stream(
        self, request: web.Request, wish: Wish, session: Session | None, client: str | None
    ) -> web.StreamResponse:
        broadcaster = self._broadcaster
        sink = TransportSink(request, wish.encoding, heartbeat=wish.heartbeat)
        # What is published while the head is on its way is caught up with: the start says from where.
        start = broadcaster.start(wish.interest, wish.cursor)
        given = start if wish.needs_id else None
        opening = broadcaster.opening(wish.interest, wish.encoding, given)
        headers = self._headers(request, wish.encoding, given)
        response: web.StreamResponse = ENDED
        if self._tuned and wish.encoding.chunked:
            sink.begin(chunked_head(wish.encoding.format.content_type, headers), opening)
        else:
            response = await self._begun_by_aiohttp(request, wish, headers, opening)
        try:
            lane = broadcaster.connect(sink, wish.interest, start)
        except (ClosedError, FullError):
            # Since the head was sent, which cannot be taken back: the reader comes again, and is told then.
            await sink.finish()
            return response
        reader = self._roster.enter(request, lane, client)
        # Nothing may be awaited between `connect` and `try`: what is registered is released in
        # `finally`, since a handler that is cancelled raises no Exception.
        try:
            if session is not None:
                session.begin(functools.partial(broadcaster.end, lane))
            await sink.serve(lane.resume)
            await sink.finish()
        finally:
            broadcaster.disconnect(lane)
            self._roster.leave(reader)
        return response

    def _headers(self, request: web.Request, encoding: Encoding, given: Start | None) -> dict[str, str]:
        """Give the headers that this stream has beside those of every stream."""
        headers: dict[str, str] = {}
        self._in_force.setup.cors.tell(request, headers)
        if given is not None and encoding.format is NDJSON.format:
            headers[hdrs.LAST_EVENT_ID] = self._broadcaster.first_id(given)
        return headers

    async def _begun_by_aiohttp(
        self, request: web.Request, wish: Wish, headers: Mapping[str, str], opening: bytes
    ) -> EventStream:
        """Have aiohttp send head and first bytes: in HTTP/1.0, and where another server runs us."""
        config, timeout = self._in_force.setup.config, None
        if not self._tuned:
            limit_send_buffer(request, config.send_buffer)
            timeout = kernel_timeout(config.write_timeout)
        response = EventStream(wish.encoding.format.content_type, timeout=timeout)
        response.headers.extend(headers)
        await response.prepare(request)
        await response.write(opening)
        return response

    async def head(self, request: web.Request) -> web.Response:
        """Answer HEAD: what GET would say of itself, without the stream."""
        response = web.Response(
            headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
        )
        wish = read_wish(request)
        require(request, Action.SUBSCRIBE, wish.interest.channels)
        response.content_type = wish.encoding.format.content_type
        return response


def refusal(request: web.Request, problem: Problem) -> web.StreamResponse:
    """Turn away a reader that should come back.

    Browsers stop for good on any status but 200: an EventSource gets a stream that tells it
    when to return, and ends. Everyone else gets the problem itself: 503, or 429.
    """
    if not wants_event_stream(",".join(request.headers.getall(hdrs.ACCEPT, ()))):
        problem.closes = True
        try:
            raise problem
        finally:
            del problem  # which has this frame
    # The answer does not say so, and is counted all the same: for what it stands for.
    request.app[BROADCASTER].metrics.refused_request(problem.status, Endpoint.SUBSCRIBE)
    response = web.Response(body=wire.opening(jittered(COME_BACK)), headers={"Cache-Control": "no-store"})
    response.content_type = wire.CONTENT_TYPE
    response.force_close()
    return response


def wants_event_stream(accept: str) -> bool:
    """Whether an Accept header names the media type of event streams, as a browser's EventSource does."""
    return wire.CONTENT_TYPE in accept.lower()
