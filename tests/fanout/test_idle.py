"""Idle monitor: heartbeats and write deadlines, over sinks in memory."""

import asyncio
import itertools
import weakref

import pytest

from sse_broadcast import wire
from sse_broadcast.backends.base import ResetReason
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import ChannelRule, Overflow
from sse_broadcast.cursor import parse_id
from sse_broadcast.encoding import CHUNKED_NDJSON, CHUNKED_TEXT, JSON, NDJSON, TEXT
from sse_broadcast.event import Event
from sse_broadcast.fanout.dispatcher import SLICE_SECONDS
from sse_broadcast.fanout.idle import FAR_BEHIND, HOUR
from sse_broadcast.fanout.outbox import OUTBOXES_PER_TURN
from sse_broadcast.fanout.subscriber import CloseReason, Heartbeat
from tests.support.dispatching import (
    LARGE,
    TICK,
    CostlySink,
    LoopClock,
    Timers,
    beat,
    blocks,
    deliver,
    drain,
    moved,
    pass_by,
    publish,
    run_slice,
    runs,
    settled,
)
from tests.support.memory_sinks import EPOCH, MemorySink, block, connect
from tests.support.memory_sinks import make_broadcaster as make
from tests.support.sockets import until

NEAR = FAR_BEHIND - 1
"""Positions that a cursor may be behind before a heartbeat advances it."""


async def test_a_lost_connection_is_removed_at_its_next_heartbeat() -> None:
    """There is no event, and its handler was not cancelled."""
    broadcaster = make(heartbeat=0.02)
    _, sink = connect(broadcaster)
    sink.gone = True
    await until(lambda: broadcaster.client_count == 0)
    assert broadcaster.counts.closed == {"left": 1}
    assert sink.closed >= 1


@pytest.mark.parametrize(("as_event", "sign"), [(False, b": \n"), (True, moved(0))])
async def test_an_idle_connection_gets_heartbeats(*, as_event: bool, sign: bytes) -> None:
    """They are comments of one line and a space, or events if it asked for those."""
    broadcaster = make(heartbeat=0.02)
    _, sink = connect(broadcaster, heartbeat=broadcaster.heartbeat(as_event=as_event))
    await until(lambda: len(sink.written) >= 3)
    assert set(sink.written) == {sign}


async def test_a_connection_with_traffic_gets_no_heartbeat(clock: LoopClock) -> None:
    """The interval starts again with each event."""
    broadcaster = make(heartbeat=4)
    _, busy = connect(broadcaster)
    while clock.now < 12:
        await deliver(broadcaster, "x")
        await clock.tick()
    assert b": \n" not in busy.written


async def test_a_sink_that_stays_full_is_aborted_after_its_deadline() -> None:
    """This holds for every overflow policy. The subscriber is counted as stalled."""
    broadcaster = make(write_timeout=0.05, overflow=Overflow.DROP_OLDEST)
    _, sink = connect(broadcaster, takes_more=False)
    await broadcaster.broadcast("a")
    await until(lambda: sink.aborted == 1)
    counts = broadcaster.counts
    assert (counts.closed, counts.aborted, broadcaster.client_count) == ({"stalled": 1}, 1, 0)


async def test_thousands_of_full_sinks_are_aborted_a_few_in_each_turn() -> None:
    """After the loss of a network all of them pass their deadline together."""
    broadcaster = make(write_timeout=0.05, overflow=Overflow.DROP_OLDEST)
    sinks = [connect(broadcaster)[1] for _ in range(3 * OUTBOXES_PER_TURN + 1)]
    for sink in sinks:
        sink.takes_more = False
    await broadcaster.broadcast("a")
    counts = [0]
    while counts[-1] < len(sinks):
        await asyncio.sleep(0)
        if (aborted := sum(sink.aborted for sink in sinks)) != counts[-1]:
            counts.append(aborted)
    # A tick of the timer and a slice may share an iteration of the event loop.
    assert max(more - before for before, more in itertools.pairwise(counts)) <= 2 * OUTBOXES_PER_TURN
    assert broadcaster.counts.aborted == len(sinks)


async def test_a_sink_that_empties_in_time_is_not_aborted(clock: LoopClock) -> None:
    """The next time it fills it has the whole time again."""
    broadcaster = make(write_timeout=5, heartbeat=60)
    outbox, sink = connect(broadcaster, takes_more=False)
    while clock.now < 12:
        await deliver(broadcaster, "x")
        assert outbox.blocked
        outbox.on_drained()
        await settled()
        outbox.on_drained()
        await clock.tick()
    assert sink.aborted == 0


