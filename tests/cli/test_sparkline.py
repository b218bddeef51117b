"""Sparklines."""

import pytest

from sse_broadcast.cli.sparkline import BARS, RecentValues, sparkline


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0, 0], "▁▁"), ([1], "█"), ([0, 1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇██"), ([-1, 5], "▁█")],
)
def test_the_largest_value_fills_the_line(values: list[float], line: str) -> None:
    assert sparkline(values) == line
    assert set(line) <= set(BARS)


def test_the_oldest_value_goes() -> None:
    history = RecentValues(kept=3)
    for value in (8, 0, 4, 8):
        history.add("rate", value)
    assert history.line("rate") == "▁▅█"


def test_one_value_is_no_line() -> None:
    history = RecentValues()
    history.add("rate", 1)
    assert (history.line("rate"), history.line("other")) == ("", "")
