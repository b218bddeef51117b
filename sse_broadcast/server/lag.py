"""Lag: how late the event loop is, looked at now and then."""

import asyncio
import time
from collections.abc import AsyncIterator

from aiohttp import web

from sse_broadcast.metrics import Metrics
from sse_broadcast.server.state import BROADCASTER

EVERY = 0.1
"""Seconds between two looks: ten wake-ups a second, of some microseconds each."""


class Lag:
    """Sets itself a time, and counts how late it comes by.

    Whatever holds up the loop for longer than `EVERY` holds up a look as well. From `start` to `stop`, on
    the loop that `start` is called in.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        # By a clock of its own: uvloop's knows milliseconds only.
        self._due = time.monotonic() + EVERY
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._metrics.lagged(max(0.0, time.monotonic() - self._due))
        self.start()


async def watch_loop(app: web.Application) -> AsyncIterator[None]:
    """Have an application's loop looked at while it runs."""
    lag = Lag(app[BROADCASTER].metrics)
    lag.start()
    yield
    lag.stop()
