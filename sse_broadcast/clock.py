"""Clock: moments that nobody can set, and what the clock of the day says of them.

Ages and windows are told by this clock: an event is not a day old because somebody has set the date. Linux
counts the time a machine was asleep in CLOCK_BOOTTIME, and not in the clock that is called monotonic.
"""

import functools
import time

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

MIN_CLOCK_STEP = 0.001
"""Seconds by which the clock of the day must differ to have been set."""


class Clock:
    """Seconds since 1970 as the clock of the day had it when this was made, and steady from there on."""

    __slots__ = ("_began", "_offset")

    def __init__(self) -> None:
        self._began = time.time() - time.clock_gettime(_STEADY)
        self._offset = 0.0

    def now(self) -> float:
        """Return this moment."""
        return self._began + time.clock_gettime(_STEADY)

    def to_wall_time(self, moment: float) -> float:
        """Return what the clock of the day says of a moment: seconds since 1970, as it is set now."""
        offset = time.time() - self.now()
        # Read one after the other they never agree: a moment is told alike in every encoding.
        if abs(offset - self._offset) > MIN_CLOCK_STEP:
            self._offset = offset
        return moment + self._offset


_CLOCK = Clock()

now = _CLOCK.now
to_wall_time = _CLOCK.to_wall_time


def utc(moment: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601, in UTC and in whole seconds, which are cut."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def utc_milliseconds(moment: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601, in UTC and with milliseconds, which are cut."""
    # First to whole microseconds: the float nearest to .042 may lie below it.
    milliseconds = round(moment * 1_000_000) // 1000
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


# The lines of a log come many to the second.
@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return utc(seconds)[:-1]
