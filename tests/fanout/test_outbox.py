"""One subscriber's way to its sink, in its group and with its own queue."""

import pytest

from sse_broadcast.backends.base import StartPoint
from sse_broadcast.backends.memory.backend import open_memory
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.event import Event
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.subscriber import AFTER_QUEUE, CloseReason
from sse_broadcast.fanout.writers import NOT_LISTED
from sse_broadcast.publication import Draft
from tests.support.groups import (
    DEFAULT,
    MANY,
    add_outbox,
    begin_pass,
    end_pass,
    make_group,
    make_outbox,
    publish,
)
from tests.support.memory_sinks import data_of, publication, terms


class Clock:
    """A time of the day that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_an_outbox_that_leaves_to_its_own_queue_takes_the_rest_of_the_log_along() -> None:
    """What it had not been given is in its queue, in order, and what comes later behind it."""
    group, scheduler = make_group()
    outbox = add_outbox(group, scheduler)
    publish(group, "a", "b")
    begin_pass(group, limit=1, to=1)
    outbox.leave_to_own_queue()
    publish(group, "c")
    assert data_of(outbox.subscriber.take(MANY)) == ["b", "c"]
    assert (group.followers, group.following) == ([], 0)
    assert (outbox.following, outbox.index) == (False, NOT_LISTED)


def test_an_outbox_leaves_to_its_own_queue_once() -> None:
    """What is in its own queue is not offered to it again."""
    group, scheduler = make_group()
    outbox, _ = add_outbox(group, scheduler), add_outbox(group, scheduler)
    publish(group, "a")
    outbox.leave_to_own_queue()
    outbox.leave_to_own_queue()
    assert data_of(outbox.subscriber.take(MANY)) == ["a"]


def test_an_outbox_that_leaves_its_group_takes_nothing_along() -> None:
    """What it had not been given is abandoned, and leaving twice is leaving once."""
    group, scheduler = make_group()
    outbox, other = add_outbox(group, scheduler), add_outbox(group, scheduler)
    publish(group, "a")
    outbox.leave_group()
    outbox.leave_group()
    publish(group, "b")
    assert (outbox.following, outbox.index, len(outbox.subscriber)) == (False, NOT_LISTED, 0)
    assert (group.followers, group.following) == ([other], 1)
    assert group.queued == {}


def test_an_outbox_that_joins_again_begins_at_the_end() -> None:
    """Once its own queue is empty it has everything, and waits for what comes next."""
    group, scheduler = make_group()
    outbox, other = add_outbox(group, scheduler), add_outbox(group, scheduler)
    outbox.leave_to_own_queue()
    publish(group, "a")
    outbox.subscriber.take(MANY)
    outbox.join_group()
    assert (outbox.offset, other.offset, group.end) == (1, 0, 1)
    assert group.queued == {}


async def test_an_outbox_that_catches_up_is_given_nothing_that_is_published() -> None:
    """It finds it in the history: nothing is logged for it, and nothing queued, before it follows."""
    config = Config()
    memory = open_memory(config, ChannelPolicies(config), lambda _: 0)
    await memory.publish([Draft(("default",), Event("before"))])
    group, scheduler = make_group()
    outbox = make_outbox(group, scheduler, Replay(memory, DEFAULT, StartPoint(0), terms()[1]))
    publish(group, "a")
    assert (group.log, len(outbox.subscriber), scheduler.calls) == ([], 0, [])
    outbox.leave_to_own_queue()
    assert (group.queued, outbox.following) == ({}, False)
    outbox.subscriber.take(MANY)
    outbox.join_group()
    assert (outbox.subscriber.catching_up, outbox.offset) == (None, group.end)
    publish(group, "b")
    assert data_of(group.log) == ["b"]


def test_an_outbox_passes_on_what_its_subscriber_and_its_sink_report() -> None:
    """To its scheduler."""
    group, scheduler = make_group()
    outbox = make_outbox(group, scheduler)
    for number in range(4):
        outbox.subscriber.offer(publication(str(number)))
    outbox.on_drained()
    assert scheduler.calls == ["schedule_outbox", "flush_outbox", "on_closed slow", "on_drained"]


def test_a_late_joiner_may_leave() -> None:
    """And takes the rest of the log along to its own queue."""
    group, scheduler = make_group()
    add_outbox(group, scheduler)
    publish(group, "a")
    leaves, stays_behind = add_outbox(group, scheduler), add_outbox(group, scheduler)
    publish(group, "b")
    leaves.leave_group()
    stays_behind.leave_to_own_queue()
    assert group.late_joiners == {}
    assert data_of(stays_behind.subscriber.take(MANY)) == ["b"]


def test_the_next_index_of_a_pass_gives_the_offset_of_each_outbox() -> None:
    """Nothing is stored for any of them."""
    group, scheduler = make_group()
    outboxes = [add_outbox(group, scheduler) for _ in range(3)]
    publish(group, "a", "b")
    begin_pass(group, limit=MANY, to=2)
    assert [outbox.offset for outbox in outboxes] == [2, 2, 0]
    assert [outbox.behind for outbox in outboxes] == [0, 0, 2]


def test_the_position_of_an_outbox_is_that_of_the_last_it_was_given() -> None:
    """By a pass that has written to it, or alone, as by its first frames."""
    group, scheduler = make_group()
    first, second = add_outbox(group, scheduler), add_outbox(group, scheduler)
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
    third = add_outbox(group, scheduler)  # late: it begins behind what waits
    third.last_position_sent = 9
    assert third.position == 9


def test_an_outbox_that_leaves_to_its_own_queue_keeps_its_position() -> None:
    """The position that it shared with its group is its own from then on."""
    group, scheduler = make_group()
    stays_behind, leaves = add_outbox(group, scheduler), add_outbox(group, scheduler)
    publish(group, "a", "b")
    begin_pass(group, limit=1, to=1)
    stays_behind.leave_to_own_queue()
    leaves.leave_to_own_queue()
    assert (stays_behind.position, leaves.position) == (1, 0)
    publish(group, "c")
    assert (stays_behind.position, leaves.position) == (1, 0)


# What is computed on demand.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the time of day to when everything here is published."""
    clock = Clock(1_700_000_000.0)
    monkeypatch.setattr("sse_broadcast.clock.now", clock)
    return clock


