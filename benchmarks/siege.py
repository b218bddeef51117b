"""Our server under requests as nobody should send them, and 200 readers that must not notice.

    python -m benchmarks.siege [--requests 1000000] [--seed 1] [--crowd 100] [--python PATH] [--check]

The requests are those of tests/support/inventor.py: grammar-based, bent and broken, sent in pieces, stalled,
half-closed, reset. The same seed makes the same ones. The server has credentials, of which the attacker knows
some, and its default limits. Phases:

  calm    nobody attacks: the readers' latency
  paced   500 requests a second, in turns with the calm: the 99th percentile may be twice as much
  flood   all the requests, as fast as they can be sent: latency is told, and nothing is asked of it

Checked in all of them: every answer is well-formed, and one that the contract has (no 500; a 503 says when to
come back); the readers lose nothing, and nobody ends their streams; nothing in the log is a fault. Checked
at the end: memory is what it was after the first half of the flood, and no socket is left.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import (
    Check,
    Load,
    Plan,
    Publishers,
    Row,
    Server,
    at_most,
    command_line,
    exactly,
    exit_status,
    missing,
    ours,
    positive,
    print_checks,
    publish,
    running,
    stop_on_sigterm,
    told,
    workshop,
)
from tests.support.hostile import besiege
from tests.support.inventor import Inventor

READERS = 200
ROUND = 10.0
"""Seconds of one look at the readers."""

PACE = 500.0
"""Requests a second, when latency is what is looked at."""

TURNS = 3
GROWTH = 16 << 20
"""Bytes of memory, at most, between the first half of the flood and its end."""

GOOD, NARROW, HONEST = "a-token-that-may-do-everything", "a-token-that-may-do-little", "a-token-of-the-honest"
CONFIG = f"""
    token = "{GOOD}"
    anonymous_subscribe = ["a"]
    cookie = "session"
    cors_origins = ["https://a.example"]
    history_bytes = 100_000

    [[caller]]
    name = "narrow"
    token = "{NARROW}"
    subscribe = ["a", "b"]
    publish = ["a"]

    [[caller]]
    name = "honest"
    token = "{HONEST}"
    subscribe = ["honest"]
    publish = ["honest"]
"""


def main() -> int:
    """Run the phases, print what was found, and give the exit status."""
    stop_on_sigterm()
    options = parse()
    with workshop() as folder, tempfile.TemporaryDirectory() as temp:
        plan = guarded(Path(temp), options.python)
        with running(plan) as server:
            checks = list(run(folder, server, options))
        found = faults(Path(temp, "log"))
        print("".join(found[:100]), end="")
        checks.append(exactly("lines of the log that tell of faults", len(found), 0))
    print_checks(checks)
    return exit_status(checks) if options.check else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line("siege", __doc__)
    parser.add_argument("--requests", type=positive, default=1_000_000, metavar="N", help="as many of them")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what they are made up from")
    parser.add_argument("--crowd", type=positive, default=100, metavar="N", help="connections at one time")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs our server")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless everything holds")
    return parser.parse_args()


def guarded(folder: Path, python: str) -> Plan:
    """Plan a server with credentials, whose log is kept in the folder."""
    (folder / "config.toml").write_text(CONFIG)
    plan = ours("--config", str(folder / "config.toml"), "--log-format", "text", python=python)
    command = ["sh", "-c", 'exec "$@" 2>"$0"', str(folder / "log"), *plan.command]
    return dataclasses.replace(plan, command=command, headers=(f"Authorization: Bearer {HONEST}",))


def faults(log: Path) -> list[str]:
    """Give the lines of a log that do not tell what anyone may cause; those of a traceback are such."""
    with log.open(errors="replace") as lines:
        return [line for line in lines if " INFO " not in line and " WARNING " not in line]


class Watch:
    """Looks at the honest readers, round after round, in a thread of its own, until `end`."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.rows: list[Row] = []
        self._folder, self._server = folder, server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again)
        self._thread.start()

    def end(self) -> list[Row]:
        """Give what every round found, when the last is over."""
        self._over.set()
        self._thread.join()
        return self.rows

    def _look_again(self) -> None:
        while not self._over.is_set():
            self.rows.append(look(self._folder, self._server))


def look(folder: Path, server: Server) -> Row:
    """Publish to the honest readers for one round, and see what arrived, and when."""
    publishers = Publishers(connections=1, seconds=ROUND - 2, rate=50, path="/send/honest")
    with Load(folder, server, readers=READERS, seconds=ROUND, path="/events/honest") as load:
        time.sleep(0.5)
        sent = publish(folder, server, publishers)
        got = load.result()
    return {
        "p99_ms": got["p99_us"] / 1000,
        "lost": missing(got, sent, readers=READERS),
        "repeats": got["repeats"],
        "closed": got["closed"],
    }


def run(folder: Path, server: Server, options: argparse.Namespace) -> Iterator[Check]:
    """Do all phases with a server, and check what they found."""
    inventor = Inventor(options.seed, tokens=(GOOD, NARROW))
    calm, paced = list[Row](), list[Row]()
    for _ in range(TURNS):
        calm.append(look(folder, server))
        paced += attack(folder, server, inventor, requests=int(PACE * ROUND), crowd=options.crowd, rate=PACE)[
            :1
        ]
    descriptors = server.descriptors()
    first = attack(folder, server, inventor, requests=options.requests // 2, crowd=options.crowd)
    resident = server.resident()
    rest = attack(folder, server, inventor, requests=options.requests // 2, crowd=options.crowd)
    grown = server.resident() - resident
    time.sleep(15)  # what lingers does so for ten seconds
    yield at_most("p99 when paced, against calm", p99(paced) / p99(calm), 2, " x")
    print(f"p99: calm {p99(calm):.2f} ms, paced {p99(paced):.2f} ms, flood {p99(first + rest):.2f} ms")
    for name in ("lost", "repeats", "closed"):
        yield exactly(name, int(sum(row[name] for row in calm + paced + first + rest)), 0)
    yield at_most("memory grown", grown / 1e6, GROWTH / 1e6, " MB")
    yield exactly("sockets left", server.sockets(), 0)
    yield at_most("descriptors left", server.descriptors() - descriptors, 0)


@contextlib.contextmanager
def yielding() -> Iterator[None]:
    """Have this thread get what the others leave: attackers have machines of their own."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, 19)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # only root may
            os.setpriority(os.PRIO_PROCESS, thread, before)


def p99(rows: list[Row]) -> float:
    """Give the median of the rounds' 99th percentiles, in milliseconds."""
    return statistics.median(row["p99_ms"] for row in rows)


def attack(  # noqa: PLR0913 - what an attack has
    folder: Path, server: Server, inventor: Inventor, *, requests: int, crowd: int, rate: float = 0
) -> list[Row]:
    """Send so many requests, and give what became of the readers meanwhile."""
    watch = Watch(folder, server)
    begun = time.monotonic()
    try:
        with yielding():
            tally = asyncio.run(besiege(server.port, inventor, requests=requests, crowd=crowd, rate=rate))
    finally:
        rows = watch.end()
    took = time.monotonic() - begun
    statuses = Counter({str(status): count for status, count in sorted(tally.statuses.items())})
    print(f"{tally.requests:,} requests, {tally.tricks:,} connections, {took:.0f} s, {dict(statuses)}")
    for row in rows:
        print(f"  {told(row)}")
    print(f"  resident {server.resident() / 1e6:.1f} MB", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
