"""Subscriber group: subscribers with the same selector and encoding, and one log for all of them.

They get the same bytes. A publication waits once, in the group's log, and each member is an offset into the
log. A publish touches no member, and one pass writes the same joined bytes to each. Only a member with a full
socket gets a queue of its own.
"""

import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from sse_broadcast.channels import Selector
from sse_broadcast.encoding import Encoding
from sse_broadcast.fanout.subscriber import Subscriber
from sse_broadcast.fanout.writers import NOT_LISTED, Member, WriterList
from sse_broadcast.publication import Publication, cut

M = TypeVar("M", bound=Member)


class GroupScheduler(Protocol[M]):
    """Writes the logs of groups. No method waits or raises."""

    def schedule_group(self, group: "SubscriberGroup[M]") -> None:
        """Write the group's log soon. Called when the log is no longer empty."""

    def flush_group(self, group: "SubscriberGroup[M]") -> None:
        """Empty the group's log now. Called when the log is at its limits."""


class SubscriberGroup(Generic[M]):
    """Subscribers with the same selector and encoding.

    `log` holds the publications from the offset `base` to `end` that some member has yet to get. It has the
    limits of a subscriber's queue. At a limit, a publish first writes the log, which waits for no subscriber.
    Members that follow the log are in `writers`, or in `late_joiners` if they joined at an offset within the
    log, ordered by it. Each publication is offered to the `queued` subscribers.
    """

    __slots__ = (
        "_max_bytes",
        "_max_events",
        "_scheduler",
        "base",
        "batch",
        "encoding",
        "last_position_sent",
        "late_joiners",
        "log",
        "members",
        "publish_time_noted",
        "publish_times",
        "queued",
        "scheduled",
        "selector",
        "waiting_bytes",
        "writers",
        "written",
    )

    def __init__(
        self,
        selector: Selector,
        encoding: Encoding,
        scheduler: GroupScheduler[M],
        *,
        queue_size: int,
        queue_bytes: int,
    ) -> None:
        self.selector = selector
        self.encoding = encoding
        self.members = 0  # subscribers, whether they follow the log or not
        self.log: list[Publication] = []
        self.base = 0
        self.waiting_bytes = 0
        self.written = 0.0  # when the last pass ended, by the loop's clock
        self.last_position_sent = 0  # the newest position of the last pass
        self.batch: Batch[M] | None = None
        # Offset and time of the first publication since each pass began. So the clock is read once per
        # pass, not once per publication.
        self.publish_times: list[tuple[int, float]] = []
        self.publish_time_noted = False
        self.scheduled = False  # the scheduler has it in its queue
        self.writers = WriterList[M]()
        self.late_joiners: dict[M, int] = {}
        self.queued: dict[Subscriber, None] = {}
        self._scheduler = scheduler
        self._max_events = queue_size
        self._max_bytes = queue_bytes

    def lower_limits(self, *, queue_size: int, queue_bytes: int) -> None:
        """Lower the limits of the log to those of a member's queue. They are never raised."""
        self._max_events = min(self._max_events, queue_size)
        self._max_bytes = min(self._max_bytes, queue_bytes)

    @property
    def end(self) -> int:
        """The offset after the newest publication."""
        return self.base + len(self.log)

    @property
    def followers(self) -> list[M]:
        """The members that follow the log."""
        return [*self.writers, *self.late_joiners]

    @property
    def following(self) -> int:
        """The number of members that follow the log."""
        return len(self.writers) + len(self.late_joiners)

    def enter(self, member: M) -> None:
        """Add a member that follows the log from its end on."""
        if self.log:
            self.late_joiners[member] = self.end
        else:
            self.writers.join(member)

    def leave(self, member: M) -> None:
        """Remove a member that follows the log."""
        if member.index == NOT_LISTED:
            del self.late_joiners[member]
        else:
            self.writers.leave(member)

    def append(self, publication: Publication) -> None:
        """Append a publication for all members. The hub calls it in order. Never raises."""
        # One that has left during the pass may be counted here: its event is written to nobody.
        if self.writers.members or self.late_joiners:
            log = self.log
            if len(log) >= self._max_events or self.waiting_bytes + publication.size > self._max_bytes:
                self._scheduler.flush_group(self)
            log.append(publication)
            self.waiting_bytes += publication.size
            if not self.publish_time_noted:
                self.publish_time_noted = True
                self.publish_times.append((self.base + len(log) - 1, time.monotonic()))
            if len(log) == 1:
                self._scheduler.schedule_group(self)
        if self.queued:
            # A copy: a subscriber whose queue overflows leaves during this loop.
            for subscriber in tuple(self.queued):
                subscriber.offer(publication)

    def start_time_of_pass(self) -> float:
        """Return when the first publication of the log was published, by the monotonic clock.

        Called when a pass begins. The result may be the time of an earlier publication since the same pass
        began.
        """
        times = self.publish_times
        while len(times) > 1 and times[1][0] <= self.base:
            del times[0]
        self.publish_time_noted = False
        return times[0][1]

    def frames(self, publications: Sequence[Publication]) -> bytes:
        """Return the joined frames of publications, the same for every member."""
        encoding = self.encoding
        if not encoding.format.names_channel:
            return b"".join([publication.frame(encoding) for publication in publications])
        matches_in = self.selector.matches_in
        return b"".join(
            [publication.frame(encoding, matches_in(publication.channels)) for publication in publications]
        )

    def drop_delivered(self, count: int) -> None:
        """Drop the first `count` publications of the log: every follower has them.

        Late joiners at the new start of the log become ordinary followers.
        """
        self.last_position_sent = self.log[count - 1].position
        for publication in self.log[:count]:
            self.waiting_bytes -= publication.size
        del self.log[:count]
        self.base += count
        if self.late_joiners:
            for member in self.late_joiners_before(self.base + 1):
                del self.late_joiners[member]
                self.writers.join(member)

    def late_joiners_before(self, offset: int) -> list[M]:
        """Return the late joiners that joined before an offset.

        Called between passes, since a pass changes their order.
        """
        return [member for member, _ in takewhile(lambda item: item[1] < offset, self.late_joiners.items())]


class Batch(Generic[M]):
    """The bytes of one pass over a group, the same for each member of its writer list.

    Members that joined within the batch get its remainder, each with a write of its own.
    """

    __slots__ = (
        "_group",
        "_publications",
        "base",
        "data",
        "end",
        "failed",
        "followed",
        "late_joiners",
        "published_at",
    )

    def __init__(self, group: SubscriberGroup[M], *, limit: int) -> None:
        self._group = group
        self._publications = cut(group.log, limit)
        self.published_at = group.start_time_of_pass()
        self.base = group.base
        self.end = group.base + len(self._publications)
        self.data = group.frames(self._publications)
        # False when all members left before the pass began. No pass is on, so that the list is exact.
        self.followed = bool(group.writers.members or group.late_joiners)
        self.late_joiners = group.late_joiners_before(self.end) if group.late_joiners else []
        self.failed = 0  # writes

    def remainder_from(self, offset: int) -> bytes:
        """Return the frames from an offset within the batch."""
        return self._group.frames(self._publications[offset - self.base :])
