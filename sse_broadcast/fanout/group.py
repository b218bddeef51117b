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
from sse_broadcast.channels import Interest
from sse_broadcast.encoding import Encoding
from sse_broadcast.fanout.subscriber import CloseReason, Subscriber
from sse_broadcast.fanout.writers import APART, March, Writer
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

    def attach(self, lane: "Lane | None") -> None:
        """Tell this lane whenever the sink is full (see `Lane.fill`), and now if it is; with None nobody."""

    @property
    def gone(self) -> bool:
        """Whether the connection is closed, or closing."""

    def close(self) -> None:
        """End the body cleanly once what is written has been taken."""

    def abort(self) -> None:
        """Cut the connection now, and let go of what is unsent."""


class Carrier(Protocol):
    """Who writes for lanes and audiences: `Delivery`. No method waits or raises."""

    def wake(self, audience: "Audience") -> None:
        """Take note that the audience's log is no longer empty."""

    def hurry(self, audience: "Audience") -> None:
        """Empty the audience's log now, since it is at its bounds."""

    def wake_lane(self, lane: "Lane") -> None:
        """Take note that the lane's own queue is no longer empty."""

    def hurry_lane(self, lane: "Lane") -> None:
        """Empty the lane's own queue now, as far as its sink takes it."""

    def block(self, lane: "Lane") -> None:
        """Take note that the lane's sink is full."""

    def resume(self, lane: "Lane") -> None:
        """Take note that the lane's full sink has emptied."""

    def end(self, lane: "Lane", reason: CloseReason) -> None:
        """Take note that the lane's subscriber has closed."""


class Lane:
    """One subscriber's way to its sink; the outlet of an HTTP reader.

    While it is `following`, what it has yet to get is the audience's log behind `seen`. Otherwise
    it is what its subscriber takes from its queue, or from the history while it is catching up.
    """

    kind = Kind.HTTP

    __slots__ = (
        "audience",
        "beats",
        "blocked",
        "carrier",
        "due",
        "ending",
        "farewell",
        "following",
        "rank",
        "silent",
        "sink",
        "start",
        "subscriber",
        "told",
        "waited",
        "writer",
        "written",
    )

    def __init__(self, carrier: Carrier, audience: "Audience", subscriber: Subscriber, sink: Sink) -> None:
        self.carrier = carrier
        self.audience = audience
        self.subscriber = subscriber
        self.sink = sink
        self.writer = sink.writer
        self.rank = APART
        self.start = 0  # the place at which it began to follow
        self.following = False
        self.blocked = False  # its sink is full, or it has none any more
        self.written = 0.0  # when something was last written for it alone, by the loop's clock
        self.told = 0  # the newest position it was told of alone
        self.beats = 0  # comments sent as heartbeats since the last block that was sent as one
        self.due = 0  # the tick at which its silence is looked at next
        self.silent = False  # a heartbeat is owed
        self.farewell: CloseReason | None = None  # why its stream ends, once the queue is empty
        self.ending = False  # that has been written
        self.waited = 0.0  # the seconds that the oldest of what waited when its subscriber closed had waited

    def ready(self) -> None:
        """See `Outlet`."""
        self.carrier.wake_lane(self)

    def relieve(self) -> None:
        """See `Outlet`."""
        self.carrier.hurry_lane(self)

    def end(self, reason: CloseReason) -> None:
        """See `Outlet`."""
        self.waited = self.lag
        self.carrier.end(self, reason)

    # What is known of it costs nothing until it is asked for: a place in the log counts for itself.

    @property
    def seen(self) -> int:
        """The place in the audience's log up to which it has been given everything, while it is following."""
        audience = self.audience
        if self.rank == APART:
            return audience.late[self]
        lap = audience.lap
        return audience.base if lap is None or self.rank >= audience.march.reached else lap.end

    @property
    def position(self) -> int:
        """The position up to which it has been given everything: the cursor it would come back with."""
        told = self.told
        if self.following:
            audience, seen = self.audience, self.seen
            if audience.base > self.start:  # what an older pass brought was not for it
                told = max(told, audience.told)
            if seen > self.start and (count := seen - audience.base) > 0:
                told = max(told, audience.log[count - 1].position)
        return told

    @property
    def given(self) -> int:
        """How many events it was given, news of a loss among them."""
        followed = self.seen - self.start if self.following else 0
        return self.subscriber.taken + followed

    @property
    def behind(self) -> int:
        """How many events wait for it; while it is catching up, in the history, of whatever channels."""
        return self.audience.end - self.seen if self.following else self.subscriber.behind

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for it, as text frames; what is in the history is not counted."""
        if not self.following:
            return self.subscriber.queued_bytes
        audience = self.audience
        if self.seen == audience.base:
            return audience.waiting_bytes
        return sum(publication.size for publication in audience.log[self.seen - audience.base :])

    @property
    def lag(self) -> float:
        """The seconds since the oldest that waits for it was published; 0.0 if nothing does."""
        oldest = self._oldest()
        return 0.0 if oldest is None else max(0.0, clock.now() - oldest)

    def _oldest(self) -> float | None:
        if not self.following:
            return self.subscriber.oldest
        audience = self.audience
        return None if self.seen == audience.end else audience.log[self.seen - audience.base].time

    def fill(self) -> None:
        """Take note that the sink is full. Called by the sink."""
        self.carrier.block(self)

    def resume(self) -> None:
        """Take note that the full sink has emptied. Called by whoever owns the sink."""
        self.carrier.resume(self)

    def follow(self) -> None:
        """Live from the audience's log from now on; what was published before is not waited for."""
        audience = self.audience
        self.subscriber.go_live()
        self.start = audience.end
        self.following = True
        audience.enter(self)
        audience.queued.pop(self.subscriber, None)

    def stray(self) -> None:
        """Live from the subscriber's own queue from now on, beginning with the rest of the log."""
        if not self.following:
            return
        audience = self.audience
        rest = audience.log[self.seen - audience.base :]
        self.told = self.position
        self.leave()
        audience.queued[self.subscriber] = None
        for publication in rest:
            self.subscriber.offer(publication)

    def leave(self) -> None:
        """Follow no more, and leave the rest of the log behind."""
        if self.following:
            self.subscriber.taken += self.seen - self.start
            self.following = False
            self.audience.leave(self)


