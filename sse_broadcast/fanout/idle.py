"""Idle monitor: heartbeats of silent outboxes and write deadlines of full ones, with one timer."""

import asyncio
import itertools
import math
from collections import defaultdict, deque
from typing import Protocol

from sse_broadcast.backends.base import Backend
from sse_broadcast.cursor import format_id
from sse_broadcast.encoding import HEARTBEAT_EVENT, Encoding, own_block
from sse_broadcast.fanout.outbox import OUTBOXES_PER_TURN, Outbox
from sse_broadcast.fanout.subscriber import SHORTEST_HEARTBEAT, CloseReason
from sse_broadcast.metrics import Metrics, Timeout

TICKS = 8
"""Ticks of the shared timer per shortest heartbeat or write deadline, whichever is shorter."""

FAR_BEHIND = 100
"""Positions that a cursor may be behind: a tenth of a channel's default history."""

HOUR = 3600.0
"""Seconds of comments after which a heartbeat is an event. The clients r3labs, tmaxmax and resty buffer
comments until an event ends, and fail at 32 to 64 KiB."""

NOT_WATCHED = -1
"""The next check of an outbox that is not watched."""


class IdleCallbacks(Protocol):
    """The methods that an `IdleMonitor` calls. None of them waits or raises."""

    def schedule_slice(self) -> None:
        """Call `IdleMonitor.check` soon. Called when checks are due."""

    def schedule_outbox(self, outbox: Outbox) -> None:
        """Write to an outbox soon. Called when a heartbeat is due."""

    def abort_outbox(self, outbox: Outbox) -> None:
        """Abort an outbox's connection. Called when its write deadline has passed."""

    def on_disconnect(self, outbox: Outbox) -> None:
        """Close the stream of an outbox whose connection is gone."""

    def on_write_error(self, outbox: Outbox, error: Exception) -> None:
        """Close the stream of an outbox whose write raised an error."""


