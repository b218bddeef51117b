"""Find which of many holders holds about the most.

Holders are kept in classes of about the same size, so that each change moves one holder at most. A heap was
tried before: what had changed in it since was sorted out at the next question, all at once, and a publish
into 100 new channels of a full history took 13 ms instead of 2.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from sse_broadcast.metrics import Share

ReportShare = Callable[[Share, str], None]
"""Called with what is shared, and the publisher that has reached its share of it."""

SIZE_CLASS_BITS = 4
"""Bits of a size that tell its class: those of a class differ by 1/16 at most, and small ones not at all."""


class Holder(Protocol):
    """Who holds something. Both bounds are 0 while it is in no class."""

    class_from: int
    """The least that holders of its class hold."""

    class_below: int
    """What holders of its class hold less than."""

    @property
    def held(self) -> int:
        """The number of bytes or of channels that it holds."""


H = TypeVar("H", bound=Holder)


class Largest(Generic[H]):
    """Finds a holder of about the most. Each step takes constant time, however many holders there are.

    A holder that holds more or less than before must be passed to `update` before the next `find`, at least
    if what it holds is not from `class_from` to below `class_below` any more.
    """

    __slots__ = ("_classes", "_top")

    def __init__(self) -> None:
        # By the least size of each. In a class the holder that came to it first is the first.
        self._classes: dict[int, OrderedDict[H, None]] = {}
        self._top = 0  # the least size of the class of the largest

    def __len__(self) -> int:
        return sum(map(len, self._classes.values()))

    def update(self, holder: H) -> None:
        """Put a holder into the class of what it holds now, or into none if it holds nothing."""
        held = holder.held
        if holder.class_from <= held < holder.class_below:
            return
        if holder.class_from:
            self._leave(holder)
        if held:
            self._join(holder, held)

    def find(self) -> H | None:
        """Return a holder of about the most, the first in its class; None if nobody holds anything."""
        return next(iter(self._classes[self._top])) if self._top else None

    def clear(self) -> None:
        """Forget all of them."""
        self._classes.clear()
        self._top = 0

    def _join(self, holder: H, held: int) -> None:
        step = 1 << max(held.bit_length() - SIZE_CLASS_BITS - 1, 0)
        least = held - held % step
        members = self._classes.get(least)
        if members is None:
            members = self._classes[least] = OrderedDict()
            self._top = max(self._top, least)
        members[holder] = None
        holder.class_from, holder.class_below = least, least + step

    def _leave(self, holder: H) -> None:
        least = holder.class_from
        members = self._classes[least]
        del members[holder]
        if not members:
            # There are some 500 classes at most, and far fewer that somebody is in.
            del self._classes[least]
            if least == self._top:
                self._top = max(self._classes, default=0)
        holder.class_from = holder.class_below = 0
