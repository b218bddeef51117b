"""Stream sink: clients that stop reading, over real sockets."""

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from sse_broadcast.config.schema import Overflow
from tests.conftest import LiveServer, Patch, Serve
from tests.support.internals import outboxes_of
from tests.support.sockets import RawClient, until

MESSAGE = "x" * 4000
SMALL = {"send_buffer": 16_384, "queue_size": 20, "heartbeat": 3600.0}


def kernel_sockets(server_port: int, client_port: int) -> list[str]:
    """Return the states that the kernel has for the server's socket of this client."""
    local, remote = f"0100007F:{server_port:04X}", f"0100007F:{client_port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[3] for row in rows if row[1] == local and row[2] == remote]


async def freeze(server: LiveServer, *, messages: int) -> RawClient:
    """Open a stream that is never read, and publish until its socket is full."""
    frozen = await server.connect(receive_buffer=4096)
    await frozen.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: server.broadcaster.client_count >= 1)
    for _ in range(messages):
        await server.broadcaster.broadcast(MESSAGE)
        await asyncio.sleep(0)
    return frozen


@pytest.mark.parametrize("overflow", list(Overflow))
async def test_a_frozen_client_is_disconnected_and_its_socket_closed(
    serve: Serve, overflow: Overflow
) -> None:
    """With each overflow policy it is gone from the hub, aiohttp and the kernel."""
    server = await serve(**SMALL, overflow=overflow, write_timeout=0.3)
    frozen = await freeze(server, messages=200)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.client_count == 0
    counts = server.broadcaster.counts
    assert counts.aborted == 1
    drops = overflow in {Overflow.DROP_OLDEST, Overflow.DROP_NEWEST}
    assert counts.closed == ({"stalled": 1} if drops else {"slow": 1})
    assert (counts.dropped.get(overflow, 0) > 0) == drops
    assert kernel_sockets(server.port, frozen.port) == []


async def test_a_frozen_client_affects_no_other(serve: Serve) -> None:
    """The other subscriber gets every event in order."""
    server, subscriber = await serve.connected(**SMALL, write_timeout=30)
    await subscriber.subscribe()
    await freeze(server, messages=0)
    await until(lambda: server.broadcaster.client_count == 2)
    for number in range(300):
        await server.broadcaster.broadcast(f"{number} {MESSAGE}")
        (event,) = await subscriber.events(1)
        assert event.data == f"{number} {MESSAGE}"
    assert server.broadcaster.counts.closed == {"slow": 1}


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_a_client_that_reads_again_gets_a_reset(serve: Serve, overflow: Overflow) -> None:
    """The events and the counts of its resets are all that was published, in order."""
    server = await serve(**SMALL, overflow=overflow, write_timeout=30)
    sleeper = await server.live(receive_buffer=4096)
    for number in range(200):
        await server.broadcaster.broadcast(f"{number} {MESSAGE}")
        await asyncio.sleep(0)
    missed = server.broadcaster.counts.dropped[overflow]
    events = await sleeper.events(200 - missed + 1)
    (place,) = [index for index, event in enumerate(events) if event.type == "$reset"]
    assert events[place].data == f'{{"reason": "slow", "channels": ["default"], "missed": {missed}}}'
    seen = [int(event.data.split()[0]) for event in events if event.type == "message"]
    gap = range(place, place + missed)
    assert seen == [number for number in range(200) if number not in gap]


async def test_partial_progress_does_not_extend_the_deadline(serve: Serve) -> None:
    """The client reads a byte now and then."""
    server = await serve(**SMALL, overflow=Overflow.DROP_OLDEST, write_timeout=0.5)
    miser = await freeze(server, messages=200)
    loop = asyncio.get_running_loop()
    while server.broadcaster.client_count:
        await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(loop.sock_recv(miser.sock, 1), 30)
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.closed == {"stalled": 1}


async def test_the_end_of_a_frozen_stream_takes_limited_time(serve: Serve) -> None:
    server = await serve(**SMALL, overflow=Overflow.DROP_OLDEST, write_timeout=60)
    frozen = await freeze(server, messages=200)
    await server.broadcaster.close(timeout=0.2)
    await until(lambda: server.connections == 0)
    assert kernel_sockets(server.port, frozen.port) == []


async def test_a_sink_can_be_full_before_its_stream_begins(serve: Serve, monkeypatch: Patch) -> None:
    """Nothing is written after a head that the kernel has not accepted whole."""
    server = await serve(**SMALL, write_timeout=30, overflow=Overflow.DROP_OLDEST)
    monkeypatch.setattr(server.broadcaster, "first_frames", lambda *_: b":" * 3_000_000 + b"\n")
    frozen = await server.connect(receive_buffer=4096)
    await frozen.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: server.broadcaster.client_count == 1)
    (outbox,) = outboxes_of(server.broadcaster)
    assert outbox.blocked
    for _ in range(50):
        await server.broadcaster.broadcast(MESSAGE)
        await asyncio.sleep(0)
    assert server.broadcaster.counts.dropped[Overflow.DROP_OLDEST] == 30
    assert len(outbox.subscriber) == 20


async def test_a_slow_client_gets_the_whole_of_a_large_event(serve: Serve) -> None:
    """A megabyte passes through small buffers, and the next event follows."""
    server = await serve(send_buffer=16_384)
    reader = await server.subscriber(receive_buffer=4096)
    data = "0123456789" * 100_000
    await server.broadcaster.broadcast(data)
    await server.broadcaster.broadcast("next")
    events = await reader.events(2)
    assert [event.data for event in events] == [data, "next"]


async def test_a_slow_client_of_a_fast_stream_gets_every_event(serve: Serve) -> None:
    """Its sink fills and empties many times, between its own queue and the shared log."""
    server = await serve(send_buffer=16_384, queue_size=100_000, queue_bytes=100_000_000)
    reader = await server.subscriber(receive_buffer=4096)

    async def publish() -> None:
        for number in range(5000):
            await server.broadcaster.broadcast(f"{number} {'x' * (number % 700)}")
            if number % 7 == 0:
                await asyncio.sleep(0)

    publishing = asyncio.ensure_future(publish())
    seen: list[int] = []
    while len(seen) < 5000:
        data = await reader.chunk()
        seen += [int(number) for number in re.findall(rb"data: (\d+) ", data)]
    await publishing
    assert seen == list(range(5000))
