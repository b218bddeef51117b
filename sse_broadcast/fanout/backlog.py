"""Backlog: how many events and bytes wait for how many subscribers."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

from sse_broadcast.fanout.outbox import Outbox, OutboxGroup
from sse_broadcast.metrics import BYTES, EVENTS, Distribution

SUBSCRIBERS_PER_TURN = 5000
"""Subscribers or groups examined between two turns of the event loop: one or two milliseconds."""

COMPARED_AT_ONCE = 500
"""Outboxes compared with their group's log at a time."""


class BacklogStats:
    """Distributions of what waits for subscribers, each as it was when it was examined.

    `queued_events` and `queued_bytes` are those of live subscribers. `replaying` is the number of subscribers
    that read the history, for which nothing is queued.
    """

    __slots__ = ("queued_bytes", "queued_events", "replaying")

    def __init__(self) -> None:
        self.queued_events = Distribution(EVENTS)
        self.queued_bytes = Distribution(BYTES)
        self.replaying = 0

    async def collect(self, groups: Collection[OutboxGroup]) -> None:
        """Examine every subscriber, and let other tasks run in between."""
        portion = 0
        for counted in self._steps(tuple(groups)):
            portion += counted
            if portion >= SUBSCRIBERS_PER_TURN:
                portion = 0
                await asyncio.sleep(0)

    def _steps(self, groups: Collection[OutboxGroup]) -> Iterator[int]:
        """Examine a few subscribers at a time, and yield their number."""
        for group in groups:
            self.replaying += group.members - group.following - len(group.queued)
            if group.log:
                yield from self._follow(group)
            else:
                # With an empty log nothing waits for any follower: no need to examine them.
                self._observe(0, 0, times=group.following)
            for subscriber in tuple(group.queued):
                self._observe(len(subscriber), subscriber.queued_bytes, times=subscriber.closed is None)
                yield 1
            yield 1

    def _follow(self, group: OutboxGroup) -> Iterator[int]:
        outboxes = group.followers
        for begin in range(0, len(outboxes), COMPARED_AT_ONCE):
            self._compare(group, outboxes[begin : begin + COMPARED_AT_ONCE])
            yield COMPARED_AT_ONCE

    def _compare(self, group: OutboxGroup, outboxes: Sequence[Outbox]) -> None:
        behind = [0, *accumulate(publication.size for publication in reversed(group.log))]
        offsets = Counter(outbox.offset for outbox in outboxes if outbox.following)
        for offset, times in offsets.items():
            events = group.end - offset
            self._observe(events, behind[events], times=times)

    def _observe(self, events: int, bytes: int, *, times: int) -> None:
        self.queued_events.observe(events, times=times)
        self.queued_bytes.observe(bytes, times=times)
