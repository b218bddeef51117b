"""Delivery: the one walk that moves what waits in queues to the sinks.

No task is woken per subscriber or per event. Publishing marks a lane ready; one callback of
the event loop walks the ready lanes and writes. Whatever waits for a lane when its turn comes
leaves in one write, so the cost of a delivery falls as the load rises, and no timer ever joins
events. One other timer, shared by all lanes, sees to heartbeats and deadlines.
"""

import asyncio
import json
import logging
import random
from collections import defaultdict, deque
from typing import Protocol

from sse_broadcast import wire
from sse_broadcast.event import Event
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Encoding
from sse_broadcast.subscriber import CloseReason, Subscriber

logger = logging.getLogger(__name__)

WRITE_LIMIT = 65_536
"""Bytes joined into one write at most; a single larger frame goes alone."""

SLICE = 0.002
"""Seconds after which the walk lets the loop serve publishes, connects and timers."""

STRIDE = 16
"""Lanes between two looks at the clock: a walk of 16 lanes takes some 0.2 ms."""

TICKS = 8
"""Ticks of the shared timer in a heartbeat or a write deadline, whichever is shorter."""


class Sink(Protocol):
    """Where a lane's bytes go. `write` and `close` never wait."""

    encoding: Encoding
    """How this sink's publications are written."""

    def frame(self, block: bytes) -> bytes:
        """Give a bare block as this sink's transfer coding has it."""

    def write(self, data: bytes) -> bool:
        """Write, and say whether more may follow at once. Raises `SinkClosedError`."""

    @property
    def gone(self) -> bool:
        """Whether the connection is closed, or closing."""

    def close(self) -> None:
        """End the body cleanly once what is written has been taken."""

    def abort(self) -> None:
        """Cut the connection now, and let go of what is unsent."""


class Lane:
    """One subscriber's way to its sink: the outlet of an HTTP reader."""

    __slots__ = ("_delivery", "blocked", "due", "ending", "farewell", "silent", "sink", "subscriber", "written")

    def __init__(self, delivery: "Delivery", subscriber: Subscriber, sink: Sink, now: float) -> None:
        self._delivery = delivery
        self.subscriber = subscriber
        self.sink = sink
        self.blocked = False  # its sink is full, or it has none any more
        self.written = now  # when its last write was, by the loop's clock
        self.due = 0  # the tick at which its silence is looked at next
        self.silent = False  # a heartbeat is owed
        self.farewell = b""  # what ends its stream, once the queue is empty
        self.ending = False  # that has been written

    def ready(self) -> None:
        """See `Outlet`."""
        if not self.blocked:
            self._delivery.wake(self)

    def relieve(self) -> None:
        """See `Outlet`."""
        self._delivery.relieve(self)

    def end(self, reason: CloseReason) -> None:
        """See `Outlet`."""
        self._delivery.end(self, reason)

    def resume(self) -> None:
        """Take note that the full sink has emptied. Called by the owner of the sink."""
        self._delivery.resume(self)


