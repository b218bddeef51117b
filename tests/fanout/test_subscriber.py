"""Subscriber: its queue, and events offered during its replay."""

import json

import pytest

from sse_broadcast.backends.base import StartPoint
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.channels import Selector
from sse_broadcast.config.schema import Overflow
from sse_broadcast.event import Event
from sse_broadcast.fanout.conflation import ITEM, NAME
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.subscriber import (
    AFTER_QUEUE,
    ANNOUNCED,
    LONGEST_HEARTBEAT,
    SHORTEST_HEARTBEAT,
    CloseReason,
    Heartbeat,
    Subscriber,
)
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Draft, Publication
from tests.support.memory_sinks import RecordingConsumer, block, data_of, make_memory, publication, terms

ALL = 1 << 20
DEFAULT = Selector.parse("default")
DROPPING = [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST]


def subscriber_with(
    overflow: Overflow = Overflow.DISCONNECT, *, queue_size: int = 3, queue_bytes: int = 1000
) -> tuple[Subscriber, RecordingConsumer, Metrics]:
    policy, metrics, _ = terms(overflow, queue_size=queue_size, queue_bytes=queue_bytes)
    subscriber = Subscriber(DEFAULT, policy)
    consumer = subscriber.consumer = RecordingConsumer()
    return subscriber, consumer, metrics


def offer(subscriber: Subscriber, *data: str, key: str | None = None) -> list[Publication]:
    """Offer events at rising positions, each with a frame of 28 bytes and its data."""
    offered = [publication(text, key=key) for text in data]
    for each in offered:
        subscriber.offer(each)
    return offered


def test_a_heartbeat_is_a_comment_unless_requested_as_an_event() -> None:
    """It is a value: subscribers with the same heartbeat share their options."""
    assert Heartbeat(4) == Heartbeat(4.0, as_event=False) != Heartbeat(4, as_event=True)
    assert len({Heartbeat(4), Heartbeat(4), Heartbeat(5), Heartbeat(4, as_event=True)}) == 3
    assert (SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT) == (3, 60)


def test_reasons_after_which_a_close_event_is_written() -> None:
    """Those after which the queue is written are among them."""
    assert set(CloseReason) - ANNOUNCED == {CloseReason.LEFT, CloseReason.STALLED, CloseReason.ERROR}
    assert AFTER_QUEUE < ANNOUNCED


def test_offered_events_are_taken_in_order() -> None:
    """The consumer is called once."""
    subscriber, consumer, _ = subscriber_with()
    assert not subscriber.waiting
    offer(subscriber, "a", "b", "c")
    assert consumer.calls == ["on_ready"]
    assert (len(subscriber), subscriber.waiting) == (3, True)
    assert data_of(subscriber.take(ALL)) == ["a", "b", "c"]
    assert (len(subscriber), subscriber.queued_bytes, subscriber.waiting) == (0, 0, False)
    offer(subscriber, "d")
    assert consumer.calls == ["on_ready", "on_ready"]


@pytest.mark.parametrize("overflow", [Overflow.DISCONNECT, Overflow.CONFLATE])
def test_a_take_is_limited_in_bytes_and_has_one_event_at_least(overflow: Overflow) -> None:
    """Frames of 30 bytes: a limit of 75 takes two, a limit of 5 takes one."""
    subscriber, _, _ = subscriber_with(overflow)
    offer(subscriber, "aa", "bb", "cc")
    assert subscriber.queued_bytes == 90
    assert data_of(subscriber.take(75)) == ["aa", "bb"]
    assert subscriber.queued_bytes == 30
    assert data_of(subscriber.take(5)) == ["cc"]
    assert list(subscriber.take(5)) == []


