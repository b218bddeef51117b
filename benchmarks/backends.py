"""How fast events are published through HTTP with each backend, and how long a publisher waits.

    python -m benchmarks.backends [--seconds 5] [--publishers 1,16,64] [--folder DIR] [--check]

Each publisher has a connection of its own and posts 200 bytes after each answer. By turns each backend is
started anew, with nobody subscribed: memory, a file with full durability, and one with normal. Beside that
stands how long `fdatasync` of 4 KiB takes in the same folder at that time: with full durability no answer
comes before one.

With `--check` it fails unless full durability reaches half of memory's rate with 64 publishers; where
`fdatasync` takes more than 1 ms, 0.8 x publishers / fdatasync is enough, since that is what the disk has to
give.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import (
    HOST,
    Check,
    Server,
    add_check,
    add_python,
    at_least,
    command_line,
    exit_status,
    ours,
    positive,
    print_checks,
    running,
    stop_on_sigterm,
)

DATA = b"x" * 200

REQUEST = (
    b"POST /send/c%d HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
)

SYNCS = 200
"""Times that `fdatasync` is measured."""

SLOW_SYNC = 0.001
"""Seconds beyond which the disk, and not the server, is what bounds full durability."""

WARM_UP = 0.5
"""Seconds that are not counted."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one backend did with so many publishers. Times are in seconds."""

    backend: str
    publishers: int
    rate: float
    median: float
    tail: float
    cpu: float
    sync: float


class Publisher(asyncio.Protocol):
    """Posts, and posts again when it is answered."""

    def __init__(self, number: int) -> None:
        self.delays: list[float] = []
        self.failed = 0
        self._request = REQUEST % (number % 100, len(DATA), DATA)
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Post the first event."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._post()

    def data_received(self, data: bytes) -> None:
        """Take an answer, which comes in one piece, and post the next event."""
        self.delays.append(time.perf_counter() - self._sent)
        self.failed += not data.startswith(b"HTTP/1.1 200 ")
        self._post()

    def stop(self) -> None:
        """Post no more."""
        if self._transport is not None:
            self._transport.abort()

    def _post(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def main() -> int:
    """Measure, print a table, and with --check say whether the bound holds."""
    parser = command_line("backends", __doc__)
    parser.add_argument("--seconds", type=positive, default=5, help="how long each is measured")
    parser.add_argument("--publishers", default="1,16,64", help="numbers of publishers, a comma list")
    parser.add_argument("--folder", type=Path, help="where the files go: the disk that is measured")
    add_python(parser)
    add_check(parser, "full durability is fast enough")
    chosen = parser.parse_args()
    stop_on_sigterm()
    runs = list(measured(chosen))
    checks = list(checked(runs))
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


def measured(chosen: argparse.Namespace) -> Iterator[Run]:
    """Measure each backend with each number of publishers, and print a line of each."""
    print(f"{'backend':>14} publishers  events/s  p50 ms  p99 ms  CPU us/event  fdatasync ms")
    for publishers in map(positive, chosen.publishers.split(",")):
        for backend in ("memory", "sqlite full", "sqlite normal"):
            with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
                run = measure(backend, publishers, Path(folder), chosen)
            print(
                f"{run.backend:>14} {run.publishers:10d} {run.rate:9,.0f} {run.median * 1e3:7.2f}"
                f" {run.tail * 1e3:7.2f} {run.cpu * 1e6:13.0f} {run.sync * 1e3:14.2f}",
                flush=True,
            )
            yield run


def measure(backend: str, publishers: int, folder: Path, chosen: argparse.Namespace) -> Run:
    """Measure one backend."""
    sync = sync_seconds(folder)
    flags = ["--publish-rate", "0", "--max-connections-per-address", "0", "--log-level", "warning"]
    if backend != "memory":
        flags += ["--backend", f"sqlite://{folder}/history.db", "--durability", backend.split()[1]]
    with running(ours(*flags, python=chosen.python)) as server:
        delays, cpu = asyncio.run(load(server, publishers, chosen.seconds))
    delays.sort()
    return Run(
        backend,
        publishers,
        len(delays) / chosen.seconds,
        statistics.median(delays),
        delays[int(len(delays) * 0.99)],
        cpu / len(delays),
        sync,
    )


async def load(server: Server, publishers: int, seconds: int) -> tuple[list[float], float]:
    """Run publishers, and return their delays and the server's CPU seconds."""
    loop = asyncio.get_running_loop()
    everyone = [Publisher(number) for number in range(publishers)]
    for each in everyone:
        await loop.create_connection(lambda each=each: each, HOST, server.port)  # type: ignore[misc]
    await asyncio.sleep(WARM_UP)
    for each in everyone:
        each.delays.clear()
    before = server.cpu()
    await asyncio.sleep(seconds)
    cpu = server.cpu() - before
    delays = [delay for each in everyone for delay in each.delays]
    for each in everyone:
        each.stop()
    if failed := sum(each.failed for each in everyone):
        sys.exit(f"{failed} publishes failed")
    return delays, cpu


def sync_seconds(folder: Path) -> float:
    """Return the median time that the disk takes for 4 KiB."""
    times = []
    descriptor = os.open(folder / "sync", os.O_CREAT | os.O_WRONLY)
    with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def checked(runs: list[Run]) -> Iterator[Check]:
    """Check that full durability is fast enough where most publish."""
    most = max(run.publishers for run in runs)
    by_name = {run.backend: run for run in runs if run.publishers == most}
    memory, full = by_name["memory"], by_name["sqlite full"]
    least = memory.rate * 0.5
    if full.sync > SLOW_SYNC:
        least = min(least, 0.8 * most / full.sync)
    yield at_least(f"events a second with full durability, {most} publishers", round(full.rate), round(least))


if __name__ == "__main__":
    sys.exit(main())
