"""Dispatcher: the one loop that writes groups' logs and outboxes' queues to the sinks.

No task is woken per subscriber or per event. A publish appends to a group's log, and one callback of the
event loop writes it to the group's outboxes. Everything that waits when a pass begins leaves in one write per
outbox. So the cost of a delivery falls as the load rises, and no timer delays events to join them.
`IdleMonitor` has one more timer, shared by all outboxes, for heartbeats and deadlines.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence

from sse_broadcast.backends.base import Backend
from sse_broadcast.cursor import format_id
from sse_broadcast.event import jittered
from sse_broadcast.fanout.group import Batch, SubscriberGroup
from sse_broadcast.fanout.idle import IdleMonitor
from sse_broadcast.fanout.outbox import OUTBOXES_PER_TURN, Outbox, OutboxGroup, Sink
from sse_broadcast.fanout.subscriber import ANNOUNCED, CloseReason, Subscriber
from sse_broadcast.fanout.system_events import close_frame
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import ITEMS_PER_SLICE, FairQueue

logger = logging.getLogger("sse_broadcast.delivery")

WRITE_LIMIT = 65_536
"""Maximum bytes joined into one write. A larger frame is written alone."""

SLICE_SECONDS = 0.002
"""Seconds after which the event loop may serve publishes, connects and timers."""

TURN = 0.00025
"""Seconds for outboxes with their own queue between two turns of a group's pass, and as many for replays. So
replays make a pass take at most about twice as long. With twice these seconds the 99th percentile of the
group's latency rose by a quarter (measured)."""

PAGES = 8
"""Maximum number of joined pages of history to cache."""


