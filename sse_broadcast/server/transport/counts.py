"""Connection counts: how many are open, in all and by address, and why others were rejected."""

from enum import StrEnum

from sse_broadcast.metrics import Metrics


class RejectReason(StrEnum):
    """Why a connection was not let in, or did not get so far as to ask something."""

    FULL = "full"
    """There were as many connections as the server takes."""
    ADDRESS = "address"
    """There were as many from its address as may be."""
    HANDSHAKE = "handshake"
    """TLS was not agreed upon."""
    SILENT = "silent"
    """It had not asked anything when `head_timeout` was over."""
    MALFORMED = "malformed"
    """What it sent is no HTTP."""
    STALLED = "stalled"
    """It did not take its answer."""


class ConnectionCounts:
    """The connections of all listeners, counted from their accept to their end: those in a handshake too."""

    __slots__ = ("_of", "count", "limit", "metrics", "public")

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.count = 0
        self.public = 0
        """How many of them came in by public listeners."""
        self.limit = 0
        """How many are let in; 0 before anything is listened to."""
        self._of: dict[str, int] = {}

    def for_address(self, key: str) -> int:
        """Return how many are of an address, by the key that limits count it by."""
        return self._of.get(key, 0)

    def add(self, key: str | None, *, private: bool) -> None:
        """Count one in. None is an address that is not counted by itself."""
        self.count += 1
        self.public += not private
        if key is not None:
            self._of[key] = self._of.get(key, 0) + 1

    def remove(self, key: str | None, *, private: bool) -> None:
        """Count one out; an address of which none is left is forgotten."""
        self.count -= 1
        self.public -= not private
        if key is None:
            return
        left = self._of[key] - 1
        if left:
            self._of[key] = left
        else:
            del self._of[key]
