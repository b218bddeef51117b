"""GET /metrics: counters and states for Prometheus."""

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

# Label values that are written as 0 from the start: `rate` misses the increase that creates a series.
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
"""Versions of Prometheus text and OpenMetrics that are served. Other versions in Accept are ignored."""

DROPS = (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST)
"""The policies that drop events. The others disconnect, or replace an event by a newer one of its key."""


async def get_metrics(request: web.Request) -> web.Response:
    """Return all metrics, in the format that Accept names."""
    if not services_of(request).config.metrics:
        raise Problem(404, f"nothing is at {request.path[:80]}: the setting metrics is off")
    require_permission(request, Action.INSPECT)
    encode, content_type = encoder(",".join(request.headers.getall(hdrs.ACCEPT, ())))
    collector = await request.app[EXPOSITION].scrape()
    await asyncio.sleep(0)  # collecting takes about 2 ms, and so does encoding
    body = encode(collector)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})


def encoder(accept: str) -> tuple[Encode, str]:
    """Return the encoder for an Accept header and its media type. The default is Prometheus text."""
    # Filtered: prometheus_client claims any OpenMetrics version that Accept names.
    return choose_encoder(",".join(each for each in accept.split(",") if _version(each) in VERSIONS))


def _version(accepted: str) -> str:
    """Return the version in one of the types of an Accept header, or "" for any."""
    parameters = (each.strip().partition("=") for each in accepted.split(";")[1:])
    return next((value for name, _, value in parameters if name == "version"), "")


class MetricsCollector(Collector):
    """The metrics of one scrape."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return the metrics. An encoder of prometheus_client calls this."""
        return self._metrics


