"""Ids of evicted events: what is remembered of them, for whom, how long and how many."""

import tracemalloc

from sse_broadcast.backends.memory.retired_ids import (
    CHANNEL_BYTES,
    ID_BYTES,
    MAX_CHANNELS_SEARCHED,
    RetiredIds,
)
from sse_broadcast.channels import Selector
from tests.support.memory import entries

PLENTY = 1 << 40


def retire(
    retired: RetiredIds, channel: str, *ids: tuple[str, int], until: float = 10.0, now: float = 0.0
) -> None:
    retired.add(channel, ids, until=until, now=now, most=3)


def oldest(retired: RetiredIds, id: str, *channels: str, now: float = 0.0) -> int | None:
    return retired.oldest(id, Selector.parse(*channels), now=now)


def test_an_id_is_of_the_channels_that_had_it() -> None:
    retired = RetiredIds(max_bytes=PLENTY)
    for channel, position in (("a", 5), ("b", 3), ("c.d", 8), ("a", 9)):
        retire(retired, channel, ("x", position))
    assert [oldest(retired, "x", *channels) for channels in (["a"], ["b", "a"], ["c.*"], ["*"])] == [
        5,
        3,
        8,
        3,
    ]
    assert oldest(retired, "x", "c") is None
    assert oldest(retired, "y", "*") is None


def test_an_id_is_forgotten_when_its_time_has_come() -> None:
    """A use that is evicted later counts anew; nothing is left behind then."""
    retired = RetiredIds(max_bytes=PLENTY)
    retire(retired, "a", ("x", 1), ("y", 2))
    retire(retired, "a", ("x", 7), until=20.0, now=5.0)
    assert oldest(retired, "x", "a", now=15.0) == 1
    assert oldest(retired, "y", "a", now=15.0) is None
    retire(retired, "a", ("x", 9), until=40.0, now=21.0)
    assert oldest(retired, "x", "a", now=21.0) == 9
    retired.expire(40.0)
    assert (len(retired), retired.bytes, entries(retired)) == (0, 0, 0)


def test_a_channel_remembers_so_many_and_takes_none_of_anothers() -> None:
    """Its own oldest go, for its number and for the bytes of all together."""
    retired = RetiredIds(max_bytes=2 * CHANNEL_BYTES + 4 * ID_BYTES)
    retire(retired, "quiet", ("x", 1))
    for position in range(2, 100):
        retire(retired, "busy", (f"id{position}", position))
    assert [oldest(retired, f"id{position}", "busy") for position in (96, 97, 99)] == [None, 97, 99]
    for position in range(100):
        retire(retired, f"new{position}", ("y", 200 + position))
    assert oldest(retired, "x", "quiet") == 1
    assert retired.bytes <= 2 * CHANNEL_BYTES + 4 * ID_BYTES


def test_an_id_of_many_channels_is_taken_for_one_of_any_pattern() -> None:
    """To compare each with a pattern would take longer the more there are; names are looked up."""
    retired = RetiredIds(max_bytes=PLENTY)
    for number in range(MAX_CHANNELS_SEARCHED + 1):
        retire(retired, f"a{number}", ("x", 5 + number))
    assert oldest(retired, "x", "b*") == 0
    assert oldest(retired, "x", "b", "a7") == 12


def test_it_takes_what_it_counts() -> None:
    for channels, ids in ((1, 20_000), (20_000, 1)):
        names = [f"channel.{number}" for number in range(channels)]
        retired = RetiredIds(max_bytes=PLENTY)
        tracemalloc.start()
        for number, name in enumerate(names):
            each = [(f"id-{number}-{count}", 1000 + number + count) for count in range(ids)]
            retired.add(name, each, until=number + 0.5, now=0.0, most=ids)
            del each
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert 0.5 * retired.bytes < taken < 1.5 * retired.bytes