def test_a_full_queue_disconnects_by_default() -> None:
    """The event that does not fit closes the subscriber as slow, and the queue is dropped."""
    policy, metrics, closed = terms()
    subscriber = Subscriber(DEFAULT, policy)
    consumer = subscriber.consumer = RecordingConsumer()
    offer(subscriber, "a", "b", "c", "d", "e")
    assert subscriber.closed is CloseReason.SLOW
    assert consumer.calls == ["on_ready", "on_closed slow"]
    assert (len(subscriber), subscriber.queued_bytes) == (0, 0)
    assert closed == [subscriber]
    assert metrics.counts().closed == {"slow": 1}


def test_the_queue_is_limited_in_bytes() -> None:
    """Two frames of 30 bytes fill a queue of 60."""
    subscriber, _, _ = subscriber_with(queue_bytes=60)
    offer(subscriber, "aa", "bb")
    assert (len(subscriber), subscriber.queued_bytes) == (2, 60)
    offer(subscriber, "")
    assert subscriber.closed is CloseReason.SLOW


@pytest.mark.parametrize("overflow", list(Overflow))
def test_an_empty_queue_accepts_an_event_of_any_size(overflow: Overflow) -> None:
    """Every event that passed max_event can be queued."""
    subscriber, _, _ = subscriber_with(overflow, queue_bytes=10)
    offer(subscriber, "x" * 100)
    assert data_of(subscriber.take(1)) == ["x" * 100]


def reset_of(reset: Publication) -> tuple[str, str, int, dict[str, object]]:
    return reset.event.type, reset.id, reset.position, json.loads(reset.event.data)


def test_drop_oldest_keeps_the_newest_and_puts_the_reset_before_them() -> None:
    """It is at the place of the dropped events."""
    subscriber, _, metrics = subscriber_with(Overflow.DROP_OLDEST)
    _, last_lost, *_ = offer(subscriber, "a", "b", "c", "d", "e")
    reset, *rest = subscriber.take(ALL)
    assert reset.event.data == '{"reason": "slow", "channels": ["default"], "missed": 2}'
    assert (reset.event.type, reset.event.json, reset.channels) == ("$reset", True, ())
    assert data_of(rest) == ["c", "d", "e"]
    assert list(subscriber.take(ALL)) == []
    assert (metrics.counts().dropped, metrics.counts().resets) == ({"drop-oldest": 2}, {"slow": 1})
    assert (subscriber.closed, subscriber.queued_bytes) == (None, 0)
    assert last_lost.event.data == "b"


def test_drop_newest_keeps_the_oldest_and_puts_the_reset_after_them() -> None:
    """It is at the place of the dropped events."""
    subscriber, _, metrics = subscriber_with(Overflow.DROP_NEWEST)
    offer(subscriber, "a", "b", "c", "d", "e")
    *kept, reset = subscriber.take(ALL)
    assert data_of(kept) == ["a", "b", "c"]
    assert reset.event.data == '{"reason": "slow", "channels": ["default"], "missed": 2}'
    offer(subscriber, "f")
    assert data_of(subscriber.take(ALL)) == ["f"]
    assert (metrics.counts().dropped, metrics.counts().resets) == ({"drop-newest": 2}, {"slow": 1})
    assert (subscriber.closed, subscriber.queued_bytes) == (None, 0)


@pytest.mark.parametrize(("overflow", "lost"), [(Overflow.DROP_OLDEST, 1), (Overflow.DROP_NEWEST, 4)])
def test_a_reset_has_the_id_of_the_last_event_lost(overflow: Overflow, lost: int) -> None:
    """A subscriber cut off after it resumes with the first event that was not dropped."""
    subscriber, _, _ = subscriber_with(overflow)
    offered = offer(subscriber, "a", "b", "c", "d", "e")
    taken = subscriber.take(ALL)
    (reset,) = [each for each in taken if each.event.reserved]
    place = offered[lost].position
    assert (reset.id, reset.position) == (f"0123abcd-{place}", place)
    assert [each.position for each in taken] == sorted(each.position for each in taken)


