"""What a broadcaster promises, apart from the life of streams and sinks."""

import pytest

from sse_broadcast import Broadcaster, ClosedError, Config, Event, EventError, EventTooLargeError, Receipt
from tests.support.outlets import MemorySink


async def test_the_receipt_counts_the_readers_of_the_channels() -> None:
    """HTTP readers and streams, each once."""
    broadcaster = Broadcaster()
    broadcaster.connect(MemorySink())
    aiter_kept = aiter(broadcaster.subscribe("default", "other"))
    assert await broadcaster.broadcast("x", channels=["default", "other"]) == Receipt(2, ("default", "other"))
    assert await broadcaster.broadcast("x", channels=["other"]) == Receipt(1, ("other",))
    assert broadcaster.client_count == 2
    del aiter_kept


@pytest.mark.parametrize(
    ("channels", "problem"),
    [
        ([], "channels: must name at least one"),
        ([""], "channel: must be 1 to 128 characters: ''"),
        (["x" * 129], "channel: must be 1 to 128 characters"),
        (["a b"], "channel: must not contain ' ': 'a b'"),
        (["a/b"], "channel: must not contain '/'"),
        (["a*"], r"channel: must not contain '\*'"),
        (["\u00e9"], r"channel: must not contain '\\xe9'"),
        ([".."], "channel: must not be '..'"),
    ],
)
async def test_a_bad_channel_name_is_refused(channels: list[str], problem: str) -> None:
    """Naming the character, publishing nothing; to subscribe and to publish alike."""
    broadcaster = Broadcaster()
    with pytest.raises(EventError, match=problem):
        await broadcaster.broadcast("x", channels=channels)
    assert broadcaster.counts.published == 0
    if channels:
        with pytest.raises(EventError, match=problem):
            broadcaster.subscribe(*channels)


async def test_a_string_is_no_list_of_channels() -> None:
    """The slip that would publish to ten channels of one letter is an error."""
    with pytest.raises(TypeError, match="channels must be a sequence of names"):
        await Broadcaster().broadcast("x", channels="news")


async def test_reserved_types_are_refused() -> None:
    """Nobody but the server says `$reset`."""
    with pytest.raises(EventError, match=r"event: types beginning with \$ are the server's own"):
        await Broadcaster().publish(Event("x", type="$reset"))


async def test_an_event_is_bounded_as_data_and_as_a_frame() -> None:
    """Line ends make a frame longer than its data; both are measured in bytes."""
    broadcaster = Broadcaster(Config(max_event=100))
    await broadcaster.broadcast("x" * 92)
    with pytest.raises(EventTooLargeError, match="data: is 102 bytes, and an event may be 100"):
        await broadcaster.broadcast("\u00e9" * 51)
    with pytest.raises(EventTooLargeError, match="data: is 106 bytes as a frame"):
        await broadcaster.broadcast("\n" * 14)
    assert broadcaster.counts.published == 1


async def test_a_closed_broadcaster_publishes_nothing() -> None:
    """And says so."""
    broadcaster = Broadcaster()
    await broadcaster.close(timeout=1)
    assert broadcaster.closed
    with pytest.raises(ClosedError):
        await broadcaster.broadcast("x")
    with pytest.raises(ClosedError):
        broadcaster.connect(MemorySink())


async def test_many_readers_join_and_leave_and_nothing_is_left() -> None:
    """The count is exact, and every table is empty again."""
    broadcaster = Broadcaster()
    lanes = [broadcaster.connect(MemorySink()) for _ in range(100)]
    await broadcaster.broadcast("x")
    for lane in lanes:
        broadcaster.disconnect(lane)
        broadcaster.disconnect(lane)
    assert broadcaster.client_count == 0
    assert broadcaster.counts.closed == {"left": 100}
    assert not broadcaster._delivery._lanes
    assert not broadcaster._hub.audiences
