"""Subscriber: one reader's bounded queue, what happens when it is full, and why it closed."""

import json
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from sse_broadcast.config import Overflow
from sse_broadcast.event import Event
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Publication


class CloseReason(StrEnum):
    """Why a subscriber is no longer one."""

    LEFT = "left"
    """The reader went away, or the stream was closed by the program that opened it."""
    SLOW = "slow"
    """Its queue overflowed, and the policy is `disconnect`."""
    STALLED = "stalled"
    """Its socket stayed full for `write_timeout`."""
    DRAIN = "drain"
    """The broadcaster closed."""
    ERROR = "error"
    """Writing to its sink failed."""


class Outlet(Protocol):
    """What a subscriber asks of whoever empties its queue. No method may raise or wait."""

    def ready(self) -> None:
        """Take note that the queue is no longer empty; called once each time that happens."""

    def relieve(self) -> None:
        """Empty the queue now, as far as the reader takes it; called when the queue is full."""

    def end(self, reason: CloseReason) -> None:
        """Take note that nothing more will be queued; called once."""


class Subscriber:
    """One connected reader.

    The hub offers it publications, its outlet takes them. Both bounds hold for what was
    published: at most `queue_size` publications of at most `queue_bytes` bytes wait, and an
    empty queue takes any event. What a full queue does is the overflow policy's to say, but only once the
    outlet has had its chance: a queue that is full because the server is busy is no reader's
    fault.

    With `drop-oldest` and `drop-newest` the reader is told of its loss, once, by a `$reset`
    event that stands where the dropped events stood.
    """

    __slots__ = (
        "_max_bytes",
        "_max_events",
        "_metrics",
        "_missed",
        "_on_close",
        "_overflow",
        "_queue",
        "channels",
        "closed",
        "outlet",
        "queued_bytes",
    )

    outlet: Outlet

    def __init__(
        self,
        channels: tuple[str, ...],
        *,
        queue_size: int,
        queue_bytes: int,
        overflow: Overflow,
        metrics: Metrics,
        on_close: "Callable[[Subscriber], None]",
    ) -> None:
        self.channels = channels
        self.closed: CloseReason | None = None
        self.queued_bytes = 0
        self._queue: deque[Publication] = deque()
        self._max_events = queue_size
        self._max_bytes = queue_bytes
        self._overflow = overflow
        self._missed = 0
        self._metrics = metrics
        self._on_close = on_close

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, publication: Publication) -> None:
        """Queue a publication, or do what the overflow policy says. Called by the hub, in order."""
        queue = self._queue
        waiting = len(queue)
        size = publication.size
        if waiting >= self._max_events or self.queued_bytes + size > self._max_bytes or self._missed:
            self._squeeze(publication)
            return
        queue.append(publication)
        self.queued_bytes += size
        if not waiting:
            self.outlet.ready()

    def take(self, limit: int) -> list[Publication]:
        """Remove and give what waits: one publication, or as many as `limit` bytes hold."""
        if self._missed:
            self._tell()
        queue = self._queue
        if self.queued_bytes <= limit:
            batch = list(queue)
            queue.clear()
            self.queued_bytes = 0
            return batch
        batch = [queue.popleft()]
        room = limit - batch[0].size
        while queue and queue[0].size <= room:
            room -= queue[0].size
            batch.append(queue.popleft())
        self.queued_bytes -= sum(publication.size for publication in batch)
        return batch

    def close(self, reason: CloseReason) -> None:
        """Take nothing more. The first reason stands; what was queued stays only for a drain."""
        if self.closed is not None:
            return
        self.closed = reason
        if reason is not CloseReason.DRAIN:
            self._queue.clear()
            self.queued_bytes = self._missed = 0
        self._metrics.closed(reason)
        self._on_close(self)
        self.outlet.end(reason)

    def _squeeze(self, publication: Publication) -> None:
        self.outlet.relieve()
        if self.closed is not None:
            return
        if self._fits(publication):
            self._append(publication)
        elif self._overflow is Overflow.DISCONNECT:
            self.close(CloseReason.SLOW)
        elif self._overflow is Overflow.DROP_NEWEST:
            self._drop()
        else:
            while not self._fits(publication):
                self.queued_bytes -= self._queue.popleft().size
                self._drop()
            self._append(publication)

    def _fits(self, publication: Publication) -> bool:
        return not self._queue or (
            len(self._queue) < self._max_events and self.queued_bytes + publication.size <= self._max_bytes
        )

    def _append(self, publication: Publication) -> None:
        if self._missed and self._overflow is Overflow.DROP_NEWEST:
            self._tell()
        waiting = len(self._queue)
        self._queue.append(publication)
        self.queued_bytes += publication.size
        if not waiting:
            self.outlet.ready()

    def _drop(self) -> None:
        self._missed += 1
        self._metrics.dropped(self._overflow, 1)

    def _tell(self) -> None:
        """Queue the `$reset` at the place of what was dropped: before all, or after all."""
        loss = {"reason": "slow", "channels": list(self.channels), "missed": self._missed}
        reset = Publication(self.channels, Event(json.dumps(loss), type="$reset"))
        self._missed = 0
        self.queued_bytes += reset.size
        if self._overflow is Overflow.DROP_OLDEST:
            self._queue.appendleft(reset)
        else:
            self._queue.append(reset)
