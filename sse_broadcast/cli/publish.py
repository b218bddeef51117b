"""`sse-broadcast publish`."""

import contextlib
import shlex
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import click

from sse_broadcast.cli.common import run_client
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.cli.input import InputSource, open_source, source_of
from sse_broadcast.cli.server_options import ServerOptions, server_options
from sse_broadcast.cli.visible import tell
from sse_broadcast.client import Client, OnRetry, encode_line
from sse_broadcast.config.schema import Endpoint
from sse_broadcast.errors import ClientError
from sse_broadcast.event import LONGEST_RETRY, SHORTEST_RETRY
from sse_broadcast.quantity import Quantity

STDIN = "-"

RETRY_FOR = 60.0
"""Default of --retry-for for lines, in seconds: longer than a restart of the server takes."""

MAX_RETRY_FOR = 86_400
"""Maximum of --retry-for, in seconds: a day."""


class Options(TypedDict):
    """Arguments of the client that are the same for every publish."""

    channels: Sequence[str]
    retry_for: float
    on_retry: OnRetry


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast publish hello
  sse-broadcast publish news hello
  sse-broadcast publish --channel news --channel alerts --event weather 'it rains'
  tail -F app.log | sse-broadcast publish --channel logs -
  sse-broadcast publish --format json '{"data": {"EUR": 1.08}, "event": "price"}'
  sse-broadcast publish --channel orders --format ndjson --file orders.ndjson

\b
Formats of MESSAGE, of --file and of standard input:
  text    MESSAGE is one event, with all its lines; in a file or standard input
          each line is one event
  json    one event as an object, or an array of events: all are published, or none
  ndjson  one event as an object on each line

Lines are published as they arrive: one in a request when they arrive slowly, many when they arrive
fast. The command stops at the first line that the server refuses. The error names that line and
the number of lines published: all lines before it, and none after it. If the server answers 429,
the command waits as long as the answer's Retry-After asks.

A restart of the server does not end a pipe. Lines that were certainly not published are sent again,
in order, for the time of --retry-for: the server cannot be reached, or it answers that it published
nothing (408, 425, 429, or a 503 of its own). Standard error says so once. Lines that may have been
published are not sent again: the connection broke before the answer, or the answer is another
temporary 5xx. The error names those lines.