class Exposition:
    """Collects the metrics of one server and of its process.

    `connection_counts` is None under another server's listeners. Of `revocations` only the number is read.
    """

    def __init__(self, broadcaster: Broadcaster, revocations: Sized = ()) -> None:
        self._broadcaster = broadcaster
        self._revocations = revocations
        # Not prometheus_client.REGISTRY: two servers may be in one process.
        self._process = CollectorRegistry()
        self.connection_counts: ConnectionCounts | None = None
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)

    async def scrape(self) -> MetricsCollector:
        """Collect all metrics. Counting subscribers yields to the event loop."""
        began = time.perf_counter()
        backlog = await self._broadcaster.backlog()
        await asyncio.sleep(0)
        metrics = [
            *self._published(),
            *self._subscribers(backlog),
            *self._lost(),
            *self._delivered(),
            *self._history(),
            *self._store(),
            *self._channels(),
            *self._refused(),
            *self._server(),
            *self._process.collect(),
        ]
        took = time.perf_counter() - began
        return MetricsCollector(
            [*metrics, gauge("scrape_duration_seconds", "Time to collect this scrape", took)]
        )

    def _published(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counter("publishes", "Accepted publishes, each of one event or a batch", metrics.publishes)
        yield counter("published_events", "Published events", metrics.events_published)

    def _subscribers(self, backlog: BacklogStats) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield gauges(
            "subscribers", "Subscribers", ("kind",), {kind: metrics.open(kind) for kind in SubscriberKind}
        )
        yield gauge("replaying_subscribers", "Subscribers that are replaying history", backlog.replaying)
        yield counters("opened_subscriptions", "Subscriptions opened", ("kind",), metrics.opened_by, KINDS)
        yield counters(
            "closed_subscriptions",
            "Subscriptions closed, by reason",
            ("kind", "reason"),
            metrics.closed_by,
            CLOSES,
        )
        yield spread(
            "queued_events", "Subscribers by the number of events queued for them", backlog.queued_events
        )
        yield spread(
            "queued_bytes", "Subscribers by the number of bytes queued for them", backlog.queued_bytes
        )

    def _lost(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counters(
            "dropped_events",
            "Events dropped because a subscriber's queue was full",
            ("policy",),
            metrics.dropped_by,
            DROPS,
        )
        yield counters(
            "resets",
            "`$reset` events sent to subscribers that missed events",
            ("reason",),
            metrics.resets_by,
            RESETS,
        )
        yield counters(
            "heartbeat_timeouts",
            "Subscribers closed because their connection was full for write_timeout",
            ("cause",),
            metrics.timeouts,
            TIMEOUTS,
        )
        yield counter(
            "unreported_disconnects",
            "Disconnects that nothing reported, found at the heartbeat",
            metrics.unreported_disconnects,
        )
        yield counter(
            "aborted_connections",
            "Connections aborted because the client did not read in time",
            metrics.aborted_connections,
        )

    def _delivered(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counters(
            "delivered_events",
            "Deliveries: events written, counted once for each subscriber",
            ("kind",),
            {SubscriberKind.HTTP: metrics.events_written, SubscriberKind.STREAM: metrics.events_taken},
        )
        yield counter(
            "written_bytes",
            "Bytes written to streams, without their first frames",
            metrics.bytes_written,
        )
        yield counter("heartbeats", "Heartbeats sent", metrics.heartbeats)
        yield histogram(
            "delivery_delay_seconds",
            "Time from a publish to the write to the last subscriber that keeps up, once per pass",
            metrics.delay,
        )
        yield counter(
            "delivery_slices", "Slices of delivery work, one per iteration of the event loop", metrics.slices
        )
        yield counter(
            "delivery_interruptions",
            "Slices of delivery work that ended before everything was written",
            metrics.interruptions,
        )

    def _history(self) -> Iterator[Metric]:
        metrics, usage = self._broadcaster.metrics, self._broadcaster.history_usage
        yield gauge("history_events", "Events in the history", usage.events)
        yield gauge("history_bytes", "Bytes that the events of the history count for", usage.bytes)
        yield gauge("history_channels", "Channels with events in the history", usage.channels)
        yield histogram("replay_events", "Events replayed to a subscriber", metrics.replay_events)
        yield histogram("replay_duration_seconds", "Time of a replay to a subscriber", metrics.replay_seconds)
        yield counters("backend_calls", "Calls of the backend", ("call",), metrics.backend_calls, CALLS)
        yield counters(
            "backend_errors", "Calls of the backend that failed", ("call",), metrics.backend_errors, CALLS
        )

    def _store(self) -> Iterator[Metric]:
        """Tell of the file that keeps the history, where there is one."""
        store = self._broadcaster.metrics.store
        if store.bytes is None:
            return
        yield gauge("store_bytes", "Bytes that the file of the history takes on disk", store.bytes())
        yield histogram(
            "store_commit_seconds", "Time that a transaction of the file took", store.commit_seconds
        )
        yield histogram(
            "store_sync_seconds", "Part of that in which it waited for the disk", store.sync_seconds
        )
        yield counter("store_failures", "Transactions of the file that were not committed", store.failures)
        away = self._broadcaster.outage is not None
        yield gauge("store_away", "Whether the file cannot be written now: 1 if so", float(away))

    def _channels(self) -> Iterator[Metric]:
        """Yield the metrics of the channels in `metrics_channels`."""
        # Of no other channels: each adds three series.
        published = self._broadcaster.metrics.channels
        states = {name: self._broadcaster.channel(name) for name in published}
        yield counters("channel_published_events", "Events published to a channel", ("channel",), published)
        yield gauges(
            "channel_subscribers",
            "Subscribers of a channel",
            ("channel",),
            {name: state.subscribers for name, state in states.items()},
        )
        yield gauges(
            "channel_history_events",
            "Events of a channel in the history",
            ("channel",),
            {name: state.events for name, state in states.items()},
        )

    def _refused(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield counters(
            "refused_requests",
            "Requests answered with an error",
            ("endpoint", "status"),
            metrics.refused_requests,
        )
        yield counters(
            "refused_connections",
            "Connections rejected or aborted, by reason",
            ("reason",),
            metrics.refused_connections,
            REFUSALS,
        )
        yield gauge("revocations", "Revocations held, at most 100000", len(self._revocations))
        yield counters(
            "share_reached",
            "Times that a caller reached its share of a common limit, by limit",
            ("share",),
            metrics.shares_reached,
            SHARE_LABELS,
        )
        if self.connection_counts is not None:
            yield gauge("connections", "Open connections", self.connection_counts.count)
            yield gauge("max_connections", "Maximum open connections", self.connection_counts.limit)

    def _server(self) -> Iterator[Metric]:
        metrics = self._broadcaster.metrics
        yield histogram("loop_lag_seconds", "Lag of the event loop", metrics.loop_lag)
        yield counter("lost_log_lines", "Log lines that could not be written", metrics.log_lines_unwritten)
        yield InfoMetricFamily(f"{PREFIX}build", "Versions, and the event loop in use", build())


EXPOSITION: web.AppKey[Exposition] = web.AppKey("sse_broadcast.exposition", Exposition)


def build() -> dict[str, str]:
    """Return the versions of the server, Python and aiohttp, and the name of the event loop."""
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {
        "version": __version__,
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "event_loop": loop,
    }


def counter(name: str, documentation: str, count: float) -> Metric:
    """Return a counter without labels."""
    return CounterMetricFamily(PREFIX + name, documentation, value=count)


def counters(
    name: str,
    documentation: str,
    labels: Sequence[str],
    counts: Mapping[Any, float],
    known: Sequence[object] = (),
) -> Metric:
    """Return a counter with labels. The `known` label values are written from the start, with 0."""
    family = CounterMetricFamily(PREFIX + name, documentation, labels=labels)
    for values, count in {**dict.fromkeys(known, 0), **counts}.items():
        family.add_metric([values] if isinstance(values, str) else values, count)
    return family


def gauge(name: str, documentation: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(PREFIX + name, documentation, value=value)


def gauges(name: str, documentation: str, labels: Sequence[str], values: Mapping[str, float]) -> Metric:
    """Return a gauge with one label."""
    family = GaugeMetricFamily(PREFIX + name, documentation, labels=labels)
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def histogram(name: str, documentation: str, distribution: Distribution) -> Metric:
    """Return a histogram of the values observed since the start."""
    return HistogramMetricFamily(
        PREFIX + name, documentation, buckets=_buckets(distribution), sum_value=distribution.total
    )


def spread(name: str, documentation: str, distribution: Distribution) -> Metric:
    """Return a histogram of the values at this moment."""
    return GaugeHistogramMetricFamily(
        PREFIX + name, documentation, buckets=_buckets(distribution), gsum_value=distribution.total
    )


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    return [(_bound(bound), count) for bound, count in distribution.cumulated()]


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(float(bound))