@pytest.mark.parametrize("overflow", DROPPING)
def test_each_reset_counts_its_own_loss(overflow: Overflow) -> None:
    """The count starts at zero after each `$reset` that was taken."""
    subscriber, _, metrics = subscriber_with(overflow)
    missed = []
    for count in (2, 0, 1):
        offer(subscriber, *"abc", *"d" * count)
        missed += [reset_of(each)[3]["missed"] for each in subscriber.take(ALL) if each.event.reserved]
    assert missed == [2, 1]
    assert metrics.counts().resets == {"slow": 2}


@pytest.mark.parametrize("overflow", DROPPING)
def test_a_reset_names_all_requested_channels(overflow: Overflow) -> None:
    """It names the patterns too, since any of them may have lost events."""
    subscriber = Subscriber(Selector.parse("b", "a", "orders.*"), terms(overflow, queue_size=1)[0])
    subscriber.consumer = RecordingConsumer()
    offer(subscriber, "x", "y")
    (reset,) = [each for each in subscriber.take(ALL) if each.event.reserved]
    assert reset_of(reset)[3]["channels"] == ["a", "b", "orders.*"]


def test_drop_oldest_drops_as_many_as_a_large_event_needs() -> None:
    """The queue is limited in bytes and in number. The newest event is never dropped."""
    subscriber, consumer, metrics = subscriber_with(Overflow.DROP_OLDEST, queue_bytes=100)
    offer(subscriber, "aa", "bb", "cc", "x" * 40)
    assert (len(subscriber), subscriber.queued_bytes) == (2, 30 + 68)
    offer(subscriber, "y" * 500)
    assert (len(subscriber), subscriber.queued_bytes) == (1, 528)
    assert consumer.calls == ["on_ready"]
    reset, last = subscriber.take(ALL)
    assert (reset_of(reset)[3]["missed"], last.event.data) == (4, "y" * 500)
    assert metrics.counts().dropped == {"drop-oldest": 4}


def test_drop_newest_puts_the_reset_before_the_next_event_that_fits() -> None:
    """A small event that fits comes after the `$reset` for the large one that did not."""
    subscriber, _, _ = subscriber_with(Overflow.DROP_NEWEST, queue_bytes=100)
    _, lost, _ = offer(subscriber, "a", "x" * 100, "b")
    first, reset, last = subscriber.take(ALL)
    assert data_of([first, last]) == ["a", "b"]
    assert (reset.event.type, reset.id) == ("$reset", lost.id)


def test_after_a_loss_the_consumer_can_make_room_before_the_next_event() -> None:
    """If it takes the queue and the `$reset`, they leave before that event, whether it would fit or not."""
    subscriber, consumer, _ = subscriber_with(Overflow.DROP_NEWEST, queue_bytes=100)
    offer(subscriber, "a", "x" * 100)
    taken: list[Publication] = []
    consumer.on_make_room = lambda: taken.extend(subscriber.take(ALL))
    offer(subscriber, "b", "c")
    assert [each.event.type for each in taken] == ["message", "$reset"]
    assert data_of(subscriber.take(ALL)) == ["b", "c"]


@pytest.mark.parametrize(
    ("overflow", "each"),
    [(Overflow.DROP_OLDEST, ["$", "b", "c", "d"]), (Overflow.DROP_NEWEST, ["a", "b", "c", "$"])],
)
def test_a_reset_counts_against_the_limit_of_a_take(overflow: Overflow, each: list[str]) -> None:
    """It is a publication with a size."""
    subscriber, _, _ = subscriber_with(overflow)
    offer(subscriber, "a", "b", "c", "d")
    taken = []
    while subscriber.waiting:
        (one,) = subscriber.take(1)
        taken.append("$" if one.event.reserved else one.event.data)
    assert (taken, subscriber.queued_bytes) == (each, 0)


