"""`sse-broadcast publish`."""

import contextlib
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import click

from sse_broadcast.cli.common import run_client, token_option, url_option
from sse_broadcast.cli.input import InputSource, open_source, source_of
from sse_broadcast.cli.visible import tell
from sse_broadcast.client import Client, OnRetry, encode_line
from sse_broadcast.config.schema import Endpoint
from sse_broadcast.errors import ClientError
from sse_broadcast.event import LONGEST_RETRY, SHORTEST_RETRY
from sse_broadcast.quantity import Quantity

STDIN = "-"

RETRY_FOR = 60.0
"""Seconds that lines wait for a server that is away, unless it is said: longer than a restart takes."""

MAX_RETRY_FOR = 86_400
"""Seconds: a day."""


class Options(TypedDict):
    """What every publish of a client is told beside its events."""

    channels: Sequence[str]
    retry_for: float
    on_retry: OnRetry


@click.command(
    epilog="""\b
Examples:
  sse-broadcast publish hello
  sse-broadcast publish --channel news --channel alerts --event weather 'it rains'
  tail -F app.log | sse-broadcast publish --channel logs -
  sse-broadcast publish --format json '{"data": {"EUR": 1.08}, "event": "price"}'
  sse-broadcast publish --channel orders --format ndjson --file orders.ndjson

\b
Formats, of MESSAGE, of --file or of standard input:
  text    MESSAGE is one event, however many lines it has; of a file or of standard
          input each line is one
  json    an event as an object, or an array of them: all are published, or none
  ndjson  an event as an object on each line

Lines are published as they come: each by itself when they come slowly, many in a request
when they come fast. The first line that is refused ends it. The error names that line, and
says how many were published: all before it, and none behind it. Where the server has had enough
for now (429), lines wait as long as it says.

A server that is restarted does not end a pipe. Lines that were certainly not published are sent
again, in their order, for as long as --retry-for says: the server cannot be reached, or says that
it published nothing (408, 425, 429, or a 503 of its own). Standard error says so once. Lines that
may have been published are not sent again: the connection broke before the answer came, or the
answer is any other 5xx that may pass. The error names those lines.

Exit codes: 0 published; 1 refused, or no server there for as long as --retry-for says; 2 bad usage;
6 published, but that cannot be printed; 130 Ctrl-C."""
)
@click.argument("message", required=False)
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Publish to this channel instead of `default`; may be repeated.",
)
@click.option("--event", metavar="TYPE", help="The event's type; browsers get it by addEventListener(TYPE).")
@click.option("--id", metavar="ID", help="An id of your own, of one event.")
@click.option(
    "--key", metavar="KEY", help="What the event replaces, for subscribers with the policy `conflate`."
)
@click.option(
    "--retry",
    type=click.IntRange(SHORTEST_RETRY, LONGEST_RETRY),
    metavar="MS",
    help="Milliseconds after which a subscriber that is cut off reconnects.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "ndjson"]),
    default="text",
    show_default=True,
    help="What is published; see below.",
)
@click.option("--file", metavar="PATH", help="Publish what is in a file, or with - in standard input.")
@click.option(
    "--retry-for",
    type=click.FloatRange(min=0, max=MAX_RETRY_FOR),
    metavar="SECONDS",
    help="Send again what was not published, while the server is away or takes nothing.  "
    f"[default: {RETRY_FOR:g} for lines; 0 for MESSAGE and json]",
)
@token_option
@url_option(Endpoint.PUBLISH)
def publish(  # noqa: PLR0913 - an option each
    *,
    message: str | None,
    channels: tuple[str, ...],
    form: str,
    file: str | None,
    retry_for: float | None,
    url: str,
    token: str | None,
    **fields: str | int | None,
) -> None:
    """Publish MESSAGE, or with - (or nothing) each line of standard input as it comes."""
    said = {name: value for name, value in fields.items() if value is not None}
    if message is not None and file is not None:
        raise click.UsageError("MESSAGE and --file: only one of them may be given.")
    if form != "text" and said:
        raise click.UsageError(f"--{next(iter(said))}: is said in the JSON of each event.")
    typed = None if message == STDIN else message
    if "id" in said and typed is None:
        raise click.UsageError("--id: cannot be that of every line.")
    lines = form == "ndjson" or (form == "text" and typed is None)
    # One message is typed by somebody who looks, or sent by a program that knows better.
    seconds = retry_for if retry_for is not None else RETRY_FOR if lines else 0.0
    publisher = Publisher(Client(url, token=token), channels, seconds)
    if form == "text" and typed is not None:
        run_client(lambda: publisher.message(typed, said))
        return
    given = source_of(typed) if typed is not None else file
    run_client(lambda: publisher.source(given, form, said))


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes to channels, and waits `retry_for` seconds for a server that is away."""

    client: Client
    channels: Sequence[str]
    retry_for: float

    async def message(self, message: str, said: dict[str, Any]) -> None:
        """Publish one message."""
        async with self.client as client:
            _tell_clients(await client.publish(message, **self._options(), **said))

    async def source(self, given: InputSource | str | None, form: str, said: dict[str, Any]) -> None:
        """Publish what a source, a file or standard input has."""
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
    """Make an event of each line. Raises `ClientError` when those before a bad one have been taken."""
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
