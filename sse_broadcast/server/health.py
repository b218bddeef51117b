"""GET /healthz and GET /readyz: for load balancers and supervisors, open to all of them."""

from aiohttp import web

from sse_broadcast.server.answers import Health, answered
from sse_broadcast.server.problem import Problem
from sse_broadcast.server.state import BROADCASTER


async def healthz(_: web.Request) -> web.Response:
    """Answer that the process is alive: it turns its loop."""
    return _answer("alive")


async def readyz(request: web.Request) -> web.Response:
    """Answer whether the server is able to serve now."""
    if request.app[BROADCASTER].closed:
        raise Problem(503, "draining: the server is shutting down")
    return _answer("ready")


def _answer(status: str) -> web.Response:
    response = answered(Health(status))
    response.headers["Cache-Control"] = "no-store"
    return response
