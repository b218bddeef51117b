"""The report of a run."""

import msgspec
import pytest

from sse_broadcast.bench.histogram import LatencyHistogram
from sse_broadcast.bench.payload import Markers
from sse_broadcast.bench.plan import Plan
from sse_broadcast.bench.publishers import PublishTally
from sse_broadcast.bench.report import as_lines, as_object
from sse_broadcast.bench.run import Measured
from sse_broadcast.bench.subscribers import Tally


@pytest.fixture
def measured() -> Measured:
    sent, tally, lag = PublishTally(), Tally(Markers("abc")), LatencyHistogram()
    sent.published = 100
    sent.answer.record(0.002)
    sent.lateness.record(0.0001)
    lag.record(0.001)
    tally.connect.record(0.003)
    tally.latency.record(0.004)
    tally.deliveries, tally.bytes, tally.last_delivery = 500, 64_000, 60.0
    plan = Plan(subscribers=6, frozen=1)
    return Measured(
        plan,
        "http://x",
        tally,
        sent,
        lag,
        connected=6,
        evicted=1,
        expected=500,
        connect_seconds=0.25,
        load_seconds=10.0,
        began=50.0,
        own_cpu=1.0,
        server_cpu=0.5,
        server_memory=60_000,
    )


def test_people_get_lines(measured: Measured) -> None:
    assert list(as_lines(measured)) == [
        "connected     6 of 6 subscribers on 1 channel in 0.25 s: p50 3.00 ms, p99 3.00 ms, max 3.00 ms",
        (
            "published     100 events of 100 bytes, 10.0 a second of 10; "
            "answers p50 2.00 ms, p99 2.00 ms, max 2.00 ms"
        ),
        "delivered     500 of 500 expected, 50 a second, 64.0 kB",
        (
            "latency       from when each event was due: "
            "p50 4.00 ms, p90 4.00 ms, p99 4.00 ms, p99.9 4.00 ms, max 4.00 ms"
        ),
        "order         0 lost, 0 repeated, 0 out of order, 0 $resets",
        "disconnected  none",
        "frozen        1, of which the server has ended 1",
        "server        1000.0 µs of CPU a delivery, 5% of a core; 10.0 kB of memory a connection",
        "generator     10% of a core, its loop 1.00 ms late at p99, events 0.10 ms late at p99",
        "The rate was reached; the load generator had time to spare.",
    ]


def test_what_went_wrong_has_its_lines(measured: Measured) -> None:
    measured.tally.refusals["status 503"] = 2
    measured.sent.failures["status 429"] = 3
    measured.tally.disconnects["cut off"] = 1
    measured.lost_by_disconnected = 7
    measured.server_cpu = None
    lines = list(as_lines(measured))
    assert "refused       2 status 503" in lines
    assert "not published 3 status 429" in lines
    assert "disconnected  1 cut off; they missed 7 events" in lines
    assert "server        not measured: it is not on this machine, or its process is somebody else's" in lines
    assert lines[-1] == "Faults: 7 events lost by disconnected subscribers."


def test_programs_get_an_object(measured: Measured) -> None:
    found = msgspec.json.decode(msgspec.json.encode(as_object(measured)))
    assert found["plan"] == {
        "subscribers": 6,
        "rate": 10.0,
        "publishers": 1,
        "size": 100,
        "duration": 10.0,
        "frozen": 1,
        "channels": 1,
        "ramp": 0.0,
        "drain": 5.0,
    }
    assert found["latency"]["p99.9"] == pytest.approx(0.004, rel=0.001)
    assert (found["deliveries"], found["expected"], found["not_sent"]) == (500, 500, 0)
    assert found["server_cpu_per_delivery"] == 0.001
    assert found["server_memory_per_connection"] == 10_000
    assert (found["limit"], found["faults"]) == ("none", [])
