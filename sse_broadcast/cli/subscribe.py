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
from typing_extensions import override

from sse_broadcast.channels import DEFAULT_CHANNEL
from sse_broadcast.cli.common import run_client
from sse_broadcast.cli.cursor_file import CursorFile
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.cli.server_options import ServerOptions, server_options
from sse_broadcast.cli.visible import VisibleBytes, errors_are_read, tell
from sse_broadcast.client import Client, StreamChunk
from sse_broadcast.config.schema import Endpoint
from sse_broadcast.config.sources import ENV_PREFIX, SETTINGS
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event
from sse_broadcast.reconnection import OPEN

BOOKKEEPING = frozenset({"$open", "$heartbeat"})
"""The server's own events that carry a cursor or keep the connection alive, and nothing for people."""

URL = ENV_PREFIX + "URL"

KEPT_FROM_COMMANDS = frozenset(setting.variable for setting in SETTINGS.values() if setting.private)
"""Variables removed from the environment of --exec: a command may print its environment or pass it on."""

_ON_TERMINAL = VisibleBytes()

MAX_VARIABLE = 100_000
"""Maximum bytes of a field in an environment variable: Linux refuses to start a command above 128 KiB."""


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast subscribe
  sse-broadcast subscribe news 'orders.*'
  sse-broadcast subscribe --channel news --channel 'orders.*' --format json | jq .data
  sse-broadcast subscribe --since 10m --event price
  sse-broadcast subscribe --count 1
  sse-broadcast subscribe --state cursor --exec 'notify-send "$SSE_CHANNEL" "$SSE_DATA"'

--since takes an id, `earliest` (the whole history), `last` (the newest event of each channel,
then new events) or an age: 500ms, 30s, 10m, 2h, 7d.

--state records the id of the last event shown in FILE, and the next run continues after that
event. No event is lost. Events shown just before the command was killed may be shown again. If
FILE exists, --since has no effect. If the server no longer has the missed events, it sends
`$reset`: on standard error, or among the objects of --format json.

When a stream ends or breaks, the command reconnects and continues after the last event. The wait
is the server's `retry` at first, and grows to a minute while attempts fail; standard error names
the reason once. Temporary answers are tried again, even the first one: 408, 425, 429 and every 5xx
except 501, 505, 506, 508 and 510. Any other refusal ends the command, and so does a first attempt
that cannot reach the server. The command exits with 0 when the server answers 204: all channels
are finished, and no more events will come.

On a terminal, control characters of an event are shown as escapes such as \\u001b, since a terminal
would interpret them. Files and pipes get every byte as it was published.

--format json prints {"channel", "id", "event", "data", "time"}, with data as it was published:
text, or any JSON. The server's `$open` and `$heartbeat` events appear only in --format raw, and
--count does not count them.

The command of --exec runs once for each event, one at a time. It gets the data on its standard
input, and SSE_CHANNEL, SSE_EVENT, SSE_DATA and SSE_ID in its environment (each only below
100 kB). SSE_BROADCAST_TOKEN, SSE_BROADCAST_TOKEN_SECRET, SSE_BROADCAST_JWT_JWKS and a user in
SSE_BROADCAST_URL are removed from its environment: a command that publishes needs
SSE_BROADCAST_TOKEN_FILE, or a token of its own. Data is untrusted text: write "$SSE_DATA" with its
quotes. With --state, an event is recorded when its command has ended, with any exit code.

Exit codes: 0 --count reached, no more events, or the output's pipe was closed; 1 refused, or no
server; 2 bad usage, or a state file that cannot be used; 6 an event cannot be printed, and is
not recorded; 130 Ctrl-C.""",
)
@click.argument("names", nargs=-1, metavar="[CHANNEL]...")
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Subscribe to this channel, or to a pattern such as 'orders.*', instead of `default`. "
    "May be repeated.",
)
@click.option(
    "--event", "events", multiple=True, metavar="TYPE", help="Show only this type. May be repeated."
)
@click.option("--since", metavar="WHEN", help="Start in the history (described below).")
@click.option(
    "--state",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Record the last event in a file, and continue after that event.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "raw"]),
    default="text",
    show_default=True,
    help="Print the data, a JSON object on each line, or the bytes of the stream.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Exit after N events.")
@click.option(
    "--exec", "command", metavar="CMD", help="Run a shell command for each event instead of printing."
)
@server_options(Endpoint.SUBSCRIBE)
def subscribe(  # noqa: PLR0913 - one parameter per option
    *,
    server: ServerOptions,
    names: tuple[str, ...],
    channels: tuple[str, ...],
    events: tuple[str, ...],
    since: str | None,
    file: Path | None,
    form: str,
    count: int | None,
    command: str | None,
) -> None:
    """Print the events of a stream. Reconnect when the stream breaks."""
    show = ExecForEach(command) if command is not None else PRINTERS[form]
    named = tuple(name for text in names for name in text.split(","))
    options = SubscribeOptions((*named, *channels), events, since)
    run_client(lambda: _until_output_closes(_follow(server.client(), options, show, count, file)))


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """The channels, the event types and the start of a subscription."""

    channels: tuple[str, ...]
    events: tuple[str, ...]
    since: str | None

    @property
    def described(self) -> str:
        """The channels, for people."""
        return ", ".join(self.channels or (DEFAULT_CHANNEL,))


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
            if errors_are_read() and any(event.type == OPEN for event in whole.events):
                tell(f"connected to {client.name}, waiting for events on {options.described}; Ctrl-C ends")
            for piece in show.parts(whole, cursor, left):
                await show(piece)
                # Recorded after it was shown: a recorded event is never sent again.
                cursor = piece.last_event_id
                if state is not None:
                    state.record(cursor)
                if left is not None:
                    left -= len(_published(piece))
            if left is not None and left <= 0:
                return


class Outage:
    """The reasons already printed while the server is away: each is printed once."""

    def __init__(self) -> None:
        self._told: set[int | str] = set()

    def tell(self, error: ClientError) -> None:
        """Print why the last attempt failed, unless that reason was printed before."""
        # Answers are compared by status: a proxy may write a different text under it each time.
        reason = str(error) if error.status is None else error.status
        if reason not in self._told:
            self._told.add(reason)
            tell(f"{error}; trying again")

    def end(self) -> None:
        """Forget the printed reasons: the stream works again."""
        self._told.clear()


class Show(Protocol):
    """An output format of the command. `format` is the one to request from the server."""

    @property
    def format(self) -> str:
        """The value of the `format` parameter: `text` or `json`."""

    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        """Return at most `room` events of a chunk, in parts that are recorded one by one.

        `cursor` is the last id before the chunk.
        """

    async def __call__(self, piece: StreamChunk) -> None:
        """Show a part. When this returns, the part has been written, not only buffered."""


class TextPrinter(Show):
    """An output of the data of each event. The server's own events go to standard error."""

    format = "text"

    @override
    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        return (first(piece, cursor, room),)

    @override
    async def __call__(self, piece: StreamChunk) -> None:
        _tell(piece)
        _write(b"".join(event.data.encode() + b"\n" for event in _published(piece)))


