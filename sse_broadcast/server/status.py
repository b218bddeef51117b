"""GET /status: how many listen, and what was counted."""

import dataclasses

from aiohttp import web

from sse_broadcast.auth.access import Action
from sse_broadcast.server.answers import ServerStatus, answered
from sse_broadcast.server.gate import require
from sse_broadcast.server.state import BROADCASTER


async def status(request: web.Request) -> web.Response:
    """Answer with the number of subscribers, and the counters since the start."""
    require(request, Action.INSPECT)
    broadcaster = request.app[BROADCASTER]
    counts = dataclasses.asdict(broadcaster.counts)
    return answered(ServerStatus(connected_clients=broadcaster.client_count, **counts))