@pytest.mark.parametrize("overflow", list(Overflow))
def test_a_queue_that_its_consumer_can_empty_is_not_full(overflow: Overflow) -> None:
    """Nothing is dropped and no subscriber closed while its consumer takes the queue."""
    subscriber, consumer, metrics = subscriber_with(overflow)
    taken: list[str] = []
    consumer.on_make_room = lambda: taken.extend(data_of(subscriber.take(ALL)))
    offer(subscriber, "a", "b", "c", "d", "e")
    assert [*taken, *data_of(subscriber.take(ALL))] == ["a", "b", "c", "d", "e"]
    assert subscriber.closed is None
    assert metrics.counts().dropped == metrics.counts().resets == {}


@pytest.mark.parametrize("overflow", list(Overflow))
def test_a_consumer_asked_to_make_room_may_close_the_subscriber(overflow: Overflow) -> None:
    """A subscriber found gone when its queue is full was not slow."""
    subscriber, consumer, metrics = subscriber_with(overflow)
    consumer.on_make_room = lambda: subscriber.close(CloseReason.LEFT)
    offer(subscriber, "a", "b", "c", "d")
    assert subscriber.closed is CloseReason.LEFT
    assert (len(subscriber), metrics.counts().dropped) == (0, {})


def test_the_first_close_reason_is_kept() -> None:
    policy, metrics, closed = terms()
    subscriber = Subscriber(DEFAULT, policy)
    consumer = subscriber.consumer = RecordingConsumer()
    subscriber.close(CloseReason.DRAIN)
    subscriber.close(CloseReason.LEFT)
    assert subscriber.closed is CloseReason.DRAIN
    assert consumer.calls == ["on_closed drain"]
    assert metrics.counts().closed == {"drain": 1}
    assert len(closed) == 1


@pytest.mark.parametrize("overflow", DROPPING)
def test_a_drain_still_reports_a_loss(overflow: Overflow) -> None:
    """The `$reset` is taken with the rest of the queue."""
    subscriber, _, _ = subscriber_with(overflow)
    offer(subscriber, "a", "b", "c", "d")
    subscriber.close(CloseReason.DRAIN)
    assert sum(each.event.reserved for each in subscriber.take(ALL)) == 1


@pytest.mark.parametrize("overflow", DROPPING)
def test_any_other_end_drops_the_queue_and_its_reset(overflow: Overflow) -> None:
    subscriber, _, metrics = subscriber_with(overflow)
    offer(subscriber, "a", "b", "c", "d")
    subscriber.close(CloseReason.STALLED)
    assert (list(subscriber.take(ALL)), subscriber.waiting) == ([], False)
    assert metrics.counts().resets == {}


def test_a_drained_subscriber_may_still_be_revoked() -> None:
    """It gets no more of its queue, and keeps the first reason."""
    subscriber, consumer, metrics = subscriber_with()
    offer(subscriber, "a", "b")
    subscriber.close(CloseReason.DISCONNECTED)
    subscriber.close(CloseReason.REVOKED)
    assert (list(subscriber.take(ALL)), subscriber.queued_bytes) == ([], 0)
    assert (subscriber.closed, consumer.calls[-1]) == (CloseReason.DISCONNECTED, "on_closed disconnected")
    assert metrics.counts().closed == {"disconnected": 1}


# The policy `conflate`.


def conflating(
    *, queue_size: int = 3, queue_bytes: int = 1000
) -> tuple[Subscriber, RecordingConsumer, Metrics]:
    return subscriber_with(Overflow.CONFLATE, queue_size=queue_size, queue_bytes=queue_bytes)


def test_conflate_keeps_the_newest_of_a_key_at_its_place() -> None:
    """The replaced event is dropped at once, and positions only rise."""
    subscriber, consumer, _ = conflating()
    offer(subscriber, "old", key="a")
    offer(subscriber, "b", key="b")
    offer(subscriber, "new!", key="a")
    assert (len(subscriber), subscriber.queued_bytes) == (2, 29 + 32)
    taken = subscriber.take(ALL)
    assert data_of(taken) == ["b", "new!"]
    assert taken[0].position < taken[1].position
    assert (len(subscriber), subscriber.queued_bytes) == (0, 0)
    assert consumer.calls == ["on_ready"]


