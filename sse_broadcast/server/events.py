"""GET /events: a stream of what is published."""

import functools

from aiohttp import hdrs, web

from sse_broadcast import wire
from sse_broadcast.auth.access import Action
from sse_broadcast.config import Endpoint
from sse_broadcast.delivery import jittered
from sse_broadcast.encoding import NDJSON
from sse_broadcast.errors import ClosedError, FullError, SinkClosedError
from sse_broadcast.server.gate import ACCESS, require
from sse_broadcast.server.problem import Problem, problem_of
from sse_broadcast.server.roster import ROSTER
from sse_broadcast.server.sessions import Session
from sse_broadcast.server.sink import (
    EventStream,
    TransportSink,
    kernel_timeout,
    limit_send_buffer,
    prepare_connection,
)
from sse_broadcast.server.state import BROADCASTER, SESSIONS, TUNED, setup_of
from sse_broadcast.server.wish import Wish, read_wish

COME_BACK = 20_000
"""Milliseconds, give or take half, after which a browser that was refused tries again."""

GONE = 499
"""nginx's status for a client that left before its answer; nobody reads it."""


async def events(request: web.Request) -> web.StreamResponse:
    """Stream to a reader until it leaves or is made to."""
    if request.body_exists:
        raise Problem(400, f"{request.method} {request.path} takes no body", closes=True)
    wish = read_wish(request)
    require(request, Action.SUBSCRIBE, wish.interest.channels)
    app = request.app
    session = None
    try:
        session = _enter(request, app)
        return await _stream(request, wish, app, session)
    except Problem as problem:
        return refusal(request, problem)
    except FullError as error:
        return refusal(request, problem_of(error))
    except (ConnectionError, SinkClosedError):
        # The reader is gone: there is nobody to tell, and nothing that failed.
        return web.Response(status=GONE)
    finally:
        if session is not None:
            app[SESSIONS].close(session)


def _enter(request: web.Request, app: web.Application) -> Session | None:
    """Have a reader come in, or raise the `Problem` for which it should come back later."""
    if app[BROADCASTER].closed:
        raise Problem(503, "the server is shutting down")
    setup = setup_of(request)
    setup.limits.stream()
    return app[SESSIONS].enter(request[ACCESS], address=setup.proxies.key_behind(request))


async def _stream(
    request: web.Request, wish: Wish, app: web.Application, session: Session | None
) -> web.StreamResponse:
    broadcaster = app[BROADCASTER]
    prepare_connection(request)
    response = _response(request, wish, app)
    # What is published while the head is on its way is caught up with: the start says from where.
    start = broadcaster.start(wish.interest, wish.cursor)
    if wish.needs_id and wish.encoding.format is NDJSON.format:
        response.headers[hdrs.LAST_EVENT_ID] = broadcaster.first_id(start)
    await response.prepare(request)
    given = start if wish.needs_id else None
    await response.write(broadcaster.opening(wish.interest, wish.encoding, given))
    sink = TransportSink(request, wish.encoding, heartbeat=wish.heartbeat)
    try:
        lane = broadcaster.connect(sink, wish.interest, start)
    except (ClosedError, FullError):
        # Since the head was sent, which cannot be taken back: the reader comes again, and is told then.
        await response.write_eof()
        return response
    reader = app[ROSTER].enter(request, lane)
    # Nothing may be awaited between `connect` and `try`: what is registered is released in
    # `finally`, since a handler that is cancelled raises no Exception.
    try:
        if session is not None:
            session.begin(functools.partial(broadcaster.end, lane))
        await sink.serve(lane.resume)
        await response.write_eof()
    finally:
        broadcaster.disconnect(lane)
        app[ROSTER].leave(reader)
    return response


def _response(request: web.Request, wish: Wish, app: web.Application) -> EventStream:
    content_type = wish.encoding.format.content_type
    setup, timeout = setup_of(request), None
    if not app[TUNED]:
        limit_send_buffer(request, setup.config.send_buffer)
        timeout = kernel_timeout(setup.config.write_timeout)
    response = EventStream(content_type, timeout=timeout)
    setup.cors.tell(request, response.headers)
    return response


async def events_head(request: web.Request) -> web.Response:
    """Answer HEAD: what GET would say of itself, without the stream."""
    response = web.Response(headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"})
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
        raise problem
    # The answer does not say so, and is counted all the same: for what it stands for.
    request.app[BROADCASTER].metrics.refused_request(problem.status, Endpoint.SUBSCRIBE)
    response = web.Response(body=wire.opening(jittered(COME_BACK)), headers={"Cache-Control": "no-store"})
    response.content_type = wire.CONTENT_TYPE
    response.force_close()
    return response


def wants_event_stream(accept: str) -> bool:
    """Whether an Accept header names the media type of event streams, as a browser's EventSource does."""
    return wire.CONTENT_TYPE in accept.lower()