async def test_an_overflowing_subscriber_with_a_full_sink_is_aborted_by_the_same_deadline() -> None:
    """The time runs from when its socket was full, and includes the end of the stream."""
    broadcaster = make(queue_size=1, write_timeout=0.05)
    outbox, sink = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, "a", "b", "c")
    await until(lambda: sink.aborted == 1)
    assert outbox.subscriber.closed is CloseReason.SLOW
    assert broadcaster.counts.closed == {"slow": 1}
    assert broadcaster.counts.aborted == 1


async def test_an_end_that_is_not_written_is_aborted() -> None:
    """The handler waits for its last bytes until the deadline."""
    broadcaster = make(write_timeout=0.05)
    _, sink = connect(broadcaster)
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await until(lambda: sink.aborted == 1)
    closing.cancel()


async def test_the_timer_stops_without_outboxes(
    monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster
) -> None:
    """It does not keep an idle loop awake."""
    timers = Timers(monkeypatch)
    outbox, sink = connect(broadcaster)
    assert len(timers.pending) == 1
    broadcaster.disconnect(outbox)
    assert timers.pending == []
    left = weakref.ref(sink)
    del outbox, sink
    assert left() is None


@pytest.mark.parametrize("since", [None, "earliest"])
async def test_the_end_of_a_stream_gets_no_extra_time(since: str | None, clock: LoopClock) -> None:
    """A socket that was full when its stream ended keeps its first deadline, in a replay too."""
    broadcaster = make(write_timeout=5)
    await publish(broadcaster, *[LARGE] * 3)
    outbox, sink = connect(broadcaster, since=since, takes_more=False)
    await deliver(broadcaster, "a")
    clock.now = 3
    outbox.subscriber.close(CloseReason.DRAIN)
    while not sink.aborted:
        await clock.tick()
    assert 5 <= clock.now <= 5 + 2 * TICK


async def test_a_full_sink_has_its_deadline_during_a_replay() -> None:
    """A client that reads nothing is aborted, however much it has requested."""
    broadcaster = make(write_timeout=0.05)
    await publish(broadcaster, *[LARGE] * 5)
    outbox, sink = connect(broadcaster, since="earliest", takes_more=False)
    await until(lambda: sink.aborted == 1)
    counts = broadcaster.counts
    assert (counts.closed, counts.aborted, broadcaster.client_count) == ({"stalled": 1}, 1, 0)
    assert (outbox.subscriber.closed, outbox.subscriber.catching_up) == (CloseReason.STALLED, None)
    assert len(sink.written) == 1


async def test_a_replay_longer_than_the_deadline_is_not_aborted(clock: LoopClock) -> None:
    """Each page read in time starts the deadline again."""
    broadcaster = make(write_timeout=5, heartbeat=60)
    await publish(broadcaster, *[LARGE] * 100)
    outbox, sink = connect(broadcaster, since="earliest", takes_more=False)
    while clock.now < 12:
        await clock.tick()
        assert outbox.blocked
        outbox.on_drained()
    assert sink.aborted == 0
    assert not outbox.following


# Cursors of idle subscribers.


async def test_a_heartbeat_advances_a_cursor_that_falls_far_behind(broadcaster: Broadcaster) -> None:
    """It does so once it is a given number of positions behind, and then again after as many more."""
    outbox, sink = connect(broadcaster)
    for count in (NEAR, 1, 0, FAR_BEHIND):
        await pass_by(broadcaster, count)
        await beat(outbox)
    # A turn without a due heartbeat writes nothing.
    outbox.on_ready()
    await settled()
    assert sink.written == [b": \n", moved(FAR_BEHIND), b": \n", moved(2 * FAR_BEHIND)]
    assert outbox.following


async def test_the_cursor_of_an_idle_subscriber_is_advanced_by_the_heartbeat_timer() -> None:
    """Nothing else advances it."""
    broadcaster = make(heartbeat=0.02)
    _, sink = connect(broadcaster)
    await pass_by(broadcaster, FAR_BEHIND)
    assert sink.written == []
    await until(lambda: len(sink.written) >= 3)
    assert sink.written.count(moved(FAR_BEHIND)) == 1
    assert set(sink.written) == {b": \n", moved(FAR_BEHIND)}


