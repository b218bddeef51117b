"""Conflation: a queue in which the newest event of a channel and key replaces older ones."""

from collections import OrderedDict

from sse_broadcast.channels import Selector
from sse_broadcast.publication import Publication

ITEM = 160
"""Bytes of a publication's entry in a queue, measured by benchmarks/memory.py."""

NAME = 128
"""Bytes of an entry per channel and key."""


class Conflated:
    """A queue of publications in order, in which newer ones replace older ones. All steps take constant time.

    A publication in several of the subscriber's channels is removed once it is replaced in each of them.
    Publications without a key replace nothing and are never replaced.
    """

    __slots__ = ("_claims", "_items", "_newest", "_selector")

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._items: OrderedDict[int, Publication] = OrderedDict()
        self._newest: dict[tuple[str, str], int] = {}
        # For each publication, the number of channels in which it is the newest of its key.
        self._claims: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """The bytes of the queue itself, without its publications."""
        return ITEM * len(self._items) + NAME * len(self._newest)

    def replace(self, publication: Publication) -> int:
        """Remove the publications that this one replaces, and return their bytes."""
        freed = 0
        for name in self._names(publication):
            old = self._newest.pop(name, None)
            if old is not None:
                freed += self._release(old)
        return freed

    def append(self, publication: Publication) -> None:
        """Append a publication, after `replace` was called with it."""
        self._items[publication.position] = publication
        for name in self._names(publication):
            self._newest[name] = publication.position
            self._claims[publication.position] = self._claims.get(publication.position, 0) + 1

    def first(self) -> Publication:
        """Return the oldest publication without removing it."""
        return next(iter(self._items.values()))

    def popleft(self) -> Publication:
        """Remove and return the oldest publication."""
        position, publication = self._items.popitem(last=False)
        self._claims.pop(position, None)
        for name in self._names(publication):
            if self._newest.get(name) == position:
                del self._newest[name]
        return publication

    def _release(self, position: int) -> int:
        self._claims[position] -= 1
        if self._claims[position]:
            return 0
        del self._claims[position]
        return self._items.pop(position).size

    def _names(self, publication: Publication) -> list[tuple[str, str]]:
        key = publication.event.key
        if key is None:
            return []
        return [(channel, key) for channel in publication.channels if self._selector.matches(channel)]