Exit codes: 0 published; 1 refused, or no server within --retry-for; 2 bad usage;
6 published, but output cannot be written; 130 Ctrl-C.""",
)
@click.argument("words", nargs=-1, metavar="[CHANNEL] [MESSAGE]")
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Publish to this channel instead of `default`. May be repeated.",
)
@click.option(
    "--event", metavar="TYPE", help="The event's type. Browsers receive it with addEventListener(TYPE)."
)
@click.option("--id", metavar="ID", help="The event's id, instead of one that the server makes.")
@click.option(
    "--key",
    metavar="KEY",
    help="For subscribers with the policy `conflate`: replace waiting events of this key.",
)
@click.option(
    "--retry",
    type=click.IntRange(SHORTEST_RETRY, LONGEST_RETRY),
    metavar="MS",
    help="Milliseconds that a subscriber waits before it reconnects.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "ndjson"]),
    default="text",
    show_default=True,
    help="The format of the input (described below).",
)
@click.option("--file", metavar="PATH", help="Publish the content of a file, or of standard input for -.")
@click.option(
    "--retry-for",
    type=click.FloatRange(min=0, max=MAX_RETRY_FOR),
    metavar="SECONDS",
    help="How long to send again what was not published, while the server is away or refuses for now.  "
    f"[default: {RETRY_FOR:g} for lines; 0 for MESSAGE and json]",
)
@server_options(Endpoint.PUBLISH)
def publish(  # noqa: PLR0913 - one parameter per option
    *,
    server: ServerOptions,
    words: tuple[str, ...],
    channels: tuple[str, ...],
    form: str,
    file: str | None,
    retry_for: float | None,
    **fields: str | int | None,
) -> None:
    """Publish MESSAGE to CHANNEL, or to `default`; with - (or nothing) each line of standard input."""
    said = {name: value for name, value in fields.items() if value is not None}
    channels, message = channels_and_message(words, channels)
    if message is not None and file is not None:
        raise click.UsageError("MESSAGE and --file: give only one of them.")
    if form != "text" and said:
        raise click.UsageError(
            f"--{next(iter(said))}: not with this --format, put it in the JSON of each event."
        )
    typed = None if message == STDIN else message
    if "id" in said and typed is None:
        raise click.UsageError("--id: needs MESSAGE, since every line cannot have the same id.")
    lines = form == "ndjson" or (form == "text" and typed is None)
    # One MESSAGE is not sent again by default: the person or program that runs the command sees the error at
    # once. A pipe of lines would lose what its writer has already sent.
    seconds = retry_for if retry_for is not None else RETRY_FOR if lines else 0.0
    publisher = Publisher(server.client(), channels, seconds)
    if form == "text" and typed is not None:
        run_client(lambda: publisher.message(typed, said))
        return
    given = source_of(typed) if typed is not None else file
    run_client(lambda: publisher.source(given, form, said))


def channels_and_message(
    words: tuple[str, ...], channels: tuple[str, ...]
) -> tuple[tuple[str, ...], str | None]:
    """Return the channels and the message of the arguments: the channel is first where there are two.

    Raises `click.UsageError` where it is not clear what was meant, saying what to write.
    """
    match words:
        case ():
            return channels, None
        case (message,):
            return channels, message
        case (channel, message) if not channels:
            return tuple(channel.split(",")), message
        case (channel, _):
            raise click.UsageError(f"{channel!r} and --channel: only one of them may say the channel.")
    quoted = shlex.quote(" ".join(words[1:]))
    raise click.UsageError(
        f"{len(words)} words: at most a channel and a message are taken. "
        f"Put quotes around the message: publish {shlex.quote(words[0])} {quoted}"
    )


@dataclass(frozen=True, slots=True)
class Publisher:
    """A client, the channels to publish to, and how many seconds to try again."""

    client: Client
    channels: Sequence[str]
    retry_for: float

    async def message(self, message: str, said: dict[str, Any]) -> None:
        """Publish one message."""
        async with self.client as client:
            _tell_clients(await client.publish(message, **self._options(), **said))

    async def source(self, given: InputSource | str | None, form: str, said: dict[str, Any]) -> None:
        """Publish the content of a source, of the file `given`, or of standard input for None."""
        source = given if isinstance(given, InputSource) else await open_source(given)
        with contextlib.closing(source):
            async with self.client:
                match form:
                    case "json":
                        await self._document(source)
                    case "ndjson":
                        await self._lines(source, source.lines(), "event")
                    case _:
                        await self._lines(source, _as_events(source.lines(), said), "line")

    async def _document(self, source: InputSource) -> None:
        document = await source.document()
        _tell_clients(await self.client.publish_json(document, **self._options()))

    async def _lines(self, source: InputSource, lines: AsyncIterable[Sequence[bytes]], noun: str) -> None:
        count = 0
        shown = source.size is not None and sys.stderr.isatty()
        with click.progressbar(
            length=source.size or 0, label="publishing", file=sys.stderr, hidden=not shown
        ) as bar:
            source.on_taken = bar.update
            try:
                async for sent in self.client.publish_lines(lines, **self._options(below_bar=shown)):
                    count += sent.count
            except ClientError as error:
                raise ClientError(f"{error}; {count} published", status=error.status) from None
        click.echo(f"sent {Quantity(count, noun)}")

    def _options(self, *, below_bar: bool = False) -> Options:
        def on_retry(error: ClientError) -> None:
            if below_bar:
                click.echo(err=True)
            tell(f"{error}; trying again for {self.retry_for:g} s")

        return {"channels": self.channels, "retry_for": self.retry_for, "on_retry": on_retry}


def _tell_clients(receipt: dict[str, Any]) -> None:
    count = f"{Quantity(receipt['count'], 'event')} " if "count" in receipt else ""
    click.echo(f"sent {count}to {Quantity(receipt['clients'], 'client')}")


async def _as_events(
    lines: AsyncIterable[Sequence[bytes]], said: dict[str, Any]
) -> AsyncIterator[list[bytes]]:
    """Encode each line as an event.

    Raises `ClientError` for a line that is not UTF-8, after the lines before it have been yielded.
    """
    number = 0
    async for some in lines:
        made: list[bytes] = []
        for text in some:
            number += 1
            try:
                made.append(encode_line(text.removesuffix(b"\r").decode(), **said))
            except UnicodeDecodeError as error:
                yield made
                raise ClientError(f"line {number}: is not UTF-8 at byte {error.start}") from None
        yield made
