"""Replay: read the history from a subscriber's cursor to the newest position."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence

from sse_broadcast.backends.base import Backend, Far, ReplayPage, StartPoint
from sse_broadcast.channels import Selector
from sse_broadcast.fanout.system_events import reset_publication
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Publication, cut
from sse_broadcast.work_queue import SlicedWork


class Replay:
    """The part of the history that one subscriber has yet to get.

    The subscriber is in the hub from the start, with nothing queued: what is published during the replay is
    ahead of it in the history. The replay is `done` when the subscriber has everything up to the newest
    position. Its consumer then goes live before anything else can be published. So no event is missed and
    none comes twice.

    Pages that memory does not have are fetched from the store. Meanwhile the replay is `fetching`, and `take`
    returns nothing. `on_ready` is called when the page has come: until then no caller need ask again.
    """

    __slots__ = (
        "_backend",
        "_began",
        "_error",
        "_evictions_seen",
        "_fetched",
        "_first",
        "_given",
        "_metrics",
        "_selector",
        "_start",
        "_steps",
        "caller",
        "cursor",
        "fetching",
        "on_ready",
    )

    def __init__(
        self,
        backend: Backend,
        selector: Selector,
        start: StartPoint | Far[StartPoint],
        metrics: Metrics,
        *,
        caller: Hashable = None,
    ) -> None:
        self.caller = caller
        """The caller that it counts for. Callers take turns at reading pages."""
        self._backend = backend
        self._selector = selector
        self._metrics = metrics
        self._began = time.monotonic()
        self._given = 0
        self._steps: SlicedWork[ReplayPage | Far[ReplayPage]] | None = None  # towards the next page
        self.fetching: asyncio.Task[None] | None = None
        """The task that waits for the store, while there is one."""
        self.on_ready: Callable[[], None] | None = None
        """Called when what was fetched has come."""
        self._fetched: ReplayPage | None = None
        self._error: Exception | None = None
        # The start itself may have to be fetched: then its subscriber is in the hub before it is known.
        self._start: Far[StartPoint] | None = None
        if isinstance(start, Far):
            self._start = start
            start = StartPoint(backend.position)
        self.cursor = start.after
        self._evictions_seen = start.evictions_seen
        self._first: Sequence[Publication] = start.preloaded

    @property
    def done(self) -> bool:
        """Whether everything up to the newest position was taken."""
        return not self._first and self.cursor == self._backend.position and self._start is None

    @property
    def behind(self) -> int:
        """The number of publications after the cursor, of all channels."""
        return len(self._first) + self._backend.count_after(self.cursor)

    @property
    def oldest(self) -> float | None:
        """The time of the oldest publication left, in seconds since 1970, or None."""
        if self._first:
            return self._first[0].time
        return self._backend.oldest(self._selector, after=self.cursor)

    @property
    def shared(self) -> bool:
        """Whether the next page is the same for all subscribers of the group at this cursor."""
        return not self._first

    def take(self, limit: int) -> Sequence[Publication]:
        """Return the next publications, about `limit` bytes. An empty result does not mean the end.

        Raises an error of the store for which waiting does not help, such as an invalid start.
        """
        page = self._take(limit)
        self._given += len(page)
        return page

    def finish(self) -> None:
        """Record the replay in the metrics. Called when the subscriber goes live."""
        self._metrics.replayed(self._given, time.monotonic() - self._began)

    def cancel(self) -> None:
        """Wait for nothing any more. Called when the subscriber closes."""
        self.on_ready = None
        if self.fetching is not None:
            self.fetching.cancel()

    def _take(self, limit: int) -> Sequence[Publication]:
        if self._first:
            first = cut(self._first, limit)
            self._first = self._first[len(first) :]
            return first
        replay = self._page(limit)
        if replay is None:
            return ()
        self.cursor = replay.upto
        self._evictions_seen = replay.evictions_seen
        if replay.gap is None:
            return replay.publications
        self._metrics.reset(replay.gap.reason)
        loss = reset_publication(
            replay.gap.reason,
            replay.gap.channels,
            epoch=self._backend.epoch,
            position=self.cursor,
            missed=None,
        )
        return (*replay.publications, loss)

    def _page(self, limit: int) -> ReplayPage | None:
        """Return the next page of the history, or None while it is being read or fetched."""
        if self.fetching is not None:
            return None
        if self._start is not None or self._fetched is not None or self._error is not None:
            return self._take_fetched()
        if self._steps is None:
            self._steps = self._backend.replay(
                self._selector, after=self.cursor, evictions_seen=self._evictions_seen, limit=limit
            )
        try:
            next(self._steps)
        except StopIteration as end:
            self._steps = None
            page: ReplayPage | Far[ReplayPage] = end.value
            if isinstance(page, ReplayPage):
                return page
            self._fetch(functools.partial(self._fetch_page, page))
        return None

    # The store's part.

    def _take_fetched(self) -> ReplayPage | None:
        if self._error is not None:
            raise self._error
        if self._fetched is not None:
            page, self._fetched = self._fetched, None
            return page
        if self._start is not None:
            self._fetch(functools.partial(self._fetch_start, self._start))
        return None

    def _fetch(self, fetch: Callable[[], Awaitable[None]]) -> None:
        self.fetching = asyncio.create_task(self._wait_for(fetch))

    async def _wait_for(self, fetch: Callable[[], Awaitable[None]]) -> None:
        try:
            await fetch()
        except Exception as error:  # noqa: BLE001 - it belongs to who takes the next page
            self._error = error
        finally:
            self.fetching = None
        if self.on_ready is not None:
            self.on_ready()

    async def _fetch_page(self, page: Far[ReplayPage]) -> None:
        self._fetched = await page.fetch()

    async def _fetch_start(self, far: Far[StartPoint]) -> None:
        start = await far.fetch()
        self.cursor, self._evictions_seen, self._first = start.after, start.evictions_seen, start.preloaded
        self._start = None
