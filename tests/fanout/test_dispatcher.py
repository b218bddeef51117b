"""Dispatcher: passes over groups, replay, full sinks and the ends of streams, over sinks in memory."""

import asyncio
import itertools
import random
import weakref

import pytest

from sse_broadcast import wire
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import ChannelRule, Overflow
from sse_broadcast.cursor import Keyword
from sse_broadcast.encoding import CHUNKED_TEXT, JSON, NDJSON, TEXT, Encoding
from sse_broadcast.event import Event
from sse_broadcast.fanout import dispatcher as dispatcher_module
from sse_broadcast.fanout.dispatcher import SLICE_SECONDS, TURN, WRITE_LIMIT
from sse_broadcast.fanout.idle import FAR_BEHIND
from sse_broadcast.fanout.outbox import OUTBOXES_PER_TURN, Outbox
from sse_broadcast.fanout.subscriber import CloseReason
from tests.support.dispatching import (
    LARGE,
    CostlySink,
    LoopClock,
    beat,
    blocks,
    deliver,
    drain,
    pass_by,
    publish,
    require_closed,
    run_slice,
    runs,
    settled,
)
from tests.support.internals import backend_of
from tests.support.memory_sinks import EPOCH, Away, MemorySink, block, connect
from tests.support.memory_sinks import make_broadcaster as make
from tests.support.sockets import until


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the slice after one turn of a group."""
    monkeypatch.setattr(dispatcher_module, "SLICE_SECONDS", 1e-6)


async def test_every_outbox_gets_everything_in_order(broadcaster: Broadcaster) -> None:
    """There are more outboxes than a turn writes to, and more events than a pass has."""
    sinks = [connect(broadcaster)[1] for _ in range(3 * OUTBOXES_PER_TURN + 1)]
    await publish(broadcaster, *range(5))
    everything = blocks(*range(5))
    await until(lambda: all(len(sink.data) == len(everything) for sink in sinks))
    assert {sink.data for sink in sinks} == {everything}


async def test_events_published_before_a_slice_are_written_together(broadcaster: Broadcaster) -> None:
    """The slice does not wait for later events."""
    _, sink = connect(broadcaster)
    await publish(broadcaster, "a", "b")
    await settled()
    await deliver(broadcaster, "c")
    assert sink.written == [blocks("a", "b"), block(3, "c")]


async def test_a_write_is_limited_in_bytes(broadcaster: Broadcaster) -> None:
    """A longer backlog is several writes, each of whole frames."""
    _, sink = connect(broadcaster)
    await publish(broadcaster, *[LARGE] * 5)
    await until(lambda: sink.data == blocks(*[LARGE] * 5))
    assert [data.count(b"id: ") for data in sink.written] == [2, 2, 1]
    assert all(len(data) <= WRITE_LIMIT for data in sink.written)


async def test_a_late_joiner_gets_only_later_events(broadcaster: Broadcaster) -> None:
    """It joins while older events wait for other outboxes."""
    _, first = connect(broadcaster)
    await broadcaster.broadcast("a")
    _, second = connect(broadcaster)
    await deliver(broadcaster, "b")
    assert first.data == blocks("a", "b")
    assert second.data == block(2, "b")


@pytest.mark.usefixtures("one_turn")
async def test_many_outboxes_can_join_during_a_pass(broadcaster: Broadcaster) -> None:
    """Each gets the events after it joined. An outbox that leaves meanwhile gets nothing."""
    outbox, first = connect(broadcaster)
    await publish(broadcaster, "a")
    connected = [connect(broadcaster) for _ in range(2 * OUTBOXES_PER_TURN + 1)]
    await publish(broadcaster, "b")
    group = outbox.group
    turns = 0
    while group.log:
        await run_slice()
        turns += 1
        if turns == 2:
            broadcaster.disconnect(connected.pop()[0])
    assert turns == 1 + 3
    assert first.data == blocks("a", "b")
    assert {sink.data for _, sink in connected} == {block(2, "b")}
    assert {outbox.offset for outbox, _ in connected} == {group.end}
    assert (len(group.writers), group.late_joiners) == (1 + 2 * OUTBOXES_PER_TURN, {})
    assert broadcaster.metrics.events_written == 2 + 2 * OUTBOXES_PER_TURN


async def test_a_late_joiner_filled_by_its_first_write_has_that_write(broadcaster: Broadcaster) -> None:
    """Its own queue holds nothing of it."""
    connect(broadcaster)
    await broadcaster.broadcast("a")
    outbox, sink = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, "b")
    assert (sink.data, outbox.behind, outbox.following) == (block(2, "b"), 0, False)
    sink.drain()
    await deliver(broadcaster, "c")
    assert sink.data == block(2, "b") + block(3, "c")


async def test_a_pass_without_members_is_not_late(broadcaster: Broadcaster) -> None:
    """The unwritten events of outboxes that left no longer count as lag."""
    for _ in range(2):
        outbox, _ = connect(broadcaster)
        await broadcaster.broadcast("a")
        broadcaster.disconnect(outbox)
        await settled()
    assert broadcaster.metrics.delay.count == 0


@pytest.mark.usefixtures("one_turn")
async def test_a_late_joiner_that_fills_gets_nothing_twice(broadcaster: Broadcaster) -> None:
    """It rejoins its group during the same pass, having the events of that pass already."""
    connect(broadcaster)
    await publish(broadcaster, "a")
    connected = [connect(broadcaster) for _ in range(2 * OUTBOXES_PER_TURN + 1)]
    await publish(broadcaster, "b")
    outbox, sink = connected[-1]
    await run_slice()
    outbox.on_full()
    outbox.on_drained()
    await run_slice()
    assert (sink.data, outbox.following) == (block(2, "b"), True)
    assert outbox.group.batch is not None
    await settled()
    assert not outbox.group.log
    await deliver(broadcaster, "c")
    assert {tuple(sink.written) for _, sink in connected} == {(block(2, "b"), block(3, "c"))}


async def test_a_sink_that_fills_and_then_fails_disturbs_no_other(broadcaster: Broadcaster) -> None:
    """It has left the writer list before it fails. The sinks behind it are written to."""

    class Filling(MemorySink):
        def write(self, data: bytes) -> None:
            super().write(data)
            raise RuntimeError("broken")

    sinks = [MemorySink(), Filling(), MemorySink()]
    for sink in sinks:
        connect(broadcaster, sink=sink)
    sinks[1].takes_more = False
    await deliver(broadcaster, "a")
    assert [sink.data for sink in sinks] == [block(1, "a")] * 3
    assert broadcaster.counts.closed == {"error": 1}
    assert broadcaster.metrics.events_written == 2


async def test_a_full_sink_is_not_written_to_until_it_has_emptied(broadcaster: Broadcaster) -> None:
    """Its events wait in its own queue, in order, while others go on. Then it rejoins its group."""
    outbox, slow = connect(broadcaster)
    _, other = connect(broadcaster)
    slow.takes_more = False
    await deliver(broadcaster, "a")
    await publish(broadcaster, "b", "c")
    await settled()
    assert (slow.data, len(outbox.subscriber)) == (block(1, "a"), 2)
    assert other.data == blocks("a", "b", "c")
    await drain(slow)
    await deliver(broadcaster, "d")
    assert slow.data == blocks("a", "b", "c", "d")
    assert outbox.following


async def test_a_sink_that_fills_during_a_pass_loses_nothing_published_meanwhile() -> None:
    """Events logged after the pass that filled it are in its queue."""
    broadcaster = make()
    _outbox, sink = connect(broadcaster, takes_more=False)
    await publish(broadcaster, *[LARGE] * 4)
    await settled()
    assert len(sink.written) == 1
    sink.drain()
    await until(lambda: sink.data == blocks(*[LARGE] * 4))


async def test_a_burst_larger_than_the_queue_drops_nothing_of_a_fast_subscriber() -> None:
    """A program that publishes without pause disconnects no healthy subscriber."""
    broadcaster = make(queue_size=10, overflow=Overflow.DISCONNECT)
    _, sink = connect(broadcaster)
    await publish(broadcaster, *range(1000))
    await settled()
    assert sink.data == blocks(*range(1000))
    assert broadcaster.client_count == 1


@pytest.mark.parametrize(("fault", "reason"), [("gone", "left"), ("broken", "error")])
@pytest.mark.parametrize("since", [None, "earliest"])
async def test_a_sink_that_fails_disturbs_no_other(
    broadcaster: Broadcaster, fault: str, reason: str, since: str | None
) -> None:
    """It is removed at its next write, live or in its replay, and its owner is called. The pass goes on."""
    if since:
        await publish(broadcaster, "a")
    (_, before), (outbox, failing), (_, after) = [connect(broadcaster, since=since) for _ in range(3)]
    setattr(failing, fault, True)
    if not since:
        await publish(broadcaster, "a")
    await settled()
    assert broadcaster.counts.closed == {reason: 1}
    assert (outbox.subscriber.catching_up, outbox.following, broadcaster.client_count) == (None, False, 2)
    assert failing.aborted if fault == "broken" else failing.closed
    await deliver(broadcaster, "b")
    assert before.data == after.data == blocks("a", "b")
    assert failing.written == []


async def test_an_overflowing_subscriber_gets_close_if_its_sink_is_not_full() -> None:
    """Its queue is dropped, it gets `$close`, and its stream ends."""
    broadcaster = make(queue_size=1)
    outbox, sink = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, "a", "b", "c")
    assert outbox.subscriber.closed is CloseReason.SLOW
    assert (broadcaster.client_count, len(outbox.subscriber)) == (0, 0)
    await drain(sink)
    assert sink.written[0] == block(1, "a")
    require_closed(sink.written[1], "slow", 1)
    assert (len(sink.written), sink.closed, sink.aborted) == (2, 1, 0)


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_a_subscriber_that_falls_behind_gets_a_reset(overflow: Overflow) -> None:
    """It gets the kept events, and one `$reset` with the number of dropped ones."""
    broadcaster = make(queue_size=2, overflow=overflow)
    _outbox, sink = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, *range(6))
    await drain(sink)
    reset = b'event: $reset\ndata: {"reason": "slow", "channels": ["default"], "missed": 3}\n'
    kept = {
        Overflow.DROP_OLDEST: block(1, 0) + reset + b"id: 0123abcd-4\n\n" + blocks(4, 5, first=5),
        Overflow.DROP_NEWEST: blocks(0, 1, 2) + reset + b"id: 0123abcd-6\n\n",
    }
    assert sink.data == kept[overflow]
    assert broadcaster.counts.dropped == {overflow: 3}


async def test_closing_writes_the_queued_events_before_close(broadcaster: Broadcaster) -> None:
    """A server that stops delivers every event that it has acknowledged."""
    outbox, sink = connect(broadcaster)

    async def publish_and_close() -> None:
        # No slice runs between the two.
        await broadcaster.broadcast("a")
        await broadcaster.close(timeout=30)

    closing = asyncio.ensure_future(publish_and_close())
    await until(lambda: sink.closed == 1)
    broadcaster.disconnect(outbox)
    await closing
    first = block(1, "a")
    assert sink.data.startswith(first)
    require_closed(sink.data[len(first) :], "drain", 1)
    assert broadcaster.counts.closed == {"drain": 1}


async def test_a_burst_schedules_its_group_once(clock: LoopClock) -> None:
    """Emptying a full log gives its group no additional turns."""
    order: list[str] = []
    broadcaster = make(queue_size=10)
    sinks = [CostlySink(name, clock, 0.0, order) for name in "ab" * 2 * OUTBOXES_PER_TURN]
    for sink, name in zip(sinks, itertools.cycle("ab"), strict=False):
        connect(broadcaster, name, sink=sink)
    await publish(broadcaster, *range(95), channels=["a"])
    await publish(broadcaster, 95, channels=["b"])
    order.clear()
    await settled()
    assert runs(order) == [("a", OUTBOXES_PER_TURN), ("b", OUTBOXES_PER_TURN)] * 2
    assert {sink.data for sink in sinks} == {blocks(*range(95)), block(96, 95)}
    assert all(all(sink.written) for sink in sinks)


@pytest.mark.parametrize("overflow", list(Overflow))
@pytest.mark.parametrize("queue_size", [1, 3])
async def test_an_event_for_a_full_queue_and_a_drained_sink_keeps_its_place(
    overflow: Overflow, queue_size: int
) -> None:
    """Between the drain and the next slice the queue is written first, so that no later event overtakes."""
    broadcaster = make(queue_size=queue_size, overflow=overflow)
    outbox, sink = connect(broadcaster)
    _, other = connect(broadcaster)
    sink.takes_more = False
    for number in range(1 + queue_size):
        await broadcaster.broadcast(str(number))
        if number == 0:
            await settled()
    sink.drain()
    for number in range(1 + queue_size, 4 + 3 * queue_size):
        await broadcaster.broadcast(str(number))
        assert not (outbox.following and len(outbox.subscriber))
    await settled()
    everything = blocks(*range(4 + 3 * queue_size))
    assert other.data == everything
    assert sink.data == everything


async def test_close_is_written_once(broadcaster: Broadcaster) -> None:
    """The outbox has just drained, or a heartbeat is due, in the turn in which it ends."""
    outbox, sink = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, "a")
    await broadcaster.broadcast("b")
    sink.drain()
    outbox.heartbeat_due = True
    outbox.on_ready()
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await settled()
    assert sink.data.count(b"$close") == 1
    require_closed(sink.written[-1], "drain", 2)
    broadcaster.disconnect(outbox)
    await closing


async def test_a_conflating_subscriber_that_falls_behind_keeps_the_newest_of_each_key() -> None:
    """Each is at the place of its newest event, and there is no `$reset`."""
    broadcaster = make(queue_size=2, overflow=Overflow.CONFLATE)
    _outbox, sink = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, "first")
    for number in range(6):
        await broadcaster.broadcast(str(number), key=f"k{number % 2}")
    await drain(sink)
    assert sink.data == block(1, "first") + block(6, 4) + block(7, 5)
    assert (broadcaster.counts.dropped, broadcaster.counts.resets) == ({}, {})


@pytest.mark.parametrize("encoding", [TEXT, CHUNKED_TEXT])
async def test_close_has_the_reconnection_time_of_the_channels_policy(encoding: Encoding) -> None:
    """Its frame is in the encoding of the stream."""
    broadcaster = make(channel=(ChannelRule(match="a", retry=0),))
    _, sink = connect(broadcaster, "a", sink=MemorySink(encoding))
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await until(lambda: sink.closed == 1)
    reported = b'event: $close\nretry: 0\ndata: {"reason": "drain"}\nid: 0123abcd-0\n\n'
    assert sink.data == encoding.frame(reported)
    closing.cancel()


async def test_an_outbox_that_left_gets_no_close(broadcaster: Broadcaster) -> None:
    """Its handler has returned, and the sink may belong to another response."""
    outbox, sink = connect(broadcaster)
    outbox.subscriber.close(CloseReason.DRAIN)
    broadcaster.disconnect(outbox)
    await settled()
    assert sink.written == []


async def test_events_name_their_channel_to_subscribers_of_several(broadcaster: Broadcaster) -> None:
    """The requested ones count: live, from its own queue and from the history."""
    line = b'{"channel":"b","id":"0123abcd-%d","event":"message","data":"%d","time":1700000000.0%s}\n'
    _outbox, live = connect(broadcaster, "b", "c", sink=MemorySink(NDJSON))
    await deliver(broadcaster, "1", channels=["a", "b", "c"])
    live.takes_more = False
    await deliver(broadcaster, *"23", channels=["a", "b", "c"])
    live.drain()
    _, late = connect(broadcaster, "b*", since="earliest", sink=MemorySink(NDJSON))
    await settled()
    both = b',"channels":["b","c"]'
    assert live.data == b"".join(line % (number, number, both) for number in (1, 2, 3))
    assert late.data == b"".join(line % (number, number, b"") for number in (1, 2, 3))


# Replay.


async def test_a_subscriber_replays_in_pages_and_goes_live(broadcaster: Broadcaster) -> None:
    """The replay is whole frames in writes of limited size. Then events are delivered as to any other."""
    await publish(broadcaster, *[LARGE] * 5)
    outbox, sink = connect(broadcaster, since="earliest")
    assert (outbox.following, broadcaster.client_count) == (False, 1)
    await until(lambda: outbox.following)
    assert sink.data == blocks(*[LARGE] * 5)
    assert [data.count(b"id: ") for data in sink.written] == [2, 2, 1]
    assert outbox.subscriber.catching_up is None
    await deliver(broadcaster, "live")
    assert sink.written[3:] == [block(6, "live")]


async def test_a_subscriber_with_nothing_to_replay_goes_live_at_once(broadcaster: Broadcaster) -> None:
    """This holds with the newest id and without an id."""
    await broadcaster.broadcast("before")
    one, sink = connect(broadcaster)
    two, other = connect(broadcaster, since=broadcaster.cursor)
    assert one.following
    assert two.following
    await deliver(broadcaster, "a")
    assert sink.data == other.data == block(2, "a")


async def test_a_page_is_read_when_the_sink_has_room() -> None:
    """A blocked subscriber has nothing queued, and keeps its place in the history."""
    broadcaster = make(queue_size=1)
    await publish(broadcaster, *[LARGE] * 3)
    outbox, sink = connect(broadcaster, since="earliest")
    _, other = connect(broadcaster)
    sink.takes_more = False
    await settled()
    assert sink.data == blocks(LARGE, LARGE)
    for number in range(5):
        await broadcaster.broadcast(str(number))
        outbox.on_ready()
        await settled()
    assert sink.data == blocks(LARGE, LARGE)
    assert other.data == blocks(*range(5), first=4)
    assert (len(outbox.subscriber), outbox.subscriber.waiting, outbox.following) == (0, True, False)
    assert not outbox.group.queued
    sink.drain()
    await until(lambda: outbox.following)
    assert sink.data == blocks(LARGE, LARGE, LARGE, *range(5))


async def test_events_published_between_pages_arrive_once_and_in_order(broadcaster: Broadcaster) -> None:
    """A subscriber goes live once, however often it reaches the end of the history."""
    await publish(broadcaster, *range(3))
    outbox, sink = connect(broadcaster, since="earliest", takes_more=False)
    for number in range(3, 10):
        await settled()
        # It has all events, but its sink is full: an outbox goes live only in its own turn.
        assert not outbox.subscriber.waiting
        assert not outbox.following
        await broadcaster.broadcast(str(number))
        outbox.on_drained()
    await settled()
    sink.drain()
    assert outbox.following
    await deliver(broadcaster, "live")
    assert sink.data == blocks(*range(10), "live")


async def test_a_subscriber_goes_live_once(monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster) -> None:
    """A second turn of the same outbox does not start it again."""
    followed: list[Outbox] = []
    follow = Outbox.join_group

    def noted(outbox: Outbox) -> None:
        followed.append(outbox)
        follow(outbox)

    monkeypatch.setattr(Outbox, "join_group", noted)
    await publish(broadcaster, *[LARGE] * 5)
    outbox, sink = connect(broadcaster, since="earliest")
    outbox.on_ready()
    await until(lambda: outbox.following)
    await deliver(broadcaster, "live")
    assert followed == [outbox]
    assert sink.data == blocks(*[LARGE] * 5, "live")


class Simulation:
    """Subscribers that join, and whose sinks fill and empty, at random moments."""

    def __init__(self, chance: random.Random) -> None:
        self.broadcaster = make()
        self.texts: list[str] = []
        self.subscribers: list[tuple[int, Outbox, MemorySink]] = []
        self._chance = chance

    async def act(self) -> None:
        """Do one random action."""
        match self._chance.randrange(5):
            case 0:
                self._join()
            case 1 | 2:
                self.texts.append(self._chance.choice(["a", "b", LARGE]))
                await self.broadcaster.broadcast(self.texts[-1])
            case 3:
                for _, outbox, sink in self._chance.sample(self.subscribers, len(self.subscribers) // 2):
                    self._stir(outbox, sink, takes_more=self._chance.random() < 0.5)
            case _:
                await asyncio.sleep(0)

    async def calm(self) -> None:
        """Drain all sinks until nothing is left to write."""
        for _, outbox, sink in self.subscribers:
            self._stir(outbox, sink, takes_more=True)
        outboxes = [outbox for _, outbox, _ in self.subscribers]
        await until(
            lambda: all(outbox.following and outbox.offset == outbox.group.end for outbox in outboxes)
        )

    def _join(self) -> None:
        since = self._chance.randint(0, len(self.texts))
        outbox, sink = connect(self.broadcaster, since=f"{EPOCH}-{since}")
        sink.takes_more = self._chance.random() < 0.5
        self.subscribers.append((since, outbox, sink))

    def _stir(self, outbox: Outbox, sink: MemorySink, *, takes_more: bool) -> None:
        sink.takes_more = takes_more
        if outbox.blocked:
            outbox.on_drained()


@pytest.mark.parametrize("seed", range(20))
async def test_subscribers_that_join_and_block_at_random_get_everything_once(seed: int) -> None:
    """Each one's bytes are those of the log from its cursor on."""
    simulation = Simulation(random.Random(seed))
    for _ in range(300):
        await simulation.act()
    await simulation.calm()
    for since, _, sink in simulation.subscribers:
        assert sink.data == blocks(*simulation.texts[since:], first=since + 1)
    assert simulation.broadcaster.client_count == len(simulation.subscribers) > 0