class Delivery:
    """Writes for every lane of one broadcaster. Belongs to one event loop.

    `heartbeat` and `write_timeout` are in seconds, `retry` in milliseconds.
    """

    def __init__(self, *, heartbeat: float, write_timeout: float, retry: int, metrics: Metrics) -> None:
        self._heartbeat = heartbeat
        self._write_timeout = write_timeout
        self._retry = retry
        self._metrics = metrics
        self._tick_length = min(heartbeat, write_timeout) / TICKS
        self._lanes: set[Lane] = set()
        self._ready: deque[Lane] = deque()
        self._walking: asyncio.Handle | None = None
        self._now = 0.0
        # Lanes whose sink is full or whose stream is ending, and when that must be over: in
        # order of time, since the allowance is the same for all.
        self._deadlines: dict[Lane, float] = {}
        # Lanes by the tick at which their silence is next looked at.
        self._silence: defaultdict[int, set[Lane]] = defaultdict(set)
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0
        self._emptied: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._lanes)

    def opening(self) -> bytes:
        """Give a new stream's first bytes, with a reconnection time of its own."""
        return wire.opening(jittered(self._retry))

    def attach(self, subscriber: Subscriber, sink: Sink) -> Lane:
        """Give the subscriber a lane to its sink, from now until `detach`."""
        now = asyncio.get_running_loop().time()
        lane = Lane(self, subscriber, sink, now)
        subscriber.outlet = lane
        self._lanes.add(lane)
        if self._timer is None:
            self._ticked = self._tick_of(now)
            self._schedule_tick()
        self._watch_silence(lane, now)
        return lane

    def detach(self, lane: Lane) -> None:
        """Forget a lane; whoever owns its sink does so when the connection is over."""
        self._lanes.discard(lane)
        self._deadlines.pop(lane, None)
        self._forget_silence(lane)
        lane.blocked = True
        if not self._lanes:
            self._rest()

    async def emptied(self) -> None:
        """Wait until no lane is left."""
        if self._lanes:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def abort(self) -> None:
        """Cut every connection that is still open."""
        for lane in tuple(self._lanes):
            self._abort(lane)

    # The hot path: wake, _walk, _flush. Measured by benchmarks/compare.py; what stands here
    # runs for every event of every subscriber.

    def wake(self, lane: Lane) -> None:
        """Let the walk come by this lane."""
        self._ready.append(lane)
        if self._walking is None:
            self._walking = asyncio.get_running_loop().call_soon(self._walk)

    def _walk(self) -> None:
        loop = asyncio.get_running_loop()
        ready = self._ready
        now = loop.time()
        stop = now + SLICE
        while ready and now < stop:
            self._now = now
            for _ in range(min(STRIDE, len(ready))):
                lane = ready.popleft()
                if not lane.blocked:
                    self._flush(lane)
            now = loop.time()
        self._walking = loop.call_soon(self._walk) if ready else None

    def _flush(self, lane: Lane) -> None:
        """Make one write of what waits for an open lane: up to `WRITE_LIMIT` bytes, or one frame."""
        subscriber, sink = lane.subscriber, lane.sink
        batch = subscriber.take(WRITE_LIMIT)
        if len(batch) == 1:
            data = batch[0].frame(sink.encoding)
        elif batch:
            encoding = sink.encoding
            data = b"".join([publication.frame(encoding) for publication in batch])
        else:
            data = self._last_words(lane)
            if not data:
                return
        try:
            free = sink.write(data)
        except Exception as error:  # noqa: BLE001 - one bad sink never ends the walk
            self._fail(lane, error)
            return
        lane.written = self._now
        if not free:
            self._block(lane)
        elif lane.ending:
            sink.close()
        elif len(subscriber) or lane.farewell:
            self.wake(lane)

    # Full sinks, and the ends of streams.

    def relieve(self, lane: Lane) -> None:
        """Write what waits for a lane now, until its queue is empty or its sink full."""
        while len(lane.subscriber) and not lane.blocked:
            if lane.sink.gone:
                self._lost(lane)
                return
            self._flush(lane)

    def resume(self, lane: Lane) -> None:
        """Take note that a full sink has emptied."""
        lane.blocked = False
        if lane.ending:
            lane.sink.close()
            return
        if not lane.farewell:
            self._deadlines.pop(lane, None)
        self.wake(lane)

    def end(self, lane: Lane, reason: CloseReason) -> None:
        """Say goodbye if the reader still takes bytes, and see that the end does not take for ever."""
        if reason in (CloseReason.SLOW, CloseReason.DRAIN):
            lane.farewell = lane.sink.frame(goodbye(reason, jittered(self._retry)))
            self._deadline(lane)
            lane.ready()
        elif reason is CloseReason.LEFT:
            lane.blocked = True
            lane.sink.close()

    def _block(self, lane: Lane) -> None:
        lane.blocked = True
        self._deadline(lane)

    def _deadline(self, lane: Lane) -> None:
        # What is there stands: a socket that was full when its stream began to end gets no
        # second allowance, and partial progress resets nothing.
        if lane not in self._deadlines:
            self._deadlines[lane] = asyncio.get_running_loop().time() + self._write_timeout

    def _abort(self, lane: Lane) -> None:
        self._metrics.aborted()
        self._deadlines.pop(lane, None)
        lane.blocked = True
        lane.sink.abort()

    def _fail(self, lane: Lane, error: Exception) -> None:
        if lane.sink.gone:
            self._lost(lane)
        else:
            logger.warning("a write failed, its connection is cut: %r", error)
            lane.subscriber.close(CloseReason.ERROR)
            lane.sink.abort()

    def _lost(self, lane: Lane) -> None:
        lane.subscriber.close(CloseReason.LEFT)
        # A stream that was ending already has its reason, but its owner still waits.
        lane.blocked = True
        lane.sink.close()

    # Silence: heartbeats, and readers that left without a word.

    def _last_words(self, lane: Lane) -> bytes:
        """Give what an empty queue leaves to say: the end of the stream, a heartbeat, or nothing."""
        if lane.farewell:
            lane.ending = True
            return lane.farewell
        if lane.silent:
            lane.silent = False
            return lane.sink.frame(wire.HEARTBEAT)
        return b""

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        reached = max(self._tick_of(now), self._ticked + 1)
        missed = range(self._ticked + 1, reached + 1)
        self._ticked = reached
        self._enforce_deadlines(now)
        for due in missed:
            for lane in self._silence.pop(due, ()):
                self._look_at(lane, now)
        if self._lanes:
            self._schedule_tick()

    def _enforce_deadlines(self, now: float) -> None:
        late = []
        for lane, deadline in self._deadlines.items():
            if deadline > now:
                break
            late.append(lane)
        for lane in late:
            lane.subscriber.close(CloseReason.STALLED)
            self._abort(lane)

    def _look_at(self, lane: Lane, now: float) -> None:
        if lane.sink.gone:
            # Nobody told us: an application that does not cancel handlers of lost connections.
            self._lost(lane)
            return
        if not lane.blocked and now - lane.written >= self._heartbeat - self._tick_length:
            lane.silent = True
            self.wake(lane)
            self._watch_silence(lane, now)
        else:
            self._watch_silence(lane, now if lane.blocked else lane.written)

    def _watch_silence(self, lane: Lane, since: float) -> None:
        # Rounded down: a heartbeat may come one tick early, and never late.
        lane.due = max(self._tick_of(since + self._heartbeat), self._ticked + 1)
        self._silence[lane.due].add(lane)

    def _forget_silence(self, lane: Lane) -> None:
        lanes = self._silence.get(lane.due)
        if lanes is not None:
            lanes.discard(lane)
            if not lanes:
                del self._silence[lane.due]

    def _tick_of(self, when: float) -> int:
        return int(when / self._tick_length)

    def _schedule_tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at((self._ticked + 1) * self._tick_length, self._tick)

    def _rest(self) -> None:
        """Stop the timer when there is no lane to look after, and tell who waits for that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None


def goodbye(reason: CloseReason, retry: int) -> bytes:
    """Give the block that ends a stream: why, and the milliseconds after which to come back."""
    return wire.encode(Event(json.dumps({"reason": reason}), type="$close", retry=retry))


def jittered(retry: int) -> int:
    """Spread a reconnection time by half, so that readers cut together do not return together."""
    return random.randint(retry - retry // 2, retry + retry // 2)
