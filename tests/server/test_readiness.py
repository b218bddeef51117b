"""Readiness: what makes a server unfit to serve, and what does not."""

import pytest

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.server.readiness import DRAINING, Readiness


async def test_a_server_is_ready_until_it_drains() -> None:
    """From the moment it is told to, and for good."""
    readiness = Readiness(Broadcaster())
    assert (readiness.fault, readiness.draining) == (None, False)
    readiness.drain()
    assert (readiness.fault, readiness.draining) == (DRAINING, True)


async def test_a_broadcaster_that_is_closed_drains() -> None:
    """As that of an application whose runner stops."""
    broadcaster = Broadcaster()
    readiness = Readiness(broadcaster)
    await broadcaster.close(timeout=1)
    assert (readiness.fault, readiness.draining) == (DRAINING, True)


async def test_a_backend_that_is_away_is_a_fault_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own words; connections stay meanwhile."""
    broadcaster = Broadcaster()
    readiness = Readiness(broadcaster)
    away: list[str | None] = ["connection refused"]
    monkeypatch.setattr(type(broadcaster._backend), "trouble", property(lambda _: away[0]))
    assert (readiness.fault, readiness.draining) == ("backend: connection refused", False)
    away[0] = None
    assert readiness.fault is None
