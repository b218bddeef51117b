"""Audience: the subscribers who asked for the same thing, and what they have yet to get.

Readers with the same interest in the same encoding get the same bytes. So what is published for
them waits once, in their audience's log, and each of them is a place in it: publishing touches
no reader, and one pass over the readers hands every one the same joined bytes. Only a reader
that cannot keep up, because its socket is full, gets a queue of its own.
"""

import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

from sse_broadcast import clock
from sse_broadcast.channels import Selector
from sse_broadcast.encoding import Encoding
from sse_broadcast.fanout.subscriber import CloseReason, Subscriber
from sse_broadcast.fanout.writers import NOT_LISTED, Writer, WriterList
from sse_broadcast.metrics import Kind
from sse_broadcast.publication import Publication, cut


class Sink(Protocol):
    """Where a lane's bytes go. No method waits."""

    encoding: Encoding
    """How this sink's publications are written."""

    @property
    def writer(self) -> "Writer":
        """What writes, the same for the whole life of the sink.

        Where that leaves the sink full, the lane that is attached has been told when it returns.
        """

    def attach(self, outbox: "Outbox | None") -> None:
        """Tell this lane whenever the sink is full (see `Lane.fill`), and now if it is; with None nobody."""

    @property
    def gone(self) -> bool:
        """Whether the connection is closed, or closing."""

    def close(self) -> None:
        """End the body cleanly once what is written has been taken."""

    def abort(self) -> None:
        """Cut the connection now, and let go of what is unsent."""


class Scheduler(Protocol):
    """Who writes for lanes and audiences: `Delivery`. No method waits or raises."""

    def schedule(self, group: "SubscriberGroup") -> None:
        """Take note that the audience's log is no longer empty."""

    def flush(self, group: "SubscriberGroup") -> None:
        """Empty the audience's log now, since it is at its bounds."""

    def schedule_outbox(self, outbox: "Outbox") -> None:
        """Take note that the lane's own queue is no longer empty."""

    def flush_outbox(self, outbox: "Outbox") -> None:
        """Empty the lane's own queue now, as far as its sink takes it."""

    def on_full(self, outbox: "Outbox") -> None:
        """Take note that the lane's sink is full."""

    def resume(self, outbox: "Outbox") -> None:
        """Take note that the lane's full sink has emptied."""

    def on_closed(self, outbox: "Outbox", reason: CloseReason) -> None:
        """Take note that the lane's subscriber has closed."""


