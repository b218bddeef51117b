"""`sse-broadcast store`: look after the file that keeps the history."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import click
from typing_extensions import override

from sse_broadcast.cli.common import fail
from sse_broadcast.cli.help import StyledGroup
from sse_broadcast.config.values import SQLITE_PREFIX
from sse_broadcast.errors import StoreError
from sse_broadcast.quantity import Quantity

STORE_EPILOG = """\b
Examples:
  sse-broadcast store check /var/lib/sse-broadcast/history.db
  sse-broadcast store export /var/lib/sse-broadcast/history.db > history.ndjson
  sse-broadcast store import /var/lib/sse-broadcast/new.db < history.ndjson

check and export may be used while a server has the file; compact and import may not.

Exit codes: 0 done; 2 bad usage; 6 it cannot be printed; 7 the file cannot be used, or a line is no event."""


class StorePath(click.Path):
    """The path of a file, alone or as the setting `backend` has it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(str(value).removeprefix(SQLITE_PREFIX), param, ctx)


FILE = click.argument("file", type=StorePath())


@click.group(cls=StyledGroup, epilog=STORE_EPILOG)
def store() -> None:
    """Check, compact, export or import the file of `serve --backend sqlite:///FILE`."""


@store.command()
@FILE
def check(file: Path) -> None:
    """Read all of FILE, and say whether it is whole."""
    from sse_broadcast.backends.sqlite import maintenance  # noqa: PLC0415 - Python may have no SQLite

    try:
        found = maintenance.check_file(file)
    except StoreError as error:
        fail(error)
    click.echo(
        f"{file}: good: {Quantity(found.events, 'event')} in {Quantity(found.channels, 'channel')},"
        f" {found.bytes:,} bytes, newest position {found.newest}"
    )


@store.command()
@FILE
def compact(file: Path) -> None:
    """Write FILE anew, without the space that evicted events have left."""
    from sse_broadcast.backends.sqlite import maintenance  # noqa: PLC0415

    _require_file(file)
    try:
        before, after = maintenance.compact_file(file)
    except StoreError as error:
        fail(error)
    click.echo(f"{file}: {before:,} bytes before, {after:,} after")


@store.command(name="export")
@FILE
def export_events(file: Path) -> None:
    """Write the events of FILE to standard output, a line of JSON each, in order."""
    from sse_broadcast.backends.sqlite import maintenance  # noqa: PLC0415

    try:
        with maintenance.reading(file) as db:
            count = maintenance.summary(file, db).events
            output = sys.stdout.buffer
            for line in _shown(maintenance.exported(db), length=count, label="exporting"):
                output.write(line)
            output.flush()
    except StoreError as error:
        fail(error)


@store.command(name="import")
@FILE
def import_events(file: Path) -> None:
    """Append events from standard input, as `export` writes them, to FILE; it is made if it is not there.

    All of them or none. They get positions and ids of their own behind what FILE holds; ids that publishers
    chose stay. A server that opens FILE then goes by its own limits.
    """
    from sse_broadcast.backends.sqlite import maintenance  # noqa: PLC0415

    lines = sys.stdin.buffer
    count = 0
    try:
        for count in maintenance.import_lines(file, _read(lines)):  # noqa: B007 - the last counts
            pass
    except StoreError as error:
        fail(error)
    click.echo(f"{file}: {Quantity(count, 'event')} imported")


def _require_file(file: Path) -> None:
    if not file.exists():
        fail(StoreError(f"{file}: there is no such file"))


def _read(lines: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file, with a progress bar if it is one that has a length."""
    try:
        length = os.fstat(lines.fileno()).st_size
    except OSError:
        length = 0
    if not length or not sys.stderr.isatty():
        yield from lines
        return
    with click.progressbar(length=length, label="importing", file=sys.stderr) as bar:
        for line in lines:
            yield line
            bar.update(len(line))


def _shown(items: Iterable[Any], *, length: int, label: str) -> Iterator[Any]:
    """Yield items, with a progress bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, length=length, label=label, file=sys.stderr) as bar:
        yield from bar
