"""The tables as a transaction leaves them."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.backends.sqlite import tables as module
from sse_broadcast.backends.sqlite.operations import (
    Append,
    Appended,
    Clear,
    Expire,
    Forget,
    Remove,
    StoreOperation,
    Trim,
)
from sse_broadcast.backends.sqlite.schema import create_tables
from sse_broadcast.backends.sqlite.tables import Tables
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.errors import IdempotencyError
from tests.backends.contract import draft

LIMITS = HistoryLimits(1000, 1 << 30, 3600.0)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open an empty file."""
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    create_tables(connection)
    yield connection
    connection.close()


@pytest.fixture
def tables(db: sqlite3.Connection) -> Tables:
    """Return its tables, in one term."""
    return Tables(db, epoch="0123abcd", window=60.0)


def append(
    channels: str,
    *data: str,
    limits: HistoryLimits = LIMITS,
    now: float = 0.0,
    publisher: str = "",
    **fields: Any,
) -> Append:
    key = fields.pop("idempotency", None)
    drafts = [draft(channels, each, **fields) for each in data or ("x",)]
    return Append(drafts, dict.fromkeys(channels.split(), limits), now, publisher, key)


def commit(db: sqlite3.Connection, tables: Tables, *operations: StoreOperation) -> list[object]:
    tables.begin()
    results = [tables.apply(each) for each in operations]
    tables.finish()
    db.execute("COMMIT")
    require_sound(db, tables)
    return results


def require_sound(db: sqlite3.Connection, tables: Tables) -> None:
    """Check every number that is kept against what it counts."""
    for id, count, size, newest in db.execute("SELECT id, count, bytes, newest FROM channel").fetchall():
        found = db.execute(
            "SELECT count(*), coalesce(sum(size), 0), coalesce(max(position), 0)"
            " FROM place JOIN event USING (position) WHERE channel = ?",
            (id,),
        ).fetchone()
        assert (count, size) == found[:2]
        assert newest >= found[2]
    assert db.execute("SELECT count(*), coalesce(sum(size), 0) FROM event").fetchone() == (
        tables.events,
        tables.bytes,
    )
    holders = db.execute(
        "SELECT position FROM event WHERE holders !="
        " (SELECT count(*) FROM place WHERE place.position = event.position) OR holders = 0"
    ).fetchall()
    assert holders == []
    assert db.execute("SELECT position, events, bytes FROM state").fetchone() == (
        tables.position,
        tables.events,
        tables.bytes,
    )


def held(db: sqlite3.Connection, channel: str) -> list[int]:
    rows = db.execute(
        "SELECT position FROM place JOIN channel ON channel.id = channel WHERE name = ? ORDER BY position",
        (channel,),
    )
    return [position for (position,) in rows]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 63, 64, 65, 150])
def test_as_many_rows_as_there_are_are_written(db: sqlite3.Connection, tables: Tables, count: int) -> None:
    """Some at once, in as few statements as that takes."""
    commit(db, tables, append("a b", *map(str, range(count))))
    assert held(db, "a") == held(db, "b") == list(range(1, count + 1))
    assert [row[0] for row in db.execute("SELECT data FROM event")] == list(map(str, range(count)))


def test_an_event_goes_with_the_last_channel_that_holds_it(db: sqlite3.Connection, tables: Tables) -> None:
    """Evicted from one it stays in another."""
    small = HistoryLimits(1, 1 << 30, 3600.0)
    commit(db, tables, append("a b"), append("a", limits=small), append("a", limits=small))
    assert (held(db, "a"), held(db, "b"), tables.events) == ([3], [1], 2)
    commit(db, tables, append("b", limits=small))
    assert (held(db, "b"), tables.events) == ([4], 2)


