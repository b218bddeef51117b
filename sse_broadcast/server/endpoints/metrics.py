"""GET /metrics: what was counted, and how things are, for Prometheus."""

import asyncio
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sse_broadcast.auth.principal import Action
from sse_broadcast.backends.base import CALLS, ResetReason
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Overflow
from sse_broadcast.fanout.backlog import BacklogStats
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.metrics import Distribution, Share, SubscriberKind, Timeout
from sse_broadcast.server.access.authorization import require_permission
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.services import services_of
from sse_broadcast.server.transport.counts import ConnectionCounts, RejectReason
from sse_broadcast.version import __version__

Encode = Callable[[Collector], bytes]

PREFIX = "sse_broadcast_"

# The words that are known beforehand: a series that begins at its first event hides that one from `rate`.
KINDS = tuple(SubscriberKind)
CLOSES = (
    *((SubscriberKind.HTTP, reason) for reason in CloseReason),
    *((SubscriberKind.STREAM, reason) for reason in (CloseReason.LEFT, CloseReason.SLOW, CloseReason.DRAIN)),
)
RESETS = tuple(ResetReason)
TIMEOUTS = tuple(Timeout)
REFUSALS = tuple(RejectReason)
SHARE_LABELS = tuple(Share)
VERSIONS = {"", "0.0.4", "1.0.0"}
"""Of the formats that there are, Prometheus's text and OpenMetrics: what names another is passed over."""

DROPS = (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST)
"""The policies that drop; the others disconnect, or replace what is no loss."""


async def get_metrics(request: web.Request) -> web.Response:
    """Answer with all metrics, in the format that is asked for."""
    if not services_of(request).config.metrics:
        raise Problem(404, f"nothing is at {request.path[:80]}: metrics are switched off")
    require_permission(request, Action.INSPECT)
    encode, content_type = encoder(",".join(request.headers.getall(hdrs.ACCEPT, ())))
    found = await request.app[EXPOSITION].scrape()
    await asyncio.sleep(0)  # to gather all takes some 2 ms, and so does to write it
    body = encode(found)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})


def encoder(accept: str) -> tuple[Encode, str]:
    """Return what writes the format that an Accept header names, and its media type; else Prometheus text."""
    # Of OpenMetrics it would say that it writes whatever version is asked for.
    return choose_encoder(",".join(each for each in accept.split(",") if _version(each) in VERSIONS))


def _version(accepted: str) -> str:
    """Return the version in one of the types of an Accept header, or "" for any."""
    parameters = (each.strip().partition("=") for each in accepted.split(";")[1:])
    return next((value for name, _, value in parameters if name == "version"), "")


class MetricsCollector(Collector):
    """What was found for one scrape."""

    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        return self._found