# Pages of history, encoded once and shared.


def pages_of(*sinks: MemorySink) -> int:
    """Return the number of distinct objects among all writes."""
    return len({id(data) for sink in sinks for data in sink.written})


@pytest.mark.parametrize("encoding", [TEXT, CHUNKED_TEXT, JSON, NDJSON])
async def test_subscribers_that_reconnect_together_share_pages(encoding: Encoding) -> None:
    """All get the same bytes objects, because a page is encoded once."""
    broadcaster = make()
    await publish(broadcaster, *[LARGE] * 6)
    sinks = [connect(broadcaster, since="earliest", sink=MemorySink(encoding))[1] for _ in range(5)]
    await until(lambda: all(len(sink.written) == 3 for sink in sinks))
    assert len({sink.data for sink in sinks}) == 1
    assert pages_of(*sinks) == 3
    if encoding is TEXT:
        assert sinks[0].data == blocks(*[LARGE] * 6)


async def test_subscribers_with_another_selector_or_encoding_share_no_page(broadcaster: Broadcaster) -> None:
    """Their pages begin and end with the same events, and have as many of them."""
    rows = [("a", "t"), ("b", "t"), ("c", "u"), ("a", "u"), ("a", "t")]
    for number, (channel, kind) in enumerate(rows, 1):
        await broadcaster.broadcast(str(number), event=kind, channels=[channel])
    asked: list[tuple[tuple[str, ...], list[str] | None, list[int]]] = [
        (("a", "b"), None, [1, 2, 4, 5]),
        (("a", "c"), None, [1, 3, 4, 5]),
        (("a",), None, [1, 4, 5]),
        (("a", "b", "c"), ["t"], [1, 2, 5]),
        (("a", "*"), ["t"], [1, 2, 5]),
    ]
    sinks = [
        [
            connect(broadcaster, *channels, types=types, since="earliest", sink=MemorySink(encoding))[1]
            for channels, types, _ in asked
        ]
        for encoding in (NDJSON, CHUNKED_TEXT, TEXT)
    ]
    await settled()
    assert pages_of(*itertools.chain(*sinks)) == 15
    for sink, (_, _, wanted) in zip(sinks[-1], asked, strict=True):
        frames = [f"event: {rows[n - 1][1]}\ndata: {n}\nid: {EPOCH}-{n}\n\n" for n in wanted]
        assert sink.data == "".join(frames).encode()


