"""Timeouts: many deadlines with one timer."""

import asyncio
from itertools import pairwise

from sse_broadcast.timeouts import AT_ONCE, Timeouts
from tests.support.sockets import until


async def test_added_items_are_late_in_order() -> None:
    """A discarded one is not."""
    late: list[str] = []
    deadlines = Timeouts[str](0.05, late.append)
    for name in "abcd":
        deadlines.add(name)
    deadlines.discard("b")
    deadlines.discard("never added")
    assert len(deadlines) == 3
    await until(lambda: not len(deadlines))
    assert late == ["a", "c", "d"]


async def test_no_item_is_late_before_its_time() -> None:
    """Each has the same time from when it was added."""
    loop = asyncio.get_running_loop()
    ends: dict[str, float] = {}
    deadlines = Timeouts[str](0.1, lambda name: ends.update({name: loop.time()}))
    begins = {}
    for name in ("first", "second"):
        begins[name] = loop.time()
        deadlines.add(name)
        await asyncio.sleep(0.03)
    await until(lambda: len(ends) == 2)
    # uvloop's clock is in milliseconds, rounded down.
    assert all(ends[name] - begins[name] >= 0.098 for name in ends)
    assert ends["second"] > ends["first"]


async def test_a_late_item_may_get_more_time() -> None:
    late: list[str] = []

    def again(name: str) -> None:
        late.append(name)
        if len(late) < 3:
            deadlines.add(name)

    deadlines = Timeouts[str](0.01, again)
    deadlines.add("a")
    await until(lambda: len(late) == 3)
    assert len(deadlines) == 0


async def test_more_time_for_one_item_does_not_delay_another() -> None:
    """The timer is for the next deadline, though an earlier item was added again."""
    loop = asyncio.get_running_loop()
    late: list[str] = []

    def again(name: str) -> None:
        late.append(name)
        deadlines.add(name)

    deadlines = Timeouts[str](0.2, again)
    deadlines.add("first")
    first = deadlines.due
    assert first is not None
    while loop.time() + 0.2 == first:
        await asyncio.sleep(0)
    deadlines.add("second")
    latest = loop.time() + 0.2
    await until(lambda: bool(late))
    await asyncio.sleep(0)
    assert late[:2] == ["first", "second"] or (deadlines.due is not None and first < deadlines.due <= latest)
    deadlines.close()


async def test_ten_thousand_items_have_one_timer() -> None:
    deadlines = Timeouts[int](0.02, lambda _: None)
    for number in range(10_000):
        deadlines.add(number)
    due = deadlines.due
    assert due is not None
    for number in range(10_000):
        deadlines.discard(number)
    assert deadlines.due == due
    await until(lambda: deadlines.due is None)


async def test_closing_cancels_the_timer() -> None:
    late: list[str] = []
    deadlines = Timeouts[str](0.01, late.append)
    deadlines.add("a")
    deadlines.close()
    deadlines.close()
    await asyncio.sleep(0.03)
    assert late == []


async def test_thousands_of_late_items_are_handled_a_few_in_each_turn() -> None:
    """Other callbacks of the loop run between."""
    late: list[int] = []
    deadlines = Timeouts[int](0.02, late.append)
    for number in range(5 * AT_ONCE + 1):
        deadlines.add(number)
    counts = [0]
    while len(late) <= 5 * AT_ONCE:
        await asyncio.sleep(0)
        if len(late) != counts[-1]:
            counts.append(len(late))
    assert max(more - before for before, more in pairwise(counts)) <= AT_ONCE
    assert late == sorted(late)
