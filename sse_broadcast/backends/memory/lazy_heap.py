"""A heap whose outdated entries stay until they come first."""

import heapq
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

Entry = tuple[float, int, T]
"""By what things are ordered, a number that no other entry has, and the thing."""

ENTRIES_MOVED_PER_PUSH = 4
"""Entries that each push to a heap looks at, while those that count are sorted out."""


class LazyHeap(Generic[T]):
    """A heap in which what counts no longer stays until it comes first, or there is too much of it.

    Then each push moves a few of those that count to a heap of their own: to look at all of them at once
    would take some 100 ms where there are 100,000.
    """

    __slots__ = ("_counts", "_left", "_moved")

    def __init__(self, counts: Callable[[Entry[T]], bool]) -> None:
        self._counts = counts
        self._moved: list[Entry[T]] = []
        self._left: list[Entry[T]] = []  # what is yet to be moved

    def __len__(self) -> int:
        return len(self._moved) + len(self._left)

    def __iter__(self) -> Iterator[Entry[T]]:
        yield from self._moved
        yield from self._left

    @property
    def first(self) -> Entry[T] | None:
        """The first entry, which may not count."""
        if not self._left:  # as a rule
            return self._moved[0] if self._moved else None
        return self._foremost()[0]

    def pop(self) -> Entry[T]:
        """Remove and return the first entry."""
        return heapq.heappop(self._foremost())

    def push(self, entry: Entry[T], *, most: int) -> None:
        """Take an entry. Where there are more than `most`, those that count are sorted out by and by."""
        heapq.heappush(self._moved, entry)
        if self._left:
            self._move()
        elif len(self._moved) > most:
            self._left, self._moved = self._moved, []

    def clear(self) -> None:
        """Forget everything."""
        self._moved, self._left = [], []

    def _foremost(self) -> list[Entry[T]]:
        left, moved = self._left, self._moved
        return left if left and (not moved or left[0] < moved[0]) else moved

    def _move(self) -> None:
        # What a heap ends with may be taken from it, and leaves a heap.
        for _ in range(min(ENTRIES_MOVED_PER_PUSH, len(self._left))):
            entry = self._left.pop()
            if self._counts(entry):
                heapq.heappush(self._moved, entry)
