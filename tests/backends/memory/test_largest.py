"""Who holds the most, of many whose holdings change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.memory.largest import SIZE_CLASS_BITS, Largest


class Holder:
    """Holds as much as its test says."""

    def __init__(self) -> None:
        self.class_from = self.class_below = 0
        self.held = 0


CHANGES = st.lists(st.tuples(st.integers(0, 5), st.integers(-500, 900) | st.integers(-3, 3)), max_size=60)


@settings(derandomize=True, deadline=None)
@given(CHANGES)
def test_it_finds_who_holds_about_the_most(changes: list[tuple[int, int]]) -> None:
    """Whatever they gain and lose: one of those within 1/16 of the most, and of small ones the very most."""
    largest, holders = Largest[Holder](), [Holder() for _ in range(6)]
    for number, change in changes:
        holder = holders[number]
        holder.held = max(0, holder.held + change)
        largest.update(holder)
        found = largest.find()
        most = max(each.held for each in holders)
        assert (found is None) == (most == 0)
        held = found.held if found else 0
        assert held == most if most < 2 << SIZE_CLASS_BITS else held > most - most / (1 << SIZE_CLASS_BITS)
        assert len(largest) == sum(each.held > 0 for each in holders)


def test_of_those_who_hold_as_much_it_finds_the_one_that_came_first() -> None:
    """So that it is the oldest that gives, where each has one."""
    largest, holders = Largest[Holder](), [Holder() for _ in range(5)]
    for holder in holders:
        holder.held = 1
        largest.update(holder)
    for holder in holders:
        assert largest.find() is holder
        holder.held = 0
        largest.update(holder)


def test_one_that_changes_within_its_class_keeps_its_place() -> None:
    """Else the one that is used would never be the oldest."""
    largest, holders = Largest[Holder](), [Holder() for _ in range(2)]
    for holder in holders:
        holder.held = 1000
        largest.update(holder)
    holders[0].held = 1001
    largest.update(holders[0])
    assert largest.find() is holders[0]


def test_it_can_be_emptied() -> None:
    largest, holder = Largest[Holder](), Holder()
    holder.held = 70_000
    largest.update(holder)
    largest.clear()
    assert (len(largest), largest.find()) == (0, None)
