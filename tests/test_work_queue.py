"""Work queue: long work in slices, one per turn of the loop, by turns of callers."""

import asyncio
import functools
from collections.abc import Callable

import pytest

from sse_broadcast.work_queue import FairLock, FairQueue, SlicedWork, WorkQueue, run_to_completion
from tests.support.sockets import until


class Work:
    """Work that records its slices, and its end of any kind."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def steps(self, name: str, pieces: int) -> SlicedWork[str]:
        try:
            for piece in range(1, pieces):
                self.done.append(f"{name}{piece}")
                yield
            self.done.append(f"{name}{pieces}")
            return name
        finally:
            self.done.append(f"{name}.")


async def turns_of(loop_work: Callable[[], int]) -> list[int]:
    """Return the slices done after each turn of the loop, until there is no more work."""
    counts = [loop_work()]
    for _ in range(100):
        await asyncio.sleep(0)
        counts.append(loop_work())
        if counts[-5:] == [counts[-1]] * 5:
            break
    return counts


async def test_work_of_one_slice_is_done_at_once() -> None:
    queue, work = WorkQueue(), Work()
    turned = asyncio.get_running_loop().call_soon(work.done.append, "turn")
    assert await queue.run(work.steps("a", 1), caller="x") == "a"
    assert queue.start(work.steps("b", 1), caller="x").result() == "b"
    assert (work.done, len(queue)) == (["a1", "a.", "b1", "b."], 0)
    turned.cancel()


async def test_a_turn_of_the_loop_does_one_slice() -> None:
    queue, work = WorkQueue(), Work()
    jobs = [queue.start(work.steps(name, 4), caller=name) for name in "abc"]
    assert work.done == ["a1", "b1", "c1"]
    pieces = await turns_of(lambda: sum(each[-1] != "." for each in work.done))
    assert pieces[:10] == list(range(3, 13))
    assert [job.result() for job in jobs] == ["a", "b", "c"]


async def test_callers_take_turns() -> None:
    """However much work one has, another waits for one slice of it before each of its own."""
    queue, work = WorkQueue(), Work()
    greedy = [asyncio.create_task(queue.run(work.steps(name, 3), caller="greedy")) for name in "abc"]
    await asyncio.sleep(0)
    assert await queue.run(work.steps("x", 3), caller="modest") == "x"
    pieces = [each for each in work.done if each[-1] != "."]
    assert pieces[: pieces.index("x3") + 1] == ["a1", "x1", "a2", "x2", "a3", "x3"]
    assert await asyncio.gather(*greedy) == ["a", "b", "c"]


async def test_work_of_one_caller_is_done_in_order() -> None:
    queue, work = WorkQueue(), Work()
    assert await asyncio.gather(*[queue.run(work.steps(name, 2), caller="x") for name in "abc"]) == [*"abc"]
    assert work.done == ["a1", "a2", "a.", "b1", "b2", "b.", "c1", "c2", "c."]


async def test_work_ends_with_its_waiter() -> None:
    queue, work = WorkQueue(), Work()
    waiting = [asyncio.create_task(queue.run(work.steps(name, 9), caller="x")) for name in "abc"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    assert await asyncio.gather(*waiting, return_exceptions=True) != []
    assert "a." in work.done
    assert work.done.index("a.") < work.done.index("c1")
    assert not any(each.startswith("b") and each != "b." for each in work.done)
    assert len(queue) == 0


async def test_the_last_waiter_leaves_no_work() -> None:
    queue, work = WorkQueue(), Work()
    waiting = asyncio.create_task(queue.run(work.steps("a", 9), caller="x"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (len(queue), work.done[-1]) == (0, "a.")
    done = len(work.done)
    assert set(await turns_of(lambda: len(work.done))) == {done}


async def test_work_that_was_started_goes_on_without_a_waiter() -> None:
    """It must not stop in the middle because a client left."""
    queue, work = WorkQueue(), Work()

    async def wait() -> str:
        return await asyncio.shield(queue.start(work.steps("a", 5), caller="x"))

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await turns_of(lambda: len(work.done))
    assert work.done == ["a1", "a2", "a3", "a4", "a5", "a."]


@pytest.mark.parametrize("pieces", [0, 2])
async def test_an_exception_of_work_is_raised_in_its_waiter(pieces: int) -> None:
    queue, work = WorkQueue(), Work()

    def failing() -> SlicedWork[None]:
        for _ in range(pieces):
            yield
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await asyncio.gather(queue.run(failing(), caller="x"), queue.run(work.steps("a", 3), caller="y"))
    with pytest.raises(OSError, match="away"):
        await queue.start(failing(), caller="x")
    await turns_of(lambda: len(work.done))
    assert work.done[-1] == "a."


def test_work_can_be_finished_in_one_slice() -> None:
    """A program that may block does so."""
    work = Work()
    assert run_to_completion(work.steps("a", 3)) == "a"
    assert work.done == ["a1", "a2", "a3", "a."]


def test_waiting_work_is_done_by_turns() -> None:
    """Each caller has one in the order of arrival. A caller with another waits behind the others."""
    queue = FairQueue[str]()
    for thing in ("a1", "a2", "a3", "b1", "c1"):
        queue.append(thing, caller=thing[0])
    assert [queue.popleft() for _ in range(2)] == ["a1", "b1"]
    queue.append("b2", caller="b")
    assert [queue.popleft() for _ in range(4)] == ["c1", "a2", "b2", "a3"]
    assert not queue


def waits_for_two(lock: FairLock) -> bool:
    return len(lock) == 2


async def acquired(lock: FairLock, caller: str, order: list[str], name: str) -> None:
    """Record a name once the lock is held, and release the lock."""
    await lock.acquire(caller)
    order.append(name)
    lock.release()


async def test_a_fair_lock_goes_from_caller_to_caller() -> None:
    """However many waiters one caller has, the first one of another caller is the next but one."""
    lock, order = FairLock(), list[str]()
    await lock.acquire("holder")
    waiters = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]
    async with asyncio.TaskGroup() as group:
        for caller, name in waiters:
            group.create_task(acquired(lock, caller, order, name))
        await until(lambda: len(lock) == len(waiters))
        lock.release()
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert not lock.locked()


async def test_a_cancelled_waiter_gives_its_turn_to_the_next() -> None:
    """It is still waiting, or has just got the lock."""
    for given in (False, True):
        lock, order = FairLock(), list[str]()
        await lock.acquire("holder")
        leaving = asyncio.ensure_future(acquired(lock, "a", order, "leaving"))
        staying = asyncio.ensure_future(acquired(lock, "b", order, "staying"))
        await until(functools.partial(waits_for_two, lock))
        if given:
            lock.release()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        if not given:
            lock.release()
        await staying
        assert order == ["staying"]
        assert not lock.locked()
