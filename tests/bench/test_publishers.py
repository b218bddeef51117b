"""Publishers of a run."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from sse_broadcast.bench.http_connection import resolve
from sse_broadcast.bench.payload import Markers
from sse_broadcast.bench.plan import Plan
from sse_broadcast.bench.publishers import LoadPublisher, PublishTally
from sse_broadcast.bench.target import Target
from tests.support import faulty_server
from tests.support.faulty_server import ACCEPTED, FaultyServer

faulty = pytest.fixture(faulty_server.faulty_servers)
Start = Callable[..., Awaitable[FaultyServer]]

CLOSES = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


def keep(messages: list[bytes]) -> Callable[[int, bytes], Sequence[bytes]]:
    """Return a plan that keeps what is published."""

    def plan(_: int, message: bytes) -> Sequence[bytes]:
        messages.append(message)
        return []

    return plan


async def publish(server: FaultyServer, plan: Plan) -> PublishTally:
    sent, address = PublishTally(), await resolve(server.url)
    publisher = LoadPublisher(0, plan, Target(server.url, "abc"), address, Markers("abc"), sent)
    try:
        await publisher.connect()
        await publisher.publish(time.monotonic())
    finally:
        publisher.close()
    return sent


async def test_events_go_over_one_kept_connection_in_order(faulty: Start) -> None:
    messages: list[bytes] = []
    server = await faulty(plan=keep(messages))
    sent = await publish(server, Plan(rate=100, duration=0.5, size=0))
    assert sent.published == len(messages) == server.published
    assert [message.split()[2] for message in messages[:3]] == [b"S1", b"S2", b"S3"]


async def test_a_server_that_stalls_makes_the_next_ones_late(faulty: Start) -> None:
    """They are sent when they can be, and say when they were due."""
    messages: list[bytes] = []
    server = await faulty(plan=keep(messages), stall={2: 0.2})
    sent = await publish(server, Plan(rate=20, duration=10 / 20, size=0))
    assert sent.answer.percentile(100) >= 0.2
    due = [float(message.split()[0][1:]) for message in messages]
    assert {round(later - first, 3) for first, later in itertools.pairwise(due)} == {0.05}


async def test_a_refusal_is_counted_and_not_published(faulty: Start) -> None:
    server = await faulty(status=lambda number: BUSY if number == 2 else ACCEPTED)
    sent = await publish(server, Plan(rate=100, duration=0.5))
    assert sent.failures["status 503"] == 1
    assert sent.failed[0, 0] == {2}
    assert sent.published == server.published - 1


async def test_a_connection_that_is_closed_is_opened_again(faulty: Start) -> None:
    server = await faulty(status=lambda number: CLOSES if number == 1 else ACCEPTED)
    sent = await publish(server, Plan(rate=100, duration=0.5))
    assert not sent.failures
    assert sent.published == server.published >= 2


async def test_the_load_ends_when_it_is_over(faulty: Start) -> None:
    """Whatever is still due: at an impossible rate nearly all of it."""
    plan = Plan(rate=1e6, duration=0.2)
    sent = await publish(await faulty(), plan)
    assert 0 < sent.published < plan.events


async def test_nobody_listens(faulty: Start) -> None:
    with pytest.raises(OSError, match="Connect"):
        await asyncio.wait_for(publish(FaultyServer(url="http://127.0.0.1:1"), Plan()), 30)