def test_conflate_holds_any_number_of_events_of_few_keys() -> None:
    """A subscriber that falls behind keeps the newest of each.

    It gets no `$reset`, since nothing counts as lost.
    """
    subscriber, _, metrics = conflating()
    for number in range(100):
        offer(subscriber, str(number), key=f"k{number % 3}")
    assert (subscriber.behind, subscriber.dropped) == (3, 0)
    assert data_of(subscriber.take(ALL)) == ["97", "98", "99"]
    counts = metrics.counts()
    assert (subscriber.closed, counts.dropped, counts.resets) == (None, {}, {})


def test_replacing_the_only_event_does_not_wake_the_consumer_again() -> None:
    """The queue was never empty since the consumer was called."""
    subscriber, consumer, _ = conflating()
    offer(subscriber, "a1", "a2", key="a")
    assert data_of(subscriber.take(ALL)) == ["a2"]
    assert consumer.calls == ["on_ready"]


def test_an_event_without_a_key_is_never_replaced_and_disconnects() -> None:
    """Only keys limit a conflating queue: without one it closes the subscriber as slow."""
    subscriber, consumer, metrics = conflating()
    offer(subscriber, "a", "b", "c")
    assert data_of(subscriber.take(ALL)) == ["a", "b", "c"]
    offer(subscriber, "a", "b", "c", "d")
    assert subscriber.closed is CloseReason.SLOW
    assert consumer.calls[-1] == "on_closed slow"
    assert metrics.counts().dropped == metrics.counts().resets == {}


def test_more_keys_than_a_queue_holds_disconnect() -> None:
    """Without replacements the queue fills."""
    subscriber, _, _ = conflating()
    for key in "abc":
        offer(subscriber, key, key=key)
    assert len(subscriber) == 3
    offer(subscriber, "d", key="d")
    assert (subscriber.closed, len(subscriber), subscriber.queued_bytes) == (CloseReason.SLOW, 0, 0)


def test_a_replacement_too_large_for_the_queue_disconnects() -> None:
    """The limit in bytes counts the queue's own indexes too."""
    subscriber, _, _ = conflating(queue_bytes=100 + ITEM + NAME)
    offer(subscriber, "a", key="a")
    offer(subscriber, "b", key="b")
    offer(subscriber, "a" * 43, key="a")
    assert (subscriber.closed, subscriber.queued_bytes) == (None, 100)
    offer(subscriber, "a" * 44, key="a")
    assert subscriber.closed is CloseReason.SLOW


def test_a_full_queue_accepts_a_replacement() -> None:
    """The replacement makes room before the queue counts as full."""
    subscriber, _, _ = conflating(queue_size=2)
    offer(subscriber, "a1", key="a")
    offer(subscriber, "plain")
    offer(subscriber, "a2", key="a")
    assert data_of(subscriber.take(ALL)) == ["plain", "a2"]


# Replay.


async def publish(memory: MemoryBackend, data: str) -> None:
    await memory.publish([Draft(("default",), Event(data))])


def catching_up_with(memory: MemoryBackend) -> tuple[Subscriber, RecordingConsumer]:
    policy, metrics, _ = terms()
    subscriber = Subscriber(DEFAULT, policy, Replay(memory, DEFAULT, StartPoint(0), metrics))
    consumer = subscriber.consumer = RecordingConsumer()
    return subscriber, consumer


async def test_a_replaying_subscriber_takes_pages_of_the_history() -> None:
    """Nothing is queued and no consumer woken: it takes the next page by itself."""
    subscriber, consumer = catching_up_with(await make_memory(*"abcde"))
    assert (subscriber.waiting, len(subscriber), subscriber.queued_bytes) == (True, 0, 0)
    pages = []
    while subscriber.waiting:
        pages.append(data_of(subscriber.take(2 * len(block(1, "a")))))
    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    assert consumer.calls == []


