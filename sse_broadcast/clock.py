"""Clock: moments that do not jump when the system time is set, and their wall-clock times."""

import functools
import time

# Ages and windows use this clock: setting the date must not make events a day old. CLOCK_MONOTONIC does not
# count the time a Linux machine was asleep; CLOCK_BOOTTIME does.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

MIN_CLOCK_STEP = 0.001
"""Seconds of difference from which the system time counts as set."""


class Clock:
    """Seconds since 1970 by the system time at construction, and steady from then on."""

    __slots__ = ("_began", "_offset")

    def __init__(self) -> None:
        self._began = time.time() - time.clock_gettime(_STEADY)
        self._offset = 0.0

    def now(self) -> float:
        """Return the current moment."""
        return self._began + time.clock_gettime(_STEADY)

    def to_wall_time(self, moment: float) -> float:
        """Return the wall-clock time of a moment, in seconds since 1970, as the system time is set now."""
        offset = time.time() - self.now()
        # The two clocks are read one after the other, so the offset always differs a little. Small
        # differences are ignored, so that an event has the same time in every encoding.
        if abs(offset - self._offset) > MIN_CLOCK_STEP:
            self._offset = offset
        return moment + self._offset


_CLOCK = Clock()

now = _CLOCK.now
to_wall_time = _CLOCK.to_wall_time


def utc(moment: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 in UTC, truncated to seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def utc_milliseconds(moment: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 in UTC, truncated to milliseconds."""
    # Round to microseconds first: the float nearest to .042 may lie below it.
    milliseconds = round(moment * 1_000_000) // 1000
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


# Cached: a log has many lines in a second.
@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return utc(seconds)[:-1]
