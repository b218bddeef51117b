"""PublisherShare: how much of the history one publisher has, in channels and in bytes."""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from sse_broadcast.backends.memory.largest import Holder, Largest


class OwnedLog(Holder, Protocol):
    """A channel log as its publisher's share sees it: a name, and a size to compare."""

    channel: str


L = TypeVar("L", bound=OwnedLog)


class PublisherChannels(Generic[L]):
    """The channels that one publisher opened, the least recently published first."""

    __slots__ = ("_peak", "class_below", "class_from", "empty", "logs", "share")

    def __init__(self, share: "PublisherShare[L]") -> None:
        self.share = share
        self.class_from = self.class_below = 0
        self._peak = 0  # the largest number of logs since the dict was made
        self.logs: OrderedDict[str, L] = OrderedDict()
        # Logs without events, the first emptied first. None for most publishers, which never have any.
        self.empty: OrderedDict[str, L] | None = None

    @property
    def held(self) -> int:
        """The number of channels, by which `Largest` compares publishers."""
        return len(self.logs)

    def next_to_forget(self) -> L:
        """Return the log to forget first: an empty one if there is any, else the least recently published."""
        return next(iter((self.empty or self.logs).values()))

    def add(self, log: L) -> None:
        """Add the log of a new channel."""
        self.logs[log.channel] = log
        self._peak = max(self._peak, len(self.logs))

    def remove(self, log: L) -> None:
        """Remove an empty log."""
        self.mark_filled(log)
        del self.logs[log.channel]
        if 4 * len(self.logs) < self._peak:
            # A dict keeps its size when items are deleted; only a copy is smaller.
            self.logs, self._peak = OrderedDict(self.logs), len(self.logs)

    def mark_empty(self, log: L) -> None:
        """Record that a log holds no event any more."""
        if self.empty is None:
            self.empty = OrderedDict()
        self.empty[log.channel] = log

    def mark_filled(self, log: L) -> None:
        """Record that a log is no longer empty."""
        if self.empty is not None and self.empty.pop(log.channel, None) is not None and not self.empty:
            self.empty = None


class PublisherShare(Generic[L]):
    """One publisher's share of the history: the channels that it opened, and the bytes of those.

    A publication in several channels counts in each by its part.
    """

    __slots__ = ("bytes", "channels", "class_below", "class_from", "largest_log", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes = 0
        self.class_from = self.class_below = 0
        self.channels: PublisherChannels[L] = PublisherChannels(self)
        self.largest_log: Largest[L] = Largest()

    @property
    def held(self) -> int:
        """The bytes of the share, by which `Largest` compares publishers."""
        return self.bytes

    def dispose(self) -> None:
        """Break the reference cycles, so that the memory is freed without the garbage collector."""
        self.largest_log.clear()
        del self.channels.share
