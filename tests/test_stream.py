"""The life of a stream."""

import asyncio
import gc

import pytest

from sse_broadcast import Broadcaster, ClosedError, CloseReason, Config, Overflow, Received
from sse_broadcast.stream import Stream
from tests.support.sockets import until


async def test_it_gives_what_is_published_from_its_first_use_on() -> None:
    """Nothing before, everything after, in order."""
    broadcaster = Broadcaster()
    stream = broadcaster.subscribe()
    await broadcaster.broadcast("before")
    assert broadcaster.client_count == 0
    iterator = aiter(stream)
    assert broadcaster.client_count == 1
    await broadcaster.broadcast("a", event="greeting", retry=5)
    await broadcaster.broadcast("b")
    assert await anext(iterator) == Received("default", "a", "greeting", None, 5)
    assert await anext(iterator) == Received("default", "b", "message")


async def test_it_waits_for_what_comes() -> None:
    """A waiting task is woken by the publish."""
    broadcaster = Broadcaster()
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe()))
    await until(lambda: broadcaster.client_count == 1)
    receipt = await broadcaster.broadcast("a")
    assert (receipt.clients, receipt.channels) == (1, ("default",))
    assert (await waiting).data == "a"


async def test_it_follows_its_channels() -> None:
    """One publication on several of its channels is one event."""
    broadcaster = Broadcaster()
    async with broadcaster.subscribe("a", "b") as stream:
        await broadcaster.broadcast("x", channels=["a", "b"])
        await broadcaster.broadcast("y", channels=["c"])
        await broadcaster.broadcast("z", channels=["b"])
        assert [(await anext(stream)).data, (await anext(stream)).data] == ["x", "z"]


async def test_leaving_the_block_lets_it_go() -> None:
    """`async with` is the tidy way, with an exception too."""
    broadcaster = Broadcaster()

    async def fail() -> None:
        async with broadcaster.subscribe():
            assert broadcaster.client_count == 1
            raise RuntimeError("of the program")

    with pytest.raises(RuntimeError, match="of the program"):
        await fail()
    assert broadcaster.client_count == 0
    assert broadcaster.counts.closed == {"left": 1}


async def test_aclose_lets_it_go_and_ends_it() -> None:
    """Iterating a closed stream ends at once."""
    broadcaster = Broadcaster()
    stream = broadcaster.subscribe()
    aiter(stream)
    await broadcaster.broadcast("a")
    await stream.aclose()
    assert [received async for received in stream] == []
    assert (broadcaster.client_count, stream.closed) == (0, CloseReason.LEFT)


async def test_a_cancelled_wait_lets_it_go() -> None:
    """A task that is cancelled leaves nothing behind."""
    broadcaster = Broadcaster()
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe()))
    await until(lambda: broadcaster.client_count == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert broadcaster.client_count == 0


async def test_garbage_is_let_go() -> None:
    """A stream that nobody holds any more has left."""
    broadcaster = Broadcaster()

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


async def test_closing_one_that_was_never_used_is_nothing() -> None:
    """Whatever became of its broadcaster."""
    broadcaster = Broadcaster()
    stream = broadcaster.subscribe()
    await broadcaster.close(timeout=1)
    await stream.aclose()
    assert broadcaster.counts.opened == 0


async def test_after_a_break_it_goes_on_queueing() -> None:
    """A stream that is still held stays joined."""
    broadcaster = Broadcaster()
    stream = broadcaster.subscribe()
    aiter(stream)
    for text in ("a", "b", "c"):
        await broadcaster.broadcast(text)
    async for received in stream:
        assert received.data == "a"
        break
    assert broadcaster.client_count == 1
    assert [(await anext(stream)).data, (await anext(stream)).data] == ["b", "c"]


async def test_closing_the_broadcaster_ends_it_after_what_was_queued() -> None:
    """StopAsyncIteration when the hub closes it, and not an event too early."""
    broadcaster = Broadcaster()
    stream = broadcaster.subscribe()
    aiter(stream)
    await broadcaster.broadcast("a")
    await broadcaster.close(timeout=1)
    assert [received.data async for received in stream] == ["a"]
    assert stream.closed is CloseReason.DRAIN


async def test_closing_the_broadcaster_ends_a_wait() -> None:
    """A task that waits is woken to the end."""
    broadcaster = Broadcaster()

    async def read(stream: Stream) -> list[str]:
        return [received.data async for received in stream]

    reading = asyncio.ensure_future(read(broadcaster.subscribe()))
    await until(lambda: broadcaster.client_count == 1)
    await broadcaster.close(timeout=1)
    assert await reading == []


async def test_a_closed_broadcaster_takes_no_stream() -> None:
    """Using one raises."""
    broadcaster = Broadcaster()
    await broadcaster.close(timeout=1)
    with pytest.raises(ClosedError, match="the broadcaster is closed"):
        aiter(broadcaster.subscribe())


async def test_a_slow_program_is_disconnected() -> None:
    """By default a stream whose queue overflows ends, and says why."""
    broadcaster = Broadcaster(Config(queue_size=2))
    stream = broadcaster.subscribe()
    aiter(stream)
    for text in ("a", "b", "c"):
        await broadcaster.broadcast(text)
    assert [received async for received in stream] == []
    assert stream.closed is CloseReason.SLOW


async def test_a_slow_program_is_told_what_it_missed() -> None:
    """With a policy that drops, by a `$reset`."""
    broadcaster = Broadcaster(Config(queue_size=2, overflow=Overflow.DROP_OLDEST))
    stream = broadcaster.subscribe()
    aiter(stream)
    for text in ("a", "b", "c"):
        await broadcaster.broadcast(text)
    received = [await anext(stream) for _ in range(3)]
    assert received == [
        Received("default", '{"reason": "slow", "channels": ["default"], "missed": 1}', "$reset"),
        Received("default", "b", "message"),
        Received("default", "c", "message"),
    ]
