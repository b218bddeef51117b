"""What the tests of the dispatcher and of the idle monitor share."""

import asyncio
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.event import Event
from sse_broadcast.fanout.idle import TICKS
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.fanout.subscriber import SHORTEST_HEARTBEAT
from tests.support.memory_sinks import EPOCH, MemorySink, block

TICK = SHORTEST_HEARTBEAT / TICKS
"""Seconds between two ticks of the idle monitor, at most; exactly these if they divide its heartbeat."""

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


async def run_slice() -> None:
    """Let the event loop turn once: the dispatcher runs one slice, if it has anything to do."""
    await asyncio.sleep(0)


async def publish(broadcaster: Broadcaster, *data: object, **fields: Any) -> None:
    """Publish events, with no slice between them."""
    for each in data:
        await broadcaster.broadcast(str(each), **fields)


async def deliver(broadcaster: Broadcaster, *data: object, **fields: Any) -> None:
    """Publish events, and let the dispatcher run behind each."""
    for each in data:
        await publish(broadcaster, each, **fields)
        await settled()


async def drain(sink: MemorySink) -> None:
    """Empty a full sink, and let the dispatcher run."""
    sink.drain()
    await settled()


class LoopClock:
    """The loop's time, which passes only when sinks are written to, or by `tick`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def tick(self) -> None:
        """Let the time of one tick of the idle monitor pass, and let the dispatcher run."""
        self.now += TICK
        await settled()


class Timers:
    """Records the timers that the server's code sets on the running loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._set: list[asyncio.TimerHandle] = []
        self._call_at = loop.call_at
        monkeypatch.setattr(loop, "call_at", self._record)

    @property
    def pending(self) -> list[asyncio.TimerHandle]:
        """The timers that were neither cancelled nor have run."""
        return [timer for timer in self._set if not timer.cancelled()]

    def _record(
        self, when: float, callback: Callable[..., object], *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        if not callback.__module__.startswith("sse_broadcast."):
            return self._call_at(when, callback, *args, **options)

        def run() -> None:
            self._set.remove(timer)
            callback(*args)

        timer = self._call_at(when, run, **options)
        self._set.append(timer)
        return timer


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


async def beat(outbox: Outbox) -> None:
    """Make a heartbeat due, as silence would, and let the dispatcher run."""
    outbox.heartbeat_due = True
    outbox.on_ready()
    await settled()


async def pass_by(broadcaster: Broadcaster, count: int) -> None:
    """Publish so many events on a channel that nobody here reads."""
    if count:
        await broadcaster.publish_all([broadcaster.draft(Event("x", "t"), ["elsewhere"])] * count)
