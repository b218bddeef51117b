"""What a publish costs among many channels and readers that have nothing to do with it.

    python -m benchmarks.channels [--rounds 5] [--seconds 2] [--channels 100000] [--others 10000]
                                  [--patterns 100] [--python PATH] [--check]

One publisher on one connection, each POST sent when the one before is answered, to `/send/hit`
of three servers that run at the same time and take turns:

  empty      nobody reads, and nothing was ever published before
  alone      the same with one reader of `hit`
  crowded    the same reader, among 10,000 others, and 100,000 channels in the history with one
             event each. Each of the others reads a channel of its own, of those, but for 100 of
             them, who read by a pattern of their own that never matches `hit`

Each has room in its history for all channels, and no heartbeats while it is measured: they are
what a reader costs, and not a publish. Measured is the server's user and system time per POST,
and its relation to that of the others in the same round; the median over the rounds counts.

The bound is 1.5, and can be read in two ways. --check holds the stricter one: "crowded", who
writes to its one reader as well, costs at most 1.5 times what "empty" does, with no reader at
all. And it costs then at most 1.5 times what "alone" does, which is the cost of the crowd
itself. Also that the reader got every event in both, and that none of the others got any.

The client and each server have to have a descriptor for each reader: --others is limited by
`ulimit -Hn`.
"""

import argparse
import contextlib
import http.client
import json
import resource
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.harness import (
    HOST,
    PATIENCE,
    Check,
    Load,
    Plan,
    Publishers,
    Row,
    Server,
    Status,
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
    publish,
    running,
    stop_on_sigterm,
    told,
    workshop,
)

FACTOR = 1.5
"""How many times the cost on an empty server the cost on a crowded one may be."""

NAMES = ("empty", "alone", "crowded")

BATCH = 1000
"""Channels that are given their event in one request."""

SPARE = 60
"""Descriptors that are no reader's."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Readers of the channel that is published to, and what has nothing to do with it."""

    hit: int = 0
    channels: int = 0
    by_name: int = 0
    by_pattern: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """A server that runs, and its readers: of other channels, and of the one that is published to."""

    server: Server
    crowd: Crowd
    others: tuple[Load, ...]
    hit: tuple[Load, ...]

    @classmethod
    def open(
        cls, stack: contextlib.ExitStack, folder: Path, plan: Plan, crowd: Crowd, *, seconds: float
    ) -> Self:
        """Start a server, and have everyone come who is to be there for so many seconds."""
        server = stack.enter_context(running(plan))
        fill(server, crowd.channels)

        def readers(count: int, path: str) -> Iterator[Load]:
            if count:
                yield stack.enter_context(Load(folder, server, readers=count, seconds=seconds, path=path))

        others = (
            *readers(crowd.by_name, "/events/other.{n}"),
            *readers(crowd.by_pattern, "/events/other.{n}.*"),
        )
        return cls(server, crowd, others, tuple(readers(crowd.hit, "/events/hit")))


def main() -> int:
    """Measure by turns, print the medians, and say whether the bound holds."""
    chosen = arguments()
    stop_on_sigterm()
    crowds = {
        "crowded": Crowd(1, chosen.channels, chosen.others - chosen.patterns, chosen.patterns),
        "alone": Crowd(1),
        "empty": Crowd(),
    }
    rows: dict[str, list[Row]] = {name: [] for name in NAMES}
    # Readers stay for a time that is given beforehand: all turns, and what lies between them.
    seconds = len(NAMES) * chosen.rounds * (chosen.seconds + 1) + PATIENCE
    with workshop() as folder, contextlib.ExitStack() as stack:
        scenes = [
            Scene.open(stack, folder, plan(name, chosen), crowd, seconds=seconds)
            for name, crowd in crowds.items()
        ]
        for turn in range(1, chosen.rounds + 1):
            for scene in scenes:
                row = measure(folder, scene.server, chosen.seconds)
                rows[scene.server.name].append(row)
                print(f"round {turn}, {scene.server.name}: {told(row)}", file=sys.stderr)
        found = list(checks(rows))
        for scene in scenes:
            found += everyone_there(scene)
        # Last, since to have a result is to wait for the end of the time the readers stay.
        found += [check for scene in scenes for check in delivered(scene, rows[scene.server.name])]
    print(table(rows))
    print_checks(found)
    return exit_status(found) if chosen.check else 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("channels", __doc__)
    parser.add_argument("--rounds", type=positive, default=5, help="the median of so many counts")
    parser.add_argument("--seconds", type=float, default=2, help="how long each publishes")
    parser.add_argument("--channels", type=positive, default=100_000, help="channels in the history")
    parser.add_argument("--others", type=positive, default=10_000, help="readers of other channels")
    parser.add_argument("--patterns", type=positive, default=100, help="how many of them read by a pattern")
    add_python(parser)
    add_check(parser)
    chosen = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE
    if most < chosen.others:
        parser.error(f"--others: {most} at most, since this machine gives a process no more descriptors")
    if chosen.patterns >= chosen.others:
        parser.error("--patterns: some of the others, and not all")
    return chosen


