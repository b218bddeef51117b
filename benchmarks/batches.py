"""Batches of events beside single ones: how many events a second a publisher gets in.

    python -m benchmarks.batches [--rounds 5] [--seconds 4] [--batch 1000] [--size 80]
                                 [--python PATH] [--check]

Our server takes `POST /send/{channel}` with NDJSON batches, nginx with nchan one event a POST,
which is all it knows. Both on the same number of keep-alive connections, each with one request
in flight, as fast as they are answered; each server once with nobody reading and once with
one subscriber, who must get every event once and in order. They take turns, and the medians
count. Our server has its default settings, with which its history holds the newest 1,000 events of
the channel, as nchan's buffer does; only the queue is longer where somebody reads. By default it
holds 1,000 events, one batch: a reader whom this machine leaves waiting for a hundredth of a
second would be cut, and could not resume, since the history is gone as soon. What nchan's reader
missed, about half, is told round by round, and not checked.

With --check the exit status is 1 unless our events a second are at least 3 times nchan's where
nobody reads, and our reader missed nothing in any round, and was not closed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from benchmarks.harness import (
    Check,
    Load,
    Publishers,
    Row,
    Server,
    add_check,
    add_python,
    at_least,
    command_line,
    exactly,
    exit_status,
    nchan,
    ours,
    positive,
    print_checks,
    publish,
    running,
    stop_on_sigterm,
    told,
    workshop,
)

FACTOR = 3.0
"""How many times nchan's rate ours has to reach."""

CONNECTIONS = 16
"""Of the publisher, to either server."""

LONG_QUEUE = ("--queue-size", "200000", "--queue-bytes", "67108864")
"""About half a second of events for one reader."""

SETTLE = 1.0
"""Seconds a reader is given for what was published last."""

LOSSES = ("lost", "repeats", "closed", "undelivered")

Rows: TypeAlias = dict[tuple[int, str], list[Row]]
"""Readers and server: the measures of each round."""


def main() -> int:
    """Measure by turns, print the medians, and say whether the bound holds."""
    chosen = arguments()
    stop_on_sigterm()
    rows: Rows = {}
    with workshop() as folder:
        for turn in range(1, chosen.rounds + 1):
            for readers in (0, 1):
                for plan in (ours(*(LONG_QUEUE if readers else ()), python=chosen.python), nchan(folder)):
                    with running(plan) as server:
                        row = measure(folder, server, work(plan.name, chosen), readers=readers)
                    rows.setdefault((readers, plan.name), []).append(row)
                    print(f"round {turn}, {readers} readers, {plan.name}: {told(row)}", file=sys.stderr)
    medians = {key: over_rounds(found) for key, found in rows.items()}
    print(table(medians))
    found = list(checks(medians))
    print_checks(found)
    return exit_status(found) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("batches", __doc__)
    parser.add_argument("--rounds", type=positive, default=5, help="the median of so many counts")
    parser.add_argument("--seconds", type=float, default=4, help="how long each publishes")
    parser.add_argument("--batch", type=positive, default=1000, help="events of one batch")
    parser.add_argument("--size", type=positive, default=80, help="bytes of an event")
    add_python(parser)
    add_check(parser, "the bound holds")
    return parser.parse_args()


def work(name: str, chosen: argparse.Namespace) -> Publishers:
    """Return how a server is published to: ours in batches, the other one by one."""
    if name == "ours":
        return Publishers(
            CONNECTIONS, chosen.seconds, 0, chosen.size, path="/send/default", batch=chosen.batch
        )
    return Publishers(CONNECTIONS, chosen.seconds, 0, chosen.size)


def measure(folder: Path, server: Server, publishers: Publishers, *, readers: int) -> Row:
    """Publish to that many readers, and see how much went in and came out."""
    if not readers:
        return _in(server, folder, publishers)
    with Load(folder, server, readers=readers, seconds=publishers.seconds + SETTLE + 1) as load:
        row = _in(server, folder, publishers)
        got = load.result()
    return {
        **row,
        "p99_ms": got["p99_us"] / 1000,
        "lost": got["gaps"],
        "repeats": got["repeats"],
        "closed": got["closed"],
        "undelivered": row["events"] * readers - got["events"],
    }


def _in(server: Server, folder: Path, publishers: Publishers) -> Row:
    before, begun = server.cpu(), time.monotonic()
    sent = publish(folder, server, publishers)
    spent, took = server.cpu() - before, time.monotonic() - begun
    return {
        "events_per_second": sent["events_per_second"],
        "cpu_us_per_event": spent * 1e6 / max(sent["events"], 1),
        "cores": spent / took,
        "ack_p99_ms": sent["ack_p99_us"] / 1000,
        "events": sent["events"],
    }


def over_rounds(rows: list[Row]) -> Row:
    """Return the median of each measure, and of each loss the worst."""
    return {name: _over_rounds(name, [row[name] for row in rows]) for name in rows[0]}


def _over_rounds(name: str, values: list[float]) -> float:
    return max(values, key=abs) if name in LOSSES else statistics.median(values)


def table(medians: Mapping[tuple[int, str], Row]) -> str:
    """Return the medians as Markdown."""
    lines = ["| | ours, batches | nchan, single | ours / nchan |", "|---|---|---|---|"]
    for readers in (0, 1):
        for measure_, title, decimals in (
            ("events_per_second", "events a second", 0),
            ("cpu_us_per_event", "server CPU per event, us", 2),
        ):
            us, peer = medians[readers, "ours"][measure_], medians[readers, "nchan"][measure_]
            who = "one reader" if readers else "no reader"
            lines.append(f"| {who}: {title} | {us:,.{decimals}f} | {peer:,.{decimals}f} | {us / peer:.2f} |")
    return "\n".join(lines)


def checks(medians: Mapping[tuple[int, str], Row]) -> Iterator[Check]:
    """Check the rate, and that the reader missed nothing."""
    us, peer = medians[0, "ours"], medians[0, "nchan"]
    least = FACTOR * peer["events_per_second"]
    yield at_least(f"events a second, against {FACTOR:g} x nchan", us["events_per_second"], least)
    for loss in LOSSES:
        yield exactly(f"our reader's {loss}", int(medians[1, "ours"][loss]), 0)


if __name__ == "__main__":
    sys.exit(main())