class IdleMonitor:
    """Sends heartbeats and enforces write deadlines for every outbox of one dispatcher.

    `heartbeat` is the default; a subscriber may ask for another. It and `write_timeout` are in seconds. The
    backend provides the newest position, and checks whether a cursor can still be resumed.
    """

    __slots__ = (
        "_backend",
        "_callbacks",
        "_cursor_frames",
        "_deadlines",
        "_metrics",
        "_tick_length",
        "_ticked",
        "_timer",
        "_watched",
        "_write_timeout",
        "due",
    )

    def __init__(
        self,
        backend: Backend,
        callbacks: IdleCallbacks,
        *,
        heartbeat: float,
        write_timeout: float,
        metrics: Metrics,
    ) -> None:
        self._backend = backend
        self._callbacks = callbacks
        self._write_timeout = write_timeout
        self._metrics = metrics
        # The default heartbeat is a whole number of ticks, so that most heartbeats come on time, not a tick
        # early.
        finest = min(heartbeat, write_timeout, SHORTEST_HEARTBEAT) / TICKS
        self._tick_length = heartbeat / math.ceil(heartbeat / finest)
        self.due: deque[Outbox] = deque()  # for the next calls of `check`
        # Outboxes by the tick of their next check.
        self._watched: defaultdict[int, set[Outbox]] = defaultdict(set)
        # The deadlines of outboxes with a full sink or an ending stream. In order of time, since the time
        # limit is the same for all.
        self._deadlines: dict[Outbox, float] = {}
        self._cursor_frames: dict[Encoding, tuple[int, int, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0

    def watch(self, outbox: Outbox, since: float) -> None:
        """Check an outbox one heartbeat after `since`, by the loop's clock. Start the timer if needed."""
        if self._timer is None:
            self._ticked = self._tick_of(since)
            self._schedule_tick()
        # Rounded down: a heartbeat may come one tick early, and never late.
        tick = self._tick_of(since + outbox.subscriber.options.heartbeat.seconds)
        outbox.next_check = max(tick, self._ticked + 1)
        self._watched[outbox.next_check].add(outbox)

    def unwatch(self, outbox: Outbox) -> None:
        """Remove an outbox and its deadline."""
        self._deadlines.pop(outbox, None)
        outboxes = self._watched.get(outbox.next_check)
        if outboxes is not None:
            outboxes.discard(outbox)
            if not outboxes:
                del self._watched[outbox.next_check]
        outbox.next_check = NOT_WATCHED  # `due` may still contain it

    def stop(self) -> None:
        """Stop the timer. Called when no outbox is watched."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def set_deadline(self, outbox: Outbox) -> None:
        """Abort the outbox after `write_timeout`, unless the deadline is cleared before.

        An earlier deadline stays: neither the end of a stream nor partial progress extends it.
        """
        if outbox not in self._deadlines:
            self._deadlines[outbox] = asyncio.get_running_loop().time() + self._write_timeout

    def clear_deadline(self, outbox: Outbox) -> None:
        """Remove the deadline of an outbox: its sink has drained, or is aborted."""
        self._deadlines.pop(outbox, None)

    def check(self, now: float) -> None:
        """Check `OUTBOXES_PER_TURN` outboxes that are due, and send heartbeats to the silent ones."""
        # Most heartbeats are written here and not scheduled like other frames: 10,000 idle subscribers are
        # 2,500 heartbeats a second.
        newest = self._backend.position
        for _ in range(min(OUTBOXES_PER_TURN, len(self.due))):
            outbox = self.due.popleft()
            if outbox.next_check == NOT_WATCHED:
                continue
            if outbox.sink.gone:
                # An application without handler_cancellation does not report lost connections.
                self._metrics.found_disconnected()
                self._callbacks.on_disconnect(outbox)
                continue
            written = max(outbox.written, outbox.group.written) if outbox.following else outbox.written
            heartbeat = outbox.subscriber.options.heartbeat
            if not outbox.blocked and now - written >= heartbeat.seconds - self._tick_length:
                if outbox.following and newest <= outbox.position and _may_be_comment(outbox):
                    self._write_comment(outbox, now)
                else:
                    outbox.heartbeat_due = True
                    self._callbacks.schedule_outbox(outbox)
                written = now
            self.watch(outbox, now if outbox.blocked else written)

    def heartbeat_frame(self, outbox: Outbox) -> bytes:
        """Return the heartbeat that is due: a comment, or an event that moves the cursor."""
        # In quiet channels the last id of a subscriber would be evicted from the history, and its next
        # reconnection would report a loss that did not happen.
        encoding, sent = outbox.sink.encoding, outbox.position
        # The cursor must not pass unsent events: a subscriber that reconnects would never get them.
        current = outbox.following and outbox.offset == outbox.group.end
        newest = self._backend.position if current else sent
        if _may_be_comment(outbox) and not self._is_far_behind(outbox, sent, newest):
            outbox.heartbeat_comments += 1
            return encoding.heartbeat
        outbox.heartbeat_comments = 0
        outbox.last_position_sent = newest
        return self._cursor_frame(encoding, newest)

    def _is_far_behind(self, outbox: Outbox, sent: int, newest: int) -> bool:
        if newest - sent >= FAR_BEHIND:
            return True
        return newest > sent and not self._backend.replayable(outbox.group.selector, after=sent)

    def _cursor_frame(self, encoding: Encoding, position: int) -> bytes:
        """Return the event that moves a cursor to a position, shared by all outboxes in one tick."""
        kept = self._cursor_frames.get(encoding)
        if kept is None or kept[:2] != (position, self._ticked):
            block = own_block(encoding.format, HEARTBEAT_EVENT, format_id(self._backend.epoch, position))
            kept = self._cursor_frames[encoding] = (position, self._ticked, encoding.frame(block))
        return kept[2]

    def _write_comment(self, outbox: Outbox, now: float) -> None:
        outbox.heartbeat_comments += 1
        outbox.written = now
        data = outbox.sink.encoding.heartbeat
        try:
            outbox.writer.write(data)
        except Exception as error:  # noqa: BLE001 - one bad sink never ends the checks
            self._callbacks.on_write_error(outbox, error)
            return
        self._metrics.beat()
        self._metrics.wrote(0, len(data))

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        self._ticked = max(self._tick_of(now), self._ticked + 1)
        self._enforce_deadlines(now)
        # Iterate over the watched ticks, not over all that passed: a process that was suspended for a day
        # missed very many, and few of them have an outbox.
        for tick in [tick for tick in self._watched if tick <= self._ticked]:
            self.due.extend(self._watched.pop(tick))
        if self.due:
            self._callbacks.schedule_slice()
        if self._timer is not None:
            self._schedule_tick()

    def _enforce_deadlines(self, now: float) -> None:
        late = []
        for outbox, deadline in itertools.islice(self._deadlines.items(), OUTBOXES_PER_TURN):
            if deadline > now:
                break
            late.append(outbox)
        if len(late) == OUTBOXES_PER_TURN:
            # Thousands may be late at once, after a network failure.
            asyncio.get_running_loop().call_soon(self._enforce_deadlines, now)
        for outbox in late:
            self._metrics.timed_out(Timeout.FULL)
            outbox.subscriber.close(CloseReason.STALLED)
            self._callbacks.abort_outbox(outbox)

    def _tick_of(self, when: float) -> int:
        return int(when / self._tick_length)

    def _schedule_tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at((self._ticked + 1) * self._tick_length, self._tick)


def _may_be_comment(outbox: Outbox) -> bool:
    """Return whether the next heartbeat of an outbox may be a comment, as far as the client goes."""
    heartbeat = outbox.subscriber.options.heartbeat
    return not heartbeat.as_event and (outbox.heartbeat_comments + 1) * heartbeat.seconds < HOUR
