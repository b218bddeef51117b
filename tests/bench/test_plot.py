"""The picture of a run."""

import importlib.util
from pathlib import Path

import pytest

from sse_broadcast.bench import plot
from sse_broadcast.bench.histogram import LatencyHistogram
from sse_broadcast.bench.payload import Markers
from sse_broadcast.bench.plan import Plan
from sse_broadcast.bench.publishers import PublishTally
from sse_broadcast.bench.run import Measured
from sse_broadcast.bench.subscribers import Tally
from sse_broadcast.errors import ConfigError, ExtraError


@pytest.fixture
def measured() -> Measured:
    tally = Tally(Markers("abc"))
    for number in range(1, 100):
        tally.latency.record(number / 1000)
    tally.per_second.update({10: 50, 11: 49})
    tally.last_delivery = 11.5
    return Measured(Plan(), "http://x", tally, PublishTally(), LatencyHistogram(), began=10.2)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_says_the_kind(measured: Measured, tmp_path: Path, ending: str, magic: bytes) -> None:
    file = tmp_path / f"run.{ending}"
    plot.plot(measured, file)
    assert file.read_bytes().startswith(magic)


def test_a_kind_that_nobody_draws_is_an_error(measured: Measured, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--plot: .*run\.xyz: cannot be written: Format 'xyz' is not supported"
    ):
        plot.plot(measured, tmp_path / "run.xyz")


def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExtraError, match=r"pip install 'sse-broadcast\[plot\]'"):
        plot.require_matplotlib()
