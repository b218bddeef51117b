"""`sse-broadcast subscribe`."""

import asyncio
import os
import stat
import sys
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import click
import msgspec

from sse_broadcast.cli.common import run_client, token_option, url_option
from sse_broadcast.cli.cursor_file import CursorFile
from sse_broadcast.cli.visible import VisibleBytes, tell
from sse_broadcast.client import Client, StreamChunk
from sse_broadcast.config.schema import Endpoint
from sse_broadcast.config.sources import ENV_PREFIX, SETTINGS
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event

BOOKKEEPING = frozenset({"$open", "$heartbeat"})
"""Events that only say where the stream is, and that it lives."""

URL = ENV_PREFIX + "URL"

KEPT_FROM_COMMANDS = frozenset(setting.variable for setting in SETTINGS.values() if setting.private)
"""Variables that the command of --exec is not given. It may print its environment, or hand it on."""

_ON_TERMINAL = VisibleBytes()

MAX_VARIABLE = 100_000
"""Bytes of a field that are put into an environment variable; the kernel takes 128 KiB."""


@click.command(
    epilog="""\b
Examples:
  sse-broadcast subscribe
  sse-broadcast subscribe --channel news --channel 'orders.*' --format json | jq .data
  sse-broadcast subscribe --since 10m --event price
  sse-broadcast subscribe --count 1
  sse-broadcast subscribe --state cursor --exec 'notify-send "$SSE_CHANNEL" "$SSE_DATA"'

--since takes an id, `earliest` (all that is held), `last` (the newest event of each channel,
then what is new) or an age: 500ms, 30s, 10m, 2h, 7d.

--state keeps the last id in FILE, each time events have been shown, and begins there when it
is run again: nothing is lost, and what was shown but not yet recorded when it was killed is
shown again. --since counts only while there is no FILE. Where something is lost all the same
the server says so: `$reset`, on standard error, or among the objects of --format json.

A stream that ends or breaks is opened again, and goes on where it was. The wait is the server's
`retry` at first, and grows to a minute while no attempt succeeds; standard error says once why.
Answers that pass are waited for, the very first one too: 408, 425, 429 and every 5xx except those
that say how a server is built (501, 505, 506, 508, 510). Any other refusal ends the command, and so
does a first attempt that finds no server. The command ends with 0 when the server says that nothing
more will come (204), as it does once all the channels are finished.

On a terminal, control characters of an event are shown as \\u001b and the like, since they could
do anything to it. Files and pipes get every byte as it was published.

--format json prints {"channel", "id", "event", "data", "time"}, with data as it was published:
text, or any JSON. What opens a stream and keeps it alive, `$open` and `$heartbeat`, is shown by
--format raw alone, and not counted by --count.

The command of --exec runs once for each event, one at a time, with the data on its standard
input and SSE_CHANNEL, SSE_EVENT, SSE_DATA and SSE_ID in its environment (each only below
100 kB). SSE_BROADCAST_TOKEN, SSE_BROADCAST_TOKEN_SECRET, SSE_BROADCAST_JWT_JWKS and a user in
SSE_BROADCAST_URL are taken out of it: a command that publishes needs SSE_BROADCAST_TOKEN_FILE, or
a token of its own. Data is a stranger's text: write "$SSE_DATA" with its quotes. With --state an
event is recorded when its command has ended, whatever its exit code.

Exit codes: 0 --count reached, nothing more to come, or the output's reader left; 1 refused, or no
server there; 2 bad usage, or a state file that cannot be used; 6 an event cannot be printed, and is
not recorded; 130 Ctrl-C."""
)
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Follow this channel, or those of a pattern such as 'orders.*', instead of `default`; "
    "may be repeated.",
)
@click.option("--event", "events", multiple=True, metavar="TYPE", help="Only this type; may be repeated.")
@click.option("--since", metavar="WHEN", help="Begin in the past; see below.")
@click.option(
    "--state",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Remember in a file where it was, and go on from there.",
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
@token_option
@url_option(Endpoint.SUBSCRIBE)
def subscribe(  # noqa: PLR0913 - an option each
    *,
    channels: tuple[str, ...],
    events: tuple[str, ...],
    since: str | None,
    file: Path | None,
    form: str,
    count: int | None,
    command: str | None,
    url: str,
    token: str | None,
) -> None:
    """Follow the stream, reconnecting when it breaks."""
    show = ExecForEach(command) if command is not None else PRINTERS[form]
    options = SubscribeOptions(channels, events, since)
    run_client(lambda: _until_output_closes(_follow(Client(url, token=token), options, show, count, file)))


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """What is followed."""

    channels: tuple[str, ...]
    events: tuple[str, ...]
    since: str | None


async def _follow(
    client: Client, options: SubscribeOptions, show: "Show", count: int | None, file: Path | None
) -> None:
    state = None if file is None else CursorFile.open(file)
    cursor = "" if state is None else state.id
    left = count
    outage = Outage()
    async with client:
        stream = client.subscribe(
            options.channels,
            since=options.since,
            last_event_id=cursor,
            events=options.events,
            format=show.format,
            on_retry=outage.tell,
        )
        async for whole in stream:
            outage.end()
            for piece in show.parts(whole, cursor, left):
                await show(piece)
                # Only now: what is recorded is never given again.
                cursor = piece.last_event_id
                if state is not None:
                    state.record(cursor)
                if left is not None:
                    left -= len(_published(piece))
            if left is not None and left <= 0:
                return


class Outage:
    """What standard error has been told of a server that is away: each reason once."""

    def __init__(self) -> None:
        self._told: set[int | str] = set()

    def tell(self, error: ClientError) -> None:
        """Print why the last attempt failed, if that is news."""
        # Of an answer the status: what a proxy writes under it may differ each time.
        reason = str(error) if error.status is None else error.status
        if reason not in self._told:
            self._told.add(reason)
            tell(f"{error}; trying again")

    def end(self) -> None:
        """Note that the stream goes on: from now on every reason is news."""
        self._told.clear()


class Show(Protocol):
    """Shows what comes of a stream. `format` is the one it asks the server for."""

    @property
    def format(self) -> str:
        """What it asks the server for."""

    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        """Return what it shows of a piece, of `room` events at most, in parts that are recorded one by one.

        `cursor` is where the stream was before the piece.
        """

    async def __call__(self, piece: StreamChunk) -> None:
        """Show a part. What it has shown is out of this process when it returns."""


class TextPrinter:
    """Prints the data of each event; what the server itself says goes to standard error."""

    format = "text"

    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        """See `Show`."""
        return (first(piece, cursor, room),)

    async def __call__(self, piece: StreamChunk) -> None:
        """See `Show`."""
        _tell(piece)
        _write(b"".join(event.data.encode() + b"\n" for event in _published(piece)))


class JsonPrinter:
    """Prints each event as a JSON object, the server's own included."""

    format = "json"

    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        """See `Show`."""
        return (first(piece, cursor, room),)

    async def __call__(self, piece: StreamChunk) -> None:
        """See `Show`."""
        _write(b"".join(_as_json(event) + b"\n" for event in piece.events if event.type not in BOOKKEEPING))


class RawPrinter:
    """Prints what arrived, as it arrived: a read is not cut, so more than `room` events may show."""

    format = "text"

    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:  # noqa: ARG002
        """See `Show`."""
        return (piece,)

    async def __call__(self, piece: StreamChunk) -> None:
        """See `Show`."""
        _tell(piece)
        _write(piece.raw)


PRINTERS: dict[str, Show] = {"text": TextPrinter(), "json": JsonPrinter(), "raw": RawPrinter()}


@dataclass(frozen=True, slots=True)
class ExecForEach:
    """Runs a shell command for each event, and waits for it."""

    command: str
    format: str = "json"  # which alone says the channel

    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        """See `Show`. An event each, since a command may take long."""
        return one_by_one(first(piece, cursor, room), cursor)

    async def __call__(self, piece: StreamChunk) -> None:
        """See `Show`."""
        _tell(piece)
        for event in _published(piece):
            await self._run(_opened(event))

    async def _run(self, opened: "Opened") -> None:
        data = opened.event.data.encode()
        process = await asyncio.create_subprocess_shell(
            self.command, stdin=asyncio.subprocess.PIPE, env=_environment(opened)
        )
        await process.communicate(data)
        if process.returncode:
            tell(f"the command ended with {process.returncode}")


def first(piece: StreamChunk, cursor: str, room: int | None) -> StreamChunk:
    """Return the beginning of a piece, up to and with its published event number `room`."""
    if room is None:
        return piece
    for index, event in enumerate(piece.events, 1):
        room -= not event.reserved
        if not room and index < len(piece.events):
            events = piece.events[:index]
            ids = [event.id for event in events if event.id is not None]
            return replace(piece, events=events, last_event_id=ids[-1] if ids else cursor)
    return piece


def one_by_one(piece: StreamChunk, cursor: str) -> Iterator[StreamChunk]:
    """Yield a piece in parts of one event each, and where the stream is behind the last of them."""
    for event in piece.events:
        cursor = cursor if event.id is None else event.id
        yield StreamChunk(b"", [event], cursor)
    yield StreamChunk(b"", [], piece.last_event_id)


class ReceivedEnvelope(msgspec.Struct):
    """What the server's `format=json` says of an event, beside what is in the event itself."""

    channel: str
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Opened:
    """An event out of its envelope, and the channel it came on."""

    channel: str
    event: Event


def _opened(event: Event) -> Opened:
    try:
        envelope = msgspec.json.decode(event.data, type=ReceivedEnvelope)
        data = bytes(envelope.data)
        text = msgspec.json.decode(data, type=str) if data.startswith(b'"') else data.decode()
    except msgspec.DecodeError:
        raise _not_ours(event) from None
    return Opened(envelope.channel, Event(text, event.type, event.id))


def _as_json(event: Event) -> bytes:
    try:
        # Line by line: JSON that was published with line ends in it has none here.
        data = msgspec.json.format(event.data.encode(), indent=-1)
    except msgspec.DecodeError:
        raise _not_ours(event) from None
    if not event.reserved:
        return data
    envelope = {"channel": None, "id": event.id, "event": event.type, "data": msgspec.Raw(data)}
    return msgspec.json.encode(envelope)


def _not_ours(event: Event) -> ClientError:
    return ClientError(f"the server does not know format=json: {event.data[:80]!a}")


def _environment(opened: Opened) -> dict[str, str]:
    """Return our environment without its secrets, and with the event's fields that a variable can hold."""
    environment = {name: value for name, value in os.environ.items() if name not in KEPT_FROM_COMMANDS}
    if URL in environment:
        environment[URL] = Client(environment[URL]).name
    event = opened.event
    for name, value in (
        ("SSE_CHANNEL", opened.channel),
        ("SSE_EVENT", event.type),
        ("SSE_ID", event.id or ""),
        ("SSE_DATA", event.data),
    ):
        if len(value.encode()) < MAX_VARIABLE and "\0" not in value:
            environment[name] = value
        else:
            environment.pop(name, None)
    return environment


def _published(piece: StreamChunk) -> list[Event]:
    """Return the events that somebody published."""
    return [event for event in piece.events if not event.reserved]


def _tell(piece: StreamChunk) -> None:
    """Print on standard error what the server itself says to people: `$reset` and `$close`."""
    for event in piece.events:
        if event.reserved and event.type not in BOOKKEEPING:
            tell(f"{event.type} {event.data}")


def _write(data: bytes) -> None:
    if data:
        sys.stdout.buffer.write(_ON_TERMINAL.show(data) if sys.stdout.isatty() else data)
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