class Outbox:
    """One subscriber's way to its sink; the outlet of an HTTP reader.

    While it is `following`, what it has yet to get is the audience's log behind `seen`. Otherwise
    it is what its subscriber takes from its queue, or from the history while it is catching up.
    """

    kind = Kind.HTTP

    __slots__ = (
        "beats",
        "blocked",
        "close_frame",
        "close_sent",
        "due",
        "first_offset",
        "following",
        "group",
        "heartbeat_due",
        "index",
        "last_position_sent",
        "scheduler",
        "sink",
        "subscriber",
        "waited",
        "writer",
        "written",
    )

    def __init__(
        self, scheduler: Scheduler, group: "SubscriberGroup", subscriber: Subscriber, sink: Sink
    ) -> None:
        self.scheduler = scheduler
        self.group = group
        self.subscriber = subscriber
        self.sink = sink
        self.writer = sink.writer
        self.index = NOT_LISTED
        self.first_offset = 0  # the place at which it began to follow
        self.following = False
        self.blocked = False  # its sink is full, or it has none any more
        self.written = 0.0  # when something was last written for it alone, by the loop's clock
        self.last_position_sent = 0  # the newest position it was told of alone
        self.beats = 0  # comments sent as heartbeats since the last block that was sent as one
        self.due = 0  # the tick at which its silence is looked at next
        self.heartbeat_due = False  # a heartbeat is owed
        self.close_frame: CloseReason | None = None  # why its stream ends, once the queue is empty
        self.close_sent = False  # that has been written
        self.waited = 0.0  # the seconds that the oldest of what waited when its subscriber closed had waited

    def on_ready(self) -> None:
        """See `Outlet`."""
        self.scheduler.schedule_outbox(self)

    def make_room(self) -> None:
        """See `Outlet`."""
        self.scheduler.flush_outbox(self)

    def on_closed(self, reason: CloseReason) -> None:
        """See `Outlet`."""
        self.waited = self.lag
        self.scheduler.on_closed(self, reason)

    # What is known of it costs nothing until it is asked for: a place in the log counts for itself.

    @property
    def offset(self) -> int:
        """The place in the audience's log up to which it has been given everything, while it is following."""
        group = self.group
        if self.index == NOT_LISTED:
            return group.late_joiners[self]
        batch = group.batch
        return group.base if batch is None or self.index >= group.writers.next_index else batch.end

    @property
    def position(self) -> int:
        """The position up to which it has been given everything: the cursor it would come back with."""
        told = self.last_position_sent
        if self.following:
            group, seen = self.group, self.offset
            if group.base > self.first_offset:  # what an older pass brought was not for it
                told = max(told, group.told)
            if seen > self.first_offset and (count := seen - group.base) > 0:
                told = max(told, group.log[count - 1].position)
        return told

    @property
    def given(self) -> int:
        """How many events it was given, news of a loss among them."""
        followed = self.offset - self.first_offset if self.following else 0
        return self.subscriber.taken + followed

    @property
    def behind(self) -> int:
        """How many events wait for it; while it is catching up, in the history, of whatever channels."""
        return self.group.end - self.offset if self.following else self.subscriber.behind

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for it, as text frames; what is in the history is not counted."""
        if not self.following:
            return self.subscriber.queued_bytes
        group = self.group
        if self.offset == group.base:
            return group.waiting_bytes
        return sum(publication.size for publication in group.log[self.offset - group.base :])

    @property
    def lag(self) -> float:
        """The seconds since the oldest that waits for it was published; 0.0 if nothing does."""
        oldest = self._oldest()
        return 0.0 if oldest is None else max(0.0, clock.now() - oldest)

    def _oldest(self) -> float | None:
        if not self.following:
            return self.subscriber.oldest
        group = self.group
        return None if self.offset == group.end else group.log[self.offset - group.base].time

    def on_full(self) -> None:
        """Take note that the sink is full. Called by the sink."""
        self.scheduler.on_full(self)

    def on_drained(self) -> None:
        """Take note that the full sink has emptied. Called by whoever owns the sink."""
        self.scheduler.resume(self)

    def join_group(self) -> None:
        """Live from the audience's log from now on; what was published before is not waited for."""
        group = self.group
        self.subscriber.go_live()
        self.first_offset = group.end
        self.following = True
        group.enter(self)
        group.queued.pop(self.subscriber, None)

    def leave_to_own_queue(self) -> None:
        """Live from the subscriber's own queue from now on, beginning with the rest of the log."""
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
        """Follow no more, and leave the rest of the log behind."""
        if self.following:
            self.subscriber.taken += self.offset - self.first_offset
            self.following = False
            self.group.leave(self)


