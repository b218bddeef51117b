"""Our server beside two others, through real sockets, in one run; a Markdown table of the medians.

    python -m benchmarks.compare [--rounds 5] [--python PATH] [--work steady,saturated,connect,ingest]
                                 [--check] [--json FILE]

Servers:
  ours    `sse-broadcast serve` with its default settings, run by the interpreter of --python
  floor   load/ssefloor.c: one send() a subscriber and nothing else, the kernel's own cost
  nchan   nginx with the nchan module, in C, one worker (Debian: nginx-light libnginx-mod-nchan)

Work:
  steady     1,000 subscribers, 50 events a second: server CPU per delivery, latency
  saturated  1,000 subscribers, 8 publishers as fast as they are answered: deliveries a second
  connect    5,000 subscribers connect at once and stay: CPU and memory per connection
  ingest     no subscribers, 16 publishers as fast as they are answered: publishes a second

The servers take turns, so that a slow minute of the machine is everyone's. CPU is user and
system time of the server's processes, which holds on a noisy machine better than a throughput
does. Quote ratios, never a figure alone: the same server differs by some 15 % from run to run.
"lost" are sequence numbers a subscriber skipped, "repeats" those it saw twice, "undelivered"
what was answered but never arrived, "closed" subscribers the server let go; of these the worst
round counts, not the median. "connections_per_second" is in the JSON only: who connects faster
than a server accepts fills the 4,096 places of the kernel's queue, and one connection too many
comes back a second later, which then is what was measured.

With --check the exit status is 1, and every bound missed is named, unless all of BOUNDS hold.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.harness import (
    Check,
    Load,
    Plan,
    Publishers,
    Row,
    Server,
    add_check,
    add_python,
    at_least,
    at_most,
    command_line,
    exit_status,
    floor,
    nchan,
    ours,
    positive,
    publish,
    running,
    some_of,
    stop_on_sigterm,
    told,
    workshop,
)

Rounds: TypeAlias = dict[str, dict[str, list[Row]]]
"""Work, server: the measures of each round."""

Medians: TypeAlias = dict[str, dict[str, Row]]
"""Work, server: the measures over all rounds."""

LOSSES = ("lost", "repeats", "undelivered", "closed")

SUBSCRIBERS = 1000


def broadcast(folder: Path, server: Server, publishers: Publishers) -> Row:
    """Publish to subscribers, and see what it cost and what arrived."""
    with Load(folder, server, readers=SUBSCRIBERS, seconds=8.5) as load:
        time.sleep(0.5)
        before = server.cpu()
        sent = publish(folder, server, publishers)
        got = load.result()
        spent = server.cpu() - before
    return {
        "deliveries_per_second": got["events"] / max(got["span"], 1e-9),
        "cpu_us_per_delivery": spent * 1e6 / max(got["events"], 1),
        "p50_ms": got["p50_us"] / 1000,
        "p99_ms": got["p99_us"] / 1000,
        "events_per_read": got["events"] / max(got["reads"], 1),
        "published_per_second": sent["per_second"],
        "lost": got["gaps"],
        "repeats": got["repeats"],
        "closed": got["closed"],
        "undelivered": sent["published"] * SUBSCRIBERS - got["events"],
    }


def steady(folder: Path, server: Server) -> Row:
    """Measure a calm broadcast: about half a core's work."""
    return broadcast(folder, server, Publishers(connections=1, seconds=5, rate=50))


def saturated(folder: Path, server: Server) -> Row:
    """Measure a broadcast that has all it can do."""
    return broadcast(folder, server, Publishers(connections=8, seconds=5, rate=0))


def connect(folder: Path, server: Server) -> Row:
    """Measure subscribers that come and stay, and get nothing."""
    count = 5000
    resident, before = server.resident(), server.cpu()
    with Load(folder, server, readers=count, seconds=3) as load:
        time.sleep(1)
        row = {
            "connections_per_second": count / load.took,
            "cpu_us_per_connection": (server.cpu() - before) * 1e6 / count,
            "kb_per_connection": (server.resident() - resident) / 1024 / count,
        }
        return {**row, "closed": load.result()["closed"]}


def ingest(folder: Path, server: Server) -> Row:
    """Measure publishing that nobody listens to."""
    before = server.cpu()
    sent = publish(folder, server, Publishers(connections=16, seconds=4, rate=0))
    return {
        "published_per_second": sent["per_second"],
        "cpu_us_per_publish": (server.cpu() - before) * 1e6 / max(sent["published"], 1),
        "ack_p99_ms": sent["ack_p99_us"] / 1000,
    }


