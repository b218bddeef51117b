"""GET /healthz and GET /readyz: for load balancers and supervisors, open to all of them."""

from collections.abc import Callable, Mapping

from aiohttp import hdrs, web

from sse_broadcast.server.answers import Health, answered
from sse_broadcast.server.problem import Problem, answer
from sse_broadcast.server.readiness import READINESS, Readiness


async def healthz(request: web.Request) -> web.Response:
    """Answer that the process is alive: it turns its loop."""
    return _alive(request.app[READINESS])


async def readyz(request: web.Request) -> web.Response:
    """Answer whether the server is able to serve now."""
    return _ready(request.app[READINESS])


def _alive(_: Readiness) -> web.Response:
    return _answer("alive")


def _ready(readiness: Readiness) -> web.Response:
    """Raise `Problem` with the reason, if there is one."""
    fault = readiness.fault
    if fault is not None:
        raise Problem(503, fault, headers={hdrs.CACHE_CONTROL: "no-store"})
    return _answer("ready")


def _answer(status: str) -> web.Response:
    response = answered(Health(status))
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


ASKED: Mapping[str, Callable[[Readiness], web.Response]] = {"/healthz": _alive, "/readyz": _ready}


def examined(path: str, readiness: Readiness) -> web.Response | None:
    """Give the answer that a path here has, for whoever cannot be let in to ask; None of any other path."""
    ask = ASKED.get(path)
    if ask is None:
        return None
    try:
        return ask(readiness)
    except Problem as problem:
        return answer(problem)
