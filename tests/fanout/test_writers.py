"""Writer list: members that join and leave, also during a pass."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from sse_broadcast.fanout.writers import NOT_LISTED, Writer, WriterList


class RecordingMember:
    """A member that records what is written."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.index = NOT_LISTED
        self.got: list[bytes] = []
        self.writer: Writer = self
        self.on_write: Callable[[], None] = lambda: None

    def write(self, data: bytes, /) -> None:
        self.got.append(data)
        self.on_write()


def make_list(count: int) -> tuple[WriterList[RecordingMember], list[RecordingMember]]:
    writers, members = (
        WriterList[RecordingMember](),
        [RecordingMember(str(number)) for number in range(count)],
    )
    for member in members:
        writers.join(member)
    return writers, members


def advance(writers: WriterList[RecordingMember], count: int, data: bytes = b"x") -> None:
    for writer in writers.take(count):
        writer.write(data)


def got(members: list[RecordingMember]) -> list[int]:
    return [len(member.got) for member in members]


def indexes(writers: WriterList[RecordingMember]) -> list[int]:
    return sorted(member.index for member in writers)


def test_a_pass_reaches_every_member_once() -> None:
    """It writes to a turn of members at a time, by index."""
    writers, members = make_list(5)
    writers.begin()
    assert (writers.next_index, writers.done) == (0, False)
    advance(writers, 2)
    assert (got(members), writers.next_index, writers.done, writers.last) == (
        [1, 1, 0, 0, 0],
        2,
        False,
        members[1],
    )
    advance(writers, 3)
    assert (got(members), writers.next_index, writers.done) == ([1] * 5, 5, True)
    advance(writers, 3)
    assert got(members) == [1] * 5
    assert writers.end() == 5


def test_the_member_being_written_counts_as_reached() -> None:
    """It reports a full sink during the write, and has the batch."""
    writers, members = make_list(3)
    seen: list[tuple[int, RecordingMember]] = []
    for member in members:
        member.on_write = lambda: seen.append((writers.next_index, writers.last))
    writers.begin()
    advance(writers, 3)
    assert seen == [(1, members[0]), (2, members[1]), (3, members[2])]


def test_a_pass_over_no_members_is_done_at_once() -> None:
    writers = WriterList[RecordingMember]()
    writers.begin()
    assert writers.done
    assert writers.end() == 0


def test_the_last_member_takes_the_index_of_one_that_leaves() -> None:
    writers, members = make_list(4)
    writers.leave(members[1])
    assert [member.index for member in members] == [0, NOT_LISTED, 2, 1]
    writers.leave(members[2])
    assert [member.index for member in members] == [0, NOT_LISTED, NOT_LISTED, 1]
    assert (list(writers), len(writers)) == ([members[0], members[3]], 2)
    writers.begin()
    advance(writers, 9)
    assert (got(members), writers.end()) == ([1, 0, 0, 1], 2)


@pytest.mark.parametrize(("before", "count"), [(0, 3), (1, 3), (2, 4), (3, 4)])
def test_a_member_that_leaves_during_a_pass_gets_no_more_of_it(before: int, count: int) -> None:
    """This holds whether the pass had reached it or not.

    The others keep their indexes until the pass ends.
    """
    writers, members = make_list(4)
    writers.begin()
    advance(writers, before)
    writers.leave(members[1])
    assert (len(writers), list(writers)) == (3, [members[0], *members[2:]])
    assert [member.index for member in members] == [0, NOT_LISTED, 2, 3]
    advance(writers, 9)
    assert got(members) == [1, int(before > 1), 1, 1]
    assert writers.end() == count
    assert indexes(writers) == [0, 1, 2]


def test_a_member_that_leaves_during_its_own_write_was_written_to() -> None:
    """It is known as the last one written until the pass goes on."""
    writers, members = make_list(3)
    members[1].on_write = lambda: writers.leave(members[1])
    writers.begin()
    rest = writers.take(9)
    for _ in range(2):
        next(rest).write(b"x")
    assert (writers.last, members[1].index, len(writers)) == (members[1], NOT_LISTED, 2)
    for writer in rest:
        writer.write(b"x")
    assert (writers.end(), got(members), indexes(writers)) == (3, [1, 1, 1], [0, 1])


def test_all_members_may_leave_during_a_pass() -> None:
    writers, members = make_list(4)
    writers.begin()
    advance(writers, 2)
    for index in (3, 0, 2, 1):
        writers.leave(members[index])
    advance(writers, 9)
    assert (writers.end(), len(writers), list(writers), got(members)) == (2, 0, [], [1, 1, 0, 0])


@pytest.mark.parametrize("count", [1, 2])
def test_members_do_not_join_during_a_pass(count: int) -> None:
    """They wait until it ends, also after it has reached every member."""
    writers, _ = make_list(2)
    writers.begin()
    advance(writers, count)
    with pytest.raises(AssertionError):
        writers.join(RecordingMember())


def test_a_member_may_leave_and_come_back() -> None:
    """It is in the list once, and gets each pass once."""
    writers, members = make_list(3)
    writers.leave(members[0])
    writers.join(members[0])
    writers.begin()
    advance(writers, 9)
    assert writers.end() == 3
    assert (sorted(member.name for member in writers), indexes(writers)) == (["0", "1", "2"], [0, 1, 2])
    assert got(members) == [1, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_the_writer_list_agrees_with_a_naive_model(seed: int) -> None:
    """A pass writes once to each member of its start that is still there at its turn, and to no other."""
    chance, writers, inside = random.Random(seed), WriterList[RecordingMember](), list[RecordingMember]()
    for _ in range(60):
        for _ in range(chance.randrange(6)):
            inside.append(RecordingMember())
            writers.join(inside[-1])
        data, due = b"%d" % chance.randrange(1 << 30), Counter[RecordingMember]()
        writers.begin()
        here = set(inside)
        while not writers.done:
            reached = writers.next_index
            due.update(member for member in here if reached <= member.index < reached + 3)
            advance(writers, 3, data)
            for member in chance.sample(inside, min(len(inside), chance.randrange(4))):
                inside.remove(member)
                writers.leave(member)
                here.discard(member)
        assert writers.end() == due.total()
        assert set(writers) == here == set(inside)
        assert indexes(writers) == list(range(len(inside)))
        assert all(member.got[-1] == data for member in due)
        assert all(member.got.count(data) == 1 for member in due)
        assert all(due[member] == 1 for member in here)
