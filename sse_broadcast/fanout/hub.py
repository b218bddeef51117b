"""Hub: who subscribes to which channel, on this node. No I/O."""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence

from sse_broadcast.channels import Selector
from sse_broadcast.encoding import Encoding
from sse_broadcast.errors import FullError
from sse_broadcast.fanout.outbox import OutboxGroup
from sse_broadcast.fanout.pattern_index import IndexedPattern, PatternIndex
from sse_broadcast.fanout.subscriber import Subscriber
from sse_broadcast.publication import Publication

MAX_ROUTE_BYTES = 32 * 1024 * 1024
"""Maximum bytes of the cache of routes. The oldest routes go first."""

ROUTE = 480
"""Bytes of a route with the longest name and its dict entry, measured with tracemalloc."""

LINK = 9
"""Bytes of a route per matching pattern: eight, and the spare room of an array."""

NEWER = 32
"""Maximum number of patterns newer than a route to match one by one. Beyond it the index is used."""

SHED = 32
"""Routes dropped with the last pattern, and then with each publish: dropping all at once takes too long."""


class Route:
    """The serials of the patterns that match one channel, among those up to `serial`."""

    # Serials, not patterns: a route must not keep a pattern alive after its last subscriber.
    __slots__ = ("serial", "serials")

    def __init__(self) -> None:
        self.serial = 0
        self.serials = array("Q")


