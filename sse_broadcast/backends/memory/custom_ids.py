"""CustomIdIndex: where events are held whose publishers chose their ids."""

from collections.abc import Sequence

from sse_broadcast.backends.memory.channel_index import SEARCH_SLICE
from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.retired_ids import RetiredIds
from sse_broadcast.channels import Selector, match_steps
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import SlicedWork

MIN_RETIRED = 128
"""Ids of evicted events that a channel remembers, however few events it may hold."""


class CustomIdIndex:
    """For each id that a publisher chose, the channels that hold it, and the first position in each.

    A later event with the same id is not indexed: once the first is evicted, nobody can tell which of them
    a subscriber has seen.
    """

    __slots__ = ("_positions", "_retired", "count", "now")

    def __init__(self, retired: RetiredIds) -> None:
        self.count = 0
        """Events with such an id, counted in each channel that holds them."""
        self.now = 0.0
        """The time, in seconds, by which retired ids expire."""
        self._positions: dict[str, dict[str, int]] = {}
        self._retired = retired

    def add(self, publications: Sequence[Publication]) -> None:
        """Add those of the publications that have such an id."""
        for publication in publications:
            if publication.event.id is not None:
                positions = self._positions.setdefault(publication.event.id, {})
                for channel in publication.channels:
                    positions.setdefault(channel, publication.position)
                self.count += len(publication.channels)

    def retire(self, log: ChannelLog, evicted: Sequence[Publication]) -> None:
        """Remember the ids of evicted events for as long as their channel could have held a later use.

        Such a use was published before this eviction, and so has expired as well by then.
        """
        ids = [(one.event.id, one.position) for one in evicted if one.event.id is not None]
        if not ids:
            return
        self.count -= len(ids)
        for id, position in ids:
            positions = self._positions.get(id, {})
            if positions.get(log.channel) == position:
                del positions[log.channel]
                if not positions:
                    del self._positions[id]
        until = self.now + log.limits.age
        self._retired.add(log.channel, ids, until=until, now=self.now, most=max(log.limits.size, MIN_RETIRED))

    def discard(self, channel: str, publication: Publication) -> None:
        """Forget the id of an event that was removed: whoever comes with it is told that it is unknown."""
        id = publication.event.id
        if id is None:
            return
        self.count -= 1
        positions = self._positions.get(id, {})
        if positions.get(channel) == publication.position:
            del positions[channel]
            if not positions:
                del self._positions[id]

    def position_of(self, id: str, selector: Selector) -> SlicedWork[int | None]:
        """Return the oldest position that a selector's channels have held under an id.

        A subscriber with this id has seen that event or a later one, and gets everything since, some of it
        perhaps again. None if the position is no longer held, or unknown. The same id in a channel that is
        not the selector's does not count: it says nothing about where this subscriber was.
        """
        positions = self._positions.get(id)
        if positions is None:
            return None
        found = [positions[channel] for channel in selector.names if channel in positions]
        if selector.patterns:
            cost, work = 1 + match_steps(selector.patterns), 0
            for channel in list(positions):
                if selector.matches(channel) and channel in positions:
                    found.append(positions[channel])
                work += cost
                if work >= SEARCH_SLICE:
                    work = 0
                    yield
        if not found:
            return None
        first = min(found)
        retired = self._retired.oldest(id, selector, now=self.now)
        # The same position may have been evicted from one channel, and still be held by another.
        return first if retired is None or retired >= first else None
