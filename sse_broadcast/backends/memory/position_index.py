"""PositionIndex: all publications that any channel holds, in the one global order."""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter

from sse_broadcast.publication import Publication

PAGE_SCAN_LIMIT = 2048
"""Publications that are examined for one page, at most."""

CHUNK_SIZE = 1024
"""Publications in a chunk, at most. A larger batch stays in one chunk."""

SPARE_HOLES = 64
"""A chunk is compacted once it has this many more holes than publications."""

_position = attrgetter("position")


class Chunk:
    """Consecutive publications and their positions. A removed one leaves None at its position: a hole."""

    __slots__ = ("live", "positions", "publications")

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.publications: list[Publication | None] = []
        self.live = 0

    def compact(self) -> None:
        """Remove the holes."""
        self.publications = list(filter(None, self.publications))
        self.positions = list(map(_position, self.publications))

    def merge(self, following: "Chunk") -> None:
        """Append the content of the following chunk."""
        self.positions += following.positions
        self.publications += following.publications
        self.live += following.live


class PositionIndex:
    """All publications that any channel holds, by position.

    They are stored in chunks, so that no operation takes longer the more publications there are.
    """

    __slots__ = ("_chunks", "_firsts", "_live")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._firsts: list[
            int
        ] = []  # for each chunk a position: at most its first, above the last of the chunk before
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def extend(self, run: Sequence[Publication]) -> None:
        """Append publications that follow all others."""
        self._live += len(run)
        chunks = self._chunks
        if not chunks or len(chunks[-1].positions) + len(run) > CHUNK_SIZE:
            self._firsts.append(run[0].position)
            chunks.append(Chunk())
        chunk = chunks[-1]
        chunk.positions += map(_position, run)
        chunk.publications += run
        chunk.live += len(run)

    def remove(self, removed: Sequence[Publication]) -> None:
        """Remove publications, given in order."""
        self._live -= len(removed)
        firsts = self._firsts
        index = done = 0
        while done < len(removed):
            index = bisect_right(firsts, removed[done].position, lo=index) - 1
            upto = firsts[index + 1] if index + 1 < len(firsts) else sys.maxsize
            chunk = self._chunks[index]
            positions, publications, before = chunk.positions, chunk.publications, done
            while done < len(removed) and (position := removed[done].position) < upto:
                publications[bisect_left(positions, position)] = None
                done += 1
            chunk.live -= done - before
            index = self._compact(index)

    def after(self, position: int) -> Iterator[tuple[int, Publication | None]]:
        """Yield the positions after this one, each with its publication, or None for a hole."""
        first = max(0, bisect_right(self._firsts, position) - 1)
        for number in range(first, len(self._chunks)):
            chunk = self._chunks[number]
            positions, publications = chunk.positions, chunk.publications
            begin = bisect_right(positions, position) if number == first else 0
            for index in range(begin, len(positions)):
                yield positions[index], publications[index]

    def time_after(self, position: int) -> float | None:
        """Return the time of the first publication after a position, or None if only holes are near."""
        near = islice(self.after(position), PAGE_SCAN_LIMIT)
        return next((publication.time for _, publication in near if publication is not None), None)

    def _compact(self, index: int) -> int:
        """Compact a chunk that is mostly holes. Return the index from which to search for later positions."""
        chunk = self._chunks[index]
        if not chunk.live:
            del self._chunks[index], self._firsts[index]
            return max(0, index - 1)
        if len(chunk.positions) > 2 * chunk.live + SPARE_HOLES:
            chunk.compact()
            self._merge_with_next(index)
            if index and self._merge_with_next(index - 1):
                return index - 1
        return index

    def _merge_with_next(self, index: int) -> bool:
        """Merge a chunk with the next if together they are small, and return whether they were."""
        pair = self._chunks[index : index + 2]
        if len(pair) < 2 or pair[0].live + pair[1].live > CHUNK_SIZE // 2:
            return False
        pair[0].merge(pair[1])
        del self._chunks[index + 1], self._firsts[index + 1]
        return True
