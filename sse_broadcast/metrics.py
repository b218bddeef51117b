"""Metrics: counters and distributions, changed by verbs and read as one frozen value."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bucket bounds for times, in seconds."""

EVENTS = (0, 1, 10, 100, 1000, 10_000, 100_000)
"""Bucket bounds for numbers of events."""

BYTES = (0, 1024, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)
"""Bucket bounds for sizes, in bytes."""


class SubscriberKind(StrEnum):
    """The kind of a subscriber."""

    HTTP = "http"
    """A client of an HTTP connection."""
    STREAM = "stream"
    """A `Stream` in this process."""


class Timeout(StrEnum):
    """The deadline that a subscriber missed."""

    FULL = "full"
    """Its socket stayed full, or its stream did not end, for `write_timeout`."""


class Share(StrEnum):
    """A limit that all callers share, with a part for each of them."""

    CHANNELS = "channels"
    """Different channels and patterns of subscribers."""
    STREAMS = "streams"
    """Open streams of subscribers and publishers."""
    STREAM_RATE = "stream_rate"
    """Streams opened per second."""
    BODY_BYTES = "body_bytes"
    """Bytes of bodies, and of publishers' streamed lines, that are being read."""
    HISTORY_CHANNELS = "history_channels"
    """Channels in the history, of one publisher."""
    HISTORY_TOTAL = "history_total"
    """Bytes in the history, of one publisher."""
    IDEMPOTENCY_KEYS = "idempotency_keys"
    """Stored idempotency keys, of one publisher."""
    CONNECTIONS = "connections"
    """Connections, of one address and of public listeners."""
    RESERVE = "reserve"
    """Connections beyond the limit, of one address and of callers with `admin`."""


@dataclass(frozen=True, slots=True)
class Counts:
    """All counters since the broadcaster was made.

    `published` events; subscribers `opened` and `closed` (by reason); events `dropped` from full queues (by
    policy); `resets` sent after a loss (by reason); sockets `aborted` because they stayed full; connections
    and requests `refused` (by reason).
    """

    published: int
    opened: int
    closed: Mapping[str, int]
    dropped: Mapping[str, int]
    resets: Mapping[str, int]
    aborted: int
    refused: Mapping[str, int]


class Distribution:
    """A histogram: each observation counts under the smallest bound that is not below it."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total: float = 0
        """The sum of the observed values."""

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self._counts)

    def observe(self, value: float, *, times: int = 1) -> None:
        """Count an observation, or several equal ones."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def cumulated(self) -> Iterator[tuple[float, int]]:
        """Yield each bound with the number of observations up to it. The last bound is infinite."""
        upto = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            upto += count
            yield bound, upto


class StoreMetrics:
    """Counts what a store does. Its verbs are those of the thread that writes: no other calls them."""

    __slots__ = ("bytes", "commit_seconds", "failures", "sync_seconds")

    def __init__(self) -> None:
        self.commit_seconds, self.sync_seconds = Distribution(SECONDS), Distribution(SECONDS)
        self.failures = 0
        self.bytes: Callable[[], int] | None = None
        """Returns the bytes that the store takes on disk; None where nothing is stored."""

    def committed(self, seconds: float, sync: float) -> None:
        """Count a transaction: how long it took, and how long of that it waited for the disk."""
        self.commit_seconds.observe(seconds)
        self.sync_seconds.observe(sync)

    def failed(self) -> None:
        """Count a transaction that was not committed."""
        self.failures += 1


class Metrics:
    """Counters of everything that happens. Each verb is cheap enough for the hot path.

    The metrics endpoint reads the attributes that the verbs change. `channels` are counted by name.
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
        "store",
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
        self.store = StoreMetrics()

    def published(self, count: int) -> None:
        """Count the events of one publish. No events are no publish."""
        if count:
            self.publishes += 1
            self.events_published += count

    def published_in(self, channels: Sequence[str]) -> None:
        """Count an event in those of its channels that have metrics of their own."""
        for channel in channels:
            if channel in self.channels:
                self.channels[channel] += 1

    def look_at(self, channels: Sequence[str]) -> None:
        """Replace the channels that have metrics of their own. Those that stay keep their counts."""
        self.channels = {channel: self.channels.get(channel, 0) for channel in channels}

    def opened(self, kind: SubscriberKind) -> None:
        """Count a subscriber that joined."""
        self.opened_by[kind] += 1

    def closed(self, reason: str, kind: SubscriberKind) -> None:
        """Count a subscriber that ended, by the reason."""
        self.closed_by[kind, reason] += 1

    def dropped(self, policy: str) -> None:
        """Count an event dropped from a full queue."""
        self.dropped_by[policy] += 1

    def reset(self, reason: str) -> None:
        """Count a subscriber that got a `$reset`."""
        self.resets_by[reason] += 1

    def aborted(self) -> None:
        """Count a socket aborted because it stayed full for `write_timeout` or to the end of a shutdown."""
        self.aborted_connections += 1

    def timed_out(self, cause: Timeout) -> None:
        """Count a subscriber that missed its deadline."""
        self.timeouts[cause] += 1

    def found_disconnected(self) -> None:
        """Count a subscriber whose disconnect was only noticed at a heartbeat."""
        self.unreported_disconnects += 1

    def refused(self, reason: str) -> None:
        """Count a connection that was rejected, or aborted before it had its answer."""
        self.refused_connections[reason] += 1

    def refused_request(self, status: int, endpoint: str) -> None:
        """Count a request that was refused or failed, by status and endpoint set."""
        self.refused_requests[endpoint, str(status)] += 1

    def share_reached(self, share: Share) -> None:
        """Count a refusal because a caller reached its part of a shared limit."""
        self.shares_reached[share] += 1

    def wrote(self, events: int, bytes: int) -> None:
        """Count events written to subscribers (each event once per subscriber), and bytes."""
        self.events_written += events
        self.bytes_written += bytes

    def handed(self, events: int) -> None:
        """Count events taken by a `Stream` in this process."""
        self.events_taken += events

    def delayed(self, seconds: float) -> None:
        """Observe the seconds of a pass: from the publish of its oldest event to its last write."""
        self.delay.observe(seconds)

    def walked(self, *, interrupted: bool) -> None:
        """Count a slice of a pass, and whether it was interrupted before its end."""
        self.slices += 1
        self.interruptions += interrupted

    def beat(self) -> None:
        """Count a heartbeat."""
        self.heartbeats += 1

    def replayed(self, events: int, seconds: float) -> None:
        """Observe a subscriber that caught up: the number of events, and the seconds it took."""
        self.replay_events.observe(events)
        self.replay_seconds.observe(seconds)

    def lagged(self, seconds: float) -> None:
        """Observe the lag of the event loop, in seconds."""
        self.loop_lag.observe(seconds)

    def log_lines_lost(self, count: int) -> None:
        """Count lost log lines. Only this verb is also called from another thread."""
        self.log_lines_unwritten += count

    def called(self, name: str) -> None:
        """Count a call of the backend."""
        self.backend_calls[name] += 1

    def failed(self, name: str) -> None:
        """Count a failed call of the backend."""
        self.backend_errors[name] += 1

    def open(self, kind: SubscriberKind) -> int:
        """Return how many subscribers of a kind are connected."""
        return self.opened_by[kind] - sum(self.closed_by[each] for each in self.closed_by if each[0] is kind)

    def counts(self) -> Counts:
        """Return a copy of the counters."""
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
