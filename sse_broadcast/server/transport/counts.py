"""Connection counts: open connections, in total and by address, and the reasons for rejections."""

from enum import StrEnum

from sse_broadcast.metrics import Metrics


class RejectReason(StrEnum):
    """Why a connection was rejected, or ended before its first request."""

    FULL = "full"
    """The connection limit was reached."""
    ADDRESS = "address"
    """The connection limit of its address was reached."""
    HANDSHAKE = "handshake"
    """The TLS handshake failed."""
    SILENT = "silent"
    """The client sent no complete request within `head_timeout`."""
    MALFORMED = "malformed"
    """The client sent something that is not HTTP."""
    STALLED = "stalled"
    """The client did not read its answer."""


class ConnectionCounts:
    """The open connections of all listeners, counted from accept to end, including TLS handshakes."""

    __slots__ = ("_of", "count", "limit", "metrics", "public")

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.count = 0
        self.public = 0
        """Connections of public listeners among them."""
        self.limit = 0
        """The connection limit; 0 before the first listener accepts."""
        self._of: dict[str, int] = {}

    def for_address(self, key: str) -> int:
        """Return the open connections of an address, by the key that limits use for it."""
        return self._of.get(key, 0)

    def add(self, key: str | None, *, private: bool) -> None:
        """Count a connection that opened. None as the key stands for an address without a count."""
        self.count += 1
        self.public += not private
        if key is not None:
            self._of[key] = self._of.get(key, 0) + 1

    def remove(self, key: str | None, *, private: bool) -> None:
        """Count a connection that ended."""
        self.count -= 1
        self.public -= not private
        if key is None:
            return
        left = self._of[key] - 1
        if left:
            self._of[key] = left
        else:  # without this the map would grow with every address ever seen
            del self._of[key]
