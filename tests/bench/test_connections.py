"""Who reads the sockets of subscribers."""

import asyncio
import time
from collections.abc import Callable

import pytest

from sse_broadcast.bench.connections import (
    Connections,
    ProtocolConnections,
    SocketConnections,
    connections_to,
)
from sse_broadcast.bench.http_connection import PeerAddress, resolve
from sse_broadcast.bench.payload import Marker, Markers
from sse_broadcast.bench.subscribers import Subscription, Tally
from tests.support.acceptor import accepting
from tests.support.scripted import STREAM, chunk
from tests.support.sockets import PATIENCE, until

RUN = "abc"

EACH = pytest.mark.parametrize("make", [SocketConnections, ProtocolConnections])
Make = Callable[[PeerAddress], Connections]

pytestmark = pytest.mark.both_loops


def event(sequence: int) -> bytes:
    text = Markers(RUN).encode(Marker(time.monotonic(), 0, sequence, 0), size=80)
    return chunk(f"data: {text}\n\n".encode())


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a request with a stream of two events, and cut it."""
    assert await reader.readuntil(b"\r\n\r\n") == b"GET / HTTP/1.1\r\n\r\n"
    writer.write(STREAM + event(1))
    await writer.drain()
    writer.write(event(2))
    await writer.drain()


@EACH
async def test_what_arrives_is_counted_until_the_end(make: Make) -> None:
    tally = Tally(Markers(RUN))
    one = Subscription(tally, channel=0, publishers=1, frozen=False)
    async with accepting(talk) as acceptor:
        connections = make(await resolve(f"http://127.0.0.1:{acceptor.port}"))
        await connections.open(one, b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: bool(tally.disconnects))
        connections.close()
    assert (tally.deliveries, dict(tally.disconnects)) == (2, {"cut off": 1})
    assert one.check.lost(0, sent=2) == 0


async def test_arrival_is_when_the_kernel_had_it() -> None:
    """Not when this process came to read it, which may be busy with other subscribers."""
    tally = Tally(Markers(RUN))
    one = Subscription(tally, channel=0, publishers=1, frozen=False)
    writers: list[asyncio.StreamWriter] = []

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM)
        writers.append(writer)
        await asyncio.Event().wait()

    async def age_of_next(sequence: int) -> float:
        """Return how long ago an event had arrived when it was read, 0.1 seconds after it was written."""
        writers[0].write(event(sequence))
        time.sleep(0.1)  # nobody reads meanwhile: there is one loop
        await until(lambda: tally.deliveries == sequence)
        return time.monotonic() - tally.last_delivery

    async with accepting(stream) as acceptor, asyncio.timeout(PATIENCE):
        connections = SocketConnections(await resolve(f"http://127.0.0.1:{acceptor.port}"))
        await connections.open(one, b"GET / HTTP/1.1\r\n\r\n")
        await one.opened
        sequence = 1
        # The kernel begins to stamp some time after the first socket of the machine has asked for it.
        while await age_of_next(sequence) < 0.1:
            sequence += 1
        one.close()
        connections.close()


@EACH
async def test_a_frozen_subscriber_takes_nothing_more(make: Make) -> None:
    tally = Tally(Markers(RUN))
    one = Subscription(tally, channel=0, publishers=1, frozen=True)
    full = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM)
        await writer.drain()
        writer.transport.set_write_buffer_limits(0)
        writer.write(chunk(b"x" * (1 << 24)))
        full.set()
        await asyncio.Event().wait()

    async with accepting(flood) as acceptor:
        connections = make(await resolve(f"http://127.0.0.1:{acceptor.port}"))
        await connections.open(one, b"GET / HTTP/1.1\r\n\r\n")
        assert await one.opened
        await full.wait()
        assert one.is_open
        one.close()
        connections.close()
    assert tally.bytes < 1 << 24


@EACH
async def test_a_frozen_subscriber_finds_its_end_when_it_reads_on(make: Make) -> None:
    """Behind what the kernel had already taken for it, which is not counted."""
    tally = Tally(Markers(RUN))
    one = Subscription(tally, channel=0, publishers=1, frozen=True)
    ended = asyncio.Event()

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM)
        await one.opened
        writer.write(event(1))
        ended.set()

    async with accepting(end) as acceptor:
        connections = make(await resolve(f"http://127.0.0.1:{acceptor.port}"))
        await connections.open(one, b"GET / HTTP/1.1\r\n\r\n")
        await ended.wait()
        assert one.is_open
        one.thaw()
        await until(lambda: not one.is_open)
        connections.close()
    assert (tally.deliveries, dict(tally.disconnects)) == (0, {})


async def test_tls_is_read_by_the_event_loop() -> None:
    """Its bytes are no event's until OpenSSL has decrypted them."""
    assert isinstance(connections_to(await resolve("https://127.0.0.1:1")), ProtocolConnections)
    plain = connections_to(await resolve("http://127.0.0.1:1"))
    assert isinstance(plain, SocketConnections)
    plain.close()
