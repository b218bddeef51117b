"""Hub: who listens to which channel, on this node. No I/O."""

from collections.abc import Iterator, Sequence

from sse_broadcast.publication import Publication
from sse_broadcast.subscriber import Subscriber


class Hub:
    """Channels and their subscribers, in the order in which they joined.

    A publish costs in proportion to the subscribers of its channels, whatever else the hub
    holds. A channel exists while it has subscribers.
    """

    __slots__ = ("_channels", "_members")

    def __init__(self) -> None:
        self._members: set[Subscriber] = set()
        # Dictionaries are the ordered sets that let a subscriber leave in constant time.
        self._channels: dict[str, dict[Subscriber, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._members))

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber to its channels: it is offered everything published from now on."""
        self._members.add(subscriber)
        for channel in subscriber.channels:
            self._channels.setdefault(channel, {})[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        """Take a subscriber out of its channels; nothing happens if it is in none."""
        if subscriber not in self._members:
            return
        self._members.remove(subscriber)
        for channel in subscriber.channels:
            listeners = self._channels[channel]
            del listeners[subscriber]
            if not listeners:
                del self._channels[channel]

    def deliver(self, publication: Publication) -> int:
        """Offer a publication to every subscriber of its channels, once, and give how many there are.

        Synchronous, and never raises: the order of the calls is the order every subscriber sees.
        """
        # A copy, since a subscriber whose queue overflows leaves while this loop runs.
        subscribers = self._matching(publication.channels)
        for subscriber in subscribers:
            subscriber.offer(publication)
        return len(subscribers)

    def _matching(self, channels: Sequence[str]) -> list[Subscriber]:
        if len(channels) == 1:
            return list(self._channels.get(channels[0], ()))
        found: dict[Subscriber, None] = {}
        for channel in channels:
            found.update(self._channels.get(channel, {}))
        return list(found)
