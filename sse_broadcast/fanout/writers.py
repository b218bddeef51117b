"""March: readers that are in step, and the passes that bring all of them the same bytes."""

from collections.abc import Iterator
from itertools import islice
from operator import length_hint
from typing import Generic, Protocol, TypeVar

NOT_LISTED = -1
"""The rank of whoever does not march."""


class Writer(Protocol):
    """What bytes are given to."""

    def write(self, data: bytes, /) -> None:
        """Write, wait for nothing, and have nothing published. Raises when nobody is there any more."""


class Member(Protocol):
    """Who may march. Its rank is the march's to say: `APART` before it has joined, and after it has left."""

    index: int
    writer: Writer


class NullWriter:
    """Writes for whoever has left while a pass was on."""

    def write(self, data: bytes, /) -> None:
        """Do nothing."""


M = TypeVar("M", bound=Member)

NULL_WRITER = NullWriter()


class WriterList(Generic[M]):
    """Those in step, each at a rank: its index in a list of them, and in one of what writes for them.

    A pass goes over the second list alone, and sets nothing: what it has brought to whom is told by how
    far it has come. (To read and set a place of each as well, in an object of its own, was measured to cost
    a delivery one to four parts in a hundred.) To join and to leave costs the same however many there are.
    """

    __slots__ = ("_gaps", "_members", "_missed", "_passing", "_rest", "_writers")

    def __init__(self) -> None:
        self._members: list[M] = []
        self._writers: list[Writer] = []
        self._passing = False
        self._rest: Iterator[Writer] = iter(())  # what the pass has yet to come to
        self._missed = 0  # how many left before it came to them
        self._gaps: list[int] = []  # the ranks of all who left meanwhile

    def __len__(self) -> int:
        return len(self._members) - len(self._gaps)

    def __iter__(self) -> Iterator[M]:
        return (member for rank, member in enumerate(self._members) if member.index == rank)

    def join(self, member: M) -> None:
        """Have somebody march along. No pass is on: it would not be known what of it they had."""
        assert not self._passing
        member.index = len(self._members)
        self._members.append(member)
        self._writers.append(member.writer)

    def leave(self, member: M) -> None:
        """Have somebody march no more. A pass that is on comes to it no more, either."""
        rank, member.index = member.index, NOT_LISTED
        if not self._passing:
            self._close(rank)
            return
        if rank >= self.next_index:
            self._missed += 1
        self._writers[rank] = NULL_WRITER
        self._gaps.append(rank)

    def begin(self) -> None:
        """Begin a pass; none is on."""
        self._passing = True
        self._missed = 0
        self._rest = iter(self._writers)

    def take(self, most: int) -> Iterator[Writer]:
        """Give the next of the pass, at most so many. It has come to each as soon as it is given."""
        return islice(self._rest, most)

    @property
    def next_index(self) -> int:
        """The rank that the pass comes to next: it has come to all before that."""
        return len(self._writers) - length_hint(self._rest)

    @property
    def done(self) -> bool:
        """Whether the pass has come to everyone."""
        return not length_hint(self._rest)

    @property
    def last(self) -> M:
        """To whom the pass has come last, who may have left."""
        return self._members[self.next_index - 1]

    def end(self) -> int:
        """End the pass, which is done, and give to how many it came."""
        self._passing = False
        came = len(self._writers) - self._missed
        for rank in sorted(self._gaps, reverse=True):
            self._close(rank)
        self._gaps.clear()
        return came

    def _close(self, rank: int) -> None:
        """Have the last take the place at a rank that is free. What is behind it has been closed."""
        member, writer = self._members.pop(), self._writers.pop()
        if rank < len(self._members):
            member.index = rank
            self._members[rank], self._writers[rank] = member, writer