async def test_a_page_that_lost_events_is_another_page() -> None:
    """It begins and ends with the same events as the page encoded before the eviction."""
    broadcaster = make(channel=(ChannelRule(match="b", history_size=1),))
    for channel in "aba":
        await broadcaster.broadcast("x", channels=[channel])
    _, before = connect(broadcaster, "a", "b", since="earliest")
    await settled()
    await broadcaster.broadcast("x" * WRITE_LIMIT, channels=["b"])
    _, after = connect(broadcaster, "a", "b", since="earliest")
    await settled()
    large = block(4, "x" * WRITE_LIMIT)
    assert before.written == [blocks("x", "x", "x"), large]
    assert after.written == [block(1, "x") + block(3, "x"), large]


async def test_the_number_of_cached_pages_is_limited(
    monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster
) -> None:
    """The oldest goes first. A single frame is not cached. The last subscriber takes all pages along."""
    monkeypatch.setattr(dispatcher_module, "PAGES", 2)
    await publish(broadcaster, *range(10))
    outboxes: list[Outbox] = []

    async def page_since(since: int) -> bytes:
        outbox, sink = connect(broadcaster, since=f"{EPOCH}-{since}")
        outboxes.append(outbox)
        await settled()
        assert sink.written == [blocks(*range(since, 10), first=since + 1)]
        return sink.written[0]

    first, second, third = [await page_since(since) for since in (6, 7, 8)]
    await page_since(9)
    assert await page_since(7) is second
    assert await page_since(8) is third
    assert await page_since(6) is not first
    async with broadcaster.subscribe():  # Keeps its group alive after the others have left.
        for outbox in outboxes:
            broadcaster.disconnect(outbox)
        assert await page_since(8) is not third