def test_more_is_evicted_than_is_read_at_once(
    db: sqlite3.Connection, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of a channel are read a few at a time."""
    monkeypatch.setattr(module, "HEAD", 4)
    commit(db, tables, append("a", *map(str, range(30))))
    commit(db, tables, append("a", limits=HistoryLimits(3, 1 << 30, 3600.0)))
    assert held(db, "a") == [29, 30, 31]


def test_a_rollback_leaves_nothing_behind(db: sqlite3.Connection, tables: Tables) -> None:
    """Positions, counts and rows are those of the last commit."""
    commit(db, tables, append("a"))
    tables.begin()
    tables.apply(append("a b", "1", "2"))
    tables.finish()
    db.execute("ROLLBACK")
    tables.reload()
    require_sound(db, tables)
    (appended,) = commit(db, tables, append("b"))
    assert isinstance(appended, Appended)
    assert (appended.position, held(db, "a"), held(db, "b")) == (2, [1], [2])


def test_what_changes_nothing_is_no_commit(db: sqlite3.Connection, tables: Tables) -> None:
    """An answer that is given again, or a look at what is too old: the disk is not waited for."""
    key = IdempotencyKey(("k",), b"d")
    commit(db, tables, append("a", idempotency=key))
    for operation in (
        append("a", idempotency=key),
        Trim("a", LIMITS, 1.0),
        Trim("none", LIMITS, 1.0),
        Remove(9),
    ):
        tables.begin()
        tables.apply(operation)
        assert tables.finish() == ()
        assert not tables.changed
        db.execute("ROLLBACK")


def test_a_key_of_something_else_changes_nothing(db: sqlite3.Connection, tables: Tables) -> None:
    """What else is in its transaction is committed."""
    commit(db, tables, append("a", idempotency=IdempotencyKey(("k",), b"d")))
    tables.begin()
    with pytest.raises(IdempotencyError):
        tables.apply(append("a", idempotency=IdempotencyKey(("k",), b"other")))
    tables.apply(append("a"))
    tables.finish()
    db.execute("COMMIT")
    require_sound(db, tables)
    assert held(db, "a") == [1, 2]


def test_keys_are_bounded_and_each_publisher_keeps_its_own(
    db: sqlite3.Connection, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest goes of whoever has most."""
    monkeypatch.setattr(module, "MAX_STORED_KEYS", 4)
    keys = [IdempotencyKey((str(number),), b"d") for number in range(6)]
    commit(db, tables, append("a", publisher="quiet", idempotency=keys[0]))
    for key in keys[1:]:
        commit(db, tables, append("a", publisher="noisy", idempotency=key))
    found = db.execute("SELECT publisher, count(*) FROM answer GROUP BY 1").fetchall()
    assert found == [("noisy", 3), ("quiet", 1)]
    assert tables.keys_expire == 60.0
    commit(db, tables, Expire(61.0))
    assert db.execute("SELECT count(*) FROM answer").fetchone() == (0,)
    assert Tables(db, epoch="0123abcd", window=60.0).keys_expire is None


def test_a_trim_is_bounded(db: sqlite3.Connection, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left goes with the next."""
    monkeypatch.setattr(module, "MAX_EVICTED", 5)
    commit(db, tables, append("a", *map(str, range(12))))
    for left in (7, 2, 0):
        commit(db, tables, Trim("a", LIMITS, 3600.0))
        assert len(held(db, "a")) == left


def test_a_trim_frees_so_many_bytes(db: sqlite3.Connection, tables: Tables) -> None:
    """Of the oldest, where all channels together hold too much."""
    commit(db, tables, append("a", *["x" * 1000] * 10))
    commit(db, tables, Trim("a", LIMITS, 0.0, 2500))
    assert held(db, "a") == list(range(4, 11))


def test_a_forgotten_channel_leaves_the_common_watermark(db: sqlite3.Connection, tables: Tables) -> None:
    """In the same transaction it may begin anew, as one that has lost something."""
    commit(db, tables, append("a", "1", "2"))
    tables.begin()
    tables.apply(Forget("a"))
    tables.apply(append("a", "3"))
    changes = tables.finish()
    db.execute("COMMIT")
    require_sound(db, tables)
    assert [(each.channel, each.forgotten, each.count, each.lost) for each in changes] == [
        ("a", True, 0, 2),
        ("a", False, 1, 2),
    ]
    assert tables.forgotten == 2


@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_that_are_kept_are_true(
    db: sqlite3.Connection, tables: Tables, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is done, in whatever order."""
    monkeypatch.setattr(module, "HEAD", 3)
    monkeypatch.setattr(module, "CACHED_CHANNELS", 2)
    chance = random.Random(seed)
    now = 0.0
    for _ in range(40):
        now += chance.choice([0.0, 1.0, 5.0])
        group: list[StoreOperation] = []
        for _ in range(chance.randint(1, 4)):
            name = chance.choice("abc")
            limits = HistoryLimits(chance.choice([0, 2, 5]), chance.choice([200, 1 << 20]), 10.0)
            several = " ".join(chance.sample("abc", chance.randint(1, 3)))
            data = ["x" * chance.randint(0, 99)] * chance.randint(1, 4)
            choices: list[StoreOperation] = [
                append(several, *data, limits=limits, now=now),
                append(name, limits=limits, now=now, id=chance.choice(["one", "two", None])),
                Trim(name, limits, now, chance.choice([0, 300])),
                Forget(name),
                Remove(chance.randint(1, max(1, tables.position))),
                Clear(name),
            ]
            group.append(chance.choice(choices))
        if chance.random() < 0.2:
            tables.begin()
            for each in group:
                tables.apply(each)
            tables.finish()
            db.execute("ROLLBACK")
            tables.reload()
        else:
            commit(db, tables, *group)


def test_nothing_is_scanned_to_publish_or_to_evict(db: sqlite3.Connection, tables: Tables) -> None:
    """Each statement goes by an index, however many rows there are."""
    said: list[str] = []
    db.set_trace_callback(said.append)
    small = HistoryLimits(1, 1 << 30, 3600.0)
    key = IdempotencyKey(("k",), b"d")
    for now in (0.0, 4000.0):
        commit_quietly(db, tables, append("a b", "1", "2", limits=small, id="one", now=now, idempotency=key))
    commit_quietly(db, tables, append("a"), Remove(5), Clear("a"), Trim("b", small, 9000.0), Forget("a"))
    db.set_trace_callback(None)
    allowed = ("SCAN state", "SCAN retired USING COVERING INDEX", "SCAN 1 CONSTANT", "SCAN excluded")
    for statement in {each for each in said if each.startswith(("SELECT", "DELETE", "UPDATE", "INSERT"))}:
        for row in db.execute(f"EXPLAIN QUERY PLAN {statement}"):
            assert not row[3].startswith("SCAN") or "CONSTANT" in row[3] or row[3].startswith(allowed), (
                statement,
                row[3],
            )


def commit_quietly(db: sqlite3.Connection, tables: Tables, *operations: StoreOperation) -> None:
    tables.begin()
    for each in operations:
        tables.apply(each)
    tables.finish()
    db.execute("COMMIT")
