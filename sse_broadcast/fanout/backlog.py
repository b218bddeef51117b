"""Backlog: how much waits for how many subscribers, collected a portion of them at a time."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

from sse_broadcast.fanout.outbox import Outbox, OutboxGroup
from sse_broadcast.metrics import BYTES, EVENTS, Distribution

SUBSCRIBERS_PER_TURN = 5000
"""Subscribers, or groups, looked at between two turns of the event loop: a millisecond of it, or two."""

COMPARED_AT_ONCE = 500
"""Outboxes that are compared at once with their group's log."""


class BacklogStats:
    """How much waits for subscribers. Each counts as it was when it was looked at.

    `queued_events` and `queued_bytes` are of the live subscribers. Nothing is queued for those that are
    `replaying`: what they have yet to get is in the history.
    """

    __slots__ = ("queued_bytes", "queued_events", "replaying")

    def __init__(self) -> None:
        self.queued_events = Distribution(EVENTS)
        self.queued_bytes = Distribution(BYTES)
        self.replaying = 0

    async def collect(self, groups: Collection[OutboxGroup]) -> None:
        """Count every subscriber, and let the event loop turn between two portions."""
        portion = 0
        for counted in self._steps(tuple(groups)):
            portion += counted
            if portion >= SUBSCRIBERS_PER_TURN:
                portion = 0
                await asyncio.sleep(0)

    def _steps(self, groups: Collection[OutboxGroup]) -> Iterator[int]:
        """Count a few at a time, and yield how many, until all are counted."""
        for group in groups:
            self.replaying += group.members - group.following - len(group.queued)
            if group.log:
                yield from self._follow(group)
            else:
                # Between two passes nothing waits for any follower, so none is looked at.
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
