"""Sparklines: the last values of a number, as bars of one character."""

from collections import deque
from collections.abc import Iterable

BARS = "▁▂▃▄▅▆▇█"

SPARKLINE_LENGTH = 30
"""Values of a sparkline."""


def sparkline(values: Iterable[float]) -> str:
    """Return a bar for each value; the largest fills its line, and nought has the lowest bar."""
    found = list(values)
    most = max(found, default=0.0)
    if most <= 0:
        return BARS[0] * len(found)
    return "".join(BARS[min(int(max(value, 0.0) / most * len(BARS)), len(BARS) - 1)] for value in found)


class RecentValues:
    """The last values of several numbers, by name."""

    def __init__(self, *, kept: int = SPARKLINE_LENGTH) -> None:
        self._kept = kept
        self._values: dict[str, deque[float]] = {}

    def add(self, name: str, value: float) -> None:
        """Keep a value, and forget the oldest beyond the limit."""
        self._values.setdefault(name, deque(maxlen=self._kept)).append(value)

    def line(self, name: str) -> str:
        """Return the sparkline of a number, "" while fewer than two values are known."""
        values = self._values.get(name, ())
        return sparkline(values) if len(values) > 1 else ""
