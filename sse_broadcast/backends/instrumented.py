"""Counted: any backend, its calls counted by name, and those that failed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, ParamSpec, TypeVar

from sse_broadcast.backends.base import Backend, Extent, Holding, Replay, Start, Token
from sse_broadcast.channels import Interest
from sse_broadcast.cursor import Cursor
from sse_broadcast.errors import IdempotencyError
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.work_queue import Steps

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", bound=Backend)


class Counted(Generic[B]):
    """A backend that counts what another one is asked. See `Backend`.

    What that one raises is counted and raised again. An idempotency key that was used for something else
    is an answer, and no failure.
    """

    def __init__(self, kept: B, metrics: Metrics) -> None:
        self.kept = kept
        """The backend that is asked."""
        self._metrics = metrics

    @property
    def epoch(self) -> str:
        """See `Backend`."""
        return self.kept.epoch

    @property
    def position(self) -> int:
        """See `Backend`."""
        return self.kept.position

    @property
    def trouble(self) -> str | None:
        """See `Backend`."""
        return self.kept.trouble

    @property
    def untidy(self) -> bool:
        """See `Backend`."""
        return self.kept.untidy

    async def publish(
        self, drafts: Sequence[Draft], token: Token | None = None, publisher: str = ""
    ) -> Receipt:
        """See `Backend`."""
        self._metrics.called("publish")
        try:
            return await self.kept.publish(drafts, token, publisher)
        except IdempotencyError:
            raise
        except Exception:
            self._metrics.failed("publish")
            raise

    def find(self, cursor: Cursor, interest: Interest) -> Steps[Start]:
        """See `Backend`."""
        return self._count_steps("find", lambda: self.kept.find(cursor, interest))

    def replay(self, interest: Interest, *, after: int, told: int, limit: int) -> Steps[Replay]:
        """See `Backend`."""
        return self._count_steps(
            "replay", lambda: self.kept.replay(interest, after=after, told=told, limit=limit)
        )

    def replayable(self, interest: Interest, *, after: int) -> bool:
        """See `Backend`."""
        return self._call("replayable", self.kept.replayable, interest, after=after)

    def oldest(self, interest: Interest, *, after: int) -> float | None:
        """See `Backend`."""
        return self._call("oldest", self.kept.oldest, interest, after=after)

    def tidy(self) -> bool:
        """See `Backend`."""
        return self._call("tidy", self.kept.tidy)

    def relimit(self) -> None:
        """See `Backend`."""
        self._call("relimit", self.kept.relimit)

    def holding(self, channel: str) -> Holding:
        """See `Backend`."""
        return self._call("holding", self.kept.holding, channel)

    def channels(self) -> Iterator[Sequence[str]]:
        """See `Backend`."""
        return self._call("channels", self.kept.channels)

    def extent(self) -> Extent:
        """See `Backend`."""
        return self._call("extent", self.kept.extent)

    def _count_steps(self, name: str, ask: Callable[[], Steps[R]]) -> Steps[R]:
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
