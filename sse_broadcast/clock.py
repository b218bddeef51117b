"""Clock: moments that nobody can set, and what the clock of the day says of them.

Ages and windows are told by this clock: an event is not a day old because somebody has set the date. Linux
counts the time a machine was asleep in CLOCK_BOOTTIME, and not in the clock that is called monotonic.
"""

import time

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

STEP = 0.001
"""Seconds by which the clock of the day must differ to have been set."""


class Clock:
    """Seconds since 1970 as the clock of the day had it when this was made, and steady from there on."""

    __slots__ = ("_began", "_offset")

    def __init__(self) -> None:
        self._began = time.time() - time.clock_gettime(_STEADY)
        self._offset = 0.0

    def now(self) -> float:
        """Give this moment."""
        return self._began + time.clock_gettime(_STEADY)

    def to_wall_time(self, moment: float) -> float:
        """Give what the clock of the day says of a moment: seconds since 1970, as it is set now."""
        offset = time.time() - self.now()
        # Read one after the other they never agree: a moment is told alike in every encoding.
        if abs(offset - self._offset) > STEP:
            self._offset = offset
        return moment + self._offset


_CLOCK = Clock()

now = _CLOCK.now
to_wall_time = _CLOCK.to_wall_time
