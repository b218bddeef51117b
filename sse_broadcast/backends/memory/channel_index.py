"""ChannelIndex: the logs of all channels, and searches through them for what a selector wants."""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.channels import Selector, match_steps
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import SlicedWork

SEARCH_SLICE = 8192
"""Steps of a search between two pauses: channels examined, and texts looked for in their names
(`match_steps`). Some 0.5 ms."""

MAX_EVENTS_EXAMINED = 16_384
"""Events of unwanted types that are examined to find the newest of each channel, at most: some 3 ms."""

MAX_CHANNELS_OF_TYPES = 2048
"""Channels of which the newest event of the wanted types is looked for, at most."""

RECENT_CHANNELS = 2048
"""Most recently published channels, which are searched first for the newest events."""

NAMES_PER_PAGE = 1024
"""Channel names that are yielded together."""


class ChannelIndex:
    """All channel logs: by name in the order of their last publications, and each at a slot of its own.

    Searches are generators that pause after `SEARCH_SLICE` steps, so that the event loop may serve others;
    publications and evictions may change the index during a pause. Searches therefore iterate slots: a log
    that is there from beginning to end is seen once, and one that comes or goes may be seen or not.
    """

    __slots__ = ("_free_slots", "logs", "slots")

    def __init__(self) -> None:
        self.logs: OrderedDict[str, ChannelLog] = OrderedDict()
        """By channel name, the most recently published last."""
        self.slots: list[ChannelLog | None] = []
        """By slot; None where a slot is free."""
        self._free_slots: list[int] = []

    def allocate_slot(self) -> int:
        """Return a slot for a log that will be passed to `add`."""
        return self._free_slots.pop() if self._free_slots else len(self.slots)

    def add(self, log: ChannelLog) -> None:
        """Add a log at its slot."""
        self.logs[log.channel] = log
        self.slots[log.slot : log.slot + 1] = [log]

    def remove(self, log: ChannelLog) -> None:
        """Remove a log and free its slot."""
        del self.logs[log.channel]
        self.slots[log.slot] = None
        self._free_slots.append(log.slot)

    def named_logs(self, selector: Selector) -> list[ChannelLog]:
        """Return the logs of the channels that a selector names, without those of its patterns."""
        return [log for name in selector.names if (log := self.logs.get(name)) is not None]

    def only_log(self, selector: Selector) -> ChannelLog | None:
        """Return the log if it is all that a selector wants and holds something, else None."""
        if len(selector.names) != 1 or selector.patterns or selector.types is not None:
            return None
        log = self.logs.get(selector.names[0])
        return log if log is not None and log.count else None

    def names(self) -> Iterator[Sequence[str]]:
        """Yield the names of the channels that hold something, `NAMES_PER_PAGE` at most together."""
        slots = self.slots
        for begin in range(0, len(slots), NAMES_PER_PAGE):
            page = slots[begin : begin + NAMES_PER_PAGE]
            yield [log.channel for log in page if log is not None and log.count]

    def first_position(self, selector: Selector, *, since: float | None = None) -> SlicedWork[int | None]:
        """Return the position of a selector's first publication, or of its first not older than `since`.

        Each log is read when the search comes to it: later publications may be left out.
        """
        first: int | None = None

        def may_be_first(log: ChannelLog) -> bool:
            if not log.count or (first is not None and log.oldest.position >= first):
                return False
            return since is None or log.newest.time >= since

        for log in self._search(selector, may_be_first):
            if log is None:
                yield
            elif since is None:
                first = log.oldest.position
            elif publication := log.since(since):
                first = publication.position if first is None else min(first, publication.position)
        return first

    def newest_of_each(self, selector: Selector, *, upto: int, most: int) -> SlicedWork[list[Publication]]:
        """Return the newest publication, up to a position, of each channel of a selector, in order.

        They are of the `most` channels that were published to last. If the selector has event types, at most
        `MAX_CHANNELS_OF_TYPES` channels and `MAX_EVENTS_EXAMINED` unwanted events are examined.
        """
        found: dict[int, Publication] = {}
        left, work = MAX_EVENTS_EXAMINED, 0
        logs = yield from self._last_published(
            selector, most if selector.types is None else MAX_CHANNELS_OF_TYPES
        )
        # The most recently published channel comes first, so that the oldest publications are left out.
        for log in logs:
            before = left
            for publication in log.backwards():
                if publication.position > upto:
                    continue
                if selector.accepts_type(publication.event.type):
                    found[publication.position] = publication
                    break
                left -= 1
                if not left:
                    break
            if not left or len(found) == most:
                break
            work += 4 * (1 + before - left)
            if work >= SEARCH_SLICE:
                work = 0
                yield
        return [found[position] for position in sorted(found)]

    def _search(
        self, selector: Selector, is_candidate: Callable[[ChannelLog], bool]
    ) -> Iterator[ChannelLog | None]:
        """Yield the candidates among a selector's logs, and None where the search pauses.

        `is_candidate` is called before the name is matched, since it costs less.
        """
        if not selector.patterns:
            yield from filter(is_candidate, self.named_logs(selector))
            return
        cost, work = match_steps(selector.patterns), 0
        for log in self.slots:
            work += 1
            if log is not None and is_candidate(log):
                work += cost
                if selector.matches(log.channel):
                    yield log
            if work >= SEARCH_SLICE:
                work = 0
                yield None

    def _last_published(self, selector: Selector, most: int) -> SlicedWork[list[ChannelLog]]:
        """Return the `most` logs of a selector that were published to last, the newest first."""
        last: list[tuple[int, int, ChannelLog]] = []

        recent = yield from self._among_recent(selector, most)
        if len(recent) == most:
            return recent

        def is_newer(log: ChannelLog) -> bool:
            return log.count > 0 and (len(last) < most or log.newest.position > last[0][0])

        for log in self._search(selector, is_newer):
            if log is None:
                yield
                continue
            entry = (log.newest.position, log.slot, log)
            if len(last) < most:
                heapq.heappush(last, entry)
            else:
                heapq.heapreplace(last, entry)
        return [log for _, _, log in sorted(last, reverse=True)]

    def _among_recent(self, selector: Selector, most: int) -> SlicedWork[list[ChannelLog]]:
        """Return a selector's logs among the `RECENT_CHANNELS` last published, if it has patterns.

        They are often enough, and then no other channel is examined.
        """
        found: list[ChannelLog] = []
        if not selector.patterns:
            return found
        cost, work = 1 + match_steps(selector.patterns), 0
        for log in list(islice(reversed(self.logs.values()), RECENT_CHANNELS)):
            if log.count and selector.matches(log.channel):
                found.append(log)
                if len(found) == most:
                    break
            work += cost
            if work >= SEARCH_SLICE:
                work = 0
                yield
        return found
