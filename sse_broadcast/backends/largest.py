"""Largest: of all who hold something together, who holds the most."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from sse_broadcast.backends.lazy_heap import Entry, LazyHeap
from sse_broadcast.metrics import Share

ReportShare = Callable[[Share, str], None]
"""Called with what is shared, and the publisher that has reached its share of it."""


class Holder(Protocol):
    """Who holds something."""

    ranked: int
    """What it is taken to hold at most, or 0 if it is not among those that are compared."""

    @property
    def held(self) -> int:
        """What it holds."""


H = TypeVar("H", bound=Holder)


class Largest(Generic[H]):
    """Finds the holder of the most. Each change takes constant time on average, however many there are.

    What is said of a holder in the heap is never less than what it holds.
    """

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap = LazyHeap[H](_is_ranked)
        self._serial = 0

    def __len__(self) -> int:
        """Entries, those that count no longer included."""
        return len(self._heap)

    def grown(self, holder: H, *, among: int) -> None:
        """Rank a holder anew if it holds more than before. `among` is the number of holders."""
        if holder.held > holder.ranked:
            # Twice as much, so that one that grows is ranked anew only each time it doubles.
            self._rank(holder, holder.held * 2, among)

    def leave(self, holder: H) -> None:
        """Compare a holder no longer."""
        holder.ranked = 0

    def find(self, *, among: int) -> H | None:
        """Return whoever of so many holds the most now; None if nobody holds anything."""
        heap = self._heap
        while first := heap.first:
            said, _, holder = first
            if -said == holder.ranked == holder.held:
                return holder
            heap.pop()
            if -said == holder.ranked:
                holder.ranked = 0
                if holder.held:
                    self._rank(holder, holder.held, among)
        return None

    def clear(self) -> None:
        """Forget all of them."""
        self._heap.clear()

    def _rank(self, holder: H, held: int, among: int) -> None:
        holder.ranked = held
        self._serial += 1
        self._heap.push((-held, self._serial, holder), most=5 * among // 4 + 64)


def _is_ranked(entry: Entry[H]) -> bool:
    # Not what was ranked anew, or has left, since.
    return -entry[0] == entry[2].ranked
