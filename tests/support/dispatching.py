"""What the tests of the dispatcher and of the idle monitor share."""

import asyncio
import itertools
import re

import pytest

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.event import Event
from sse_broadcast.fanout.outbox import Outbox
from tests.support.memory_sinks import EPOCH, MemorySink, block

LARGE = "x" * 30_000
"""Two of these fit into a write, and three do not."""


def moved(position: int) -> bytes:
    """Return the heartbeat that brings a cursor up to a position."""
    return f"event: $heartbeat\ndata: {{}}\nid: {EPOCH}-{position}\n\n".encode()


def closed(reason: str, position: int) -> str:
    """Give the pattern of the block that ends a stream whose reader was given everything up to a position."""
    return rf'event: \$close\nretry: \d+\ndata: {{"reason": "{reason}"}}\nid: {EPOCH}-{position}\n\n'


def require_closed(data: bytes, reason: str, position: int) -> None:
    """Fail unless this is the end of such a stream, and nothing else."""
    assert re.fullmatch(closed(reason, position), data.decode()), data


def blocks(*data: object, first: int = 1) -> bytes:
    """Return the frames of what was published from a position on."""
    return b"".join(itertools.starmap(block, enumerate(data, first)))


async def settled() -> None:
    """Let the dispatcher run."""
    for _ in range(5):
        await asyncio.sleep(0)


class LoopClock:
    """The loop's time, which passes only when sinks are written to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


class CostlySink(MemorySink):
    """A sink whose every write takes its time, and is noted."""

    def __init__(self, name: str, clock: LoopClock, cost: float, order: list[str]) -> None:
        super().__init__()
        self._name = name
        self._clock = clock
        self._cost = cost
        self._order = order

    def write(self, data: bytes) -> None:
        self._clock.now += self._cost
        self._order.append(self._name)
        super().write(data)


def runs(order: list[str]) -> list[tuple[str, int]]:
    return [(name, len(list(group))) for name, group in itertools.groupby(order)]


async def beat(broadcaster: Broadcaster, outbox: Outbox) -> None:
    """Make a heartbeat due, as silence would, and let the dispatcher run."""
    outbox.heartbeat_due = True
    broadcaster._delivery.schedule_outbox(outbox)
    await settled()


async def pass_by(broadcaster: Broadcaster, count: int) -> None:
    """Publish so many events on a channel that nobody here reads."""
    draft = broadcaster.draft(Event("x", "t"), ["elsewhere"])
    if count:
        await broadcaster.publish_all([draft] * count)


def pass_time(broadcaster: Broadcaster, clock: "LoopClock") -> None:
    """Let a tick pass, and run a slice."""
    dispatcher = broadcaster._delivery
    clock.now += dispatcher._idle._tick_length
    dispatcher._idle._tick()
    dispatcher._run_slice()
