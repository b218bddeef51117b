"""Screen: a view that draws the live status of a server on a terminal."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from sse_broadcast.cli.live_status import Rates, Snapshot, printable, span, time_of_day, totals
from sse_broadcast.cli.sparkline import BARS, RecentValues

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""Terminal codes: switch to the alternate screen and hide the cursor; show the cursor and switch back."""

HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"

SUBSCRIBERS = "connected_clients"

DEFAULT_SIZE = os.terminal_size((80, 24))
"""Columns and rows for a terminal that reports no size."""

NUMBER_WIDTH = 6
"""Width of the columns of numbers, in characters: fixed, so that columns do not move between snapshots."""


class Screen:
    """A `View` that draws on the whole terminal, at its current size, without scrolling."""

    def __init__(self, url: str, interval: float) -> None:
        self._url = url
        self._interval = interval
        self._resized = asyncio.Event()
        self._drawn: tuple[Snapshot, Rates | None] | None = None
        self._history = RecentValues()

    def __enter__(self) -> Self:
        # SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Its default action would end the process without
        # `__exit__`, and leave the terminal on the alternate screen.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._resized.set)
        _write(ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _write(LEAVE)

    def show(self, snapshot: Snapshot, rates: Rates | None) -> None:
        """Draw a snapshot over the previous one."""
        if not snapshot.trouble:
            self._history.add(SUBSCRIBERS, snapshot.status.get("connected_clients", 0))
            for name, rate in (rates or {}).items():
                self._history.add(name, rate)
        self._draw(snapshot, rates)

    def _draw(self, snapshot: Snapshot, rates: Rates | None) -> None:
        self._drawn = snapshot, rates
        size = _size()
        title, history = f"{self._url}, every {self._interval:g} s", self._history if can_show(BARS) else None
        lines = render(snapshot, rates, title=title, size=size, history=history)
        # The last column stays free: after a character there, CLEAR_LINE would erase that character.
        drawn = (printable(line)[: size.columns - 1] + CLEAR_LINE for line in lines)
        _write(HOME + "\r\n".join(drawn) + CLEAR_REST)

    async def rest(self, seconds: float) -> None:
        """Sleep until the next snapshot is due. Redraw the current one when the terminal is resized."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._resized.wait()
            except TimeoutError:
                return
            self._resized.clear()
            if self._drawn is not None:
                self._draw(*self._drawn)


def can_draw() -> bool:
    """Return whether the output is a terminal whose cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def can_show(text: str) -> bool:
    """Return whether the output's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _size() -> os.terminal_size:
    """Return the size that the terminal reports."""
    # Not shutil.get_terminal_size(): it prefers COLUMNS and LINES, which do not change with a resize.
    size = os.get_terminal_size(sys.stdout.fileno())
    return size if size.columns and size.lines else DEFAULT_SIZE


def render(
    snapshot: Snapshot,
    rates: Rates | None,
    *,
    title: str,
    size: os.terminal_size,
    history: RecentValues | None = None,
) -> list[str]:
    """Return the lines of a screen. They fit its height, but may be longer than its width."""
    lines = [f"{time_of_day(snapshot.time)}  {title}", ""]
    if snapshot.trouble:
        lines += [f"NO ANSWER since {time_of_day(snapshot.since)}: {snapshot.trouble}", ""]
    history = history or RecentValues()
    lines += [
        f"subscribers {snapshot.status.get('connected_clients', 0)}  {history.line(SUBSCRIBERS)}".rstrip()
    ]
    lines += ["", *_counters(snapshot.status, rates, history)]
    lines += ["", *_slowest_rows(snapshot)]
    return lines[: size.lines]


def _counters(status: Mapping[str, Any], rates: Rates | None, history: RecentValues) -> Iterator[str]:
    yield f"{'':<16}{'per second':>12}{'total':>12}"
    for name, total in totals(status).items():
        rate = "-" if rates is None else f"{rates.get(name, 0.0):.1f}"
        more = "  ".join(filter(None, (history.line(name), _reasons(status[name]))))
        yield f"{name.replace('_', ' '):<16}{rate:>12}{total:>12}  {more}".rstrip()


def _reasons(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    return ", ".join(f"{count} {reason}" for reason, count in value.items())


def _slowest_rows(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.slowest is None:
        yield f"slowest subscribers: not available: {snapshot.hidden}"
        return
    rows = [("slowest", "lag", "behind", "bytes", "drops", "age", "state", "address", "channels")]
    rows += map(_cells, snapshot.slowest)
    # Columns are as wide as their cells. Channels come last, since their list may be longer than the line.
    *widths, state, address, _ = (max(NUMBER_WIDTH, *map(len, column)) for column in zip(*rows, strict=True))
    for row in rows:
        numbers = " ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False))
        yield f"{numbers}  {row[6]:<{state}}  {row[7]:<{address}}  {row[8]}"


def _cells(subscriber: Mapping[str, Any]) -> tuple[str, str, str, str, str, str, str, str, str]:
    return (
        subscriber["id"],
        span(subscriber["lag"]),
        short(subscriber["behind"]),
        short(subscriber["queued_bytes"]),
        short(subscriber["drops"]),
        span(subscriber["age"]),
        subscriber["state"],
        subscriber["address"],
        ",".join(subscriber["channels"]),
    )


def short(number: int) -> str:
    """Return a number in at most 6 characters, rounded down: 99999, 100k, 99999k, 100M."""
    for unit in ("", "k", "M"):
        if number < 100_000:
            return f"{number}{unit}"
        number //= 1000
    return f"{number}G"
