"""The memory backend: a history in this process, lost when it ends."""

from collections.abc import Callable, Iterator, Sequence

from sse_broadcast import clock
from sse_broadcast.backends.base import (
    ChannelUsage,
    Deliver,
    HistoryUsage,
    IdempotencyKey,
    ReplayPage,
    ResetReason,
    StartPoint,
)
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.idempotency import IdempotencyKeys
from sse_broadcast.backends.memory.largest import ReportShare
from sse_broadcast.backends.memory.position_index import PAGE_SCAN_LIMIT
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.cursor import Age, Cursor, CustomId, EventId, Keyword, format_id, new_epoch
from sse_broadcast.publication import Draft, Publication, Receipt, place
from sse_broadcast.work_queue import SlicedWork

MAX_LAST = 1000
"""Channels of which `last` gives the newest event, at most."""

LIMITS_PER_CALL = 512
"""Channels examined and publications evicted by one call after limits were reloaded, at most: some 1 ms."""


class MemoryBackend:
    """A backend whose history lives as long as its process.

    `window` is how many seconds an idempotency key is remembered; `clock` gives seconds.
    """

    def __init__(
        self,
        history: History,
        deliver: Deliver,
        *,
        window: float,
        clock: Callable[[], float] = clock.now,
        report: ReportShare | None = None,
    ) -> None:
        self.epoch = new_epoch()
        self._history = history
        self._deliver = deliver
        self._window = window
        self._clock = clock
        self.position = 0
        self._now = 0.0
        self._overdue = False
        self._keys = IdempotencyKeys(report)

    def count_after(self, position: int) -> int:
        """Return how many positions after this one were given: there is one term."""
        return self.position - position

    async def start(self) -> None:
        """Do nothing: memory is there."""

    async def aclose(self) -> None:
        """Do nothing: memory goes with its process."""

    @property
    def outage(self) -> None:
        """None: the memory of this process is never away."""

    @property
    def untidy(self) -> bool:
        """Whether the last `evict_expired` left something that could have been evicted."""
        return self._overdue or self._history.limits_pending

    async def publish(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None = None, publisher: str = ""
    ) -> Receipt:
        """Append and announce, and return the last receipt."""
        now = self._tick()
        if idempotency_key is None:
            return self._append(drafts, now, publisher)
        self._keys.expire(now)
        seen = self._keys.find(idempotency_key, publisher)
        if seen is not None:
            # The drafts are the same, so the rest of the receipt follows from them.
            last = drafts[-1]
            id = last.event.id or format_id(self.epoch, seen.position)
            return Receipt(seen.clients, last.channels, id, seen.count)
        receipt = self._append(drafts, now, publisher)
        self._keys.remember(
            idempotency_key,
            publisher,
            position=self.position,
            count=receipt.count,
            clients=receipt.clients,
            expires=now + self._window,
        )
        return receipt

    def find(self, cursor: Cursor, selector: Selector) -> SlicedWork[StartPoint]:
        """Return where a subscriber with this cursor begins."""
        now = self._tick()
        match cursor:
            case EventId(epoch, _) if epoch != self.epoch:
                return self._lost(ResetReason.EPOCH)
            case EventId(_, position):
                return (yield from self._resumed(selector, position if position <= self.position else None))
            case CustomId(name):
                named = yield from self._history.custom_ids.position_of(name, selector)
                return (yield from self._resumed(selector, named))
            case Keyword.LAST:
                began = self.position
                newest = yield from self._history.channel_index.newest_of_each(
                    selector, upto=began, most=MAX_LAST
                )
                return StartPoint(began, preloaded=tuple(newest))
            case Keyword.EARLIEST:
                return (yield from self._from_first(selector, None))
            case Age(seconds):
                return (yield from self._from_first(selector, now - seconds))

    def replay(
        self, selector: Selector, *, after: int, evictions_seen: int, limit: int
    ) -> SlicedWork[ReplayPage]:
        """Return a page of what came after a position."""
        self._tick()
        history = self._history
        lost = yield from history.watermarks.newest_loss(selector, after=after, seen=evictions_seen)
        if lost:
            gap = history.gap(selector, after, lost)
            return ReplayPage((), gap.position, gap, evictions_seen=history.watermarks.evictions)
        if (log := history.channel_index.only_log(selector)) is not None:
            # What most readers ask for: a third of the cost of the general way.
            page = log.page(after, limit, most=PAGE_SCAN_LIMIT)
            more = bool(page) and page[-1] is not log.newest
            return ReplayPage(
                page,
                page[-1].position if more else self.position,
                evictions_seen=history.watermarks.evictions,
            )
        return self._replay(selector, after, limit)

    def _replay(self, selector: Selector, after: int, limit: int) -> ReplayPage:
        found: list[Publication] = []
        upto, seen, room = after, self._history.watermarks.evictions, PAGE_SCAN_LIMIT
        for position, publication, cost in self._history.after(selector, after):
            if publication is not None:
                if found and publication.size > limit:
                    return ReplayPage(found, upto, evictions_seen=seen)
                limit -= publication.size
                found.append(publication)
            upto = position
            room -= cost
            if room <= 0:
                return ReplayPage(found, upto, evictions_seen=seen)
        return ReplayPage(found, self.position, evictions_seen=seen)

    def replayable(self, selector: Selector, *, after: int) -> bool:
        """Return whether nothing was lost after a position."""
        self._tick()
        return not self._history.watermarks.may_have_lost(selector, after=after)

    def oldest(self, selector: Selector, *, after: int) -> float | None:
        """Return when the oldest publication held after a position was published."""
        return self._history.time_after(selector, after)

    def reload_limits(self) -> None:
        """Apply limits that have changed."""
        self._history.reload_limits()

    def evict_expired(self) -> bool:
        """Evict what is too old, and return whether anything is left that will be."""
        left = self._history.apply_limits(LIMITS_PER_CALL)
        self._keys.expire(self._tick())
        return bool(left or self._history.bytes or self._keys)

    def channel_usage(self, channel: str) -> ChannelUsage:
        """Return what is held of a channel."""
        self._tick()
        log = self._history.channel_index.logs.get(channel)
        return (
            ChannelUsage(log.count, log.oldest.id) if log is not None and log.count else ChannelUsage(0, None)
        )

    def channels(self) -> Iterator[Sequence[str]]:
        """Yield the channels of which something is held."""
        self._tick()
        return self._history.channel_index.names()

    def usage(self) -> HistoryUsage:
        """Return how much is held."""
        self._tick()
        return self._history.usage

    async def remove(self, position: int) -> bool:
        """Remove one event from every channel."""
        return self.drop_event(position)

    async def clear(self, channel: str) -> int:
        """Remove all events of a channel."""
        return self.drop_channel(channel)

    def drop_event(self, position: int) -> bool:
        """Do at once what `remove` does."""
        return self._history.remove(position)

    def drop_channel(self, channel: str) -> int:
        """Do at once what `clear` does."""
        return self._history.clear(channel)

    def begin_at(self, epoch: str, position: int) -> None:
        """Hold what comes after a position; what came before it is elsewhere. Nothing is held yet."""
        self.epoch = epoch
        self.position = position
        self._history.watermarks.begin_at(position)

    def take(self, publications: Sequence[Publication], publisher: str) -> int:
        """Hold and announce what has its places already, and return how many clients wanted it."""
        self._tick()
        self.position = publications[-1].position
        self._history.extend(publications, publisher)
        return self._deliver(publications)

    def _append(self, drafts: Sequence[Draft], now: float, publisher: str) -> Receipt:
        """Return positions, hold, announce: one ordered act, and nothing in it waits."""
        epoch = self.epoch
        batch = [
            place(draft.channels, draft.event, epoch=epoch, position=position, time=now)
            for position, draft in enumerate(drafts, self.position + 1)
        ]
        self.position += len(batch)
        self._history.extend(batch, publisher)
        last = batch[-1]
        return Receipt(self._deliver(batch), last.channels, last.id, len(batch))

    def _resumed(self, selector: Selector, position: int | None) -> SlicedWork[StartPoint]:
        if position is None:
            return self._lost(ResetReason.UNKNOWN)
        lost = yield from self._history.watermarks.newest_loss(selector, after=position)
        if not lost:
            return StartPoint(position)
        gap = self._history.gap(selector, position, lost)
        return StartPoint(gap.position, reset_reason=ResetReason.EVICTED, channels=gap.channels)

    def _from_first(self, selector: Selector, since: float | None) -> SlicedWork[StartPoint]:
        began = self.position
        first = yield from self._history.channel_index.first_position(selector, since=since)
        # The search may have passed events published meanwhile. They come after the position it began at.
        return StartPoint(
            began if first is None else min(first - 1, began),
            evictions_seen=self._history.watermarks.evictions,
        )

    def _lost(self, reason: ResetReason) -> StartPoint:
        return StartPoint(self.position, reset_reason=reason)

    def _tick(self) -> float:
        """Take the time, which never goes back, and let go of what is too old."""
        self._now = now = max(self._now, self._clock())
        self._overdue = self._history.expire(now)
        return now


def open_memory(
    config: Config, policies: ChannelPolicies, deliver: Deliver, report: ReportShare | None = None
) -> MemoryBackend:
    """Return the backend that a configuration describes. It calls `report` when a share is reached."""
    history = History(
        lambda channel: policies.for_channel(channel).limits,
        total=config.history_total,
        max_channels=config.history_channels,
        report=report,
    )
    return MemoryBackend(history, deliver, window=config.idempotency_window, report=report)
