"""Delivery: the one walk that moves what waits to the sinks.

No task is woken per subscriber or per event. Publishing appends to an audience's log; one
callback of the event loop walks the audience's lanes and writes. Whatever waits when a pass
begins leaves in one write per lane, so the cost of a delivery falls as the load rises, and no
timer ever joins events. One other timer, shared by all lanes, sees to heartbeats and deadlines.
"""

import asyncio
import itertools
import json
import logging
import math
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from sse_broadcast.backends.base import Backend
from sse_broadcast.cursor import own_id
from sse_broadcast.encoding import HEARTBEAT, Encoding, own_block
from sse_broadcast.event import Event
from sse_broadcast.fanout.group import Audience, Lane, Lap, Sink
from sse_broadcast.fanout.subscriber import SHORTEST_HEARTBEAT, TOLD, CloseReason, Subscriber
from sse_broadcast.metrics import Metrics, Timeout
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import PIECE, FairQueue

logger = logging.getLogger("sse_broadcast.delivery")

WRITE_LIMIT = 65_536
"""Bytes joined into one write at most; a single larger frame goes alone."""

SLICE = 0.002
"""Seconds after which the walk lets the loop serve publishes, connects and timers."""

STRIDE = 64
"""Lanes of an audience between two looks at the clock: some 0.3 ms of writing."""

TURN = 0.00025
"""Seconds for lanes that do not march with their audience, between two strides of those that do; as many
again for those that catch up. So a pass over an audience takes about twice as long at most while strangers
replay the history: with twice these seconds the 99th percentile of the others' latency rose by a quarter."""

PAGES = 8
"""Pages of history kept joined."""

TICKS = 8
"""Ticks of the shared timer in the shortest heartbeat or a write deadline, whichever is shorter."""

FAR_BEHIND = 100
"""Positions by which a cursor may be behind: a tenth of what the history holds of a channel by default."""

HOUR = 3600.0
"""Seconds of comments after which a heartbeat is a block. r3labs, tmaxmax and resty hold comments until a
block ends, and fail when they hold 32 to 64 KiB."""


