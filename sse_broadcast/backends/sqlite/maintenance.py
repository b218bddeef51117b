"""What operators do with a file: check it, compact it, and write its events out or in."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from sse_broadcast.backends.sqlite.file import CURE, StoreFile, damage, store_error
from sse_broadcast.backends.sqlite.operations import Append
from sse_broadcast.backends.sqlite.pages import COLUMNS, Pages
from sse_broadcast.backends.sqlite.tables import Tables
from sse_broadcast.backends.sqlite.terms import Term, Terms, begin_term, end_term
from sse_broadcast.channels import validate_channels
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.config.schema import Durability
from sse_broadcast.errors import EventError, StoreError
from sse_broadcast.event import DEFAULT_TYPE, Event
from sse_broadcast.publication import Draft

LINES_PER_TRANSACTION = 1000
"""Lines that are written in at once."""

NO_LIMITS = HistoryLimits(1 << 62, 1 << 62, 1e12)
"""The limits of an import: its events stay until a server opens the file and applies its own."""


class Summary(msgspec.Struct, frozen=True):
    """What a file holds."""

    events: int
    channels: int
    bytes: int
    newest: int


class StoredEvent(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An event as a line of an export. `time` is in seconds since 1970."""

    channels: list[str]
    data: str
    time: float
    event: str = DEFAULT_TYPE
    id: str | None = None
    key: str | None = None
    retry: int | None = None
    json: bool = False


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that only reads; a server may have the file meanwhile. Raises `StoreError`."""
    file = StoreFile(path, Durability.FULL)
    file.require_ours()
    try:
        with contextlib.closing(file.open_reader()) as db:
            file.require_known_format(db)
            yield db
    except sqlite3.Error as error:
        raise store_error(path, error) from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield the connection that writes; nobody else has the file meanwhile. Raises `StoreError`."""
    file = StoreFile(path, Durability.FULL)
    try:
        with contextlib.closing(file.open()) as db:
            yield db
    except sqlite3.Error as error:
        raise store_error(path, error) from None
    finally:
        file.release()


def check_file(path: Path) -> Summary:
    """Return what a file holds, if it is whole. Raises `StoreError`."""
    with reading(path) as db:
        if (fault := damage(db)) is not None:
            raise StoreError(f"{path}: is damaged ({fault}); {CURE}")
        return summary(path, db)


def summary(path: Path, db: sqlite3.Connection) -> Summary:
    """Return what an open file holds."""
    events, newest = db.execute("SELECT events, position FROM state").fetchone()
    (channels,) = db.execute("SELECT count(*) FROM channel WHERE count > 0").fetchone()
    return Summary(events, channels, StoreFile(path, Durability.FULL).bytes, newest)


def compact_file(path: Path) -> tuple[int, int]:
    """Write a file anew without its free pages; return its bytes before and after. Raises `StoreError`."""
    before = StoreFile(path, Durability.FULL).bytes
    with writing(path) as db:
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return before, StoreFile(path, Durability.FULL).bytes


def exported(db: sqlite3.Connection) -> Iterator[bytes]:
    """Yield each event of an open file as a line of JSON, in order."""
    terms = [
        Term(epoch, first, last, bool(suspect))
        for epoch, first, last, suspect in db.execute("SELECT epoch, first, last, suspect FROM term")
    ]
    pages = Pages(db, Terms(terms))
    for row in db.execute(f"SELECT {COLUMNS} FROM event ORDER BY position"):  # noqa: S608
        publication = pages.publication(row)
        event = publication.event
        stored = StoredEvent(
            list(publication.channels),
            event.data,
            publication.time,
            event.type,
            event.id,
            event.key,
            event.retry,
            event.json,
        )
        yield msgspec.json.encode(stored) + b"\n"


def import_lines(path: Path, lines: Iterable[bytes]) -> Iterator[int]:
    """Append exported events behind what a file holds, and yield how many that were, now and then.

    They get positions of their own. All of it, or nothing: raises `StoreError` for a line that is none.
    """
    with writing(path) as db:
        term, _ = begin_term(db, Durability.FULL)
        tables = Tables(db, epoch=term.epoch, window=0.0)
        done = 0
        tables.begin()
        for drafts, time in _runs(path, lines):
            limits = {channel: NO_LIMITS for draft in drafts for channel in draft.channels}
            tables.apply(Append(drafts, limits, time, ""))
            done += len(drafts)
            yield done
        tables.finish()
        db.execute("COMMIT")
        end_term(db)


def _runs(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[list[Draft], float]]:
    """Yield consecutive events of one time, a bounded number together."""
    drafts: list[Draft] = []
    time = 0.0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            stored = msgspec.json.decode(line, type=StoredEvent)
            draft = _draft(stored)
        except (msgspec.DecodeError, UnicodeDecodeError, EventError) as error:
            raise StoreError(f"{path}: nothing was imported: line {number}: {error}") from None
        if drafts and (stored.time != time or len(drafts) == LINES_PER_TRANSACTION):
            yield drafts, time
            drafts = []
        drafts.append(draft)
        time = stored.time
    if drafts:
        yield drafts, time


def _draft(stored: StoredEvent) -> Draft:
    event_type = DEFAULT_TYPE if stored.event == DEFAULT_TYPE else stored.event
    event = Event(stored.data, event_type, stored.id, stored.retry, stored.key, stored.json)
    return Draft(validate_channels(tuple(stored.channels)), event)