def plan(name: str, chosen: argparse.Namespace) -> Plan:
    """Plan a server that holds all channels, and sends no heartbeat while it is measured."""
    flags = {
        "--heartbeat": 3600,
        "--history-channels": 2 * chosen.channels,
        "--history-total": chosen.channels * 4096,
    }
    words = (str(word) for flag in flags.items() for word in flag)
    planned = ours(*words, python=chosen.python)
    return Plan(name, planned.command, planned.port, planned.body)


def fill(server: Server, channels: int) -> None:
    """Publish one event to each of so many channels."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        for begin in range(0, channels, BATCH):
            batch = range(begin, min(begin + BATCH, channels))
            lines = [json.dumps({"message": f"first {n}", "channel": f"other.{n}"}) for n in batch]
            connection.request("POST", "/send", "\n".join(lines), {"Content-Type": "application/x-ndjson"})
            with connection.getresponse() as response:
                if response.status != 200:
                    fail(f"{server.name}: a channel could not be filled: {response.read()[:300]!r}")
                response.read()


def measure(folder: Path, server: Server, seconds: float) -> Row:
    """Publish, and see what that cost."""
    before = server.cpu()
    sent = publish(folder, server, Publishers(1, seconds, 0, path="/send/hit"))
    spent = server.cpu() - before
    return {
        "cpu_us_per_post": spent * 1e6 / max(sent["published"], 1),
        "per_second": sent["per_second"],
        "ack_p99_ms": sent["ack_p99_us"] / 1000,
        "published": sent["published"],
    }


def table(rows: dict[str, list[Row]]) -> str:
    """Return the medians as Markdown."""
    lines = ["| | empty | alone | crowded | / empty | / alone |", "|---|---|---|---|---|---|"]
    for measure_, title in (
        ("cpu_us_per_post", "server CPU per POST, us"),
        ("per_second", "POSTs a second, one connection"),
    ):
        figures = [f"{statistics.median(row[measure_] for row in rows[name]):,.1f}" for name in NAMES]
        ratios = [f"{ratio(rows, measure_, name):.2f}" for name in ("empty", "alone")]
        lines.append(f"| {title} | {' | '.join(figures + ratios)} |")
    return "\n".join(lines)


def ratio(rows: dict[str, list[Row]], measure_: str, name: str) -> float:
    """Return the crowded server's measure in relation to another's of the same round: the median of that."""
    turns = zip(rows["crowded"], rows[name], strict=True)
    return statistics.median(crowded[measure_] / other[measure_] for crowded, other in turns)


def checks(rows: dict[str, list[Row]]) -> Iterator[Check]:
    """Check the cost on the crowded server against that on either other."""
    for name in ("empty", "alone"):
        found = ratio(rows, "cpu_us_per_post", name)
        yield at_most(f"server CPU per POST, in relation to {name}", found, FACTOR)


def everyone_there(scene: Scene) -> Iterator[Check]:
    """Check that nobody has left meanwhile."""
    with Status(scene.server.port) as status:
        connected = status.ask()["connected_clients"]
    crowd = scene.crowd
    readers = crowd.hit + crowd.by_name + crowd.by_pattern
    yield exactly(f"{scene.server.name}: readers", connected, readers)


def delivered(scene: Scene, rows: list[Row]) -> Iterator[Check]:
    """Check that the one reader got everything, and the others nothing."""
    name, published = scene.server.name, int(sum(row["published"] for row in rows))
    for load in scene.hit:
        yield exactly(f"{name}: events that reached the reader", int(load.result()["events"]), published)
    for load in scene.others:
        got = load.result()
        yield exactly(f"{name}: events that reached others", int(got["events"] + got["markers"]), 0)


if __name__ == "__main__":
    sys.exit(main())
