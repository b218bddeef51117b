"""`sse-broadcast publish`."""

import contextlib
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

import click

from sse_broadcast.cli.common import run, token_option, url_option
from sse_broadcast.cli.source import Source, open_source, source_of
from sse_broadcast.client import Client, line
from sse_broadcast.config import Endpoint
from sse_broadcast.count import Count
from sse_broadcast.errors import ClientError
from sse_broadcast.event import MAX_RETRY

STDIN = "-"


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
for now, lines wait as long as it says.

Exit codes: 0 published; 1 refused, or no server there; 2 bad usage; 6 published, but that cannot be
printed; 130 Ctrl-C."""
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
@click.option("--key", metavar="KEY", help="What the event replaces, for readers with the policy `conflate`.")
@click.option(
    "--retry",
    type=click.IntRange(0, MAX_RETRY),
    metavar="MS",
    help="Milliseconds after which a reader that is cut off reconnects.",
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
@token_option
@url_option(Endpoint.PUBLISH)
def publish(  # noqa: PLR0913 - an option each
    *,
    message: str | None,
    channels: tuple[str, ...],
    form: str,
    file: str | None,
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
    if form == "text" and typed is not None:
        run(lambda: _publish_message(Client(url, token=token), typed, channels, said))
        return
    given = source_of(typed) if typed is not None else file
    run(lambda: _publish_source(Client(url, token=token), given, form, channels, said))


async def _publish_message(
    client: Client, message: str, channels: Sequence[str], said: dict[str, Any]
) -> None:
    async with client:
        _tell_clients(await client.publish(message, channels=channels, **said))


async def _publish_source(
    client: Client, given: Source | str | None, form: str, channels: Sequence[str], said: dict[str, Any]
) -> None:
    source = given if isinstance(given, Source) else await open_source(given)
    with contextlib.closing(source):
        async with client:
            match form:
                case "json":
                    _tell_clients(await client.publish_json(await source.document(), channels=channels))
                case "ndjson":
                    await _publish_lines(client, source, source.lines(), channels, "event")
                case _:
                    lines = _as_events(source.lines(), said)
                    await _publish_lines(client, source, lines, channels, "line")


def _tell_clients(receipt: dict[str, Any]) -> None:
    count = f"{Count(receipt['count'], 'event')} " if "count" in receipt else ""
    click.echo(f"sent {count}to {Count(receipt['clients'], 'client')}")


async def _publish_lines(
    client: Client,
    source: Source,
    lines: AsyncIterable[Sequence[bytes]],
    channels: Sequence[str],
    noun: str,
) -> None:
    count = 0
    shown = source.size is not None and sys.stderr.isatty()
    with click.progressbar(
        length=source.size or 0, label="publishing", file=sys.stderr, hidden=not shown
    ) as bar:
        source.on_taken = bar.update
        try:
            async for sent in client.publish_lines(lines, channels=channels):
                count += sent.count
        except ClientError as error:
            raise ClientError(f"{error}; {count} published", status=error.status) from None
    click.echo(f"sent {Count(count, noun)}")


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
                made.append(line(text.removesuffix(b"\r").decode(), **said))
            except UnicodeDecodeError as error:
                yield made
                raise ClientError(f"line {number}: is not UTF-8 at byte {error.start}") from None
        yield made
