"""The contract between a broadcaster and whatever keeps its publications."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from sse_broadcast.channels import Selector
from sse_broadcast.cursor import Cursor
from sse_broadcast.publication import Draft, Publication, Receipt
from sse_broadcast.work_queue import SlicedWork

T_co = TypeVar("T_co", covariant=True)


class ResetReason(StrEnum):
    """Why a subscriber is told that it lost something. `slow` is the queue's to say, not a backend's."""

    SLOW = "slow"
    """Events were dropped from its queue."""
    EVICTED = "evicted"
    """What comes after its id is no longer held."""
    EPOCH = "epoch"
    """Its id is of a history that was lost."""
    UNKNOWN = "unknown"
    """Its id was never ours, or was a publisher's and is no longer held."""
    BACKEND = "backend"
    """What keeps the events has lost some that it had taken, or its subscriber had seen."""


@dataclass(frozen=True, slots=True)
class StartPoint:
    """Where a subscriber begins: after this position.

    `evictions_seen` is the number of the newest eviction by then, or 0: earlier evictions are no loss to a
    subscriber that asked for what is held. `preloaded` is sent before all else. `reset_reason` is why the
    subscriber must be told of a loss first, and `channels` are those that lost something; none of them means
    all that it asked for.
    """

    after: int
    evictions_seen: int = 0
    preloaded: tuple[Publication, ...] = ()
    reset_reason: ResetReason | None = None
    channels: tuple[str, ...] = ()
    cursor: int = field(init=False, compare=False)
    """The position just before the first event that the subscriber will be given."""

    def __post_init__(self) -> None:
        cursor = self.preloaded[0].position - 1 if self.preloaded else self.after
        object.__setattr__(self, "cursor", cursor)


@dataclass(frozen=True, slots=True)
class Gap:
    """What a history can no longer give of a selector: something up to and including `position`."""

    channels: tuple[str, ...]
    position: int
    reason: ResetReason = ResetReason.EVICTED


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """A part of the answer to "what came after this?".

    `publications` in order, then the `gap` if there is one. With both of them the reader
    has all there is of its selector up to the position `upto`; beyond that there may be more.
    """

    publications: Sequence[Publication]
    upto: int
    gap: Gap | None = None
    evictions_seen: int = field(default=0, compare=False)
    """The number of the newest eviction by then, to be passed with the request for the next page."""


