"""Plot of a run: latency by percentile, and deliveries by second, in a picture."""

import importlib.util
from pathlib import Path

from sse_broadcast.bench.run import Measured
from sse_broadcast.errors import ConfigError, ExtraError

PLOT_EXTRA_NEEDED = "--plot needs an extra that is not installed: pip install 'sse-broadcast[plot]'"

MOST_NINES = 1e6
"""Right end of the axis of percentiles: 99.9999 %."""


def require_matplotlib() -> None:
    """Raise `ExtraError` where the library is not installed: before a run, and not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ExtraError(PLOT_EXTRA_NEEDED)


def plot(measured: Measured, file: Path) -> None:
    """Draw a run into a file; its ending says the kind of picture. Raises `ConfigError`, `ExtraError`."""
    require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(9, 8), layout="constrained")
    above, below = figure.subplots(2)
    curve = [
        (1 / (1 - percent / 100), latency)
        for percent, latency in measured.tally.latency.curve()
        if percent < 100
    ]
    curve.append((MOST_NINES, measured.tally.latency.percentile(100)))
    above.plot([nines for nines, _ in curve], [latency * 1e3 for _, latency in curve], drawstyle="steps-post")
    above.set_xscale("log")
    above.set_xlim(1, MOST_NINES)
    above.set_xticks(
        [1, 10, 100, 1e3, 1e4, 1e5, 1e6], ["0", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "max"]
    )
    above.set_ylim(bottom=0)
    above.set_xlabel("percentile of deliveries")
    above.set_ylabel("latency from the due time, ms")
    above.grid(visible=True, alpha=0.3)
    plan = measured.plan
    above.set_title(f"{plan.subscribers} subscribers, {plan.rate:g} events a second: {measured.url}")
    _by_second(measured, below)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot: {file}: cannot be written: {error}") from None


def _by_second(measured: Measured, axes: "object") -> None:
    tally, first = measured.tally, int(measured.began)
    seconds = range(first, int(max(tally.last_delivery, measured.began)) + 1)
    x = [second - first for second in seconds]
    axes.bar(x, [tally.per_second[second] for second in seconds], color="0.8")  # type: ignore[attr-defined]
    axes.set_xlabel("second")  # type: ignore[attr-defined]
    axes.set_ylabel("deliveries")  # type: ignore[attr-defined]
    other = axes.twinx()  # type: ignore[attr-defined]
    other.plot(x, [tally.slowest_in.get(second, 0.0) * 1e3 for second in seconds], color="C3")
    other.set_ylim(bottom=0)
    other.set_ylabel("slowest delivery, ms", color="C3")
