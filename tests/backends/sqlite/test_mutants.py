"""Faults that a store may have, put in on purpose: each is found by a test that passes without it."""

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.backends.base import ReplayPage
from sse_broadcast.backends.sqlite import terms
from sse_broadcast.backends.sqlite.operations import Append
from sse_broadcast.backends.sqlite.pages import Pages
from sse_broadcast.backends.sqlite.store import SqliteStore
from sse_broadcast.backends.sqlite.writer import StoreWriter
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import UncertainPublishError
from tests.backends.contract import Case, draft
from tests.backends.contract import Pages as Told
from tests.backends.sqlite.cases import tiered
from tests.backends.sqlite.test_writer import Scene

A = Selector.parse("a")

Mutate = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[Path, pytest.MonkeyPatch], Awaitable[None]]


async def opened(path: Path, **settings: Any) -> tuple[Case, SqliteStore]:
    config = Config(**settings)
    case = Case(ChannelPolicies(config))
    backend = tiered(path, config, case.policies, case.deliver, case.clock, memory=0)
    case.backend = backend
    await backend.start()
    assert isinstance(backend, TieredBackend)
    assert isinstance(backend.store, SqliteStore)
    return case, backend.store


# Each scenario is a race or a fault, made to happen.


async def a_loss_overtakes_a_page(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Everything that a page was to give is evicted before it is read."""
    case, store = await opened(folder / "a.db", history_size=3)
    try:
        for _ in range(3):
            await case.publish("a")
        read = store._read

        async def read_late(how: Callable[[Pages], Any]) -> Any:
            patch.setattr(store, "_read", read)
            await case.backend.publish([draft("a") for _ in range(3)])
            return await read(how)

        patch.setattr(store, "_read", read_late)
        page = await case.page(A, after=0)
        assert (page.gap is not None, page.upto) == (True, 3)
    finally:
        await case.backend.aclose()


async def a_page_is_read_before_its_eviction_is_heard_of(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the thread commit while the event loop stands still, which then does not know of it."""
    case, store = await opened(folder / "a.db", history_size=3)
    try:
        for _ in range(3):
            await case.publish("a")
        read, pages = store._read, store._pages

        async def read_early(how: Callable[[Pages], Any]) -> Any:
            patch.setattr(store, "_read", read)
            limits = {"a": case.policies.for_channel("a").limits}
            store._put(Append([draft("a") for _ in range(3)], limits, case.clock.now, ""))
            other = sqlite3.connect(folder / "a.db")
            while other.execute("SELECT position FROM state").fetchone() == (3,):
                pass  # the loop stands still: what the thread tells it waits
            other.close()
            reader = sqlite3.connect(folder / "a.db", isolation_level=None)
            try:
                return how(Pages(reader, store._terms))
            finally:
                reader.close()

        assert pages is not None
        patch.setattr(store, "_read", read_early)
        page = await case.page(A, after=0)
        assert (page.gap is not None, page.upto) == (True, 3)
    finally:
        await case.backend.aclose()


async def a_snapshot_is_restored_twice(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Two lives begin with the same file: a subscriber of one has seen nothing of the other."""
    path, copy = folder / "history.db", folder / "copy.db"
    case, _ = await opened(path)
    await case.publish("a", "first")
    await case.backend.aclose()
    shutil.copy(path, copy)
    seen: list[tuple[str, str]] = []
    for data in ("one", "other"):
        for each in folder.glob("history.db*"):
            each.unlink()
        shutil.copy(copy, path)
        case, _ = await opened(path)
        try:
            if seen:
                await case.publish("a", data)
                start = await case.find(seen[0][0], "a")
                assert start.reset_reason is not None
            else:
                seen.append(((await case.publish("a", data)).id, data))
        finally:
            await case.backend.aclose()


async def a_commit_fails_and_was_done(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Whoever follows gets the event once, whatever its publisher was told."""
    patch.setattr("sse_broadcast.backends.sqlite.writer.WRITE_RETRY_SECONDS", 0.02)
    scene = Scene(folder / "history.db")
    await scene.case.backend.start()
    try:

        def commit_and_fail(go_on: Callable[[], Any]) -> Any:
            scene.disk.faults.clear()
            go_on()
            raise sqlite3.OperationalError("disk I/O error")

        scene.disk.faults["COMMIT"] = commit_and_fail
        with pytest.raises(UncertainPublishError):
            await scene.case.publish("a", "first")
        await scene.until_well()
        await scene.case.publish("a", "second")
        assert [one.event.data for one in scene.case.published] == ["first", "second"]
        assert await scene.case.since(scene.case.place(0), "a") == Told([1, 2])
    finally:
        await scene.case.backend.aclose()


SCENARIOS: dict[str, Check] = {
    check.__name__: check
    for check in (
        a_loss_overtakes_a_page,
        a_page_is_read_before_its_eviction_is_heard_of,
        a_snapshot_is_restored_twice,
        a_commit_fails_and_was_done,
    )
}


# And each of these is a fault that one of them finds.


def uses_a_page_whatever_was_lost_meanwhile(patch: pytest.MonkeyPatch) -> None:
    async def page(
        self: SqliteStore, selector: Selector, *, after: int, evictions_seen: int, limit: int
    ) -> ReplayPage:
        upto = self.position
        found = await self._read(lambda pages: pages.page(selector, after=after, upto=upto, limit=limit))
        return ReplayPage(found.publications, found.upto, evictions_seen=self.evictions)

    patch.setattr(SqliteStore, "page", page)


def does_not_wait_for_what_a_snapshot_knows(patch: pytest.MonkeyPatch) -> None:
    async def at_once(self: SqliteStore) -> None:
        self._commits = 1 << 60

    patch.setattr(SqliteStore, "_next_commit", at_once)


def names_a_life_by_how_many_there_were(patch: pytest.MonkeyPatch) -> None:
    names = iter(["00000001", "00000002", "00000002"])
    patch.setattr(terms, "new_epoch", lambda: next(names))


def sends_a_commit_again_of_which_nothing_is_known(patch: pytest.MonkeyPatch) -> None:
    def again(self: StoreWriter) -> None:
        if self._unknown is not None:
            group, _ = self._unknown
            self._unknown = None
            for operation in (*group, *group):
                self.put(operation)

    patch.setattr(StoreWriter, "_settle_unknown", again)


def forgets_a_commit_of_which_nothing_is_known(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StoreWriter, "_settle_unknown", lambda self: None)


MUTANTS: list[tuple[Mutate, str]] = [
    (uses_a_page_whatever_was_lost_meanwhile, "a_loss_overtakes_a_page"),
    (does_not_wait_for_what_a_snapshot_knows, "a_page_is_read_before_its_eviction_is_heard_of"),
    (names_a_life_by_how_many_there_were, "a_snapshot_is_restored_twice"),
    (sends_a_commit_again_of_which_nothing_is_known, "a_commit_fails_and_was_done"),
    (forgets_a_commit_of_which_nothing_is_known, "a_commit_fails_and_was_done"),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_fault_loses_nothing_untold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    """Each scenario passes with the code as it is."""
    await SCENARIOS[scenario](tmp_path, monkeypatch)


@pytest.mark.parametrize(("mutate", "scenario"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
async def test_a_mutant_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutate: Mutate, scenario: str
) -> None:
    """The scenario that is about it fails, and not for another reason."""
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        await asyncio.wait_for(SCENARIOS[scenario](tmp_path, monkeypatch), 20)
