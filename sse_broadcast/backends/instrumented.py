"""InstrumentedBackend: any backend, with its calls and its failures counted by name."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, ParamSpec, TypeVar

from sse_broadcast.backends.base import (
    Backend,
    ChannelUsage,
    Far,
    HistoryUsage,
    IdempotencyKey,
    ReplayPage,
    StartPoint,
)
from sse_broadcast.channels import Selector
from sse_broadcast.cursor import Cursor
from sse_broadcast.errors import IdempotencyError
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.work_queue import SlicedWork

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", bound=Backend)


class InstrumentedBackend(Generic[B]):
    """A backend that passes calls to another one, and counts them.

    An exception of the inner backend is counted and raised again. An idempotency key that was used for
    something else is an answer, and no failure.
    """

    def __init__(self, kept: B, metrics: Metrics) -> None:
        self.inner = kept
        """The backend that is asked."""
        self._metrics = metrics

    @property
    def epoch(self) -> str:
        """The epoch of the history."""
        return self.inner.epoch

    @property
    def position(self) -> int:
        """The newest position."""
        return self.inner.position

    def count_after(self, position: int) -> int:
        """Return how many positions after this one were given to publications."""
        return self.inner.count_after(position)

    async def start(self) -> None:
        """Open the store."""
        await self.inner.start()

    async def aclose(self) -> None:
        """Close the store."""
        await self.inner.aclose()

    @property
    def outage(self) -> str | None:
        """Why the backend can neither take nor give now; None if it can."""
        return self.inner.outage

    @property
    def untidy(self) -> bool:
        """Whether the last `evict_expired` left something that could have been evicted."""
        return self.inner.untidy

    async def publish(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None = None, publisher: str = ""
    ) -> Receipt:
        """Append and announce, and return the last receipt."""
        self._metrics.called("publish")
        try:
            return await self.inner.publish(drafts, idempotency_key, publisher)
        except IdempotencyError:
            raise
        except Exception:
            self._metrics.failed("publish")
            raise

    def find(self, cursor: Cursor, selector: Selector) -> SlicedWork[StartPoint | Far[StartPoint]]:
        """Return where a subscriber with this cursor begins."""
        return self._count_steps("find", lambda: self.inner.find(cursor, selector))

    def replay(
        self, selector: Selector, *, after: int, evictions_seen: int, limit: int
    ) -> SlicedWork[ReplayPage | Far[ReplayPage]]:
        """Return a page of what came after a position."""
        return self._count_steps(
            "replay",
            lambda: self.inner.replay(selector, after=after, evictions_seen=evictions_seen, limit=limit),
        )

    def replayable(self, selector: Selector, *, after: int) -> bool:
        """Return whether nothing was lost after a position."""
        return self._call("replayable", self.inner.replayable, selector, after=after)

    def oldest(self, selector: Selector, *, after: int) -> float | None:
        """Return when the oldest publication held after a position was published."""
        return self._call("oldest", self.inner.oldest, selector, after=after)

    def evict_expired(self) -> bool:
        """Evict what is too old, and return whether anything is left that will be."""
        return self._call("tidy", self.inner.evict_expired)

    def reload_limits(self) -> None:
        """Apply limits that have changed."""
        self._call("relimit", self.inner.reload_limits)

    def channel_usage(self, channel: str) -> ChannelUsage:
        """Return what is held of a channel."""
        return self._call("holding", self.inner.channel_usage, channel)

    def channels(self) -> Iterator[Sequence[str]]:
        """Yield the channels of which something is held."""
        return self._call("channels", self.inner.channels)

    def usage(self) -> HistoryUsage:
        """Return how much is held."""
        return self._call("extent", self.inner.usage)

    async def remove(self, position: int) -> bool:
        """Remove one event from every channel."""
        return await self._await("remove", lambda: self.inner.remove(position))

    async def clear(self, channel: str) -> int:
        """Remove all events of a channel."""
        return await self._await("clear", lambda: self.inner.clear(channel))

    async def _await(self, name: str, ask: Callable[[], Awaitable[R]]) -> R:
        self._metrics.called(name)
        try:
            return await ask()
        except Exception:
            self._metrics.failed(name)
            raise

    def _count_steps(self, name: str, ask: Callable[[], SlicedWork[R]]) -> SlicedWork[R]:
        """Count a call whose work comes in pieces, once; whatever piece fails, it has failed."""
        self._metrics.called(name)
        try:
            return (yield from ask())
        except Exception:
            self._metrics.failed(name)
            raise

    def _call(self, name: str, ask: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._metrics.called(name)
        try:
            return ask(*args, **kwargs)
        except Exception:
            self._metrics.failed(name)
            raise