def known(outbox: Outbox) -> tuple[int, int, int, float]:
    return outbox.given, outbox.behind, outbox.waiting_bytes, outbox.lag


def test_the_offset_says_what_an_outbox_was_given_and_what_waits(clock: Clock) -> None:
    """Nothing is counted: two outboxes follow one log, and one has an event more."""
    group, scheduler = make_group()
    publish(group, "before")
    ahead, behind = add_outbox(group, scheduler), add_outbox(group, scheduler)
    assert known(ahead) == known(behind) == (0, 0, 0, 0.0)
    publish(group, "a", "b", "c")
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


def test_a_clock_that_was_set_back_makes_no_negative_lag(clock: Clock) -> None:
    """What was published in a future that has not come is published now."""
    group, scheduler = make_group()
    outbox = add_outbox(group, scheduler)
    publish(group, "a")
    clock.now -= 60
    assert outbox.lag == 0.0


def test_an_outbox_that_leaves_to_its_own_queue_keeps_its_count(clock: Clock) -> None:
    """Through its own queue and back to the log: each event counts once, when it is taken."""
    group, scheduler = make_group()
    outbox = add_outbox(group, scheduler)
    publish(group, "a", "b")
    clock.now += 3
    begin_pass(group, limit=24, to=1)
    outbox.leave_to_own_queue()
    assert known(outbox) == (1, 1, 24, 3.0)
    end_pass(group)
    group.drop_delivered(1)
    publish(group, "c")
    assert known(outbox) == (1, 2, 48, 3.0)
    outbox.subscriber.take(MANY)
    assert known(outbox) == (3, 0, 0, 0.0)
    outbox.join_group()
    publish(group, "d")
    begin_pass(group, limit=MANY, to=1)
    assert known(outbox) == (4, 0, 0, 0.0)


async def test_an_outbox_that_catches_up_is_behind_by_what_the_history_has(clock: Clock) -> None:
    """What it was given of that counts as any other."""
    config = Config()
    memory = open_memory(config, ChannelPolicies(config), lambda _: 0)
    memory._clock = clock
    for data in "abc":
        await memory.publish([Draft(("default",), Event(data))])
        clock.now += 10
    group, scheduler = make_group()
    outbox = make_outbox(group, scheduler, Replay(memory, DEFAULT, StartPoint(0), terms()[1]))
    assert known(outbox) == (0, 3, 0, 30.0)
    outbox.subscriber.take(1)
    assert known(outbox) == (1, 2, 0, 20.0)
    outbox.subscriber.take(MANY)
    assert known(outbox) == (3, 0, 0, 0.0)
    outbox.join_group()
    assert known(outbox) == (3, 0, 0, 0.0)


@pytest.mark.parametrize("reason", CloseReason)
@pytest.mark.parametrize("to_own_queue", [False, True])
def test_what_an_outbox_was_behind_when_it_ended_is_kept(
    clock: Clock, reason: CloseReason, *, to_own_queue: bool
) -> None:
    """Whether what waited is still given to it or not."""
    group, scheduler = make_group()
    outbox = add_outbox(group, scheduler)
    publish(group, "a")
    if to_own_queue:
        outbox.leave_to_own_queue()
    clock.now += 5
    outbox.subscriber.close(reason)
    clock.now += 5
    assert (outbox.waited, outbox.given) == (5.0, 0)
    assert len(outbox.subscriber) == (to_own_queue and reason in AFTER_QUEUE)


def test_an_outbox_that_ends_with_nothing_to_get_was_not_behind() -> None:
    """However long ago the last event was."""
    group, scheduler = make_group()
    outbox = add_outbox(group, scheduler)
    outbox.subscriber.close(CloseReason.LEFT)
    assert outbox.waited == 0.0
