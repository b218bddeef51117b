"""Readers that stopped reading, among readers that did not: what they cost, and whom.

    python -m benchmarks.frozen [--readers 1000] [--frozen 500] [--seconds 30]
                                [--policies disconnect,drop-oldest,drop-newest]

For each overflow policy two runs of our server: one with the honest readers alone, then one
with frozen readers beside them, who take the response head and never read again. 4 KB events,
50 a second. Checked:

- honest readers get every event, once, in order, and their p99 latency is at most 1.5 times
  what it is without the frozen ones;
- the overflow policy did its work (drops, or `slow` closes), and so did the write deadline
  (`aborted`, and `stalled` closes where the policy closes nobody);
- frozen readers are gone, sockets included, within 1.25 * write_timeout and 2 s from when all
  of them must be full;
- memory stays within the two bounds below.

Memory of the server's process:

    connections * 16 KiB                 request, handler, transport, lane
  + behind * write                       what a full socket has not taken of its last write
  + behind * queue_size * 8 bytes        places in queues; the events themselves are shared:
  + queued * 3 * frame                   each once, as text, as a frame, and as a chunk of HTTP/1.1
  + held * (2 * frame + 700 bytes)       the history: what was published, up to `history_size`
  + 4 MiB                                whatever does not grow with readers

A reader is behind while its socket is full, for `write_timeout` at most. A write is at most
max(64 KiB, largest frame). It joins what came since the last pass over the readers, so in this
load it is `late` frames, if fewer: late = 1 + 50 a second * the longest latency of the run.
`queued` is how many events wait anywhere: frozen readers are all full after the same few events,
so their queues hold the same `queue_size` ones, and as many may wait for everyone else. In
general 3 * queued * frame is at most behind * 3 * min(queue_bytes, queue_size * frame).

Memory of the kernel, at both ends, since the readers are on this machine too:

    behind * 2 * (send_buffer + receive_buffer)    the kernel doubles both for its bookkeeping
  + behind * 2 * (frame + 1 KiB)                   and lets each be passed by the last frame
  + honest * 2 * late * (frame + 1 KiB)            on the way: kept until acknowledged, and read
  + 1 MiB * (processors + 1)                       reserves of each processor, and the publisher

Both are looked at once a second. The kernel's figure is that of the whole machine, so other
traffic would be counted as well.
"""

import argparse
import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Check,
    Load,
    Plan,
    Publishers,
    Row,
    Server,
    Status,
    at_least,
    at_most,
    command_line,
    exactly,
    exit_status,
    kernel_memory,
    ours,
    positive,
    print_checks,
    publish,
    running,
    some_of,
    stop_on_sigterm,
    workshop,
)

KIB, MIB = 1024, 1024 * 1024

POLICIES = ("disconnect", "drop-oldest", "drop-newest")

RATE = 50
SIZE = 4096
FRAME = SIZE + 40
"""Bytes of an event on the wire: its id, `data: `, line ends, and the chunk around them."""

WRITE_LIMIT = 65_536
"""Bytes our server joins into one write at most."""

SEND_BUFFER = 16_384
RECEIVE_BUFFER = 4096  # sseload's, for readers that are frozen
QUEUE_SIZE = 100
HISTORY_SIZE = 1000  # our server's default
WRITE_TIMEOUT = 5.0

FULL_AFTER = 2 * (SEND_BUFFER + RECEIVE_BUFFER) / FRAME / RATE
"""Seconds of publishing after which no frozen reader's socket takes more."""

GONE_AFTER = FULL_AFTER + WRITE_TIMEOUT * 1.25 + 2

