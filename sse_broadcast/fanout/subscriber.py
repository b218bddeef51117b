"""Subscriber: one subscription's bounded queue, what happens when it is full, and why it closed."""

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
    """Why a subscriber is no longer one."""

    LEFT = "left"
    """The client disconnected, or the stream was closed by the program that opened it."""
    SLOW = "slow"
    """Its queue overflowed, and the policy is `disconnect`."""
    STALLED = "stalled"
    """Its socket stayed full for `write_timeout`."""
    DRAIN = "drain"
    """The broadcaster closed."""
    EXPIRED = "expired"
    """Its credential is no longer good."""
    REVOKED = "revoked"
    """Its credential was revoked."""
    LIFETIME = "lifetime"
    """It has lasted as long as a stream may."""
    DISCONNECTED = "disconnected"
    """Somebody who may do that ended this one stream."""
    ERROR = "error"
    """Writing to its sink failed."""


ANNOUNCED = frozenset(CloseReason) - {CloseReason.LEFT, CloseReason.STALLED, CloseReason.ERROR}
"""Close reasons that are sent as `$close`: the client is still there."""

AFTER_QUEUE = frozenset(
    {CloseReason.DRAIN, CloseReason.EXPIRED, CloseReason.LIFETIME, CloseReason.DISCONNECTED}
)
"""Close reasons that take effect only behind what is queued. A revoked subscriber gets nothing more."""


SHORTEST_HEARTBEAT = 3
LONGEST_HEARTBEAT = 60
"""Seconds of silence that a subscriber may ask for. With the shortest, an address with 1,000 connections
costs 333 heartbeats a second, a third more than with the default of 4."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What breaks a silence of so many seconds.

    As a rule that is a comment. `as_event` makes it a `$heartbeat` event, for pages that must notice a dead
    connection.
    """

    seconds: float
    as_event: bool = False


class QueueConsumer(Protocol):
    """What empties a subscriber's queue. No method may raise or wait."""

    kind: SubscriberKind

    def on_ready(self) -> None:
        """Empty the queue soon. Called each time that it is no longer empty."""

    def make_room(self) -> None:
        """Empty the queue now, as far as the client takes it. Called when the queue is full."""

    def on_closed(self, reason: CloseReason) -> None:
        """End the stream: nothing more will be queued. Called once, while the queue is still there."""


@dataclass(frozen=True, slots=True)
class SubscriberOptions:
    """What holds for a subscriber from its first moment: limits, policy, metrics, and a callback.

    `epoch` is that of the positions that it is sent.
    """

    queue_size: int
    queue_bytes: int
    overflow: Overflow
    metrics: Metrics
    on_close: "Callable[[Subscriber], None]"
    epoch: str
    heartbeat: Heartbeat
    retry: int = 3000
    """Milliseconds after which it reconnects, give or take half."""


class Subscriber:
    """One subscription and its bounded queue.

    While it is catching up, what it has yet to get is in the history, and nothing is queued for it.
    Then publications are offered to it in order, and its consumer takes them. Both limits hold for
    what was published: at most `queue_size` publications of at most `queue_bytes` bytes wait,
    and an empty queue takes any event. A full queue calls `make_room` first, since the server may
    only be busy. Where that does not help, it does what the overflow policy says.

    With `drop-oldest` and `drop-newest` one `$reset` event stands where the dropped events stood.
    With `conflate` an event that was replaced is no loss.
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
        self.taken = 0  # publications, and news of a loss
        self.dropped = 0
        # Made when first needed: an empty deque is 760 bytes, and most subscribers never need one.
        self._queue: deque[Publication] | Conflated | None = None
        self._missed = 0
        self._last_missed = 0
        self.options = options

    def __len__(self) -> int:
        """How many publications are queued."""
        return len(self._queue) if self._queue is not None else 0

    @property
    def waiting(self) -> bool:
        """Whether there is something to take, or will be before it can go live."""
        if self.catching_up is not None:
            return not self.catching_up.done
        return bool(self._queue)

    @property
    def behind(self) -> int:
        """How many publications wait; while it is catching up, in the history, of whatever channels."""
        return len(self) if self.catching_up is None else self.catching_up.behind

    @property
    def oldest(self) -> float | None:
        """When the oldest that waits was published, in seconds since 1970."""
        if self.catching_up is not None:
            return self.catching_up.oldest
        return _first(self._queue).time if self._queue else None

    def offer(self, publication: Publication) -> None:
        """Queue a publication, or do what the overflow policy says."""
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
        """Remove and return what waits: one publication, or as many as `limit` bytes hold."""
        if self.catching_up is not None:
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
        """End the replay. Called when nothing is waiting in the history."""
        if self.catching_up is not None:
            self.catching_up.finish()
            self.catching_up = None

    def close(self, reason: CloseReason) -> None:
        """Take nothing more. The first reason stands; what was queued stays while all are graceful ones."""
        if self.closed is None:
            self.closed = reason
            self.options.metrics.closed(reason, self.consumer.kind)
            self.options.on_close(self)
            self.consumer.on_closed(reason)
            self.catching_up = None
        # Also when it is ending already: it may be revoked before it has taken the rest.
        if reason not in AFTER_QUEUE:
            self._queue = None
            self.queued_bytes = self._missed = 0

    def _fits(self, publication: Publication) -> bool:
        options, queue = self.options, self._queue
        if not queue:
            return True
        if len(queue) >= options.queue_size:
            return False
        # A deque takes eight bytes for each; what conflates has indexes of its own.
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
        """Queue the `$reset` where the dropped events stood: before all, or after all."""
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
