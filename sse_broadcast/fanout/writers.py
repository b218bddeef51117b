"""Writer list: the writers that get the same bytes, and the passes over them."""

from collections.abc import Iterator
from itertools import islice
from operator import length_hint
from typing import Generic, Protocol, TypeVar

NOT_LISTED = -1
"""The index of a member that is not in a list."""


class Writer(Protocol):
    """Writes bytes: a transport or a sink."""

    def write(self, data: bytes, /) -> None:
        """Write without waiting, and publish nothing meanwhile. May raise if the connection is gone."""


class Member(Protocol):
    """A member of a `WriterList`. The list sets the index; it is `NOT_LISTED` before and after."""

    index: int
    writer: Writer


class NullWriter:
    """Replaces a writer that leaves during a pass."""

    def write(self, data: bytes, /) -> None:
        """Do nothing."""


M = TypeVar("M", bound=Member)

NULL_WRITER = NullWriter()


class WriterList(Generic[M]):
    """Members at an index in two lists: one of the members, one of their writers.

    A pass iterates the writer list only and stores nothing per member. `next_index` tells which members it
    has reached. Joining and leaving take constant time.
    """

    __slots__ = ("_gaps", "_missed", "_passing", "_rest", "_writers", "members")

    def __init__(self) -> None:
        self.members: list[M] = []
        """The members, and during a pass those that have left since it began."""
        self._writers: list[Writer] = []
        self._passing = False
        self._rest: Iterator[Writer] = iter(())  # what is left of the pass
        self._missed = 0  # members that left before the pass reached them
        self._gaps: list[int] = []  # the indexes of all that left during the pass

    def __len__(self) -> int:
        return len(self.members) - len(self._gaps)

    def __iter__(self) -> Iterator[M]:
        return (member for index, member in enumerate(self.members) if member.index == index)

    def join(self, member: M) -> None:
        """Add a member. Not during a pass: its index would not tell whether the pass has reached it."""
        assert not self._passing
        member.index = len(self.members)
        self.members.append(member)
        self._writers.append(member.writer)

    def leave(self, member: M) -> None:
        """Remove a member. A running pass does not reach it any more."""
        index, member.index = member.index, NOT_LISTED
        if not self._passing:
            self._fill(index)
            return
        if index >= self.next_index:
            self._missed += 1
        self._writers[index] = NULL_WRITER
        self._gaps.append(index)

    def begin(self) -> None:
        """Begin a pass. No other may be running."""
        self._passing = True
        self._missed = 0
        self._rest = iter(self._writers)

    def take(self, limit: int) -> Iterator[Writer]:
        """Return an iterator over the next writers of the pass. A yielded writer counts as reached."""
        return islice(self._rest, limit)

    @property
    def next_index(self) -> int:
        """The index that the pass reaches next."""
        return len(self._writers) - length_hint(self._rest)

    @property
    def done(self) -> bool:
        """Whether the pass has reached every member."""
        return not length_hint(self._rest)

    @property
    def last(self) -> M:
        """The last member that the pass has reached. It may have left."""
        return self.members[self.next_index - 1]

    def end(self) -> int:
        """End a pass that is done, and return the number of members it reached."""
        self._passing = False
        reached = len(self._writers) - self._missed
        for index in sorted(self._gaps, reverse=True):
            self._fill(index)
        self._gaps.clear()
        return reached

    def _fill(self, index: int) -> None:
        """Move the last member to a free index. All greater free indexes must be filled already."""
        member, writer = self.members.pop(), self._writers.pop()
        if index < len(self.members):
            member.index = index
            self.members[index], self._writers[index] = member, writer
