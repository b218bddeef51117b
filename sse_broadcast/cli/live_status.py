"""Live status: query a server repeatedly, and show each snapshot as a line or as JSON."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

import click

from sse_broadcast.backoff import is_transient
from sse_broadcast.client import ALIVE, Client
from sse_broadcast.errors import ClientError

MAX_LISTED = 100
"""Maximum number of slowest subscribers to query: more than a screen has lines."""

LIST_REFUSED = frozenset({401, 403, 404})
"""Statuses for a caller that may not list subscribers, and from a server that has no such endpoint."""


Rates = Mapping[str, float]
"""Counts per second, by the names of the status."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a server at one moment: its status and its slowest subscribers.

    `hidden` is why the subscribers are not listed. `at` is in seconds of the monotonic clock, `time` in
    seconds since 1970. While the server does not answer, `trouble` is the reason and `since` the time of the
    first failure. All other fields then keep the values of the snapshot before.
    """

    at: float
    time: float
    status: Mapping[str, Any]
    slowest: Sequence[Mapping[str, Any]] | None = None
    hidden: str = ""
    trouble: str = ""
    since: float = field(default=0.0, compare=False)


class View(Protocol):
    """A display of snapshots. It is also a context manager, open while snapshots are shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, snapshot: Snapshot, rates: Rates | None) -> None:
        """Show a snapshot. `rates` is None if there is no earlier snapshot to compare with."""

    async def rest(self, seconds: float) -> None:
        """Sleep until the next snapshot is due."""


async def watch(client: Client, view: View, *, interval: float) -> None:
    """Show a snapshot of a server every `interval` seconds, without end.

    Raises `ClientError` when the first query fails, and when the server refuses a later one. A server that
    stops answering is queried again.
    """
    async with client:
        seen, before = await take_snapshot(client), None
        with view:
            while True:
                view.show(seen, rates(before, seen))
                await view.rest(interval)
                before, seen = seen, await _next_snapshot(client, seen)


async def take_snapshot(client: Client) -> Snapshot:
    """Query a server once. Raises `ClientError`."""
    try:
        async with asyncio.timeout(ALIVE):
            status = await client.status()
            seen = Snapshot(time.monotonic(), time.time(), status)
            return await _with_slowest(client, seen)
    except TimeoutError:
        raise ClientError(f"no answer within {ALIVE:g} seconds") from None


async def _with_slowest(client: Client, seen: Snapshot) -> Snapshot:
    try:
        page = await client.subscribers(sort="lag", limit=MAX_LISTED)
    except ClientError as error:
        if error.status not in LIST_REFUSED:
            raise
        return replace(seen, hidden=str(error))
    return replace(seen, slowest=page["subscribers"])


async def _next_snapshot(client: Client, before: Snapshot) -> Snapshot:
    try:
        return await take_snapshot(client)
    except ClientError as error:
        if error.status is not None and not is_transient(error.status):
            raise
        since = before.since if before.trouble else before.time
        return replace(before, time=time.time(), trouble=str(error), since=since)


def rates(before: Snapshot | None, now: Snapshot) -> Rates | None:
    """Return the counts per second between two snapshots, or None if they cannot be compared."""
    if before is None or now.trouble or now.at <= before.at:
        return None
    counted = {name: total - totals(before.status).get(name, 0) for name, total in totals(now.status).items()}
    if min(counted.values(), default=0) < 0:
        return None  # the server restarted in between, and counts from zero
    return {name: count / (now.at - before.at) for name, count in counted.items()}


def totals(status: Mapping[str, Any]) -> Mapping[str, int]:
    """Return each counter of a status, summed over its reasons. `connected_clients` is not a counter."""
    found = {name: _total(value) for name, value in status.items() if name != "connected_clients"}
    return {name: total for name, total in found.items() if total is not None}


def _total(value: object) -> int | None:
    if isinstance(value, dict):
        return sum(each for each in value.values() if isinstance(each, int))
    return value if isinstance(value, int) else None


def printable(text: str) -> str:
    """Return a text with "?" for each character that a terminal could interpret."""
    return "".join(character if character.isprintable() else "?" for character in text)


def time_of_day(seconds: float) -> str:
    """Return a time since 1970 as HH:MM:SS in the local time zone."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def span(seconds: float) -> str:
    """Return a duration in its two largest units: 1.5s, 2m05s, 3h00m, 4d12h."""
    if seconds < 60:
        return f"{int(seconds * 10) / 10}s"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours == 0:
        return f"{minutes}m{int(seconds) % 60:02}s"
    return f"{hours}h{minutes % 60:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"


class LineView:
    """A view that prints a line for each snapshot, for a file or a pipe."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, snapshot: Snapshot, rates: Rates | None) -> None:
        """Print a snapshot."""
        click.echo(printable(self.line(snapshot, rates)))

    def line(self, snapshot: Snapshot, rates: Rates | None) -> str:
        """Return the line for a snapshot."""
        now = time_of_day(snapshot.time)
        if snapshot.trouble:
            return f"{now} no answer since {time_of_day(snapshot.since)}: {snapshot.trouble}"
        connected = f"subscribers {snapshot.status.get('connected_clients', 0)}"
        counted = (
            f"{name} -" if rates is None else f"{name} {rates.get(name, 0.0):.1f}/s"
            for name in totals(snapshot.status)
        )
        return f"{now} {', '.join([connected, *counted, *_slowest(snapshot)])}"

    async def rest(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


def _slowest(snapshot: Snapshot) -> Iterator[str]:
    for subscriber in (snapshot.slowest or ())[:1]:
        if subscriber["lag"]:
            yield f"slowest {subscriber['id']} of {subscriber['address']}: {span(subscriber['lag'])} behind"


class JsonView(LineView):
    """A view that prints a JSON object for each snapshot."""

    def line(self, snapshot: Snapshot, rates: Rates | None) -> str:
        """Return the JSON object for a snapshot."""
        return json.dumps(
            {
                "time": round(snapshot.time, 3),
                "status": snapshot.status,
                "rates": rates and {name: round(rate, 3) for name, rate in rates.items()},
                "slowest": snapshot.slowest,
                "hidden": snapshot.hidden or None,
                "trouble": snapshot.trouble or None,
            }
        )