class Exposition:
    """Everything there is to tell of one server, and of its process.

    prometheus_client's own registry of the process is left alone: two servers may be in one process.
    `connection_counts` is of the listeners, where they are ours; `revocations` are counted.
    """

    def __init__(self, broadcaster: Broadcaster, revocations: Sized = ()) -> None:
        self._broadcaster = broadcaster
        self._revocations = revocations
        self._process = CollectorRegistry()
        self.connection_counts: ConnectionCounts | None = None
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)

    async def scrape(self) -> MetricsCollector:
        """Look at everything now. Other work goes on between two portions of the subscribers."""
        began = time.perf_counter()
        backlog = await self._broadcaster.backlog()
        await asyncio.sleep(0)
        found = [
            *self._published(),
            *self._subscribers(backlog),
            *self._lost(),
            *self._delivered(),
            *self._history(),
            *self._channels(),
            *self._refused(),
            *self._server(),
            *self._process.collect(),
        ]
        took = time.perf_counter() - began
        return MetricsCollector(
            [*found, gauge("scrape_duration_seconds", "Time that this scrape took to gather", took)]
        )

    def _published(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counter("publishes", "Publishes that were taken: an event each, or a batch", metrics.publishes)
        yield counter("published_events", "Events that were published", metrics.events_published)

    def _subscribers(self, backlog: BacklogStats) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield gauges(
            "subscribers", "Subscribers", ("kind",), {kind: metrics.open(kind) for kind in SubscriberKind}
        )
        yield gauge("replaying_subscribers", "Subscribers that are catching up", backlog.replaying)
        yield counters("opened_subscriptions", "Subscribers that came", ("kind",), metrics.opened_by, KINDS)
        yield counters(
            "closed_subscriptions",
            "Subscribers that left, or were made to",
            ("kind", "reason"),
            metrics.closed_by,
            CLOSES,
        )
        yield spread("queued_events", "Subscribers by how many events wait for them", backlog.queued_events)
        yield spread("queued_bytes", "Subscribers by how many bytes wait for them", backlog.queued_bytes)

    def _lost(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counters(
            "dropped_events",
            "Events for which a subscriber's queue had no room",
            ("policy",),
            metrics.dropped_by,
            DROPS,
        )
        yield counters(
            "resets", "Subscribers told that they have lost something", ("reason",), metrics.resets_by, RESETS
        )
        yield counters(
            "heartbeat_timeouts",
            "Subscribers found full for too long",
            ("cause",),
            metrics.timeouts,
            TIMEOUTS,
        )
        yield counter(
            "unreported_disconnects",
            "Subscribers found disconnected at their heartbeat, which nothing had reported",
            metrics.unreported_disconnects,
        )
        yield counter(
            "aborted_connections",
            "Subscribers cut, since they did not take what they were sent",
            metrics.aborted_connections,
        )

    def _delivered(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counters(
            "delivered_events",
            "Events times the subscribers that they were written to",
            ("kind",),
            {SubscriberKind.HTTP: metrics.events_written, SubscriberKind.STREAM: metrics.events_taken},
        )
        yield counter(
            "written_bytes",
            "Bytes that were written to streams behind their openings",
            metrics.bytes_written,
        )
        yield counter("heartbeats", "Heartbeats that were sent", metrics.heartbeats)
        yield histogram(
            "delivery_delay_seconds",
            "Time from a publish to the last of the subscribers that keep up, by pass over them",
            metrics.delay,
        )
        yield counter(
            "delivery_slices", "Turns of the loop in which subscribers were written to", metrics.slices
        )
        yield counter(
            "delivery_interruptions", "Those that stopped before all was written", metrics.interruptions
        )

    def _history(self) -> Iterator[Metric]:
        metrics, extent = self._broadcaster.metrics, self._broadcaster.history_usage
        yield gauge("history_events", "Events that the history holds", extent.events)
        yield gauge("history_bytes", "Bytes that the history counts for them", extent.bytes)
        yield gauge("history_channels", "Channels that it holds events of", extent.channels)
        yield histogram(
            "replay_events", "Events that a subscriber was given to catch up", metrics.replay_events
        )
        yield histogram(
            "replay_duration_seconds", "Time that a subscriber took to catch up", metrics.replay_seconds
        )
        yield counters("backend_calls", "Calls of the backend", ("call",), metrics.backend_calls, CALLS)
        yield counters(
            "backend_errors", "Calls of the backend that failed", ("call",), metrics.backend_errors, CALLS
        )

    def _channels(self) -> Iterator[Metric]:
        """Tell of the channels of `metrics_channels`, and of no others: each is so many series more."""
        published = self._broadcaster.metrics.channels
        states = {name: self._broadcaster.channel(name) for name in published}
        yield counters(
            "channel_published_events", "Events that were published in a channel", ("channel",), published
        )
        yield gauges(
            "channel_subscribers",
            "Subscribers of a channel",
            ("channel",),
            {name: state.subscribers for name, state in states.items()},
        )
        yield gauges(
            "channel_history_events",
            "Events that the history holds of a channel",
            ("channel",),
            {name: state.events for name, state in states.items()},
        )

    def _refused(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counters(
            "refused_requests",
            "Requests that were answered with an error",
            ("endpoint", "status"),
            metrics.refused_requests,
        )
        yield counters(
            "refused_connections",
            "Connections that were not let in, or were cut",
            ("reason",),
            metrics.refused_connections,
            REFUSALS,
        )
        yield gauge(
            "revocations", "Revocations that are remembered, of 100000 at most", len(self._revocations)
        )
        yield counters(
            "share_reached",
            "Times a caller reached its share of something that all callers use, by what it was.",
            ("share",),
            metrics.shares_reached,
            SHARE_LABELS,
        )
        if self.connection_counts is not None:
            yield gauge("connections", "Connections that are open", self.connection_counts.count)
            yield gauge("max_connections", "Connections that may be open", self.connection_counts.limit)

    def _server(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield histogram("loop_lag_seconds", "Time by which the event loop was late", metrics.loop_lag)
        yield counter(
            "lost_log_lines", "Lines of the log that could not be written", metrics.log_lines_unwritten
        )
        yield InfoMetricFamily(f"{PREFIX}build", "What is running", build())


EXPOSITION: web.AppKey[Exposition] = web.AppKey("sse_broadcast.exposition", Exposition)


def build() -> dict[str, str]:
    """Return the versions of what is running, and the event loop it runs on."""
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {
        "version": __version__,
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "event_loop": loop,
    }


def counter(name: str, told: str, count: float) -> Metric:
    """Return a number that only grows."""
    return CounterMetricFamily(PREFIX + name, told, value=count)


def counters(
    name: str, told: str, labels: Sequence[str], counts: Mapping[Any, float], known: Sequence[object] = ()
) -> Metric:
    """Return numbers that only grow, by words; of those that are `known` also before the first."""
    family = CounterMetricFamily(PREFIX + name, told, labels=labels)
    for words, count in {**dict.fromkeys(known, 0), **counts}.items():
        family.add_metric([words] if isinstance(words, str) else words, count)
    return family


def gauge(name: str, told: str, value: float) -> Metric:
    """Return a number as it is now."""
    return GaugeMetricFamily(PREFIX + name, told, value=value)


def gauges(name: str, told: str, labels: Sequence[str], values: Mapping[str, float]) -> Metric:
    """Return numbers as they are now, by a word."""
    family = GaugeMetricFamily(PREFIX + name, told, labels=labels)
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def histogram(name: str, told: str, distribution: Distribution) -> Metric:
    """Return what was observed since the start."""
    return HistogramMetricFamily(
        PREFIX + name, told, buckets=_buckets(distribution), sum_value=distribution.total
    )


def spread(name: str, told: str, distribution: Distribution) -> Metric:
    """Return what is observed now."""
    return GaugeHistogramMetricFamily(
        PREFIX + name, told, buckets=_buckets(distribution), gsum_value=distribution.total
    )


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    return [(_bound(bound), count) for bound, count in distribution.cumulated()]


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(float(bound))
