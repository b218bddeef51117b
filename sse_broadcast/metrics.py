"""What is counted, as verbs; what was counted, as one frozen value."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Everything counted since the broadcaster was made.

    `published` events, subscribers `opened` and `closed` (by reason), events `dropped` from
    full queues (by overflow policy), readers told of a loss by a `reset` (by reason), sockets
    `aborted` because they stayed full, and connections and requests `refused` (by reason).
    """

    published: int
    opened: int
    closed: Mapping[str, int]
    dropped: Mapping[str, int]
    resets: Mapping[str, int]
    aborted: int
    refused: Mapping[str, int]


class Metrics:
    """Counts what happens. Every verb is cheap enough for the path it stands on."""

    __slots__ = ("_aborted", "_closed", "_dropped", "_opened", "_published", "_refused", "_resets")

    def __init__(self) -> None:
        self._published = 0
        self._opened = 0
        self._aborted = 0
        self._closed: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._resets: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def published(self, count: int) -> None:
        """Count events that were given their places."""
        self._published += count

    def opened(self) -> None:
        """Count a subscriber that joined."""
        self._opened += 1

    def closed(self, reason: str) -> None:
        """Count a subscriber that left, or was made to."""
        self._closed[reason] += 1

    def dropped(self, policy: str) -> None:
        """Count an event that a full queue had no room for."""
        self._dropped[policy] += 1

    def reset(self, reason: str) -> None:
        """Count a reader that was told of a loss."""
        self._resets[reason] += 1

    def aborted(self) -> None:
        """Count a socket cut because it stayed full for `write_timeout`."""
        self._aborted += 1

    def refused(self, reason: str) -> None:
        """Count a connection that was not let in, or a request that was not taken."""
        self._refused[reason] += 1

    def counts(self) -> Counts:
        """Give the state of the counters now."""
        return Counts(
            self._published,
            self._opened,
            dict(self._closed),
            dict(self._dropped),
            dict(self._resets),
            self._aborted,
            dict(self._refused),
        )
