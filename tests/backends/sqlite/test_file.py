"""The file: what is refused at the start, with its path and what to do, and what lies beside it."""

import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sse_broadcast.backends.sqlite import file as module
from sse_broadcast.backends.sqlite import schema
from sse_broadcast.backends.sqlite.file import RESERVE_BYTES, StoreFile, damage
from sse_broadcast.config.schema import Durability
from sse_broadcast.errors import StoreError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there."""
    return tmp_path / "history.db"


@pytest.fixture
def file(path: Path) -> Iterator[StoreFile]:
    """Name it, and let it go in the end."""
    found = StoreFile(path, Durability.FULL)
    yield found
    found.release()


def fill(path: Path) -> None:
    """Make a file with something in it, and close it."""
    file = StoreFile(path, Durability.FULL)
    db = file.open()
    db.executemany(
        "INSERT INTO event (position, time, size, holders, json, channels, data)"
        " VALUES (?, 0, 9, 1, 0, 'a', ?)",
        [(position, "x" * 500) for position in range(1, 500)],
    )
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    file.release()


def refusal(path: Path) -> str:
    """Return why a file is refused; it is left as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as error:
        StoreFile(path, Durability.FULL).open()
    assert (path.read_bytes() if path.is_file() else None) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_that_is_not_there_is_made(file: StoreFile, path: Path) -> None:
    """It is ours by its head, in the newest format, and no other user reads it."""
    db = file.open()
    asked = ("application_id", "user_version", "journal_mode", "auto_vacuum", "synchronous")
    assert [db.execute(f"PRAGMA {name}").fetchone()[0] for name in asked] == [
        schema.APPLICATION_ID,
        schema.FORMAT,
        "wal",
        2,
        2,
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    db.close()


def test_an_empty_file_is_as_good_as_none(file: StoreFile, path: Path) -> None:
    """`touch`, or a container's mount, may have made it."""
    path.touch()
    file.open().close()


@pytest.mark.parametrize("durability", [(Durability.FULL, 2), (Durability.NORMAL, 1)])
def test_durability_is_what_sqlite_waits_for(path: Path, durability: tuple[Durability, int]) -> None:
    """For the disk at each commit, or at each checkpoint."""
    file = StoreFile(path, durability[0])
    db = file.open()
    assert db.execute("PRAGMA synchronous").fetchone() == (durability[1],)
    db.close()
    file.release()


def test_what_is_no_sqlite_file_is_refused(path: Path) -> None:
    """Nothing of it is changed."""
    path.write_text("notes\n")
    assert refusal(path) == (
        f"{path}: is no SQLite file, or its head is damaged; restore a backup, or move it away to begin anew"
    )


def test_another_programs_file_is_refused(path: Path) -> None:
    """Its tables are not ours to add to."""
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    db.close()
    assert refusal(path) == f"{path}: is another program's SQLite file; name another file"


def test_a_newer_format_is_refused(path: Path) -> None:
    """What it means is not known here: a downgrade goes by a backup."""
    fill(path)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {schema.FORMAT + 1}")
    db.close()
    assert f"{path}: has format {schema.FORMAT + 1}, of a newer version" in refusal(path)


def test_a_damaged_file_is_refused(path: Path) -> None:
    """It is checked whole when it is opened."""
    fill(path)
    with path.open("r+b") as file:
        file.seek(4096 * 30)
        file.write(os.urandom(4096 * 4))
    assert re.fullmatch(
        rf"{path}: is damaged \(.+\); restore a backup, or move it away to begin anew", refusal(path)
    )


def test_a_large_file_is_not_checked_whole(
    file: StoreFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take minutes: a command does that."""
    fill(path)
    monkeypatch.setattr(module, "MAX_CHECKED", 1000)
    monkeypatch.setattr(module, "damage", lambda _: "checked")
    file.open().close()


def test_damage_is_named(file: StoreFile, path: Path) -> None:
    """None of a good file."""
    fill(path)
    db = file.open()
    assert damage(db) is None
    db.close()


def test_a_second_process_is_refused_by_name(file: StoreFile, path: Path) -> None:
    """SQLite itself would let it in, and both would give the same positions."""
    file.open().close()
    code = (
        "import sys; from pathlib import Path\n"
        "from sse_broadcast.backends.sqlite.file import StoreFile\n"
        "from sse_broadcast.config.schema import Durability\n"
        "from sse_broadcast.errors import StoreError\n"
        "try: StoreFile(Path(sys.argv[1]), Durability.FULL).open()\n"
        "except StoreError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout == (
        f"{path}: is in use by process {os.getpid()}; one process has it at a time: stop that one, or name"
        " another file\n"
    ), ran.stderr
    file.release()
    ran = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout == ""


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is not made: a mount may be missing."""
    path = tmp_path / "none" / "history.db"
    assert refusal(path) == (
        f"{path}: there is no folder {path.parent}; make it, for the user that runs the server"
    )


def test_a_folder_is_no_file(path: Path) -> None:
    """Whoever names the volume itself is told so."""
    path.mkdir()
    assert refusal(path) == f"{path}: is a folder; name a file in it"


def test_a_folder_that_may_not_be_written_is_one_clear_line() -> None:
    """Who tried, and whose it is. Not even root writes there."""
    path = Path("/sys/history.db")
    assert re.fullmatch(
        rf"{path}: cannot be written by user {os.geteuid()}: .+; /sys belongs to user 0, mode 555",
        refusal(path),
    )


def test_an_older_format_is_migrated_behind_a_copy(
    file: StoreFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is what it was, and the next start finds nothing to do."""
    fill(path)
    monkeypatch.setattr(module, "FORMAT", schema.FORMAT + 1)
    monkeypatch.setattr(
        module, "MIGRATIONS", {schema.FORMAT: lambda db: db.execute("CREATE TABLE more (a INTEGER) STRICT")}
    )
    db = file.open()
    assert db.execute("PRAGMA user_version").fetchone() == (schema.FORMAT + 1,)
    assert db.execute("SELECT count(*) FROM more").fetchone() == (0,)
    db.close()
    file.release()
    copy = path.with_name(f"history.db.v{schema.FORMAT}")
    before = sqlite3.connect(copy)
    assert before.execute("PRAGMA user_version").fetchone() == (schema.FORMAT,)
    assert before.execute("SELECT count(*) FROM event").fetchone() == (499,)
    before.close()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    file.open().close()


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old version can go on with the file."""
    fill(path)

    def fail(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE more (a INTEGER) STRICT")
        db.execute("SELECT nothing")

    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", schema.FORMAT + 1)
        patch.setattr(module, "MIGRATIONS", {schema.FORMAT: fail})
        with pytest.raises(StoreError, match="cannot be used"):
            StoreFile(path, Durability.FULL).open()
    file = StoreFile(path, Durability.FULL)
    db = file.open()
    assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'more'").fetchone() == (0,)
    db.close()
    file.release()


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What our tables need is named."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    assert refusal(path).startswith("backend: needs SQLite 3.37.0 or newer, and Python has ")


def test_the_reserve_takes_its_space_and_gives_it_back(file: StoreFile, path: Path) -> None:
    """It is really there: a file with a hole would keep nothing."""
    file.open().close()
    assert file.reserve()
    assert file.reserve_path.stat().st_blocks * 512 >= RESERVE_BYTES
    assert file.reserve()
    file.free_reserve()
    file.free_reserve()
    assert not file.reserve_path.exists()


def test_what_it_takes_on_disk_is_counted(file: StoreFile, path: Path) -> None:
    """With SQLite's log of changes."""
    db = file.open()
    wal = path.with_name("history.db-wal")
    assert file.bytes == path.stat().st_size + wal.stat().st_size > 0
    db.close()


def test_a_reader_reads_alone(file: StoreFile) -> None:
    """Nothing is written through it, nor moved from the log of changes."""
    db = file.open()
    reader = file.open_reader()
    assert reader.execute("SELECT count(*) FROM event").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM event")
    assert reader.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    reader.close()
    db.close()
