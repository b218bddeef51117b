"""Watermarks: what was evicted from which channel, so that no subscriber misses an event unnoticed."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from sse_broadcast.backends.memory.channel_index import SEARCH_SLICE
from sse_broadcast.channels import Selector, match_steps
from sse_broadcast.work_queue import SlicedWork

MAX_RECENT_EVICTIONS = 4096
"""Logs that are kept in the order of their last evictions. A loss that is newer than the oldest of these is
found without examining every channel."""


class EvictingLog(Protocol):
    """What one channel holds, and what was evicted from it."""

    channel: str
    watermark: int
    """The newest position evicted."""
    last_eviction: int
    """The number of its last eviction."""
    newest_at_eviction: int
    """The newest position of all at that time."""


L = TypeVar("L", bound=EvictingLog)
L_co = TypeVar("L_co", bound=EvictingLog, covariant=True)


class LogIndex(Protocol[L_co]):
    """The logs of all channels: by name, and each at a slot of its own."""

    @property
    def logs(self) -> Mapping[str, L_co]:
        """By channel name."""

    @property
    def slots(self) -> Sequence[L_co | None]:
        """By slot; None where a slot is free."""

    def named_logs(self, selector: Selector) -> Sequence[L_co]:
        """Return the logs of the channels that a selector names."""


class Watermarks(Generic[L]):
    """The newest position evicted from each channel, and one common watermark of all forgotten channels.

    Evictions are numbered, so that a reader can say which of them it has already been told of.
    """

    __slots__ = (
        "_channels",
        "_newest",
        "_recent",
        "_untracked_eviction",
        "evictions",
        "forgotten",
        "last_forgotten_eviction",
    )

    def __init__(self, channels: LogIndex[L]) -> None:
        self.evictions = 1
        """The number of the newest eviction."""
        self.forgotten = 0
        """The newest position evicted from any channel that is no longer remembered."""
        self.last_forgotten_eviction = 0
        """The number of the newest eviction from any such channel."""
        self._channels = channels
        self._newest = 0  # the newest position evicted from any channel
        # Logs by their last evictions, the newest last, without those of forgotten channels.
        self._recent: OrderedDict[L, None] = OrderedDict()
        self._untracked_eviction = 0  # the newest eviction of a log that was dropped from these

    def begin_at(self, position: int) -> None:
        """Take everything up to a position for evicted, of whatever channel: it was never held here."""
        self.forgotten = self._newest = position
        self.last_forgotten_eviction = self.evictions

    def record(self, log: L, count: int, newest_position: int) -> None:
        """Record that a log has evicted `count` publications while the history was at `newest_position`."""
        self.evictions += count
        log.last_eviction = self.evictions
        log.newest_at_eviction = newest_position
        self._recent[log] = None
        self._recent.move_to_end(log)
        if len(self._recent) > MAX_RECENT_EVICTIONS:
            self._untracked_eviction = self._recent.popitem(last=False)[0].last_eviction
        if log.watermark > self._newest:  # noqa: PLR1730 - max() costs each eviction 0.1 us
            self._newest = log.watermark

    def fold(self, log: L) -> None:
        """Fold the watermark of a channel that is forgotten into the common one."""
        self.forgotten = max(self.forgotten, log.watermark)
        self.last_forgotten_eviction = max(self.last_forgotten_eviction, log.last_eviction)
        self._recent.pop(log, None)

    def newest_loss(self, selector: Selector, *, after: int = 0, seen: int = 0) -> SlicedWork[int]:
        """Return the newest position after another at which a selector may have lost something, or 0.

        Unless `seen` is 0, evictions up to that number do not count. The answer is true when it is returned,
        whatever was evicted during the search.
        """
        lost = 0
        if selector.patterns and self._newest > after:
            lost = yield from self._lost_by_patterns(selector, after, seen)
            if self.last_forgotten_eviction > seen:
                lost = max(lost, self.forgotten)
        lost = max(lost, self._lost_by_names(selector, after, seen))
        return lost if lost > after else 0

    def may_have_lost(self, selector: Selector, *, after: int) -> bool:
        """Return whether a selector may have lost something after a position.

        With patterns, a loss of any channel counts, so that no name is examined.
        """
        if selector.patterns and self._newest > after:
            return True
        return any(self.of_channel(name) > after for name in selector.names)

    def of_channel(self, name: str) -> int:
        """Return the watermark of a channel; the common one if it is not remembered."""
        log = self._channels.logs.get(name)
        return self.forgotten if log is None else log.watermark

    def _lost_by_patterns(self, selector: Selector, after: int, seen: int) -> SlicedWork[int]:
        lost, since, work = 0, seen, 0
        cost = match_steps(selector.patterns)
        while True:
            reached = self.evictions
            for log in self._evicted_since(since, after):
                work += 1
                # Compared before the name is matched: most watermarks are older than the loss found so far.
                if (
                    log is not None
                    and log.watermark > lost
                    and log.watermark > after
                    and log.last_eviction > seen
                ):
                    work += cost
                    if selector.matches(log.channel):
                        lost = log.watermark
                if work >= SEARCH_SLICE:
                    work = 0
                    yield
            if self.evictions == reached:
                return lost
            since = reached  # then examine what was evicted during the search

    def _evicted_since(self, eviction: int, after: int) -> Sequence[L | None]:
        """Return all logs that evicted after an eviction and after a position, and perhaps others."""
        found: list[L | None] = []
        for log in reversed(self._recent):
            # Evictions up to that time cannot be of events newer than the position at that time.
            if log.last_eviction <= eviction or log.newest_at_eviction <= after:
                return found
            found.append(log)
        return found if self._untracked_eviction <= eviction else list(self._channels.slots)

    def _lost_by_names(self, selector: Selector, after: int, seen: int) -> int:
        newest = max((self.of_channel(name) for name in selector.names), default=0)
        if newest <= after or not seen:
            return newest
        logs = self._channels.named_logs(selector)
        is_forgotten = len(logs) < len(selector.names) and self.last_forgotten_eviction > seen
        lost = self.forgotten if is_forgotten else 0
        return max([lost, *(log.watermark for log in logs if log.last_eviction > seen)])
