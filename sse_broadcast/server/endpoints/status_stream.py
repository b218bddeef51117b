"""GET /status as `text/event-stream`: the status each second, for pages that show it."""

import asyncio
import dataclasses
import functools
import time

from aiohttp import web

from sse_broadcast import wire
from sse_broadcast.encoding import TEXT
from sse_broadcast.errors import SinkClosedError
from sse_broadcast.event import Event, jittered
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.fanout.system_events import close_event
from sse_broadcast.server.access.authorization import PRINCIPAL
from sse_broadcast.server.access.shares import Callers, callers_of
from sse_broadcast.server.endpoints.refusal import turn_away
from sse_broadcast.server.http.client_address import key
from sse_broadcast.server.http.problem import Problem, json_line
from sse_broadcast.server.http.refused_stream import RefusalReason
from sse_broadcast.server.http.responses import StatusSample
from sse_broadcast.server.services import (
    BROADCASTER,
    OWN_LISTENER,
    SHARES,
    STATUS_STREAMS,
    STREAM_EXPIRY,
    services_of,
)
from sse_broadcast.server.streams.head import SseResponse
from sse_broadcast.server.streams.sink import TransportSink
from sse_broadcast.server.transport.socket_options import tune_connection
from sse_broadcast.version import __version__

SAMPLE_INTERVAL = 1.0
"""Seconds between two samples."""

StreamEnd = asyncio.Future[CloseReason]


def end_status_streams(app: web.Application) -> None:
    """End every status stream, since the server shuts down."""
    ends: set[StreamEnd] = app[STATUS_STREAMS]
    for end in ends:
        _end(end, CloseReason.DRAIN)


def _end(end: StreamEnd, reason: CloseReason) -> None:
    # A revocation may follow an expiry: the first reason is the one that the client is told.
    if not end.done():
        end.set_result(reason)


async def stream_status(request: web.Request) -> web.StreamResponse:
    """Stream samples until the client leaves, its credential ends or the server shuts down.

    The stream counts for the limits of its caller and of its address, as a subscriber's does. It is no
    subscriber: nothing that is published waits for it.
    """
    app = request.app
    principal = request[PRINCIPAL]
    services = services_of(request)
    client = services.proxies.behind(request)
    callers = callers_of(principal, key(client or request.remote))
    try:
        _require_open(request, callers)
        session = app[STREAM_EXPIRY].track(principal, address=None if client is None else key(client))
    except Problem as problem:
        turn_away(request, problem, request.query)
        raise
    end: StreamEnd = asyncio.get_running_loop().create_future()
    app[STATUS_STREAMS].add(end)
    try:
        if session is not None:
            session.begin(functools.partial(_end, end))
        return await _stream(request, end)
    except SinkClosedError:
        return web.Response(status=499)  # nobody reads it: the client left before its stream began
    finally:
        app[STATUS_STREAMS].discard(end)
        if session is not None:
            app[STREAM_EXPIRY].close(session)


def _require_open(request: web.Request, callers: Callers) -> None:
    """Raise the `Problem` for which the client should come back later."""
    if request.app[BROADCASTER].closed:
        raise Problem(503, "the server is shutting down", reason=RefusalReason.DRAIN)
    if callers is not None:
        request.app[SHARES].open_stream(callers)
        services_of(request).rate_limiter.stream()


async def _stream(request: web.Request, end: StreamEnd) -> web.StreamResponse:
    services = services_of(request)
    config = services.config
    sink = TransportSink(request, TEXT)
    if not request.app[OWN_LISTENER]:
        tune_connection(request, send_buffer=config.send_buffer, write_timeout=config.write_timeout)
    response = SseResponse(TEXT.format.content_type_header)
    services.cors.tell(request, response.headers)
    await response.prepare(request)
    await response.write(wire.preamble(jittered(config.retry)))
    loop = asyncio.get_running_loop()
    taken = loop.time()
    while not (end.done() or sink.gone):
        # A sample that is late is worth nothing: none is queued behind bytes that the peer has not taken.
        if not sink.unsent_bytes:
            taken = loop.time()
            await response.write(wire.encode(Event(_sample(request), json=True), None))
        elif loop.time() - taken > config.write_timeout:
            break
        await asyncio.wait({end}, timeout=SAMPLE_INTERVAL)
    if sink.unsent_bytes:
        sink.abort()  # a graceful end would wait for the peer that reads nothing
    elif end.done():
        close = close_event(end.result(), jittered(config.retry))
        await response.write(wire.encode(close, None))
    return response


def _sample(request: web.Request) -> str:
    broadcaster = request.app[BROADCASTER]
    metrics = broadcaster.metrics
    usage = broadcaster.history_usage
    sample = StatusSample(
        connected_clients=broadcaster.client_count,
        **dataclasses.asdict(broadcaster.counts),
        time=round(time.time(), 3),
        version=__version__,
        delivered=metrics.events_written + metrics.events_taken,
        written_bytes=metrics.bytes_written,
        history_channels=usage.channels,
        history_bytes=usage.bytes,
    )
    return json_line(sample).decode().rstrip()
