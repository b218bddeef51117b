"""Metrics: counters and distributions, changed by verbs and read as one frozen value."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The bounds between which times are told apart."""

EVENTS = (0, 1, 10, 100, 1000, 10_000, 100_000)
"""The bounds between which numbers of events are told apart."""

BYTES = (0, 1024, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)
"""The bounds between which sizes are told apart."""


class SubscriberKind(StrEnum):
    """What a subscriber is."""

    HTTP = "http"
    """A reader of a connection."""
    STREAM = "stream"
    """A program in this process."""


class Timeout(StrEnum):
    """Why a subscriber was cut when its deadline had passed."""

    FULL = "full"
    """Its socket had stayed full, or its stream had not ended, for `write_timeout`."""


class Share(StrEnum):
    """What all callers use together, and each has a share of."""

    CHANNELS = "channels"
    """Different channels and patterns that are followed."""
    STREAMS = "streams"
    """Streams of subscribers and of publishers at one time."""
    STREAM_RATE = "stream_rate"
    """Streams that are opened in a second."""
    BODY_BYTES = "body_bytes"
    """Bytes of bodies, and of lines of publishers' streams, that are being read."""
    HISTORY_CHANNELS = "history_channels"
    """Channels of the history, of one publisher."""
    HISTORY_TOTAL = "history_total"
    """Bytes of the history, of one publisher."""
    IDEMPOTENCY_KEYS = "idempotency_keys"
    """Idempotency keys that are remembered, of one publisher."""
    CONNECTIONS = "connections"
    """Connections, of one address and of public listeners."""
    RESERVE = "reserve"
    """Connections beyond the limit, of one address and of callers with `admin`."""


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


class Distribution:
    """How many observations were how large: each is counted under the least bound that it does not exceed."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total: float = 0
        """The sum of what was observed."""

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self._counts)

    def observe(self, value: float, *, times: int = 1) -> None:
        """Count an observation, or several that are alike."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def cumulated(self) -> Iterator[tuple[float, int]]:
        """Yield how many were at most each bound, of which the last is infinite."""
        upto = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            upto += count
            yield bound, upto


