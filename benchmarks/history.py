"""What the history takes in memory, beside what it counts.

    python -m benchmarks.history [--sizes 50,500,5000] [--total 134217728] [--channels 100000]
                                 [--python PATH] [--check]

The history counts `2 * frame + PUBLICATION_COST` bytes for an event (`backends/memory/weights.py`):
its text twice, as data and as a frame, and whatever else comes with it. `history_total` bounds
that count. For each size a server is filled in batches up to that bound and as far again
beyond it, and its resident memory is looked at when it is

  held       full, and has evicted as many events as it holds
  read       and one reader has read all of it, as text, so that each event has its frame
  churned    and as many again were published and evicted, with that reader following
  formats    and all of it was read as text, as envelopes and as NDJSON: three frames an event

Another server is given one event in each of 100,000 channels.

Printed is by how much the process grew, what that is for each event, and with which PUBLICATION_COST the
history would have counted just that. With --check the exit status is 1 unless the process grew
by at most

    history_total + 1 KiB for each channel + 5 % + 8 MiB

in all of the states but `formats`, for which the count makes no allowance. The 5 % are what an
allocator cannot give back, and the 8 MiB what does not grow with the history: bodies that are
read, the drafts of a batch, what waits for a reader.
"""

import argparse
import http.client
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from benchmarks.harness import (
    HOST,
    PATIENCE,
    Check,
    Plan,
    Server,
    add_check,
    add_python,
    at_most,
    command_line,
    exactly,
    exit_status,
    fail,
    ours,
    positive,
    print_checks,
    running,
    stop_on_sigterm,
)
from sse_broadcast.backends.memory.weights import PUBLICATION_COST

KIB, MIB = 1024, 1024 * 1024

SLACK_SHARE = 0.05
SLACK = 8 * MIB
CHANNEL = KIB

BATCH_BYTES = 65_536
"""Bytes of one request: small, since what it holds while it is read is not what is measured."""

WARM_UP = 50
"""Events published and read before the first look, so that every part of the server has run."""

TEXT = b"GET /events?since=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n"
ENVELOPES = b"GET /events?since=earliest&format=json HTTP/1.1\r\nHost: localhost\r\n\r\n"
NDJSON = b"GET /events?since=earliest HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n"

MANY_TIMES = 10_000_000
"""More events than any of this publishes: a bound that is not meant to hold."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a process had grown by, and what its history held and counted then."""

    name: str
    grown: int
    events: int
    frame: float
    """Bytes of an event's text frame."""

    @property
    def counted(self) -> float:
        """Bytes the history counts for it all."""
        return self.events * (2 * self.frame + PUBLICATION_COST)

    @property
    def each(self) -> float:
        """Bytes the process grew by for each event."""
        return self.grown / self.events

    @property
    def overhead(self) -> float:
        """The PUBLICATION_COST with which the history would have counted what the process grew by."""
        return self.each - 2 * self.frame

    def __str__(self) -> str:
        counts = f"{self.events:>8,}  {self.counted / MIB:>8.1f}  {self.grown / MIB:>8.1f}"
        ratio = self.grown / self.counted
        return f"{self.name:>16}  {counts}  {ratio:>6.2f}  {self.each:>9,.0f}  {self.overhead:>9,.0f}"


HEAD = "           state    events  counted MiB   grown  ratio  bytes each   overhead"


