"""GET /status: the number of subscribers, and counters."""

import dataclasses

from aiohttp import web

from sse_broadcast.auth.principal import Action
from sse_broadcast.server.access.authorization import require_permission
from sse_broadcast.server.http.responses import ServerStatus, answered
from sse_broadcast.server.services import BROADCASTER


async def get_status(request: web.Request) -> web.Response:
    """Return the number of subscribers, and the counters since the start."""
    require_permission(request, Action.INSPECT)
    broadcaster = request.app[BROADCASTER]
    counts = dataclasses.asdict(broadcaster.counts)
    return answered(ServerStatus(connected_clients=broadcaster.client_count, **counts))
