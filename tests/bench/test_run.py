"""Whole runs, against servers that do what a benchmark must find, and against the real one."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from sse_broadcast.bench.payload import Markers
from sse_broadcast.bench.plan import Plan
from sse_broadcast.bench.run import Measured, run_bench
from sse_broadcast.bench.target import Target
from sse_broadcast.errors import ClientError
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import faulty_server
from tests.support.faulty_server import ACCEPTED, FaultyServer

faulty = pytest.fixture(faulty_server.faulty_servers)
Start = Callable[..., Awaitable[FaultyServer]]

PLAN = Plan(subscribers=3, rate=50, duration=0.4, drain=2.0)
"""Twenty events to three subscribers."""

BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


async def measure(url: str, plan: Plan = PLAN) -> Measured:
    return await run_bench(plan, Target(url, Markers().run))


def counts(measured: Measured) -> dict[str, int]:
    tally = measured.tally
    return {
        "lost": measured.lost,
        "repeats": tally.repeats,
        "late": tally.late,
        "deliveries": tally.deliveries,
    }


def perfect(measured: Measured) -> dict[str, int]:
    published = measured.sent.published
    return {"lost": 0, "repeats": 0, "late": 0, "deliveries": 3 * published}


async def test_a_faultless_server_has_no_fault(faulty: Start) -> None:
    measured = await measure((await faulty()).url)
    assert counts(measured) == perfect(measured)
    assert measured.expected == measured.tally.deliveries
    assert measured.connected == 3
    assert measured.tally.connect.count == 3
    assert not measured.tally.disconnects


async def test_losses_are_found_at_the_end_too(faulty: Start) -> None:
    """Of what was published, the third and whatever was the last are lost by all three."""
    plan = PLAN
    last = plan.events
    server = await faulty(plan=lambda number, message: [] if number in {3, last} else [message])
    measured = await measure(server.url)
    lost = 1 + (server.published == last)
    assert counts(measured) == perfect(measured) | {
        "lost": 3 * lost,
        "deliveries": 3 * (server.published - lost),
    }


async def test_repeats_are_found(faulty: Start) -> None:
    server = await faulty(plan=lambda number, message: [message, message] if number == 2 else [message])
    measured = await measure(server.url)
    assert counts(measured) == perfect(measured) | {
        "repeats": 3,
        "deliveries": 3 * (server.published + 1),
    }


async def test_disorder_is_found_and_is_no_loss(faulty: Start) -> None:
    held: list[bytes] = []

    def swap(number: int, message: bytes) -> Sequence[bytes]:
        if number == 2:
            held.append(message)
            return []
        return [message, *held] if number == 3 else [message]

    measured = await measure((await faulty(plan=swap)).url)
    assert counts(measured) == perfect(measured) | {"late": 3}


async def test_a_stall_is_seen_in_all_that_was_due_meanwhile(faulty: Start) -> None:
    """One event in flight would show one slow answer; a user had waited for each that was due."""
    plan = Plan(subscribers=1, rate=50, duration=2.0, drain=2.0)
    server = await faulty(stall={10: 1.0})
    measured = await measure(server.url, plan)
    latency = measured.tally.latency
    assert latency.percentile(100) >= 1.0
    # Fifty events were due in that second, evenly: forty of the hundred waited for 0.2 seconds or longer.
    assert latency.percentile(65) >= 0.2


async def test_refused_events_are_not_lost(faulty: Start) -> None:
    server = await faulty(
        plan=lambda number, message: [] if number == 4 else [message],
        status=lambda number: BUSY if number == 4 else ACCEPTED,
    )
    measured = await measure(server.url)
    assert counts(measured) == perfect(measured)
    assert measured.sent.failures == {"status 503": 1}


async def test_a_cut_is_told_with_what_was_missed(faulty: Start) -> None:
    server = await faulty(cut_after=5)
    measured = await measure(server.url)
    assert sum(measured.tally.disconnects.values()) == 3
    assert measured.lost == 0
    assert measured.lost_by_disconnected == 3 * (server.published - 5)


async def test_channels_and_publishers_are_spread(faulty: Start) -> None:
    server = await faulty()
    plan = Plan(subscribers=4, rate=60, duration=0.5, channels=2, publishers=3, drain=2.0)
    measured = await measure(server.url, plan)
    assert len(server.followers) == 2
    assert {len(each) for each in server.followers.values()} == {2}
    assert measured.tally.deliveries == measured.expected == 2 * measured.sent.published
    assert (measured.lost, measured.tally.misrouted) == (0, 0)


async def test_progress_is_told(faulty: Start) -> None:
    told: list[tuple[str, int, int]] = []
    target = Target((await faulty()).url, Markers().run)
    await run_bench(PLAN, target, progress=lambda *said: told.append(said))
    assert ("connecting", 3, 3) in told
    assert told[-1][0] == "publishing"


async def test_the_real_server_has_no_fault(server: Server) -> None:
    plan = Plan(subscribers=50, rate=40, duration=0.5, publishers=2, channels=2, ramp=0.1, drain=2.0)
    measured = await measure(server.url, plan)
    assert measured.connected == 50
    assert measured.tally.deliveries == measured.expected == 25 * measured.sent.published
    assert (measured.lost, measured.tally.repeats, measured.tally.late, measured.tally.resets) == (0, 0, 0, 0)
    # The server is this very process.
    assert measured.server_cpu is not None
    assert measured.server_memory is not None


async def test_a_frozen_subscriber_is_evicted_by_the_real_server(serve: Serve) -> None:
    server = await serve(queue_size=5, send_buffer=4096)
    plan = Plan(subscribers=4, frozen=1, rate=50, duration=1.0, size=20_000, drain=2.0)
    measured = await measure(server.url, plan)
    assert measured.evicted == 1
    assert measured.tally.deliveries == measured.expected == 3 * measured.sent.published
    assert not measured.tally.disconnects


async def test_a_server_that_refuses_subscribers_is_an_error(serve: Serve) -> None:
    server = await serve(token="a-token-that-is-random-0123456789")
    with pytest.raises(ClientError, match=r"cannot subscribe at http://127.0.0.1:\d+: status 401"):
        await measure(server.url)


async def test_a_server_that_takes_no_event_is_an_error(faulty: Start) -> None:
    server = await faulty(plan=lambda *_: [], status=lambda _: BUSY)
    with pytest.raises(ClientError, match=r"cannot publish at http://127.0.0.1:\d+: status 503"):
        await measure(server.url)


async def test_nobody_listens() -> None:
    with pytest.raises(ClientError, match=r"cannot subscribe at http://127.0.0.1:1: refused"):
        await measure("http://127.0.0.1:1")


async def test_more_descriptors_than_may_be_had_are_told() -> None:
    with pytest.raises(
        ClientError, match=r"^\d+ descriptors are needed, and the limit is \d+: ulimit -Hn \d+$"
    ):
        await measure("http://127.0.0.1:1", Plan(subscribers=2_000_000_000))
