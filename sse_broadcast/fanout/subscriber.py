"""Subscriber: the bounded queue of one subscription, its overflow policy, and its close reason."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sse_broadcast.backends.base import ResetReason
from sse_broadcast.channels import Selector
from sse_broadcast.config.schema import Overflow
from sse_broadcast.fanout.conflation import Conflated
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.system_events import reset_publication
from sse_broadcast.metrics import Metrics, SubscriberKind
from sse_broadcast.publication import Publication


class CloseReason(StrEnum):
    """Why a subscriber was closed."""

    LEFT = "left"
    """The client disconnected, or the stream was closed by the program that opened it."""
    SLOW = "slow"
    """Its queue overflowed, and the policy is `disconnect`."""
    STALLED = "stalled"
    """Its socket stayed full for `write_timeout`."""
    DRAIN = "drain"
    """The broadcaster closed."""
    EXPIRED = "expired"
    """Its credential expired, or is no longer valid."""
    REVOKED = "revoked"
    """Its credential was revoked."""
    LIFETIME = "lifetime"
    """It reached the maximum lifetime of a stream."""
    DISCONNECTED = "disconnected"
    """A caller with `admin` disconnected it."""
    ERROR = "error"
    """Writing to its sink failed."""


ANNOUNCED = frozenset(CloseReason) - {CloseReason.LEFT, CloseReason.STALLED, CloseReason.ERROR}
"""Close reasons that are sent as `$close`: the client is still connected."""

AFTER_QUEUE = frozenset(
    {CloseReason.DRAIN, CloseReason.EXPIRED, CloseReason.LIFETIME, CloseReason.DISCONNECTED}
)
"""Close reasons that take effect after the queued events. A revoked subscriber gets no more events."""


SHORTEST_HEARTBEAT = 3
LONGEST_HEARTBEAT = 60
"""Bounds of the heartbeat that a subscriber may ask for, in seconds. With the shortest, 1,000 connections
cost 333 heartbeats a second, a third more than with the default of 4."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The heartbeat after some seconds without an event.

    It is a comment by default. `as_event` makes it a `$heartbeat` event, for pages that must notice a dead
    connection.
    """

    seconds: float
    as_event: bool = False


class QueueConsumer(Protocol):
    """Empties a subscriber's queue. No method may raise or wait."""

    kind: SubscriberKind

    def on_ready(self) -> None:
        """Empty the queue soon. Called each time the queue is no longer empty."""

    def make_room(self) -> None:
        """Empty the queue now, as far as the client accepts it. Called when the queue is full."""

    def on_closed(self, reason: CloseReason) -> None:
        """End the stream: nothing more is queued. Called once, before the queue is dropped."""


@dataclass(frozen=True, slots=True)
class SubscriberOptions:
    """The limits, the policy, the metrics and the callback of a subscriber.

    `epoch` is the epoch of the positions sent to it.
    """

    queue_size: int
    queue_bytes: int
    overflow: Overflow
    metrics: Metrics
    on_close: "Callable[[Subscriber], None]"
    epoch: str
    heartbeat: Heartbeat
    retry: int = 3000
    """Milliseconds before it reconnects, 50 % more or less."""


