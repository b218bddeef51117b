"""Replay: reading the history from a cursor to the newest event."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sse_broadcast.backends.base import Far, Gap, ReplayPage, ResetReason, StartPoint
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.channels import Selector
from sse_broadcast.cursor import parse_since
from sse_broadcast.encoding import TEXT
from sse_broadcast.event import Event
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Draft, Publication
from sse_broadcast.work_queue import SlicedWork, run_to_completion
from tests.support.internals import set_clock
from tests.support.memory_sinks import Away, make_memory

ALL = 1 << 30


class HistoryReader:
    """A history, and subscribers that replay it."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.backend = backend
        self.metrics = Metrics()

    async def publish(self, channels: str = "a", count: int = 1) -> None:
        for _ in range(count):
            await self.backend.publish([Draft(tuple(channels.split()), Event("x"))])

    def begin(self, cursor: str | int, *channels: str) -> Replay:
        """Start at the requested cursor, or after a position that was in the history at the request."""
        selector = Selector.parse(*(channels or ("a",)))
        start = (
            StartPoint(cursor)
            if isinstance(cursor, int)
            else run_to_completion(self.backend.find(parse_since(cursor), selector))
        )
        return Replay(self.backend, selector, start, self.metrics)


async def held(*counts: int | str, **settings: Any) -> HistoryReader:
    """Return a history of this many events on `a`, or of one event on each of these channels in order."""
    reading = HistoryReader(await make_memory(**settings))
    for each in counts:
        await (reading.publish(count=each) if isinstance(each, int) else reading.publish(each))
    return reading


def shown(publications: Sequence[Publication]) -> list[int | str]:
    """Return positions of events, and the data of each `$reset`."""
    return [
        publication.event.data if publication.event.reserved else publication.position
        for publication in publications
    ]


def all_of(catching_up: Replay, limit: int = ALL) -> list[int | str]:
    taken: list[int | str] = []
    while not catching_up.done:
        taken += shown(catching_up.take(limit))
    return taken


EVICTED = '{"reason": "evicted", "channels": ["a"], "missed": null}'


async def test_a_replay_has_the_events_after_the_cursor() -> None:
    """It ends with the newest one."""
    reading = await held(5)
    catching_up = reading.begin(2)
    assert (catching_up.cursor, catching_up.done) == (2, False)
    assert shown(catching_up.take(ALL)) == [3, 4, 5]
    assert (catching_up.cursor, catching_up.done) == (5, True)
    assert list(catching_up.take(ALL)) == []


async def test_a_replay_from_the_newest_position_is_done_at_once() -> None:
    reading = await held()
    assert reading.begin(0).done
    await reading.publish(count=2)
    assert reading.begin(2).done
    assert reading.begin("earliest", "none").done


async def test_a_replay_is_read_in_pages() -> None:
    """Each is about as long as requested, and no event comes twice."""
    reading = await held(4)
    catching_up = reading.begin(0)
    size = len(b"data: x\nid: 0123abcd-1\n\n")
    assert shown(catching_up.take(2 * size)) == [1, 2]
    assert catching_up.cursor == 2
    assert shown(catching_up.take(1)) == [3]
    assert not catching_up.done
    assert shown(catching_up.take(1)) == [4]
    assert catching_up.done


async def test_events_published_during_a_replay_are_part_of_it() -> None:
    """A replay that was done is not done until it has them."""
    reading = await held(2)
    catching_up = reading.begin(0)
    assert shown(catching_up.take(1)) == [1]
    await reading.publish(count=2)
    assert all_of(catching_up, 1) == [2, 3, 4]
    await reading.publish("b")
    assert not catching_up.done
    assert shown(catching_up.take(ALL)) == []
    assert (catching_up.done, catching_up.cursor) == (True, 5)


@pytest.mark.parametrize("cursor", ["fedcba98-1", "0123abcd-99", "nobody's"])
async def test_a_replay_of_an_unusable_id_is_empty(cursor: str) -> None:
    """The first frames report the `$reset`. Events published since follow."""
    reading = await held(3)
    catching_up = reading.begin(cursor)
    assert catching_up.done
    await reading.publish(count=2)
    assert all_of(catching_up) == [4, 5]
    assert reading.metrics.counts().resets == {}


