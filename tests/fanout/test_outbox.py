"""Outbox: one subscriber's way to its sink, in its group or with its own queue."""

import pytest

from sse_broadcast.backends.base import StartPoint
from sse_broadcast.event import Event
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.subscriber import AFTER_QUEUE, CloseReason
from sse_broadcast.fanout.writers import NOT_LISTED
from sse_broadcast.publication import Draft
from tests.support.groups import DEFAULT, MANY, RecordedGroup, begin_pass, end_pass
from tests.support.internals import set_clock
from tests.support.memory_sinks import data_of, make_memory, publication, terms


class Clock:
    """A wall clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_an_outbox_that_leaves_to_its_own_queue_takes_the_rest_of_the_log(group: RecordedGroup) -> None:
    """Its queue has the unwritten events in order, and later ones after them."""
    outbox = group.add()
    group.publish("a", "b")
    begin_pass(group, limit=1, to=1)
    outbox.leave_to_own_queue()
    group.publish("c")
    assert data_of(outbox.subscriber.take(MANY)) == ["b", "c"]
    assert (group.followers, group.following) == ([], 0)
    assert (outbox.following, outbox.index) == (False, NOT_LISTED)


def test_an_outbox_leaves_to_its_own_queue_once(group: RecordedGroup) -> None:
    outbox, _ = group.add(), group.add()
    group.publish("a")
    outbox.leave_to_own_queue()
    outbox.leave_to_own_queue()
    assert data_of(outbox.subscriber.take(MANY)) == ["a"]


def test_an_outbox_that_leaves_its_group_takes_nothing(group: RecordedGroup) -> None:
    """The unwritten events are dropped. Leaving twice changes nothing."""
    outbox, other = group.add(), group.add()
    group.publish("a")
    outbox.leave_group()
    outbox.leave_group()
    group.publish("b")
    assert (outbox.following, outbox.index, len(outbox.subscriber)) == (False, NOT_LISTED, 0)
    assert (group.followers, group.following) == ([other], 1)
    assert group.queued == {}


def test_an_outbox_that_rejoins_begins_at_the_end(group: RecordedGroup) -> None:
    """Its own queue is empty, so it has everything, and waits for the next event."""
    outbox, other = group.add(), group.add()
    outbox.leave_to_own_queue()
    group.publish("a")
    outbox.subscriber.take(MANY)
    outbox.join_group()
    assert (outbox.offset, other.offset, group.end) == (1, 0, 1)
    assert group.queued == {}


async def test_a_replaying_outbox_is_given_nothing_published(group: RecordedGroup) -> None:
    """It reads the events from the history. Before it joins, nothing is logged or queued for it."""
    memory = await make_memory("before")
    outbox = group.outbox(Replay(memory, DEFAULT, StartPoint(0), terms()[1]))
    group.publish("a")
    assert (group.log, len(outbox.subscriber), group.scheduler.calls) == ([], 0, [])
    outbox.leave_to_own_queue()
    assert (group.queued, outbox.following) == ({}, False)
    outbox.subscriber.take(MANY)
    outbox.join_group()
    assert (outbox.subscriber.catching_up, outbox.offset) == (None, group.end)
    group.publish("b")
    assert data_of(group.log) == ["b"]


def test_an_outbox_forwards_the_reports_of_its_subscriber_and_its_sink(group: RecordedGroup) -> None:
    outbox = group.outbox()
    for number in range(4):
        outbox.subscriber.offer(publication(str(number)))
    outbox.on_drained()
    assert group.scheduler.calls == ["schedule_outbox", "flush_outbox", "on_closed slow", "on_drained"]


def test_a_late_joiner_may_leave(group: RecordedGroup) -> None:
    """It takes the rest of the log to its own queue."""
    group.add()
    group.publish("a")
    leaves, stays_behind = group.add(), group.add()
    group.publish("b")
    leaves.leave_group()
    stays_behind.leave_to_own_queue()
    assert group.late_joiners == {}
    assert data_of(stays_behind.subscriber.take(MANY)) == ["b"]


def test_the_next_index_of_a_pass_gives_the_offset_of_each_outbox(group: RecordedGroup) -> None:
    outboxes = [group.add() for _ in range(3)]
    group.publish("a", "b")
    begin_pass(group, limit=MANY, to=2)
    assert [outbox.offset for outbox in outboxes] == [2, 2, 0]
    assert [outbox.behind for outbox in outboxes] == [0, 0, 2]


def test_the_position_of_an_outbox_is_the_last_it_was_written(group: RecordedGroup) -> None:
    """A pass wrote it, or the outbox alone, as its first frames."""
    first, second = group.add(), group.add()
    second.last_position_sent = 7
    assert (first.position, second.position) == (0, 7)
    group.append(publication("a", position=8))
    group.append(publication("b", position=9))
    assert (first.position, second.position) == (0, 7)
    begin_pass(group, limit=1, to=1)
    assert (first.position, second.position) == (8, 7)
    assert list(group.writers.take(1)) == [second.writer]
    assert (first.position, second.position) == (8, 8)
    end_pass(group)
    assert (first.position, second.position) == (8, 8)
    third = group.add()  # A late joiner: it begins after the unwritten events.
    third.last_position_sent = 9
    assert third.position == 9


def test_an_outbox_that_leaves_to_its_own_queue_keeps_its_position(group: RecordedGroup) -> None:
    """The position shared with its group is its own from then on."""
    stays_behind, leaves = group.add(), group.add()
    group.publish("a", "b")
    begin_pass(group, limit=1, to=1)
    stays_behind.leave_to_own_queue()
    leaves.leave_to_own_queue()
    assert (stays_behind.position, leaves.position) == (1, 0)
    group.publish("c")
    assert (stays_behind.position, leaves.position) == (1, 0)


# What is computed on demand.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the wall clock to the time of all publications here."""
    clock = Clock(1_700_000_000.0)
    monkeypatch.setattr("sse_broadcast.clock.now", clock)
    return clock