async def test_a_subscriber_that_was_sent_an_event_is_not_far_behind(broadcaster: Broadcaster) -> None:
    """Its cursor is that event's, written with its group or from its own queue."""
    outbox, sink = connect(broadcaster)
    await pass_by(broadcaster, NEAR)
    await deliver(broadcaster, "together")
    await pass_by(broadcaster, NEAR)
    await beat(outbox)
    sink.takes_more = False
    await deliver(broadcaster, "full", "alone")
    await drain(sink)
    await pass_by(broadcaster, NEAR)
    await beat(outbox)
    assert sink.written == [
        block(NEAR + 1, "together"),
        b": \n",
        block(2 * NEAR + 2, "full"),
        block(2 * NEAR + 3, "alone"),
        b": \n",
    ]


@pytest.mark.parametrize(
    ("since", "sign"), [(None, b": \n"), (f"{EPOCH}-4", moved(FAR_BEHIND + 4)), (f"{EPOCH}-5", b": \n")]
)
async def test_the_distance_counts_from_where_a_subscriber_began(
    broadcaster: Broadcaster, since: str | None, sign: bytes
) -> None:
    """A new subscriber is not behind. One that resumed with nothing to replay is at its cursor."""
    await pass_by(broadcaster, FAR_BEHIND + 4)
    outbox, sink = connect(broadcaster, since=since)
    await settled()
    await beat(outbox)
    assert sink.written == [sign]


async def test_a_cursor_that_would_be_too_old_is_advanced() -> None:
    """Events evicted since did not match, so they are no loss, however near the cursor is."""
    broadcaster = make(channel=(ChannelRule(match="b", history_size=1),))
    outbox, sink = connect(broadcaster, "b", types=["u"])
    other, elsewhere = connect(broadcaster, "c")
    for _ in range(2):
        await broadcaster.broadcast("x", event="t", channels=["b"])
        await beat(outbox)
        await beat(other)
    # At the first heartbeat nothing was evicted, at the second the event was.
    assert sink.written == [b": \n", moved(2)]
    assert elsewhere.written == [b": \n", b": \n"]
    await beat(outbox)
    assert sink.written[2:] == [b": \n"]
    broadcaster.disconnect(outbox)
    await broadcaster.broadcast("y", event="u", channels=["b"])
    assert broadcaster.start_point(outbox.group.selector, parse_id(f"{EPOCH}-2")).reset_reason is None
    assert (
        broadcaster.start_point(outbox.group.selector, parse_id(f"{EPOCH}-0")).reset_reason
        is ResetReason.EVICTED
    )


async def test_an_older_subscribers_events_advance_no_newer_cursor() -> None:
    """They share a selector. The newer one was not sent these events."""
    broadcaster = make(channel=(ChannelRule(match="b", history_size=0),))
    _, older = connect(broadcaster, "a", "b")
    await broadcaster.broadcast("x", channels=["a"])
    await publish(broadcaster, *["y"] * 5, channels=["b"])
    await settled()
    assert older.written[-1].endswith(f"id: {EPOCH}-6\n\n".encode())
    outbox, sink = connect(broadcaster, "a", "b", since="earliest")
    await settled()
    assert (sink.written, outbox.position) == ([block(1, "x")], 1)
    await beat(outbox)
    assert sink.written[-1] == moved(6)
    assert outbox.position == 6


@pytest.mark.parametrize("seconds", [4.0, 50.0])
async def test_an_hour_of_comments_ends_with_an_event(seconds: float, broadcaster: Broadcaster) -> None:
    """Clients that buffer comments until a block ends would grow for hours. The event moves no cursor."""
    outbox, sink = connect(broadcaster, heartbeat=Heartbeat(seconds))
    count = int(HOUR / seconds)
    for _ in range(2 * count + 1):
        await beat(outbox)
    hour = [b": \n"] * (count - 1) + [moved(0)]
    assert sink.written == [*hour, *hour, b": \n"]


async def test_an_hour_without_writes_ends_with_an_event(clock: LoopClock) -> None:
    """The idle timer writes it, where no heartbeat is due."""
    broadcaster = make(heartbeat=60)
    _, sink = connect(broadcaster)
    while len(sink.written) < 61:
        await clock.tick()
    assert sink.written == [b": \n"] * 59 + [moved(0), b": \n"]
    assert broadcaster.metrics.heartbeats == 61
    assert HOUR - 60 <= clock.now <= HOUR + 60


