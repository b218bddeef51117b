"""GET /healthz and GET /readyz, open to all load balancers and supervisors."""

from collections.abc import Callable, Mapping

from aiohttp import hdrs, web

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.server.http.problem import Problem, answer
from sse_broadcast.server.http.responses import Health, answered

DRAINING_FAULT = "draining: the server is shutting down"


class Readiness:
    """The readiness of the server, as load balancers see it."""

    # Being full is not a reason: a flood of subscribers would take publishing off the load balancer too.

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        self.draining = False
        """Whether the server is about to stop, or stopping."""

    def drain(self) -> None:
        """Become not ready: the server is about to stop, but still serves."""
        self.draining = True

    @property
    def fault(self) -> str | None:
        """Why the server is not ready, in public words, or None."""
        if self.draining or self._broadcaster.closed:
            return DRAINING_FAULT
        trouble = self._broadcaster.outage
        return None if trouble is None else f"backend: {trouble}"


READINESS: web.AppKey[Readiness] = web.AppKey("sse_broadcast.readiness", Readiness)


async def get_healthz(request: web.Request) -> web.Response:
    """Answer that the process is alive: its event loop runs."""
    return _alive(request.app[READINESS])


async def get_readyz(request: web.Request) -> web.Response:
    """Answer whether the server is ready to serve."""
    return _ready(request.app[READINESS])


def _alive(_: Readiness) -> web.Response:
    return _answer("alive")


def _ready(readiness: Readiness) -> web.Response:
    """Raise `Problem` with the reason if the server is not ready."""
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
    """Return the answer of a health check for a rejected connection, or None for another path."""
    ask = ASKED.get(path)
    if ask is None:
        return None
    try:
        return ask(readiness)
    except Problem as problem:
        return answer(problem)