@dataclass(frozen=True, slots=True)
class Far(Generic[T_co]):
    """An answer that memory does not have: `fetch` waits for the store.

    It may be called once. Raises `BackendUnavailableError` if the store cannot give it either.
    """

    fetch: Callable[[], Awaitable[T_co]]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An idempotency key as its caller meant it, and a digest of what was sent with it."""

    scope: tuple[str | None, ...]
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChannelUsage:
    """What a history holds of one channel."""

    events: int
    oldest: str | None
    """The id of the oldest event held."""


@dataclass(frozen=True, slots=True)
class HistoryUsage:
    """How much a history holds, of all channels; what several channels hold counts once."""

    channels: int
    events: int
    bytes: int


Deliver = Callable[[Sequence[Publication]], int]
"""Delivers publications to their subscribers, now and in order; returns how many those are.
Never raises, never waits."""


CALLS = (
    "publish",
    "find",
    "replay",
    "replayable",
    "oldest",
    "tidy",
    "relimit",
    "holding",
    "channels",
    "extent",
    "remove",
    "clear",
)
"""Calls of a backend as metrics name them. They are counted; properties are not."""


class Order(Protocol):
    """The one order of everything that is published.

    Each life of what keeps it is a term, with an epoch of its own. Positions rise within a term; the next
    one begins far beyond, so that a position that was given is never given again.
    """

    @property
    def epoch(self) -> str:
        """The epoch of this term, in each id that is given now. Ids of a term that is not known are lost."""

    @property
    def position(self) -> int:
        """The newest position; everything up to it has been announced."""

    def count_after(self, position: int) -> int:
        """Return how many positions after this one were given to publications."""


class Lifecycle(Protocol):
    """A backend or store that is opened before its use and closed after it. Memory needs neither."""

    async def start(self) -> None:
        """Open the store. Raises `StoreError` if it cannot be used; nothing is to be undone then."""

    async def aclose(self) -> None:
        """Close the store, behind everything that it was given."""


class Backend(Order, Lifecycle, Protocol):
    """Keeps publications in one order, and gives them out again.

    Its broadcaster calls it from one event loop. To append and to announce (`Deliver`) are one
    act: while it goes on nothing is replayed, and the order of the history is the order of the
    announcements. Positions begin at 1 and are given to everything that is published, whether it
    is then held or not.
    """

    @property
    def outage(self) -> str | None:
        """Why it can neither take nor give now, fit to be shown to everyone; None if it can."""

    @property
    def untidy(self) -> bool:
        """Whether the last `evict_expired` has left publications that could have been evicted."""

    async def publish(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None = None, publisher: str = ""
    ) -> Receipt:
        """Append and announce, all or nothing, and return the last receipt once the store has the events.

        A cancelled caller has published all the same. Raises `BackendUnavailableError` if nothing was
        published, and `UncertainPublishError` if the outcome is unknown.

        With a key of a scope seen before, of this publisher, nothing is published and the first receipt is
        given again. Raises `IdempotencyError` if it was seen with another digest. A digest is of everything
        that was sent: drafts that have the same are the same. `publisher` names whoever has a share of what
        is kept; where there is no more room, it is taken from the publisher that has most.
        """

    def find(self, cursor: Cursor, selector: Selector) -> SlicedWork[StartPoint | Far[StartPoint]]:
        """Return where a subscriber with this cursor begins. Never scans the history.

        A loss that is known by then is in the answer, so that the subscriber is told of it first. In pieces:
        what is published after the first of them comes after that start.
        """

    def replay(
        self, selector: Selector, *, after: int, evictions_seen: int, limit: int
    ) -> SlicedWork[ReplayPage | Far[ReplayPage]]:
        """Return what of a selector came after a position, in pages of about `limit` bytes.

        In pieces, whatever is published or evicted meanwhile: it is true when it is returned. One publication
        at least, however large, if any is left. Progress is certain: unless `upto` is the newest position, it
        is beyond `after`. Evictions up to `evictions_seen` are no gap.
        """

    def replayable(self, selector: Selector, *, after: int) -> bool:
        """Return whether a subscriber that came back after this position would be told of no loss.

        Where a selector has patterns, it may be False because of what other channels lost: the answer looks
        at no names.
        """

    def oldest(self, selector: Selector, *, after: int) -> float | None:
        """Return when the oldest publication held after a position was published; None if none is.

        Where a selector has patterns, or types, that may be one that it does not want: the answer never
        scans the history.
        """

    def reload_limits(self) -> None:
        """Apply limits that have changed.

        Publications beyond them are evicted by the next calls of `publish` and `evict_expired`.
        """

    def evict_expired(self) -> bool:
        """Evict what is too old, and return whether anything is left that will be.

        Called now and then, and at once again while the backend is `untidy`: each call takes about a
        millisecond.
        """

    def channel_usage(self, channel: str) -> ChannelUsage:
        """Return what is held of a channel: nothing if it is not known."""

    def channels(self) -> Iterator[Sequence[str]]:
        """Yield the channels of which something is held, a few at a time, each once.

        What comes or goes between two of them may be left out.
        """

    def usage(self) -> HistoryUsage:
        """Return how much is held. Never scans the history."""

    async def remove(self, position: int) -> bool:
        """Remove one event from every channel, and return whether it was held.

        It is no loss: a subscriber that resumes from before it gets all other events.
        """

    async def clear(self, channel: str) -> int:
        """Remove all events of a channel, and return how many it held. It is no loss, as with `remove`.

        Events that other channels hold too stay there.
        """
