"""Background writer: write lines to a descriptor from a thread, so that the loop never waits."""

import itertools
import os
import queue
import select
import threading
from collections.abc import Callable, Sequence

MAX_WAITING_BYTES = 4_194_304
"""Bytes of lines that may wait to be written."""

MAX_WRITE = 65_536
"""Bytes that are written at once, or one line."""

WRITE_INTERVAL = 0.05
"""Seconds for which lines are gathered: a thread that woke for each of them would take turns with the loop,
and cost it more than all else that a line does (measured: 150 us instead of 20)."""

AGAIN = 1.0
"""Seconds after which it is tried again to tell of lines that were lost."""

TOO_MANY = "more than could be written"
"""Why a line was lost for which there was no room to wait."""


class BackgroundWriter:
    """Writes lines to a file descriptor, in their order, from a thread of its own.

    What cannot be written is lost: a disk may be full, a pipe's reader gone. So is what comes while `most`
    bytes wait, since a pipe's reader may do nothing at all. Of each loss `on_lost` is called with a number
    of lines, never by two threads at once; as soon as something can be written again, `notice` gives the
    line that tells how many were lost, and why the last one was.
    """

    def __init__(
        self, descriptor: int, *, notice: Callable[[int, str], bytes], most: int = MAX_WAITING_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._most = most
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        # What has come and what has gone, counted by one side each: their difference waits.
        self._come = 0
        self._gone = 0
        # Whoever loses a line may be interrupted, by a destructor that logs, and lose another.
        self._losing = threading.RLock()
        self._lost = 0
        self._told = 0
        self._reason = ""
        self._why = ""
        self._torn = False
        self.on_lost: Callable[[int], None] = lambda _: None
        # A daemon, since one that waits for a pipe's reader would keep the process from its end.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many lines were lost since it was made."""
        return self._lost

    def put(self, line: bytes) -> None:
        """Have a line written, or lose it. Never waits, and may be called by any thread."""
        if self._come - self._gone + len(line) > self._most:
            self._lose(1, TOO_MANY)
            return
        self._come += len(line)
        self._queue.put(line)

    def close(self, *, timeout: float) -> bool:
        """Have what waits written, within `timeout` seconds, and say whether it was.

        Nothing may be put behind it.
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
                # Behind all that waited, which is older than what was lost for want of room.
                self._tell()

    def _next(self) -> tuple[list[bytes], bool]:
        """Wait for lines, and give those that are there, and whether they are the last."""
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
        """Write lines, and give how many of them could not be."""
        # A line that was cut in the middle, by a disk that was full, is ended first.
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
    """Write some of the data, waiting until that is possible, and give how much. Raises `OSError`."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # another process that has the same file wants it so
            ready = select.poll()
            ready.register(descriptor, select.POLLOUT)
            ready.poll()


def _missing(lines: Sequence[bytes], left: int) -> tuple[int, bool]:
    """Return how many lines are not whole without the last so many bytes, and whether one was cut."""
    ends = [0, *itertools.accumulate(map(len, reversed(lines)))]
    return sum(end < left for end in ends[:-1]), left not in ends
