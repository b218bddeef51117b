"""GET /status: how many listen, and what was counted."""

import msgspec
from aiohttp import web

from sse_broadcast.server.state import BROADCASTER


async def status(request: web.Request) -> web.Response:
    """Answer with the number of subscribers, and the counters since the start."""
    broadcaster = request.app[BROADCASTER]
    counts = broadcaster.counts
    content = {
        "connected_clients": broadcaster.client_count,
        "published": counts.published,
        "opened": counts.opened,
        "closed": counts.closed,
        "dropped": counts.dropped,
        "resets": counts.resets,
        "aborted": counts.aborted,
    }
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
