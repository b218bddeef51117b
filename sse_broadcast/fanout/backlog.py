"""Census: what waits for how many subscribers, found a portion of them at a time."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

from sse_broadcast.fanout.outbox import Outbox, OutboxGroup
from sse_broadcast.metrics import BYTES, EVENTS, Distribution

PORTION = 5000
"""Readers, or audiences, looked at between two turns of the loop: a millisecond of it, or two."""

STEP = 500
"""Lanes that are compared at once with what their audience's log holds."""


class BacklogStats:
    """How much waits for subscribers, of each as it was when it was looked at.

    `queued_events` and `queued_bytes` are of those that are live. Nothing is queued for those that are
    `replaying`: what they have yet to get is in the history.
    """

    __slots__ = ("queued_bytes", "queued_events", "replaying")

    def __init__(self) -> None:
        self.queued_events = Distribution(EVENTS)
        self.queued_bytes = Distribution(BYTES)
        self.replaying = 0

    async def collect(self, groups: Collection[OutboxGroup]) -> None:
        """Look at everyone, and let the loop turn between two portions."""
        looks = 0
        for looked in self._steps(tuple(groups)):
            looks += looked
            if looks >= PORTION:
                looks = 0
                await asyncio.sleep(0)

    def _steps(self, groups: Collection[OutboxGroup]) -> Iterator[int]:
        """Look at a few, and say how many those are, until all have been looked at."""
        for group in groups:
            self.replaying += group.members - group.following - len(group.queued)
            if group.log:
                yield from self._follow(group)
            else:
                # As it is when the walk is done: nothing waits for any of them, so none is looked at.
                self._observe(0, 0, times=group.following)
            for subscriber in tuple(group.queued):
                self._observe(len(subscriber), subscriber.queued_bytes, times=subscriber.closed is None)
                yield 1
            yield 1

    def _follow(self, group: OutboxGroup) -> Iterator[int]:
        outboxes = group.followers
        for begin in range(0, len(outboxes), STEP):
            self._compare(group, outboxes[begin : begin + STEP])
            yield STEP

    def _compare(self, group: OutboxGroup, outboxes: Sequence[Outbox]) -> None:
        behind = [0, *accumulate(publication.size for publication in reversed(group.log))]
        seen = Counter(outbox.offset for outbox in outboxes if outbox.following)
        for place, times in seen.items():
            events = group.end - place
            self._observe(events, behind[events], times=times)

    def _observe(self, events: int, bytes: int, *, times: int) -> None:
        self.queued_events.observe(events, times=times)
        self.queued_bytes.observe(bytes, times=times)