async def test_heartbeats_leave_turns_to_events(clock: LoopClock) -> None:
    """Between two turns of events there is one of heartbeats, however many are due."""
    order, write = list[str](), 2.0**-14
    assert write * OUTBOXES_PER_TURN > SLICE_SECONDS  # one turn in each slice
    broadcaster = make(heartbeat=4)
    for _ in range(8 * OUTBOXES_PER_TURN):
        connect(broadcaster, sink=CostlySink("live", clock, write, order), heartbeat=Heartbeat(60))
    for _ in range(3 * OUTBOXES_PER_TURN):
        connect(broadcaster, "quiet", sink=CostlySink("silent", clock, 0.0, order))
    clock.now = 4.0
    await publish(broadcaster, "x")
    while len(order) < 11 * OUTBOXES_PER_TURN:
        await run_slice()
    before, *turns, behind = runs(order)
    assert turns == [
        ("silent", OUTBOXES_PER_TURN),
        *[("live", OUTBOXES_PER_TURN), ("silent", OUTBOXES_PER_TURN)] * 2,
    ]
    assert before[0] == behind[0] == "live"


async def test_an_outbox_that_left_gets_no_heartbeat(clock: LoopClock) -> None:
    """Its sink may belong to another response. The other outboxes get theirs."""
    broadcaster = make(heartbeat=4)
    outbox, gone = connect(broadcaster)
    _, stays = connect(broadcaster)
    clock.now = 4.0
    await run_slice()
    await run_slice()
    assert stays.written == []
    broadcaster.disconnect(outbox)
    await run_slice()
    assert (gone.written, stays.written) == ([], [b": \n"])
    left = weakref.ref(gone)
    del outbox, gone
    assert left() is None


async def test_a_sink_that_fails_at_its_heartbeat_disturbs_no_other(clock: LoopClock) -> None:
    """It is aborted and counted as an error, and not as a heartbeat."""
    broadcaster = make(heartbeat=4)
    sinks = [connect(broadcaster)[1] for _ in range(3)]
    sinks[1].broken = True
    while not sinks[0].written:
        await clock.tick()
    assert [sink.data for sink in sinks] == [b": \n", b"", b": \n"]
    assert sinks[1].aborted == 1
    assert broadcaster.counts.closed == {"error": 1}
    assert broadcaster.metrics.heartbeats == 2


async def test_a_sink_filled_by_its_heartbeat_is_full(clock: LoopClock) -> None:
    """Later events wait in its own queue, and it gets no heartbeat until it has drained."""
    broadcaster = make(heartbeat=4, write_timeout=100)
    outbox, sink = connect(broadcaster, takes_more=False)
    while clock.now < 20:
        await clock.tick()
    assert (sink.written, outbox.blocked, outbox.following) == ([b": \n"], True, False)
    await broadcaster.broadcast("a")
    await settled()
    assert sink.written == [b": \n"]
    sink.drain()
    await settled()
    assert sink.data == b": \n" + block(1, "a")


async def test_heartbeats_can_be_requested_as_events() -> None:
    """Each has the current cursor, however little it has moved."""
    broadcaster = make(heartbeat=4)
    outbox, sink = connect(broadcaster, heartbeat=broadcaster.heartbeat(as_event=True))
    await beat(outbox)
    await pass_by(broadcaster, 1)
    await beat(outbox)
    await beat(outbox)
    assert sink.written == [moved(0), moved(1), moved(1)]


@pytest.mark.parametrize("asked", [3.0, 4.0, 25.0, 60.0])
async def test_each_subscriber_has_its_requested_heartbeat(asked: float, clock: LoopClock) -> None:
    """It comes after the given seconds without a write, or up to a tick earlier."""
    broadcaster = make(heartbeat=15, write_timeout=30)
    _, sink = connect(broadcaster, heartbeat=broadcaster.heartbeat(seconds=asked))
    _, usual = connect(broadcaster)
    beats = {sink: [0.0], usual: [0.0]}
    while clock.now < 130:
        await clock.tick()
        for each, times in beats.items():
            if len(each.written) == len(times):
                times.append(clock.now)
    for each, seconds in ((sink, asked), (usual, 15.0)):
        silences = [later - earlier for earlier, later in itertools.pairwise([*beats[each], clock.now])]
        assert len(silences) > 2
        assert all(seconds - TICK <= silence <= seconds for silence in silences[:-1])
        assert silences[-1] < seconds


async def test_a_cursor_is_not_advanced_over_unsent_events(broadcaster: Broadcaster) -> None:
    """A subscriber cut off after that would never get them. The heartbeat has its present cursor."""
    outbox, sink = connect(broadcaster)
    as_events, events = connect(broadcaster, heartbeat=broadcaster.heartbeat(as_event=True))
    await publish(broadcaster, *[LARGE] * 2)
    await pass_by(broadcaster, FAR_BEHIND)
    await broadcaster.broadcast(LARGE)
    for each in (outbox, as_events):
        each.heartbeat_due = True
        each.on_ready()
    await settled()
    last = block(FAR_BEHIND + 3, LARGE)
    assert sink.written == [blocks(LARGE, LARGE), b": \n", last]
    assert events.written == [blocks(LARGE, LARGE), moved(2), last]


