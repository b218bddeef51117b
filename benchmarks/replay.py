"""Readers that all come back at once, each with a history to catch up with: how long until all have it.

    python -m benchmarks.replay [--rounds 5] [--readers 1000] [--events 1000] [--size 100]
                                [--python PATH] [--check]

Our server with its default settings beside nginx with nchan, by turns. To each are published
one event, whose id is what every reader will say it has seen last, and then as many as each is
to catch up with, one by one. Then the readers connect at once (load/ssereplay.c) with that id
as `Last-Event-ID`. Measured from the first connect to the last byte of the last reader's last
event: the medians over the rounds. nchan takes the id it gave with the first event too, which
is a second and a number within it, and holds as many events as it needs to; ours holds 1,000 of
a channel unless told otherwise, and is told if it needs more.

With --check the exit status is 1 unless every reader had every event, once, in order and none
besides in every round, from both servers, and ours took at most nchan's time.
"""

import argparse
import contextlib
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import (
    HOST,
    PATIENCE,
    Check,
    Plan,
    Row,
    Server,
    add_check,
    add_python,
    at_most,
    command_line,
    exactly,
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

FACTOR = 1.0
"""How many times nchan's time ours may take."""

DEADLINE = 60.0
"""Seconds after which a server that has not given everything has failed."""

HELD = 1000
"""Events that our server holds of a channel by default."""

SUBSCRIBE = b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"

# nchan writes the id before the data, we behind it.
_first_event = re.compile(
    rb"^(?:id: (?P<before>[^\r\n]+)\n)?data: T[^\r\n]*\n(?:id: (?P<behind>[^\r\n]+)\n)?\n", re.MULTILINE
).search


def main() -> int:
    """Measure by turns, print the medians, and say whether the bound holds."""
    chosen = arguments()
    stop_on_sigterm()
    rows: dict[str, list[Row]] = {}
    with workshop() as folder:
        for turn in range(1, chosen.rounds + 1):
            for plan in plans(folder, chosen):
                with running(plan) as server:
                    row = measure(folder, server, chosen)
                rows.setdefault(plan.name, []).append(row)
                print(f"round {turn}, {plan.name}: {told(row)}", file=sys.stderr)
    print(table(rows))
    found = list(checks(rows, chosen.readers))
    print_checks(found)
    return exit_status(found) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("replay", __doc__)
    parser.add_argument("--rounds", type=positive, default=5, help="the median of so many counts")
    parser.add_argument("--readers", type=positive, default=1000, help="how many come back at once")
    parser.add_argument("--events", type=positive, default=1000, help="how many each has missed")
    parser.add_argument("--size", type=positive, default=100, help="bytes of an event")
    add_python(parser)
    add_check(parser, "the bound holds")
    return parser.parse_args()


def plans(folder: Path, chosen: argparse.Namespace) -> list[Plan]:
    """Plan both servers."""
    flags = ("--history-size", str(chosen.events)) if chosen.events > HELD else ()
    return [ours(*flags, python=chosen.python), nchan(folder, held=chosen.events + 1)]


def measure(folder: Path, server: Server, chosen: argparse.Namespace) -> Row:
    """Publish, and have every reader come back for it."""
    seen = fill(server, chosen.events, chosen.size)
    before = server.cpu()
    how = (server.port, "/events", chosen.readers, chosen.events, DEADLINE)
    done = subprocess.run(
        [folder / "ssereplay", HOST, *map(str, how), f"Last-Event-ID: {seen}"],
        capture_output=True,
        check=False,
        text=True,
        timeout=DEADLINE + PATIENCE,
    )
    if done.returncode:
        fail(f"{server.name}: the readers could not connect: {done.stderr[-500:]}")
    row: Row = json.loads(done.stdout)
    row["server_cpu"] = server.cpu() - before
    return row


def fill(server: Server, events: int, size: int) -> str:
    """Publish one event and then so many, and give the id that the first one was given."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE)
    with contextlib.closing(connection), socket.create_connection((HOST, server.port), PATIENCE) as reader:
        reader.sendall(SUBSCRIBE)
        heard = _read_until(reader, b"\r\n\r\n")
        if b" 200 " not in heard.partition(b"\r\n")[0]:
            fail(f"{server.name}: a reader was refused: {heard[:300]!r}")
        _post(connection, server, 1, size)
        seen = _read_id(reader, heard)
        reader.close()
        for sequence in range(2, events + 2):
            _post(connection, server, sequence, size)
    return seen


def _post(connection: http.client.HTTPConnection, server: Server, sequence: int, size: int) -> None:
    message = f"T{time.monotonic():.6f} P0 S{sequence} ".ljust(size, "x")
    body, kind = message, "text/plain"
    if server.body == "json":
        body, kind = json.dumps({"message": message}), "application/json"
    connection.request("POST", "/send", body, {"Content-Type": kind})
    with connection.getresponse() as response:
        if not 200 <= response.status < 300:
            fail(f"{server.name}: publishing failed with {response.status}: {response.read()[:300]!r}")
        response.read()


def _read_until(reader: socket.socket, mark: bytes) -> bytes:
    heard = b""
    while mark not in heard:
        heard += reader.recv(65_536) or fail("a reader's stream ended before it had begun")
    return heard


def _read_id(reader: socket.socket, heard: bytes) -> str:
    while not (found := _first_event(heard)):
        heard += reader.recv(65_536) or fail("a reader's stream ended before its first event")
    return bytes(found["before"] or found["behind"]).decode()


def table(rows: dict[str, list[Row]]) -> str:
    """Return the medians as Markdown."""
    lines = ["| | ours | nchan | ours / nchan |", "|---|---|---|---|"]
    for measure_, title in (
        ("seconds", "until the last reader had everything, s"),
        ("median", "until half of them had, s"),
        ("server_cpu", "server CPU, s"),
        ("cpu", "the readers' CPU, s"),
    ):
        us, peer = (_median(rows, name, measure_) for name in ("ours", "nchan"))
        lines.append(f"| {title} | {us:.2f} | {peer:.2f} | {us / max(peer, 1e-9):.2f} |")
    return "\n".join(lines)


def _median(rows: dict[str, list[Row]], name: str, measure_: str) -> float:
    return statistics.median(row[measure_] for row in rows[name])


def checks(rows: dict[str, list[Row]], readers: int) -> Iterator[Check]:
    """Check that everyone had everything in its order, and how long that took."""
    for name, of_server in rows.items():
        complete = int(min(row["complete"] for row in of_server))
        yield exactly(f"{name}: readers that had everything, in its order", complete, readers)
    us, peer = (_median(rows, name, "seconds") for name in ("ours", "nchan"))
    yield at_most(f"seconds until all had it, against {FACTOR:g} x nchan", us, FACTOR * peer, " s")


if __name__ == "__main__":
    sys.exit(main())
