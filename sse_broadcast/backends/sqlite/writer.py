"""The thread that has the connection which writes: it commits all that waits in one transaction."""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sse_broadcast.backends.directory import ChannelChange
from sse_broadcast.backends.sqlite.file import StoreFile
from sse_broadcast.backends.sqlite.operations import Answered, Append, CommitResult, StoreOperation
from sse_broadcast.backends.sqlite.tables import Tables
from sse_broadcast.backends.sqlite.terms import Term, begin_term, end_term
from sse_broadcast.errors import BackendUnavailableError, IdempotencyError, UncertainPublishError
from sse_broadcast.metrics import StoreMetrics

logger = logging.getLogger("sse_broadcast.store")

BYTES_PER_COMMIT = 1 << 20
"""Characters of data of one transaction, about; a larger batch is one by itself."""

EVENT_COST = 2048
"""Characters that an event counts for besides its data: 512 small ones are a transaction."""

WRITE_RETRY_SECONDS = 1.0
"""Seconds between two attempts to write again, after a failure."""

VACUUM_PAGES = 256
"""Free pages that are given back to the file system at once: 5 ms."""

COMMITS_PER_VACUUM = 16
"""Commits between two looks at the free pages."""

FREE_SHARE = 10
"""The part of the file, as a divisor, that may be free pages."""

IDLE_SECONDS = 0.5
"""Seconds without a commit after which free pages are given back, and a large log of changes is emptied."""

LARGE_LOG = 1 << 20
"""Bytes of the log of changes beyond which it is emptied when nothing is published."""


class OpenedStore(msgspec.Struct, frozen=True):
    """What a file held when it was opened. `position` is the marker of this term, or 0 in an empty file."""

    epoch: str
    position: int
    terms: Sequence[Term]
    channels: Sequence[ChannelChange]
    events: int
    bytes: int
    forgotten: int
    commits: int
    newest_time: float
    keys_expire: float | None


Item = StoreOperation | Answered | None