async def test_filters_apply_to_the_replay(broadcaster: Broadcaster) -> None:
    """Only requested channels and types are replayed."""
    outbox, sink = connect(broadcaster, "a", types=["t"])
    for channel, event in (("a", "t"), ("a", "u"), ("b", "t"), ("a", "t")):
        await broadcaster.broadcast("x", event=event, channels=[channel])
    _, late = connect(broadcaster, "a", types=["t"], since="earliest")
    await settled()
    line = "event: t\ndata: x\nid: 0123abcd-%d\n\n"
    assert sink.data == late.data == f"{line % 1}{line % 4}".encode()
    assert outbox.following


async def test_a_subscriber_without_matching_history_goes_live() -> None:
    """Empty pages are read to the end of the history."""
    broadcaster = make(history_size=10_000)
    drafts = [broadcaster.draft(Event("x", "t"), ["a"])] * 5000
    await broadcaster.publish_all(drafts)
    outbox, sink = connect(broadcaster, "a*", types=["u"], since="earliest")
    await until(lambda: outbox.following)
    assert sink.written == []
    await deliver(broadcaster, "x", event="u", channels=["a"])
    assert sink.data == b"event: u\ndata: x\nid: 0123abcd-5001\n\n"


async def test_a_loss_before_the_first_page_gets_a_reset_before_the_rest() -> None:
    """The `$reset` comes once, with the id before the oldest kept event. Nothing was lost on joining."""
    broadcaster = make(history_size=2)
    await broadcaster.broadcast("0")
    outbox, sink = connect(broadcaster, since=f"{EPOCH}-0")
    await publish(broadcaster, *range(1, 5))
    await settled()
    reset = b'event: $reset\ndata: {"reason": "evicted", "channels": ["default"], "missed": null}\n'
    assert sink.data == reset + b"id: 0123abcd-3\n\n" + blocks(3, 4, first=4)
    assert outbox.following


