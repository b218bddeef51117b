"""TieredBackend: the newest part of the history in memory, and a store behind it.

Memory answers at once where it can. It lacks the events that it evicted, and those from before this process:
that is no loss, and the store is asked for them. A task fetches each page, a few at a time, and once for all
subscribers that ask for the same page.
"""

import asyncio
import dataclasses
import functools
from collections.abc import Iterator, Sequence

from sse_broadcast.backends.base import (
    ChannelUsage,
    Far,
    HistoryUsage,
    IdempotencyKey,
    ReplayPage,
    StartPoint,
)
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.backends.store import Store
from sse_broadcast.channels import Selector
from sse_broadcast.cursor import Cursor, EventId
from sse_broadcast.errors import BackendUnavailableError
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.work_queue import SlicedWork

FETCHES = 4
"""Pages that are fetched at one time."""

RETRY_SECONDS = 1.0
"""Seconds between two attempts at a page, while the store is away: its subscribers wait, with heartbeats."""

PageKey = tuple[Selector, int, int, int]
"""What a page is of: the selector, the position before it, the evictions that were seen, and its size."""


class SharedFetch:
    """A page on its way, and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[ReplayPage]") -> None:
        self.task = task
        self.waiting = 0


class TieredBackend:
    """A backend that keeps its history in a store, and the newest part of it in memory as well."""

    def __init__(self, store: Store, memory: MemoryBackend) -> None:
        self._store = store
        self._memory = memory
        # What the store has is held in memory and announced in one ordered act.
        self._fetches: dict[PageKey, SharedFetch] = {}
        self._slots = asyncio.Semaphore(FETCHES)
        store.take = memory.take
        store.on_remove = memory.drop_event
        store.on_clear = memory.drop_channel

    @property
    def store(self) -> Store:
        """What keeps the history."""
        return self._store

    @property
    def epoch(self) -> str:
        """The epoch of this term."""
        return self._memory.epoch

    @property
    def position(self) -> int:
        """The newest position that was announced."""
        return self._memory.position

    @property
    def outage(self) -> str | None:
        """Why the store can neither take nor give now."""
        return self._store.outage

    @property
    def untidy(self) -> bool:
        """Whether the last `evict_expired` has left something that could have been evicted."""
        return self._memory.untidy or self._store.untidy

    def count_after(self, position: int) -> int:
        """Return how many positions after this one were given."""
        return self._store.count_after(position)

    async def start(self) -> None:
        """Open the store."""
        await self._store.start()
        self._memory.begin_at(self._store.epoch, self._store.position)

    async def aclose(self) -> None:
        """Close the store, behind everything that was published."""
        for fetch in tuple(self._fetches.values()):
            fetch.task.cancel()
        await self._store.aclose()

    async def publish(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None = None, publisher: str = ""
    ) -> Receipt:
        """Append and announce, and return the last receipt once the store has it."""
        return await self._store.publish(drafts, idempotency_key, publisher)

    def find(self, cursor: Cursor, selector: Selector) -> SlicedWork[StartPoint | Far[StartPoint]]:
        """Return where a subscriber with this cursor begins."""
        if not isinstance(cursor, EventId):
            return Far(functools.partial(self._store.find, cursor, selector))
        position = self._store.locate(cursor)
        if isinstance(position, StartPoint):
            return position
        start = yield from self._memory.find(EventId(self._memory.epoch, position), selector)
        if start.reset_reason is None:
            return start
        return Far(functools.partial(self._store.resume, selector, position))

    def replay(
        self, selector: Selector, *, after: int, evictions_seen: int, limit: int
    ) -> SlicedWork[ReplayPage | Far[ReplayPage]]:
        """Return a page of what came after a position, if memory has lost none of it."""
        page = yield from self._memory.replay(selector, after=after, evictions_seen=0, limit=limit)
        if page.gap is None:
            return dataclasses.replace(page, evictions_seen=self._store.evictions)
        return Far(functools.partial(self._fetch, (selector, after, evictions_seen, limit)))

    def replayable(self, selector: Selector, *, after: int) -> bool:
        """Return whether nothing was lost after a position."""
        return self._memory.replayable(selector, after=after) or self._store.replayable(selector, after=after)

    def oldest(self, selector: Selector, *, after: int) -> float | None:
        """Return when about the oldest publication held after a position was published."""
        if self._memory.replayable(selector, after=after):
            return self._memory.oldest(selector, after=after)
        return self._store.oldest(selector, after=after)

    def reload_limits(self) -> None:
        """Apply limits that have changed."""
        self._memory.reload_limits()
        self._store.reload_limits()

    def evict_expired(self) -> bool:
        """Evict events that are too old from both tiers, and return whether any are left that will be."""
        left = self._memory.evict_expired()
        return self._store.evict_expired() or left

    def channel_usage(self, channel: str) -> ChannelUsage:
        """Return what the store holds of a channel."""
        return self._store.channel_usage(channel)

    def channels(self) -> Iterator[Sequence[str]]:
        """Yield the channels of which the store holds something."""
        return self._store.channels()

    def usage(self) -> HistoryUsage:
        """Return how much the store holds."""
        return self._store.usage()

    async def remove(self, position: int) -> bool:
        """Remove one event from every channel."""
        return await self._store.remove(position)

    async def clear(self, channel: str) -> int:
        """Remove all events of a channel."""
        return await self._store.clear(channel)

    async def _fetch(self, key: PageKey) -> ReplayPage:
        """Return a page of the store: fetched once for all that wait for it, and no longer than they do."""
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = self._fetches[key] = SharedFetch(asyncio.create_task(self._read(key)))
        fetch.waiting += 1
        try:
            return await asyncio.shield(fetch.task)
        finally:
            fetch.waiting -= 1
            if not fetch.waiting and not fetch.task.done():
                fetch.task.cancel()
                self._fetches.pop(key, None)

    async def _read(self, key: PageKey) -> ReplayPage:
        selector, after, evictions_seen, limit = key
        try:
            while True:
                try:
                    async with self._slots:
                        return await self._store.page(
                            selector, after=after, evictions_seen=evictions_seen, limit=limit
                        )
                except BackendUnavailableError:
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            fetch = self._fetches.get(key)
            if fetch is not None and fetch.task is asyncio.current_task():
                del self._fetches[key]
