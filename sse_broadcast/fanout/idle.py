"""Heartbeats of silent outboxes, and write deadlines of full ones: one timer for all of them."""

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
"""Ticks of the shared timer in the shortest heartbeat or a write deadline, whichever is shorter."""

FAR_BEHIND = 100
"""Positions by which a cursor may be behind: a tenth of what the history holds of a channel by default."""

HOUR = 3600.0
"""Seconds of comments after which a heartbeat is a block. r3labs, tmaxmax and resty hold comments until a
block ends, and fail when they hold 32 to 64 KiB."""

NOT_WATCHED = -1
"""The next check of an outbox that is not watched."""


class IdleCallbacks(Protocol):
    """What an `IdleMonitor` calls. No method waits or raises."""

    def schedule_slice(self) -> None:
        """Call `IdleMonitor.check` soon. Called when checks are due."""

    def schedule_outbox(self, outbox: Outbox) -> None:
        """Write to an outbox soon. Called when a heartbeat is due."""

    def abort_outbox(self, outbox: Outbox) -> None:
        """Cut an outbox's connection. Called when its write deadline has passed."""

    def on_disconnect(self, outbox: Outbox) -> None:
        """End the stream of an outbox whose connection is gone."""

    def on_write_error(self, outbox: Outbox, error: Exception) -> None:
        """End the stream of an outbox whose write raised."""


class IdleMonitor:
    """Sends heartbeats and enforces write deadlines for every outbox of one dispatcher.

    `heartbeat` is the usual one; subscribers may have others. It and `write_timeout` are in seconds. The
    backend says where the newest event is, and whether a cursor is still good.
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
        # A whole part of the usual heartbeat, so that most come in their time and not a tick early.
        finest = min(heartbeat, write_timeout, SHORTEST_HEARTBEAT) / TICKS
        self._tick_length = heartbeat / math.ceil(heartbeat / finest)
        self.due: deque[Outbox] = deque()  # to be checked by the next calls of `check`
        # Outboxes by the tick of their next check.
        self._watched: defaultdict[int, set[Outbox]] = defaultdict(set)
        # Outboxes whose sink is full or whose stream is ending, and when that must be over: in
        # order of time, since the allowance is the same for all.
        self._deadlines: dict[Outbox, float] = {}
        self._cursor_frames: dict[Encoding, tuple[int, int, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0

    def watch(self, outbox: Outbox, since: float) -> None:
        """Check an outbox one heartbeat after `since`, by the loop's clock; start the timer."""
        if self._timer is None:
            self._ticked = self._tick_of(since)
            self._schedule_tick()
        # Rounded down: a heartbeat may come one tick early, and never late.
        tick = self._tick_of(since + outbox.subscriber.options.heartbeat.seconds)
        outbox.next_check = max(tick, self._ticked + 1)
        self._watched[outbox.next_check].add(outbox)

    def unwatch(self, outbox: Outbox) -> None:
        """Forget an outbox, and its deadline."""
        self._deadlines.pop(outbox, None)
        outboxes = self._watched.get(outbox.next_check)
        if outboxes is not None:
            outboxes.discard(outbox)
            if not outboxes:
                del self._watched[outbox.next_check]
        outbox.next_check = NOT_WATCHED  # it may stand in `due`

    def stop(self) -> None:
        """Stop the timer. Called when no outbox is watched."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def set_deadline(self, outbox: Outbox) -> None:
        """Abort the outbox after the write time-out, unless the deadline is cleared before.

        An earlier deadline stands: a socket that was full when its stream began to end gets no second
        allowance, and partial progress resets nothing.
        """
        if outbox not in self._deadlines:
            self._deadlines[outbox] = asyncio.get_running_loop().time() + self._write_timeout

    def clear_deadline(self, outbox: Outbox) -> None:
        """Let the outbox live: its sink has emptied, or is cut already."""
        self._deadlines.pop(outbox, None)

    def check(self, now: float) -> None:
        """Check `OUTBOXES_PER_TURN` of those that are due, and send the heartbeats of the silent ones.

        10,000 idle subscribers are 2,500 heartbeats a second, so most are written here at once, and are not
        scheduled as all other frames are.
        """
        newest = self._backend.position
        for _ in range(min(OUTBOXES_PER_TURN, len(self.due))):
            outbox = self.due.popleft()
            if outbox.next_check == NOT_WATCHED:
                continue
            if outbox.sink.gone:
                # An application that does not cancel the handlers of lost connections says nothing.
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
        """Return the heartbeat that is due: a comment, or an event that brings the cursor up.

        Where little is published that a subscriber asked for, its last id would else be evicted from the
        history, and it would be told of a loss when it came back.
        """
        encoding, sent = outbox.sink.encoding, outbox.position
        # The cursor must not pass what is still unsent: a subscriber cut behind it would never get that.
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
        """Return the block that moves a cursor to a position: the same bytes for all in one tick."""
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
        # By what is there, not by what has passed: a process that was stopped for a day has
        # missed many ticks, and few of them matter.
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
            # Thousands may be late at once, where one network has gone.
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
    """Return whether the next heartbeat of an outbox need not be an event, whatever its cursor is."""
    heartbeat = outbox.subscriber.options.heartbeat
    return not heartbeat.as_event and (outbox.heartbeat_comments + 1) * heartbeat.seconds < HOUR
