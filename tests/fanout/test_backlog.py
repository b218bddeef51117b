"""Backlog statistics: queued events and lag, over all subscribers."""

import asyncio
import itertools

import pytest

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.fanout import backlog as backlog_module
from sse_broadcast.fanout.backlog import COMPARED_AT_ONCE, SUBSCRIBERS_PER_TURN
from sse_broadcast.fanout.dispatcher import Dispatcher
from sse_broadcast.metrics import Distribution
from tests.support.dispatching import publish
from tests.support.memory_sinks import connect, make_broadcaster
from tests.support.sockets import until


def observed(distribution: Distribution) -> list[int]:
    """Return the number of observations in each bucket alone."""
    upto = [count for _, count in distribution.cumulated()]
    return [upto[0], *(after - before for before, after in itertools.pairwise(upto))]


async def test_without_subscribers_nothing_is_counted() -> None:
    backlog = await make_broadcaster().backlog()
    assert (backlog.queued_events.count, backlog.queued_bytes.count, backlog.replaying) == (0, 0, 0)


async def test_the_unwritten_part_of_a_log_is_counted_per_outbox(broadcaster: Broadcaster) -> None:
    """The outboxes joined before, between and after two unwritten events."""
    connect(broadcaster)
    await broadcaster.broadcast("a")
    connect(broadcaster)
    await broadcaster.broadcast("b" * 2000)
    outbox, _ = connect(broadcaster)
    one, other = outbox.group.log
    backlog = await broadcaster.backlog()
    assert observed(backlog.queued_events) == [1, 1, 1, 0, 0, 0, 0, 0]
    assert backlog.queued_events.total == 3
    assert observed(backlog.queued_bytes) == [1, 0, 2, 0, 0, 0, 0, 0, 0]
    assert backlog.queued_bytes.total == one.size + 2 * other.size


async def test_events_in_a_subscribers_own_queue_are_counted(broadcaster: Broadcaster) -> None:
    """One subscriber has a full socket, the other is a program that does not iterate."""
    outbox, sink = connect(broadcaster)
    stream = broadcaster.subscribe("default")
    async with stream:
        sink.takes_more = False
        await broadcaster.broadcast("a")
        await until(lambda: outbox.blocked)
        await publish(broadcaster, "b", "c")
        backlog = await broadcaster.backlog()
    assert backlog.queued_events.total == 2 + 3
    assert backlog.queued_events.count == 2
    assert backlog.queued_bytes.total == sum(each.queued_bytes for each in (outbox.subscriber,)) / 2 * 5


async def test_a_replaying_subscriber_has_its_backlog_in_the_history(broadcaster: Broadcaster) -> None:
    """Its own queue is empty."""
    await publish(broadcaster, "a")
    outbox, _ = connect(broadcaster, since="earliest")
    backlog = await broadcaster.backlog()
    assert (backlog.replaying, backlog.queued_events.count) == (1, 0)
    await until(lambda: outbox.following)
    backlog = await broadcaster.backlog()
    assert (backlog.replaying, backlog.queued_events.count) == (0, 1)


async def test_collection_yields_between_two_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape delays no event, with many subscribers of one channel or with many channels."""
    broadcaster = make_broadcaster(subscribed_channels=100_000)
    # Without another task ready, the event would wait for the whole collection.
    monkeypatch.setattr(Dispatcher, "schedule_group", lambda *_: None)
    for number in range(2 * SUBSCRIBERS_PER_TURN + COMPARED_AT_ONCE):
        connect(broadcaster)
        connect(broadcaster, f"c{number}")
    await publish(broadcaster, "a")
    turns = 0
    taking = asyncio.ensure_future(broadcaster.backlog())
    while not taking.done():
        turns += 1
        await asyncio.sleep(0)
    backlog = taking.result()
    assert turns >= 4
    assert backlog.queued_events.count == 2 * (2 * SUBSCRIBERS_PER_TURN + COMPARED_AT_ONCE)


async def test_subscribers_may_leave_during_the_collection(
    monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster
) -> None:
    """They and their whole group are gone when their turn comes."""
    monkeypatch.setattr(Dispatcher, "schedule_group", lambda *_: None)
    monkeypatch.setattr(backlog_module, "SUBSCRIBERS_PER_TURN", COMPARED_AT_ONCE)
    outboxes = [connect(broadcaster)[0] for _ in range(2 * COMPARED_AT_ONCE)]
    await publish(broadcaster, "a")
    taking = asyncio.ensure_future(broadcaster.backlog())
    await asyncio.sleep(0)
    for outbox in outboxes:
        broadcaster.disconnect(outbox)
    assert (await taking).queued_events.count == COMPARED_AT_ONCE


def test_a_slice_is_a_whole_number_of_steps() -> None:
    """Otherwise a slice would be larger than its size says."""
    assert backlog_module.SUBSCRIBERS_PER_TURN % backlog_module.COMPARED_AT_ONCE == 0
