"""What the tests of the history share: publications, histories, and the check that all is bounded."""

from collections.abc import Collection
from typing import Any

import pytest

from sse_broadcast.backends.memory import channel_index, custom_ids, position_index, watermarks
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.largest import Largest
from sse_broadcast.backends.memory.lazy_heap import LazyHeap
from sse_broadcast.backends.memory.position_index import Chunk, PositionIndex
from sse_broadcast.backends.memory.retired_ids import RetiredIds
from sse_broadcast.backends.memory.weights import CHANNEL_COST, PUBLISHER_COST, set_weights
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.event import Event
from sse_broadcast.publication import Publication, place
from sse_broadcast.work_queue import run_to_completion
from tests.support.memory import entries, inside

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
    for module in (channel_index, custom_ids, watermarks):
        monkeypatch.setattr(module, "SEARCH_SLICE", steps)


def require_bounded(history: History) -> None:
    """Hold every internal structure to what is held, or to how many channels are remembered."""
    logs = history.channel_index.logs
    everything = {one.position: one for log in logs.values() for one in log.after(0)}
    assert history.bytes == sum(map(weight, everything.values()))
    assert given_after(history, Selector.parse("*"), 0) == sorted(everything)
    (order,) = inside(history, PositionIndex)
    require_bounded_order(order, everything.keys())
    assert history.custom_ids.count == sum(
        one.event.id is not None for log in logs.values() for one in log.after(0)
    )
    assert len(logs) <= (most := history._max_channels)
    slots = history.channel_index.slots
    assert {slot: log for slot, log in enumerate(slots) if log} == {log.slot: log for log in logs.values()}
    assert len(slots) <= most
    assert len(history.watermarks._recent) <= watermarks.MAX_RECENT_EVICTIONS
    require_shared(history)
    (expiring,) = inside(history, LazyHeap)
    assert {log for log in logs.values() if log.count} <= {log for _, _, log in expiring}
    assert len(expiring) <= 3 * len(logs) + 130
    for log in logs.values():
        inside_it = list(log.after(0))
        assert len(inside_it) <= log.limits.size
        assert log.bytes == sum(map(weight, inside_it)) <= log.limits.bytes
    (retired,) = inside(history, RetiredIds)
    named = {(one.event.id, log.channel) for log in logs.values() for one in log.after(0) if one.event.id}
    assert entries(history.custom_ids) - entries(retired) <= len(named) + len({id for id, _ in named})
    most_entries = (
        200 + entries(order) + 4 * entries(retired) + sum(50 + 7 * log.count for log in logs.values())
    )
    assert entries(history) <= most_entries


def require_bounded_order(order: PositionIndex, held: Collection[int]) -> None:
    places = list(order.after(0))
    assert len(order) == len(held)
    assert [place for place, one in places if one] == sorted(held)
    assert [place for place, _ in places] == sorted({place for place, _ in places})
    chunks = inside(order, Chunk)
    for chunk in chunks:
        assert chunk.live == sum(one is not None for one in chunk.publications) > 0
        assert len(chunk.positions) == len(chunk.publications)
        most = 2 * max(chunk.live, position_index.CHUNK_SIZE) + 2 * position_index.SPARE_HOLES
        assert len(chunk.positions) <= most
    assert entries(order) == 2 * len(places) + 2 * len(chunks)


def require_shared(history: History) -> None:
    """Hold what publishers have to what there is, and that to the total."""
    logs = history.channel_index.logs
    shares = {log.share.name: log.share for log in logs.values()}
    assert {name: log for share in shares.values() for name, log in share.channels.logs.items()} == logs
    empty = {name for share in shares.values() for name in share.channels.empty or ()}
    assert empty == {name for name in logs if not held(history, name)}
    assert history.usage.channels == len(logs) - len(empty)
    (retired,) = inside(history, RetiredIds)
    channels = sum(CHANNEL_COST + len(name) for name in logs)
    overhead = channels + sum(PUBLISHER_COST + len(name) for name in shares)
    assert history.usage.bytes == history.bytes + overhead + retired.bytes
    assert history.bytes + overhead <= history._total
    for largest in inside(history, Largest):
        assert len(largest) <= len(logs)
    for name, share in shares.items():
        mine = share.channels.logs
        parts = sum(one.weight // len(one.channels) for log in mine.values() for one in log.after(0))
        assert share.bytes == parts + sum(CHANNEL_COST + len(each) for each in mine) + PUBLISHER_COST + len(
            name
        )
        assert (share.channels.share, bool(mine)) == (share, True)
