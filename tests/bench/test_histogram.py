"""The histogram of latencies."""

import builtins
from typing import Any

import pytest

from sse_broadcast.bench.histogram import LatencyHistogram, new_hdr
from sse_broadcast.errors import ExtraError


def test_percentiles_have_three_digits() -> None:
    histogram = LatencyHistogram()
    for milliseconds in range(1, 1001):
        histogram.record(milliseconds / 1000)
    assert histogram.count == 1000
    assert histogram.percentile(50) == pytest.approx(0.5, rel=0.001)
    assert histogram.percentile(99) == pytest.approx(0.99, rel=0.001)
    assert histogram.percentile(100) == pytest.approx(1.0, rel=0.001)
    assert histogram.mean == pytest.approx(0.5005, rel=0.001)
    assert list(histogram.percentiles()) == ["p50", "p90", "p99", "p99.9", "p99.99", "max"]


def test_nothing_recorded_is_nought() -> None:
    histogram = LatencyHistogram()
    assert (histogram.count, histogram.mean, histogram.percentile(99)) == (0, 0.0, 0.0)
    assert list(histogram.curve()) == []


def test_what_is_out_of_range_is_counted_at_its_ends() -> None:
    histogram = LatencyHistogram()
    histogram.record(-1.0)  # clocks of two processors
    histogram.record(100_000.0)
    assert histogram.count == 2
    assert histogram.percentile(0) == 1e-6
    assert histogram.percentile(100) == pytest.approx(3600, rel=0.001)


def test_the_curve_rises_to_the_maximum() -> None:
    histogram = LatencyHistogram()
    for number in (1, 2, 3, 4, 100):
        histogram.record(number / 1000)
    curve = list(histogram.curve())
    assert curve == sorted(curve)
    assert curve[-1][0] == 100.0
    assert curve[-1][1] == pytest.approx(0.1, rel=0.001)


def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("hdrh"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExtraError, match=r"pip install 'sse-broadcast\[bench\]'"):
        new_hdr()
