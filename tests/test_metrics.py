"""Counters."""

import dataclasses

import pytest

from sse_broadcast.metrics import SECONDS, Counts, Distribution, Metrics, SubscriberKind, Timeout


def test_each_method_changes_its_own_counter() -> None:
    metrics = Metrics()
    metrics.published(3)
    metrics.published(0)
    metrics.opened(SubscriberKind.HTTP)
    metrics.opened(SubscriberKind.STREAM)
    metrics.closed("left", SubscriberKind.HTTP)
    metrics.dropped("drop-oldest")
    metrics.reset("evicted")
    metrics.reset("slow")
    metrics.reset("slow")
    metrics.aborted()
    metrics.refused("full")
    counts = metrics.counts()
    metrics.published(1)
    metrics.opened(SubscriberKind.HTTP)
    metrics.closed("left", SubscriberKind.HTTP)
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


def test_counters_begin_at_zero() -> None:
    assert Metrics().counts() == Counts(0, 0, {}, {}, {}, 0, {})


def test_refused_requests_and_connections_share_a_counter() -> None:
    metrics = Metrics()
    metrics.refused("full")
    metrics.refused_request(429, "publish")
    metrics.refused_request(429, "subscribe")
    assert metrics.counts().refused == {"full": 1, "429": 2}
    assert metrics.refused_requests == {("publish", "429"): 1, ("subscribe", "429"): 1}


def test_the_open_streams_are_those_opened_and_not_closed() -> None:
    metrics = Metrics()
    for kind in (SubscriberKind.HTTP, SubscriberKind.HTTP, SubscriberKind.HTTP, SubscriberKind.STREAM):
        metrics.opened(kind)
    metrics.closed("left", SubscriberKind.HTTP)
    metrics.closed("slow", SubscriberKind.HTTP)
    assert (metrics.open(SubscriberKind.HTTP), metrics.open(SubscriberKind.STREAM)) == (1, 1)


def test_written_and_accepted_bytes_are_counted_separately() -> None:
    metrics = Metrics()
    metrics.wrote(3, 100)
    metrics.wrote(0, 2)
    metrics.handed(5)
    assert (metrics.events_written, metrics.events_taken) == (3, 5)
    assert metrics.bytes_written == 102


def test_an_empty_publish_is_not_counted() -> None:
    """An idempotency key may have prevented a second publish."""
    metrics = Metrics()
    metrics.published(0)
    metrics.published(3)
    assert (metrics.publishes, metrics.events_published) == (1, 3)


def test_channels_have_counters_only_if_selected() -> None:
    """The counters go on while the channel stays selected."""
    metrics = Metrics(("a", "b"))
    metrics.published_in(("a", "b", "c"))
    assert metrics.channels == {"a": 1, "b": 1}
    metrics.look_at(("b", "c"))
    metrics.published_in(("a", "b", "c"))
    assert metrics.channels == {"b": 2, "c": 1}


def test_a_slice_cut_short_counts_as_a_slice_and_as_cut_short() -> None:
    metrics = Metrics()
    metrics.walked(interrupted=True)
    metrics.walked(interrupted=False)
    assert (metrics.slices, metrics.interruptions) == (2, 1)


def test_other_counters() -> None:
    metrics = Metrics()
    metrics.beat()
    metrics.timed_out(Timeout.FULL)
    metrics.found_disconnected()
    metrics.called("find")
    metrics.failed("find")
    metrics.lagged(0.002)
    metrics.delayed(0.2)
    metrics.replayed(12, 0.5)
    metrics.log_lines_lost(4)
    assert (metrics.heartbeats, metrics.timeouts) == (1, {Timeout.FULL: 1})
    assert metrics.unreported_disconnects == 1
    assert (metrics.backend_calls, metrics.backend_errors) == ({"find": 1}, {"find": 1})
    assert (metrics.loop_lag.total, metrics.delay.total) == (0.002, 0.2)
    assert (metrics.replay_events.total, metrics.replay_seconds.total) == (12, 0.5)
    assert metrics.log_lines_unwritten == 4


def test_a_value_counts_under_the_lowest_bound_that_holds() -> None:
    """A value equal to a bound is within it. Beyond the last bound is infinity."""
    distribution = Distribution((1, 10))
    for value in (0, 1, 2, 10, 11):
        distribution.observe(value)
    distribution.observe(5, times=3)
    assert list(distribution.cumulated()) == [(1, 2), (10, 7), (float("inf"), 8)]
    assert (distribution.count, distribution.total) == (8, 39)


def test_the_bounds_are_sorted() -> None:
    """The bucket of a value is found by bisection."""
    assert list(SECONDS) == sorted(set(SECONDS))
