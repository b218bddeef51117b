"""The format of the file."""

import sqlite3
from pathlib import Path

from sse_broadcast.backends.sqlite.schema import (
    APPLICATION_ID,
    FORMAT,
    MIGRATIONS,
    create_tables,
    placeholders,
)

EVENT = [
    "position",
    "time",
    "size",
    "holders",
    "type",
    "id",
    "key",
    "retry",
    "json",
    "private",
    "final",
    "ttl",
    "channels",
    "data",
]

CHANNEL = ["started", "finished", "finished_at", "lifetime", "last_words"]


def test_the_first_format_has_room_for_what_comes_next(tmp_path: Path) -> None:
    """Private and final events, times to live, and channels that end: no migration follows at once."""
    db = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    create_tables(db)
    assert [row[1] for row in db.execute("PRAGMA table_info(event)")] == EVENT
    assert [row[1] for row in db.execute("PRAGMA table_info(channel)")][-5:] == CHANNEL
    tables = db.execute(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'"
    )
    assert {strict for _, strict in tables} == {1}
    db.close()


def test_a_file_says_whose_it_is_in_its_head(tmp_path: Path) -> None:
    """Before anything was moved there from the log of changes."""
    path = tmp_path / "a.db"
    db = sqlite3.connect(path, isolation_level=None)
    create_tables(db)
    head = path.read_bytes()[:100]
    assert int.from_bytes(head[68:72], "big") == APPLICATION_ID
    assert int.from_bytes(head[60:64], "big") == FORMAT
    db.close()


def test_every_older_format_can_be_migrated() -> None:
    """One step each."""
    assert set(MIGRATIONS) == set(range(1, FORMAT))


def test_placeholders_are_rows_of_columns() -> None:
    """As a statement has them."""
    assert placeholders(2, 3) == "(?,?,?),(?,?,?)"
