"""One reader's queue."""

import pytest

from sse_broadcast.config import Overflow
from sse_broadcast.subscriber import CloseReason, Subscriber
from tests.support.outlets import Outlet, data_of, publication, terms

ALL = 1 << 20


def subscriber_with(
    overflow: Overflow = Overflow.DISCONNECT, *, queue_size: int = 3, queue_bytes: int = 1000
) -> tuple[Subscriber, Outlet]:
    subscriber = Subscriber(("default",), terms(overflow, queue_size=queue_size, queue_bytes=queue_bytes)[0])
    outlet = subscriber.outlet = Outlet()
    return subscriber, outlet


def offer(subscriber: Subscriber, *data: str) -> None:
    for text in data:
        subscriber.offer(publication(text))


def test_what_was_offered_is_taken_in_order() -> None:
    """A queue gives what it got, and its outlet hears of it once."""
    subscriber, outlet = subscriber_with()
    offer(subscriber, "a", "b", "c")
    assert outlet.calls == ["ready"]
    assert len(subscriber) == 3
    assert data_of(subscriber.take(ALL)) == ["a", "b", "c"]
    assert (len(subscriber), subscriber.queued_bytes) == (0, 0)
    offer(subscriber, "d")
    assert outlet.calls == ["ready", "ready"]


def test_a_take_is_bounded_in_bytes_and_gives_one_at_least() -> None:
    """Frames of 10 bytes: a limit of 25 takes two, a limit of 5 takes one."""
    subscriber, _ = subscriber_with()
    offer(subscriber, "aa", "bb", "cc")
    assert data_of(subscriber.take(25)) == ["aa", "bb"]
    assert data_of(subscriber.take(5)) == ["cc"]
    assert subscriber.take(5) == []


def test_a_full_queue_disconnects_by_default() -> None:
    """The event that does not fit closes the subscriber as slow, and lets go of what waited."""
    policy, metrics, closed = terms()
    subscriber = Subscriber(("default",), policy)
    outlet = subscriber.outlet = Outlet()
    offer(subscriber, "a", "b", "c", "d", "e")
    assert subscriber.closed is CloseReason.SLOW
    assert outlet.calls == ["ready", "end slow"]
    assert (len(subscriber), subscriber.queued_bytes) == (0, 0)
    assert closed == [subscriber]
    assert metrics.counts().closed == {"slow": 1}


def test_the_bytes_are_bounded_too() -> None:
    """Two frames of 10 bytes fill a queue of 25."""
    subscriber, _ = subscriber_with(queue_bytes=25)
    offer(subscriber, "aa", "bb", "cc")
    assert subscriber.closed is CloseReason.SLOW


def test_an_empty_queue_takes_an_event_of_any_size() -> None:
    """What max_event let through has a place to wait."""
    subscriber, _ = subscriber_with(queue_bytes=10)
    offer(subscriber, "x" * 100)
    assert data_of(subscriber.take(1)) == ["x" * 100]


def test_drop_oldest_keeps_the_newest_and_says_so_before_them() -> None:
    """The loss is told once, where the dropped events stood: before all that is left."""
    policy, metrics, _ = terms(Overflow.DROP_OLDEST)
    subscriber = Subscriber(("default",), policy)
    subscriber.outlet = Outlet()
    offer(subscriber, "a", "b", "c", "d", "e")
    reset, *rest = subscriber.take(ALL)
    assert (reset.event.type, reset.event.data) == (
        "$reset",
        '{"reason": "slow", "channels": ["default"], "missed": 2}',
    )
    assert data_of(rest) == ["c", "d", "e"]
    assert subscriber.take(ALL) == []
    assert metrics.counts().dropped == {"drop-oldest": 2}
    assert subscriber.closed is None


def test_drop_newest_keeps_the_oldest_and_says_so_after_them() -> None:
    """The loss is told once, where the dropped events stood: after all that was queued."""
    subscriber, _ = subscriber_with(Overflow.DROP_NEWEST)
    offer(subscriber, "a", "b", "c", "d", "e")
    *kept, reset = subscriber.take(ALL)
    assert data_of(kept) == ["a", "b", "c"]
    assert reset.event.data == '{"reason": "slow", "channels": ["default"], "missed": 2}'
    offer(subscriber, "f")
    assert data_of(subscriber.take(ALL)) == ["f"]


def test_drop_newest_tells_of_a_loss_before_the_next_event_that_fits() -> None:
    """A small event that fits after a large one that did not stands behind the news of that."""
    subscriber, _ = subscriber_with(Overflow.DROP_NEWEST, queue_bytes=60)
    offer(subscriber, "a", "x" * 100, "b")
    first, reset, last = subscriber.take(ALL)
    assert data_of([first, last]) == ["a", "b"]
    assert reset.event.type == "$reset"


@pytest.mark.parametrize("overflow", list(Overflow))
def test_a_queue_that_its_outlet_can_empty_is_not_full(overflow: Overflow) -> None:
    """Nothing is dropped, and nobody closed, while the reader takes what it is given."""
    subscriber, outlet = subscriber_with(overflow)
    taken: list[str] = []
    outlet.on_relieve = lambda: taken.extend(data_of(subscriber.take(ALL)))
    offer(subscriber, "a", "b", "c", "d", "e")
    assert [*taken, *data_of(subscriber.take(ALL))] == ["a", "b", "c", "d", "e"]
    assert subscriber.closed is None


def test_an_outlet_may_close_the_subscriber_while_it_is_asked_for_room() -> None:
    """A reader found gone when its queue is full has left, and was not slow."""
    subscriber, outlet = subscriber_with()
    outlet.on_relieve = lambda: subscriber.close(CloseReason.LEFT)
    offer(subscriber, "a", "b", "c", "d")
    assert subscriber.closed is CloseReason.LEFT


def test_the_first_reason_stands() -> None:
    """Closing twice is closing once."""
    policy, metrics, closed = terms()
    subscriber = Subscriber(("default",), policy)
    outlet = subscriber.outlet = Outlet()
    subscriber.close(CloseReason.DRAIN)
    subscriber.close(CloseReason.LEFT)
    assert subscriber.closed is CloseReason.DRAIN
    assert outlet.calls == ["end drain"]
    assert metrics.counts().closed == {"drain": 1}
    assert len(closed) == 1


def test_a_drain_keeps_what_was_queued() -> None:
    """A server that stops still gives what it had accepted."""
    subscriber, _ = subscriber_with()
    offer(subscriber, "a", "b")
    subscriber.close(CloseReason.DRAIN)
    assert data_of(subscriber.take(ALL)) == ["a", "b"]
