"""The file: who may have it, what it is, and the space that is kept for a disk that is full."""

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
from pathlib import Path

from sse_broadcast.backends.sqlite.schema import (
    APPLICATION_ID,
    AUTOCHECKPOINT,
    BUSY_MILLISECONDS,
    FORMAT,
    MIGRATIONS,
    MIN_SQLITE,
    create_tables,
)
from sse_broadcast.config.schema import Durability
from sse_broadcast.errors import StoreError

logger = logging.getLogger("sse_broadcast.store")

MAX_CHECKED = 1 << 30
"""Bytes of a file that is checked whole when it is opened: some 2 s. `store check` checks a larger one."""

RESERVE_BYTES = 8 << 20
"""Bytes that are kept for a disk that is full: more than the log of changes has.

On a full disk SQLite can neither delete nor checkpoint. Without these bytes nothing that is too old could go.
"""

MODE = 0o600
"""Events may be anyone's: only the server's own user reads them."""

SQLITE_HEADER = b"SQLite format 3\x00"

CURE = "restore a backup, or move it away to begin anew"


class StoreFile:
    """One file and what lies beside it: a lock, the reserve, and what SQLite itself keeps there."""

    def __init__(self, path: Path, durability: Durability) -> None:
        self.path = path
        self.durability = durability
        self._lock = -1

    @property
    def reserve_path(self) -> Path:
        """Where the reserve is."""
        return self.path.with_name(f"{self.path.name}.reserve")

    @property
    def bytes(self) -> int:
        """The bytes on disk, with SQLite's log of changes."""
        return _size(self.path) + self.log_bytes

    @property
    def log_bytes(self) -> int:
        """The bytes of SQLite's log of changes."""
        return _size(self.path.with_name(f"{self.path.name}-wal"))

    @property
    def is_in_use(self) -> bool:
        """Whether another process has the file."""
        with contextlib.suppress(OSError), self.path.with_name(f"{self.path.name}.lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def require_writable(self) -> None:
        """Raise `StoreError` if the file can neither be written nor made. Changes nothing."""
        _require_folder(self.path)
        may = os.access(self.path.parent, os.W_OK | os.X_OK)
        if not may or (self.path.exists() and not os.access(self.path, os.W_OK)):
            raise _unwritable(self.path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def open(self, *, check: bool = True) -> sqlite3.Connection:
        """Take the file for this process alone, and return the connection that writes.

        It is made if it is not there. Raises `StoreError` for what cannot be used: nothing is changed then.
        """
        if sqlite3.sqlite_version_info < MIN_SQLITE:
            have, need = sqlite3.sqlite_version, ".".join(map(str, MIN_SQLITE))
            raise StoreError(f"backend: needs SQLite {need} or newer, and Python has {have}")
        _require_folder(self.path)
        self._take_lock()
        try:
            return self._open(check=check)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let another process have the file."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def open_reader(self) -> sqlite3.Connection:
        """Return a connection that only reads, for a thread of its own. The file is open already."""
        db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        db.execute("PRAGMA query_only = 1")
        db.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        return db

    def reserve(self) -> bool:
        """Keep the space of the reserve; return whether there is any to keep."""
        path = self.reserve_path
        if _size(path) >= RESERVE_BYTES:
            return True
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, MODE)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            self.free_reserve()
            return False
        return True

    def free_reserve(self) -> None:
        """Delete the reserve, so that SQLite has space to work in."""
        with contextlib.suppress(OSError):
            self.reserve_path.unlink()

    def _take_lock(self) -> None:
        # SQLite itself lets a second process write without a word, and each would give the same positions.
        path = self.path.with_name(f"{self.path.name}.lock")
        try:
            self._lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            self.release()
            by = f" by process {holder}" if holder.isdigit() else ""
            raise StoreError(
                f"{self.path}: is in use{by}; one process has it at a time: stop that one, or name"
                " another file"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _open(self, *, check: bool) -> sqlite3.Connection:
        self.require_ours(must_exist=False)
        try:
            if not _size(self.path):
                self._create()
            db = sqlite3.connect(self.path, isolation_level=None, cached_statements=512)
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(self.path, error) from None
        try:
            db.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
            self._require_format(db, check=check)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self.durability.upper()}")
            db.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT}")
            # Find out now, and not with the first publish, whether the file may be written.
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE state SET only = 1")
            db.execute("ROLLBACK")
        except sqlite3.Error as error:
            db.close()
            raise store_error(self.path, error) from None
        except BaseException:
            db.close()
            raise
        return db

    def _create(self) -> None:
        """Make the file, under another name until it is whole: a crash leaves none, and not half of one."""
        path = self.path.with_name(f"{self.path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, MODE))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            create_tables(db)
        path.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def require_ours(self, *, must_exist: bool = True) -> None:
        """Raise for a file that is none of SQLite's, or another program's, before SQLite touches it."""
        try:
            with self.path.open("rb") as file:
                head = file.read(100)
        except FileNotFoundError:
            if must_exist:
                raise StoreError(f"{self.path}: there is no such file") from None
            return
        except OSError as error:
            raise _unwritable(self.path, error) from None
        if not head and not must_exist:
            return
        if not head.startswith(SQLITE_HEADER):
            raise StoreError(f"{self.path}: is no SQLite file, or its head is damaged; {CURE}")
        if int.from_bytes(head[68:72], "big") != APPLICATION_ID:
            raise StoreError(f"{self.path}: is another program's SQLite file; name another file")

    def require_known_format(self, db: sqlite3.Connection) -> int:
        """Return the format of an open file. Raises `StoreError` if it is newer than ours."""
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise StoreError(
                f"{self.path}: has format {found}, of a newer version; this one writes format {FORMAT}:"
                " run the newer version, or restore a backup from before it"
            )
        return int(found)

    def _require_format(self, db: sqlite3.Connection, *, check: bool) -> None:
        found = self.require_known_format(db)
        if check and _size(self.path) <= MAX_CHECKED and (fault := damage(db)) is not None:
            raise StoreError(f"{self.path}: is damaged ({fault}); {CURE}")
        if found < FORMAT:
            self._migrate(db, found)

    def _migrate(self, db: sqlite3.Connection, found: int) -> None:
        """Bring an older file to this format, in one transaction, behind a copy of what it was."""
        copy = self.path.with_name(f"{self.path.name}.v{found}")
        if any(number not in MIGRATIONS for number in range(found, FORMAT)):
            raise StoreError(f"{self.path}: has format {found}, which this version cannot read; {CURE}")
        if copy.exists():
            raise StoreError(f"{copy}: is in the way of a copy from before a migration; move it away")
        db.execute("VACUUM INTO ?", (os.fspath(copy),))
        copy.chmod(MODE)
        db.execute("BEGIN IMMEDIATE")
        for number in range(found, FORMAT):
            MIGRATIONS[number](db)
        db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")
        logger.warning(
            "%(path)s: brought from format %(old)d to %(new)d; %(copy)s is what it was",
            {"path": self.path, "old": found, "new": FORMAT, "copy": copy},
        )


def damage(db: sqlite3.Connection) -> str | None:
    """Return the first thing that is wrong with a file, or None."""
    try:
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else str(found).splitlines()[-1]


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Return what an error of SQLite's means to an operator, and what to do."""
    match getattr(error, "sqlite_errorname", ""):
        case "SQLITE_CORRUPT" | "SQLITE_NOTADB":
            return StoreError(f"{path}: is damaged ({error}); {CURE}")
        case "SQLITE_FULL":
            return StoreError(f"{path}: the disk is full; free some space")
        case name if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return _unwritable(path, error)
        case name if name.startswith("SQLITE_BUSY"):
            return StoreError(f"{path}: another program holds a lock on it; end that one")
    return StoreError(f"{path}: cannot be used: {error}")


def _unwritable(path: Path, error: Exception) -> StoreError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        reason = "the file system is read-only"
    owner = _owner_of(path if path.exists() else path.parent)
    return StoreError(f"{path}: cannot be written by user {os.geteuid()}: {reason}{owner}")


def _owner_of(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    what = "it" if path.is_file() else str(path)
    return f"; {what} belongs to user {status.st_uid}, mode {status.st_mode & 0o777:03o}"


def _require_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(f"{path}: there is no folder {folder}; make it, for the user that runs the server")
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; name a file in it")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