OTHERS = 2
"""Connections of the server that are no readers: the publisher, and who asks for its status."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many readers there are, how many of them are frozen, and for how long events are published."""

    readers: int
    frozen: int
    seconds: float

    @property
    def honest(self) -> int:
        """How many go on reading."""
        return self.readers - self.frozen

    @property
    def held(self) -> float:
        """How many events the history holds at the end."""
        return min(HISTORY_SIZE, RATE * self.seconds)

    def without_frozen(self) -> "Crowd":
        """Return the same honest readers, alone."""
        return Crowd(self.honest, 0, self.seconds)

    def process_bound(self, late: float) -> float:
        """Return the bytes by which the server's process may grow."""
        write = min(max(WRITE_LIMIT, FRAME), late * FRAME)
        per_frozen = write + QUEUE_SIZE * 8
        events = 2 * QUEUE_SIZE * 3 * FRAME + self.held * (2 * FRAME + 700)
        return (self.readers + OTHERS) * 16 * KIB + self.frozen * per_frozen + events + 4 * MIB

    def kernel_bound(self, late: float) -> float:
        """Return the bytes by which the kernel's TCP memory may grow."""
        buffer = FRAME + KIB
        full = 2 * (SEND_BUFFER + RECEIVE_BUFFER + buffer)
        processors = os.cpu_count() or 1
        return self.frozen * full + self.honest * 2 * late * buffer + (processors + 1) * MIB


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's state at one time."""

    at: float
    resident: int
    kernel: int
    sockets: int
    status: dict[str, Any]


