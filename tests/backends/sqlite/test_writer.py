"""The writing thread when the disk fails: what publishers are told, and how it recovers."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.backends.directory import Directory
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.sqlite import writer as module
from sse_broadcast.backends.sqlite.file import RESERVE_BYTES, StoreFile
from sse_broadcast.backends.sqlite.store import SqliteStore
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config, Durability
from sse_broadcast.errors import BackendUnavailableError, StoreError, UncertainPublishError
from sse_broadcast.metrics import StoreMetrics
from tests.backends.contract import Case, Pages, draft


class FaultyConnection:
    """A connection that passes everything on, but for what it was told to fail."""

    def __init__(self, db: sqlite3.Connection, disk: "Disk") -> None:
        self._db = db
        self._disk = disk

    def execute(self, statement: str, *values: Any) -> Any:
        fault = self._disk.faults.get(statement.split(maxsplit=1)[0])
        if fault is not None:
            return fault(lambda: self._db.execute(statement, *values))
        return self._db.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class Disk(StoreFile):
    """A file on a disk that has so many pages, and no room for its reserve until there is `room` again."""

    def __init__(self, path: Path, durability: Durability = Durability.FULL) -> None:
        super().__init__(path, durability)
        self.room = True
        self.faults: dict[str, Callable[[Callable[[], Any]], Any]] = {}
        self.db: sqlite3.Connection

    def open(self, *, check: bool = True) -> Any:
        self.db = super().open(check=check)
        return FaultyConnection(self.db, self)

    def limit(self, pages: int) -> None:
        """Have no more than so many pages beside those that there are."""
        self.room = False

        def full(go_on: Callable[[], Any]) -> Any:
            self.faults.clear()
            (count,) = self.db.execute("PRAGMA page_count").fetchone()
            self.db.execute(f"PRAGMA max_page_count = {count + pages}")
            return go_on()

        self.faults["BEGIN"] = full

    def reserve(self) -> bool:
        if self.room and self.reserve_path.parent.exists():
            if hasattr(self, "db"):
                self.db.execute("PRAGMA max_page_count = 1073741823")
            return super().reserve()
        return False


class Scene:
    """A backend on such a disk."""

    def __init__(self, path: Path) -> None:
        self.disk = Disk(path)
        config = Config()
        policies = ChannelPolicies(config)
        self.case = Case(policies)
        self.metrics = StoreMetrics()

        def limits(channel: str) -> Any:
            return policies.for_channel(channel).limits

        self.store = SqliteStore(
            self.disk,
            Directory(limits, total=1 << 30, max_channels=1000),
            policies,
            window=300.0,
            metrics=self.metrics,
            clock=self.case.clock,
        )
        memory = MemoryBackend(
            History(limits, total=1 << 30, max_channels=1000),
            self.case.deliver,
            window=300.0,
            clock=self.case.clock,
        )
        self.case.backend = TieredBackend(self.store, memory)

    async def until_well(self) -> None:
        """Wait until it can be written again."""
        async with asyncio.timeout(20):
            while self.store.outage is not None:
                await asyncio.sleep(0.01)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """Open a file on a disk that may fail."""
    monkeypatch.setattr(module, "WRITE_RETRY_SECONDS", 0.02)
    found = Scene(tmp_path / "history.db")
    await found.case.backend.start()
    yield found
    found.disk.faults.clear()
    found.disk.room = True
    await found.case.backend.aclose()


async def test_a_full_disk_refuses_whole_and_recovers_by_itself(scene: Scene) -> None:
    """Nothing is published, memory serves on, and once there is room so does publishing."""
    case = scene.case
    first = await case.publish("a")
    scene.disk.limit(2)
    with pytest.raises(BackendUnavailableError, match=r"^history\.db: the disk is full$"):
        await case.publish("a", "x" * 100_000)
    assert scene.store.outage == "history.db: the disk is full"
    assert not scene.disk.reserve_path.exists()
    with pytest.raises(BackendUnavailableError):
        await case.publish("a")
    assert (await case.since(case.place(0), "a")) == Pages([1])
    scene.disk.room = True
    await scene.until_well()
    assert scene.disk.reserve_path.exists()
    again = await case.publish("a", "x" * 100_000)
    assert (await case.since(first.id, "a")).positions == [2]
    assert again.id == case.place(2)
    assert scene.metrics.failures == 1


async def test_a_batch_that_does_not_fit_is_nowhere(scene: Scene) -> None:
    """Neither in the file nor announced; who waited beside it is told the same."""
    case = scene.case
    await case.publish("a")
    scene.disk.limit(2)
    tasks = [case.backend.publish([draft("a"), draft("a", "x" * 100_000)]), case.publish("a")]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [BackendUnavailableError] * 2
    scene.disk.room = True
    await scene.until_well()
    await case.publish("a")
    assert [one.position for one in case.published] == [1, 2]


async def test_a_commit_that_failed_and_was_done_is_announced(scene: Scene) -> None:
    """Its publisher was told that nobody knows; subscribers get it all the same, and once."""
    case = scene.case
    await case.publish("a", "first")

    def commit_and_fail(go_on: Callable[[], Any]) -> Any:
        scene.disk.faults.clear()
        go_on()
        raise sqlite3.OperationalError("disk I/O error")

    scene.disk.faults["COMMIT"] = commit_and_fail
    with pytest.raises(
        UncertainPublishError, match=r"it may have been published: send it again with an Idem"
    ):
        await case.publish("a", "second")
    await scene.until_well()
    await case.publish("a", "third")
    assert [one.event.data for one in case.published] == ["first", "second", "third"]
    assert (await case.since(case.place(0), "a")) == Pages([1, 2, 3])


async def test_a_commit_that_failed_and_was_not_done_is_nowhere(scene: Scene) -> None:
    """Its position is given to the next: nobody has seen it."""
    case = scene.case

    def fail(go_on: Callable[[], Any]) -> Any:
        scene.disk.faults.clear()
        raise sqlite3.OperationalError("disk I/O error")

    scene.disk.faults["COMMIT"] = fail
    with pytest.raises(UncertainPublishError):
        await case.publish("a", "first")
    await scene.until_well()
    await case.publish("a", "second")
    assert [(one.position, one.event.data) for one in case.published] == [(1, "second")]


async def test_a_file_that_is_damaged_while_it_runs_is_told(scene: Scene) -> None:
    """Publishes are refused and it is not ready, while memory goes on serving."""
    case = scene.case
    await case.publish("a")

    def damaged(go_on: Callable[[], Any]) -> Any:
        raise corrupt()

    scene.disk.faults["INSERT"] = scene.disk.faults["PRAGMA"] = damaged
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match=r"^history\.db: "):
            await case.publish("a")
    assert scene.store.outage is not None
    assert (await case.since(case.place(0), "a")) == Pages([1])
    scene.disk.faults.clear()
    await scene.until_well()
    assert (await case.publish("a")).id == case.place(2)


def corrupt() -> sqlite3.DatabaseError:
    """Return the error that SQLite raises for a file that is damaged."""
    db = sqlite3.connect(":memory:")
    try:
        db.deserialize(b"SQLite format 3\0" + bytes(84) + os.urandom(4096 * 2 - 100))
        db.execute("SELECT * FROM sqlite_schema")
    except sqlite3.DatabaseError as error:
        return error
    finally:
        db.close()
    raise AssertionError


async def test_a_file_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    """With what the file says; nothing is left behind that would have to be closed."""
    scene = Scene(tmp_path / "none" / "history.db")
    with pytest.raises(StoreError, match="there is no folder"):
        await scene.case.backend.start()
    await scene.case.backend.aclose()


async def test_what_waits_is_committed_together(scene: Scene) -> None:
    """However many publish at one time, without a timer."""
    case = scene.case
    await case.publish("a")
    before = scene.metrics.commit_seconds.count
    await asyncio.gather(*(case.publish("a", str(number)) for number in range(200)))
    assert scene.metrics.commit_seconds.count - before < 20
    assert [one.event.data for one in case.published[1:]] == [str(number) for number in range(200)]


async def test_too_many_publishes_that_wait_are_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs does not fill the memory."""
    monkeypatch.setattr("sse_broadcast.backends.sqlite.store.MAX_WAITING", 5)
    answers = await asyncio.gather(*(scene.case.publish("a") for _ in range(8)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BackendUnavailableError)]
    assert [str(error) for error in refused] == ["too many publishes wait for the disk"] * 3
    assert len(scene.case.published) == 5


async def test_space_comes_back(scene: Scene) -> None:
    """What was evicted leaves free pages, which are given back to the file system by and by."""
    case = scene.case
    for _ in range(20):
        await case.backend.publish([draft("a", "x" * 10_000) for _ in range(20)])
    await case.backend.clear("a")
    path = scene.disk.path
    async with asyncio.timeout(20):
        while scene.disk.bytes > 500_000:
            await asyncio.sleep(0.05)
    assert path.stat().st_size < 500_000
    assert (await case.since(case.place(0), "a")).positions == []


async def test_the_log_of_changes_stays_small(scene: Scene) -> None:
    """The thread that writes moves it to the file, while old pages are read."""
    case = scene.case
    wal = scene.disk.path.with_name("history.db-wal")
    largest = 0
    for number in range(150):
        await case.backend.publish([draft("a", "x" * 2000) for _ in range(20)])
        if not number % 10:
            await scene.store.page(Selector.parse("a"), after=0, evictions_seen=1 << 60, limit=1 << 20)
        largest = max(largest, wal.stat().st_size)
    assert largest < RESERVE_BYTES
