"""Those in step: who joins and leaves, also while a pass is on, and to whom it comes."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from sse_broadcast.fanout.writers import NOT_LISTED, Writer, WriterList


class Walker:
    """Somebody who marches, and notes what is written."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.index = NOT_LISTED
        self.got: list[bytes] = []
        self.writer: Writer = self
        self.on_write: Callable[[], None] = lambda: None

    def write(self, data: bytes, /) -> None:
        self.got.append(data)
        self.on_write()


def marching(count: int) -> tuple[WriterList[Walker], list[Walker]]:
    march, walkers = WriterList[Walker](), [Walker(str(number)) for number in range(count)]
    for walker in walkers:
        march.join(walker)
    return march, walkers


def go(march: WriterList[Walker], count: int, data: bytes = b"x") -> None:
    for writer in march.take(count):
        writer.write(data)


def got(walkers: list[Walker]) -> list[int]:
    return [len(walker.got) for walker in walkers]


def ranks(march: WriterList[Walker]) -> list[int]:
    return sorted(walker.index for walker in march)


def test_a_pass_comes_to_everyone_once() -> None:
    """A stride at a time, by rank."""
    march, walkers = marching(5)
    march.begin()
    assert (march.next_index, march.done) == (0, False)
    go(march, 2)
    assert (got(walkers), march.next_index, march.done, march.last) == ([1, 1, 0, 0, 0], 2, False, walkers[1])
    go(march, 3)
    assert (got(walkers), march.next_index, march.done) == ([1] * 5, 5, True)
    go(march, 3)
    assert got(walkers) == [1] * 5
    assert march.end() == 5


def test_a_pass_has_come_to_whom_it_is_writing() -> None:
    """Who is full, and says so in the middle of the write, has it."""
    march, walkers = marching(3)
    seen: list[tuple[int, Walker]] = []
    for walker in walkers:
        walker.on_write = lambda: seen.append((march.next_index, march.last))
    march.begin()
    go(march, 3)
    assert seen == [(1, walkers[0]), (2, walkers[1]), (3, walkers[2])]


def test_a_pass_over_nobody_is_done_at_once() -> None:
    """And came to nobody."""
    march = WriterList[Walker]()
    march.begin()
    assert march.done
    assert march.end() == 0


def test_the_last_takes_the_rank_of_whoever_leaves() -> None:
    """Nobody else moves."""
    march, walkers = marching(4)
    march.leave(walkers[1])
    assert [walker.index for walker in walkers] == [0, NOT_LISTED, 2, 1]
    march.leave(walkers[2])
    assert [walker.index for walker in walkers] == [0, NOT_LISTED, NOT_LISTED, 1]
    assert (list(march), len(march)) == ([walkers[0], walkers[3]], 2)
    march.begin()
    go(march, 9)
    assert (got(walkers), march.end()) == ([1, 0, 0, 1], 2)


@pytest.mark.parametrize(("before", "count"), [(0, 3), (1, 3), (2, 4), (3, 4)])
def test_whoever_leaves_during_a_pass_gets_no_more_of_it(before: int, count: int) -> None:
    """Whether it had come to them, or not; the others keep their ranks until it ends."""
    march, walkers = marching(4)
    march.begin()
    go(march, before)
    march.leave(walkers[1])
    assert (len(march), list(march)) == (3, [walkers[0], *walkers[2:]])
    assert [walker.index for walker in walkers] == [0, NOT_LISTED, 2, 3]
    go(march, 9)
    assert got(walkers) == [1, int(before > 1), 1, 1]
    assert march.end() == count
    assert ranks(march) == [0, 1, 2]


def test_whoever_leaves_in_the_middle_of_its_own_write_was_written_to() -> None:
    """It is known still, as the last, until the pass goes on."""
    march, walkers = marching(3)
    walkers[1].on_write = lambda: march.leave(walkers[1])
    march.begin()
    writers = march.take(9)
    for _ in range(2):
        next(writers).write(b"x")
    assert (march.last, walkers[1].index, len(march)) == (walkers[1], NOT_LISTED, 2)
    for writer in writers:
        writer.write(b"x")
    assert (march.end(), got(walkers), ranks(march)) == (3, [1, 1, 1], [0, 1])


def test_everyone_may_leave_during_a_pass() -> None:
    """In whatever order."""
    march, walkers = marching(4)
    march.begin()
    go(march, 2)
    for index in (3, 0, 2, 1):
        march.leave(walkers[index])
    go(march, 9)
    assert (march.end(), len(march), list(march), got(walkers)) == (2, 0, [], [1, 1, 0, 0])


@pytest.mark.parametrize("count", [1, 2])
def test_nobody_joins_during_a_pass(count: int) -> None:
    """Nor when it has come to everyone, and has yet to end."""
    march, _ = marching(2)
    march.begin()
    go(march, count)
    with pytest.raises(AssertionError):
        march.join(Walker())


def test_one_may_leave_and_come_back() -> None:
    """It is in the march once, and gets each pass once."""
    march, walkers = marching(3)
    march.leave(walkers[0])
    march.join(walkers[0])
    march.begin()
    go(march, 9)
    assert march.end() == 3
    assert (sorted(walker.name for walker in march), ranks(march)) == (["0", "1", "2"], [0, 1, 2])
    assert got(walkers) == [1, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_the_naive_model_is(seed: int) -> None:
    """Each pass comes once to all who are there when it begins and when it comes to them, and to no other."""
    chance, march, inside = random.Random(seed), WriterList[Walker](), list[Walker]()
    for _ in range(60):
        for _ in range(chance.randrange(6)):
            inside.append(Walker())
            march.join(inside[-1])
        data, due = b"%d" % chance.randrange(1 << 30), Counter[Walker]()
        march.begin()
        here = set(inside)
        while not march.done:
            reached = march.next_index
            due.update(walker for walker in here if reached <= walker.index < reached + 3)
            go(march, 3, data)
            for walker in chance.sample(inside, min(len(inside), chance.randrange(4))):
                inside.remove(walker)
                march.leave(walker)
                here.discard(walker)
        assert march.end() == due.total()
        assert set(march) == here == set(inside)
        assert ranks(march) == list(range(len(inside)))
        assert all(walker.got[-1] == data for walker in due)
        assert all(walker.got.count(data) == 1 for walker in due)
        assert all(due[walker] == 1 for walker in here)
