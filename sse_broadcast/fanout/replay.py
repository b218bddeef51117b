"""Replay: read the history from a subscriber's cursor to the newest position."""

import time
from collections.abc import Hashable, Sequence

from sse_broadcast.backends.base import Backend, ReplayPage, ResetReason, StartPoint
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
    """

    __slots__ = (
        "_backend",
        "_began",
        "_evictions_seen",
        "_first",
        "_given",
        "_metrics",
        "_selector",
        "_steps",
        "caller",
        "cursor",
    )

    def __init__(
        self,
        backend: Backend,
        selector: Selector,
        start: StartPoint,
        metrics: Metrics,
        *,
        caller: Hashable = None,
    ) -> None:
        self.cursor = start.after
        self.caller = caller
        """The caller that it counts for. Callers take turns at reading pages."""
        self._backend = backend
        self._selector = selector
        self._metrics = metrics
        self._evictions_seen = start.evictions_seen
        self._began = time.monotonic()
        self._given = 0
        self._first: Sequence[Publication] = start.preloaded
        self._steps: SlicedWork[ReplayPage] | None = None  # the unfinished read of the next page

    @property
    def done(self) -> bool:
        """Whether everything up to the newest position was taken."""
        return not self._first and self.cursor == self._backend.position

    @property
    def behind(self) -> int:
        """The number of publications after the cursor, of all channels."""
        return len(self._first) + self._backend.position - self.cursor

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
        """Return the next publications, about `limit` bytes. An empty result does not mean the end."""
        page = self._take(limit)
        self._given += len(page)
        return page

    def finish(self) -> None:
        """Record the replay in the metrics. Called when the subscriber goes live."""
        self._metrics.replayed(self._given, time.monotonic() - self._began)

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
        self._metrics.reset(ResetReason.EVICTED)
        loss = reset_publication(
            ResetReason.EVICTED,
            replay.gap.channels,
            epoch=self._backend.epoch,
            position=self.cursor,
            missed=None,
        )
        return (*replay.publications, loss)

    def _page(self, limit: int) -> ReplayPage | None:
        """Return the next page of the history, or None if it needs more slices of work."""
        if self._steps is None:
            self._steps = self._backend.replay(
                self._selector, after=self.cursor, evictions_seen=self._evictions_seen, limit=limit
            )
        try:
            next(self._steps)
        except StopIteration as end:
            self._steps = None
            page: ReplayPage = end.value
            return page
        return None
