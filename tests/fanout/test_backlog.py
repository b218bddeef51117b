"""What waits for whom, however many they are."""

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
    """Return how many are in each bucket by itself."""
    upto = [count for _, count in distribution.cumulated()]
    return [upto[0], *(after - before for before, after in itertools.pairwise(upto))]


async def test_nobody_is_counted_where_nobody_is() -> None:
    backlog = await make_broadcaster().backlog()
    assert (backlog.queued_events.count, backlog.queued_bytes.count, backlog.replaying) == (0, 0, 0)


async def test_what_waits_in_a_log_is_counted_for_each_place_in_it(broadcaster: Broadcaster) -> None:
    """Outboxes that joined before, between and after two events that are yet to be written."""
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


async def test_what_waits_in_a_queue_of_ones_own_is_counted(broadcaster: Broadcaster) -> None:
    """Of a reader whose socket is full, and of a program that does not iterate."""
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


async def test_who_is_catching_up_is_counted_as_such(broadcaster: Broadcaster) -> None:
    """What it has yet to get is in the history, and nowhere else."""
    await publish(broadcaster, "a")
    outbox, _ = connect(broadcaster, since="earliest")
    backlog = await broadcaster.backlog()
    assert (backlog.replaying, backlog.queued_events.count) == (1, 0)
    await until(lambda: outbox.following)
    backlog = await broadcaster.backlog()
    assert (backlog.replaying, backlog.queued_events.count) == (0, 1)


async def test_the_loop_turns_between_two_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape is nobody's wait: neither of many subscribers of one channel nor of many channels."""
    broadcaster = make_broadcaster(subscribed_channels=100_000)
    # What is published waits as long as the collection takes: with nothing to compare that would be shorter.
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


async def test_who_leaves_meanwhile_is_no_harm(
    monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster
) -> None:
    """Subscribers, and the group as a whole, that are gone when it is their turn."""
    monkeypatch.setattr(Dispatcher, "schedule_group", lambda *_: None)
    monkeypatch.setattr(backlog_module, "SUBSCRIBERS_PER_TURN", COMPARED_AT_ONCE)
    outboxes = [connect(broadcaster)[0] for _ in range(2 * COMPARED_AT_ONCE)]
    await publish(broadcaster, "a")
    taking = asyncio.ensure_future(broadcaster.backlog())
    await asyncio.sleep(0)
    for outbox in outboxes:
        broadcaster.disconnect(outbox)
    assert (await taking).queued_events.count == COMPARED_AT_ONCE


def test_a_portion_is_made_of_steps() -> None:
    """Or it would be larger than it says."""
    assert backlog_module.SUBSCRIBERS_PER_TURN % backlog_module.COMPARED_AT_ONCE == 0