class SubscriberGroup:
    """Subscribers with the same interest in the same encoding.

    `log` is what some lane has yet to get: publications at the places `base` up to `end`. It is
    bounded as a subscriber's queue is; at its bounds a publish waits for the walk, which waits
    for nobody. The lanes that follow the log are in the `march`, or `late`: they began at a place in the
    middle of it, in order of which they stand there. `queued` subscribers are offered each publication.
    """

    __slots__ = (
        "_max_bytes",
        "_max_events",
        "_scheduler",
        "awake",
        "base",
        "batch",
        "encoding",
        "late_joiners",
        "log",
        "marked",
        "marks",
        "members",
        "queued",
        "selector",
        "told",
        "waiting_bytes",
        "writers",
        "written",
    )

    def __init__(
        self,
        selector: Selector,
        encoding: Encoding,
        scheduler: Scheduler,
        *,
        queue_size: int,
        queue_bytes: int,
    ) -> None:
        self.selector = selector
        self.encoding = encoding
        self.members = 0
        self.log: list[Publication] = []
        self.base = 0
        self.waiting_bytes = 0
        self.written = 0.0  # when the last pass over the lanes ended, by the loop's clock
        self.told = 0  # the newest position that pass brought
        self.batch: Batch | None = None
        # The places at which something was first published since a pass began, and when that was: by the
        # monotonic clock, which is looked at once in a pass and not for each publication.
        self.marks: list[tuple[int, float]] = []
        self.marked = False
        self.awake = False  # the walk will come by
        self.writers = WriterList[Outbox]()
        self.late_joiners: dict[Outbox, int] = {}
        self.queued: dict[Subscriber, None] = {}
        self._scheduler = scheduler
        self._max_events = queue_size
        self._max_bytes = queue_bytes

    def lower_limits(self, *, queue_size: int, queue_bytes: int) -> None:
        """Hold no more than this, and never more than before: what a queue of any member has room for."""
        self._max_events = min(self._max_events, queue_size)
        self._max_bytes = min(self._max_bytes, queue_bytes)

    @property
    def end(self) -> int:
        """The place after the newest publication."""
        return self.base + len(self.log)

    @property
    def outboxes(self) -> list[Outbox]:
        """Those that follow the log."""
        return [*self.writers, *self.late_joiners]

    @property
    def following(self) -> int:
        """How many lanes follow the log."""
        return len(self.writers) + len(self.late_joiners)

    def enter(self, outbox: Outbox) -> None:
        """Have a lane follow the log from its end on."""
        if self.log:
            self.late_joiners[outbox] = self.end
        else:
            self.writers.join(outbox)

    def leave(self, outbox: Outbox) -> None:
        """Have a lane follow the log no more."""
        if outbox.index == NOT_LISTED:
            del self.late_joiners[outbox]
        else:
            self.writers.leave(outbox)

    def append(self, publication: Publication) -> None:
        """Take a publication for everyone. Called by the hub, in order; never raises."""
        if self.following:
            log = self.log
            if len(log) >= self._max_events or self.waiting_bytes + publication.size > self._max_bytes:
                self._scheduler.flush(self)
            log.append(publication)
            self.waiting_bytes += publication.size
            if not self.marked:
                self.marked = True
                self.marks.append((self.end - 1, time.monotonic()))
            if len(log) == 1:
                self._scheduler.schedule(self)
        if self.queued:
            # A copy, since a subscriber whose queue overflows leaves while this loop runs.
            for subscriber in tuple(self.queued):
                subscriber.offer(publication)

    def start_time_of_pass(self) -> float:
        """Give when the first of the log was published, or what came before it since a pass began.

        Called when a pass begins. By the monotonic clock.
        """
        marks = self.marks
        while len(marks) > 1 and marks[1][0] <= self.base:
            del marks[0]
        self.marked = False
        return marks[0][1]

    def frames(self, publications: Sequence[Publication]) -> bytes:
        """Give publications as every member gets them, joined."""
        encoding = self.encoding
        if not encoding.format.names_channel:
            return b"".join([publication.frame(encoding) for publication in publications])
        first_of = self.selector.first_match
        return b"".join(
            [publication.frame(encoding, first_of(publication.channels)) for publication in publications]
        )

    def drop_delivered(self, count: int) -> None:
        """Drop so many publications from the log's beginning: every lane has them.

        Those that began just behind them are late no longer.
        """
        self.told = self.log[count - 1].position
        for publication in self.log[:count]:
            self.waiting_bytes -= publication.size
        del self.log[:count]
        self.base += count
        for outbox in self.late_joiners_before(self.base + 1):
            del self.late_joiners[outbox]
            self.writers.join(outbox)

    def late_joiners_before(self, place: int) -> list[Outbox]:
        """Give the lanes that are late and began before a place. No pass is on, which changes their order."""
        return [outbox for outbox, _ in takewhile(lambda item: item[1] < place, self.late_joiners.items())]


class Batch:
    """One pass of the walk over an audience: the same bytes for each lane of its march.

    The lanes that began in the middle of what it brings get their rest of it behind the others.
    """

    __slots__ = ("_group", "_publications", "base", "data", "end", "failed", "followed", "late", "since")

    def __init__(self, group: SubscriberGroup, *, limit: int) -> None:
        self._group = group
        self._publications = cut(group.log, limit)
        self.since = group.start_time_of_pass()
        self.base = group.base
        self.end = group.base + len(self._publications)
        self.data = group.frames(self._publications)
        self.followed = group.following > 0  # or all of them left before it began
        self.late = group.late_joiners_before(self.end)
        self.failed = 0  # writes

    def remainder_from(self, seen: int) -> bytes:
        """Give what a lane that came in the middle has yet to get of this pass."""
        return self._group.frames(self._publications[seen - self.base :])
