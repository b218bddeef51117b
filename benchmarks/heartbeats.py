"""What heartbeats cost a server whose subscribers are all idle.

    python -m benchmarks.heartbeats [--subscribers 10000] [--seconds 4,15] [--rounds 3] [--check]

Our server, and nginx with nchan, which pings every stream so often, take turns. Nothing is published.
Printed is the server's CPU as a share of one core, and by heartbeat. Checked is that one of ours costs at
most 1.1 times what one of nchan's does, and that every subscriber had one in its time.
"""

import argparse
import contextlib
import resource
import select
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import (
    HOST,
    Check,
    Plan,
    Row,
    Server,
    add_check,
    add_python,
    at_least,
    at_most,
    command_line,
    exit_status,
    fail,
    nchan,
    ours,
    positive,
    print_checks,
    running,
    stop_on_sigterm,
    told,
    workshop,
)

PERIODS = 3
"""Heartbeats of each subscriber that are measured."""

AT_ONCE = 100
"""Subscribers that connect without a pause: in a real crowd heartbeats are spread over time."""

REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


def main() -> int:
    """Measure by turns, print the medians, and say whether the bounds hold."""
    chosen = arguments()
    stop_on_sigterm()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: list[Check] = []
    for seconds in chosen.seconds:
        rows: dict[str, list[Row]] = {}
        with workshop() as folder:
            for turn in range(1, chosen.rounds + 1):
                for plan in plans(folder, seconds, chosen.python):
                    with running(plan) as server:
                        row = measure(server, chosen.subscribers, seconds)
                    rows.setdefault(plan.name, []).append(row)
                    print(f"round {turn}, {seconds} s, {plan.name}: {told(row)}", file=sys.stderr)
        medians = {name: median(of_server) for name, of_server in rows.items()}
        print(table(seconds, medians))
        found += checks(seconds, medians)
    print_checks(found)
    return exit_status(found) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("heartbeats", __doc__)
    parser.add_argument("--rounds", type=positive, default=3, help="the median of so many turns")
    parser.add_argument("--subscribers", type=positive, default=10_000, help="how many are idle")
    parser.add_argument(
        "--seconds",
        type=lambda text: [positive(each) for each in text.split(",")],
        default=[4, 15],
        help="times of silence before a heartbeat",
    )
    add_python(parser)
    add_check(parser)
    return parser.parse_args()


def plans(folder: Path, seconds: int, python: str) -> list[Plan]:
    """Plan both servers."""
    flags = ("--heartbeat", str(seconds), "--log-level", "warning", "--max-connections-per-address", "0")
    return [ours(*flags, python=python), nchan(folder, ping=seconds)]


def measure(server: Server, subscribers: int, seconds: int) -> Row:
    """Hold idle subscribers, and measure what some of their heartbeats cost."""
    with crowd(server, subscribers) as (poll, connections):
        hear(poll, connections, seconds + 1.0)  # whatever opening them has left to do
        before, began = server.cpu(), time.monotonic()
        heard = hear(poll, connections, float(seconds * PERIODS))
        took = time.monotonic() - began
        cpu = server.cpu() - before
    return {
        "core": cpu / took * 100,
        "each": cpu / max(heard, 1) * 1e6,
        "heard": heard / (subscribers * took / seconds),
    }


@contextlib.contextmanager
def crowd(server: Server, count: int) -> Iterator[tuple[select.epoll, dict[int, socket.socket]]]:
    """Connect subscribers, spread over a second or more."""
    poll, connections = select.epoll(), dict[int, socket.socket]()
    try:
        for number in range(count):
            try:
                connection = socket.create_connection((HOST, server.port), 10)
            except OSError as error:
                fail(f"{server.name}: subscriber {number + 1} could not connect: {error}")
            connection.sendall(REQUEST)
            connection.setblocking(False)
            connections[connection.fileno()] = connection
            poll.register(connection, select.EPOLLIN)
            if number % AT_ONCE == 0:
                time.sleep(0.02)
        yield poll, connections
    finally:
        for connection in connections.values():
            connection.close()
        poll.close()


def hear(poll: select.epoll, connections: dict[int, socket.socket], seconds: float) -> int:
    """Read for a time, and return how often there was something to read: a heartbeat each."""
    until, heard = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left, 1000):
            heard += bool(connections[descriptor].recv(4096))
    return heard


def median(rows: list[Row]) -> Row:
    """Return the median of each measure."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def table(seconds: int, medians: dict[str, Row]) -> str:
    """Return the medians as Markdown."""
    head = f"| heartbeats every {seconds} s | {' | '.join(medians)} |\n|---|{'---|' * len(medians)}"
    names = {"core": "server CPU, % of a core", "each": "the same by heartbeat, us"}
    lines = [
        f"| {title} | {' | '.join(f'{row[name]:.2f}' for row in medians.values())} |"
        for name, title in names.items()
    ]
    return "\n".join([head, *lines])


def checks(seconds: int, medians: dict[str, Row]) -> list[Check]:
    """Compare what was measured with what must hold."""
    us, them = medians["ours"], medians["nchan"]
    return [
        at_most(f"{seconds} s: CPU of a heartbeat by that of nchan's", us["each"] / them["each"], 1.1),
        at_least(f"{seconds} s: heartbeats that came, of those that were due", us["heard"], 0.9),
    ]


if __name__ == "__main__":
    sys.exit(main())