class StoreWriter:
    """Owns the writing thread. Calls from the event loop only put something into its queue.

    `on_commit` is called in the thread, with the operations and what has become of them, in order;
    `on_failure` with a reason while nothing can be written, and with None when that is over.
    """

    def __init__(
        self,
        file: StoreFile,
        *,
        window: float,
        on_commit: Callable[[Sequence[StoreOperation], CommitResult], None],
        on_failure: Callable[[str | None], None],
        metrics: StoreMetrics,
    ) -> None:
        self._file = file
        self._window = window
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._metrics = metrics
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._answers: list[Answered] = []
        self._failure: str | None = None
        self._unknown: tuple[Sequence[StoreOperation], CommitResult] | None = (
            None  # whether it was done is not known
        )
        self._thread: threading.Thread | None = None
        self._tidy = False
        self._closing = False

    def start(self, opened: Callable[[OpenedStore | BaseException], None]) -> None:
        """Open the file in the thread, and tell `opened` what it held, or why it cannot be used."""
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="sse-broadcast-store", daemon=True
        )
        self._thread.start()

    def put(self, item: StoreOperation | Answered) -> None:
        """Queue an operation. Never waits."""
        self._queue.put(item)

    def close(self) -> None:
        """Do what was put, close the file, and wait for the thread to end."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self, opened: Callable[[OpenedStore | BaseException], None]) -> None:
        try:
            self._db = self._file.open()
            try:
                found = self._open()
            except BaseException:
                self._db.close()
                self._file.release()
                raise
        except BaseException as error:  # noqa: BLE001 - it belongs to who started the thread
            opened(error)
            return
        opened(found)
        try:
            while (group := self._next_group()) is not None:
                if group:
                    self._write(group)
        finally:
            self._close()

    def _open(self) -> OpenedStore:
        term, terms = begin_term(self._db, self._file.durability)
        if not self._file.reserve():
            logger.warning(
                "%(path)s: there is no room for the reserve; a full disk will not recover by itself",
                {"path": self._file.reserve_path},
            )
        self._tables = tables = Tables(self._db, epoch=term.epoch, window=self._window)
        (newest,) = self._db.execute("SELECT time FROM state").fetchone()
        return OpenedStore(
            term.epoch,
            tables.position,
            terms,
            _channels(self._db),
            tables.events,
            tables.bytes,
            tables.forgotten,
            tables.commits,
            newest,
            tables.keys_expire,
        )

    def _next_group(self) -> list[StoreOperation] | None:
        """Return what waits, as much as one transaction may have; None at the end.

        It is empty if nothing has come for a while, or only what can wait for the next commit.
        """
        if self._closing:
            return None
        group: list[StoreOperation] = []
        room = BYTES_PER_COMMIT
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=self._patience())
            while item is not None:
                if isinstance(item, Answered):
                    self._answers.append(item)
                else:
                    group.append(item)
                    room -= _cost(item)
                if room <= 0:
                    return group
                item = self._queue.get_nowait()
            self._closing = True
        if not group and not self._closing:
            self._idle()
        return group

    def _patience(self) -> float | None:
        if self._failure is not None:
            return WRITE_RETRY_SECONDS
        return IDLE_SECONDS if self._tidy or self._answers else None

    def _write(self, group: Sequence[StoreOperation]) -> None:
        """Commit a group whole; or else have each of it told what is known."""
        if self._failure is not None:
            self._recover()
        if self._failure is not None:
            self._refuse(group, BackendUnavailableError(self._failure))
            return
        tables = self._tables
        commit: CommitResult | None = None
        began = time.perf_counter()
        try:
            tables.begin()
            results = [self._apply(operation) for operation in group]
            if self._answers:
                tables.answered(self._answers)
            changes = tables.finish()
            if not tables.changed:
                self._db.execute("ROLLBACK")
                self._on_commit(group, self._nothing_done(results))
                return
            commit = CommitResult(
                tables.commits,
                results,
                changes,
                tables.events,
                tables.bytes,
                tables.forgotten,
                tables.keys_expire,
            )
            prepared = time.perf_counter()
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._fail(group, error, commit)
            return
        ended = time.perf_counter()
        self._metrics.committed(ended - began, ended - prepared)
        self._answers.clear()
        self._tidy = True
        self._on_commit(group, commit)
        if not commit.number % COMMITS_PER_VACUUM:
            self._vacuum(FREE_SHARE)

    def _apply(self, operation: StoreOperation) -> object:
        try:
            return self._tables.apply(operation)
        except IdempotencyError as error:
            return error

    def _fail(self, group: Sequence[StoreOperation], error: Exception, commit: CommitResult | None) -> None:
        """Tell each of a group that it failed. `commit` is what was being committed when it did."""
        self._metrics.failed()
        reason = _reason(self._file.path, error)
        # A commit that failed for want of space is undone whole; of any other nobody knows.
        if commit is not None and getattr(error, "sqlite_errorname", "") != "SQLITE_FULL":
            self._unknown = (group, commit)
            self._refuse(group, UncertainPublishError(reason))
        else:
            self._refuse(group, BackendUnavailableError(reason))
        self._failure = reason
        self._on_failure(reason)
        logger.error("%(reason)s", {"reason": reason})
        self._recover()

    def _refuse(self, group: Sequence[StoreOperation], error: Exception) -> None:
        self._on_commit(group, self._nothing_done([error] * len(group)))

    def _nothing_done(self, results: Sequence[object]) -> CommitResult:
        tables = self._tables
        return CommitResult(0, results, (), tables.events, tables.bytes, tables.forgotten)

    def _recover(self) -> None:
        """Try to write again. Where the disk is full, the reserve makes room for SQLite to work in."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._file.free_reserve()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._tables.reload()
            self._settle_unknown()
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE state SET clean = 0")
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._failure = _reason(self._file.path, error)
            return
        if not self._file.reserve():
            self._failure = f"{self._file.path.name}: the disk is full"
            self._vacuum(1 << 30)
            return
        self._failure = None
        self._on_failure(None)
        logger.warning("%(path)s: can be written again", {"path": self._file.path})

    def _settle_unknown(self) -> None:
        """Announce what was committed after all: whoever published it was told that nobody knows."""
        if self._unknown is not None:
            group, commit = self._unknown
            self._unknown = None
            if self._tables.commits >= commit.number:
                self._on_commit(group, commit)

    def _idle(self) -> None:
        """Do what can wait until nothing is published."""
        if self._failure is not None:
            self._recover()
            return
        try:
            if self._answers:
                self._db.execute("BEGIN IMMEDIATE")
                self._tables.answered(self._answers)
                self._db.execute("COMMIT")
                self._answers.clear()
            self._tidy = self._vacuum(1 << 30)
            # Not each time: whoever publishes once a second would have the disk waited for twice as often.
            if not self._tidy and self._file.log_bytes > LARGE_LOG:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            logger.warning("%(reason)s", {"reason": _reason(self._file.path, error)})
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _vacuum(self, share: int) -> bool:
        """Return free pages to the file system, above a share of the file; return whether any are left."""
        try:
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            if free <= pages // share or not free:
                return False
            # A page is given back with each step, and `execute` makes one: only a script goes on to the end.
            self._db.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        except sqlite3.Error:
            return False
        return bool(free > VACUUM_PAGES)

    def _close(self) -> None:
        try:
            if self._failure is None:
                self._idle()
            end_term(self._db)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            logger.warning("%(reason)s", {"reason": _reason(self._file.path, error)})
        finally:
            self._db.close()
            self._file.release()


def _channels(db: sqlite3.Connection) -> list[ChannelChange]:
    """Return all channels, as if the last commit had changed them."""
    found = db.execute(
        "SELECT name, publisher, channel.count, bytes, newest, lost, coalesce(first, 0), coalesce(time, 0.0),"
        " event.id FROM channel"
        " LEFT JOIN (SELECT channel, min(position) AS first FROM place GROUP BY channel) AS oldest"
        " ON oldest.channel = channel.id LEFT JOIN event ON event.position = first ORDER BY newest"
    )
    return [
        ChannelChange(name, publisher, count, size, newest, lost, 0, first, moment, id)
        for name, publisher, count, size, newest, lost, first, moment, id in found
    ]


def _cost(operation: StoreOperation) -> int:
    """Return how much of a transaction an operation takes, in characters of data."""
    if not isinstance(operation, Append):
        return EVENT_COST
    return sum(EVENT_COST + len(draft.event.data) for draft in operation.drafts)


def _reason(path: Path, error: Exception) -> str:
    match getattr(error, "sqlite_errorname", ""):
        case "SQLITE_FULL":
            return f"{path.name}: the disk is full"
        case "SQLITE_CORRUPT" | "SQLITE_NOTADB":
            return f"{path.name}: is damaged"
    return f"{path.name}: cannot be written: {error}"
