"""Conflation: a queue in which the newest event of a channel and key replaces those before it."""

from collections import OrderedDict

from sse_broadcast.channels import Selector
from sse_broadcast.publication import Publication

ITEM = 160
"""Bytes that a publication takes in a queue, beside itself; measured by benchmarks/memory.py."""

NAME = 128
"""Bytes that each of its subscriber's channels takes then, if it has a key."""


class Conflated:
    """Publications in order, of which some are replaced by later ones. Every step takes constant time.

    One in several of the subscriber's channels goes once it is replaced in each of them. One without a
    key replaces nothing, and nothing replaces it.
    """

    __slots__ = ("_claims", "_items", "_newest", "_selector")

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._items: OrderedDict[int, Publication] = OrderedDict()
        self._newest: dict[tuple[str, str], int] = {}
        # In how many of its channels a publication is the newest of its key.
        self._claims: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """The bytes that the queue itself takes, beside its publications."""
        return ITEM * len(self._items) + NAME * len(self._newest)

    def replace(self, publication: Publication) -> int:
        """Let go of what this publication replaces, and give how many bytes that was."""
        freed = 0
        for name in self._names(publication):
            old = self._newest.pop(name, None)
            if old is not None:
                freed += self._release(old)
        return freed

    def append(self, publication: Publication) -> None:
        """Take the next publication, which has replaced what it replaces."""
        self._items[publication.position] = publication
        for name in self._names(publication):
            self._newest[name] = publication.position
            self._claims[publication.position] = self._claims.get(publication.position, 0) + 1

    def first(self) -> Publication:
        """Return the oldest, and leave it."""
        return next(iter(self._items.values()))

    def popleft(self) -> Publication:
        """Remove and give the oldest."""
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