class Hub:
    """Channels, patterns, their groups, and the subscribers in these.

    A publish costs in proportion to the groups of its channels, whatever else the hub holds. Patterns are
    matched against a channel once, when something is first published there, and again when that was
    forgotten: what is remembered is limited, however many channels and patterns there are. A group exists
    while it has members, a channel or pattern while it has groups. There are at most `most` channels and
    patterns together.
    """

    __slots__ = (
        "_by_serial",
        "_channels",
        "_found",
        "_groups",
        "_index",
        "_members",
        "_patterns",
        "_route_bytes",
        "_routes",
        "_serial",
        "most",
    )

    def __init__(self, found: Callable[[Selector, Encoding], OutboxGroup], *, most: int) -> None:
        self._found = found
        self.most = most
        """Maximum different channels and patterns. A reload may set it below the present number."""
        self._members: dict[Subscriber, OutboxGroup] = {}
        self._groups: dict[tuple[Selector, Encoding], OutboxGroup] = {}
        self._channels: dict[str, dict[OutboxGroup, None]] = {}
        self._patterns: dict[str, IndexedPattern] = {}
        self._by_serial: dict[int, IndexedPattern] = {}
        self._index = PatternIndex()
        self._serial = 0
        # The oldest first.
        self._routes: OrderedDict[str, Route] = OrderedDict()
        self._route_bytes = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._members))

    @property
    def groups(self) -> Collection[OutboxGroup]:
        """All groups."""
        return self._groups.values()

    @property
    def channels(self) -> Collection[str]:
        """The channels that have subscribers by name."""
        return self._channels.keys()

    def subscribers(self, channel: str) -> int:
        """Return the number of subscribers of a channel, whatever event types they want."""
        return sum(group.members for group in self._listening(channel))

    def require_room(self, selector: Selector) -> None:
        """Raise `FullError` for a selector with more new channels and patterns than there is room for.

        Channels and patterns that already have subscribers need no room.
        """
        if selector.patterns:
            self._require_few_alike(selector.patterns)
        room = self.most - len(self._channels) - len(self._patterns)
        if len(selector.names) + len(selector.patterns) <= room:
            return
        new, left = self.room_for(selector)
        if new and left < 0:
            raise FullError(
                f"subscribed_channels: the limit is {self.most} different channels and patterns:"
                f" {self.most - room} are in use, so {new} more are too many"
            )

    def _require_few_alike(self, patterns: Sequence[str]) -> None:
        if not self._index.has_room(text for text in patterns if text not in self._patterns):
            raise FullError(
                "subscribed_channels: too many patterns consist of the same texts; use a pattern with text of"
                " its own, or names of channels"
            )

    def room_for(self, selector: Selector) -> tuple[int, int]:
        """Return how many of a selector's channels and patterns are new, and the room left with them.

        The room is negative if the selector does not fit.
        """
        new = sum(name not in self._channels for name in selector.names)
        new += sum(text not in self._patterns for text in selector.patterns)
        return new, self.most - len(self._channels) - len(self._patterns) - new

    def join(self, subscriber: Subscriber, encoding: Encoding, *, exempt: bool = False) -> OutboxGroup:
        """Add a subscriber to the group of its selector and encoding, and return the group.

        Raises `FullError` if there is no room, unless the subscriber is `exempt`.
        """
        group = self._groups.get((subscriber.selector, encoding))
        if group is None:
            if not exempt:
                self.require_room(subscriber.selector)
            group = self._open(subscriber.selector, encoding)
        group.members += 1
        self._members[subscriber] = group
        return group

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from its group, if it is in one."""
        group = self._members.pop(subscriber, None)
        if group is None:
            return
        group.queued.pop(subscriber, None)
        group.members -= 1
        if not group.members:
            self._close(group)

    def deliver(self, publications: Sequence[Publication]) -> int:
        """Append publications to every matching group, and return the number of subscribers reached.

        Each subscriber counts once, as a member at the start. Synchronous and never raises: the order of the
        calls is the order that every subscriber sees.
        """
        reached: dict[OutboxGroup, int] = {}
        if not self._groups:
            return 0
        for publication in publications:
            event_type = publication.event.type
            channels = publication.channels
            found = self._listening(channels[0]) if len(channels) == 1 else self._matching(channels)
            for group in found:
                selector = group.selector
                if selector.types is None or selector.accepts_type(event_type):
                    reached.setdefault(group, group.members)
                    group.append(publication)
        return sum(reached.values())

    # These return copies: a group whose last member overflows is closed while the caller iterates.

    def _matching(self, channels: Sequence[str]) -> Collection[OutboxGroup]:
        found: dict[OutboxGroup, None] = {}
        for channel in channels:
            found.update(dict.fromkeys(self._listening(channel)))
        return found

    def _listening(self, channel: str) -> Collection[OutboxGroup]:
        exact = tuple(self._channels.get(channel, ()))
        if not self._patterns:
            if self._routes:
                self._forget_routes(at_most=SHED)
            return exact
        found = dict.fromkeys(exact)
        for pattern in self._matching_patterns(channel):
            found.update(pattern.groups)
        return found

    def _matching_patterns(self, channel: str) -> Sequence[IndexedPattern]:
        route = self._routes.get(channel)
        if route is None:
            return self._new_route(channel)
        if route.serial != self._serial:
            return self._renew(route, channel)
        by_serial = self._by_serial
        found = [pattern for serial in route.serials if (pattern := by_serial.get(serial)) is not None]
        return found if len(found) == len(route.serials) else self._renew(route, channel)

    def _new_route(self, channel: str) -> Sequence[IndexedPattern]:
        route = self._routes[channel] = Route()
        self._route_bytes += ROUTE
        found = self._index.matching(channel)
        self._remember(route, found)
        return found

    def _renew(self, route: Route, channel: str) -> Sequence[IndexedPattern]:
        """Match the patterns that are newer than the route, and drop those that no longer exist."""
        if self._serial - route.serial > NEWER:
            found = self._index.matching(channel)
        else:
            newer = range(route.serial + 1, self._serial + 1)
            known = map(self._by_serial.get, (*route.serials, *newer))
            found = [
                pattern
                for pattern in known
                if pattern is not None and (pattern.serial <= route.serial or pattern.matches(channel))
            ]
        self._remember(route, found)
        return found

    def _remember(self, route: Route, found: Sequence[IndexedPattern]) -> None:
        self._route_bytes += LINK * (len(found) - len(route.serials))
        route.serials = array("Q", [pattern.serial for pattern in found])
        route.serial = self._serial
        if self._route_bytes > MAX_ROUTE_BYTES:
            self._forget_routes()

    def _forget_routes(self, *, at_most: int | None = None) -> None:
        """Drop the oldest routes: `at_most` of them, or as many as are above the limit."""
        routes = self._routes
        while routes and (at_most or (at_most is None and self._route_bytes > MAX_ROUTE_BYTES)):
            _, route = routes.popitem(last=False)
            self._route_bytes -= ROUTE + LINK * len(route.serials)
            if at_most is not None:
                at_most -= 1

    def _open(self, selector: Selector, encoding: Encoding) -> OutboxGroup:
        group = self._groups[selector, encoding] = self._found(selector, encoding)
        for channel in selector.names:
            self._channels.setdefault(channel, {})[group] = None
        for text in selector.patterns:
            self._pattern(text).groups[group] = None
        return group

    def _pattern(self, text: str) -> IndexedPattern:
        pattern = self._patterns.get(text)
        if pattern is None:
            self._serial += 1
            pattern = self._patterns[text] = self._by_serial[self._serial] = IndexedPattern(
                text, self._serial
            )
            self._index.add(pattern)
        return pattern

    def _close(self, group: OutboxGroup) -> None:
        del self._groups[group.selector, group.encoding]
        for channel in group.selector.names:
            listening = self._channels[channel]
            del listening[group]
            if not listening:
                del self._channels[channel]
        for text in group.selector.patterns:
            pattern = self._patterns[text]
            del pattern.groups[group]
            if not pattern.groups:
                self._close_pattern(text)

    def _close_pattern(self, text: str) -> None:
        pattern = self._patterns.pop(text)
        del self._by_serial[pattern.serial]
        self._index.remove(pattern)
        if not self._patterns:
            self._forget_routes(at_most=SHED)
