"""Limits that are reloaded hold for what is held already, a few channels at a time."""

import pytest

from sse_broadcast.backends.memory.history import History
from sse_broadcast.config.policy import HistoryLimits
from tests.backends.memory.history_cases import (
    FOREVER,
    PLENTY,
    WEIGHT,
    fill,
    held,
    lost,
    publication,
    require_bounded,
)


class Changing:
    """Limits that a test changes."""

    def __init__(self, limits: HistoryLimits, *, max_channels: int = 1000) -> None:
        self.limits = limits
        self.history = History(lambda _: self.limits, total=PLENTY, max_channels=max_channels)

    def change(self, limits: HistoryLimits) -> None:
        self.limits = limits
        self.history.reload_limits()


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (HistoryLimits(2, PLENTY, FOREVER), [4, 5]),
        (HistoryLimits(0, PLENTY, FOREVER), []),
        (HistoryLimits(1000, 3 * WEIGHT, FOREVER), [3, 4, 5]),
        (HistoryLimits(1000, PLENTY, FOREVER), [1, 2, 3, 4, 5]),
    ],
)
def test_what_is_held_beyond_other_limits_goes(limits: HistoryLimits, left: list[int]) -> None:
    """When the channel is looked at; what went is lost, and told."""
    changing = Changing(HistoryLimits(10, PLENTY, FOREVER))
    fill(changing.history, *"aaaaa")
    changing.change(limits)
    assert held(changing.history, "a") == [1, 2, 3, 4, 5]
    assert not changing.history.apply_limits(10)
    assert held(changing.history, "a") == left
    assert lost(changing.history, "a") == 5 - len(left)
    require_bounded(changing.history)


def test_channels_are_looked_at_a_few_at_a_time() -> None:
    """Until none is left; those that were forgotten meanwhile are passed over, and new ones are right.

    What is evicted counts as well.
    """
    changing = Changing(HistoryLimits(10, PLENTY, FOREVER), max_channels=4)
    fill(changing.history, *"aabbccdd")
    changing.change(HistoryLimits(1, PLENTY, FOREVER))
    fill(changing.history, *"ee", start=9)
    assert changing.history.apply_limits(4)
    assert sorted(len(held(changing.history, name)) for name in "bcd") == [1, 1, 2]
    assert not changing.history.apply_limits(4)
    assert [held(changing.history, name) for name in "abcde"] == [[], [4], [6], [8], [10]]


def test_a_channel_that_holds_far_too_much_gives_a_part_at_a_time() -> None:
    """So that one with a long history holds nobody up, whichever limit it is."""
    for limits in (HistoryLimits(10, PLENTY, FOREVER), HistoryLimits(1000, 10 * WEIGHT, FOREVER)):
        changing = Changing(HistoryLimits(1000, PLENTY, FOREVER))
        fill(changing.history, *("a" * 100))
        changing.change(limits)
        left = []
        while changing.history.apply_limits(31):
            left.append(len(held(changing.history, "a")))
        assert left == [70, 40]
        assert held(changing.history, "a") == list(range(91, 101))
        require_bounded(changing.history)


def test_another_age_holds_for_what_is_held_already() -> None:
    """A shorter one and a longer one, however often it changes, and for a channel that was empty."""
    changing = Changing(HistoryLimits(10, PLENTY, 100.0))
    history = changing.history
    history.extend([publication(1, "a", time=0.0)])
    for age in (5.0, 50.0, 10.0):
        changing.change(HistoryLimits(10, PLENTY, age))
        history.apply_limits(10)
    history.expire(9.0)
    assert held(history, "a") == [1]
    history.expire(10.0)
    assert held(history, "a") == []
    changing.change(HistoryLimits(0, PLENTY, 1000.0))
    history.extend([publication(2, "a", time=11.0)])
    history.apply_limits(10)
    changing.change(HistoryLimits(10, PLENTY, 1.0))
    history.apply_limits(10)
    history.extend([publication(3, "a", time=12.0)])
    history.expire(13.0)
    assert held(history, "a") == []


def test_changing_limits_leaves_nothing_behind() -> None:
    changing = Changing(HistoryLimits(10, PLENTY, 50.0))
    fill(changing.history, *"abcdeabcde")
    for turn in range(500):
        changing.change(HistoryLimits(10, PLENTY, 50.0 + turn % 7))
        changing.history.apply_limits(1000)
    require_bounded(changing.history)
