"""Readiness: whether the server is able to serve now, and if it is not, why."""

from aiohttp import web

from sse_broadcast.broadcaster import Broadcaster

DRAINING = "draining: the server is shutting down"


class Readiness:
    """What load balancers are told, and what makes each answer the last one of its connection.

    Being full is no reason: a flood of readers would take publishing off the balancer as well.
    """

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        self._draining = False

    def drain(self) -> None:
        """Be ready no more: the server is about to stop, though it goes on serving."""
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop, or stopping."""
        return self._draining or self._broadcaster.closed

    @property
    def fault(self) -> str | None:
        """Why it is not ready, fit to be shown to everyone; None if it is."""
        if self.draining:
            return DRAINING
        trouble = self._broadcaster.trouble
        return None if trouble is None else f"backend: {trouble}"


READINESS: web.AppKey[Readiness] = web.AppKey("sse_broadcast.readiness", Readiness)