class Dispatcher:
    """Writes to every outbox of one broadcaster. Belongs to one event loop.

    It implements `GroupScheduler`, `OutboxScheduler` and `IdleCallbacks`. `heartbeat` and `write_timeout` are
    in seconds.
    """

    def __init__(self, backend: Backend, *, heartbeat: float, write_timeout: float, metrics: Metrics) -> None:
        self._backend = backend
        self._metrics = metrics
        self._idle = IdleMonitor(
            backend, self, heartbeat=heartbeat, write_timeout=write_timeout, metrics=metrics
        )
        self._outboxes: set[Outbox] = set()
        self._ready: deque[OutboxGroup] = deque()
        self._ready_outboxes: deque[Outbox] = deque()
        self._replaying = FairQueue[Outbox]()  # outboxes that replay, by caller: callers take turns
        self._next_slice: asyncio.Handle | None = None
        self._now = 0.0
        self._pages: dict[tuple[OutboxGroup, int, int, int], bytes] = {}
        self._spread = 0
        self._emptied: asyncio.Future[None] | None = None

    def attach(self, subscriber: Subscriber, group: OutboxGroup, sink: Sink, *, cursor: int) -> Outbox:
        """Write to a sink first the subscriber's replay, then the group's log, until `detach`.

        `cursor` is the position of the subscriber's first frames.
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
        self._idle.watch(outbox, now)
        sink.attach(outbox)
        return outbox

    def detach(self, outbox: Outbox) -> None:
        """Remove an outbox. Its sink's owner calls this when the connection is over; again does nothing."""
        if outbox not in self._outboxes:
            return
        outbox.sink.attach(None)
        outbox.blocked = True
        outbox.leave_group()
        # Break the reference cycle: thousands of streams may end at once, and would stay until the
        # collector runs.
        del outbox.subscriber.consumer
        self._outboxes.discard(outbox)
        self._idle.unwatch(outbox)
        if not self._outboxes:
            self._on_empty()

    async def wait_empty(self) -> None:
        """Wait until no outbox is left."""
        if self._outboxes:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def spread_reconnects(self, milliseconds: int) -> None:
        """Spread the reconnections of streams that end from now on over at least this time."""
        self._spread = milliseconds

    async def wait_flushed(self, groups: Iterable[OutboxGroup]) -> None:
        """Wait until the logs of these groups are empty. Do not publish meanwhile."""
        for count, group in enumerate(tuple(groups), 1):
            if not count % ITEMS_PER_SLICE:
                await asyncio.sleep(0)
            # Slices run in between and do not wait for subscribers, so the log empties soon.
            while group.log:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def abort(self) -> None:
        """Abort every connection that is still open."""
        for count, outbox in enumerate(tuple(self._outboxes), 1):
            self.abort_outbox(outbox)
            if not count % OUTBOXES_PER_TURN:
                await asyncio.sleep(0)

    # The hot path: schedule_group, _run_slice, _advance_pass, measured by benchmarks/compare.py. The loop
    # in _advance_pass runs for every delivery, and cache lines cost it more than instructions: so it
    # touches only the transport. Checking each sink for closed and full took a quarter of the instructions:
    # instead, a sink that fills calls `on_full`.

    def schedule_group(self, group: OutboxGroup) -> None:
        """Write the group's log in the next slices."""
        if not group.scheduled:
            group.scheduled = True
            self._ready.append(group)
            if self._next_slice is None:
                self._next_slice = asyncio.get_running_loop().call_soon(self._run_slice)

    def schedule_slice(self) -> None:
        """Run a slice in the event loop's next turn."""
        if self._next_slice is None:
            self._next_slice = asyncio.get_running_loop().call_soon(self._run_slice)

    def _run_slice(self) -> None:
        loop = asyncio.get_running_loop()
        groups, outboxes, due = self._ready, self._ready_outboxes, self._idle.due
        # Of those that catch up the dict is asked, which costs no call.
        replaying = self._replaying.waiting
        alone = ((outboxes, outboxes), (replaying, self._replaying))
        now = loop.time()
        stop = now + SLICE_SECONDS
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
            for waiting, queue in alone:
                turn = now + TURN
                while waiting and now < turn:
                    self._now = now
                    self._write_next(queue.popleft())
                    now = loop.time()
            if due:
                self._idle.check(now)
                now = loop.time()
        interrupted = bool(groups or outboxes or replaying or due)
        self._metrics.walked(interrupted=interrupted)
        self._next_slice = loop.call_soon(self._run_slice) if interrupted else None

    def _advance_pass(self, group: OutboxGroup) -> None:
        """Start a pass over the group, or continue it by `OUTBOXES_PER_TURN` outboxes."""
        batch = group.batch or self._begin_pass(group)
        writer_list, data = group.writers, batch.data
        if batch.late_joiners and writer_list.done:
            self._write_late_joiners(group, batch)
        writers = writer_list.take(OUTBOXES_PER_TURN)
        going = True
        while going:
            try:
                for writer in writers:
                    writer.write(data)
                going = False
            except Exception as error:  # noqa: BLE001 - one bad sink never ends the pass
                batch.failed += 1
                self.on_write_error(writer_list.last, error)
        if writer_list.done and not batch.late_joiners:
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

    # Writes to a single outbox.

    def _write_late_joiners(self, group: OutboxGroup, batch: Batch[Outbox]) -> None:
        """Write the remainder of the batch to `OUTBOXES_PER_TURN` of those who joined within it."""
        late_joiners = batch.late_joiners[:OUTBOXES_PER_TURN]
        del batch.late_joiners[:OUTBOXES_PER_TURN]
        for outbox in late_joiners:
            # An outbox that left meanwhile gets nothing. One that left and joined again already has the
            # batch.
            offset = group.late_joiners.get(outbox, batch.end)
            if offset < batch.end:
                group.late_joiners[outbox] = batch.end
                self._write(outbox, batch.remainder_from(offset), events=batch.end - offset)

    def schedule_outbox(self, outbox: Outbox) -> None:
        """Write to the outbox in the next slices, unless its sink is full."""
        if not outbox.blocked:
            catching_up = outbox.subscriber.catching_up
            if catching_up is None:
                self._ready_outboxes.append(outbox)
            else:
                self._replaying.append(outbox, caller=catching_up.caller)
            self.schedule_slice()

    def _write_next(self, outbox: Outbox) -> None:
        """Write once to an outbox with its own queue, and schedule what follows."""
        # An outbox may be scheduled twice, as drained and as ending: `$close` is written once.
        if outbox.blocked or outbox.close_sent:
            return
        try:
            data, events = self._next_frames(outbox)
        except Exception as error:  # noqa: BLE001 - a history that cannot be read ends one stream, not the loop
            self.on_write_error(outbox, error)
            return
        subscriber = outbox.subscriber
        # Who waits for the store is silent: its heartbeat, or its end, need not wait as well.
        if not data and (not subscriber.waiting or subscriber.fetching):
            data = self._final_frame(outbox)
        if self._write(outbox, data, events=events) if data else outbox.subscriber.closed is None:
            self._continue(outbox)

    def _next_frames(self, outbox: Outbox) -> tuple[bytes, int]:
        """Take up to `WRITE_LIMIT` bytes, or one frame, from an outbox. Return also the number of events."""
        catching_up = outbox.subscriber.catching_up
        shared = catching_up is not None and catching_up.shared
        publications = outbox.subscriber.take(WRITE_LIMIT)
        if not publications:
            return b"", 0
        outbox.last_position_sent = publications[-1].position
        make = self._shared_page if shared and len(publications) > 1 else SubscriberGroup.frames
        return make(outbox.group, publications), len(publications)

    def _shared_page(self, group: OutboxGroup, publications: Sequence[Publication]) -> bytes:
        """Return the frames of a page of history, joined once for all subscribers that replay it together."""
        # A history only loses publications and never gains old ones: two pages with the same ends and the
        # same length are equal.
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
        except Exception as error:  # noqa: BLE001 - one bad sink never ends the pass
            self.on_write_error(outbox, error)
            return False
        self._metrics.wrote(events, len(data))
        return not outbox.blocked

    def _continue(self, outbox: Outbox) -> None:
        if outbox.close_sent:
            outbox.sink.close()
        elif outbox.subscriber.fetching:
            return  # scheduled again by the replay, when the store has answered
        elif outbox.subscriber.waiting or outbox.close_reason is not None:
            self.schedule_outbox(outbox)
        elif not outbox.following:
            outbox.join_group()

    # Full sinks, and the ends of streams.

    def flush_group(self, group: OutboxGroup) -> None:
        """Write the group's whole log now."""
        self._now = asyncio.get_running_loop().time()
        while group.log:
            self._advance_pass(group)

    def flush_outbox(self, outbox: Outbox) -> None:
        """Empty the outbox's own queue now, as far as its sink takes it."""
        while len(outbox.subscriber) and not outbox.blocked:
            if outbox.sink.gone:
                self.on_disconnect(outbox)
                return
            # Do not join the group here: the event that this makes room for would come after later ones.
            data, events = self._next_frames(outbox)
            self._write(outbox, data, events=events)

    def on_drained(self, outbox: Outbox) -> None:
        """Resume writing to a sink that was full."""
        outbox.blocked = False
        if outbox.close_reason is None:
            self._idle.clear_deadline(outbox)
        self._continue(outbox)

    def on_closed(self, outbox: Outbox, reason: CloseReason) -> None:
        """Send `$close` if the client is still there, and set a deadline for the end."""
        if reason in ANNOUNCED:
            outbox.last_position_sent = outbox.position
            outbox.leave_group()
            outbox.close_reason = reason
            self._idle.set_deadline(outbox)
            self.schedule_outbox(outbox)
            return
        outbox.leave_group()
        if reason is CloseReason.LEFT:
            outbox.blocked = True
            outbox.sink.close()

    def on_full(self, outbox: Outbox) -> None:
        """Move the outbox to its own queue. May be called during a write."""
        outbox.blocked = True
        self._idle.set_deadline(outbox)
        outbox.leave_to_own_queue()

    def abort_outbox(self, outbox: Outbox) -> None:
        """Abort an outbox's connection."""
        self._metrics.aborted()
        self._idle.clear_deadline(outbox)
        outbox.blocked = True
        outbox.sink.abort()

    def on_write_error(self, outbox: Outbox, error: Exception) -> None:
        """Close the stream of an outbox whose write raised an error."""
        if outbox.sink.gone:
            self.on_disconnect(outbox)
        else:
            logger.warning(
                "writing to a stream failed, aborting its connection: %(fault)s", {"fault": repr(error)}
            )
            outbox.subscriber.close(CloseReason.ERROR)
            outbox.sink.abort()

    def on_disconnect(self, outbox: Outbox) -> None:
        """Close the stream of an outbox whose connection is gone."""
        outbox.subscriber.close(CloseReason.LEFT)
        # A stream that was already ending keeps its close reason, but its owner still waits for the end.
        outbox.blocked = True
        outbox.sink.close()

    def _final_frame(self, outbox: Outbox) -> bytes:
        """Return the frame after an empty queue: `$close`, a heartbeat, or nothing."""
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
            return self._idle.heartbeat_frame(outbox)
        return b""

    def _on_empty(self) -> None:
        """Stop the timer, drop the pages, and wake `wait_empty`: no outbox is left."""
        self._pages.clear()
        self._idle.stop()
        if self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None