class Client:
    """A publisher, and who reads what it has published."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def publish(self, count: int, size: int, *readers: "Reader") -> None:
        """Publish so many events of so many bytes, no two the same; readers follow batch by batch."""
        batch = max(1, BATCH_BYTES // (size + 20))
        for begin in range(0, count, batch):
            numbers = range(begin, min(begin + batch, count))
            last = self.lines([json.dumps({"message": f"{n} ".ljust(size, "x")}) for n in numbers])
            for reader in readers:
                reader.read_to(last)

    def lines(self, lines: list[str]) -> str:
        """Publish lines of NDJSON, and give the id of the last."""
        self._connection.request("POST", "/send", "\n".join(lines), {"Content-Type": "application/x-ndjson"})
        return str(self._answer()["id"])

    def ask(self, channel: str = "default") -> dict[str, Any]:
        """Return the state of a channel."""
        self._connection.request("GET", f"/channels/{channel}")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        with self._connection.getresponse() as response:
            content = response.read()
        if response.status != 200:
            fail(f"{self._server.name}: answered with {response.status}: {content[:300]!r}")
        answer: dict[str, Any] = json.loads(content)
        return answer


class Reader:
    """One reader of all that is held, and of what is published then."""

    def __init__(self, server: Server, request: bytes) -> None:
        self._socket = socket.create_connection((HOST, server.port), PATIENCE)
        self._socket.sendall(request)
        self._tail = b""
        self.read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read_to(self, id: str) -> None:
        """Read until the event with this id has come."""
        marks = f"id: {id}\n".encode(), f'"id":"{id}"'.encode()
        while not any(mark in self._tail for mark in marks):
            piece = self._socket.recv(MIB) or fail("a reader's stream was ended")
            self.read += len(piece)
            self._tail = self._tail[-200:] + piece


def main() -> int:
    """Fill servers, print what that took, and say whether it is what was counted."""
    chosen = arguments()
    stop_on_sigterm()
    checks: list[Check] = []
    for size in chosen.sizes:
        print(f"\nevents of {size} bytes, history_total {chosen.total / MIB:.0f} MiB\n{HEAD}")
        checks += filled(chosen, size)
    print(f"\n{chosen.channels:,} channels with an event each\n{HEAD}")
    checks += spread(chosen)
    print()
    print_checks(checks)
    return exit_status(checks) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("history", __doc__)
    parser.add_argument(
        "--sizes", type=sizes, default=[50, 500, 5000], help="bytes of an event: a comma list"
    )
    parser.add_argument("--total", type=positive, default=128 * MIB, help="history_total, in bytes")
    parser.add_argument("--channels", type=positive, default=100_000, help="how many there are at the end")
    add_python(parser)
    add_check(parser, "the bound holds")
    return parser.parse_args()


def sizes(text: str) -> list[int]:
    """Return the numbers of a comma list. Raises `argparse.ArgumentTypeError`."""
    return [positive(word) for word in text.split(",")]


def plan(chosen: argparse.Namespace, total: int) -> Plan:
    """Plan a server in whose history only the bound over all channels is ever reached."""
    flags = {
        "--history-total": total,
        "--history-size": MANY_TIMES,
        "--history-bytes": 2 * total,
        "--history-age": 86_400,
        "--history-channels": 2 * chosen.channels,
    }
    return ours(*(str(word) for flag in flags.items() for word in flag), python=chosen.python)


def filled(chosen: argparse.Namespace, size: int) -> Iterator[Check]:
    """Fill one channel with events of one size, and look at each state of it."""
    most = bound(chosen.total, channels=1)
    with running(plan(chosen, chosen.total)) as server, Client(server) as client:
        warm_up(server, client, size)
        scale = Scale(server, client, size)
        client.publish(2 * scale.fits(chosen.total), size)
        yield within(scale.look("held"), most)
        with Reader(server, TEXT) as reader:
            reader.read_to(client.ask()["cursor"])
            yield within(scale.look("read"), most)
            client.publish(scale.fits(chosen.total), size, reader)
            yield within(scale.look("churned"), most)
        for request in (TEXT, ENVELOPES, NDJSON):
            read_all(server, client, request)
        scale.look("formats")


def spread(chosen: argparse.Namespace) -> Iterator[Check]:
    """Publish one event to each of many channels, and look at what they come to."""
    size = 50
    total = 2 * KIB * chosen.channels
    with running(plan(chosen, total)) as server, Client(server) as client:
        warm_up(server, client, size)
        scale = Scale(server, client, size)
        for begin in range(0, chosen.channels, 500):
            numbers = range(begin, min(begin + 500, chosen.channels))
            client.lines(
                [json.dumps({"message": f"{n} ".ljust(size, "x"), "channel": f"c.{n}"}) for n in numbers]
            )
        last = client.ask(f"c.{chosen.channels - 1}")
        yield exactly("events held of the last channel", last["events"], 1)
        seen = scale.look("spread", events=chosen.channels)
        yield within(seen, bound(seen.counted, channels=chosen.channels))


@dataclass(frozen=True, slots=True)
class Scale:
    """Looks at a server, whose events are of one size, beside what it was at first."""

    server: Server
    client: Client
    size: int
    before: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", self.server.resident())

    def frame(self) -> int:
        """Return the bytes of an event's frame, as long as its id is now."""
        return self.size + len(f"id: {self.client.ask()['cursor']}\ndata: \n\n")

    def fits(self, total: int) -> int:
        """Return how many events the history can count within its bound."""
        return total // (2 * self.frame() + PUBLICATION_COST)

    def look(self, name: str, *, events: int = 0) -> Look:
        """Look, and print what was seen; `events` are held of all channels, if there are several."""
        held = events or int(self.client.ask()["events"])
        seen = Look(f"{self.size}, {name}", self.server.resident() - self.before, held, self.frame())
        print(seen, flush=True)
        return seen


def warm_up(server: Server, client: Client, size: int) -> None:
    """Run every part of the server once."""
    client.publish(WARM_UP, size)
    for request in (TEXT, ENVELOPES, NDJSON):
        read_all(server, client, request)


def read_all(server: Server, client: Client, request: bytes) -> None:
    """Read all that the history holds."""
    with Reader(server, request) as reader:
        reader.read_to(client.ask()["cursor"])


def bound(counted: float, *, channels: int) -> float:
    """Return the bytes by which a process may grow whose history counts so many."""
    return (counted + channels * CHANNEL) * (1 + SLACK_SHARE) + SLACK


def within(seen: Look, most: float) -> Check:
    """Check that a process stayed within its bound."""
    return at_most(f"{seen.name}: resident growth", seen.grown / MIB, most / MIB, " MiB")


if __name__ == "__main__":
    sys.exit(main())
