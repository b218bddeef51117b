"""Hub: who listens to which channel, on this node. No I/O."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeAlias

from sse_broadcast.audience import Audience
from sse_broadcast.publication import Encoding, Publication
from sse_broadcast.subscriber import Subscriber

Interest: TypeAlias = tuple[tuple[str, ...], Encoding]
"""What makes an audience: its channels, and the encoding it takes them in."""


class Hub:
    """Channels, their audiences, and everyone in them.

    A publish costs in proportion to the audiences of its channels, whatever else the hub holds.
    An audience exists while it has members, a channel while it has audiences.
    """

    __slots__ = ("_audiences", "_channels", "_found", "_members")

    def __init__(self, found: Callable[[tuple[str, ...], Encoding], Audience]) -> None:
        self._found = found
        self._members: dict[Subscriber, Audience] = {}
        self._audiences: dict[Interest, Audience] = {}
        self._channels: dict[str, dict[Audience, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._members))

    @property
    def audiences(self) -> Collection[Audience]:
        """The audiences that there are."""
        return self._audiences.values()

    def join(self, subscriber: Subscriber, encoding: Encoding) -> Audience:
        """Add a subscriber to the audience of its channels, and give that."""
        audience = self._audiences.get((subscriber.channels, encoding))
        if audience is None:
            audience = self._open(subscriber.channels, encoding)
        audience.members += 1
        self._members[subscriber] = audience
        return audience

    def leave(self, subscriber: Subscriber) -> None:
        """Take a subscriber out of its audience; nothing happens if it is in none."""
        audience = self._members.pop(subscriber, None)
        if audience is None:
            return
        audience.queued.pop(subscriber, None)
        audience.members -= 1
        if not audience.members:
            self._close(audience)

    def deliver(self, publication: Publication) -> int:
        """Give a publication to every subscriber of its channels, once, and say how many they are.

        Synchronous, and never raises: the order of the calls is the order every subscriber sees.
        """
        count = 0
        for audience in self._matching(publication.channels):
            count += audience.members
            audience.publish(publication)
        return count

    def _matching(self, channels: Sequence[str]) -> Collection[Audience]:
        if len(channels) == 1:
            # A copy, as below: an audience whose last member overflows is closed while it is told.
            return tuple(self._channels.get(channels[0], ()))
        found: dict[Audience, None] = {}
        for channel in channels:
            found.update(self._channels.get(channel, {}))
        return found

    def _open(self, channels: tuple[str, ...], encoding: Encoding) -> Audience:
        audience = self._audiences[channels, encoding] = self._found(channels, encoding)
        for channel in channels:
            self._channels.setdefault(channel, {})[audience] = None
        return audience

    def _close(self, audience: Audience) -> None:
        del self._audiences[audience.channels, audience.encoding]
        for channel in audience.channels:
            listening = self._channels[channel]
            del listening[audience]
            if not listening:
                del self._channels[channel]