async def test_a_replaying_subscriber_gets_events_published_meanwhile() -> None:
    """It reads them from the history. The replay is done with the newest one."""
    memory = await make_memory("a")
    subscriber, _ = catching_up_with(memory)
    assert data_of(subscriber.take(ALL)) == ["a"]
    assert not subscriber.waiting
    await publish(memory, "b")
    assert subscriber.waiting
    assert data_of(subscriber.take(ALL)) == ["b"]
    assert not subscriber.waiting


async def test_a_live_subscriber_takes_offered_events() -> None:
    """It reads the history no more."""
    memory = await make_memory("a")
    subscriber, consumer = catching_up_with(memory)
    subscriber.take(ALL)
    subscriber.go_live()
    await publish(memory, "kept elsewhere")
    assert (subscriber.catching_up, subscriber.waiting) == (None, False)
    offer(subscriber, "b")
    assert consumer.calls == ["on_ready"]
    assert data_of(subscriber.take(ALL)) == ["b"]


@pytest.mark.parametrize("reason", list(CloseReason))
async def test_a_subscriber_closed_during_its_replay_has_no_more_events(reason: CloseReason) -> None:
    """This holds for every reason: the rest stays in the history for its resumption."""
    subscriber, consumer = catching_up_with(await make_memory("a", "b"))
    subscriber.close(reason)
    assert (subscriber.closed, subscriber.catching_up, subscriber.waiting) == (reason, None, False)
    assert list(subscriber.take(ALL)) == []
    assert consumer.calls == [f"on_closed {reason}"]


# Counters and ages of a subscriber.


def test_taken_and_dropped_events_are_counted() -> None:
    """A `$reset` counts as an event taken. A dropped event counts once."""
    subscriber, _, _ = subscriber_with(Overflow.DROP_OLDEST)
    offer(subscriber, "a", "b", "c", "d", "e")
    assert (subscriber.behind, subscriber.taken, subscriber.dropped) == (3, 0, 2)
    subscriber.take(ALL)
    assert (subscriber.behind, subscriber.taken, subscriber.dropped) == (0, 4, 2)
    offer(subscriber, "f", "g", "h", "i")
    subscriber.take(1)
    assert (subscriber.behind, subscriber.taken, subscriber.dropped) == (3, 5, 3)


@pytest.mark.parametrize("overflow", list(Overflow))
def test_the_time_of_the_oldest_queued_event_is_known(overflow: Overflow) -> None:
    """An empty queue has none."""
    subscriber, _, _ = subscriber_with(overflow)
    assert subscriber.oldest is None
    offer(subscriber, "a", "b")
    assert subscriber.oldest == 1_700_000_000.0
    subscriber.take(ALL)
    assert subscriber.oldest is None


@pytest.mark.parametrize("reason", CloseReason)
def test_the_consumer_is_called_on_close_before_the_queue_is_dropped(reason: CloseReason) -> None:
    """It can log what was left."""
    subscriber, consumer, _ = subscriber_with()
    offer(subscriber, "a", "b")
    found: list[int] = []
    consumer.on_close = lambda: found.append(len(subscriber))
    subscriber.close(reason)
    assert found == [2]


def test_a_queue_is_kept_for_a_graceful_close_only() -> None:
    """A revoked subscriber gets none of it."""
    kept = []
    for reason in CloseReason:
        subscriber, _, _ = subscriber_with()
        offer(subscriber, "a", "b")
        subscriber.close(reason)
        if subscriber.waiting:
            kept.append(reason.value)
            assert data_of(subscriber.take(ALL)) == ["a", "b"]
    assert kept == ["drain", "expired", "lifetime", "disconnected"]