class Audience:
    """Subscribers with the same interest in the same encoding.

    `log` is what some lane has yet to get: publications at the places `base` up to `end`. It is
    bounded as a subscriber's queue is; at its bounds a publish waits for the walk, which waits
    for nobody. The lanes that follow the log are in the `march`, or `late`: they began at a place in the
    middle of it, in order of which they stand there. `queued` subscribers are offered each publication.
    """

    __slots__ = (
        "_carrier",
        "_max_bytes",
        "_max_events",
        "awake",
        "base",
        "encoding",
        "interest",
        "lap",
        "late",
        "log",
        "march",
        "marked",
        "marks",
        "members",
        "queued",
        "told",
        "waiting_bytes",
        "written",
    )

    def __init__(
        self,
        interest: Interest,
        encoding: Encoding,
        carrier: Carrier,
        *,
        queue_size: int,
        queue_bytes: int,
    ) -> None:
        self.interest = interest
        self.encoding = encoding
        self.members = 0
        self.log: list[Publication] = []
        self.base = 0
        self.waiting_bytes = 0
        self.written = 0.0  # when the last pass over the lanes ended, by the loop's clock
        self.told = 0  # the newest position that pass brought
        self.lap: Lap | None = None
        # The places at which something was first published since a pass began, and when that was: by the
        # monotonic clock, which is looked at once in a pass and not for each publication.
        self.marks: list[tuple[int, float]] = []
        self.marked = False
        self.awake = False  # the walk will come by
        self.march = March[Lane]()
        self.late: dict[Lane, int] = {}
        self.queued: dict[Subscriber, None] = {}
        self._carrier = carrier
        self._max_events = queue_size
        self._max_bytes = queue_bytes

    def narrow(self, *, queue_size: int, queue_bytes: int) -> None:
        """Hold no more than this, and never more than before: what a queue of any member has room for."""
        self._max_events = min(self._max_events, queue_size)
        self._max_bytes = min(self._max_bytes, queue_bytes)

    @property
    def end(self) -> int:
        """The place after the newest publication."""
        return self.base + len(self.log)

    @property
    def lanes(self) -> list[Lane]:
        """Those that follow the log."""
        return [*self.march, *self.late]

    @property
    def following(self) -> int:
        """How many lanes follow the log."""
        return len(self.march) + len(self.late)

    def enter(self, lane: Lane) -> None:
        """Have a lane follow the log from its end on."""
        if self.log:
            self.late[lane] = self.end
        else:
            self.march.join(lane)

    def leave(self, lane: Lane) -> None:
        """Have a lane follow the log no more."""
        if lane.rank == APART:
            del self.late[lane]
        else:
            self.march.leave(lane)

    def publish(self, publication: Publication) -> None:
        """Take a publication for everyone. Called by the hub, in order; never raises."""
        if self.following:
            log = self.log
            if len(log) >= self._max_events or self.waiting_bytes + publication.size > self._max_bytes:
                self._carrier.hurry(self)
            log.append(publication)
            self.waiting_bytes += publication.size
            if not self.marked:
                self.marked = True
                self.marks.append((self.end - 1, time.monotonic()))
            if len(log) == 1:
                self._carrier.wake(self)
        if self.queued:
            # A copy, since a subscriber whose queue overflows leaves while this loop runs.
            for subscriber in tuple(self.queued):
                subscriber.offer(publication)

    def begin(self) -> float:
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
        first_of = self.interest.first_of
        return b"".join(
            [publication.frame(encoding, first_of(publication.channels)) for publication in publications]
        )

    def forget(self, count: int) -> None:
        """Drop so many publications from the log's beginning: every lane has them.

        Those that began just behind them are late no longer.
        """
        self.told = self.log[count - 1].position
        for publication in self.log[:count]:
            self.waiting_bytes -= publication.size
        del self.log[:count]
        self.base += count
        for lane in self.began_before(self.base + 1):
            del self.late[lane]
            self.march.join(lane)

    def began_before(self, place: int) -> list[Lane]:
        """Give the lanes that are late and began before a place. No pass is on, which changes their order."""
        return [lane for lane, _ in takewhile(lambda item: item[1] < place, self.late.items())]


class Lap:
    """One pass of the walk over an audience: the same bytes for each lane of its march.

    The lanes that began in the middle of what it brings get their rest of it behind the others.
    """

    __slots__ = ("_audience", "_publications", "base", "data", "end", "failed", "followed", "late", "since")

    def __init__(self, audience: Audience, *, limit: int) -> None:
        self._audience = audience
        self._publications = cut(audience.log, limit)
        self.since = audience.begin()
        self.base = audience.base
        self.end = audience.base + len(self._publications)
        self.data = audience.frames(self._publications)
        self.followed = audience.following > 0  # or all of them left before it began
        self.late = audience.began_before(self.end)
        self.failed = 0  # writes

    def rest(self, seen: int) -> bytes:
        """Give what a lane that came in the middle has yet to get of this pass."""
        return self._audience.frames(self._publications[seen - self.base :])
