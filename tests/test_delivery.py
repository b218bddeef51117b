"""The walk, heartbeats and deadlines, over sinks in memory."""

import asyncio

import pytest

from sse_broadcast.audience import Lane
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import Config, Overflow
from sse_broadcast.delivery import STRIDE, WRITE_LIMIT, Delivery, goodbye, jittered
from sse_broadcast.metrics import Metrics
from sse_broadcast.subscriber import CloseReason
from tests.support.outlets import MemorySink
from tests.support.sockets import until


def make(**settings: object) -> Broadcaster:
    return Broadcaster(Config(**settings))  # type: ignore[arg-type]


def connect(broadcaster: Broadcaster) -> tuple[Lane, MemorySink]:
    sink = MemorySink()
    return broadcaster.connect(sink), sink


async def settled() -> None:
    """Let the walk come by."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_every_lane_gets_everything_in_order() -> None:
    """More lanes than a stride, more events than a pass."""
    broadcaster = make()
    sinks = [connect(broadcaster)[1] for _ in range(3 * STRIDE + 1)]
    for number in range(5):
        await broadcaster.broadcast(str(number))
    await until(lambda: all(len(sink.data) == 45 for sink in sinks))
    assert {sink.data for sink in sinks} == {b"".join(b"data: %d\n\n" % number for number in range(5))}


async def test_what_waits_leaves_in_one_write() -> None:
    """Events published before the walk comes by are joined; those after it are not waited for."""
    broadcaster = make()
    _, sink = connect(broadcaster)
    await broadcaster.broadcast("a")
    await broadcaster.broadcast("b")
    await settled()
    await broadcaster.broadcast("c")
    await settled()
    assert sink.written == [b"data: a\n\ndata: b\n\n", b"data: c\n\n"]


async def test_a_write_joins_a_bounded_number_of_bytes() -> None:
    """What is longer than a write goes in several, each of whole frames."""
    broadcaster = make()
    _, sink = connect(broadcaster)
    for _ in range(5):
        await broadcaster.broadcast("x" * 30_000)
    await until(lambda: len(sink.data) == 5 * 30_008)
    assert [len(data) // 30_008 for data in sink.written] == [2, 2, 1]
    assert all(len(data) <= WRITE_LIMIT for data in sink.written)


async def test_who_joins_in_the_middle_gets_what_came_after() -> None:
    """A lane that joins while events wait for others gets none of those, and all that follow."""
    broadcaster = make()
    _, first = connect(broadcaster)
    await broadcaster.broadcast("a")
    _, second = connect(broadcaster)
    await broadcaster.broadcast("b")
    await settled()
    assert first.data == b"data: a\n\ndata: b\n\n"
    assert second.data == b"data: b\n\n"


async def test_a_full_sink_is_not_written_to_until_it_has_emptied() -> None:
    """Its events wait in its own queue, in order, while others go on; then it marches along again."""
    broadcaster = make()
    lane, slow = connect(broadcaster)
    _, other = connect(broadcaster)
    slow.takes_more = False
    await broadcaster.broadcast("a")
    await settled()
    await broadcaster.broadcast("b")
    await broadcaster.broadcast("c")
    await settled()
    assert (slow.data, len(lane.subscriber)) == (b"data: a\n\n", 2)
    assert other.data == b"data: a\n\ndata: b\n\ndata: c\n\n"
    slow.takes_more = True
    lane.resume()
    await settled()
    await broadcaster.broadcast("d")
    await settled()
    assert slow.data == b"data: a\n\ndata: b\n\ndata: c\n\ndata: d\n\n"
    assert lane.following


async def test_a_sink_that_fills_during_a_pass_loses_nothing_published_meanwhile() -> None:
    """What was logged behind the pass that filled it is in its queue."""
    broadcaster = make()
    lane, sink = connect(broadcaster)
    sink.takes_more = False
    for _ in range(4):
        await broadcaster.broadcast("x" * 30_000)
    await settled()
    assert len(sink.written) == 1
    sink.takes_more = True
    lane.resume()
    await until(lambda: len(sink.data) == 4 * 30_008)


async def test_a_burst_larger_than_the_queue_drops_nothing_of_a_reader_that_takes_it() -> None:
    """A program that publishes without pause disconnects no healthy reader."""
    broadcaster = make(queue_size=10, overflow=Overflow.DISCONNECT)
    _, sink = connect(broadcaster)
    for number in range(1000):
        await broadcaster.broadcast(str(number))
    await settled()
    assert sink.data == b"".join(b"data: %d\n\n" % number for number in range(1000))
    assert broadcaster.client_count == 1


async def test_a_broken_sink_harms_nobody_else() -> None:
    """An exception from one sink cuts that one, counted as an error, and the walk goes on."""
    broadcaster = make()
    _, before = connect(broadcaster)
    _, broken = connect(broadcaster)
    _, after = connect(broadcaster)
    broken.broken = True
    await broadcaster.broadcast("a")
    await settled()
    assert before.data == after.data == b"data: a\n\n"
    assert broken.aborted == 1
    assert broadcaster.counts.closed == {"error": 1}
    assert broadcaster.client_count == 2


async def test_a_lost_connection_is_let_go_at_its_next_write() -> None:
    """Its subscriber has left, and its owner is told."""
    broadcaster = make()
    _, sink = connect(broadcaster)
    sink.gone = True
    await broadcaster.broadcast("a")
    await settled()
    assert broadcaster.counts.closed == {"left": 1}
    assert sink.closed >= 1


async def test_a_lost_connection_is_let_go_at_its_next_heartbeat() -> None:
    """Without any event, and though nobody cancelled its handler."""
    broadcaster = make(heartbeat=0.02)
    _, sink = connect(broadcaster)
    sink.gone = True
    await until(lambda: broadcaster.client_count == 0)
    assert broadcaster.counts.closed == {"left": 1}
    assert sink.closed >= 1


async def test_a_silent_connection_gets_heartbeats() -> None:
    """Comments of one line, and nothing else."""
    broadcaster = make(heartbeat=0.02)
    _, sink = connect(broadcaster)
    await until(lambda: len(sink.written) >= 3)
    assert set(sink.written) == {b":\n"}


async def test_a_connection_with_traffic_gets_no_heartbeat() -> None:
    """Events are signs of life enough: silence is counted from the last of them."""
    broadcaster = make(heartbeat=0.4)
    _, busy = connect(broadcaster)
    started = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < started + 1.0:
        await broadcaster.broadcast("x")
        await asyncio.sleep(0.001)
    assert b":\n" not in busy.written


async def test_a_sink_that_stays_full_is_cut_after_its_deadline() -> None:
    """Whatever the policy: the socket is aborted, and the subscriber counted as stalled."""
    broadcaster = make(write_timeout=0.05, overflow=Overflow.DROP_OLDEST)
    _, sink = connect(broadcaster)
    sink.takes_more = False
    await broadcaster.broadcast("a")
    await until(lambda: sink.aborted == 1)
    counts = broadcaster.counts
    assert (counts.closed, counts.aborted, broadcaster.client_count) == ({"stalled": 1}, 1, 0)


async def test_a_sink_that_empties_in_time_is_not_cut() -> None:
    """And the next time it fills it has the whole allowance again."""
    broadcaster = make(write_timeout=0.2, heartbeat=60)
    lane, sink = connect(broadcaster)
    loop = asyncio.get_running_loop()
    sink.takes_more = False
    started = loop.time()
    while loop.time() < started + 0.5:
        await broadcaster.broadcast("x")
        await settled()
        assert lane.blocked
        lane.resume()
        await settled()
        lane.resume()
    assert sink.aborted == 0


async def test_an_overflowing_reader_is_told_goodbye_if_it_still_takes_it() -> None:
    """Its queue is let go, it gets `$close`, and its stream ends."""
    broadcaster = make(queue_size=1)
    lane, sink = connect(broadcaster)
    sink.takes_more = False
    for text in ("a", "b", "c"):
        await broadcaster.broadcast(text)
        await settled()
    assert lane.subscriber.closed is CloseReason.SLOW
    assert (broadcaster.client_count, len(lane.subscriber)) == (0, 0)
    sink.takes_more = True
    lane.resume()
    await settled()
    assert sink.written[0] == b"data: a\n\n"
    assert sink.written[1].startswith(b"event: $close\nretry: ")
    assert sink.written[1].endswith(b'data: {"reason": "slow"}\n\n')
    assert (len(sink.written), sink.closed, sink.aborted) == (2, 1, 0)


async def test_an_overflowing_reader_that_takes_nothing_is_cut_by_the_same_deadline() -> None:
    """The allowance began when its socket was full, and the end of the stream is within it."""
    broadcaster = make(queue_size=1, write_timeout=0.05)
    lane, sink = connect(broadcaster)
    sink.takes_more = False
    for text in ("a", "b", "c"):
        await broadcaster.broadcast(text)
        await settled()
    await until(lambda: sink.aborted == 1)
    assert lane.subscriber.closed is CloseReason.SLOW
    assert broadcaster.counts.closed == {"slow": 1}
    assert broadcaster.counts.aborted == 1


async def test_an_end_that_is_not_taken_is_cut_too() -> None:
    """A stream whose handler is stuck in its last bytes is over when the deadline is."""
    broadcaster = make(write_timeout=0.05)
    _, sink = connect(broadcaster)
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await until(lambda: sink.aborted == 1)
    closing.cancel()


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_a_reader_that_falls_behind_is_told_of_its_loss(overflow: Overflow) -> None:
    """What it gets is what was kept, and one `$reset` with the number of the rest."""
    broadcaster = make(queue_size=2, overflow=overflow)
    lane, sink = connect(broadcaster)
    sink.takes_more = False
    for number in range(6):
        await broadcaster.broadcast(str(number))
        await settled()
    sink.takes_more = True
    lane.resume()
    await settled()
    reset = b'event: $reset\ndata: {"reason": "slow", "channels": ["default"], "missed": 3}\n\n'
    first = b"data: 0\n\n"
    kept = {
        Overflow.DROP_OLDEST: first + reset + b"data: 4\n\ndata: 5\n\n",
        Overflow.DROP_NEWEST: first + b"data: 1\n\ndata: 2\n\n" + reset,
    }
    assert sink.data == kept[overflow]
    assert broadcaster.counts.dropped == {overflow: 3}


async def test_closing_gives_what_was_accepted_then_goodbye() -> None:
    """A server that stops loses nothing it has answered for."""
    broadcaster = make()
    lane, sink = connect(broadcaster)
    await broadcaster.broadcast("a")
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await until(lambda: sink.closed == 1)
    broadcaster.disconnect(lane)
    await closing
    assert sink.data.startswith(b"data: a\n\nevent: $close\nretry: ")
    assert sink.data.endswith(b'data: {"reason": "drain"}\n\n')
    assert broadcaster.counts.closed == {"drain": 1}


async def test_the_timer_rests_when_there_is_nobody() -> None:
    """No lane, no timer: nothing keeps an idle loop awake, nothing is left."""
    delivery = Delivery(heartbeat=1, write_timeout=1, retry=1000, metrics=Metrics())
    broadcaster = make()
    broadcaster._delivery = delivery
    lane, _ = connect(broadcaster)
    assert delivery._timer is not None
    broadcaster.disconnect(lane)
    assert delivery._timer is None
    assert not delivery._silence


def test_goodbye_is_one_block() -> None:
    """Why the stream ends, and when to come back."""
    assert goodbye(CloseReason.DRAIN, 2500) == b'event: $close\nretry: 2500\ndata: {"reason": "drain"}\n\n'


def test_jitter_spreads_by_half() -> None:
    """Readers cut together do not return together."""
    delays = {jittered(3000) for _ in range(200)}
    assert len(delays) > 50
    assert 1500 <= min(delays) <= max(delays) <= 4500


async def test_a_burst_asks_for_the_walk_once() -> None:
    """However often a log at its bounds was emptied meanwhile, its audience waits for one turn."""
    broadcaster = make(queue_size=10)
    _, sink = connect(broadcaster)
    for number in range(95):
        await broadcaster.broadcast(str(number))
    assert len(broadcaster._delivery._ready) == 1
    await settled()
    assert sink.data == b"".join(b"data: %d\n\n" % number for number in range(95))
    assert not broadcaster._delivery._ready
    assert all(sink.written)


@pytest.mark.parametrize("overflow", list(Overflow))
@pytest.mark.parametrize("queue_size", [1, 3])
async def test_an_event_that_finds_its_queue_full_and_its_sink_empty_keeps_its_place(
    overflow: Overflow, queue_size: int
) -> None:
    """Between resuming and the walk, room is made by writing: nothing later may overtake the event."""
    broadcaster = make(queue_size=queue_size, overflow=overflow)
    lane, sink = connect(broadcaster)
    _, other = connect(broadcaster)
    sink.takes_more = False
    for number in range(1 + queue_size):
        await broadcaster.broadcast(str(number))
        if number == 0:
            await settled()
    sink.takes_more = True
    lane.resume()
    for number in range(1 + queue_size, 4 + 3 * queue_size):
        await broadcaster.broadcast(str(number))
        assert not (lane.following and len(lane.subscriber))
    await settled()
    everything = b"".join(b"data: %d\n\n" % number for number in range(4 + 3 * queue_size))
    assert other.data == everything
    assert sink.data == everything


async def test_the_end_is_written_once() -> None:
    """A lane that has just resumed, or owes a heartbeat, and then ends in the same turn ends once."""
    broadcaster = make()
    lane, sink = connect(broadcaster)
    sink.takes_more = False
    await broadcaster.broadcast("a")
    await settled()
    await broadcaster.broadcast("b")
    sink.takes_more = True
    lane.resume()
    lane.silent = True
    broadcaster._delivery.wake_lane(lane)
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await settled()
    assert sink.data.count(b"$close") == 1
    assert sink.written[-1].startswith(b"event: $close")
    broadcaster.disconnect(lane)
    await closing
