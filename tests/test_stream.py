"""The life of a stream."""

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
    """Return a broadcaster of the default configuration, with the one epoch."""
    return make_broadcaster()


async def test_it_gives_what_is_published_from_its_first_use_on(broadcaster: Broadcaster) -> None:
    """Nothing before, everything after, in order."""
    stream = broadcaster.subscribe()
    await broadcaster.broadcast("before")
    assert broadcaster.client_count == 0
    iterator = aiter(stream)
    assert broadcaster.client_count == 1
    await broadcaster.broadcast("a", event="greeting", retry=5000)
    await broadcaster.broadcast("b")
    assert await anext(iterator) == Received("default", "a", "greeting", f"{EPOCH}-2", 5000)
    assert await anext(iterator) == received(3, "b")


async def test_it_waits_for_what_comes(broadcaster: Broadcaster) -> None:
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe()))
    await until(lambda: broadcaster.client_count == 1)
    receipt = await broadcaster.broadcast("a")
    assert (receipt.clients, receipt.channels) == (1, ("default",))
    assert (await waiting).data == "a"


@pytest.mark.parametrize("asked", [("orders.eu", "orders.us"), ("orders.*",)])
async def test_it_follows_its_channels_and_patterns(broadcaster: Broadcaster, asked: tuple[str, ...]) -> None:
    """One publication on several of its channels is one event, of the publisher's first that it follows."""
    async with broadcaster.subscribe(*asked) as stream:
        await broadcaster.broadcast("x", channels=["prices", "orders.us", "orders.eu"])
        await broadcaster.broadcast("y", channels=["orders"])
        await broadcaster.broadcast("z", channels=["orders.eu"])
        assert await next_of(stream, 2) == [received(1, "x", "orders.us"), received(3, "z", "orders.eu")]


async def test_it_gives_the_types_it_was_asked_for(broadcaster: Broadcaster) -> None:
    """Of the history and of what is live alike; and what it does not want does not count it."""
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


async def test_no_types_are_all_types(broadcaster: Broadcaster) -> None:
    """An empty list asks for nothing in particular."""
    async with broadcaster.subscribe(events=[]) as stream:
        await broadcaster.broadcast("x", event="t")
        assert await anext(stream) == received(1, "x", event="t")


async def test_bad_channels_are_refused_before_the_first_use() -> None:
    """Where the mistake is made."""
    with pytest.raises(EventError, match="channel: must not contain ' '"):
        Broadcaster().subscribe("a b")


async def test_leaving_the_block_lets_it_go(broadcaster: Broadcaster) -> None:
    """`async with` is the tidy way, with an exception too."""

    async def fail() -> None:
        async with broadcaster.subscribe():
            assert broadcaster.client_count == 1
            raise RuntimeError("of the program")

    with pytest.raises(RuntimeError, match="of the program"):
        await fail()
    assert broadcaster.client_count == 0
    assert broadcaster.counts.closed == {"left": 1}


async def test_aclose_lets_it_go_and_ends_it(broadcaster: Broadcaster) -> None:
    """Iterating a closed stream ends at once."""
    stream = aiter(broadcaster.subscribe())
    await broadcaster.broadcast("a")
    await stream.aclose()
    assert [each async for each in stream] == []
    assert (broadcaster.client_count, stream.closed) == (0, CloseReason.LEFT)


