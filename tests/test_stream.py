"""Streams in the process: subscribing, iterating and ending."""

import asyncio
import gc
import json

import pytest

from sse_broadcast import Broadcaster, ClosedError, CloseReason, Config, Event, EventError, Overflow, Received
from sse_broadcast.backends.memory import backend
from sse_broadcast.stream import PAGE_BYTES, Stream
from tests.support.dispatching import publish
from tests.support.internals import set_clock
from tests.support.memory_sinks import EPOCH, connect, make_broadcaster
from tests.support.sockets import until


def received(position: int, data: str, channel: str = "default", event: str = "message") -> Received:
    return Received(channel, data, event, f"{EPOCH}-{position}")


async def next_of(stream: Stream, count: int) -> list[Received]:
    return [await anext(stream) for _ in range(count)]


@pytest.fixture
def broadcaster() -> Broadcaster:
    """Return a broadcaster of the default configuration, with a fixed epoch."""
    return make_broadcaster()


async def test_a_stream_yields_events_published_since_its_first_use(broadcaster: Broadcaster) -> None:
    """They come in order."""
    stream = broadcaster.subscribe()
    await broadcaster.broadcast("before")
    assert broadcaster.client_count == 0
    iterator = aiter(stream)
    assert broadcaster.client_count == 1
    await broadcaster.broadcast("a", event="greeting", retry=5000)
    await broadcaster.broadcast("b")
    assert await anext(iterator) == Received("default", "a", "greeting", f"{EPOCH}-2", 5000)
    assert await anext(iterator) == received(3, "b")


async def test_a_stream_waits_for_the_next_event(broadcaster: Broadcaster) -> None:
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe()))
    await until(lambda: broadcaster.client_count == 1)
    receipt = await broadcaster.broadcast("a")
    assert (receipt.clients, receipt.channels) == (1, ("default",))
    assert (await waiting).data == "a"


@pytest.mark.parametrize("asked", [("orders.eu", "orders.us"), ("orders.*",)])
async def test_a_stream_yields_events_of_its_channels_and_patterns(
    broadcaster: Broadcaster, asked: tuple[str, ...]
) -> None:
    """An event in several of them comes once, with the first of the publisher's that matches."""
    async with broadcaster.subscribe(*asked) as stream:
        await broadcaster.broadcast("x", channels=["prices", "orders.us", "orders.eu"])
        await broadcaster.broadcast("y", channels=["orders"])
        await broadcaster.broadcast("z", channels=["orders.eu"])
        assert await next_of(stream, 2) == [received(1, "x", "orders.us"), received(3, "z", "orders.eu")]


async def test_a_stream_yields_its_types_only(broadcaster: Broadcaster) -> None:
    """This holds for the history and for live events. Others do not count it as a subscriber."""
    for event in ("t", "u", "v"):
        await broadcaster.broadcast("old", event=event)
    async with broadcaster.subscribe(since="earliest", events=["t", "v"]) as stream:
        assert (await broadcaster.broadcast("new", event="u")).clients == 0
        assert (await broadcaster.broadcast("new", event="v")).clients == 1
        assert await next_of(stream, 3) == [
            received(1, "old", event="t"),
            received(3, "old", event="v"),
            received(5, "new", event="v"),
        ]


async def test_an_empty_list_of_types_is_all_types(broadcaster: Broadcaster) -> None:
    async with broadcaster.subscribe(events=[]) as stream:
        await broadcaster.broadcast("x", event="t")
        assert await anext(stream) == received(1, "x", event="t")


async def test_bad_channels_are_refused_before_the_first_use() -> None:
    """The error is raised by `subscribe`."""
    with pytest.raises(EventError, match="channel: must not contain ' '"):
        Broadcaster().subscribe("a b")


