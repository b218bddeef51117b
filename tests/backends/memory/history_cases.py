"""What the tests of the history share: publications, histories, and the check that all is bounded."""

from collections.abc import Collection
from typing import Any

import pytest

from sse_broadcast.backends.memory import channel_index, custom_ids, position_index, watermarks
from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.history import (
    History,
)
from sse_broadcast.backends.memory.position_index import PositionIndex
from sse_broadcast.backends.memory.weights import CHANNEL_COST, PUBLISHER_COST, set_weights
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.event import Event
from sse_broadcast.publication import Publication, place
from sse_broadcast.work_queue import run_to_completion

PLENTY = 1 << 40
ALL = 1 << 30
FOREVER = 1e12
TEN = Selector.parse(*[f"*{digit}*z*" for digit in range(10)])
"""Ten patterns of three stars."""


def publication(position: int, channels: str = "a", **fields: Any) -> Publication:
    time = fields.pop("time", 0.0)
    event = Event(fields.pop("data", "x"), **fields)
    placed = place(tuple(channels.split()), event, epoch="0123abcd", position=position, time=time)
    set_weights(placed.channels, [placed])
    return placed


def history_of(
    size: int = 1000,
    *,
    bytes: int = PLENTY,
    age: float = FOREVER,
    total: int = PLENTY,
    max_channels: int = 1000,
    **own: HistoryLimits,
) -> History:
    limits = HistoryLimits(size, bytes, age)
    return History(lambda channel: own.get(channel, limits), total=total, max_channels=max_channels)


def fill(history: History, *rows: str, start: int = 1) -> None:
    for position, channels in enumerate(rows, start):
        history.extend([publication(position, channels)])


def held(history: History, channel: str) -> list[int]:
    log = history.channel_index.logs.get(channel)
    return [] if log is None else [one.position for one in log.after(0)]


def weight(one: Publication) -> int:
    """Return the bytes that a publication counts for."""
    return one.weight


WEIGHT = weight(publication(100, "a"))


def room(events: int, *, channels: int, publishers: int = 1) -> int:
    """Return a total with room for so many events, in so many channels with names of one letter."""
    return events * WEIGHT + channels * (CHANNEL_COST + 1) + publishers * PUBLISHER_COST


def given_after(history: History, selector: Selector, after: int) -> list[int]:
    return [one.position for _, one, _ in history.after(selector, after) if one is not None]


def lost(history: History, *channels: str) -> int:
    return run_to_completion(history.watermarks.newest_loss(Selector.parse(*channels)))


def set_search_slice(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every search pause after so many steps."""
    for module in (channel_index, custom_ids, watermarks):
        monkeypatch.setattr(module, "SEARCH_SLICE", steps)


def require_bounded(history: History) -> None:
    """Hold every internal structure to what is held, or to how many channels are remembered."""
    logs = history.channel_index.logs
    everything = {one.position: one for log in logs.values() for one in log.after(0)}
    assert history.bytes == sum(map(weight, everything.values()))
    assert len(logs) <= history._max_channels
    require_bounded_order(history._position_index, everything.keys())
    assert {place for place, one in history._position_index.after(0) if one} == everything.keys()
    assert history._holders == {
        position: sum(position in held(history, name) for name in one.channels)
        for position, one in everything.items()
        if len(one.channels) > 1
    }
    assert set(history.custom_ids._positions) <= {one.event.id for one in everything.values()}
    slots = {slot: log for slot, log in enumerate(history.channel_index.slots) if log is not None}
    assert slots == {log.slot: log for log in logs.values()}
    assert sorted([*slots, *history.channel_index._free_slots]) == list(
        range(len(history.channel_index.slots))
    )
    assert len(history.channel_index.slots) <= history._max_channels
    assert len(history.watermarks._recent) <= watermarks.MAX_RECENT_EVICTIONS
    require_shared(history)
    assert {log for log in logs.values() if log.count} <= {log for _, _, log in history._expiring}
    assert len(history._expiring) <= 3 * len(logs) + 130
    for log in logs.values():
        require_bounded_log(log)


def require_bounded_order(order: PositionIndex, held: Collection[int]) -> None:
    assert len(order) == len(held) == sum(chunk.live for chunk in order._chunks)
    assert len(order._chunks) == len(order._firsts)
    assert order._firsts == sorted(order._firsts)
    for first, chunk in zip(order._firsts, order._chunks, strict=True):
        assert first <= chunk.positions[0]
        assert chunk.live == sum(one is not None for one in chunk.publications)
        assert len(chunk.positions) == len(chunk.publications)
        assert chunk.live
        assert (
            len(chunk.positions)
            <= 2 * max(chunk.live, position_index.CHUNK_SIZE) + 2 * position_index.SPARE_HOLES
        )


def require_shared(history: History) -> None:
    """Hold what publishers have to what there is, and that to the total."""
    logs, shares = history.channel_index.logs, history._shares
    assert {name: log for share in shares.values() for name, log in share.channels.logs.items()} == logs
    empty = {name for share in shares.values() for name in share.channels.empty or ()}
    assert empty == {name for name in logs if not held(history, name)}
    assert history._empty_channels == len(empty)
    channels = sum(CHANNEL_COST + len(name) for name in logs)
    assert history._overhead_bytes == channels + sum(PUBLISHER_COST + len(name) for name in shares)
    assert history.bytes + history._overhead_bytes <= history._total
    assert len(history._most_bytes) <= 2.5 * len(shares) + 130
    assert len(history._most_channels) <= 2.5 * len(shares) + 130
    for name, share in shares.items():
        mine = share.channels.logs
        parts = sum(one.weight // len(one.channels) for log in mine.values() for one in log.after(0))
        assert share.bytes == parts + sum(CHANNEL_COST + len(each) for each in mine) + PUBLISHER_COST + len(
            name
        )
        assert (share.name, share.channels.share, bool(mine)) == (name, share, True)
        assert len(share.largest_log) <= 2.5 * len(mine) + 130


def require_bounded_log(log: ChannelLog) -> None:
    inside = list(log.after(0))
    assert len(inside) <= log.limits.size
    assert log.bytes == sum(map(weight, inside)) <= log.limits.bytes
    assert len(log._items) <= 2 * len(inside) + 34
