"""SqliteStore: the history in a file of this machine."""

import asyncio
import contextlib
import functools
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sse_broadcast import clock
from sse_broadcast.backends.base import (
    ChannelUsage,
    Gap,
    HistoryUsage,
    IdempotencyKey,
    ReplayPage,
    ResetReason,
    StartPoint,
)
from sse_broadcast.backends.directory import Directory, StoredChannel
from sse_broadcast.backends.memory.backend import MAX_LAST
from sse_broadcast.backends.memory.channel_index import SEARCH_SLICE
from sse_broadcast.backends.sqlite.file import StoreFile
from sse_broadcast.backends.sqlite.operations import (
    Answered,
    Append,
    Appended,
    Clear,
    CommitResult,
    Expire,
    Forget,
    Remove,
    StoreOperation,
    Trim,
)
from sse_broadcast.backends.sqlite.pages import Pages
from sse_broadcast.backends.sqlite.terms import Terms
from sse_broadcast.backends.sqlite.writer import OpenedStore, StoreWriter
from sse_broadcast.backends.store import TakePublications
from sse_broadcast.channels import Selector, match_steps
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.cursor import Age, Cursor, CustomId, EventId, Keyword, format_id
from sse_broadcast.errors import BackendUnavailableError
from sse_broadcast.metrics import StoreMetrics
from sse_broadcast.publication import Draft, Publication, Receipt

logger = logging.getLogger("sse_broadcast.store")

MAX_WAITING = 10_000
"""Publishes that may wait for the disk."""

MAX_WAITING_DATA = 16 << 20
"""Characters of their data."""

TRIMS_AT_ONCE = 64
"""Channels that are trimmed in one look at what is too old."""

NOT_OPEN = "the store is not open"

R = TypeVar("R")


