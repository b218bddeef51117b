"""Timeouts: one timer for many things with the same time limit."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

AT_ONCE = 64
"""Maximum number of late things to handle in one turn of the loop: thousands may be late together."""


class Timeouts(Generic[T]):
    """Calls `late` with each thing that is still present `seconds` after it was added.

    A late thing is removed before `late` is called, which may add it again.
    """

    # Adding and discarding take a fraction of a microsecond. A timer for each thing would take more, and a
    # hundred bytes.

    def __init__(self, seconds: float, late: Callable[[T], None]) -> None:
        self.seconds = seconds
        self._late = late
        self._ends: OrderedDict[T, float] = OrderedDict()  # in the order of their ends
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def due(self) -> float | None:
        """When the timer fires, by the loop's clock, or None without a timer."""
        # The timer of a discarded thing keeps running: cancelling and setting it again would cost more.
        return None if self._timer is None else self._timer.when()

    def add(self, thing: T) -> None:
        """Start the time of a thing that is not present."""
        end = asyncio.get_running_loop().time() + self.seconds
        self._ends[thing] = end
        if self._timer is None:
            self._start_timer(end)

    def discard(self, thing: T) -> None:
        """Remove a thing, if it is present."""
        self._ends.pop(thing, None)

    def close(self) -> None:
        """Remove all things and cancel the timer."""
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self, when: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        # `_timer` stays set until the end: otherwise `late`, which may add a thing, would start a second
        # timer.
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
