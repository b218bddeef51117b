"""Timeouts: many things that may each take the same time, and one timer for all of them."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

AT_ONCE = 64
"""Things that are late between two turns of the loop, at most: thousands may have come together."""


class Timeouts(Generic[T]):
    """Calls `late` with each thing that is still here `seconds` after it was added.

    Adding and discarding cost a fraction of a microsecond, where a timer for each would cost some, and a
    hundred bytes. What is late is no longer here when `late` is called, which may add it again.
    """

    def __init__(self, seconds: float, late: Callable[[T], None]) -> None:
        self.seconds = seconds
        self._late = late
        self._ends: OrderedDict[T, float] = OrderedDict()  # an end is never before one that was added earlier
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def due(self) -> float | None:
        """When the timer is due, by the loop's clock; None where there is none.

        It goes on for what was discarded, so that nothing need be set anew.
        """
        return None if self._timer is None else self._timer.when()

    def add(self, thing: T) -> None:
        """Begin to wait for a thing that is not here."""
        end = asyncio.get_running_loop().time() + self.seconds
        self._ends[thing] = end
        if self._timer is None:
            self._start_timer(end)

    def discard(self, thing: T) -> None:
        """Wait no longer, whether it was here or not."""
        self._ends.pop(thing, None)

    def close(self) -> None:
        """Wait for nothing any more."""
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self, when: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        # There is a timer until the end of this: `late` may add a thing whose time is after that of others.
        now = asyncio.get_running_loop().time()
        for _ in range(AT_ONCE):
            if not self._ends:
                break
            thing, end = next(iter(self._ends.items()))
            if end > now:
                break
            del self._ends[thing]
            self._late(thing)
        self._timer = None
        if self._ends:
            self._start_timer(next(iter(self._ends.values())))