async def test_a_loss_reported_by_the_first_frames_is_not_reported_again() -> None:
    """The kept events follow. The `$reset` counts as an event sent."""
    broadcaster = make(history_size=2)
    await publish(broadcaster, *range(5))
    outbox, sink = connect(broadcaster, since=f"{EPOCH}-1")
    await settled()
    assert sink.data == blocks(3, 4, first=4)
    assert (outbox.following, outbox.given) == (True, 3)


async def test_a_drain_ends_a_replay_at_once(broadcaster: Broadcaster) -> None:
    """The rest is in the history: the client resumes with its last id."""
    await publish(broadcaster, *[LARGE] * 5)
    outbox, sink = connect(broadcaster, since="earliest", takes_more=False)
    await settled()
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await settled()
    sink.drain()
    await until(lambda: sink.closed == 1)
    first, last = sink.written
    assert first == blocks(LARGE, LARGE)
    require_closed(last, "drain", 2)
    assert broadcaster.counts.closed == {"drain": 1}
    broadcaster.disconnect(outbox)
    await closing


async def test_a_drain_before_the_first_page_writes_only_close(broadcaster: Broadcaster) -> None:
    """It has the id of the first frames."""
    await broadcaster.broadcast("a")
    outbox, sink = connect(broadcaster, since="earliest")
    outbox.subscriber.close(CloseReason.DRAIN)
    await until(lambda: sink.closed == 1)
    require_closed(sink.data, "drain", 0)


