"""Delivery: the one walk that moves what waits to the sinks.

No task is woken per subscriber or per event. Publishing appends to an audience's log; one
callback of the event loop walks the audience's lanes and writes. Whatever waits when a pass
begins leaves in one write per lane, so the cost of a delivery falls as the load rises, and no
timer ever joins events. One other timer, shared by all lanes, sees to heartbeats and deadlines.
"""

import asyncio
import itertools
import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from sse_broadcast.backends.base import Backend
from sse_broadcast.cursor import format_id
from sse_broadcast.encoding import HEARTBEAT, Encoding, own_block
from sse_broadcast.fanout.group import Batch, SubscriberGroup
from sse_broadcast.fanout.outbox import OUTBOXES_PER_TURN, Outbox, OutboxGroup, Sink
from sse_broadcast.fanout.subscriber import ANNOUNCED, SHORTEST_HEARTBEAT, CloseReason, Subscriber
from sse_broadcast.fanout.system_events import close_frame, jittered
from sse_broadcast.metrics import Metrics, Timeout
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import PIECE, FairQueue

logger = logging.getLogger("sse_broadcast.delivery")

WRITE_LIMIT = 65_536
"""Bytes joined into one write at most; a single larger frame goes alone."""

SLICE = 0.002
"""Seconds after which the walk lets the loop serve publishes, connects and timers."""

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