class Subscriber:
    """One subscription and its bounded queue.

    During its replay, nothing is queued for it: what it has yet to get is in the history. Afterwards
    publications are offered to it in order, and its consumer takes them. At most `queue_size` publications of
    at most `queue_bytes` bytes wait, but an empty queue accepts any event. A full queue first calls
    `make_room`, since the server may only be busy. If that does not help, the overflow policy decides.

    With `drop-oldest` and `drop-newest` one `$reset` event takes the place of the dropped events. With
    `conflate` a replaced event is not a loss.
    """

    __slots__ = (
        "_last_missed",
        "_missed",
        "_queue",
        "catching_up",
        "closed",
        "consumer",
        "dropped",
        "options",
        "queued_bytes",
        "selector",
        "taken",
    )

    consumer: QueueConsumer

    def __init__(
        self, selector: Selector, options: SubscriberOptions, catching_up: Replay | None = None
    ) -> None:
        self.selector = selector
        self.closed: CloseReason | None = None
        self.catching_up = catching_up
        self.queued_bytes = 0
        self.taken = 0  # publications and `$reset` events
        self.dropped = 0
        # Created when needed: an empty deque takes 760 bytes, and most subscribers never need one.
        self._queue: deque[Publication] | Conflated | None = None
        self._missed = 0
        self._last_missed = 0
        self.options = options

    def __len__(self) -> int:
        """Return the number of queued publications."""
        return len(self._queue) if self._queue is not None else 0

    @property
    def waiting(self) -> bool:
        """Whether there is something to take now, or something left of the replay."""
        if self.catching_up is not None:
            return not self.catching_up.done
        return bool(self._queue)

    @property
    def fetching(self) -> bool:
        """Whether what comes next has to come from the store: the consumer is told when it has."""
        return self.catching_up is not None and self.catching_up.fetching is not None

    @property
    def behind(self) -> int:
        """The number of waiting publications; during a replay, those ahead in the history."""
        return len(self) if self.catching_up is None else self.catching_up.behind

    @property
    def oldest(self) -> float | None:
        """The time of the oldest waiting publication, in seconds since 1970, or None."""
        if self.catching_up is not None:
            return self.catching_up.oldest
        return _first(self._queue).time if self._queue else None

    def offer(self, publication: Publication) -> None:
        """Queue a publication, or apply the overflow policy."""
        if self._missed or not self._fits(publication):
            self.consumer.make_room()
        if self.closed is not None:
            return
        idle = not self._queue
        if isinstance(self._queue, Conflated):
            self.queued_bytes -= self._queue.replace(publication)
        if self._fits(publication):
            self._append(publication)
            if idle:
                self.consumer.on_ready()
        else:
            self._overflow(publication)

    def take(self, limit: int) -> Sequence[Publication]:
        """Remove and return waiting publications: one, or as many as fit into `limit` bytes."""
        if self.catching_up is not None:
            self.catching_up.on_ready = self.consumer.on_ready
            page = self.catching_up.take(limit)
            self.taken += len(page)
            return page
        if self._missed:
            self._queue_reset()
        queue = self._queue
        if not queue:
            return ()
        batch = [queue.popleft()]
        room = limit - batch[0].size
        while queue and _first(queue).size <= room:
            batch.append(queue.popleft())
            room -= batch[-1].size
        self.queued_bytes -= sum(publication.size for publication in batch)
        self.taken += len(batch)
        return batch

    def go_live(self) -> None:
        """End the replay. Called when nothing is left in the history."""
        if self.catching_up is not None:
            self.catching_up.finish()
            self.catching_up = None

    def close(self, reason: CloseReason) -> None:
        """Queue nothing more. The first reason counts. The queue stays if all are in `AFTER_QUEUE`."""
        if self.closed is None:
            self.closed = reason
            self.options.metrics.closed(reason, self.consumer.kind)
            self.options.on_close(self)
            self.consumer.on_closed(reason)
            if self.catching_up is not None:
                self.catching_up.cancel()
                self.catching_up = None
        # Also if it was closed before: it may be revoked before it has taken the rest of its queue.
        if reason not in AFTER_QUEUE:
            self._queue = None
            self.queued_bytes = self._missed = 0

    def _fits(self, publication: Publication) -> bool:
        options, queue = self.options, self._queue
        if not queue:
            return True
        if len(queue) >= options.queue_size:
            return False
        # The overhead of a deque is eight bytes per item and is ignored. A conflating queue has large
        # indexes.
        bytes = self.queued_bytes + (queue.bytes if isinstance(queue, Conflated) else 0)
        return bytes + publication.size <= options.queue_bytes

    def _append(self, publication: Publication) -> None:
        if self._queue is None:
            conflates = self.options.overflow is Overflow.CONFLATE
            self._queue = Conflated(self.selector) if conflates else deque()
        if self._missed and self.options.overflow is Overflow.DROP_NEWEST:
            self._queue_reset()
        self._queue.append(publication)
        self.queued_bytes += publication.size

    def _overflow(self, publication: Publication) -> None:
        match self.options.overflow:
            case Overflow.DISCONNECT | Overflow.CONFLATE:
                self.close(CloseReason.SLOW)
            case Overflow.DROP_NEWEST:
                self._drop(publication)
            case Overflow.DROP_OLDEST:
                self._make_room(publication)
                self._append(publication)

    def _make_room(self, publication: Publication) -> None:
        while self._queue and not self._fits(publication):
            dropped = self._queue.popleft()
            self.queued_bytes -= dropped.size
            self._drop(dropped)

    def _drop(self, publication: Publication) -> None:
        self._missed += 1
        self.dropped += 1
        self._last_missed = publication.position
        self.options.metrics.dropped(self.options.overflow)

    def _queue_reset(self) -> None:
        """Queue a `$reset` in the place of the dropped events: before all others, or after them."""
        loss = reset_publication(
            ResetReason.SLOW,
            self.selector.channels,
            epoch=self.options.epoch,
            position=self._last_missed,
            missed=self._missed,
        )
        self.options.metrics.reset(ResetReason.SLOW)
        self._missed = 0
        self.queued_bytes += loss.size
        assert isinstance(self._queue, deque)
        if self.options.overflow is Overflow.DROP_OLDEST:
            self._queue.appendleft(loss)
        else:
            self._queue.append(loss)


def _first(queue: "deque[Publication] | Conflated") -> Publication:
    return queue.first() if isinstance(queue, Conflated) else queue[0]
