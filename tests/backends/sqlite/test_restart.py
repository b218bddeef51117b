"""What is there after a restart: everything that was answered, and no loss that is not told."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.backends.base import ChannelUsage, IdempotencyKey, ResetReason, StartPoint
from sse_broadcast.backends.sqlite import terms
from sse_broadcast.backends.sqlite.terms import JUMP
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config, Durability
from tests.backends.contract import Case, Pages, channels_of, draft
from tests.backends.sqlite.cases import tiered, waiting_of

Reopen = Callable[..., Awaitable[Case]]
"""Closes what is open, and opens the file again, with these settings."""


@pytest.fixture
async def reopen(tmp_path: Path) -> AsyncIterator[Reopen]:
    """Open one file, again and again. Its clock goes on where it was."""
    cases: list[Case] = []

    async def open_again(*, close: bool = True, **settings: Any) -> Case:
        if cases and close:
            await cases[-1].backend.aclose()
        config = Config(**settings)
        case = Case(ChannelPolicies(config))
        if cases:
            case.clock = cases[-1].clock
        backend = tiered(tmp_path / "history.db", config, case.policies, case.deliver, case.clock)

        async def settle() -> None:
            if waiting_of(backend):
                await backend.remove(-1)

        case.backend, case.on_settle = backend, settle
        await backend.start()
        cases.append(case)
        return case

    yield open_again
    await cases[-1].backend.aclose()


async def three(case: Case) -> list[str]:
    """Publish three events, and return their ids."""
    return [(await case.publish(channels)).id for channels in ("a", "b", "a")]


async def test_a_clean_restart_loses_nothing_and_tells_nobody(reopen: Reopen) -> None:
    """From each cursor of before, right after opening and before anything is published."""
    ids = await three(await reopen())
    case = await reopen()
    assert case.backend.position == 3 + JUMP
    for back, id in enumerate(ids):
        found = await case.since(id, "a", "b")
        assert found == Pages([2, 3][back:] if back < 2 else [])
    page = await case.page(Selector.parse("a", "b"), after=0)
    assert [one.id for one in page.publications] == ids
    assert (await case.since("earliest", "*")) == Pages([1, 2, 3])
    assert (await case.find("last", "a", "b")).preloaded[-1].id == ids[-1]
    assert case.backend.channel_usage("a") == ChannelUsage(2, ids[0])
    assert sorted(channels_of(case.backend.channels())) == ["a", "b"]
    assert case.announced == []


async def test_events_of_before_and_after_are_one_order(reopen: Reopen) -> None:
    """Each with the id that it was answered with, over as many restarts as there are."""
    ids: list[str] = []
    for _ in range(3):
        ids += await three(await reopen())
    case = await reopen()
    ids += await three(case)
    page = await case.page(Selector.parse("a", "b"), after=0)
    got = [one.id for one in page.publications]
    after = page.upto
    while after < case.backend.position:
        page = await case.page(Selector.parse("a", "b"), after=after)
        got += [one.id for one in page.publications]
        after = page.upto
    assert got == ids
    assert case.backend.count_after(0) == 12
    assert case.backend.count_after(case.backend.position - 3) == 3


async def test_an_idempotency_key_outlives_a_restart(reopen: Reopen) -> None:
    """It is answered as the first time, clients included; something else under it is refused."""
    case = await reopen()
    case.clients = 7
    key = IdempotencyKey(("me", "k"), b"digest")
    receipt = await case.backend.publish([draft("a"), draft("b")], key)
    case = await reopen()
    assert await case.backend.publish([draft("a"), draft("b")], key) == receipt
    assert case.announced == []


async def test_evictions_are_remembered(reopen: Reopen) -> None:
    """A subscriber that was behind them is told of them by the next process too."""
    case = await reopen(history_size=2)
    ids = [(await case.publish("a")).id for _ in range(5)]
    case = await reopen(history_size=2)
    assert (await case.since(ids[0], "a")) == Pages([4, 5], [(3, ("a",))])
    assert (await case.since(ids[0], "a*")).gaps == [(3, ("a*",))]
    assert (await case.since(ids[2], "a")) == Pages([4, 5])
    assert (await case.since("earliest", "a")) == Pages([4, 5])


async def test_what_has_grown_too_old_meanwhile_goes(reopen: Reopen) -> None:
    """Time has passed while nothing ran."""
    ids = await three(await reopen(history_age=10.0))
    case = await reopen(history_age=10.0)
    await case.wait(11.0)
    assert case.backend.usage().events == 0
    assert (await case.since(ids[0], "a")) == Pages([], [(3, ("a",))])


async def test_lower_limits_hold_after_a_restart(reopen: Reopen) -> None:
    """What is held beyond them goes, and is told."""
    case = await reopen()
    ids = [(await case.publish("a")).id for _ in range(5)]
    case = await reopen(history_size=2)
    case.backend.reload_limits()
    await case.settle()
    assert case.backend.channel_usage("a").events == 2
    assert (await case.since(ids[0], "a")) == Pages([4, 5], [(3, ("a",))])


async def test_a_forgotten_channel_is_remembered_as_lost(reopen: Reopen) -> None:
    """By the common watermark, which is in the file."""
    case = await reopen(history_channels=1)
    first = await case.publish("a")
    await case.publish("b")
    await case.settle()
    case = await reopen(history_channels=1)
    assert channels_of(case.backend.channels()) == ["b"]
    assert (await case.since(case.place(0), "a")).gaps == [(1, ("a",))]
    assert (await case.since(first.id, "a")) == Pages([])


async def test_an_id_of_a_store_that_is_gone_is_lost(reopen: Reopen) -> None:
    """Somebody has begun with a new file."""
    case = await reopen()
    await case.publish()
    assert (await case.find("0123abcd-1", "a")) == StartPoint(1, reset_reason=ResetReason.EPOCH)


async def test_an_older_copy_that_was_restored_is_told(reopen: Reopen, tmp_path: Path) -> None:
    """Whoever has seen what the copy never had: by its epoch, or as one behind the end of its term."""
    case = await reopen()
    first = await case.publish()
    path = tmp_path / "history.db"
    db = sqlite3.connect(path)
    db.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    db.close()
    seen = await case.publish()
    await case.backend.aclose()
    case = await reopen(close=False)
    later = await case.publish()
    await case.backend.aclose()
    for each in tmp_path.glob("history.db*"):
        each.unlink()
    shutil.move(tmp_path / "copy.db", path)
    case = await reopen(close=False)
    after = await case.publish()
    assert case.backend.position == 1 + JUMP + 1
    assert (await case.find(seen.id, "a")) == StartPoint(1 + JUMP, reset_reason=ResetReason.BACKEND)
    assert (await case.find(later.id, "a")).reset_reason is ResetReason.EPOCH
    assert (await case.since(first.id, "a")) == Pages([1 + JUMP + 1])
    assert after.id not in {seen.id, later.id}


@pytest.mark.parametrize(("durability", "lost"), [(Durability.NORMAL, True), (Durability.FULL, False)])
async def test_a_power_cut_is_told_to_everyone_that_it_may_concern(
    reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, *, lost: bool
) -> None:
    """With full durability it takes nothing. With normal the log of changes may be cut anywhere."""
    case = await reopen(durability=durability)
    ids = await three(case)
    path, wal = tmp_path / "history.db", tmp_path / "history.db-wal"
    snapshot = path.read_bytes(), wal.read_bytes()
    await case.backend.aclose()
    for each in tmp_path.glob("history.db*"):
        each.unlink()
    path.write_bytes(snapshot[0])
    # What was not synced: with full durability nothing.
    wal.write_bytes(snapshot[1] if durability is Durability.FULL else snapshot[1][: -len(snapshot[1]) // 4])
    monkeypatch.setattr(terms, "boot_id", lambda: "another")
    case = await reopen(close=False, durability=durability)
    marker = case.backend.position
    for id in ids:
        start = await case.find(id, "a", "b")
        assert (start.reset_reason is ResetReason.BACKEND) is lost
        if lost:
            assert start == StartPoint(marker, reset_reason=ResetReason.BACKEND)
    assert (await case.find(case.place(marker), "a")) == StartPoint(marker)
    if not lost:
        assert (await case.since(ids[0], "a", "b")) == Pages([2, 3])


@pytest.mark.parametrize("durability", list(Durability))
async def test_the_log_of_changes_may_be_cut_anywhere(
    reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    """What is left is the beginning of what was, whole, and whoever saw more is told."""
    case = await reopen(durability=durability)
    ids = [(await case.publish("a")).id for _ in range(12)]
    path, wal = tmp_path / "history.db", tmp_path / "history.db-wal"
    base, log = path.read_bytes(), wal.read_bytes()
    await case.backend.aclose()
    monkeypatch.setattr(terms, "boot_id", lambda: "another")
    held = set()
    for length in range(len(log) // 3, len(log), len(log) // 9):
        for each in tmp_path.glob("history.db*"):
            each.unlink()
        path.write_bytes(base)
        wal.write_bytes(log[:length])
        case = await reopen(close=False, durability=durability)
        page = await case.page(Selector.parse("a"), after=0)
        positions = [one.position for one in page.publications]
        assert positions == list(range(1, len(positions) + 1))
        held.add(len(positions))
        for number, id in enumerate(ids, 1):
            start = await case.find(id, "a")
            told = start.reset_reason is not None
            assert told or number <= len(positions)
            assert (await case.read(Selector.parse("a"), start)).gaps == []
        await case.backend.aclose()
    assert len(held) > 2
    await reopen(close=False)


async def test_a_publisher_that_hangs_up_has_published(reopen: Reopen) -> None:
    """Once the writing thread has it: cancelled or not, it is stored and announced once."""
    case = await reopen()
    tasks = [asyncio.create_task(case.publish("a", str(number))) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await case.backend.remove(-1)
    assert [one.event.data for one in case.published] == [str(number) for number in range(50)]
    case = await reopen()
    page = await case.page(Selector.parse("a"), after=0)
    assert [one.event.data for one in page.publications] == [str(number) for number in range(50)]


async def test_what_was_removed_stays_away(reopen: Reopen) -> None:
    """And is no loss to anyone."""
    case = await reopen()
    ids = await three(case)
    assert await case.backend.remove(3)
    assert await case.backend.clear("b") == 1
    case = await reopen()
    assert (await case.since(case.place(0), "a", "b")) == Pages([1])
    assert (await case.since(ids[0], "a", "b")) == Pages([])


async def test_every_text_comes_back_as_it_was(reopen: Reopen) -> None:
    """Nul characters, all planes of Unicode, line ends, JSON, and nothing at all."""
    case = await reopen()
    texts = ["", "\0", "a\0b", "\r\n\n", "é", "\U0001f600", "x" * 100_000, "{'", "\ufeff", "0", "1e5"]
    for text in texts:
        await case.publish("a", text, type="t\u00e9", key="k", retry=700)
    case = await reopen()
    page = await case.page(Selector.parse("a"), after=0)
    assert [one.event.data for one in page.publications] == texts
    assert {(one.event.type, one.event.key, one.event.retry) for one in page.publications} == {
        ("té", "k", 700)
    }


async def test_a_copy_that_is_made_while_it_is_written_is_whole(reopen: Reopen, tmp_path: Path) -> None:
    """By `VACUUM INTO` of another connection: the events up to some moment, and publishing goes on."""
    case = await reopen()
    await case.backend.publish([draft("a", "x" * 1000) for _ in range(500)])

    def copy() -> None:
        db = sqlite3.connect(tmp_path / "history.db")
        db.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
        db.close()

    copying = asyncio.create_task(asyncio.to_thread(copy))
    published = 500
    while not copying.done():
        await case.publish("a", str(published))
        published += 1
    await copying
    db = sqlite3.connect(tmp_path / "copy.db")
    assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
    count, newest = db.execute("SELECT count(*), max(position) FROM event").fetchone()
    assert 500 <= count == newest <= published
    db.close()