class Dispatcher:
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
        self._outboxes: set[Outbox] = set()
        self._ready: deque[OutboxGroup] = deque()
        self._ready_outboxes: deque[Outbox] = deque()
        self._replaying = FairQueue[Outbox]()  # lanes that catch up, by who caused it
        self._due_outboxes: deque[Outbox] = deque()  # whose silence is to be looked at
        self._next_slice: asyncio.Handle | None = None
        self._now = 0.0
        # Lanes whose sink is full or whose stream is ending, and when that must be over: in
        # order of time, since the allowance is the same for all.
        self._deadlines: dict[Outbox, float] = {}
        # Lanes by the tick at which their silence is next looked at.
        self._silence: defaultdict[int, set[Outbox]] = defaultdict(set)
        self._pages: dict[tuple[OutboxGroup, int, int, int], bytes] = {}
        self._cursor_frames: dict[Encoding, tuple[int, int, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0
        self._spread = 0
        self._emptied: asyncio.Future[None] | None = None

    def attach(self, subscriber: Subscriber, group: OutboxGroup, sink: Sink, *, cursor: int) -> Outbox:
        """Deliver to a sink what its subscriber has to catch up with, then what the audience gets.

        Until `detach`. `cursor` is the position that its opening told the subscriber.
        """
        outbox = Outbox(self, group, subscriber, sink)
        subscriber.consumer = outbox
        outbox.written = now = asyncio.get_running_loop().time()
        outbox.last_position_sent = cursor
        if subscriber.catching_up is None:
            outbox.join_group()
        else:
            self.schedule_outbox(outbox)
        self._outboxes.add(outbox)
        if self._timer is None:
            self._ticked = self._tick_of(now)
            self._schedule_tick()
        self._watch_silence(outbox, now)
        sink.attach(outbox)
        return outbox

    def detach(self, outbox: Outbox) -> None:
        """Forget a lane; whoever owns its sink does so when the connection is over. Twice does nothing."""
        if outbox not in self._outboxes:
            return
        outbox.sink.attach(None)
        outbox.blocked = True
        outbox.leave_group()
        # No cycle is left of a stream that is over: thousands may end at once, and wait for the collector.
        del outbox.subscriber.consumer
        self._outboxes.discard(outbox)
        self._deadlines.pop(outbox, None)
        self._forget_silence(outbox)
        if not self._outboxes:
            self._stop_timer()

    async def wait_empty(self) -> None:
        """Wait until no lane is left."""
        if self._outboxes:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def spread_reconnects(self, milliseconds: int) -> None:
        """Have readers whose streams end from now on come back over so long a time, or longer."""
        self._spread = milliseconds

    async def wait_flushed(self, groups: Iterable[OutboxGroup]) -> None:
        """Wait until the logs of these audiences are empty. Nothing may be published meanwhile."""
        for count, group in enumerate(tuple(groups), 1):
            if not count % PIECE:
                await asyncio.sleep(0)
            # The walk goes on in between, and waits for no reader.
            while group.log:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def abort(self) -> None:
        """Cut every connection that is still open."""
        for count, outbox in enumerate(tuple(self._outboxes), 1):
            self.abort_outbox(outbox)
            if not count % OUTBOXES_PER_TURN:
                await asyncio.sleep(0)

    # The hot path: wake, _walk, _advance. Measured by benchmarks/compare.py. What stands in the
    # loop of _advance runs for every delivery, and what it costs is cache lines more than
    # instructions: a transport is touched, and nothing else. To ask each sink whether it is gone,
    # and then whether it is full, was a quarter of its instructions: a sink that fills says so.

    def schedule_group(self, group: OutboxGroup) -> None:
        """See `Carrier`."""
        if not group.scheduled:
            group.scheduled = True
            self._ready.append(group)
            self.schedule_slice()

    def schedule_slice(self) -> None:
        """Run the loop's next slice soon, if none is scheduled."""
        if self._next_slice is None:
            self._next_slice = asyncio.get_running_loop().call_soon(self._run_slice)

    def _run_slice(self) -> None:
        loop = asyncio.get_running_loop()
        groups, outboxes, due = self._ready, self._ready_outboxes, self._due_outboxes
        replaying = self._replaying
        now = loop.time()
        stop = now + SLICE
        while (groups or outboxes or replaying or due) and now < stop:
            self._now = now
            if groups:
                group = groups.popleft()
                if group.log:
                    self._advance_pass(group)
                if group.log:
                    groups.append(group)
                else:
                    group.scheduled = False
                now = loop.time()
            for waiting in (outboxes, replaying):
                turn = now + TURN
                while waiting and now < turn:
                    self._now = now
                    self._write_next(waiting.popleft())
                    now = loop.time()
            if due:
                self._check_silence(due, now)
                now = loop.time()
        interrupted = bool(groups or outboxes or replaying or due)
        self._metrics.walked(interrupted=interrupted)
        self._next_slice = loop.call_soon(self._run_slice) if interrupted else None

    def _advance_pass(self, group: OutboxGroup) -> None:
        """Go on with the audience's pass, or begin one, by `STRIDE` lanes."""
        batch = group.batch or self._begin_pass(group)
        march, data = group.writers, batch.data
        if march.done:
            self._write_late_joiners(group, batch)
        writers = march.take(OUTBOXES_PER_TURN)
        going = True
        while going:
            try:
                for writer in writers:
                    writer.write(data)
                going = False
            except Exception as error:  # noqa: BLE001 - one bad sink never ends the walk
                batch.failed += 1
                self.on_write_error(march.last, error)
        if march.done and not batch.late_joiners:
            self._end_pass(group, batch)

    def _begin_pass(self, group: OutboxGroup) -> Batch[Outbox]:
        batch = Batch(group, limit=WRITE_LIMIT)
        group.writers.begin()
        group.batch = batch
        return batch

    def _end_pass(self, group: OutboxGroup, batch: Batch[Outbox]) -> None:
        written, events = group.writers.end() - batch.failed, batch.end - batch.base
        self._metrics.wrote(written * events, written * len(batch.data))
        group.batch = None
        group.written = self._now
        group.drop_delivered(events)
        if batch.followed:
            self._metrics.delayed(time.monotonic() - batch.published_at)

    # Lanes that do not march with their audience.

    def _write_late_joiners(self, group: OutboxGroup, batch: Batch[Outbox]) -> None:
        """Write to `STRIDE` of the lanes that came in the middle of what this pass brings."""
        some, batch.late_joiners = (
            batch.late_joiners[:OUTBOXES_PER_TURN],
            batch.late_joiners[OUTBOXES_PER_TURN:],
        )
        for outbox in some:
            # One that has left meanwhile gets no more of this; one that came back has had it.
            place = group.late_joiners.get(outbox, batch.end)
            if place < batch.end:
                group.late_joiners[outbox] = batch.end
                self._write(outbox, batch.remainder_from(place), events=batch.end - place)

    def schedule_outbox(self, outbox: Outbox) -> None:
        """See `Carrier`."""
        if not outbox.blocked:
            catching_up = outbox.subscriber.catching_up
            if catching_up is None:
                self._ready_outboxes.append(outbox)
            else:
                self._replaying.append(outbox, caller=catching_up.caller)
            self.schedule_slice()

    def _write_next(self, outbox: Outbox) -> None:
        """Make one write of what waits for this lane alone, and see what comes next for it."""
        # A lane may stand here twice, as resumed and as ending: the end is written once.
        if outbox.blocked or outbox.close_sent:
            return
        try:
            data, events = self._next_frames(outbox)
        except Exception as error:  # noqa: BLE001 - a history that cannot be read does not end it either
            self.on_write_error(outbox, error)
            return
        if not data and not outbox.subscriber.waiting:
            data = self._final_frame(outbox)
        if self._write(outbox, data, events=events) if data else outbox.subscriber.closed is None:
            self._continue(outbox)

    def _next_frames(self, outbox: Outbox) -> tuple[bytes, int]:
        """Take up to `WRITE_LIMIT` bytes, or one frame, of what the lane has to get; give how many events."""
        catching_up = outbox.subscriber.catching_up
        shared = catching_up is not None and catching_up.shared
        publications = outbox.subscriber.take(WRITE_LIMIT)
        if not publications:
            return b"", 0
        outbox.last_position_sent = publications[-1].position
        make = self._shared_page if shared and len(publications) > 1 else SubscriberGroup.frames
        return make(outbox.group, publications), len(publications)

    def _shared_page(self, group: OutboxGroup, publications: Sequence[Publication]) -> bytes:
        """Give a page of history, joined once for readers that come back together."""
        # History only ever loses: two pages that agree in this are the same.
        key = (group, publications[0].position, publications[-1].position, len(publications))
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = group.frames(publications)
            if len(self._pages) > PAGES:
                del self._pages[next(iter(self._pages))]
        return page

    def _write(self, outbox: Outbox, data: bytes, *, events: int) -> bool:
        outbox.written = self._now
        try:
            outbox.writer.write(data)
        except Exception as error:  # noqa: BLE001 - one bad sink never ends the walk
            self.on_write_error(outbox, error)
            return False
        self._metrics.wrote(events, len(data))
        return not outbox.blocked

    def _continue(self, outbox: Outbox) -> None:
        if outbox.close_sent:
            outbox.sink.close()
        elif outbox.subscriber.waiting or outbox.close_reason is not None:
            self.schedule_outbox(outbox)
        elif not outbox.following:
            outbox.join_group()

    # Full sinks, and the ends of streams.

    def flush_group(self, group: OutboxGroup) -> None:
        """See `Carrier`."""
        self._now = asyncio.get_running_loop().time()
        while group.log:
            self._advance_pass(group)

    def flush_outbox(self, outbox: Outbox) -> None:
        """See `Carrier`."""
        while len(outbox.subscriber) and not outbox.blocked:
            if outbox.sink.gone:
                self.on_disconnect(outbox)
                return
            # And no more than that: a lane that followed its audience from here on would get the
            # event for which this makes room behind those that come after it.
            data, events = self._next_frames(outbox)
            self._write(outbox, data, events=events)

    def on_drained(self, outbox: Outbox) -> None:
        """Take note that a full sink has emptied."""
        outbox.blocked = False
        if outbox.close_sent:
            outbox.sink.close()
            return
        if outbox.close_reason is None:
            self._deadlines.pop(outbox, None)
        self._continue(outbox)

    def on_closed(self, outbox: Outbox, reason: CloseReason) -> None:
        """Say goodbye if the reader still takes bytes, and see that the end does not take for ever."""
        if reason in ANNOUNCED:
            outbox.last_position_sent = outbox.position
            outbox.leave_group()
            outbox.close_reason = reason
            self._deadline(outbox)
            self.schedule_outbox(outbox)
            return
        outbox.leave_group()
        if reason is CloseReason.LEFT:
            outbox.blocked = True
            outbox.sink.close()

    def on_full(self, outbox: Outbox) -> None:
        """See `Carrier`. A write may be what brings it about, and has yet to return."""
        outbox.blocked = True
        self._deadline(outbox)
        outbox.leave_to_own_queue()

    def _deadline(self, outbox: Outbox) -> None:
        # What is there stands: a socket that was full when its stream began to end gets no
        # second allowance, and partial progress resets nothing.
        if outbox not in self._deadlines:
            self._deadlines[outbox] = asyncio.get_running_loop().time() + self._write_timeout

    def abort_outbox(self, outbox: Outbox) -> None:
        """Cut an outbox's connection."""
        self._metrics.aborted()
        self._deadlines.pop(outbox, None)
        outbox.blocked = True
        outbox.sink.abort()

    def on_write_error(self, outbox: Outbox, error: Exception) -> None:
        """End the stream of an outbox whose write raised."""
        if outbox.sink.gone:
            self.on_disconnect(outbox)
        else:
            logger.warning("a stream failed, its connection is cut: %(fault)s", {"fault": repr(error)})
            outbox.subscriber.close(CloseReason.ERROR)
            outbox.sink.abort()

    def on_disconnect(self, outbox: Outbox) -> None:
        """End the stream of an outbox whose connection is gone."""
        outbox.subscriber.close(CloseReason.LEFT)
        # A stream that was ending already has its reason, but its owner still waits.
        outbox.blocked = True
        outbox.sink.close()

    # Silence: heartbeats, and readers that left without a word.

    def _final_frame(self, outbox: Outbox) -> bytes:
        """Return what an empty queue leaves to say: the end of the stream, a heartbeat, or nothing."""
        if outbox.close_reason is not None:
            outbox.close_sent = True
            return close_frame(
                outbox.sink.encoding,
                outbox.close_reason,
                retry=jittered(outbox.subscriber.options.retry, spread=self._spread),
                id=format_id(self._backend.epoch, outbox.last_position_sent),
            )
        if outbox.heartbeat_due:
            outbox.heartbeat_due = False
            self._metrics.beat()
            return self._heartbeat(outbox)
        return b""

    def _heartbeat(self, outbox: Outbox) -> bytes:
        """Return the heartbeat that is due: a comment, or an event that brings the cursor up.

        Where little is published that a subscriber wants, its last id would else fall out of the history, and
        it would be told of a loss when it came back.
        """
        encoding, told = outbox.sink.encoding, outbox.position
        # The cursor must not pass what is still unsent: a subscriber cut behind it would never get that.
        current = outbox.following and outbox.offset == outbox.group.end
        newest = self._backend.position if current else told
        if _may_be_comment(outbox) and not self._is_far_behind(outbox, told, newest):
            outbox.heartbeat_comments += 1
            return encoding.heartbeat
        outbox.heartbeat_comments = 0
        outbox.last_position_sent = newest
        return self._cursor_frame(encoding, newest)

    def _is_far_behind(self, outbox: Outbox, told: int, newest: int) -> bool:
        if newest - told >= FAR_BEHIND:
            return True
        return newest > told and not self._backend.replayable(outbox.group.selector, after=told)

    def _cursor_frame(self, encoding: Encoding, position: int) -> bytes:
        """Return the block that moves a cursor to a position: the same bytes for all in one tick."""
        kept = self._cursor_frames.get(encoding)
        if kept is None or kept[:2] != (position, self._ticked):
            block = own_block(encoding.format, HEARTBEAT, format_id(self._backend.epoch, position))
            kept = self._cursor_frames[encoding] = (position, self._ticked, encoding.frame(block))
        return kept[2]

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        self._ticked = max(self._tick_of(now), self._ticked + 1)
        self._enforce_deadlines(now)
        # By what is there, not by what has passed: a process that was stopped for a day has
        # missed many ticks, and few of them matter.
        for due in [due for due in self._silence if due <= self._ticked]:
            self._due_outboxes.extend(self._silence.pop(due))
        if self._due_outboxes:
            self.schedule_slice()
        if self._outboxes:
            self._schedule_tick()

    def _enforce_deadlines(self, now: float) -> None:
        late = []
        for outbox, deadline in itertools.islice(self._deadlines.items(), OUTBOXES_PER_TURN):
            if deadline > now:
                break
            late.append(outbox)
        if len(late) == OUTBOXES_PER_TURN:
            # Thousands may be late at once, where one network has gone.
            asyncio.get_running_loop().call_soon(self._enforce_deadlines, now)
        for outbox in late:
            self._metrics.timed_out(Timeout.FULL)
            outbox.subscriber.close(CloseReason.STALLED)
            self.abort_outbox(outbox)

    def _check_silence(self, due: deque[Outbox], now: float) -> None:
        """Look at the silence of `STRIDE` lanes, and break it where it has lasted long enough.

        10,000 idle subscribers are 2,500 heartbeats a second, so most are written here at once, and do not go
        the way of all other frames.
        """
        newest = self._backend.position
        for _ in range(min(OUTBOXES_PER_TURN, len(due))):
            outbox = due.popleft()
            if outbox not in self._outboxes:
                continue  # it left meanwhile
            if outbox.sink.gone:
                # Nobody told us: an application that does not cancel handlers of lost connections.
                self._metrics.timed_out(Timeout.GONE)
                self.on_disconnect(outbox)
                continue
            written = max(outbox.written, outbox.group.written) if outbox.following else outbox.written
            heartbeat = outbox.subscriber.options.heartbeat
            if not outbox.blocked and now - written >= heartbeat.seconds - self._tick_length:
                if outbox.following and newest <= outbox.position and _may_be_comment(outbox):
                    self._write_comment(outbox, now)
                else:
                    outbox.heartbeat_due = True
                    self.schedule_outbox(outbox)
                written = now
            self._watch_silence(outbox, now if outbox.blocked else written)

    def _write_comment(self, outbox: Outbox, now: float) -> None:
        outbox.heartbeat_comments += 1
        outbox.written = now
        data = outbox.sink.encoding.heartbeat
        try:
            outbox.writer.write(data)
        except Exception as error:  # noqa: BLE001 - one bad sink never ends the walk
            self.on_write_error(outbox, error)
            return
        self._metrics.beat()
        self._metrics.wrote(0, len(data))

    def _watch_silence(self, outbox: Outbox, since: float) -> None:
        # Rounded down: a heartbeat may come one tick early, and never late.
        due = self._tick_of(since + outbox.subscriber.options.heartbeat.seconds)
        outbox.next_check = max(due, self._ticked + 1)
        self._silence[outbox.next_check].add(outbox)

    def _forget_silence(self, outbox: Outbox) -> None:
        outboxes = self._silence.get(outbox.next_check)
        if outboxes is not None:
            outboxes.discard(outbox)
            if not outboxes:
                del self._silence[outbox.next_check]

    def _tick_of(self, when: float) -> int:
        return int(when / self._tick_length)

    def _schedule_tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at((self._ticked + 1) * self._tick_length, self._tick)

    def _stop_timer(self) -> None:
        """Stop the timer when there is no lane to look after, and tell who waits for that."""
        self._pages.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None


def _may_be_comment(outbox: Outbox) -> bool:
    """Return whether the next heartbeat of a lane need not be an event, whatever its cursor is."""
    heartbeat = outbox.subscriber.options.heartbeat
    return not heartbeat.as_event and (outbox.heartbeat_comments + 1) * heartbeat.seconds < HOUR
