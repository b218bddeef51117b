"""Background writer: write log lines from a thread, so that the event loop never waits."""

import itertools
import os
import queue
import select
import threading
from collections.abc import Callable, Sequence

MAX_WAITING_BYTES = 4_194_304
"""Maximum bytes of lines that wait to be written."""

MAX_WRITE = 65_536
"""Maximum bytes of one write, unless a single line is longer."""

WRITE_INTERVAL = 0.05
"""Seconds for which lines are collected. A thread that wakes for each line takes turns with the event loop,
and costs it 150 us instead of 20 us per line (measured)."""

AGAIN = 1.0
"""Seconds between attempts to write how many lines were lost."""

TOO_MANY = "more than could be written"
"""The reason for lines lost because too many were waiting."""


class BackgroundWriter:
    """Writes lines to a file descriptor, in order, from a thread of its own.

    A line is lost if it cannot be written, or if `most` bytes already wait. `on_lost` is called with the
    number of lost lines, never by two threads at once. When writing works again, `notice` returns the line
    that reports how many lines were lost, and why the last of them was.
    """

    def __init__(
        self, descriptor: int, *, notice: Callable[[int, str], bytes], most: int = MAX_WAITING_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._most = most
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        # Bytes put and bytes written. Each is changed by one side only, so no lock is needed.
        self._come = 0
        self._gone = 0
        # Reentrant: a destructor may log while its thread holds the lock, and lose a line too.
        self._losing = threading.RLock()
        self._lost = 0
        self._told = 0
        self._reason = ""
        self._why = ""
        self._torn = False
        self.on_lost: Callable[[int], None] = lambda _: None
        # A daemon: a thread that waits for a pipe's reader would keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """The number of lines lost so far."""
        return self._lost

    def put(self, line: bytes) -> None:
        """Queue a line, or lose it. Never waits, and any thread may call it."""
        if self._come - self._gone + len(line) > self._most:
            self._lose(1, TOO_MANY)
            return
        self._come += len(line)
        self._queue.put(line)

    def close(self, *, timeout: float) -> bool:
        """Write the queued lines within `timeout` seconds, and return whether all were written.

        Call `put` no more afterwards.
        """
        self._queue.put(None)
        self._closing.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _lose(self, count: int, reason: str) -> None:
        with self._losing:
            self._lost += count
            self._reason = reason
            self.on_lost(count)

    def _run(self) -> None:
        ended = False
        while not ended:
            lines, ended = self._next()
            missing = self._push(lines)
            self._gone += sum(map(len, lines))
            if missing:
                self._lose(missing, self._why)
            elif self._lost > self._told and self._queue.empty():
                # After all queued lines: they are older than the lines lost while the queue was full.
                self._tell()

    def _next(self) -> tuple[list[bytes], bool]:
        """Wait for lines. Return those that are queued, and whether they are the last."""
        lines: list[bytes] = []
        size = 0
        try:
            line = self._queue.get(timeout=AGAIN if self._lost > self._told else None)
            self._closing.wait(WRITE_INTERVAL)
            while line is not None:
                lines.append(line)
                size += len(line)
                if size >= MAX_WRITE:
                    return lines, False
                line = self._queue.get_nowait()
        except queue.Empty:
            return lines, False
        return lines, True

    def _tell(self) -> None:
        with self._losing:
            count, reason = self._lost - self._told, self._reason
        if not self._push([self._notice(count, reason)]):
            self._told += count

    def _push(self, lines: Sequence[bytes]) -> int:
        """Write lines, and return how many of them were not written."""
        # If the last write was cut inside a line (a full disk), end that line first.
        rest = memoryview(b"".join([b"\n", *lines] if self._torn and lines else lines))
        try:
            while rest:
                rest = rest[_write(self._descriptor, rest) :]
        except OSError as error:
            self._why = (error.strerror or str(error)).lower()
        else:
            self._torn = self._torn and not lines
            return 0
        missing, self._torn = _missing(lines, len(rest))
        return missing


def _write(descriptor: int, data: memoryview) -> int:
    """Write as much as the descriptor takes, and return the number of bytes. Raises `OSError`."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # another process with the same file made it non-blocking
            ready = select.poll()
            ready.register(descriptor, select.POLLOUT)
            ready.poll()


def _missing(lines: Sequence[bytes], left: int) -> tuple[int, bool]:
    """Return how many lines are incomplete without the last `left` bytes, and whether one was cut."""
    ends = [0, *itertools.accumulate(map(len, reversed(lines)))]
    return sum(end < left for end in ends[:-1]), left not in ends
