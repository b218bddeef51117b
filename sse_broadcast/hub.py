"""Hub: who listens to which channel, on this node. No I/O."""

from collections.abc import Callable, Collection, Iterator, Sequence

from sse_broadcast.audience import Audience
from sse_broadcast.encoding import Encoding
from sse_broadcast.errors import FullError
from sse_broadcast.interest import Interest, matcher
from sse_broadcast.publication import Publication
from sse_broadcast.subscriber import Subscriber

MAX_ROUTES = 131_072
"""Channels whose patterns are remembered; one more, and all are looked up again."""


class Pattern:
    """A pattern that somebody asked for: who that is, and which channels were found to match."""

    __slots__ = ("audiences", "channels", "matches", "serial")

    def __init__(self, text: str, serial: int) -> None:
        self.serial = serial
        self.matches = matcher(text)
        self.audiences: dict[Audience, None] = {}
        self.channels: set[str] = set()


class Route:
    """The patterns that match one channel, among those up to `serial`."""

    __slots__ = ("patterns", "serial")

    def __init__(self) -> None:
        self.serial = 0
        self.patterns: dict[Pattern, None] = {}


class Hub:
    """Channels, patterns, their audiences, and everyone in them.

    A publish costs in proportion to the audiences of its channels, whatever else the hub holds. A
    pattern is matched against a channel once, when something is first published there. An audience
    exists while it has members, a channel or pattern while it has audiences; of both together
    there are `most`.
    """

    __slots__ = ("_audiences", "_channels", "_found", "_members", "_patterns", "_routes", "_serial", "most")

    def __init__(self, found: Callable[[Interest, Encoding], Audience], *, most: int) -> None:
        self._found = found
        self.most = most
        """Different channels and patterns that may be followed, if it is not more already."""
        self._members: dict[Subscriber, Audience] = {}
        self._audiences: dict[tuple[Interest, Encoding], Audience] = {}
        self._channels: dict[str, dict[Audience, None]] = {}
        # In the order of their serials.
        self._patterns: dict[str, Pattern] = {}
        self._serial = 0
        self._routes: dict[str, Route] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._members))

    @property
    def audiences(self) -> Collection[Audience]:
        """The audiences that there are."""
        return self._audiences.values()

    @property
    def channels(self) -> Collection[str]:
        """The channels that somebody asked for by name."""
        return self._channels.keys()

    def subscribers(self, channel: str) -> int:
        """Give how many subscribers a channel has, whatever types of event they want."""
        return sum(audience.members for audience in self._listening(channel))

    def require_room(self, interest: Interest) -> None:
        """Refuse an interest in more channels and patterns than there is room for. Raises `FullError`.

        In those that others follow already there is room for everyone.
        """
        room = self.most - len(self._channels) - len(self._patterns)
        if len(interest.names) + len(interest.patterns) <= room:
            return
        new = sum(name not in self._channels for name in interest.names)
        new += sum(text not in self._patterns for text in interest.patterns)
        if new > room:
            raise FullError(
                f"subscribed_channels: {self.most} different channels and patterns may be followed:"
                f" {self.most - room} are, {new} more are too many"
            )

    def join(self, subscriber: Subscriber, encoding: Encoding) -> Audience:
        """Add a subscriber to the audience of its interest, and give that.

        Raises `FullError` if there is no room for it; it is then in none.
        """
        audience = self._audiences.get((subscriber.interest, encoding))
        if audience is None:
            audience = self._open(subscriber.interest, encoding)
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

    def deliver(self, publications: Sequence[Publication]) -> int:
        """Give publications to every subscriber that wants them, and say how many that are.

        Each gets each once, and counts once, at the moment before the first of them.
        Synchronous, and never raises: the order of the calls is the order every subscriber sees.
        """
        reached: dict[Audience, int] = {}
        if not self._audiences:
            return 0
        for publication in publications:
            event_type = publication.event.type
            for audience in self._matching(publication.channels):
                if audience.interest.wants(event_type):
                    reached.setdefault(audience, audience.members)
                    audience.publish(publication)
        return sum(reached.values())

    # What comes back from here is a copy, or new: an audience whose last member overflows is closed
    # while it is told.

    def _matching(self, channels: Sequence[str]) -> Collection[Audience]:
        if len(channels) == 1:
            return self._listening(channels[0])
        found: dict[Audience, None] = {}
        for channel in channels:
            found.update(dict.fromkeys(self._listening(channel)))
        return found

    def _listening(self, channel: str) -> Collection[Audience]:
        exact = tuple(self._channels.get(channel, ()))
        if not self._patterns:
            return exact
        found = dict.fromkeys(exact)
        for pattern in self._route(channel).patterns:
            found.update(pattern.audiences)
        return found

    def _route(self, channel: str) -> Route:
        route = self._routes.get(channel)
        if route is None:
            if len(self._routes) >= MAX_ROUTES:
                self._forget_routes()
            route = self._routes[channel] = Route()
        if route.serial != self._serial:
            self._extend(route, channel)
        return route

    def _extend(self, route: Route, channel: str) -> None:
        """Look at the patterns that are newer than the route."""
        for pattern in reversed(self._patterns.values()):
            if pattern.serial <= route.serial:
                break
            if pattern.matches(channel):
                route.patterns[pattern] = None
                pattern.channels.add(channel)
        route.serial = self._serial

    def _forget_routes(self) -> None:
        self._routes.clear()
        for pattern in self._patterns.values():
            pattern.channels.clear()

    def _open(self, interest: Interest, encoding: Encoding) -> Audience:
        self.require_room(interest)
        audience = self._audiences[interest, encoding] = self._found(interest, encoding)
        for channel in interest.names:
            self._channels.setdefault(channel, {})[audience] = None
        for text in interest.patterns:
            self._pattern(text).audiences[audience] = None
        return audience

    def _pattern(self, text: str) -> Pattern:
        pattern = self._patterns.get(text)
        if pattern is None:
            self._serial += 1
            pattern = self._patterns[text] = Pattern(text, self._serial)
        return pattern

    def _close(self, audience: Audience) -> None:
        del self._audiences[audience.interest, audience.encoding]
        for channel in audience.interest.names:
            listening = self._channels[channel]
            del listening[audience]
            if not listening:
                del self._channels[channel]
        for text in audience.interest.patterns:
            pattern = self._patterns[text]
            del pattern.audiences[audience]
            if not pattern.audiences:
                self._close_pattern(text)

    def _close_pattern(self, text: str) -> None:
        pattern = self._patterns.pop(text)
        for channel in pattern.channels:
            del self._routes[channel].patterns[pattern]
        if not self._patterns:
            self._routes.clear()
