"""Who holds the most, of many whose holdings change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.largest import Largest


class Holder:
    """Holds as much as its test says."""

    def __init__(self) -> None:
        self.ranked = 0
        self.held = 0


CHANGES = st.lists(st.tuples(st.integers(0, 5), st.integers(-5, 9)), max_size=60)


@settings(derandomize=True, deadline=None)
@given(CHANGES)
def test_it_finds_who_holds_the_most(changes: list[tuple[int, int]]) -> None:
    """Whatever they gain and lose, and however often they are asked for."""
    largest, holders = Largest[Holder](), [Holder() for _ in range(6)]
    for number, change in changes:
        holder = holders[number]
        holder.held = max(0, holder.held + change)
        largest.grown(holder, among=len(holders))
        found = largest.find(among=6)
        most = max(each.held for each in holders)
        assert (found.held if found else 0) == most
        assert (found is None) == (most == 0)


def test_of_those_who_hold_as_much_it_finds_the_one_that_came_first() -> None:
    """So that it is the oldest that gives, where each has one."""
    largest, holders = Largest[Holder](), [Holder() for _ in range(5)]
    for holder in holders:
        holder.held = 1
        largest.grown(holder, among=5)
    for holder in holders:
        assert largest.find(among=6) is holder
        holder.held = holder.ranked = 0


def test_it_does_not_grow_with_what_has_passed() -> None:
    """What was said of holders before, and those that have left, go with time."""
    largest = Largest[Holder]()
    for number in range(5000):
        holder = Holder()
        for holder.held in range(1, 20):
            largest.grown(holder, among=1)
        assert len(largest) <= 133, number
        holder.ranked = 0
    largest.clear()
    assert (len(largest), largest.find(among=6)) == (0, None)