async def test_an_outbox_that_leaves_before_its_first_page_is_written_nothing(
    broadcaster: Broadcaster,
) -> None:
    """Its turn finds it gone, and the dispatcher keeps nothing of it."""
    await publish(broadcaster, "a")
    outbox, sink = connect(broadcaster, since="earliest")
    broadcaster.disconnect(outbox)
    await settled()
    assert (sink.written, broadcaster.client_count) == ([], 0)
    left = weakref.ref(sink)
    del outbox, sink
    assert left() is None


async def test_groups_and_replays_do_not_starve_one_another(
    broadcaster: Broadcaster, clock: LoopClock
) -> None:
    """Within a slice a turn of one is followed by a turn of the other, each of limited length."""
    order, write, page = list[str](), 2.0**-17, 2.0**-13
    await publish(broadcaster, *[LARGE] * 60)
    for _ in range(3):
        connect(broadcaster, since="earliest", sink=CostlySink("late", clock, page, order))
    for _ in range(20 * OUTBOXES_PER_TURN):
        connect(broadcaster, sink=CostlySink("live", clock, write, order))
    await broadcaster.broadcast("x")
    await run_slice()
    turns = runs(order)
    live = [count for name, count in turns if name == "live"]
    late = [count for name, count in turns if name == "late"]
    assert len(live) > 1
    assert len(late) > 1
    assert set(live) == {OUTBOXES_PER_TURN}
    assert all(TURN <= count * page < TURN + page for count in late)
    assert SLICE_SECONDS <= clock.now < SLICE_SECONDS + OUTBOXES_PER_TURN * write + TURN + page


