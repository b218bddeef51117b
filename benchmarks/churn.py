"""Connections that come and go in every way they can: what stays behind in the server.

    python -m benchmarks.churn [--cycles 50000] [--workers 50]

One server process with its default settings, and clients that connect and leave, by turns in
each way of `WAYS`, while events are published. After 5,000 cycles of warming up, and then after
each tenth of the cycles, the server must come to rest, and is looked at: resident memory,
descriptors, sockets. Checked:

- every way of leaving works as it should, and leaves nobody connected;
- descriptors and sockets are as many as before the load;
- memory after the last tenth is at most 3 % and 2 MiB above that after the first;
- every reader that was counted as opened was counted as closed.
"""

import argparse
import asyncio
import contextlib
import itertools
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from benchmarks.harness import (
    HOST,
    Check,
    Server,
    Status,
    at_most,
    command_line,
    exactly,
    exit_status,
    ours,
    positive,
    print_checks,
    running,
    stop_on_sigterm,
)

MIB = 1024 * 1024

TENTHS = 10

WARM_UP = 5000
"""Cycles until memory says something: what the first of them need is kept for those that come."""

CYCLE_TIMEOUT = 10.0
"""Seconds one connection may take from its first step to its last."""

REST_TIMEOUT = 30.0
"""Seconds after a tenth within which the server has let go of everything."""

PUBLISH_EVERY = 0.02
"""Seconds between two events; who waits for one waits half of that."""

RESET = struct.pack("ii", 1, 0)

REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
OLD_REQUEST = b"GET /events HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
HALF_REQUEST = REQUEST[: len(REQUEST) // 2]
PUBLISH = (
    b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nchurn"
)


class Client:
    """One connection, from an address of the worker's own: one address would run out of ports."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        self._socket.settimeout(0)
        self._socket.bind((address, 0))

    async def connect(self, port: int) -> None:
        """Connect."""
        await self._loop.sock_connect(self._socket, (HOST, port))

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self._loop.sock_sendall(self._socket, data)

    async def read_until(self, mark: bytes) -> bytes:
        """Read until the mark has come, and give all of it. Raises `ConnectionError` at an end before."""
        seen = b""
        while mark not in seen:
            data = await self._loop.sock_recv(self._socket, 65_536)
            if not data:
                raise ConnectionError(f"the stream ended before {mark!r}")
            seen += data
        return seen

    async def read_to_end(self) -> None:
        """Read until the server has closed."""
        while await self._loop.sock_recv(self._socket, 65_536):
            pass

    async def follow(self, request: bytes) -> None:
        """Become a reader: ask, and wait for the head. Raises `ConnectionError` if it is a refusal."""
        await self.send(request)
        status, _, _ = (await self.read_until(b"\r\n\r\n")).partition(b"\r\n")
        if not status.endswith(b" 200 OK"):
            raise ConnectionError(f"was answered {status!r}")

    def shut(self) -> None:
        """Close the sending side."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Let `close` send a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def close(self) -> None:
        """Close: with a FIN, unless a RST was asked for."""
        self._socket.close()


async def fin(client: Client) -> None:
    """Read the head, then close."""
    await client.follow(REQUEST)


async def rst(client: Client) -> None:
    """Read the head, then reset."""
    await client.follow(REQUEST)
    client.reset()


async def rst_at_once(client: Client) -> None:
    """Reset right behind the request."""
    await client.send(REQUEST)
    client.reset()


async def half_close(client: Client) -> None:
    """Read the head, say that nothing more will be sent, and wait for the server to close."""
    await client.follow(REQUEST)
    client.shut()
    await client.read_to_end()


async def silent(client: Client) -> None:
    """Close without a word."""


async def half_request(client: Client) -> None:
    """Close in the middle of the request."""
    await client.send(HALF_REQUEST)


async def http_1_0(client: Client) -> None:
    """Read the head as a client of HTTP/1.0, then close."""
    await client.follow(OLD_REQUEST)


async def one_event(client: Client) -> None:
    """Read up to the first event, then close."""
    await client.send(REQUEST)
    await client.read_until(b"data: churn\n\n")


WAYS: tuple[Callable[[Client], Awaitable[None]], ...] = (
    fin,
    rst,
    rst_at_once,
    half_close,
    silent,
    half_request,
    http_1_0,
    one_event,
)


class Churn:
    """Workers that take cycle after cycle, and what went wrong with them."""

    def __init__(self, port: int, workers: int) -> None:
        self._port = port
        self._workers = workers
        self.failures: Counter[str] = Counter()

    async def go(self, cycles: range) -> None:
        """Do these cycles, and publish meanwhile."""
        waiting = iter(cycles)
        async with self._publishing():
            await asyncio.gather(*(self._work(waiting, f"127.0.1.{n + 1}") for n in range(self._workers)))

    async def _work(self, waiting: Iterator[int], address: str) -> None:
        # All workers share one iterator: each takes the next cycle nobody has taken.
        for cycle in waiting:
            way = WAYS[cycle % len(WAYS)]
            try:
                async with asyncio.timeout(CYCLE_TIMEOUT):
                    await self._cycle(way, address)
            except (OSError, TimeoutError) as error:
                self.failures[f"{way.__name__}: {error!r}"] += 1

    async def _cycle(self, way: Callable[[Client], Awaitable[None]], address: str) -> None:
        with contextlib.closing(Client(address)) as client:
            await client.connect(self._port)
            await way(client)

    @contextlib.asynccontextmanager
    async def _publishing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(self._publish())
            yield
            publishing.cancel()

    async def _publish(self) -> None:
        with contextlib.closing(Client(HOST)) as client:
            await client.connect(self._port)
            while True:
                await client.send(PUBLISH)
                if b'"status":"sent"' not in await client.read_until(b"}"):
                    raise ConnectionError("a publish was refused")
                await asyncio.sleep(PUBLISH_EVERY)


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's state at rest."""

    resident: int
    descriptors: int
    sockets: int
    readers: int
    waited: float

    @classmethod
    def take(cls, server: Server, status: Status, *, waited: float = 0.0) -> Self:
        """Look at the server; `waited` is how many seconds it took to come to rest."""
        readers = status.ask()["connected_clients"]
        return cls(server.resident(), server.descriptors(), server.sockets(), readers, waited)


def main() -> int:
    """Churn, print what is left after each tenth, and say whether that is right."""
    chosen = arguments()
    stop_on_sigterm()
    with running(ours()) as server, Status(server.port) as status:
        churn = Churn(server.port, chosen.workers)
        before = Sample.take(server, status)
        print_head(before)
        asyncio.run(churn.go(range(WARM_UP)))
        samples = list(tenths(churn, server, status, cycles=chosen.cycles))
        checks = list(checked(before, samples, status.ask()))
    checks.append(exactly("cycles that went wrong", churn.failures.total(), 0))
    for failure, count in churn.failures.most_common():
        print(f"  went wrong: {failure}, {count} times")
    print_checks(checks)
    return exit_status(checks)


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("churn", __doc__)
    parser.add_argument("--cycles", type=positive, default=50_000, help="how many connections come and go")
    parser.add_argument("--workers", type=positive, default=50, help="how many of them at one time")
    chosen = parser.parse_args()
    if chosen.cycles < TENTHS:
        parser.error(f"--cycles: at least {TENTHS}")
    if chosen.workers > 254:
        parser.error("--workers: 1 to 254, since each has an address of its own")
    return chosen


def tenths(churn: Churn, server: Server, status: Status, *, cycles: int) -> Iterator[Sample]:
    """Churn by tenths, and give what is left after each."""
    marks = [cycles * tenth // TENTHS for tenth in range(TENTHS + 1)]
    for begin, end in itertools.pairwise(marks):
        started = time.monotonic()
        asyncio.run(churn.go(range(begin, end)))
        took = time.monotonic() - started
        sample = at_rest(server, status)
        print_sample(f"{end:,}", took, sample)
        yield sample


def at_rest(server: Server, status: Status) -> Sample:
    """Wait until nobody is connected but who asks for the status, or for too long."""
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        sample = Sample.take(server, status, waited=waited)
        if (not sample.readers and sample.sockets == 1) or waited > REST_TIMEOUT:
            return sample
        time.sleep(0.05)


def print_head(before: Sample) -> None:
    """Print the table's head, and what there was before any load."""
    print("  cycles   seconds   to rest   RSS MiB   descriptors   sockets   readers")
    print_sample("before", 0.0, before)


def print_sample(cycles: str, seconds: float, sample: Sample) -> None:
    """Print a line of the table."""
    times = f"{seconds:>8.1f}  {sample.waited:>8.2f}"
    left = f"{sample.descriptors:>12}  {sample.sockets:>8}  {sample.readers:>8}"
    print(f"{cycles:>8}  {times}  {sample.resident / MIB:>8.1f}  {left}", flush=True)


def checked(before: Sample, samples: list[Sample], counts: Mapping[str, object]) -> Iterator[Check]:
    """Check that nothing was left behind."""
    first, last = samples[0], samples[-1]
    yield exactly("readers connected at the end", last.readers, 0)
    yield exactly("descriptors", last.descriptors, before.descriptors)
    yield exactly("sockets", last.sockets, before.sockets)
    yield at_most("memory after the last tenth", last.resident / MIB, first.resident / MIB * 1.03 + 2, " MiB")
    opened, closed = counts["opened"], counts["closed"]
    assert isinstance(opened, int)
    assert isinstance(closed, dict)
    yield exactly(f"readers closed ({closed})", sum(closed.values()), opened)


if __name__ == "__main__":
    sys.exit(main())