async def test_an_eviction_reported_by_the_first_frames_is_not_reported_again() -> None:
    """The kept events come at once. Only a later loss is another `$reset`."""
    reading = await held(4, history_size=3)
    reported, overtaken = reading.begin("0123abcd-0"), reading.begin("0123abcd-0")
    assert all_of(reported) == [2, 3, 4]
    await reading.publish(count=2)
    assert all_of(overtaken) == [EVICTED, 4, 5, 6]
    assert reading.metrics.counts().resets == {"evicted": 1}


async def test_a_cursor_older_than_the_history_gets_a_reset() -> None:
    """The id of the `$reset` is the position before the oldest kept event, and the replay goes on."""
    reading = await held(5, history_size=2)
    catching_up = reading.begin(1)
    (reset,) = catching_up.take(ALL)
    assert reset.frame(TEXT) == b"event: $reset\ndata: " + EVICTED.encode() + b"\nid: 0123abcd-3\n\n"
    assert catching_up.cursor == 3
    assert all_of(catching_up) == [4, 5]
    assert reading.metrics.counts().resets == {"evicted": 1}


async def test_an_eviction_that_overtakes_the_replay_gets_one_reset() -> None:
    """It comes between two pages, before the kept events."""
    reading = await held(5, history_size=5)
    catching_up = reading.begin(0)
    assert shown(catching_up.take(1)) == [1]
    await reading.publish(count=5)
    assert all_of(catching_up, 1) == [EVICTED, 6, 7, 8, 9, 10]
    assert reading.metrics.counts().resets == {"evicted": 1}


async def test_each_loss_gets_a_reset() -> None:
    """Overtaken a second time, the replay has a second one."""
    reading = await held(2, history_size=2)
    catching_up = reading.begin(0)
    assert shown(catching_up.take(1)) == [1]
    await reading.publish(count=3)
    assert shown(catching_up.take(1)) == [EVICTED]
    assert shown(catching_up.take(1)) == [4]
    await reading.publish(count=4)
    assert all_of(catching_up, 1) == [EVICTED, 8, 9]
    assert reading.metrics.counts().resets == {"evicted": 2}


async def test_an_eviction_before_the_cursor_is_no_loss() -> None:
    """The subscriber has these events."""
    reading = await held(3, history_size=3)
    catching_up = reading.begin(0)
    shown(catching_up.take(1))
    await reading.publish()
    assert all_of(catching_up, 1) == [2, 3, 4]


async def test_two_evictions_before_the_first_page_get_one_reset() -> None:
    """The cursor is older than the history at the start, and the history is evicted further."""
    reading = await held(5, history_size=2)
    catching_up = reading.begin(0)
    await reading.publish(count=5)
    assert all_of(catching_up) == [EVICTED, 9, 10]


@pytest.mark.parametrize("cursor", ["earliest", "1h", "last"])
async def test_a_replay_from_the_oldest_event_has_no_reset(cursor: str) -> None:
    """Older events were evicted before."""
    reading = await held(5, history_size=2)
    taken = all_of(reading.begin(cursor))
    assert taken == ([5] if cursor == "last" else [4, 5])
    assert reading.metrics.counts().resets == {}


async def test_the_last_events_of_channels_come_in_pages() -> None:
    """A page of `preloaded` has at least one event, and live events follow."""
    reading = await held("a", "b", "c", "a")
    catching_up = reading.begin("last", "a", "b", "c")
    size = len(b"data: x\nid: 0123abcd-1\n\n")
    assert shown(catching_up.take(2 * size)) == [2, 3]
    assert (catching_up.done, catching_up.cursor) == (False, 4)
    await reading.publish("b")
    assert shown(catching_up.take(0)) == [4]
    assert not catching_up.done
    assert shown(catching_up.take(0)) == [5]
    assert catching_up.done


async def test_preloaded_events_may_be_evicted_meanwhile() -> None:
    """They were found at the start, and are sent although the history no longer has them."""
    reading = await held("a", "b", history_size=1)
    catching_up = reading.begin("last", "a", "b")
    await reading.publish("b")
    assert all_of(catching_up, 1) == [1, 2, 3]