async def test_callers_that_replay_take_turns(clock: LoopClock) -> None:
    """A caller with many streams gets one page for each page of another caller."""
    order: list[str] = []
    broadcaster = make()
    await publish(broadcaster, *[LARGE] * 60)
    selector = broadcaster.selector(["default"])
    start = broadcaster.start_point(selector, Keyword.EARLIEST)
    for name in [*["greedy"] * 10, "modest"]:
        sink = CostlySink(name, clock, 2.0**-20, order)
        broadcaster.connect(sink, selector, start, broadcaster.heartbeat(), caller=name)
    await run_slice()
    assert order[:10] == ["greedy", "modest"] * 5


async def test_replays_take_turns_and_leave_the_loop_its_turn(
    broadcaster: Broadcaster, clock: LoopClock
) -> None:
    """Each gets a page. After a slice the other callbacks of the loop run first."""
    order, page = list[str](), 2.0**-13
    await publish(broadcaster, *[LARGE] * 60)
    for name in "abc":
        connect(broadcaster, since="earliest", sink=CostlySink(name, clock, page, order))
    await run_slice()
    assert "".join(order) == ("abc" * len(order))[: len(order)]
    assert SLICE_SECONDS <= clock.now < SLICE_SECONDS + TURN + page
    await settled()
    assert "".join(order) == "abc" * 30


# Cursors of subscribers whose streams end.


