"""The counters."""

import dataclasses

import pytest

from sse_broadcast.metrics import Counts, Metrics


def test_each_verb_counts_its_own() -> None:
    """What was counted is one value, and a copy."""
    metrics = Metrics()
    metrics.published(3)
    metrics.published(0)
    metrics.opened()
    metrics.opened()
    metrics.closed("left")
    metrics.dropped("drop-oldest")
    metrics.reset("evicted")
    metrics.reset("slow")
    metrics.reset("slow")
    metrics.aborted()
    metrics.refused("full")
    counts = metrics.counts()
    metrics.published(1)
    metrics.opened()
    metrics.closed("left")
    metrics.dropped("drop-newest")
    metrics.reset("epoch")
    metrics.aborted()
    metrics.refused("full")
    assert counts == Counts(
        published=3,
        opened=2,
        closed={"left": 1},
        dropped={"drop-oldest": 1},
        resets={"evicted": 1, "slow": 2},
        aborted=1,
        refused={"full": 1},
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        counts.opened = 5  # type: ignore[misc]


def test_nothing_was_counted_at_first() -> None:
    """Of no reason at all."""
    assert Metrics().counts() == Counts(0, 0, {}, {}, {}, 0, {})
