"""`sse-broadcast subscribe`."""

import asyncio
import json
import os
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import click

from sse_broadcast.cli.common import run, url_option
from sse_broadcast.client import Client, Piece
from sse_broadcast.event import Event

MAX_VARIABLE = 100_000
"""Bytes of a field that are put into an environment variable; the kernel takes 128 KiB."""


@click.command(
    epilog="""\b
Examples:
  sse-broadcast subscribe
  sse-broadcast subscribe --format json | jq .data
  sse-broadcast subscribe --count 1
  sse-broadcast subscribe --exec 'notify-send "$SSE_EVENT" "$SSE_DATA"'

The command of --exec runs once for each event, one at a time, with the data on its standard
input and SSE_EVENT, SSE_DATA and SSE_ID in its environment (each only below 100 kB).

Exit codes: 0 --count reached, or the output's reader left; 1 refused, or no server there;
2 bad usage; 130 Ctrl-C."""
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "raw"]),
    default="text",
    show_default=True,
    help="Print the data; or a JSON object a line; or the stream's own bytes.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Exit after N events.")
@click.option(
    "--exec", "command", metavar="CMD", help="Run a shell command for each event instead of printing."
)
@url_option
def subscribe(form: str, count: int | None, command: str | None, url: str) -> None:
    """Follow the stream, reconnecting when it breaks."""
    show = Execute(command) if command is not None else PRINTERS[form]
    run(lambda: _until_output_closes(_follow(show, count, url)))


async def _follow(show: "Show", count: int | None, url: str) -> None:
    seen = 0
    async with Client(url) as client:
        async for piece in client.subscribe():
            room = None if count is None else count - seen
            seen += await show(piece, room)
            if seen == count:
                return


Show = Callable[[Piece, int | None], Awaitable[int]]
"""Shows a piece of the stream, at most so many events of it, and gives how many it showed."""


async def show_text(piece: Piece, room: int | None) -> int:
    """Print the data of each event."""
    events = _published(piece, room)
    for event in events:
        _write(event.data.encode() + b"\n")
    return len(events)


async def show_json(piece: Piece, room: int | None) -> int:
    """Print each event as a JSON object, the server's own included."""
    shown = 0
    for event in piece.events:
        if shown == room:
            break
        shown += not event.reserved
        _write(
            json.dumps({"event": event.type, "id": event.id, "data": event.data}, ensure_ascii=False).encode()
        )
        _write(b"\n")
    return shown


async def show_raw(piece: Piece, room: int | None) -> int:
    """Print what arrived, as it arrived: a read is not cut, so more than `room` events may show."""
    _write(piece.raw)
    return len(_published(piece, room))


PRINTERS: dict[str, Show] = {"text": show_text, "json": show_json, "raw": show_raw}


@dataclass(frozen=True, slots=True)
class Execute:
    """Runs a shell command for each event, and waits for it."""

    command: str

    async def __call__(self, piece: Piece, room: int | None) -> int:
        """See `Show`."""
        events = _published(piece, room)
        for event in events:
            await self._run(event)
        return len(events)

    async def _run(self, event: Event) -> None:
        data = event.data.encode()
        process = await asyncio.create_subprocess_shell(
            self.command, stdin=asyncio.subprocess.PIPE, env=_environment(event)
        )
        await process.communicate(data)
        if process.returncode:
            click.echo(f"sse-broadcast: the command ended with {process.returncode}", err=True)


def _environment(event: Event) -> dict[str, str]:
    """Give our own environment, with those fields of the event that an environment can hold."""
    environment = dict(os.environ)
    for name, value in (("SSE_EVENT", event.type), ("SSE_ID", event.id or ""), ("SSE_DATA", event.data)):
        if len(value.encode()) < MAX_VARIABLE and "\0" not in value:
            environment[name] = value
        else:
            environment.pop(name, None)
    return environment


def _published(piece: Piece, room: int | None) -> list[Event]:
    """Give the events that somebody published; what the server itself says goes to standard error."""
    for event in piece.events:
        if event.reserved:
            click.echo(f"sse-broadcast: {event.type} {event.data}", err=True)
    return [event for event in piece.events if not event.reserved][:room]


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


async def _until_output_closes(following: Awaitable[None]) -> None:
    """Follow until that ends, or whoever reads our output has left (`| head -1`)."""
    follower = asyncio.ensure_future(following)
    loop = asyncio.get_running_loop()
    output = sys.stdout.fileno()
    piped = stat.S_ISFIFO(os.fstat(output).st_mode)
    if piped:
        # The writing end of a pipe becomes "readable" when its reader is gone: no need to wait
        # for the next event to find out.
        loop.add_reader(output, follower.cancel)
    try:
        await follower
    except asyncio.CancelledError:
        if follower.cancelled() and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
            raise BrokenPipeError from None
        raise
    finally:
        if piped:
            loop.remove_reader(output)