async def test_close_has_the_last_position_sent_to_the_subscriber() -> None:
    """The newest position could skip an event for this subscriber that is not yet written."""
    broadcaster = make()
    given, sink = connect(broadcaster)
    await deliver(broadcaster, "a")
    late, fresh = connect(broadcaster)
    await pass_by(broadcaster, 5)
    beaten, brought = connect(broadcaster)
    await pass_by(broadcaster, FAR_BEHIND)
    await beat(beaten)
    for outbox in (given, late, beaten):
        outbox.subscriber.close(CloseReason.LIFETIME)
    await settled()
    require_closed(sink.written[-1], "lifetime", 1)
    require_closed(fresh.written[-1], "lifetime", 1)
    require_closed(brought.written[-1], "lifetime", 6 + FAR_BEHIND)


@pytest.mark.parametrize(("reason", "rest"), [(CloseReason.DRAIN, ["b", "c"]), (CloseReason.REVOKED, [])])
async def test_close_has_the_id_of_the_event_before_it(
    broadcaster: Broadcaster, reason: CloseReason, rest: list[str]
) -> None:
    """A graceful end comes after the queue. A revoked subscriber can resume at the events it did not get."""
    outbox, sink = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, *"abc")
    outbox.subscriber.close(reason)
    await drain(sink)
    *given, last = sink.written
    assert b"".join(given) == blocks("a", *rest)
    require_closed(last, reason, 1 + len(rest))
    decoder = wire.Decoder()
    decoder.feed(sink.data)
    _, again = connect(broadcaster, since=decoder.last_event_id)
    await settled()
    assert again.data == blocks(*"abc"[1 + len(rest) :], first=2 + len(rest))


@pytest.mark.usefixtures("one_turn")
async def test_a_subscriber_that_ends_during_a_pass_resumes_at_the_rest(
    broadcaster: Broadcaster,
) -> None:
    """The pass has written its events to the members already reached, and not to the others."""
    connected = [connect(broadcaster) for _ in range(OUTBOXES_PER_TURN + 1)]
    await broadcaster.broadcast("a")
    await run_slice()
    for outbox, _ in connected:
        outbox.subscriber.close(CloseReason.REVOKED)
    await settled()
    reached = [sink for _, sink in connected if sink.written[0] == block(1, "a")]
    assert len(reached) == OUTBOXES_PER_TURN
    for _, sink in connected:
        require_closed(sink.written[-1], "revoked", int(sink in reached))


async def test_last_events_of_channels_are_not_taken_for_a_page() -> None:
    """A page of the history begins and ends with the same events, and has as many of them."""
    broadcaster = make(channel=(ChannelRule(match="b", history_size=1),))
    for channel in ("a", "c", "b", "c"):
        await broadcaster.broadcast("x", channels=[channel])
    _, last = connect(broadcaster, "a", "b", "c", since="last")
    await settled()
    assert last.written == [block(1, "x") + block(3, "x") + block(4, "x")]
    await broadcaster.broadcast("x" * WRITE_LIMIT, channels=["b"])
    _, earliest = connect(broadcaster, "a", "b", "c", since="earliest")
    await settled()
    assert earliest.written == [block(1, "x") + block(2, "x") + block(4, "x"), block(5, "x" * WRITE_LIMIT)]


# Pages from a store.


async def test_a_subscriber_that_waits_for_the_store_runs_no_slice() -> None:
    """Once its page has come it gets that and later events, in order."""
    broadcaster = make()
    await publish(broadcaster, "a", "b")
    store = Away(backend_of(broadcaster))
    _, sink = connect(broadcaster, since="earliest")
    await settled()
    slices = broadcaster.metrics.slices
    for _ in range(50):
        await asyncio.sleep(0)
    assert (broadcaster.metrics.slices, store.asked, sink.data) == (slices, 1, b"")
    await publish(broadcaster, "c")
    store.gate.set()
    await settled()
    await settled()
    assert sink.data == blocks("a", "b", "c")
    await deliver(broadcaster, "d")
    assert sink.data == blocks("a", "b", "c", "d")


async def test_a_subscriber_that_waits_for_the_store_gets_heartbeats() -> None:
    """Otherwise its connection would look dead. The page follows."""
    broadcaster = make()
    await publish(broadcaster, "a")
    store = Away(backend_of(broadcaster))
    outbox, sink = connect(broadcaster, since="earliest")
    await settled()
    await beat(outbox)
    assert sink.data == b": \n"
    store.gate.set()
    await settled()
    await settled()
    assert sink.data == b": \n" + blocks("a")


async def test_a_subscriber_that_waits_for_the_store_can_be_closed() -> None:
    """It gets the reason and its present cursor, and no task is left."""
    broadcaster = make()
    await publish(broadcaster, "a")
    Away(backend_of(broadcaster))
    outbox, sink = connect(broadcaster, since="earliest")
    await settled()
    broadcaster.end(outbox, CloseReason.LIFETIME)
    await settled()
    require_closed(sink.data, "lifetime", 0)
    broadcaster.disconnect(outbox)
    await settled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
