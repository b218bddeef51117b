"""GET /events: a stream of what is published."""

import logging

from aiohttp import hdrs, web

from sse_broadcast import wire
from sse_broadcast.delivery import jittered
from sse_broadcast.encoding import NDJSON
from sse_broadcast.errors import SinkClosedError
from sse_broadcast.server.problem import Problem
from sse_broadcast.server.sink import (
    EventStream,
    TransportSink,
    kernel_timeout,
    limit_send_buffer,
    prepare_connection,
)
from sse_broadcast.server.state import BROADCASTER, CONFIG, TUNED
from sse_broadcast.server.wish import Wish, read_wish

logger = logging.getLogger(__name__)

COME_BACK = 20_000
"""Milliseconds, give or take half, after which a browser that was refused tries again."""

GONE = 499
"""nginx's status for a client that left before its answer; nobody reads it."""


async def events(request: web.Request) -> web.StreamResponse:
    """Stream to a reader until it leaves or is made to."""
    if request.body_exists:
        raise Problem(400, f"{request.method} {request.path} takes no body", closes=True)
    wish = read_wish(request)
    app = request.app
    if app[BROADCASTER].closed:
        return refusal(request, "the server is shutting down")
    try:
        return await _stream(request, wish, app)
    except (ConnectionError, SinkClosedError):
        # The reader is gone: there is nobody to tell, and nothing that failed.
        return web.Response(status=GONE)


async def _stream(request: web.Request, wish: Wish, app: web.Application) -> web.StreamResponse:
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
    lane = broadcaster.connect(sink, wish.interest, start)
    logged = logger.isEnabledFor(logging.DEBUG)  # to name the peer costs a microsecond
    if logged:
        logger.debug("%s: opened", request.remote)
    # Nothing may be awaited between `connect` and `try`: what is registered is released in
    # `finally`, since a handler that is cancelled raises no Exception.
    try:
        await sink.serve(lane.resume)
        await response.write_eof()
    finally:
        broadcaster.disconnect(lane)
        if logged:
            logger.debug("%s: closed, %s", request.remote, lane.subscriber.closed)
    return response


def _response(request: web.Request, wish: Wish, app: web.Application) -> EventStream:
    content_type = wish.encoding.format.content_type
    if app[TUNED]:
        return EventStream(content_type, timeout=None)
    config = app[CONFIG]
    limit_send_buffer(request, config.send_buffer)
    return EventStream(content_type, timeout=kernel_timeout(config.write_timeout))


async def events_head(request: web.Request) -> web.Response:
    """Answer HEAD: what GET would say of itself, without the stream."""
    response = web.Response(headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"})
    response.content_type = read_wish(request).encoding.format.content_type
    return response


def refusal(request: web.Request, detail: str) -> web.StreamResponse:
    """Turn away a reader that should come back.

    Browsers stop for good on any status but 200: an EventSource gets a stream that tells it
    when to return, and ends. Everyone else gets 503.
    """
    if not wants_event_stream(",".join(request.headers.getall(hdrs.ACCEPT, ()))):
        raise Problem(503, detail, closes=True)
    response = web.Response(body=wire.opening(jittered(COME_BACK)), headers={"Cache-Control": "no-store"})
    response.content_type = wire.CONTENT_TYPE
    response.force_close()
    return response


def wants_event_stream(accept: str) -> bool:
    """Whether an Accept header names the media type of event streams, as a browser's EventSource does."""
    return wire.CONTENT_TYPE in accept.lower()