async def test_a_cancelled_wait_lets_it_go(broadcaster: Broadcaster) -> None:
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe()))
    await until(lambda: broadcaster.client_count == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert broadcaster.client_count == 0


async def test_garbage_is_let_go(broadcaster: Broadcaster) -> None:

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


async def test_closing_one_that_was_never_used_is_nothing(broadcaster: Broadcaster) -> None:
    stream = broadcaster.subscribe()
    await broadcaster.close(timeout=1)
    await stream.aclose()
    assert broadcaster.counts.opened == 0


async def test_after_a_break_it_goes_on_queueing(broadcaster: Broadcaster) -> None:
    stream = aiter(broadcaster.subscribe())
    await publish(broadcaster, "a", "b", "c")
    async for each in stream:
        assert each.data == "a"
        break
    assert broadcaster.client_count == 1
    # Taken one by one, so that what waits is bounded by the queue alone.
    assert stream.queued == 2
    assert [(await anext(stream)).data, (await anext(stream)).data] == ["b", "c"]


@pytest.mark.parametrize("held", [[], ["a"]])
async def test_closing_the_broadcaster_ends_it_after_what_was_queued(
    broadcaster: Broadcaster, held: list[str]
) -> None:
    """StopAsyncIteration when the hub closes it, and not an event too early; a wait is woken to the end."""

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


async def test_a_closed_broadcaster_takes_no_stream(broadcaster: Broadcaster) -> None:
    await broadcaster.close(timeout=1)
    with pytest.raises(ClosedError, match="the broadcaster is closed"):
        aiter(broadcaster.subscribe())


async def test_a_slow_program_is_disconnected() -> None:
    """By default a stream whose queue overflows ends, and says why."""
    broadcaster = Broadcaster(Config(queue_size=2))
    stream = aiter(broadcaster.subscribe())
    await publish(broadcaster, "a", "b", "c")
    assert [each async for each in stream] == []
    assert stream.closed is CloseReason.SLOW


async def test_a_slow_program_is_told_what_it_missed() -> None:
    """With a policy that drops, by a `$reset`."""
    broadcaster = make_broadcaster(queue_size=2, overflow=Overflow.DROP_OLDEST)
    stream = aiter(broadcaster.subscribe())
    await publish(broadcaster, "a", "b", "c")
    assert await next_of(stream, 3) == [
        received(1, '{"reason": "slow", "channels": ["default"], "missed": 1}', "", "$reset"),
        received(2, "b"),
        received(3, "c"),
    ]


async def test_a_slow_program_that_conflates_gets_the_newest_of_each_key() -> None:
    """And is told of no loss."""
    broadcaster = make_broadcaster(queue_size=2, overflow=Overflow.CONFLATE)
    stream = aiter(broadcaster.subscribe())
    for number in range(7):
        await broadcaster.broadcast(str(number), key=f"k{number % 2}")
    assert await next_of(stream, 2) == [received(6, "5"), received(7, "6")]


# Beginning in the history.


@pytest.mark.parametrize(
    ("since", "first"),
    [("0123abcd-0", 1), ("0123abcd-2", 3), ("mine", 4), ("earliest", 1), ("last", 4), ("10m", 3), ("1h", 1)],
)
async def test_it_begins_where_it_is_told(since: str, first: int, broadcaster: Broadcaster) -> None:
    """After an id of the server's or a publisher's, at a word or an age; then it is live."""
    now = 1_700_000_000.0
    # The id `mine` is of the third: what came after it is the fourth alone.
    for number, age in ((1, 1800), (2, 1200), (3, 500), (4, 0)):
        set_clock(broadcaster, lambda at=now - age: at)  # type: ignore[misc]
        await broadcaster.broadcast(str(number), id="mine" if number == 3 else None)
    stream = aiter(broadcaster.subscribe(since=since))
    await publish(broadcaster, "5")
    given = await next_of(stream, 6 - first)
    assert [each.data for each in given] == [str(number) for number in range(first, 6)]
    await publish(broadcaster, "6")
    assert await anext(stream) == received(6, "6")


async def test_it_begins_when_it_is_first_used(broadcaster: Broadcaster) -> None:
    """And not when it is made: `last` is the newest then, and an id has all that came since."""
    await publish(broadcaster, "a")
    last, after = broadcaster.subscribe(since="last"), broadcaster.subscribe(since=broadcaster.cursor)
    await publish(broadcaster, "b", "c")
    assert broadcaster.client_count == 0
    assert await anext(last) == received(3, "c")
    assert await next_of(after, 2) == [received(2, "b"), received(3, "c")]


async def test_last_is_the_newest_of_each_channel_and_then_live(broadcaster: Broadcaster) -> None:
    """A snapshot, in order, whatever else the channels hold."""
    for channel in ("a", "b", "a", "c", "b"):
        await broadcaster.broadcast("x", channels=[channel])
    async with broadcaster.subscribe("a", "b", "none", since="last") as stream:
        await broadcaster.broadcast("live", channels=["a"])
        assert await next_of(stream, 3) == [
            received(3, "x", "a"),
            received(5, "x", "b"),
            received(6, "live", "a"),
        ]


async def test_what_is_published_while_it_catches_up_comes_once_and_in_its_place() -> None:
    """From history to live without a gap or a repeat, wherever between two pages it happens."""
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


async def test_catching_up_is_not_being_slow() -> None:
    """Nothing is queued for it meanwhile, so that no bound is reached."""
    broadcaster = make_broadcaster(queue_size=2)
    await publish(broadcaster, *["x" * (PAGE_BYTES // 2 - 100)] * 10)
    stream = broadcaster.subscribe(since="earliest")
    await anext(stream)
    await publish(broadcaster, *"abcdefgh")
    assert stream.queued == 0
    assert [each.data for each in await next_of(stream, 17)][-8:] == list("abcdefgh")
    assert stream.closed is None


async def test_a_stream_that_has_caught_up_has_the_queue_of_any_reader() -> None:
    """Live from the moment it waits for what comes, it is slow as any reader is."""
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


async def test_a_stream_that_has_caught_up_waits_for_what_comes() -> None:
    """A page that turns out to hold nothing it wants is no end."""
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
async def test_a_loss_is_told_once_before_anything_newer(
    since: str, reason: str, at: int, rest: list[Received]
) -> None:
    """As an event of no channel, whose id is where to go on; then what is held, then what is live."""
    broadcaster = make_broadcaster(history_size=2)
    await publish(broadcaster, *"abcde")
    stream = broadcaster.subscribe(since=since)
    told = f'{{"reason": "{reason}", "channels": ["default"], "missed": null}}'
    reset = received(at, told, "", "$reset")
    assert await next_of(stream, 1 + len(rest)) == [reset, *rest]
    again = broadcaster.subscribe(since=reset.id)
    assert await next_of(again, len(rest)) == rest
    await publish(broadcaster, "f")
    assert await anext(stream) == await anext(again) == received(6, "f")
    assert sum(broadcaster.counts.resets.values()) == 1


async def test_a_loss_is_told_whatever_types_are_wanted(broadcaster: Broadcaster) -> None:
    """The server's own events pass every filter."""
    async with broadcaster.subscribe(since="fedcba98-1", events=["t"]) as stream:
        assert (await anext(stream)).event == "$reset"
        assert broadcaster.counts.resets == {"epoch": 1}


async def test_a_loss_names_the_channels_that_lost_something() -> None:
    """Those that it asked for, where nobody knows which."""
    broadcaster = make_broadcaster(history_size=1)
    for channel in ("a", "a", "b"):
        await broadcaster.broadcast("x", channels=[channel])
    for since, channels in ((f"{EPOCH}-0", '["a"]'), ("fedcba98-1", '["a", "b"]')):
        async with broadcaster.subscribe("b", "a", since=since) as stream:
            assert f'"channels": {channels}' in (await anext(stream)).data


@pytest.mark.parametrize("since", [None, "earliest", "yesterday"])
async def test_a_last_event_id_that_is_unknown_is_told_as_a_loss(since: str | None) -> None:
    """As over HTTP, and whatever `since` says: a program that kept it over a restart goes on."""
    broadcaster = make_broadcaster()
    await broadcaster.broadcast("held")
    async with broadcaster.subscribe(last_event_id="order-7", since=since) as stream:
        told = await anext(stream)
        assert (told.event, json.loads(told.data)["reason"], told.id) == ("$reset", "unknown", f"{EPOCH}-1")
    async with broadcaster.subscribe(last_event_id=f"{EPOCH}-0", since="last") as stream:
        assert (await anext(stream)).data == "held"


@pytest.mark.parametrize("since", ["yesterday", "never-ours"])
async def test_a_since_that_means_nothing_is_refused_at_its_first_use(since: str) -> None:
    """It depends on what is held then; no subscriber is left."""
    broadcaster = make_broadcaster()
    stream = broadcaster.subscribe(since=since)
    with pytest.raises(EventError, match=f"^since: '{since}' is neither an age "):
        aiter(stream)
    with pytest.raises(EventError, match=f"^since: '{since}' is neither an age "):
        await anext(broadcaster.subscribe(since=since))
    assert (broadcaster.client_count, broadcaster.counts.opened) == (0, 0)


async def test_a_stream_is_given_no_opening_and_no_heartbeat() -> None:
    """It cannot be cut: what it gets is what was published, and news of a loss."""
    broadcaster = make_broadcaster(heartbeat=0.01)
    stream = broadcaster.subscribe()
    waiting = asyncio.ensure_future(anext(stream))
    _, sink = connect(broadcaster)
    await until(lambda: len(sink.written) > 2)
    await publish(broadcaster, "a")
    assert await waiting == received(1, "a")


async def test_left_while_catching_up_it_gives_nothing_more(broadcaster: Broadcaster) -> None:
    """Neither of its page nor of the history behind that."""
    await publish(broadcaster, *["x" * (PAGE_BYTES // 3)] * 10)
    stream = broadcaster.subscribe(since="earliest")
    await anext(stream)
    await stream.aclose()
    assert [each async for each in stream] == []
    assert (broadcaster.client_count, stream.closed) == (0, CloseReason.LEFT)


async def test_closing_the_broadcaster_ends_it_while_it_catches_up(broadcaster: Broadcaster) -> None:
    """After the page it has; the rest is there for its last id when it comes back."""
    await publish(broadcaster, *["x" * (PAGE_BYTES // 3 - 100)] * 10)
    stream = broadcaster.subscribe(since="earliest")
    await anext(stream)
    await broadcaster.close(timeout=1)
    assert [each.id async for each in stream] == [f"{EPOCH}-2", f"{EPOCH}-3"]
    assert (stream.closed, broadcaster.counts.closed) == (CloseReason.DRAIN, {"drain": 1})


async def test_a_long_history_with_nothing_for_it_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone else may go between two parts of it, also when it ends with an event for it."""
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
async def test_a_stream_in_a_history_with_nothing_for_it_can_be_let_go(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in any other wait for its next event, and at once."""
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


async def test_garbage_that_was_catching_up_is_let_go(broadcaster: Broadcaster) -> None:
    """Whatever it has yet to get."""
    await publish(broadcaster, *["x" * PAGE_BYTES] * 3)
    async for _ in broadcaster.subscribe(since="earliest"):
        break
    gc.collect()
    await until(lambda: broadcaster.client_count == 0)
    assert broadcaster.counts.closed == {"left": 1}