class Delivery:
    """Writes for every lane of one broadcaster. Belongs to one event loop.

    `heartbeat` is the usual one; subscribers may have others. It and `write_timeout` are in seconds. The
    backend says where the newest event is, and whether a cursor is still good.
    """

    def __init__(self, backend: Backend, *, heartbeat: float, write_timeout: float, metrics: Metrics) -> None:
        self._backend = backend
        self._write_timeout = write_timeout
        self._metrics = metrics
        # A whole part of the usual heartbeat, so that most come in their time and not a tick early.
        finest = min(heartbeat, write_timeout, SHORTEST_HEARTBEAT) / TICKS
        self._tick_length = heartbeat / math.ceil(heartbeat / finest)
        self._lanes: set[Lane] = set()
        self._ready: deque[Audience] = deque()
        self._ready_lanes: deque[Lane] = deque()
        self._replaying = FairQueue[Lane]()  # lanes that catch up, by who caused it
        self._due_lanes: deque[Lane] = deque()  # whose silence is to be looked at
        self._walking: asyncio.Handle | None = None
        self._now = 0.0
        # Lanes whose sink is full or whose stream is ending, and when that must be over: in
        # order of time, since the allowance is the same for all.
        self._deadlines: dict[Lane, float] = {}
        # Lanes by the tick at which their silence is next looked at.
        self._silence: defaultdict[int, set[Lane]] = defaultdict(set)
        self._pages: dict[tuple[Audience, int, int, int], bytes] = {}
        self._cursor_frames: dict[Encoding, tuple[int, int, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0
        self._spread = 0
        self._emptied: asyncio.Future[None] | None = None

    def attach(self, subscriber: Subscriber, audience: Audience, sink: Sink, *, cursor: int) -> Lane:
        """Deliver to a sink what its subscriber has to catch up with, then what the audience gets.

        Until `detach`. `cursor` is the position that its opening told the subscriber.
        """
        lane = Lane(self, audience, subscriber, sink)
        subscriber.outlet = lane
        lane.written = now = asyncio.get_running_loop().time()
        lane.told = cursor
        if subscriber.catching_up is None:
            lane.follow()
        else:
            self.wake_lane(lane)
        self._lanes.add(lane)
        if self._timer is None:
            self._ticked = self._tick_of(now)
            self._schedule_tick()
        self._watch_silence(lane, now)
        sink.attach(lane)
        return lane

    def detach(self, lane: Lane) -> None:
        """Forget a lane; whoever owns its sink does so when the connection is over. Twice does nothing."""
        if lane not in self._lanes:
            return
        lane.sink.attach(None)
        lane.blocked = True
        lane.leave()
        # No cycle is left of a stream that is over: thousands may end at once, and wait for the collector.
        del lane.subscriber.outlet
        self._lanes.discard(lane)
        self._deadlines.pop(lane, None)
        self._forget_silence(lane)
        if not self._lanes:
            self._rest()

    async def emptied(self) -> None:
        """Wait until no lane is left."""
        if self._lanes:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def spread(self, milliseconds: int) -> None:
        """Have readers whose streams end from now on come back over so long a time, or longer."""
        self._spread = milliseconds

    async def flushed(self, audiences: Iterable[Audience]) -> None:
        """Wait until the logs of these audiences are empty. Nothing may be published meanwhile."""
        for count, audience in enumerate(tuple(audiences), 1):
            if not count % PIECE:
                await asyncio.sleep(0)
            # The walk goes on in between, and waits for no reader.
            while audience.log:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def abort(self) -> None:
        """Cut every connection that is still open."""
        for count, lane in enumerate(tuple(self._lanes), 1):
            self._abort(lane)
            if not count % STRIDE:
                await asyncio.sleep(0)

    # The hot path: wake, _walk, _advance. Measured by benchmarks/compare.py. What stands in the
    # loop of _advance runs for every delivery, and what it costs is cache lines more than
    # instructions: a transport is touched, and nothing else. To ask each sink whether it is gone,
    # and then whether it is full, was a quarter of its instructions: a sink that fills says so.

    def wake(self, audience: Audience) -> None:
        """See `Carrier`."""
        if not audience.awake:
            audience.awake = True
            self._ready.append(audience)
            self._schedule_walk()

    def _schedule_walk(self) -> None:
        if self._walking is None:
            self._walking = asyncio.get_running_loop().call_soon(self._walk)

    def _walk(self) -> None:
        loop = asyncio.get_running_loop()
        audiences, lanes, due = self._ready, self._ready_lanes, self._due_lanes
        replaying = self._replaying
        now = loop.time()
        stop = now + SLICE
        while (audiences or lanes or replaying or due) and now < stop:
            self._now = now
            if audiences:
                audience = audiences.popleft()
                if audience.log:
                    self._advance(audience)
                if audience.log:
                    audiences.append(audience)
                else:
                    audience.awake = False
                now = loop.time()
            for waiting in (lanes, replaying):
                turn = now + TURN
                while waiting and now < turn:
                    self._now = now
                    self._flush(waiting.popleft())
                    now = loop.time()
            if due:
                self._check_silence(due, now)
                now = loop.time()
        interrupted = bool(audiences or lanes or replaying or due)
        self._metrics.walked(interrupted=interrupted)
        self._walking = loop.call_soon(self._walk) if interrupted else None

    def _advance(self, audience: Audience) -> None:
        """Go on with the audience's pass, or begin one, by `STRIDE` lanes."""
        lap = audience.lap or self._begin_lap(audience)
        march, data = audience.march, lap.data
        if march.done:
            self._catch_up(audience, lap)
        writers = march.stride(STRIDE)
        going = True
        while going:
            try:
                for writer in writers:
                    writer.write(data)
                going = False
            except Exception as error:  # noqa: BLE001 - one bad sink never ends the walk
                lap.failed += 1
                self._fail(march.last, error)
        if march.done and not lap.late:
            self._end_lap(audience, lap)

    def _begin_lap(self, audience: Audience) -> Lap:
        lap = Lap(audience, limit=WRITE_LIMIT)
        audience.march.begin()
        audience.lap = lap
        return lap

    def _end_lap(self, audience: Audience, lap: Lap) -> None:
        written, events = audience.march.end() - lap.failed, lap.end - lap.base
        self._metrics.wrote(written * events, written * len(lap.data))
        audience.lap = None
        audience.written = self._now
        audience.forget(events)
        if lap.followed:
            self._metrics.delayed(time.monotonic() - lap.since)

    # Lanes that do not march with their audience.

    def _catch_up(self, audience: Audience, lap: Lap) -> None:
        """Write to `STRIDE` of the lanes that came in the middle of what this pass brings."""
        some, lap.late = lap.late[:STRIDE], lap.late[STRIDE:]
        for lane in some:
            # One that has left meanwhile gets no more of this; one that came back has had it.
            place = audience.late.get(lane, lap.end)
            if place < lap.end:
                audience.late[lane] = lap.end
                self._write(lane, lap.rest(place), events=lap.end - place)

    def wake_lane(self, lane: Lane) -> None:
        """See `Carrier`."""
        if not lane.blocked:
            catching_up = lane.subscriber.catching_up
            if catching_up is None:
                self._ready_lanes.append(lane)
            else:
                self._replaying.append(lane, caller=catching_up.caller)
            self._schedule_walk()

    def _flush(self, lane: Lane) -> None:
        """Make one write of what waits for this lane alone, and see what comes next for it."""
        # A lane may stand here twice, as resumed and as ending: the end is written once.
        if lane.blocked or lane.ending:
            return
        try:
            data, events = self._queued(lane)
        except Exception as error:  # noqa: BLE001 - a history that cannot be read does not end it either
            self._fail(lane, error)
            return
        if not data and not lane.subscriber.waiting:
            data = self._last_words(lane)
        if self._write(lane, data, events=events) if data else lane.subscriber.closed is None:
            self._go_on(lane)

    def _queued(self, lane: Lane) -> tuple[bytes, int]:
        """Take up to `WRITE_LIMIT` bytes, or one frame, of what the lane has to get; give how many events."""
        catching_up = lane.subscriber.catching_up
        shared = catching_up is not None and catching_up.shared
        publications = lane.subscriber.take(WRITE_LIMIT)
        if not publications:
            return b"", 0
        lane.told = publications[-1].position
        make = self._page if shared and len(publications) > 1 else Audience.frames
        return make(lane.audience, publications), len(publications)

    def _page(self, audience: Audience, publications: Sequence[Publication]) -> bytes:
        """Give a page of history, joined once for readers that come back together."""
        # History only ever loses: two pages that agree in this are the same.
        key = (audience, publications[0].position, publications[-1].position, len(publications))
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = audience.frames(publications)
            if len(self._pages) > PAGES:
                del self._pages[next(iter(self._pages))]
        return page

    def _write(self, lane: Lane, data: bytes, *, events: int) -> bool:
        lane.written = self._now
        try:
            lane.writer.write(data)
        except Exception as error:  # noqa: BLE001 - one bad sink never ends the walk
            self._fail(lane, error)
            return False
        self._metrics.wrote(events, len(data))
        return not lane.blocked

    def _go_on(self, lane: Lane) -> None:
        if lane.ending:
            lane.sink.close()
        elif lane.subscriber.waiting or lane.farewell is not None:
            self.wake_lane(lane)
        elif not lane.following:
            lane.follow()

    # Full sinks, and the ends of streams.

    def hurry(self, audience: Audience) -> None:
        """See `Carrier`."""
        self._now = asyncio.get_running_loop().time()
        while audience.log:
            self._advance(audience)

    def hurry_lane(self, lane: Lane) -> None:
        """See `Carrier`."""
        while len(lane.subscriber) and not lane.blocked:
            if lane.sink.gone:
                self._lost(lane)
                return
            # And no more than that: a lane that followed its audience from here on would get the
            # event for which this makes room behind those that come after it.
            data, events = self._queued(lane)
            self._write(lane, data, events=events)

    def resume(self, lane: Lane) -> None:
        """Take note that a full sink has emptied."""
        lane.blocked = False
        if lane.ending:
            lane.sink.close()
            return
        if lane.farewell is None:
            self._deadlines.pop(lane, None)
        self._go_on(lane)

    def end(self, lane: Lane, reason: CloseReason) -> None:
        """Say goodbye if the reader still takes bytes, and see that the end does not take for ever."""
        if reason in TOLD:
            lane.told = lane.position
            lane.leave()
            lane.farewell = reason
            self._deadline(lane)
            self.wake_lane(lane)
            return
        lane.leave()
        if reason is CloseReason.LEFT:
            lane.blocked = True
            lane.sink.close()

    def block(self, lane: Lane) -> None:
        """See `Carrier`. A write may be what brings it about, and has yet to return."""
        lane.blocked = True
        self._deadline(lane)
        lane.stray()

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
            logger.warning("a stream failed, its connection is cut: %(fault)s", {"fault": repr(error)})
            lane.subscriber.close(CloseReason.ERROR)
            lane.sink.abort()

    def _lost(self, lane: Lane) -> None:
        lane.subscriber.close(CloseReason.LEFT)
        # A stream that was ending already has its reason, but its owner still waits.
        lane.blocked = True
        lane.sink.close()

    # Silence: heartbeats, and readers that left without a word.

    def _last_words(self, lane: Lane) -> bytes:
        """Return what an empty queue leaves to say: the end of the stream, a heartbeat, or nothing."""
        if lane.farewell is not None:
            lane.ending = True
            return self._close_frame(lane, lane.farewell)
        if lane.silent:
            lane.silent = False
            self._metrics.beat()
            return self._heartbeat(lane)
        return b""

    def _close_frame(self, lane: Lane, reason: CloseReason) -> bytes:
        """Return the `$close` of a stream, with the last position that its subscriber was given."""
        retry = jittered(lane.subscriber.terms.retry, spread=self._spread)
        id = own_id(self._backend.epoch, lane.told)
        return lane.sink.encoding.frame(own_block(lane.sink.encoding.format, close_event(reason, retry), id))

    def _heartbeat(self, lane: Lane) -> bytes:
        """Return the heartbeat that is due: a comment, or an event that brings the cursor up.

        Where little is published that a subscriber wants, its last id would else fall out of the history, and
        it would be told of a loss when it came back.
        """
        encoding, told = lane.sink.encoding, lane.position
        # The cursor must not pass what is still unsent: a subscriber cut behind it would never get that.
        current = lane.following and lane.seen == lane.audience.end
        newest = self._backend.position if current else told
        if _may_be_comment(lane) and not self._is_far_behind(lane, told, newest):
            lane.beats += 1
            return encoding.heartbeat
        lane.beats = 0
        lane.told = newest
        return self._cursor_frame(encoding, newest)

    def _is_far_behind(self, lane: Lane, told: int, newest: int) -> bool:
        if newest - told >= FAR_BEHIND:
            return True
        return newest > told and not self._backend.replayable(lane.audience.interest, after=told)

    def _cursor_frame(self, encoding: Encoding, position: int) -> bytes:
        """Return the block that moves a cursor to a position: the same bytes for all in one tick."""
        kept = self._cursor_frames.get(encoding)
        if kept is None or kept[:2] != (position, self._ticked):
            block = own_block(encoding.format, HEARTBEAT, own_id(self._backend.epoch, position))
            kept = self._cursor_frames[encoding] = (position, self._ticked, encoding.frame(block))
        return kept[2]

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        self._ticked = max(self._tick_of(now), self._ticked + 1)
        self._enforce_deadlines(now)
        # By what is there, not by what has passed: a process that was stopped for a day has
        # missed many ticks, and few of them matter.
        for due in [due for due in self._silence if due <= self._ticked]:
            self._due_lanes.extend(self._silence.pop(due))
        if self._due_lanes:
            self._schedule_walk()
        if self._lanes:
            self._schedule_tick()

    def _enforce_deadlines(self, now: float) -> None:
        late = []
        for lane, deadline in itertools.islice(self._deadlines.items(), STRIDE):
            if deadline > now:
                break
            late.append(lane)
        if len(late) == STRIDE:
            # Thousands may be late at once, where one network has gone.
            asyncio.get_running_loop().call_soon(self._enforce_deadlines, now)
        for lane in late:
            self._metrics.timed_out(Timeout.FULL)
            lane.subscriber.close(CloseReason.STALLED)
            self._abort(lane)

    def _check_silence(self, due: deque[Lane], now: float) -> None:
        """Look at the silence of `STRIDE` lanes, and break it where it has lasted long enough.

        10,000 idle subscribers are 2,500 heartbeats a second, so most are written here at once, and do not go
        the way of all other frames.
        """
        newest = self._backend.position
        for _ in range(min(STRIDE, len(due))):
            lane = due.popleft()
            if lane not in self._lanes:
                continue  # it left meanwhile
            if lane.sink.gone:
                # Nobody told us: an application that does not cancel handlers of lost connections.
                self._metrics.timed_out(Timeout.GONE)
                self._lost(lane)
                continue
            written = max(lane.written, lane.audience.written) if lane.following else lane.written
            heartbeat = lane.subscriber.terms.heartbeat
            if not lane.blocked and now - written >= heartbeat.seconds - self._tick_length:
                if lane.following and newest <= lane.position and _may_be_comment(lane):
                    self._write_comment(lane, now)
                else:
                    lane.silent = True
                    self.wake_lane(lane)
                written = now
            self._watch_silence(lane, now if lane.blocked else written)

    def _write_comment(self, lane: Lane, now: float) -> None:
        lane.beats += 1
        lane.written = now
        data = lane.sink.encoding.heartbeat
        try:
            lane.writer.write(data)
        except Exception as error:  # noqa: BLE001 - one bad sink never ends the walk
            self._fail(lane, error)
            return
        self._metrics.beat()
        self._metrics.wrote(0, len(data))

    def _watch_silence(self, lane: Lane, since: float) -> None:
        # Rounded down: a heartbeat may come one tick early, and never late.
        due = self._tick_of(since + lane.subscriber.terms.heartbeat.seconds)
        lane.due = max(due, self._ticked + 1)
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
        self._pages.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None


def _may_be_comment(lane: Lane) -> bool:
    """Return whether the next heartbeat of a lane need not be an event, whatever its cursor is."""
    heartbeat = lane.subscriber.terms.heartbeat
    return not heartbeat.as_event and (lane.beats + 1) * heartbeat.seconds < HOUR


def close_event(reason: str, retry: int) -> Event:
    """Return the event that ends a stream: why, and the milliseconds after which to come back."""
    return Event(json.dumps({"reason": reason}), type="$close", retry=retry, json=True)


def jittered(retry: int, *, spread: int = 0) -> int:
    """Spread a reconnection time, so that readers cut together do not return together.

    By half to either side, or from its half on over `spread` milliseconds where that is longer.
    """
    return int(retry * 0.5 + random.random() * max(retry, spread))