async def test_leaving_the_block_releases_a_stream(broadcaster: Broadcaster) -> None:
    """`async with` does so with an exception too."""

    async def fail() -> None:
        async with broadcaster.subscribe():
            assert broadcaster.client_count == 1
            raise RuntimeError("of the program")

    with pytest.raises(RuntimeError, match="of the program"):
        await fail()
    assert broadcaster.client_count == 0
    assert broadcaster.counts.closed == {"left": 1}


async def test_aclose_ends_and_releases_a_stream(broadcaster: Broadcaster) -> None:
    """Iterating a closed stream ends at once."""
    stream = aiter(broadcaster.subscribe())
    await broadcaster.broadcast("a")
    await stream.aclose()
    assert [each async for each in stream] == []
    assert (broadcaster.client_count, stream.closed) == (0, CloseReason.LEFT)


async def test_a_cancelled_wait_releases_a_stream(broadcaster: Broadcaster) -> None:
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe()))
    await until(lambda: broadcaster.client_count == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert broadcaster.client_count == 0


async def test_garbage_collection_releases_a_stream(broadcaster: Broadcaster) -> None:

    async def look_once() -> None:
        async for _ in broadcaster.subscribe():
            break

    looking = asyncio.ensure_future(look_once())
    await until(lambda: broadcaster.client_count == 1)
    await broadcaster.broadcast("a")
    await looking
    gc.collect()
    await until(lambda: broadcaster.client_count == 0)
    assert broadcaster.counts.closed == {"left": 1}


async def test_closing_an_unused_stream_does_nothing(broadcaster: Broadcaster) -> None:
    stream = broadcaster.subscribe()
    await broadcaster.close(timeout=1)
    await stream.aclose()
    assert broadcaster.counts.opened == 0


async def test_a_stream_queues_events_after_a_break(broadcaster: Broadcaster) -> None:
    stream = aiter(broadcaster.subscribe())
    await publish(broadcaster, "a", "b", "c")
    async for each in stream:
        assert each.data == "a"
        break
    assert broadcaster.client_count == 1
    # Taken one at a time, so that only the queue limits them.
    assert stream.queued == 2
    assert [(await anext(stream)).data, (await anext(stream)).data] == ["b", "c"]


@pytest.mark.parametrize("held", [[], ["a"]])
async def test_closing_the_broadcaster_ends_a_stream_after_its_queue(
    broadcaster: Broadcaster, held: list[str]
) -> None:
    """StopAsyncIteration follows the last event. A waiting stream is woken."""

    async def read(stream: Stream) -> list[str]:
        return [each.data async for each in stream]

    stream = aiter(broadcaster.subscribe())
    await publish(broadcaster, *held)
    reading = asyncio.ensure_future(read(stream))
    if not held:
        await asyncio.sleep(0)  # it waits
    await broadcaster.close(timeout=1)
    assert await reading == held
    assert stream.closed is CloseReason.DRAIN


async def test_a_closed_broadcaster_accepts_no_stream(broadcaster: Broadcaster) -> None:
    await broadcaster.close(timeout=1)
    with pytest.raises(ClosedError, match="the broadcaster is closed"):
        aiter(broadcaster.subscribe())


async def test_a_slow_program_is_disconnected() -> None:
    """By default a stream ends when its queue overflows, with the reason."""
    broadcaster = Broadcaster(Config(queue_size=2))
    stream = aiter(broadcaster.subscribe())
    await publish(broadcaster, "a", "b", "c")
    assert [each async for each in stream] == []
    assert stream.closed is CloseReason.SLOW


async def test_a_slow_program_gets_a_reset() -> None:
    """This is so with a policy that drops events."""
    broadcaster = make_broadcaster(queue_size=2, overflow=Overflow.DROP_OLDEST)
    stream = aiter(broadcaster.subscribe())
    await publish(broadcaster, "a", "b", "c")
    assert await next_of(stream, 3) == [
        received(1, '{"reason": "slow", "channels": ["default"], "missed": 1}', "", "$reset"),
        received(2, "b"),
        received(3, "c"),
    ]


async def test_a_slow_program_with_conflation_gets_the_newest_of_each_key() -> None:
    """There is no `$reset`."""
    broadcaster = make_broadcaster(queue_size=2, overflow=Overflow.CONFLATE)
    stream = aiter(broadcaster.subscribe())
    for number in range(7):
        await broadcaster.broadcast(str(number), key=f"k{number % 2}")
    assert await next_of(stream, 2) == [received(6, "5"), received(7, "6")]


# Cursors.


@pytest.mark.parametrize(
    ("since", "first"),
    [("0123abcd-0", 1), ("0123abcd-2", 3), ("mine", 4), ("earliest", 1), ("last", 4), ("10m", 3), ("1h", 1)],
)
async def test_a_stream_begins_at_its_cursor(since: str, first: int, broadcaster: Broadcaster) -> None:
    """The cursor is an id of the server or a publisher, a keyword or an age. Live events follow."""
    now = 1_700_000_000.0
    # The third event has the id `mine`: only the fourth comes after it.
    for number, age in ((1, 1800), (2, 1200), (3, 500), (4, 0)):
        set_clock(broadcaster, lambda at=now - age: at)  # type: ignore[misc]
        await broadcaster.broadcast(str(number), id="mine" if number == 3 else None)
    stream = aiter(broadcaster.subscribe(since=since))
    await publish(broadcaster, "5")
    given = await next_of(stream, 6 - first)
    assert [each.data for each in given] == [str(number) for number in range(first, 6)]
    await publish(broadcaster, "6")
    assert await anext(stream) == received(6, "6")


async def test_a_cursor_is_resolved_at_the_first_use(broadcaster: Broadcaster) -> None:
    """`last` is the newest then, and an id has all events since."""
    await publish(broadcaster, "a")
    last, after = broadcaster.subscribe(since="last"), broadcaster.subscribe(since=broadcaster.cursor)
    await publish(broadcaster, "b", "c")
    assert broadcaster.client_count == 0
    assert await anext(last) == received(3, "c")
    assert await next_of(after, 2) == [received(2, "b"), received(3, "c")]


async def test_last_is_the_newest_event_of_each_channel(broadcaster: Broadcaster) -> None:
    """They come in order, then live events."""
    for channel in ("a", "b", "a", "c", "b"):
        await broadcaster.broadcast("x", channels=[channel])
    async with broadcaster.subscribe("a", "b", "none", since="last") as stream:
        await broadcaster.broadcast("live", channels=["a"])
        assert await next_of(stream, 3) == [
            received(3, "x", "a"),
            received(5, "x", "b"),
            received(6, "live", "a"),
        ]


async def test_events_published_during_the_replay_come_once_and_in_order() -> None:
    """There is no gap and no repetition between two pages, or between the history and live events."""
    broadcaster = make_broadcaster()
    large = "x" * (PAGE_BYTES // 3)
    sent = [large] * 10
    await publish(broadcaster, *sent)
    stream = broadcaster.subscribe(since="earliest")
    given: list[Received] = []
    while len(given) < len(sent):
        given.append(await anext(stream))
        if len(given) % 2 and len(sent) < 30:
            await publish(broadcaster, f"new {len(sent)}")
            sent.append(f"new {len(sent)}")
    assert given == [received(position, data) for position, data in enumerate(sent, 1)]
    await publish(broadcaster, "live")
    assert await anext(stream) == received(len(sent) + 1, "live")


async def test_a_replaying_stream_is_not_slow() -> None:
    """No event is queued for it, so it reaches no limit."""
    broadcaster = make_broadcaster(queue_size=2)
    await publish(broadcaster, *["x" * (PAGE_BYTES // 2 - 100)] * 10)
    stream = broadcaster.subscribe(since="earliest")
    await anext(stream)
    await publish(broadcaster, *"abcdefgh")
    assert stream.queued == 0
    assert [each.data for each in await next_of(stream, 17)][-8:] == list("abcdefgh")
    assert stream.closed is None


async def test_a_stream_is_live_after_its_replay() -> None:
    """It has a queue once it waits for events, and can be slow."""
    broadcaster = make_broadcaster(queue_size=2)
    await publish(broadcaster, "a")
    stream = broadcaster.subscribe(since="earliest")
    assert await anext(stream) == received(1, "a")
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await publish(broadcaster, "b")
    assert await waiting == received(2, "b")
    await publish(broadcaster, "c", "d", "e")
    assert [each async for each in stream] == []
    assert stream.closed is CloseReason.SLOW


async def test_a_stream_waits_for_events_after_its_replay() -> None:
    """An empty page does not end it."""
    broadcaster = make_broadcaster(history_size=10_000)
    await broadcaster.publish_all([broadcaster.draft(Event("x", "t"), ["a"])] * 5000)
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe("a*", since="earliest", events=["u"])))
    await until(lambda: broadcaster.client_count == 1)
    await broadcaster.broadcast("y", event="u", channels=["a"])
    assert await waiting == received(5001, "y", "a", "u")


@pytest.mark.parametrize(
    ("since", "reason", "at", "rest"),
    [
        (f"{EPOCH}-1", "evicted", 3, [received(4, "d"), received(5, "e")]),
        ("fedcba98-1", "epoch", 5, []),
        (f"{EPOCH}-99", "unknown", 5, []),
    ],
)
async def test_a_loss_is_one_reset_before_newer_events(
    since: str, reason: str, at: int, rest: list[Received]
) -> None:
    """It has no channel and the id to resume from. Kept events follow, then live ones."""
    broadcaster = make_broadcaster(history_size=2)
    await publish(broadcaster, *"abcde")
    stream = broadcaster.subscribe(since=since)
    reported = f'{{"reason": "{reason}", "channels": ["default"], "missed": null}}'
    reset = received(at, reported, "", "$reset")
    assert await next_of(stream, 1 + len(rest)) == [reset, *rest]
    again = broadcaster.subscribe(since=reset.id)
    assert await next_of(again, len(rest)) == rest
    await publish(broadcaster, "f")
    assert await anext(stream) == await anext(again) == received(6, "f")
    assert sum(broadcaster.counts.resets.values()) == 1


async def test_a_reset_passes_the_filter_of_types(broadcaster: Broadcaster) -> None:
    """It is a system event."""
    async with broadcaster.subscribe(since="fedcba98-1", events=["t"]) as stream:
        assert (await anext(stream)).event == "$reset"
        assert broadcaster.counts.resets == {"epoch": 1}


async def test_a_reset_has_the_channels_with_a_loss() -> None:
    """If they are not known it has all of the subscription."""
    broadcaster = make_broadcaster(history_size=1)
    for channel in ("a", "a", "b"):
        await broadcaster.broadcast("x", channels=[channel])
    for since, channels in ((f"{EPOCH}-0", '["a"]'), ("fedcba98-1", '["a", "b"]')):
        async with broadcaster.subscribe("b", "a", since=since) as stream:
            assert f'"channels": {channels}' in (await anext(stream)).data


@pytest.mark.parametrize("since", [None, "earliest", "yesterday"])
async def test_an_unknown_last_event_id_gets_a_reset(since: str | None) -> None:
    """As over HTTP, `since` does not matter: a program with an id from before a restart continues."""
    broadcaster = make_broadcaster()
    await broadcaster.broadcast("held")
    async with broadcaster.subscribe(last_event_id="order-7", since=since) as stream:
        reported = await anext(stream)
        assert (reported.event, json.loads(reported.data)["reason"], reported.id) == (
            "$reset",
            "unknown",
            f"{EPOCH}-1",
        )
    async with broadcaster.subscribe(last_event_id=f"{EPOCH}-0", since="last") as stream:
        assert (await anext(stream)).data == "held"


@pytest.mark.parametrize("since", ["yesterday", "never-ours"])
async def test_an_invalid_since_is_refused_at_the_first_use(since: str) -> None:
    """It depends on the history then. No subscriber is left."""
    broadcaster = make_broadcaster()
    stream = broadcaster.subscribe(since=since)
    with pytest.raises(EventError, match=f"^since: '{since}' is neither an age "):
        aiter(stream)
    with pytest.raises(EventError, match=f"^since: '{since}' is neither an age "):
        await anext(broadcaster.subscribe(since=since))
    assert (broadcaster.client_count, broadcaster.counts.opened) == (0, 0)


async def test_a_stream_gets_no_open_event_and_no_heartbeat() -> None:
    """It has no connection to lose, so it gets published events and resets only."""
    broadcaster = make_broadcaster(heartbeat=0.01)
    stream = broadcaster.subscribe()
    waiting = asyncio.ensure_future(anext(stream))
    _, sink = connect(broadcaster)
    await until(lambda: len(sink.written) > 2)
    await publish(broadcaster, "a")
    assert await waiting == received(1, "a")


async def test_a_stream_left_during_its_replay_yields_nothing_more(broadcaster: Broadcaster) -> None:
    """It yields neither the rest of its page nor later ones."""
    await publish(broadcaster, *["x" * (PAGE_BYTES // 3)] * 10)
    stream = broadcaster.subscribe(since="earliest")
    await anext(stream)
    await stream.aclose()
    assert [each async for each in stream] == []
    assert (broadcaster.client_count, stream.closed) == (0, CloseReason.LEFT)


async def test_closing_the_broadcaster_ends_a_replay(broadcaster: Broadcaster) -> None:
    """The page in progress is yielded. The rest stays in the history for the last id."""
    await publish(broadcaster, *["x" * (PAGE_BYTES // 3 - 100)] * 10)
    stream = broadcaster.subscribe(since="earliest")
    await anext(stream)
    await broadcaster.close(timeout=1)
    assert [each.id async for each in stream] == [f"{EPOCH}-2", f"{EPOCH}-3"]
    assert (stream.closed, broadcaster.counts.closed) == (CloseReason.DRAIN, {"drain": 1})


async def test_a_long_history_without_matches_blocks_no_other_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others run between two parts of it, also if a match is at its end."""
    monkeypatch.setattr(backend, "PAGE_SCAN_LIMIT", 10)
    broadcaster = make_broadcaster(history_size=1000)
    await publish(broadcaster, *["x"] * 500)
    await broadcaster.broadcast("rare", event="rare")
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    stream = broadcaster.subscribe(since="earliest", events=["rare"])
    turn()
    assert await anext(stream) == received(501, "rare", event="rare")
    assert turns >= 50


@pytest.mark.parametrize("how", ["cancelled", "closed", "drained"])
async def test_a_stream_in_a_history_without_matches_can_be_cancelled(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation takes effect at once, as when waiting for an event."""
    monkeypatch.setattr(backend, "PAGE_SCAN_LIMIT", 1)
    broadcaster = make_broadcaster(history_size=1000)
    await publish(broadcaster, *["x"] * 1000)
    stream = broadcaster.subscribe(since="earliest", events=["rare"])
    waiting = asyncio.ensure_future(anext(stream))
    while broadcaster.client_count == 0:
        await asyncio.sleep(0)
    if how == "cancelled":
        waiting.cancel()
    elif how == "closed":
        await stream.aclose()
    else:
        await broadcaster.close(timeout=1)
    with pytest.raises(asyncio.CancelledError if how == "cancelled" else StopAsyncIteration):
        await waiting
    assert broadcaster.client_count == 0
    assert stream.closed is (CloseReason.DRAIN if how == "drained" else CloseReason.LEFT)
    assert [each async for each in stream] == []


async def test_garbage_collection_releases_a_replaying_stream(broadcaster: Broadcaster) -> None:
    await publish(broadcaster, *["x" * PAGE_BYTES] * 3)
    async for _ in broadcaster.subscribe(since="earliest"):
        break
    gc.collect()
    await until(lambda: broadcaster.client_count == 0)
    assert broadcaster.counts.closed == {"left": 1}
