"""Subscribers that catch up from a file: how long that takes, and what others notice meanwhile.

    python -m benchmarks.old_pages [--subscribers 1000] [--events 10000] [--rate 500] [--folder DIR] [--check]

By turns with history in memory, and in a file of which memory has next to nothing. So many events are
published; then all subscribers come at once to be given them, while others are published on a channel that
one more subscriber follows, so many a second. Measured: the seconds until everyone has everything, the CPU
seconds of the server, and the delay of the live events from publish to arrival.

With `--check` it fails unless everyone was given everything, and the 99th percentile of the live delay is
within 1.5 times that of memory.
"""

import argparse
import asyncio
import contextlib
import http.client
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.harness import (
    HOST,
    Check,
    Server,
    add_check,
    add_python,
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

BATCH = 500
"""Events of one publish, when the history is filled."""

DATA = "x" * 100

FACTOR = 1.5
"""How many times memory's live delay a file may cause."""

DEADLINE = 180.0
"""Seconds after which a server that has not given everything has failed."""

ROOM = ["--history-size", "1000000", "--history-bytes", str(1 << 30), "--history-total", str(1 << 30)]


@dataclass(frozen=True, slots=True)
class Run:
    """What one backend did. Times are in seconds."""

    backend: str
    seconds: float
    cpu: float
    delays: list[float]
    complete: int

    def tail(self, share: float) -> float:
        """Return a percentile of the live delay."""
        return sorted(self.delays)[int(len(self.delays) * share)]


class Reader(asyncio.Protocol):
    """Counts the events of one stream."""

    def __init__(self, path: str, wanted: int, done: "asyncio.Future[None]") -> None:
        self.count = 0
        self._path = path
        self._wanted = wanted
        self._done = done
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {self._path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Count what has come; a mark may be cut in two."""
        data = self._rest + data
        self.count += data.count(b"\ndata: x")
        self._rest = data[-7:] if b"\ndata: x" not in data[-7:] else b""
        if self.count >= self._wanted and not self._done.done():
            self._done.set_result(None)


def crowd(port: int, subscribers: int, events: int, told: Connection) -> None:
    """Let subscribers catch up in a process of their own, and report how many have everything."""
    told.send(asyncio.run(_crowd(port, subscribers, events)))


async def _crowd(port: int, subscribers: int, events: int) -> int:
    loop = asyncio.get_running_loop()
    everyone = []
    for _ in range(subscribers):
        done = loop.create_future()
        reader = Reader("/events/old?since=earliest", events, done)
        await loop.create_connection(lambda reader=reader: reader, HOST, port)  # type: ignore[misc]
        everyone.append((reader, done))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(done for _, done in everyone))
    return sum(reader.count == events for reader, _ in everyone)


def fill(server: Server, events: int) -> None:
    """Publish the history, in batches."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
    for _ in range(0, events, BATCH):
        body = f'{{"message":"{DATA}"}}\n' * BATCH
        connection.request("POST", "/send/old", body, {"Content-Type": "application/x-ndjson"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            sys.exit(f"a publish was answered with {answer.status}")
    connection.close()


async def live(server: Server, rate: int, over: asyncio.Event) -> list[float]:
    """Publish so many events a second, and return how long each took to the subscriber that follows them."""
    delays: list[float] = []
    following = asyncio.create_task(_follow(server.port, delays))
    await asyncio.sleep(0.5)
    reader, writer = await asyncio.open_connection(HOST, server.port)
    taking = asyncio.create_task(_take(reader))
    began, count = time.perf_counter(), 0
    while not over.is_set():
        data = f"{time.perf_counter():.6f}".encode()
        writer.write(
            b"POST /send/live HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
        )
        count += 1
        await asyncio.sleep(max(0.0, began + count / rate - time.perf_counter()))
    await asyncio.sleep(1.0)
    for task in (following, taking):
        task.cancel()
    writer.close()
    return delays


async def _take(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def _follow(port: int, delays: list[float]) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(b"GET /events/live HTTP/1.0\r\nHost: localhost\r\n\r\n")
        async for line in reader:
            if line.startswith(b"data: ") and line[6:7].isdigit():
                delays.append(time.perf_counter() - float(line[6:]))  # noqa: PERF401 - as they come
    finally:
        writer.close()


async def measure(backend: str, server: Server, chosen: argparse.Namespace) -> Run:
    """Let all subscribers catch up while live events arrive."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    watching = asyncio.create_task(live(server, chosen.rate, over))
    await asyncio.sleep(1.5)
    ours_end, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=crowd, args=(server.port, chosen.subscribers, chosen.events, theirs)
    )
    cpu, began = server.cpu(), time.perf_counter()
    process.start()
    complete = await loop.run_in_executor(None, ours_end.recv)
    seconds, cpu = time.perf_counter() - began, server.cpu() - cpu
    over.set()
    delays = await watching
    process.join()
    return Run(backend, seconds, cpu, delays, complete)


def measured(chosen: argparse.Namespace) -> Iterator[Run]:
    """Measure both, and print a line of each."""
    print(f"{'backend':>8}  seconds  CPU s  live p50 ms  live p99 ms  live events")
    for backend in ("memory", "sqlite"):
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            flags = [
                *ROOM,
                "--publish-rate",
                "0",
                "--max-connections-per-address",
                "0",
                "--log-level",
                "warning",
            ]
            if backend == "sqlite":
                flags += ["--backend", f"sqlite://{folder}/history.db", "--history-memory", "100000"]
            with running(ours(*flags, python=chosen.python)) as server:
                fill(server, chosen.events)
                run = asyncio.run(measure(backend, server, chosen))
        print(
            f"{backend:>8} {run.seconds:8.2f} {run.cpu:6.2f} {run.tail(0.5) * 1e3:12.2f}"
            f" {run.tail(0.99) * 1e3:12.2f} {len(run.delays):12,}",
            flush=True,
        )
        yield run


def main() -> int:
    """Measure, and with --check say whether the bounds hold."""
    parser = command_line("old_pages", __doc__)
    parser.add_argument("--subscribers", type=positive, default=1000, help="how many come back at once")
    parser.add_argument("--events", type=positive, default=10_000, help="how many each has missed")
    parser.add_argument("--rate", type=positive, default=500, help="live events a second")
    parser.add_argument("--folder", type=Path, help="where the file goes")
    add_python(parser)
    add_check(parser)
    chosen = parser.parse_args()
    stop_on_sigterm()
    memory, sqlite = measured(chosen)
    checks = [
        *(
            exactly(f"subscribers with everything, {run.backend}", run.complete, chosen.subscribers)
            for run in (memory, sqlite)
        ),
        at_most("live p99 beside a file", sqlite.tail(0.99) * 1e3, FACTOR * memory.tail(0.99) * 1e3, " ms"),
    ]
    found: list[Check] = checks
    print_checks(found)
    return exit_status(found) if chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
