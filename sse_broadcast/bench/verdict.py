"""Verdict of a run: the faults of the stream, and whether the load generator or the server was the limit."""

from dataclasses import dataclass

from sse_broadcast.bench.run import Measured
from sse_broadcast.quantity import Quantity

BUSY = 0.9
"""Share of a core from which a single-threaded process is at its limit."""

LATE_LOOP = 0.010
"""Seconds. A loop that is this late half of the time is busy, or does not get the CPU."""

ENOUGH = 0.98
"""Share of the wanted rate that counts as reached."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run has shown. `limit` is none, generator, publishers or server; the sentence says why."""

    limit: str
    sentence: str
    faults: tuple[str, ...]


def judge(measured: Measured) -> Verdict:
    """Return the verdict of a run."""
    limit, sentence = _limit(measured)
    return Verdict(limit, sentence, tuple(_faults(measured)))


def rate_of(measured: Measured) -> float:
    """Return the events a second that were published."""
    return measured.sent.published / measured.plan.duration


def _faults(measured: Measured) -> list[str]:
    tally = measured.tally
    counts = {
        "lost": measured.lost,
        "lost by disconnected subscribers": measured.lost_by_disconnected,
        "repeated": tally.repeats,
        "out of order": tally.late,
        "on the wrong channel": tally.misrouted,
    }
    return [f"{Quantity(count, 'event')} {name}" for name, count in counts.items() if count]


def _limit(measured: Measured) -> tuple[str, str]:
    plan, sent = measured.plan, measured.sent
    busy, late = _share(measured.own_cpu, measured), measured.lag.percentile(50.0)
    server = None if measured.server_cpu is None else _share(measured.server_cpu, measured)
    reached = sent.published >= ENOUGH * plan.events
    if busy >= BUSY or late >= LATE_LOOP:
        limit = (
            "was the limit, and not the server" if not reached else "was busy, which the latencies include"
        )
        return "generator", (
            f"The load generator {limit}: it used {busy:.0%} of a core, and its loop was "
            f"{late * 1e3:.1f} ms late at the median. "
            "Use a lower rate, fewer subscribers, or several runs on other machines."
        )
    if reached:
        return "none", "The rate was reached; the load generator had time to spare."
    answer = sent.answer.mean
    if server is not None and server >= BUSY:
        return "server", f"The server was the limit: it used {server:.0%} of a core."
    able = plan.publishers / answer if answer else 0.0
    needed = max(int(plan.rate * answer) + 1, plan.publishers + 1)
    publishers = Quantity(plan.publishers, "publisher")
    return "publishers", (
        f"The load generator was the limit, and not the server: its {publishers} wait for each answer, "
        f"{answer * 1e3:.2f} ms on average, and so publish {able:.0f} events a second at most. "
        f"Use --publishers {needed}."
    )


def _share(cpu: float, measured: Measured) -> float:
    return cpu / measured.load_seconds if measured.load_seconds else 0.0
