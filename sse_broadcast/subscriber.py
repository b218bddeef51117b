"""Subscriber: one reader's bounded queue, what happens when it is full, and why it closed."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
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
    """Who empties a subscriber's queue. No method may raise or wait."""

    def ready(self) -> None:
        """Take note that the queue is no longer empty; called once each time that happens."""

    def relieve(self) -> None:
        """Empty the queue now, as far as the reader takes it; called when the queue is full."""

    def end(self, reason: CloseReason) -> None:
        """Take note that nothing more will be queued; called once."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all subscribers of a broadcaster: bounds, policy, who counts, who is told."""

    queue_size: int
    queue_bytes: int
    overflow: Overflow
    metrics: Metrics
    on_close: "Callable[[Subscriber], None]"


class Subscriber:
    """One connected reader.

    Publications are offered to it in order, its outlet takes them. Both bounds hold for what was
    published: at most `queue_size` publications of at most `queue_bytes` bytes wait, and an
    empty queue takes any event. What a full queue does is the overflow policy's to say, but only
    once the outlet has had its chance: a queue that is full because the server is busy is no
    reader's fault.

    With `drop-oldest` and `drop-newest` the reader is told of its loss, once, by a `$reset`
    event that stands where the dropped events stood.
    """

    __slots__ = ("_missed", "_queue", "_terms", "channels", "closed", "outlet", "queued_bytes")

    outlet: Outlet

    def __init__(self, channels: tuple[str, ...], terms: Terms) -> None:
        self.channels = channels
        self.closed: CloseReason | None = None
        self.queued_bytes = 0
        # Made when first needed: an empty deque is 760 bytes, and most readers never need one.
        self._queue: deque[Publication] | None = None
        self._missed = 0
        self._terms = terms

    def __len__(self) -> int:
        return len(self._queue) if self._queue is not None else 0

    def offer(self, publication: Publication) -> None:
        """Queue a publication, or do what the overflow policy says."""
        if self._missed or not self._fits(publication):
            self.outlet.relieve()
        if self.closed is not None:
            return
        if self._fits(publication):
            self._append(publication)
        elif self._terms.overflow is Overflow.DISCONNECT:
            self.close(CloseReason.SLOW)
        elif self._terms.overflow is Overflow.DROP_NEWEST:
            self._drop()
        else:
            self._make_room(publication)
            self._append(publication)

    def take(self, limit: int) -> list[Publication]:
        """Remove and give what waits: one publication, or as many as `limit` bytes hold."""
        if self._missed:
            self._tell()
        queue = self._queue
        if not queue:
            return []
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
            self._queue = None
            self.queued_bytes = self._missed = 0
        self._terms.metrics.closed(reason)
        self._terms.on_close(self)
        self.outlet.end(reason)

    def _fits(self, publication: Publication) -> bool:
        terms = self._terms
        return not self._queue or (
            len(self._queue) < terms.queue_size and self.queued_bytes + publication.size <= terms.queue_bytes
        )

    def _append(self, publication: Publication) -> None:
        if self._queue is None:
            self._queue = deque()
        if self._missed and self._terms.overflow is Overflow.DROP_NEWEST:
            self._tell()
        self._queue.append(publication)
        self.queued_bytes += publication.size
        if len(self._queue) == 1:
            self.outlet.ready()

    def _make_room(self, publication: Publication) -> None:
        while self._queue and not self._fits(publication):
            self.queued_bytes -= self._queue.popleft().size
            self._drop()

    def _drop(self) -> None:
        self._missed += 1
        self._terms.metrics.dropped(self._terms.overflow)

    def _tell(self) -> None:
        """Queue the `$reset` at the place of what was dropped: before all, or after all."""
        loss = {"reason": "slow", "channels": list(self.channels), "missed": self._missed}
        reset = Publication(self.channels, Event(json.dumps(loss), type="$reset"))
        self._missed = 0
        self.queued_bytes += reset.size
        assert self._queue is not None
        if self._terms.overflow is Overflow.DROP_OLDEST:
            self._queue.appendleft(reset)
        else:
            self._queue.append(reset)
