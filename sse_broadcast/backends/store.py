"""The contract between a backend of two tiers and the store behind its memory."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from sse_broadcast.backends.base import (
    ChannelUsage,
    HistoryUsage,
    IdempotencyKey,
    Lifecycle,
    Order,
    ReplayPage,
    StartPoint,
)
from sse_broadcast.channels import Selector
from sse_broadcast.cursor import Cursor, EventId
from sse_broadcast.publication import Draft, Publication, Receipt

TakePublications = Callable[[Sequence[Publication], str], int]
"""Takes what a store has, in its order, with the name of its publisher: now, and without waiting. Holds it in
memory, announces it, and returns how many clients wanted any of it."""


class Store(Order, Lifecycle, Protocol):
    """Keeps publications where they outlive this process, and gives them their order.

    What it has is passed to `take`, in order and once, whether it was published here or elsewhere:
    `position` is the newest that was. All calls are made from one event loop.
    """

    take: TakePublications
    on_remove: Callable[[int], object]
    """Called with the position of an event that was removed, in the order of what is taken."""
    on_clear: Callable[[str], object]
    """Called with a channel that was cleared, likewise."""

    @property
    def outage(self) -> str | None:
        """Why it can neither take nor give now; None if it can."""

    @property
    def untidy(self) -> bool:
        """Whether `evict_expired` is to be called again at once."""

    @property
    def evictions(self) -> int:
        """The number of the newest eviction, which pages are told of."""

    def publish(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None, publisher: str
    ) -> Awaitable[Receipt]:
        """Store and `take`, all or nothing. See `Backend.publish`."""

    def locate(self, id: EventId) -> int | StartPoint:
        """Return the position of an id, or where its subscriber goes on that has to be told of a loss."""

    async def resume(self, selector: Selector, position: int) -> StartPoint:
        """Return where a subscriber begins that has everything up to a position."""

    async def find(self, cursor: Cursor, selector: Selector) -> StartPoint:
        """Return where a subscriber begins whose cursor is no id of ours."""

    async def page(self, selector: Selector, *, after: int, evictions_seen: int, limit: int) -> ReplayPage:
        """Return what of a selector came after a position. See `Backend.replay`."""

    def replayable(self, selector: Selector, *, after: int) -> bool:
        """Return whether nothing was lost after a position. See `Backend.replayable`."""

    def oldest(self, selector: Selector, *, after: int) -> float | None:
        """Return when about the oldest that is held after a position was published; None if none is."""

    def reload_limits(self) -> None:
        """Apply limits that have changed."""

    def evict_expired(self) -> bool:
        """Start to evict events beyond the limits, and return whether any are left that will be."""

    def channel_usage(self, channel: str) -> ChannelUsage:
        """Return what is held of a channel."""

    def channels(self) -> Iterator[Sequence[str]]:
        """Yield the channels of which something is held."""

    def usage(self) -> HistoryUsage:
        """Return how much is held."""

    async def remove(self, position: int) -> bool:
        """Remove one event. See `Backend.remove`."""

    async def clear(self, channel: str) -> int:
        """Remove all events of a channel. See `Backend.clear`."""
