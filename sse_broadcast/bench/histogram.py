"""Latency histogram: microseconds in, percentiles out (HdrHistogram, three significant digits)."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sse_broadcast.errors import ExtraError

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LONGEST = 3_600_000_000
"""Microseconds: an hour. What takes longer is counted as this."""

DIGITS = 3

BENCH_EXTRA_NEEDED = "bench needs an extra that is not installed: pip install 'sse-broadcast[bench]'"

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 100.0)
"""Those that reports show."""


def new_hdr() -> "HdrHistogram":
    """Return an empty histogram. Raises `ExtraError` where the library is not installed."""
    try:
        from hdrh.histogram import HdrHistogram  # noqa: PLC0415 - an extra
    except ImportError:
        raise ExtraError(BENCH_EXTRA_NEEDED) from None
    return HdrHistogram(1, LONGEST, DIGITS)


class LatencyHistogram:
    """Counts latencies. Seconds in and out."""

    __slots__ = ("_hdr", "recent")

    def __init__(self) -> None:
        self._hdr = new_hdr()
        self.recent: defaultdict[int, int] = defaultdict(int)
        """Counts by microsecond that the histogram has not got yet.

        The hot path adds to it directly: it is a tenth of the cost of `record_value`.
        """

    def record(self, seconds: float) -> None:
        """Count one latency."""
        self.recent[int(seconds * 1e6)] += 1

    def flush(self) -> None:
        """Move what is recent into the histogram; called now and then, so that `recent` stays small."""
        recent, self.recent = self.recent, defaultdict(int)
        for microseconds, count in recent.items():
            self._hdr.record_value(min(max(microseconds, 1), LONGEST), count)

    @property
    def count(self) -> int:
        """How many were counted."""
        self.flush()
        return int(self._hdr.get_total_count())

    @property
    def mean(self) -> float:
        """The mean, 0 of none."""
        return float(self._hdr.get_mean_value()) / 1e6 if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Return the latency that so many percent do not exceed, 0 of none."""
        if not self.count:
            return 0.0
        if percent >= 100.0:
            return int(self._hdr.get_max_value()) / 1e6
        return int(self._hdr.get_value_at_percentile(percent)) / 1e6

    def percentiles(self) -> dict[str, float]:
        """Return those of `PERCENTILES`, by names such as `p99.9` and `max`."""
        return {"max" if each == 100.0 else f"p{each:g}": self.percentile(each) for each in PERCENTILES}

    def curve(self) -> Iterator[tuple[float, float]]:
        """Yield percents and latencies for a drawing, closer together towards 100."""
        if self.count:
            for each in self._hdr.get_percentile_iterator(5):
                yield each.percentile_level_iterated_to, each.value_iterated_to / 1e6
