"""Outbox: one HTTP subscriber's connection to its group, its queue and its sink."""

from typing import Protocol, TypeAlias

from sse_broadcast import clock
from sse_broadcast.encoding import Encoding
from sse_broadcast.fanout.group import SubscriberGroup
from sse_broadcast.fanout.subscriber import CloseReason, Subscriber
from sse_broadcast.fanout.writers import NOT_LISTED, Writer
from sse_broadcast.metrics import SubscriberKind

OUTBOXES_PER_TURN = 64
"""Outboxes to write to, or to check, before the clock is read again: about 0.3 ms of writing."""


class Sink(Protocol):
    """The destination of an outbox's bytes. No method waits."""

    __slots__ = ()  # a sink is made for each subscriber: no instance dictionary

    encoding: Encoding
    """The encoding of this sink's frames."""

    @property
    def writer(self) -> Writer:
        """The object that writes, the same for the whole life of the sink.

        If a write fills the sink, `Outbox.on_full` has been called when the write returns.
        """

    def attach(self, outbox: "Outbox | None") -> None:
        """Call `on_full` of this outbox whenever the sink is full, and now if it is. None stops that."""

    @property
    def gone(self) -> bool:
        """Whether the connection is closed, or closing."""

    def close(self) -> None:
        """End the body cleanly after everything written has been sent."""

    def abort(self) -> None:
        """Abort the connection now, and drop unsent bytes."""


class OutboxScheduler(Protocol):
    """Writes the queues of outboxes. No method waits or raises."""

    def schedule_outbox(self, outbox: "Outbox") -> None:
        """Write the outbox's queue soon. Called when the queue is no longer empty."""

    def flush_outbox(self, outbox: "Outbox") -> None:
        """Write the outbox's queue now, as far as its sink accepts it."""

    def on_full(self, outbox: "Outbox") -> None:
        """Stop writing to the outbox's sink, which is full. May be called during a write."""

    def on_drained(self, outbox: "Outbox") -> None:
        """Resume writing to the outbox's sink, which was full and has drained."""

    def on_closed(self, outbox: "Outbox", reason: CloseReason) -> None:
        """End the outbox's stream: its subscriber is closed."""


class Outbox:
    """The queue consumer of an HTTP subscriber, and a member of its group.

    While `following`, it has yet to get the group's log from `offset` on. Otherwise it has yet to get the
    subscriber's own queue, or the history during its replay.
    """

    kind = SubscriberKind.HTTP

    __slots__ = (
        "blocked",
        "close_reason",
        "close_sent",
        "first_offset",
        "following",
        "group",
        "heartbeat_comments",
        "heartbeat_due",
        "index",
        "last_position_sent",
        "next_check",
        "scheduler",
        "sink",
        "subscriber",
        "waited",
        "writer",
        "written",
    )

    def __init__(
        self, scheduler: OutboxScheduler, group: "OutboxGroup", subscriber: Subscriber, sink: Sink
    ) -> None:
        self.scheduler = scheduler
        self.group = group
        self.subscriber = subscriber
        self.sink = sink
        self.writer = sink.writer
        self.index = NOT_LISTED
        self.first_offset = 0  # the offset of the log at which it started to follow
        self.following = False
        self.blocked = False  # its sink is full or gone
        self.written = 0.0  # the time of the last write to it alone, by the loop's clock
        self.last_position_sent = 0  # the newest position sent to it alone
        self.heartbeat_comments = 0  # comments since the last heartbeat event
        self.next_check = 0  # the tick of its next heartbeat check
        self.heartbeat_due = False
        self.close_reason: CloseReason | None = None  # set when the stream must end after its queue
        self.close_sent = False
        self.waited = 0.0  # its lag in seconds when the subscriber closed

    def on_ready(self) -> None:
        """Schedule the subscriber's queue. Called by the subscriber."""
        self.scheduler.schedule_outbox(self)

    def make_room(self) -> None:
        """Write the subscriber's queue, as far as the sink accepts it. Called by the subscriber."""
        self.scheduler.flush_outbox(self)

    def on_closed(self, reason: CloseReason) -> None:
        """Record the lag, and end the stream. Called by the subscriber."""
        self.waited = self.lag
        self.scheduler.on_closed(self, reason)

    # Computed on demand: nothing is counted per delivery, the offset into the log gives all of it.

    @property
    def offset(self) -> int:
        """The offset in the group's log up to which it has everything, while following."""
        group = self.group
        if self.index == NOT_LISTED:
            return group.late_joiners[self]
        batch = group.batch
        return group.base if batch is None or self.index >= group.writers.next_index else batch.end

    @property
    def position(self) -> int:
        """The position up to which it has everything: its cursor if it reconnected now."""
        sent = self.last_position_sent
        if self.following:
            group, offset = self.group, self.offset
            if group.base > self.first_offset:  # earlier passes were not for this outbox
                sent = max(sent, group.last_position_sent)
            if offset > self.first_offset and (count := offset - group.base) > 0:
                sent = max(sent, group.log[count - 1].position)
        return sent

    @property
    def given(self) -> int:
        """The number of events sent to it, `$reset` events included."""
        followed = self.offset - self.first_offset if self.following else 0
        return self.subscriber.taken + followed

    @property
    def behind(self) -> int:
        """The number of waiting events; during a replay, those ahead in the history, of all channels."""
        return self.group.end - self.offset if self.following else self.subscriber.behind

    @property
    def waiting_bytes(self) -> int:
        """The bytes that wait for it, as text frames, without those in the history."""
        if not self.following:
            return self.subscriber.queued_bytes
        group = self.group
        if self.offset == group.base:
            return group.waiting_bytes
        return sum(publication.size for publication in group.log[self.offset - group.base :])

    @property
    def lag(self) -> float:
        """The age of the oldest waiting event in seconds; 0.0 if none waits."""
        oldest = self._oldest()
        return 0.0 if oldest is None else max(0.0, clock.now() - oldest)

    def _oldest(self) -> float | None:
        if not self.following:
            return self.subscriber.oldest
        group = self.group
        return None if self.offset == group.end else group.log[self.offset - group.base].time

    def on_full(self) -> None:
        """Stop writing. Called by the sink when it is full."""
        self.scheduler.on_full(self)

    def on_drained(self) -> None:
        """Resume writing. Called by the owner of the sink when it has drained."""
        self.scheduler.on_drained(self)

    def join_group(self) -> None:
        """Follow the group's log from its end."""
        group = self.group
        self.subscriber.go_live()
        self.first_offset = group.end
        self.following = True
        group.enter(self)
        group.queued.pop(self.subscriber, None)

    def leave_to_own_queue(self) -> None:
        """Stop following, and move the rest of the log to the subscriber's own queue."""
        if not self.following:
            return
        group = self.group
        rest = group.log[self.offset - group.base :]
        self.last_position_sent = self.position
        self.leave_group()
        group.queued[self.subscriber] = None
        for publication in rest:
            self.subscriber.offer(publication)

    def leave_group(self) -> None:
        """Stop following, and drop the rest of the log."""
        if self.following:
            self.subscriber.taken += self.offset - self.first_offset
            self.following = False
            self.group.leave(self)


OutboxGroup: TypeAlias = SubscriberGroup[Outbox]
"""The groups of a broadcaster: HTTP subscribers follow the log, in-process streams are `queued`."""