class JsonPrinter(Show):
    """An output of each event as a JSON object, the server's own events included."""

    format = "json"

    @override
    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        return (first(piece, cursor, room),)

    @override
    async def __call__(self, piece: StreamChunk) -> None:
        _write(b"".join(_as_json(event) + b"\n" for event in piece.events if event.type not in BOOKKEEPING))


class RawPrinter(Show):
    """An output of the bytes as they arrived. A read is not cut, so more than `room` events may show."""

    format = "text"

    @override
    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        return (piece,)

    @override
    async def __call__(self, piece: StreamChunk) -> None:
        _tell(piece)
        _write(piece.raw)


PRINTERS: dict[str, Show] = {"text": TextPrinter(), "json": JsonPrinter(), "raw": RawPrinter()}


@dataclass(frozen=True, slots=True)
class ExecForEach:
    """An output that runs a shell command for each event, and waits until the command ends."""

    command: str
    format: str = "json"  # only this format names the channel of an event

    def parts(self, piece: StreamChunk, cursor: str, room: int | None) -> Iterable[StreamChunk]:
        """Return parts of one event each: the state is recorded after each command."""
        return one_by_one(first(piece, cursor, room), cursor)

    async def __call__(self, piece: StreamChunk) -> None:
        """Run the command for each published event, and print the server's own events."""
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
    """Return the start of a chunk, up to and including its published event number `room`."""
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
    """Yield a chunk in parts of one event each, each with the cursor after that event."""
    for event in piece.events:
        cursor = cursor if event.id is None else event.id
        yield StreamChunk(b"", [event], cursor)
    yield StreamChunk(b"", [], piece.last_event_id)


class ReceivedEnvelope(msgspec.Struct):
    """The fields of the server's `format=json` that the SSE event itself does not have."""

    channel: str
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Opened:
    """An event taken out of its JSON envelope, and its channel."""

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
        # indent=-1 removes line ends that the publisher put into the JSON: one object is one line.
        data = msgspec.json.format(event.data.encode(), indent=-1)
    except msgspec.DecodeError:
        raise _not_ours(event) from None
    if not event.reserved:
        return data
    envelope = {"channel": None, "id": event.id, "event": event.type, "data": msgspec.Raw(data)}
    return msgspec.json.encode(envelope)


def _not_ours(event: Event) -> ClientError:
    return ClientError(f"the server does not support format=json: {event.data[:80]!a}")


def _environment(opened: Opened) -> dict[str, str]:
    """Return this process's environment without its secrets, and with the fields of the event.

    A field is left out if it is too long for a variable or holds a NUL.
    """
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
    """Return the events of a chunk that a publisher sent, without the server's own."""
    return [event for event in piece.events if not event.reserved]


def _tell(piece: StreamChunk) -> None:
    """Print the server's own `$reset` and `$close` events on standard error."""
    for event in piece.events:
        if event.reserved and event.type not in BOOKKEEPING:
            tell(f"{event.type} {event.data}")


def _write(data: bytes) -> None:
    if data:
        sys.stdout.buffer.write(_ON_TERMINAL.show(data) if sys.stdout.isatty() else data)
        sys.stdout.buffer.flush()


async def _until_output_closes(following: Awaitable[None]) -> None:
    """Wait until the stream ends, or the program that reads standard output exits (`| head -1`)."""
    follower = asyncio.ensure_future(following)
    loop = asyncio.get_running_loop()
    output = sys.stdout.fileno()
    piped = stat.S_ISFIFO(os.fstat(output).st_mode)
    if piped:
        # The writing end of a pipe polls as readable once its reader is gone. Without this the command would
        # notice only at the next event.
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
