"""GET /status: the number of subscribers, and counters; once, or each second."""

import dataclasses

from aiohttp import hdrs, web

from sse_broadcast.auth.principal import Action
from sse_broadcast.server.access.authorization import require_permission
from sse_broadcast.server.endpoints.status_stream import stream_status
from sse_broadcast.server.http.refused_stream import wants_event_stream
from sse_broadcast.server.http.responses import ServerStatus, answered
from sse_broadcast.server.services import BROADCASTER


async def get_status(request: web.Request) -> web.StreamResponse:
    """Return the number of subscribers, and the counters since the start.

    A client that accepts `text/event-stream` gets them each second.
    """
    require_permission(request, Action.INSPECT)
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    if request.method == hdrs.METH_GET and wants_event_stream(accept):
        return await stream_status(request)
    broadcaster = request.app[BROADCASTER]
    counts = dataclasses.asdict(broadcaster.counts)
    return answered(ServerStatus(connected_clients=broadcaster.client_count, **counts))
