"""Sequence check: which events of each publisher a subscriber has got, got twice, or got out of order."""

from collections.abc import Collection
from enum import Enum


class Arrival(Enum):
    """How an event stands to those before it."""

    IN_ORDER = 0
    AFTER_GAP = 1
    LATE = 2
    REPEAT = 3


class SequenceCheck:
    """The events of one subscriber, by publisher. Each publisher numbers its events from 1."""

    __slots__ = ("_last", "_missing")

    def __init__(self, publishers: int) -> None:
        self._last = [0] * publishers
        self._missing: dict[int, set[int]] = {}

    def take(self, publisher: int, sequence: int) -> Arrival:
        """Note that an event has arrived."""
        last = self._last[publisher]
        if sequence == last + 1:
            self._last[publisher] = sequence
            return Arrival.IN_ORDER
        if sequence > last:
            self._last[publisher] = sequence
            self._missing.setdefault(publisher, set()).update(range(last + 1, sequence))
            return Arrival.AFTER_GAP
        missing = self._missing.get(publisher, set())
        if sequence in missing:
            missing.discard(sequence)
            return Arrival.LATE
        return Arrival.REPEAT

    def lost(self, publisher: int, *, sent: int, not_published: Collection[int] = ()) -> int:
        """Return how many of the events 1 to `sent` have not arrived, without those the server refused."""
        last = self._last[publisher]
        missing = self._missing.get(publisher, set())
        refused = sum(1 for number in not_published if number in missing or last < number <= sent)
        return len(missing) + max(sent - last, 0) - refused
