"""Watch: a server looked at again and again, as a screen, as lines or as JSON."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

import click

from sse_broadcast.backoff import is_transient
from sse_broadcast.client import ALIVE, Client
from sse_broadcast.errors import ClientError

READERS = 100
"""The slowest readers that are asked for: more than a screen has lines."""

UNKNOWN = frozenset({401, 403, 404})
"""What is said to whoever may not see readers, and by a server that cannot list them."""

USUAL = os.terminal_size((80, 24))

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""To a second screen without a cursor, and back to the first as it was."""

HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"

NUMBER = 6
"""Characters that a number of a reader has at most, but for its id: so columns stay where they are."""

Rates = Mapping[str, float]
"""What was counted in a second, by the names of the status."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen: the status, and the slowest readers or why they are not shown.

    `at` is in seconds by a clock that is never set, `time` since 1970. `trouble` is why nothing new could be
    seen, since the time `since`: all else is then as it was before.
    """

    at: float
    time: float
    status: Mapping[str, Any]
    slowest: Sequence[Mapping[str, Any]] | None = None
    hidden: str = ""
    trouble: str = ""
    since: float = field(default=0.0, compare=False)


class View(Protocol):
    """Shows what was seen. A context manager around all of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, look: Snapshot, rates: Rates | None) -> None:
        """Show a look, with rates if there is another one to compare it with."""

    async def rest(self, seconds: float) -> None:
        """Sleep until it is time for the next."""


async def watch(client: Client, show: View, *, interval: float) -> None:
    """Look at a server every `interval` seconds, for ever.

    Raises `ClientError` when the first look fails, and when a later one is refused. A server that is gone is
    waited for.
    """
    async with client:
        seen, before = await take_snapshot(client), None
        with show:
            while True:
                show.show(seen, rates(before, seen))
                await show.rest(interval)
                before, seen = seen, await _look_again(client, seen)


async def take_snapshot(client: Client) -> Snapshot:
    """Ask a server for all that is shown. Raises `ClientError`."""
    try:
        async with asyncio.timeout(ALIVE):
            status = await client.status()
            seen = Snapshot(time.monotonic(), time.time(), status)
            return await _with_readers(client, seen)
    except TimeoutError:
        raise ClientError(f"no answer within {ALIVE:g} seconds") from None


async def _with_readers(client: Client, seen: Snapshot) -> Snapshot:
    try:
        page = await client.subscribers(sort="lag", limit=READERS)
    except ClientError as error:
        if error.status not in UNKNOWN:
            raise
        return replace(seen, hidden=str(error))
    return replace(seen, slowest=page["subscribers"])


async def _look_again(client: Client, before: Snapshot) -> Snapshot:
    try:
        return await take_snapshot(client)
    except ClientError as error:
        if error.status is not None and not is_transient(error.status):
            raise
        since = before.since if before.trouble else before.time
        return replace(before, time=time.time(), trouble=str(error), since=since)


def rates(before: Snapshot | None, now: Snapshot) -> Rates | None:
    """Give what was counted in a second between two looks; None if that cannot be said.

    Of a server that began anew meanwhile less was counted than before.
    """
    if before is None or now.trouble or now.at <= before.at:
        return None
    counted = {name: total - totals(before.status).get(name, 0) for name, total in totals(now.status).items()}
    if min(counted.values(), default=0) < 0:
        return None
    return {name: count / (now.at - before.at) for name, count in counted.items()}


def totals(status: Mapping[str, Any]) -> Mapping[str, int]:
    """Give what was counted, whatever it was counted by. How many are connected is no count."""
    found = {name: _total(value) for name, value in status.items() if name != "connected_clients"}
    return {name: total for name, total in found.items() if total is not None}


def _total(value: object) -> int | None:
    if isinstance(value, dict):
        return sum(each for each in value.values() if isinstance(each, int))
    return value if isinstance(value, int) else None


# On a terminal.


class Screen:
    """Draws on a terminal, as large as that is at the moment; nothing ever scrolls."""

    def __init__(self, url: str, interval: float) -> None:
        self._url = url
        self._interval = interval
        self._resized = asyncio.Event()
        self._drawn: tuple[Snapshot, Rates | None] | None = None

    def __enter__(self) -> Self:
        # As Ctrl-C ends it: otherwise the terminal would be left as it is now.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._resized.set)
        _write(ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _write(LEAVE)

    def show(self, look: Snapshot, rates: Rates | None) -> None:
        """See `Show`."""
        self._drawn = look, rates
        size = _size()
        lines = render(look, rates, title=f"{self._url}, every {self._interval:g} s", size=size)
        # A character in the last column would be lost when the rest of its line is cleared.
        drawn = (_plain(line)[: size.columns - 1] + CLEAR_LINE for line in lines)
        _write(HOME + "\r\n".join(drawn) + CLEAR_REST)

    async def rest(self, seconds: float) -> None:
        """See `Show`. A terminal of another size is drawn on at once."""
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
                self.show(*self._drawn)


def can_draw() -> bool:
    """Whether the output is a terminal that has more than one line."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _size() -> os.terminal_size:
    """Give the size of the terminal itself: what the environment says of it is not kept up to date."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return size if size.columns and size.lines else USUAL


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def render(look: Snapshot, rates: Rates | None, *, title: str, size: os.terminal_size) -> list[str]:
    """Give the lines of a screen, no more than it is high; they may be longer than it is wide."""
    lines = [f"{_clock(look.time)}  {title}", ""]
    if look.trouble:
        lines += [f"NO ANSWER since {_clock(look.since)}: {look.trouble}", ""]
    lines += [f"subscribers {look.status.get('connected_clients', 0)}", ""]
    lines += _counters(look.status, rates)
    lines += ["", *_readers(look)]
    return lines[: size.lines]


def _counters(status: Mapping[str, Any], rates: Rates | None) -> Iterator[str]:
    yield f"{'':<16}{'a second':>12}{'in all':>12}"
    for name, total in totals(status).items():
        rate = "-" if rates is None else f"{rates.get(name, 0.0):.1f}"
        row = f"{name.replace('_', ' '):<16}{rate:>12}{total:>12}  {_reasons(status[name])}"
        yield row.rstrip()


def _reasons(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    return ", ".join(f"{count} {reason}" for reason, count in value.items())


def _readers(look: Snapshot) -> Iterator[str]:
    if look.slowest is None:
        yield f"slowest readers: not to be seen: {look.hidden}"
        return
    rows = [("slowest", "lag", "behind", "bytes", "drops", "age", "state", "address", "channels")]
    rows += map(_cells, look.slowest)
    # Hardly wider than what is in them: channels, the last, have the rest of the line.
    *widths, state, address, _ = (max(NUMBER, *map(len, column)) for column in zip(*rows, strict=True))
    for row in rows:
        numbers = " ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False))
        yield f"{numbers}  {row[6]:<{state}}  {row[7]:<{address}}  {row[8]}"


def _cells(reader: Mapping[str, Any]) -> tuple[str, str, str, str, str, str, str, str, str]:
    return (
        reader["id"],
        span(reader["lag"]),
        short(reader["behind"]),
        short(reader["queued_bytes"]),
        short(reader["drops"]),
        span(reader["age"]),
        reader["state"],
        reader["address"],
        ",".join(reader["channels"]),
    )


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def span(seconds: float) -> str:
    """Give a time as its two largest units have it: 1.5s, 2m05s, 3h00m, 4d12h."""
    if seconds < 60:
        return f"{int(seconds * 10) / 10}s"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours == 0:
        return f"{minutes}m{int(seconds) % 60:02}s"
    return f"{hours}h{minutes % 60:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"


def short(number: int) -> str:
    """Give a number in few characters, cut: 99999, 100k, 99999k, 100M."""
    for unit in ("", "k", "M"):
        if number < 100_000:
            return f"{number}{unit}"
        number //= 1000
    return f"{number}G"


# Elsewhere.


class LineView:
    """Prints a line for each look, into a file or a pipe."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, look: Snapshot, rates: Rates | None) -> None:
        """See `Show`."""
        click.echo(_plain(self.line(look, rates)))

    def line(self, look: Snapshot, rates: Rates | None) -> str:
        """Give what is printed."""
        if look.trouble:
            return f"{_clock(look.time)} no answer since {_clock(look.since)}: {look.trouble}"
        connected = f"subscribers {look.status.get('connected_clients', 0)}"
        counted = (
            f"{name} -" if rates is None else f"{name} {rates.get(name, 0.0):.1f}/s"
            for name in totals(look.status)
        )
        return f"{_clock(look.time)} {', '.join([connected, *counted, *_slowest(look)])}"

    async def rest(self, seconds: float) -> None:
        """See `Show`."""
        await asyncio.sleep(seconds)


def _slowest(look: Snapshot) -> Iterator[str]:
    for reader in (look.slowest or ())[:1]:
        if reader["lag"]:
            yield f"slowest {reader['id']} of {reader['address']}: {span(reader['lag'])} behind"


class JsonView(LineView):
    """Prints a JSON object for each look."""

    def line(self, look: Snapshot, rates: Rates | None) -> str:
        """See `Printed`."""
        return json.dumps(
            {
                "time": round(look.time, 3),
                "status": look.status,
                "rates": rates and {name: round(rate, 3) for name, rate in rates.items()},
                "slowest": look.slowest,
                "hidden": look.hidden or None,
                "trouble": look.trouble or None,
            }
        )