class Metrics:
    """Counts what happens. Every verb is cheap enough for the path it stands on.

    Whoever serves it reads what the verbs have written: numbers, counters by a word or two, distributions.
    `channels` are those that are looked at by name.
    """

    __slots__ = (
        "aborted_connections",
        "backend_calls",
        "backend_errors",
        "bytes_written",
        "channels",
        "closed_by",
        "delay",
        "dropped_by",
        "events_published",
        "events_taken",
        "events_written",
        "heartbeats",
        "interruptions",
        "log_lines_unwritten",
        "loop_lag",
        "opened_by",
        "publishes",
        "refused_connections",
        "refused_requests",
        "replay_events",
        "replay_seconds",
        "resets_by",
        "shares_reached",
        "slices",
        "timeouts",
        "unreported_disconnects",
    )

    def __init__(self, channels: Sequence[str] = ()) -> None:
        self.publishes = self.events_published = 0
        self.channels: dict[str, int] = dict.fromkeys(channels, 0)
        self.opened_by: Counter[SubscriberKind] = Counter()
        self.closed_by: Counter[tuple[SubscriberKind, str]] = Counter()
        self.dropped_by: Counter[str] = Counter()
        self.resets_by: Counter[str] = Counter()
        self.refused_connections: Counter[str] = Counter()
        self.refused_requests: Counter[tuple[str, str]] = Counter()
        self.shares_reached: Counter[Share] = Counter()
        self.aborted_connections = self.heartbeats = 0
        self.timeouts: Counter[Timeout] = Counter()
        self.unreported_disconnects = 0
        self.events_written = self.events_taken = self.bytes_written = 0
        self.slices = self.interruptions = 0
        self.delay = Distribution(SECONDS)
        self.replay_events, self.replay_seconds = Distribution(EVENTS), Distribution(SECONDS)
        self.loop_lag = Distribution(SECONDS)
        self.log_lines_unwritten = 0
        self.backend_calls: Counter[str] = Counter()
        self.backend_errors: Counter[str] = Counter()

    def published(self, count: int) -> None:
        """Count the events of one publish that were given their places; none is no publish."""
        if count:
            self.publishes += 1
            self.events_published += count

    def published_in(self, channels: Sequence[str]) -> None:
        """Count an event in those of its channels that are looked at by name."""
        for channel in channels:
            if channel in self.channels:
                self.channels[channel] += 1

    def look_at(self, channels: Sequence[str]) -> None:
        """Look at these by name from now on, and at others no longer; what was counted stays."""
        self.channels = {channel: self.channels.get(channel, 0) for channel in channels}

    def opened(self, kind: SubscriberKind) -> None:
        """Count a subscriber that joined."""
        self.opened_by[kind] += 1

    def closed(self, reason: str, kind: SubscriberKind) -> None:
        """Count a subscriber that left, or was made to."""
        self.closed_by[kind, reason] += 1

    def dropped(self, policy: str) -> None:
        """Count an event that a full queue had no room for."""
        self.dropped_by[policy] += 1

    def reset(self, reason: str) -> None:
        """Count a reader that was told of a loss."""
        self.resets_by[reason] += 1

    def aborted(self) -> None:
        """Count a socket cut because it stayed full for `write_timeout`, or to the end of a shutdown."""
        self.aborted_connections += 1

    def timed_out(self, cause: Timeout) -> None:
        """Count a subscriber whose deadline had passed."""
        self.timeouts[cause] += 1

    def found_disconnected(self) -> None:
        """Count a subscriber found disconnected at its heartbeat, which nothing had reported."""
        self.unreported_disconnects += 1

    def refused(self, reason: str) -> None:
        """Count a connection that was not let in, or was cut before it had its answer."""
        self.refused_connections[reason] += 1

    def refused_request(self, status: int, endpoint: str) -> None:
        """Count a request that was not taken, or failed; `endpoint` is the set that it belongs to."""
        self.refused_requests[endpoint, str(status)] += 1

    def share_reached(self, share: Share) -> None:
        """Count that a caller was refused since it has its share of something that all callers use."""
        self.shares_reached[share] += 1

    def wrote(self, events: int, bytes: int) -> None:
        """Count what was written to readers: events times readers, and bytes of whatever it was."""
        self.events_written += events
        self.bytes_written += bytes

    def handed(self, events: int) -> None:
        """Count events that a program in this process has taken."""
        self.events_taken += events

    def delayed(self, seconds: float) -> None:
        """Count a pass over readers: from when its oldest event was published to the last of its writes."""
        self.delay.observe(seconds)

    def walked(self, *, interrupted: bool) -> None:
        """Count a slice of the walk, and whether it stopped before it was done."""
        self.slices += 1
        self.interruptions += interrupted

    def beat(self) -> None:
        """Count a heartbeat that was sent."""
        self.heartbeats += 1

    def replayed(self, events: int, seconds: float) -> None:
        """Count a subscriber that has caught up: what it was given for that, and how long it took."""
        self.replay_events.observe(events)
        self.replay_seconds.observe(seconds)

    def lagged(self, seconds: float) -> None:
        """Count a look at the event loop: how late it came by."""
        self.loop_lag.observe(seconds)

    def log_lines_lost(self, count: int) -> None:
        """Count lines of the log that could not be written. The one verb that another thread calls too."""
        self.log_lines_unwritten += count

    def called(self, name: str) -> None:
        """Count a call of the backend."""
        self.backend_calls[name] += 1

    def failed(self, name: str) -> None:
        """Count a call of the backend that raised what is no answer."""
        self.backend_errors[name] += 1

    def open(self, kind: SubscriberKind) -> int:
        """Return how many subscribers there are."""
        return self.opened_by[kind] - sum(self.closed_by[each] for each in self.closed_by if each[0] is kind)

    def counts(self) -> Counts:
        """Return the state of the counters now."""
        refused = self.refused_connections + _by_second(self.refused_requests)
        return Counts(
            self.events_published,
            self.opened_by.total(),
            dict(_by_second(self.closed_by)),
            dict(self.dropped_by),
            dict(self.resets_by),
            self.aborted_connections,
            dict(refused),
        )


def _by_second(
    counts: Mapping[tuple[SubscriberKind, str], int] | Mapping[tuple[str, str], int],
) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, word), count in counts.items():
        found[word] += count
    return found