async def test_without_history_each_loss_gets_a_reset() -> None:
    """The replay is done after each."""
    reading = await held(2, history_size=0)
    catching_up = reading.begin(0)
    assert all_of(catching_up) == [EVICTED]
    await reading.publish()
    assert all_of(catching_up) == [EVICTED]
    assert catching_up.cursor == 3


def known(catching_up: Replay) -> tuple[int, float | None]:
    return catching_up.behind, catching_up.oldest


async def test_the_backlog_of_a_replay_is_known_without_reading_it() -> None:
    """The backlog has the number of later events in all channels, and the time of the oldest match."""
    reading = await held()
    seconds = iter(range(100, 200))
    set_clock(reading.backend, lambda: float(next(seconds)))
    for channels in ("a", "b", "a", "b"):
        await reading.publish(channels)
    catching_up = reading.begin(1, "a")
    assert known(catching_up) == (3, 102.0)
    catching_up.take(ALL)
    assert catching_up.done
    assert known(catching_up) == (0, None)


async def test_preloaded_events_are_in_the_backlog() -> None:
    reading = await held(1)
    begun = reading.begin("last")
    assert begun.behind == 1
    assert begun.oldest is not None
    begun.take(ALL)
    assert known(begun) == (0, None)


# Pages from a store.


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_replay_waits_for_a_page_from_the_store() -> None:
    """It is requested once, however often the replay is read, and its consumer is called when it has come."""
    reading = await held(3)
    store, ready = Away(reading.backend), list[str]()
    catching_up = reading.begin(0)
    catching_up.on_ready = lambda: ready.append("ready")
    for _ in range(5):
        assert list(catching_up.take(ALL)) == []
        await asyncio.sleep(0)
    assert (store.asked, catching_up.fetching is not None, catching_up.done, ready) == (1, True, False, [])
    store.gate.set()
    await turns()
    assert (catching_up.fetching, ready) == (None, ["ready"])
    assert shown(catching_up.take(ALL)) == [1, 2, 3]
    assert (catching_up.done, store.asked) == (True, 1)


async def test_leaving_cancels_the_request_for_a_page() -> None:
    """Its consumer is not called."""
    reading = await held(3)
    Away(reading.backend)
    catching_up, ready = reading.begin(0), list[str]()
    catching_up.on_ready = lambda: ready.append("ready")
    catching_up.take(ALL)
    task = catching_up.fetching
    assert task is not None
    catching_up.cancel()
    await turns()
    assert (task.cancelled(), ready) == (True, [])


async def test_an_error_of_the_store_is_raised_by_take() -> None:
    """It ends the stream, as for any page that cannot be read."""
    reading = await held(3)
    store = Away(reading.backend)
    store.error = OSError("away")
    store.gate.set()
    catching_up = reading.begin(0)
    catching_up.take(ALL)
    await turns()
    with pytest.raises(OSError, match="away"):
        catching_up.take(ALL)


async def test_a_start_point_may_come_from_the_store() -> None:
    """The subscriber is registered before its start is known, so it misses no event meanwhile."""
    reading = await held(3)
    gate = asyncio.Event()

    async def fetch() -> StartPoint:
        await gate.wait()
        return StartPoint(1)

    catching_up = Replay(reading.backend, Selector.parse("a"), Far(fetch), reading.metrics)
    assert (catching_up.done, catching_up.behind) == (False, 0)
    assert list(catching_up.take(ALL)) == []
    await reading.publish()
    gate.set()
    await turns()
    assert all_of(catching_up) == [2, 3, 4]


async def test_a_loss_in_the_backend_gets_a_reset() -> None:
    """The gap has its reason."""
    reading = await held(3)

    def replay(*_: object, **__: object) -> SlicedWork[ReplayPage]:
        yield from ()
        return ReplayPage((), 3, Gap(("a",), 3, ResetReason.BACKEND))

    reading.backend.replay = replay  # type: ignore[method-assign]
    (reset,) = all_of(reading.begin(0))
    assert reset == '{"reason": "backend", "channels": ["a"], "missed": null}'
    assert reading.metrics.resets_by == {"backend": 1}
