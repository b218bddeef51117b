"""ChannelLog: the publications that one channel holds, oldest first."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

from sse_broadcast.backends.memory.publisher_share import PublisherShare
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.event import Event
from sse_broadcast.publication import Publication, place

_position = attrgetter("position")
_weight = attrgetter("weight")
_time = attrgetter("time")

_EVICTED = place((), Event(""), epoch="", position=0, time=0.0)
"""Replaces an evicted publication until its place is deleted, so that its memory is freed at once."""


class ChannelLog:
    """The publications of one channel, oldest first, and its watermark: the newest position evicted."""

    __slots__ = (
        "_first",
        "_items",
        "bytes",
        "channel",
        "class_below",
        "class_from",
        "count",
        "expiry_serial",
        "last_eviction",
        "limits",
        "newest_at_eviction",
        "share",
        "slot",
        "watermark",
    )

    def __init__(
        self,
        channel: str,
        limits: HistoryLimits,
        *,
        watermark: int,
        share: "PublisherShare[ChannelLog]",
        slot: int,
    ) -> None:
        self.channel = channel
        self.share = share
        self.limits = limits
        self.watermark = watermark
        self.last_eviction = 0  # the number of the last eviction from this log
        self.newest_at_eviction = 0  # the newest position of the history at that time
        self.slot = slot  # the index in the list that searches iterate
        self.count = 0
        self.bytes = 0
        self.class_from = self.class_below = 0  # the size class among the logs of its share
        self.expiry_serial = 0  # the number of its entry among those that will expire, or 0
        self._items: list[Publication] = []
        self._first = 0

    @property
    def held(self) -> int:
        """The bytes of the log, by which `Largest` compares logs."""
        return self.bytes

    @property
    def oldest(self) -> Publication:
        """The oldest publication held."""
        return self._items[self._first]

    @property
    def newest(self) -> Publication:
        """The newest publication held."""
        return self._items[-1]

    def extend(self, run: Sequence[Publication], weight: int) -> None:
        """Append publications, `weight` bytes together."""
        self._items += run
        self.count += len(run)
        self.bytes += weight

    def evict(self, count: int) -> list[Publication]:
        """Evict the `count` oldest publications, and return them."""
        items, first = self._items, self._first
        evicted = items[first : first + count]
        self._first = first = first + count
        # Delete in large pieces, since a list moves everything behind what is deleted.
        if first > 32 and first * 2 > len(items):
            del items[:first]
            self._first = 0
        else:
            items[first - count : first] = [_EVICTED] * count
        self.count -= count
        self.bytes -= evicted[0].weight if count == 1 else sum(map(_weight, evicted))
        self.watermark = evicted[-1].position
        return evicted

    def discard(self, publication: Publication) -> bool:
        """Remove a publication, which is no eviction; return whether the log held it."""
        items = self._items
        index = bisect_left(items, publication.position, lo=self._first, key=_position)
        if index == len(items) or items[index] is not publication:
            return False
        del items[index]
        self.count -= 1
        self.bytes -= publication.weight
        return True

    def since(self, time: float) -> Publication | None:
        """Return the first publication that is not older than a time, or None."""
        index = bisect_left(self._items, time, lo=self._first, key=_time)
        return self._items[index] if index < len(self._items) else None

    def expired(self, now: float) -> int:
        """Return how many publications are older than the maximum age at `now`."""
        age = self.limits.age
        return bisect_right(self._items, now, lo=self._first, key=lambda item: item.time + age) - self._first

    def after(self, position: int) -> Iterator[Publication]:
        """Yield the publications after a position. The iterator is invalid once the log has changed."""
        items = self._items
        for index in range(bisect_right(items, position, lo=self._first, key=_position), len(items)):
            yield items[index]

    def page(self, position: int, limit: int, *, most: int) -> list[Publication]:
        """Return the publications after a position: `most` of them, and about `limit` bytes, at most.

        There is at least one, however large, if the log holds any after the position.
        """
        items = self._items
        first = bisect_right(items, position, lo=self._first, key=_position)
        end = min(first + most, len(items))
        for index in range(first, end):
            limit -= items[index].size
            if limit < 0:
                return items[first : max(index, first + 1)]
        return items[first:end]

    def backwards(self) -> Iterator[Publication]:
        """Yield the publications, newest first."""
        items = self._items
        for index in range(len(items) - 1, self._first - 1, -1):
            yield items[index]
