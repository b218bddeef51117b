"""Report of a run: for people as lines, for programs as one object."""

from collections.abc import Iterator, Mapping
from typing import Any

from sse_broadcast.bench.histogram import LatencyHistogram
from sse_broadcast.bench.run import Measured
from sse_broadcast.bench.verdict import judge, rate_of
from sse_broadcast.quantity import Quantity


def as_lines(measured: Measured) -> Iterator[str]:
    """Yield the report for people."""
    plan, tally, sent = measured.plan, measured.tally, measured.sent
    connects = _percentiles(tally.connect)
    yield (
        f"connected     {measured.connected} of {Quantity(plan.subscribers, 'subscriber')} "
        f"on {Quantity(plan.channels, 'channel')} in {measured.connect_seconds:.2f} s: "
        f"{connects}"
    )
    if tally.refusals:
        yield f"refused       {_counts(tally.refusals)}"
    yield (
        f"published     {Quantity(sent.published, 'event')} of {plan.size} bytes, "
        f"{rate_of(measured):.1f} a second of {plan.rate:g}; answers {_percentiles(sent.answer)}"
    )
    if sent.failures:
        yield f"not published {_counts(sent.failures)}"
    yield (
        f"delivered     {tally.deliveries} of {measured.expected} expected, {_rate(measured):.0f} a second, "
        f"{_size(tally.bytes)}"
    )
    latency = _percentiles(tally.latency, ("p50", "p90", "p99", "p99.9", "max"))
    yield f"latency       from when each event was due: {latency}"
    yield (
        f"order         {measured.lost} lost, {tally.repeats} repeated, {tally.late} out of order, "
        f"{Quantity(tally.resets, '$reset')}"
    )
    ended = _counts(tally.disconnects) or "none"
    missed = measured.lost_by_disconnected
    yield f"disconnected  {ended}" + (f"; they missed {Quantity(missed, 'event')}" if missed else "")
    if plan.frozen:
        yield f"frozen        {plan.frozen}, of which the server has ended {measured.evicted}"
    yield f"server        {_server(measured)}"
    yield (
        f"generator     {measured.own_cpu / measured.load_seconds:.0%} of a core, its loop "
        f"{_ms(measured.lag.percentile(99))} late at p99, "
        f"events {_ms(sent.lateness.percentile(99))} late at p99"
    )
    verdict = judge(measured)
    yield verdict.sentence
    if verdict.faults:
        yield f"Faults: {', '.join(verdict.faults)}."


def as_object(measured: Measured) -> dict[str, Any]:
    """Return the report for programs. Times are in seconds, sizes in bytes."""
    plan, tally, sent, verdict = measured.plan, measured.tally, measured.sent, judge(measured)
    deliveries = tally.deliveries
    return {
        "url": measured.url,
        "plan": {name: getattr(plan, name) for name in plan.__slots__},
        "connected": measured.connected,
        "connect_seconds": measured.connect_seconds,
        "connect": tally.connect.percentiles(),
        "refused": dict(tally.refusals),
        "published": sent.published,
        "publish_rate": rate_of(measured),
        "publish_answer": sent.answer.percentiles(),
        "not_published": dict(sent.failures),
        "not_sent": max(plan.events - sent.published - sum(sent.failures.values()), 0),
        "deliveries": deliveries,
        "expected": measured.expected,
        "delivery_rate": _rate(measured),
        "bytes": tally.bytes,
        "latency": {**tally.latency.percentiles(), "mean": tally.latency.mean},
        "lost": measured.lost,
        "lost_by_disconnected": measured.lost_by_disconnected,
        "repeats": tally.repeats,
        "out_of_order": tally.late,
        "misrouted": tally.misrouted,
        "resets": tally.resets,
        "disconnected": dict(tally.disconnects),
        "frozen_ended": measured.evicted,
        "server_cpu_per_delivery": _per(measured.server_cpu, deliveries),
        "server_memory_per_connection": _per(measured.server_memory, measured.connected),
        "generator_cpu": measured.own_cpu / measured.load_seconds,
        "generator_loop_lag": measured.lag.percentiles(),
        "generator_send_lateness": sent.lateness.percentiles(),
        "limit": verdict.limit,
        "verdict": verdict.sentence,
        "faults": list(verdict.faults),
    }


def _rate(measured: Measured) -> float:
    """Return the deliveries a second, from the first event's due time to the last delivery."""
    span = measured.tally.last_delivery - measured.began
    return measured.tally.deliveries / span if span > 0 else 0.0


def _server(measured: Measured) -> str:
    if measured.server_cpu is None:
        return "not measured: it is not on this machine, or its process is somebody else's"
    each = _per(measured.server_cpu, measured.tally.deliveries) or 0.0
    memory = _per(measured.server_memory, measured.connected)
    share = measured.server_cpu / measured.load_seconds
    kept = "memory not measured" if memory is None else f"{_size(memory)} of memory a connection"
    return f"{each * 1e6:.1f} µs of CPU a delivery, {share:.0%} of a core; {kept}"


def _per(amount: float | None, count: int) -> float | None:
    return amount / count if amount is not None and count else None


def _percentiles(histogram: LatencyHistogram, names: tuple[str, ...] = ("p50", "p99", "max")) -> str:
    found = histogram.percentiles()
    return ", ".join(f"{name} {_ms(found[name])}" for name in names)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def _size(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"
