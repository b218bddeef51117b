"""The cost of observation: metrics scraped every five seconds and a log, beside neither.

    python -m benchmarks.observed [--parts instructions,time,crowd] [--pairs 15] [--crowd 5000]
                                  [--python PATH] [--check]

Two of our own servers: `seen`, of which `GET /metrics` is asked every five seconds, and which logs every
stream, as it does by default; and `unseen`, whose metrics are switched off and which logs errors alone. The
counters themselves are always on, and in both. Parts:

  instructions  what a delivery and a scrape cost in instructions of the process, the kernel's left out, as
                callgrind counts them; a scrape is shared by as many deliveries as `time` has in five seconds
  time          1,000 subscribers, 50 events of 100 bytes a second: user and system time for each delivery, by
                turns in pairs whose order changes from one to the next; the median of their ratios counts
  crowd         scrapes with so many readers for whom something waits at once: how long one takes, and how
                late the loop is meanwhile, by the server's own `loop_lag_seconds`; told, and not checked

With --check the exit status is 1 unless a delivery costs at most 1.03 times what it does unseen. The first
part needs valgrind (apt-get install valgrind), and holds on a busy machine too; the second wants a quiet one.
"""

import argparse
import contextlib
import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.compare import steady
from benchmarks.harness import (
    HOST,
    PATIENCE,
    Check,
    Load,
    Plan,
    Server,
    add_check,
    add_python,
    at_most,
    command_line,
    exit_status,
    fail,
    ours,
    positive,
    print_checks,
    running,
    some_of,
    stop_on_sigterm,
    told,
    workshop,
)

EVERY = 5.0
"""Seconds between two scrapes."""

READERS, FEW, MANY = 400, 20, 220
"""Of a run under callgrind: subscribers, and events; the difference of two runs is what deliveries cost."""

SCRAPES = 10

SHARED = 50 * 1000 * EVERY
"""Deliveries of `time` between two scrapes."""

MOST = 1.03

LATE = ("0.005", "0.025", "0.1", "+Inf")
"""Of the bounds of the loop's lag those that are told."""

LIMITS = ("--max-connections-per-address", "0", "--subscribe-rate", "0", "--publish-rate", "0")
SEEN = (*LIMITS, "--log-level", "info")
UNSEEN = (*LIMITS, "--log-level", "error", "--metrics", "false")

NEVER = ("--heartbeat", "3000", "--write-timeout", "3000")
"""Under callgrind a second is a minute: what goes by the clock is left out."""

PARTS = ("instructions", "time", "crowd")


def main() -> int:
    """Measure by turns, print the medians, and say whether the bound holds."""
    chosen = arguments()
    stop_on_sigterm()
    found: list[Check] = []
    with workshop() as folder:
        if "instructions" in chosen.parts:
            found.append(instructions(python=chosen.python))
        if "time" in chosen.parts:
            found.append(compare(folder, pairs=chosen.pairs, python=chosen.python))
        if "crowd" in chosen.parts:
            crowd(folder, readers=chosen.crowd, python=chosen.python)
    print_checks(found)
    return exit_status(found) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("observed", __doc__)
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help="a comma list: " + ",".join(PARTS)
    )
    parser.add_argument("--pairs", type=positive, metavar="N", default=15, help="the median of so many")
    parser.add_argument("--crowd", type=positive, metavar="N", default=5000, help="readers of the last part")
    add_python(parser)
    add_check(parser, "the bound holds")
    return parser.parse_args()


def instructions(*, python: str) -> Check:
    """Count the instructions of a delivery, and of a scrape, and check what both come to."""
    unseen, seen = (delivery(flags, python) for flags in (UNSEEN, SEEN))
    scraping = (executed(SEEN, python, scrapes=SCRAPES + 1) - executed(SEEN, python, scrapes=1)) / SCRAPES
    print(f"instructions: a delivery {unseen:,.0f} unseen, {seen:,.0f} seen; a scrape {scraping:,.0f}")
    ratio = (seen + scraping / SHARED) / unseen
    return at_most("instructions per delivery, seen against unseen", ratio, MOST, " x")


def delivery(flags: tuple[str, ...], python: str) -> float:
    """Return the instructions of a delivery, with its share of what the publish costs."""
    more = executed(flags, python, events=MANY) - executed(flags, python, events=FEW)
    return more / (MANY - FEW) / READERS