class SqliteStore:
    """A store in one SQLite file, which this process has alone.

    The event loop's thread knows the channels and the terms, one thread writes, and another reads. `window`
    is how many seconds an idempotency key is remembered.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        file: StoreFile,
        directory: Directory,
        policies: ChannelPolicies,
        *,
        window: float,
        metrics: StoreMetrics,
        clock: Callable[[], float] = clock.now,
    ) -> None:
        self.take: TakePublications = _nobody
        self.on_remove: Callable[[int], object] = bool
        self.on_clear: Callable[[str], object] = bool
        self.position = 0
        self.outage: str | None = NOT_OPEN
        self._file = file
        self._directory = directory
        self._policies = policies
        metrics.bytes = lambda: file.bytes
        self._clock = clock
        self._terms = Terms(())
        self._writer = StoreWriter(
            file,
            window=window,
            on_commit=self._from_thread(self._on_commit),
            on_failure=self._from_thread(self._on_failure),
            metrics=metrics,
        )
        self._reading: ThreadPoolExecutor | None = None
        self._pages: Pages | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # By the operation they wait for, which is in the writing thread meanwhile.
        self._waiting: dict[int, tuple[StoreOperation, asyncio.Future[object]]] = {}
        self._waiting_bytes = 0
        self._trimming: set[str] = set()
        self._commits = 0
        self._committed: asyncio.Future[None] | None = None
        self._now = 0.0
        self._keys_expire: float | None = None

    @property
    def epoch(self) -> str:
        """The epoch of this term."""
        return self._terms.current.epoch

    @property
    def evictions(self) -> int:
        """The number of the newest eviction."""
        return self._directory.watermarks.evictions

    @property
    def untidy(self) -> bool:
        """Whether limits that were reloaded are not applied yet."""
        return self._directory.limits_pending and not self._trimming

    def count_after(self, position: int) -> int:
        """Return how many positions after this one were given to publications."""
        return self._terms.given_between(position, self.position)

    # Opening and closing.

    async def start(self) -> None:
        """Open the file. Raises `StoreError` if it cannot be used."""
        self._loop = loop = asyncio.get_running_loop()
        opened: asyncio.Future[OpenedStore] = loop.create_future()

        def tell(found: OpenedStore | BaseException) -> None:
            loop.call_soon_threadsafe(_resolve, opened, found)

        self._writer.start(tell)
        found = await opened
        self._terms = Terms(found.terms)
        self._directory.begin(
            found.channels, events=found.events, bytes=found.bytes, forgotten=found.forgotten
        )
        self._directory.reload_limits()  # they may have changed since
        self.position, self._commits, self._now = found.position, found.commits, found.newest_time
        self._keys_expire = found.keys_expire
        if found.newest_time > self._clock() + 60.0:
            logger.warning(
                "%(path)s: its newest event is %(seconds)d s in the future; new ones count from there",
                {"path": self._file.path, "seconds": found.newest_time - self._clock()},
            )
        self._reading = ThreadPoolExecutor(1, "sse-broadcast-pages")
        reader = await loop.run_in_executor(self._reading, self._file.open_reader)
        self._pages = Pages(reader, self._terms)
        self.outage = None

    async def aclose(self) -> None:
        """Close the file, behind everything that was published."""
        if self._loop is None:
            return
        self.outage = NOT_OPEN
        if self._reading is not None and self._pages is not None:
            # First: what reads holds back what may be moved from the log of changes to the file.
            with contextlib.suppress(sqlite3.Error):
                await self._loop.run_in_executor(self._reading, self._pages.close)
            self._reading.shutdown(wait=False)
        await self._loop.run_in_executor(None, self._writer.close)
        # What the thread told last is on its way.
        await asyncio.sleep(0)
        self._loop = None
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(BackendUnavailableError(NOT_OPEN))
        self._waiting.clear()

    # Publishing.

    async def publish(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None, publisher: str
    ) -> Receipt:
        """Store and announce, and return the last receipt."""
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_DATA:
            raise BackendUnavailableError("too many publishes wait for the disk")
        limits = {
            channel: self._policies.for_channel(channel).limits
            for draft in drafts
            for channel in draft.channels
        }
        size = sum(len(draft.event.data) for draft in drafts)
        asked = Append(drafts, limits, self._tick(), publisher, idempotency_key)
        answer = await self._do(asked, size)
        assert isinstance(answer, tuple)
        appended, clients = answer
        last = drafts[-1]
        id = last.event.id or format_id(self._terms.epoch_at(appended.position), appended.position)
        return Receipt(clients, last.channels, id, appended.count)

    async def remove(self, position: int) -> bool:
        """Remove one event from every channel."""
        return bool(await self._do(Remove(position)))

    async def clear(self, channel: str) -> int:
        """Remove all events of a channel."""
        removed = await self._do(Clear(channel))
        assert isinstance(removed, int)
        return removed

    async def _do(self, operation: StoreOperation, size: int = 0) -> object:
        """Pass an operation to the writing thread, and return its result.

        A cancelled caller does not cancel it.
        """
        if self.outage is not None:
            raise BackendUnavailableError(self.outage)
        self._waiting_bytes += size
        try:
            return await self._put(operation)
        finally:
            self._waiting_bytes -= size

    def _put(self, operation: StoreOperation) -> "asyncio.Future[object]":
        assert self._loop is not None
        future: asyncio.Future[object] = self._loop.create_future()
        self._waiting[id(operation)] = (operation, future)
        self._writer.put(operation)
        return future

    def _from_thread(self, call: Callable[..., None]) -> Callable[..., None]:
        """Return what has the event loop call something; nothing happens once the loop is closed."""

        def tell(*arguments: object) -> None:
            with contextlib.suppress(RuntimeError):
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(functools.partial(call, *arguments))

        return tell

    def _on_commit(self, group: Sequence[StoreOperation], commit: CommitResult) -> None:
        """Announce what was committed, in order, and answer its publishers. Nothing is awaited meanwhile."""
        directory = self._directory
        if commit.number:
            self._commits = commit.number
            self._keys_expire = commit.keys_expire
            directory.apply(
                commit.changes,
                position=max([self.position, *_positions(commit)]),
                events=commit.events,
                bytes=commit.bytes,
                forgotten=commit.forgotten,
            )
        for operation, result in zip(group, commit.results, strict=True):
            _, future = self._waiting.pop(id(operation), (operation, None))
            if isinstance(result, Exception):
                if future is not None and not future.done():
                    future.set_exception(result)
                continue
            answer = self._announce(operation, result)
            if future is not None and not future.done():
                future.set_result(answer)
        if commit.number:
            self._make_room()
            if self._committed is not None:
                self._committed.set_result(None)
                self._committed = None

    def _announce(self, operation: StoreOperation, result: object) -> object:
        match operation:
            case Append():
                assert isinstance(result, Appended)
                if not result.publications:
                    return result, result.clients
                self.position = result.position
                clients = self.take(result.publications, operation.publisher)
                if result.scope is not None:
                    self._writer.put(Answered(result.scope, clients))
                return result, clients
            case Remove(position):
                self.on_remove(position)
            case Clear(channel):
                self.on_clear(channel)
        return result

    def _on_failure(self, reason: str | None) -> None:
        if self.outage != NOT_OPEN:
            self.outage = reason

    # Eviction.

    def reload_limits(self) -> None:
        """Apply limits that have changed, by and by."""
        self._directory.reload_limits()

    def evict_expired(self) -> bool:
        """Start to evict events that are too old, and return whether any are left that will be."""
        directory = self._directory
        if self.outage is None:
            now = self._tick()
            for channel in directory.overdue(now, most=TRIMS_AT_ONCE):
                self._trim(channel)
            for channel in directory.apply_limits(TRIMS_AT_ONCE):
                self._trim(channel)
            self._make_room()
            if self._keys_expire is not None and self._keys_expire <= now:
                self._keys_expire = None
                self._put(Expire(now)).add_done_callback(_seen)
        return bool(directory.channels or directory.limits_pending or self._trimming or self._keys_expire)

    def _trim(self, channel: StoredChannel, *, bytes: int = 0) -> None:
        if channel.channel in self._trimming:
            return
        self._trimming.add(channel.channel)
        limits = self._policies.for_channel(channel.channel).limits
        future = self._put(Trim(channel.channel, limits, self._tick(), bytes))
        future.add_done_callback(functools.partial(self._on_trimmed, channel))

    def _on_trimmed(self, channel: StoredChannel, future: "asyncio.Future[object]") -> None:
        self._trimming.discard(channel.channel)
        self._directory.expect(channel)
        if not future.cancelled() and future.exception() is None and self.outage is None:
            limits = self._policies.for_channel(channel.channel).limits
            if channel.count > limits.size or channel.bytes > limits.bytes:
                self._trim(channel)
            self._make_room()

    def _make_room(self) -> None:
        """Trim the largest channel, or forget one, if all channels together exceed a limit."""
        if self.outage is not None:
            return
        directory = self._directory
        if (over := directory.largest_over_total()) is not None:
            channel, bytes = over
            self._trim(channel, bytes=bytes)
        if (last := directory.next_to_forget()) is not None and last.channel not in self._trimming:
            self._trimming.add(last.channel)
            future = self._put(Forget(last.channel))
            future.add_done_callback(functools.partial(self._on_trimmed, last))

    # Reading.

    def locate(self, id: EventId) -> int | StartPoint:
        """Return the position of an id, or where its subscriber goes on that has to be told of a loss."""
        terms = self._terms
        if not terms.knows(id.epoch):
            return StartPoint(self.position, reset_reason=ResetReason.EPOCH)
        hole_end = terms.hole_end(id.epoch, id.position)
        if hole_end is not None:
            return StartPoint(hole_end, reset_reason=ResetReason.BACKEND)
        if id.position > self.position:
            return StartPoint(self.position, reset_reason=ResetReason.UNKNOWN)
        return id.position

    async def resume(self, selector: Selector, position: int) -> StartPoint:
        """Return where a subscriber begins that has everything up to a position."""
        lost = await self._loss(selector, position, 0)
        marker = self._terms.loss_after(position)
        if not lost and marker is None:
            return StartPoint(position)
        gap = await self._gap(selector, position, max(lost, marker or 0))
        if marker is None:
            return StartPoint(gap.position, reset_reason=ResetReason.EVICTED, channels=gap.channels)
        return StartPoint(gap.position, reset_reason=ResetReason.BACKEND)

    async def find(self, cursor: Cursor, selector: Selector) -> StartPoint:
        """Return where a subscriber begins whose cursor is no id of ours."""
        match cursor:
            case CustomId(name):
                return await self._behind(name, selector)
            case Keyword.LAST:
                return await self._last(selector)
            case Keyword.EARLIEST:
                began, seen = self.position, self.evictions
                first = min([each.oldest async for each in self._matching(selector)], default=None)
                return StartPoint(began if first is None else min(first - 1, began), evictions_seen=seen)
            case Age(seconds):
                began, seen, since = self.position, self.evictions, self._tick() - seconds
                position = await self._read(lambda pages: pages.since(since, upto=began))
                return StartPoint(began if position is None else position - 1, evictions_seen=seen)
            case EventId():
                place = self.locate(cursor)
                return place if isinstance(place, StartPoint) else await self.resume(selector, place)

    async def _behind(self, name: str, selector: Selector) -> StartPoint:
        """Return where a subscriber begins that has seen the event with a publisher's id."""
        position = await self._read(lambda pages: pages.named(name, selector))
        if position is None:
            return StartPoint(self.position, reset_reason=ResetReason.UNKNOWN)
        return await self.resume(selector, min(position, self.position))

    async def page(self, selector: Selector, *, after: int, evictions_seen: int, limit: int) -> ReplayPage:
        """Return what of a selector came after a position."""
        if not await self._loss(selector, after, evictions_seen):
            upto = self.position
            page = await self._read(lambda pages: pages.page(selector, after=after, upto=upto, limit=limit))
            # What this snapshot no longer had was evicted by a commit that may not have been heard of yet.
            while self._commits < page.commit:
                await self._next_commit()
            if not await self._loss(selector, after, evictions_seen):
                return ReplayPage(page.publications, page.upto, evictions_seen=self.evictions)
        gap = await self._gap(selector, after, await self._loss(selector, after, evictions_seen))
        return ReplayPage((), gap.position, gap, evictions_seen=self.evictions)

    def replayable(self, selector: Selector, *, after: int) -> bool:
        """Return whether nothing was lost after a position."""
        return not self._directory.watermarks.may_have_lost(selector, after=after)

    def oldest(self, selector: Selector, *, after: int) -> float | None:
        """Return when about the oldest held after a position was published: no later than it was."""
        if selector.patterns:
            channels = list(self._directory.logs.values())[:TRIMS_AT_ONCE]
        else:
            channels = self._directory.named_logs(selector)
        times = [each.oldest_time for each in channels if each.count and each.newest > after]
        return min(times, default=None)

    def channel_usage(self, channel: str) -> ChannelUsage:
        """Return what is held of a channel."""
        found = self._directory.logs.get(channel)
        if found is None or not found.count:
            return ChannelUsage(0, None)
        own = format_id(self._terms.epoch_at(found.oldest), found.oldest)
        return ChannelUsage(found.count, found.oldest_id or own)

    def channels(self) -> Iterator[Sequence[str]]:
        """Yield the channels of which something is held."""
        return self._directory.names()

    def usage(self) -> HistoryUsage:
        """Return how much is held."""
        directory = self._directory
        return HistoryUsage(directory.channels, directory.events, directory.bytes)

    async def _last(self, selector: Selector) -> StartPoint:
        began = self.position
        found = [each async for each in self._matching(selector)]
        found.sort(key=lambda each: each.newest, reverse=True)
        names = [each.channel for each in found[:MAX_LAST]]
        newest = await self._read(lambda pages: pages.newest(names, selector, upto=began))
        return StartPoint(began, preloaded=tuple(newest))

    async def _matching(self, selector: Selector) -> AsyncIterator[StoredChannel]:
        """Yield the channels of a selector that hold something, and let others have their turn."""
        if not selector.patterns:
            for channel in self._directory.named_logs(selector):
                if channel.count:
                    yield channel
            return
        cost, work = 1 + match_steps(selector.patterns), 0
        for found in list(self._directory.slots):
            work += cost
            if found is not None and found.count and selector.matches(found.channel):
                yield found
            if work >= SEARCH_SLICE:
                work = 0
                await asyncio.sleep(0)

    async def _loss(self, selector: Selector, after: int, seen: int) -> int:
        """Return the newest position at which a selector lost something that is news to it, or 0."""
        steps = self._directory.watermarks.newest_loss(selector, after=after, seen=seen)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                lost: int = end.value
                return lost
            await asyncio.sleep(0)

    async def _gap(self, selector: Selector, after: int, lost: int) -> Gap:
        """Return the gap of a selector. See `History.gap`."""
        upto, watermark = self.position, self._directory.watermarks.of_channel
        lost_names = {name for name in selector.names if watermark(name) > after}

        def read(pages: Pages) -> Gap:
            affected = [
                name
                for name in selector.names
                if name in lost_names or pages.holds_between(name, after=after, upto=lost)
            ]
            first = pages.first_after(selector, after=lost, upto=upto)
            return Gap((*affected, *selector.patterns), lost if first is None else first - 1)

        return await self._read(read)

    async def _read(self, read: Callable[[Pages], R]) -> R:
        """Run a read in the reading thread. Raises `BackendUnavailableError` if it fails."""
        pages, reading = self._pages, self._reading
        if self.outage == NOT_OPEN or pages is None or reading is None:
            raise BackendUnavailableError(NOT_OPEN)
        try:
            return await asyncio.get_running_loop().run_in_executor(reading, read, pages)
        except sqlite3.Error as error:
            raise BackendUnavailableError(f"{self._file.path.name}: cannot be read: {error}") from None

    async def _next_commit(self) -> None:
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._committed)

    def _tick(self) -> float:
        self._now = max(self._now, self._clock())
        return self._now


def _positions(commit: CommitResult) -> list[int]:
    return [result.position for result in commit.results if isinstance(result, Appended)]


def _resolve(future: "asyncio.Future[OpenedStore]", found: OpenedStore | BaseException) -> None:
    if future.done():
        return
    if isinstance(found, BaseException):
        future.set_exception(found)
    else:
        future.set_result(found)


def _nobody(publications: Sequence[Publication], publisher: str) -> int:  # noqa: ARG001
    """Take nothing: nobody has said who does."""
    return 0


def _seen(future: "asyncio.Future[object]") -> None:
    """Look at an exception, which nobody waits for."""
    if not future.cancelled():
        future.exception()
