"""Who was the limit, and what was wrong."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sse_broadcast.bench.histogram import LatencyHistogram
from sse_broadcast.bench.payload import Markers
from sse_broadcast.bench.plan import Plan
from sse_broadcast.bench.publishers import PublishTally
from sse_broadcast.bench.run import Measured, run_bench
from sse_broadcast.bench.subscribers import Tally
from sse_broadcast.bench.target import Target
from sse_broadcast.bench.verdict import judge
from tests.support import faulty_server
from tests.support.faulty_server import FaultyServer

faulty = pytest.fixture(faulty_server.faulty_servers)
Start = Callable[..., Awaitable[FaultyServer]]


def measured(*, published: int = 100, lag: float = 0.001, answer: float = 0.001, **said: Any) -> Measured:
    """Return what was measured in ten seconds, of a hundred events that were due."""
    sent = PublishTally()
    sent.published = published
    sent.answer.record(answer)
    late = LatencyHistogram()
    late.record(lag)
    plan = Plan(rate=10, duration=10)
    return Measured(plan, "http://x", Tally(Markers("abc")), sent, late, load_seconds=10.0, **said)


def test_a_rate_that_was_reached_has_no_limit() -> None:
    verdict = judge(measured(own_cpu=2.0))
    assert (verdict.limit, verdict.faults) == ("none", ())


@pytest.mark.parametrize("busy", [{"own_cpu": 9.5}, {"lag": 0.05}], ids=["CPU", "late loop"])
def test_a_busy_load_generator_was_the_limit(busy: dict[str, float]) -> None:
    verdict = judge(measured(published=50, server_cpu=9.9, **busy))
    assert verdict.limit == "generator"
    assert verdict.sentence.startswith("The load generator was the limit, and not the server: it used ")


def test_a_busy_load_generator_says_so_even_if_the_rate_was_reached() -> None:
    verdict = judge(measured(own_cpu=9.5))
    assert verdict.sentence.startswith(
        "The load generator was busy, which the latencies include: it used 95% "
    )


def test_a_busy_server_was_the_limit() -> None:
    verdict = judge(measured(published=50, own_cpu=1.0, server_cpu=9.7))
    assert (verdict.limit, verdict.sentence) == ("server", "The server was the limit: it used 97% of a core.")


def test_publishers_that_wait_are_the_load_generator_s_limit() -> None:
    verdict = judge(measured(published=50, own_cpu=1.0, answer=0.2))
    assert verdict.limit == "publishers"
    assert verdict.sentence == (
        "The load generator was the limit, and not the server: its 1 publisher wait for each answer, "
        "200.00 ms on average, and so publish 5 events a second at most. Use --publishers 3."
    )


def test_each_fault_is_named() -> None:
    wrong = measured(lost=3, lost_by_disconnected=1)
    wrong.tally.repeats, wrong.tally.late, wrong.tally.misrouted = 2, 1, 5
    assert judge(wrong).faults == (
        "3 events lost",
        "1 event lost by disconnected subscribers",
        "2 events repeated",
        "1 event out of order",
        "5 events on the wrong channel",
    )


async def test_an_impossible_rate_was_the_load_generator_s_limit(faulty: Start) -> None:
    """No server answers a million publishes a second of one publisher."""
    server = await faulty()
    found = await run_bench(
        Plan(subscribers=1, rate=1e6, duration=0.3, drain=2.0), Target(server.url, Markers().run)
    )
    verdict = judge(found)
    assert verdict.limit in {"generator", "publishers"}
    assert verdict.sentence.startswith("The load generator was the limit, and not the server: ")