def executed(flags: tuple[str, ...], python: str, *, events: int = 0, scrapes: int = 0) -> int:
    """Return the instructions that a server executes from its start to its end, with this work between."""
    plan = ours(*flags, *NEVER, python=python)
    valgrind = shutil.which("valgrind") or fail("valgrind is not installed: apt-get install valgrind")
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", *plan.command]
    with tempfile.TemporaryFile("w+") as log:
        # What Python's hashes are decides what collides: the same in every run.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd="/", env=environment)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            work(Server(plan.name, plan.port, plan.body, process.pid), events=events, scrapes=scrapes)
            process.terminate()
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.communicate()
        log.seek(0)
        found = re.search(r"Collected : (\d+)", log.read())
    return int(found[1]) if found else fail(f"callgrind told nothing of {' '.join(plan.command)}")


def work(server: Server, *, events: int, scrapes: int) -> None:
    """Publish events one by one, each after all subscribers have the one before, and scrape."""
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(socket.create_connection((HOST, server.port))) for _ in range(READERS)]
        for reader in readers:
            reader.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reader.recv(65_536)
        for _ in range(events):
            publish(server)
            for reader in readers:
                reader.recv(65_536)
        for _ in range(scrapes):
            scrape(server)


def compare(folder: Path, *, pairs: int, python: str) -> Check:
    """Measure pair by pair, and check the median of their ratios."""
    plans = [
        replace(ours(*SEEN, python=python), name="seen"),
        replace(ours(*UNSEEN, python=python), name="unseen"),
    ]
    ratios: list[float] = []
    for pair in range(1, pairs + 1):
        cost = {plan.name: measure(folder, plan) for plan in plans}
        plans.reverse()
        ratios.append(cost["seen"] / cost["unseen"])
        print(f"pair {pair}: {told(cost)}  ratio={ratios[-1]:.3f}", file=sys.stderr)
    low, middle, high = statistics.quantiles(ratios, n=4) if pairs > 1 else ratios * 3
    print(f"seen / unseen: quartiles {low:.3f}, {middle:.3f}, {high:.3f}, of {pairs} pairs")
    return at_most("CPU per delivery, seen against unseen", statistics.median(ratios), MOST, " x")


def measure(folder: Path, plan: Plan) -> float:
    """Return the microseconds that a delivery costs a server."""
    with running(plan) as server, scraped(server) if plan.name == "seen" else contextlib.nullcontext():
        return steady(folder, server)["cpu_us_per_delivery"]


@contextlib.contextmanager
def scraped(server: Server) -> Iterator[None]:
    """Scrape a server repeatedly during a block, beginning at once."""
    over = threading.Event()

    def go_on() -> None:
        scrape(server)
        while not over.wait(EVERY):
            scrape(server)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def scrape(server: Server) -> str:
    """Ask for the metrics once."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def crowd(folder: Path, *, readers: int, python: str) -> None:
    """Scrape a server with many readers, while something is on its way to all, and tell how it went."""
    with running(ours(*SEEN, python=python)) as server, Load(folder, server, readers=readers, seconds=12):
        before = lateness(scrape(server))
        took: list[float] = []
        for _ in range(40):
            publish(server)
            began = time.perf_counter()
            scrape(server)
            took.append((time.perf_counter() - began) * 1000)
        after = lateness(scrape(server))
        late = {bound: after[bound] - before[bound] for bound in after}
    print(
        f"crowd: {readers} readers: a scrape takes {statistics.median(took):.1f} ms, at most {max(took):.1f}"
    )
    print(f"crowd: looks at the loop, and how late it was at most: {told(late)}")


def publish(server: Server) -> None:
    """Publish one event, and do not wait until it is delivered."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", "/send", body=b"x" * 100)
        connection.getresponse().read()


def lateness(text: str) -> dict[str, float]:
    """Return how many looks at the loop found it how late at most, of a scrape."""
    found = re.findall(r'^sse_broadcast_loop_lag_seconds_bucket\{le="(.+)"\} (.+)$', text, re.MULTILINE)
    return {bound: float(count) for bound, count in found if bound in LATE}


if __name__ == "__main__":
    sys.exit(main())