async def test_a_cursor_is_not_advanced_over_unread_history() -> None:
    """After an empty page the next one may still have matching events."""
    broadcaster = make(history_size=10_000)
    await broadcaster.publish_all([broadcaster.draft(Event("x", "t"), ["a"])] * 5000)
    await broadcaster.broadcast("wanted", event="u", channels=["a"])
    outbox, sink = connect(broadcaster, "a*", types=["u"], since="earliest")
    await beat(outbox)
    await until(lambda: outbox.following)
    await settled()
    assert sink.written == [b"event: u\ndata: wanted\nid: 0123abcd-5001\n\n", b": \n"]


async def test_a_replaying_subscriber_is_due_no_heartbeat(broadcaster: Broadcaster) -> None:
    """Its pages count as writes, and the cursor is where they end."""
    for _ in range(FAR_BEHIND + 4):
        await broadcaster.broadcast(LARGE)
    outbox, sink = connect(broadcaster, since="earliest")
    await beat(outbox)
    await until(lambda: outbox.following)
    # The heartbeat was still due, and came after the last page.
    *pages, last = sink.written
    assert b"".join(pages) == blocks(*[LARGE] * (FAR_BEHIND + 4))
    assert last == b": \n"


@pytest.mark.parametrize("as_event", [False, True])
async def test_each_format_has_its_own_cursor_frame(
    monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster, *, as_event: bool
) -> None:
    """It is an HTTP chunk in a chunked response, and a line in a format of lines."""
    monkeypatch.setattr("sse_broadcast.encoding.time.time", lambda: 7.0)
    line = (
        f'{{"channel":null,"id":"{EPOCH}-{FAR_BEHIND}","event":"$heartbeat","data":{{}},"time":7.0}}\n'
    ).encode()
    frame = moved(FAR_BEHIND)
    sinks = [
        (MemorySink(TEXT), frame, b": \n"),
        (MemorySink(CHUNKED_TEXT), wire.chunk(frame), b"3\r\n: \n\r\n"),
        (MemorySink(JSON), frame, b": \n"),
        (MemorySink(NDJSON), line, b"\n"),
        (MemorySink(CHUNKED_NDJSON), wire.chunk(line), b"1\r\n\n\r\n"),
    ]
    heartbeat = broadcaster.heartbeat(as_event=as_event)
    outboxes = [connect(broadcaster, sink=sink, heartbeat=heartbeat)[0] for sink, _, _ in sinks]
    await pass_by(broadcaster, FAR_BEHIND)
    for _ in range(2):
        for outbox in outboxes:
            await beat(outbox)
    assert [sink.written for sink, _, _ in sinks] == [
        [far, far if as_event else near] for _, far, near in sinks
    ]


async def test_a_heartbeat_line_has_the_current_time(
    monkeypatch: pytest.MonkeyPatch, clock: LoopClock
) -> None:
    """This holds too if the cursor has not moved. Heartbeats of one tick are the same bytes."""
    times = iter([7.0, 11.0])
    monkeypatch.setattr("sse_broadcast.encoding.time.time", lambda: next(times))
    broadcaster = make()
    heartbeat = broadcaster.heartbeat(as_event=True)
    subscribers = [connect(broadcaster, sink=MemorySink(NDJSON), heartbeat=heartbeat) for _ in range(2)]
    for _ in range(2):
        for outbox, _ in subscribers:
            await beat(outbox)
        await clock.tick()
    line = b'{"channel":null,"id":"0123abcd-0","event":"$heartbeat","data":{},"time":%b}\n'
    assert [sink.written for _, sink in subscribers] == [[line % b"7.0", line % b"11.0"]] * 2


async def test_a_subscriber_can_resume_from_an_advanced_cursor(broadcaster: Broadcaster) -> None:
    """The events that it skips did not match."""
    outbox, sink = connect(broadcaster)
    await pass_by(broadcaster, FAR_BEHIND)
    await beat(outbox)
    broadcaster.disconnect(outbox)
    await broadcaster.broadcast("missed")
    decoder = wire.Decoder()
    decoder.feed(sink.data)
    _, again = connect(broadcaster, since=decoder.last_event_id)
    await settled()
    assert again.data == block(FAR_BEHIND + 1, "missed")
