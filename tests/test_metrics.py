"""The counters."""

from sse_broadcast.metrics import Counts, Metrics


def test_each_verb_counts_its_own() -> None:
    """What was counted is one value, and a copy."""
    metrics = Metrics()
    metrics.published()
    metrics.opened()
    metrics.opened()
    metrics.closed("left")
    metrics.dropped("drop-oldest")
    metrics.aborted()
    counts = metrics.counts()
    metrics.published()
    metrics.closed("left")
    assert counts == Counts(1, 2, {"left": 1}, {"drop-oldest": 1}, 1)