@dataclass(slots=True)
class Watch:
    """Samples of a server, one a second; the first is from before the load."""

    server: Server
    status: Status
    samples: list[Sample] = field(default_factory=list)

    def look(self) -> None:
        """Take one sample."""
        server = self.server
        status = self.status.ask()
        now = time.monotonic()
        self.samples.append(Sample(now, server.resident(), kernel_memory(), server.sockets(), status))

    def growth(self, measure: str) -> int:
        """Return by how much a measure was above its first sample at most."""
        values = [int(getattr(sample, measure)) for sample in self.samples]
        return max(values) - values[0]

    def first(self, sockets: int, since: float) -> float:
        """Return the seconds after `since` until no more than so many sockets were left."""
        found = [
            sample.at - since for sample in self.samples if sample.at > since and sample.sockets <= sockets
        ]
        return min(found, default=math.inf)

    @contextlib.contextmanager
    def every_second(self) -> Iterator[None]:
        """Look once a second in a thread, as long as the context lasts."""
        over = threading.Event()

        def looking() -> None:
            while not over.wait(1):
                self.look()

        thread = threading.Thread(target=looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: what was sent, what arrived, and what was seen meanwhile."""

    sent: Row
    got: Row
    watch: Watch
    published_at: float

    @property
    def late(self) -> float:
        """How many events were on their way to one reader at most."""
        return 1 + RATE * self.got["max_us"] / 1e6

    @property
    def final(self) -> dict[str, Any]:
        """The server's counters after it all."""
        return self.watch.samples[-1].status


def main() -> int:
    """Measure each policy, print what was checked, and say whether it holds."""
    chosen = arguments()
    stop_on_sigterm()
    crowd = Crowd(chosen.readers, chosen.frozen, chosen.seconds)
    checks: list[Check] = []
    with workshop() as folder:
        for policy in chosen.policies:
            checks += measure(folder, policy, crowd)
    return exit_status(checks)


def arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = command_line("frozen", __doc__)
    parser.add_argument("--readers", type=positive, default=1000, help="all, the frozen ones included")
    parser.add_argument("--frozen", type=positive, default=500, help="how many of them never read")
    parser.add_argument("--seconds", type=float, default=30, help="how long events are published")
    parser.add_argument("--policies", type=some_of(POLICIES), default=list(POLICIES), help="a comma list")
    chosen = parser.parse_args()
    if chosen.frozen >= chosen.readers:
        parser.error("--frozen: some of the readers, and not all")
    if chosen.seconds < GONE_AFTER + 1:
        parser.error(f"--seconds: frozen readers take up to {GONE_AFTER:.1f} to go, and must be seen gone")
    return chosen


def measure(folder: Path, policy: str, crowd: Crowd) -> list[Check]:
    """Run without and with frozen readers, and check the one against the other."""
    alone = run(folder, policy, crowd.without_frozen())
    outcome = run(folder, policy, crowd)
    print(f"\n{policy}: {crowd.honest} readers, and then {crowd.frozen} frozen ones with them")
    print_growth("without frozen readers", alone)
    print_growth("with frozen readers", outcome)
    print(f"  counted: {outcome.final}")
    checks = [
        Check(f"{policy}: {check.name}", check.measured, check.asked, check.met)
        for part in (
            delivered(outcome, crowd, alone),
            let_go(outcome, crowd, policy),
            bounded(outcome, crowd),
        )
        for check in part
    ]
    print_checks(checks)
    return checks


def run(folder: Path, policy: str, crowd: Crowd) -> Outcome:
    """Publish to a crowd, and watch the server."""
    with running(plan(policy)) as server, Status(server.port) as status:
        watch = Watch(server, status)
        watch.look()
        with Load(
            folder, server, readers=crowd.readers, seconds=crowd.seconds + 3, frozen=crowd.frozen
        ) as load:
            with watch.every_second():
                published_at = time.monotonic()
                sent = publish(folder, server, Publishers(1, crowd.seconds, RATE, SIZE))
            watch.look()
            return Outcome(sent, load.result(), watch, published_at)


def plan(policy: str) -> Plan:
    """Plan a server whose frozen readers are soon full, and soon overdue."""
    flags = {
        "--send-buffer": SEND_BUFFER,
        "--write-timeout": WRITE_TIMEOUT,
        "--queue-size": QUEUE_SIZE,
        "--overflow": policy,
    }
    return ours(*(str(word) for flag in flags.items() for word in flag))


def print_growth(name: str, outcome: Outcome) -> None:
    """Print latencies, and what memory grew by at most."""
    process, kernel = (outcome.watch.growth(measure) / MIB for measure in ("resident", "kernel"))
    p50, p99 = outcome.got["p50_us"] / 1000, outcome.got["p99_us"] / 1000
    print(
        f"  {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, process +{process:.1f} MiB, kernel +{kernel:.1f} MiB"
    )


def delivered(outcome: Outcome, crowd: Crowd, alone: Outcome) -> Iterator[Check]:
    """Check that honest readers noticed nothing."""
    got, sent = outcome.got, outcome.sent
    yield exactly(
        "events that reached honest readers", int(got["events"]), int(sent["published"]) * crowd.honest
    )
    for loss in ("gaps", "repeats", "closed"):
        yield exactly(f"honest readers' {loss}", int(got[loss]), 0)
    yield at_most("honest readers' p99", got["p99_us"] / 1000, 1.5 * alone.got["p99_us"] / 1000, " ms")


def let_go(outcome: Outcome, crowd: Crowd, policy: str) -> Iterator[Check]:
    """Check that frozen readers met the policy and the deadline, and are gone."""
    final = outcome.final
    if policy == "disconnect":
        yield at_least("closed as slow", final["closed"].get("slow", 0), 1)
    else:
        yield at_least("closed as stalled", final["closed"].get("stalled", 0), 1)
        yield at_least("events dropped", final["dropped"].get(policy, 0), 1)
    yield at_least("sockets aborted", final["aborted"], 1)
    yield exactly("readers at the end", final["connected_clients"], crowd.honest)
    gone = outcome.watch.first(crowd.honest + OTHERS, since=outcome.published_at)
    yield at_most("frozen readers' last socket gone after", gone, GONE_AFTER, " s")


def bounded(outcome: Outcome, crowd: Crowd) -> Iterator[Check]:
    """Check the formulas."""
    watch, late = outcome.watch, outcome.late
    yield at_most("process memory", watch.growth("resident") / MIB, crowd.process_bound(late) / MIB, " MiB")
    yield at_most("kernel memory", watch.growth("kernel") / MIB, crowd.kernel_bound(late) / MIB, " MiB")


if __name__ == "__main__":
    sys.exit(main())