def known(outbox: Outbox) -> tuple[int, int, int, float]:
    return outbox.given, outbox.behind, outbox.waiting_bytes, outbox.lag


def test_the_offset_gives_the_sent_and_the_queued_events(group: RecordedGroup, clock: Clock) -> None:
    """Nothing is counted: two outboxes share a log, and one has an event more."""
    group.publish("before")
    ahead, behind = group.add(), group.add()
    assert known(ahead) == known(behind) == (0, 0, 0, 0.0)
    group.publish("a", "b", "c")
    clock.now += 7
    begin_pass(group, limit=48, to=1)
    assert known(ahead) == (2, 1, 24, 7.0)
    assert known(behind) == (0, 3, 72, 7.0)
    list(group.writers.take(1))
    end_pass(group)
    assert known(ahead) == known(behind) == (2, 1, 24, 7.0)
    begin_pass(group, limit=MANY, to=2)
    assert known(ahead) == known(behind) == (3, 0, 0, 0.0)
    end_pass(group)
    assert known(ahead) == known(behind) == (3, 0, 0, 0.0)


def test_a_clock_set_back_makes_no_negative_lag(group: RecordedGroup, clock: Clock) -> None:
    """An event published in the future counts as published now."""
    outbox = group.add()
    group.publish("a")
    clock.now -= 60
    assert outbox.lag == 0.0


def test_an_outbox_that_leaves_to_its_own_queue_keeps_its_count(group: RecordedGroup, clock: Clock) -> None:
    """In its group or its own queue, each event counts once, when it is taken."""
    outbox = group.add()
    group.publish("a", "b")
    clock.now += 3
    begin_pass(group, limit=24, to=1)
    outbox.leave_to_own_queue()
    assert known(outbox) == (1, 1, 24, 3.0)
    end_pass(group)
    group.drop_delivered(1)
    group.publish("c")
    assert known(outbox) == (1, 2, 48, 3.0)
    outbox.subscriber.take(MANY)
    assert known(outbox) == (3, 0, 0, 0.0)
    outbox.join_group()
    group.publish("d")
    begin_pass(group, limit=MANY, to=1)
    assert known(outbox) == (4, 0, 0, 0.0)


async def test_a_replaying_outbox_is_behind_by_the_rest_of_the_history(
    group: RecordedGroup, clock: Clock
) -> None:
    """Replayed events count as sent like any other."""
    memory = await make_memory()
    set_clock(memory, clock)
    for data in "abc":
        await memory.publish([Draft(("default",), Event(data))])
        clock.now += 10
    outbox = group.outbox(Replay(memory, DEFAULT, StartPoint(0), terms()[1]))
    assert known(outbox) == (0, 3, 0, 30.0)
    outbox.subscriber.take(1)
    assert known(outbox) == (1, 2, 0, 20.0)
    outbox.subscriber.take(MANY)
    assert known(outbox) == (3, 0, 0, 0.0)
    outbox.join_group()
    assert known(outbox) == (3, 0, 0, 0.0)


@pytest.mark.parametrize("reason", CloseReason)
@pytest.mark.parametrize("to_own_queue", [False, True])
def test_the_backlog_of_an_ended_outbox_is_kept(
    group: RecordedGroup, clock: Clock, reason: CloseReason, *, to_own_queue: bool
) -> None:
    """This holds whether its queue is still written or not."""
    outbox = group.add()
    group.publish("a")
    if to_own_queue:
        outbox.leave_to_own_queue()
    clock.now += 5
    outbox.subscriber.close(reason)
    clock.now += 5
    assert (outbox.waited, outbox.given) == (5.0, 0)
    assert len(outbox.subscriber) == (to_own_queue and reason in AFTER_QUEUE)


def test_an_outbox_that_ends_without_backlog_was_not_behind(group: RecordedGroup) -> None:
    """The age of the last event does not matter."""
    outbox = group.add()
    outbox.subscriber.close(CloseReason.LEFT)
    assert outbox.waited == 0.0