WORK: Mapping[str, Callable[[Path, Server], Row]] = {
    "steady": steady,
    "saturated": saturated,
    "connect": connect,
    "ingest": ingest,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a measure of a work, how it is called, and with how many decimals."""

    work: str
    measure: str
    title: str
    decimals: int


LINES = (
    Line("steady", "cpu_us_per_delivery", "50 events a second: server CPU per delivery, us", 1),
    Line("steady", "p50_ms", "50 events a second: p50 latency, ms", 1),
    Line("steady", "p99_ms", "50 events a second: p99 latency, ms", 1),
    Line("steady", "events_per_read", "50 events a second: events that arrive together", 2),
    Line("saturated", "deliveries_per_second", "saturated: deliveries a second", 0),
    Line("saturated", "cpu_us_per_delivery", "saturated: server CPU per delivery, us", 2),
    Line("saturated", "p50_ms", "saturated: p50 latency, ms", 1),
    Line("saturated", "p99_ms", "saturated: p99 latency, ms", 1),
    Line("connect", "cpu_us_per_connection", "5,000 connect: server CPU per connection, us", 0),
    Line("connect", "kb_per_connection", "5,000 connect: resident KiB per connection", 1),
    Line("ingest", "published_per_second", "no subscribers: single POSTs a second", 0),
    Line("ingest", "cpu_us_per_publish", "no subscribers: server CPU per POST, us", 1),
    Line("steady", "lost", "50 events a second: events lost", 0),
    Line("steady", "repeats", "50 events a second: events repeated", 0),
    Line("steady", "undelivered", "50 events a second: events undelivered", 0),
    Line("saturated", "lost", "saturated: events lost", 0),
    Line("saturated", "repeats", "saturated: events repeated", 0),
    Line("saturated", "undelivered", "saturated: events undelivered", 0),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """What our server has to reach: `factor` times a peer's measure, or `factor` itself without a peer."""

    work: str
    measure: str
    check: Callable[[str, float, float], Check]
    factor: float
    peer: str = ""


BOUNDS = (
    Bound("steady", "cpu_us_per_delivery", at_most, 1.0, "nchan"),
    Bound("steady", "cpu_us_per_delivery", at_most, 1.7, "floor"),
    Bound("steady", "p50_ms", at_most, 1.5, "nchan"),
    Bound("steady", "p99_ms", at_most, 1.5, "nchan"),
    Bound("steady", "events_per_read", at_most, 1.25),
    Bound("saturated", "deliveries_per_second", at_least, 5.0, "nchan"),
    Bound("connect", "cpu_us_per_connection", at_most, 5.0, "nchan"),
    Bound("connect", "kb_per_connection", at_most, 1.5, "nchan"),
)


def main() -> int:
    """Measure, print, and say whether the bounds hold."""
    chosen = arguments()
    stop_on_sigterm()
    rounds = measure(chosen.work, rounds=chosen.rounds, python=chosen.python)
    medians = {work: {name: over_rounds(rows) for name, rows in by.items()} for work, by in rounds.items()}
    print(table(medians))
    if chosen.json:
        chosen.json.write_text(json.dumps({"over rounds": medians, "rounds": rounds}, indent=1) + "\n")
    return exit_status(checks(medians)) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("compare", __doc__)
    parser.add_argument(
        "--rounds",
        type=positive,
        choices=range(1, 100),
        metavar="N",
        default=5,
        help="the median of so many is printed",
    )
    add_python(parser)
    parser.add_argument(
        "--work", type=some_of(WORK), default=list(WORK), help="a comma list: " + ",".join(WORK)
    )
    add_check(parser, "all bounds hold")
    parser.add_argument("--json", type=Path, help="write all measures to this file")
    return parser.parse_args()


def measure(chosen: list[str], *, rounds: int, python: str) -> Rounds:
    """Do each work `rounds` times with every server in turn."""
    found: Rounds = {}
    with workshop() as folder:
        for work in chosen:
            for turn in range(1, rounds + 1):
                for plan in plans(folder, python):
                    with running(plan) as server:
                        row = WORK[work](folder, server)
                    found.setdefault(work, {}).setdefault(plan.name, []).append(row)
                    print(f"{work}, round {turn}, {plan.name}: {told(row)}", file=sys.stderr)
    return found


def plans(folder: Path, python: str) -> list[Plan]:
    """Plan every server, each on a port of its own that no earlier run has left in TIME_WAIT."""
    return [ours(python=python), floor(folder), nchan(folder)]


def over_rounds(rows: list[Row]) -> Row:
    """Return the median of each measure, and of each loss the worst."""
    return {name: _over_rounds(name, [row[name] for row in rows]) for name in rows[0]}


def _over_rounds(name: str, values: list[float]) -> float:
    return max(values, key=abs) if name in LOSSES else statistics.median(values)


def table(medians: Medians) -> str:
    """Return the medians as Markdown."""
    head = ["| | ours | floor (C) | nchan (C) | ours / floor | ours / nchan |", "|---|---|---|---|---|---|"]
    return "\n".join(head + [_table_line(line, medians[line.work]) for line in LINES if line.work in medians])


def _table_line(line: Line, by_server: dict[str, Row]) -> str:
    values = [by_server[name][line.measure] for name in ("ours", "floor", "nchan")]
    figures = [f"{value:,.{line.decimals}f}" for value in values]
    ratios = [_ratio(values[0], peer) for peer in values[1:]]
    return f"| {line.title} | {' | '.join(figures + ratios)} |"


def _ratio(value: float, peer: float) -> str:
    # A peer that used next to nothing has no ratio worth printing.
    return f"{value / peer:.2f}" if abs(peer) > 0.05 else ""


def checks(medians: Medians) -> Iterator[Check]:
    """Check every bound on a work that was done, and that ours lost nothing."""
    for bound in BOUNDS:
        if bound.work in medians:
            yield _check(bound, medians[bound.work])
    for work, by_server in medians.items():
        for loss in LOSSES:
            if loss in by_server["ours"]:
                yield at_most(f"{work}: {loss}", abs(by_server["ours"][loss]), 0)


def _check(bound: Bound, by_server: dict[str, Row]) -> Check:
    peer = by_server[bound.peer][bound.measure] if bound.peer else 1.0
    against = f", against {bound.factor:g} x {bound.peer}" if bound.peer else ""
    measured = by_server["ours"][bound.measure]
    return bound.check(f"{bound.work}: {bound.measure}{against}", measured, bound.factor * peer)


if __name__ == "__main__":
    sys.exit(main())
