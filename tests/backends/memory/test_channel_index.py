"""Searches through the channels find what a selector wants, and pause."""

import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from sse_broadcast.backends.memory import channel_index
from sse_broadcast.backends.memory.history import History
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.work_queue import SlicedWork, run_to_completion
from tests.backends.contract import channels_of
from tests.backends.memory.history_cases import (
    ALL,
    FOREVER,
    PLENTY,
    TEN,
    fill,
    history_of,
    publication,
    set_search_slice,
)

T = TypeVar("T")


def test_the_newest_of_each_channel_in_order() -> None:
    """Once each, so many at most, of the types wanted."""
    history = history_of()
    for position, (channels, kind) in enumerate(
        [("a", "t"), ("b", "t"), ("a", "u"), ("b c", "t"), ("d", "u")], 1
    ):
        history.extend([publication(position, channels, type=kind)])
    selector = Selector.parse("*", types=["t"])
    assert [
        one.position
        for one in run_to_completion(history.channel_index.newest_of_each(selector, upto=9, most=10))
    ] == [1, 4]
    assert [
        one.position
        for one in run_to_completion(history.channel_index.newest_of_each(selector, upto=9, most=1))
    ] == [4]
    assert [
        one.position
        for one in run_to_completion(
            history.channel_index.newest_of_each(Selector.parse("*"), upto=9, most=10)
        )
    ] == [3, 4, 5]
    assert run_to_completion(history_of().channel_index.newest_of_each(selector, upto=9, most=10)) == []
    assert [
        one.position
        for one in run_to_completion(
            history.channel_index.newest_of_each(Selector.parse("*"), upto=3, most=10)
        )
    ] == [2, 3]


def test_the_first_of_an_interest_is_of_the_logs_that_hold_something() -> None:
    history = history_of(b=HistoryLimits(0, PLENTY, FOREVER))
    for position, (channel, time) in enumerate([("b", 0.0), ("c", 1.0), ("a", 2.0), ("cc", 3.0)], 1):
        history.extend([publication(position, channel, time=time)])
    history.extend([publication(5, "c", time=4.0)])

    def first(*channels: str, since: float | None = None) -> int | None:
        return run_to_completion(history.channel_index.first_position(Selector.parse(*channels), since=since))

    asked = (("a", "b", "none"), ("c*",), ("a", "c*"), ("*",), ("b",), ("x*",))
    assert [first(*channels) for channels in asked] == [3, 2, 2, 2, None, None]
    assert [first(*channels, since=2.5) for channels in asked] == [None, 4, 4, 4, None, None]
    assert first("*", since=4.5) is None


def pieces_of(steps: SlicedWork[T], between: Callable[[], None] = lambda: None) -> tuple[int, T]:
    """Do work to its end, with something else in between; give its number of pieces, and its result."""
    pieces = 1
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return pieces, end.value
        between()
        pieces += 1


SEARCHES: dict[str, Callable[[History], SlicedWork[Any]]] = {
    "the first": lambda history: history.channel_index.first_position(TEN),
    "the first since": lambda history: history.channel_index.first_position(TEN, since=0.0),
    "the newest": lambda history: history.channel_index.newest_of_each(TEN, upto=ALL, most=1000),
    "the newest of a type": lambda history: history.channel_index.newest_of_each(
        Selector.parse(*TEN.patterns, types=["t"]), upto=ALL, most=1000
    ),
    "what was lost": lambda history: history.watermarks.newest_loss(TEN),
    "an id": lambda history: history.custom_ids.position_of("mine", TEN),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_pauses_for_each_so_many_looks(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel is one, and each text that may be looked for in its name: ten patterns have 40."""
    history = history_of(1, max_channels=5000)
    for position in range(1, 4001):
        own = "mine" if position > 2000 else None
        history.extend([publication(position, f"c{position % 2000}", id=own)])
    monkeypatch.setattr(channel_index, "RECENT_CHANNELS", 0)
    for step in (410, 4100, 41_000):
        set_search_slice(step, monkeypatch)
        pieces, _ = pieces_of(SEARCHES[search](history))
        assert pieces - 1 == 2000 * 41 // step


def test_what_comes_and_goes_in_between_leaves_a_search_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses up to its end are found; of what was published meanwhile, whatever is up to where it began."""
    set_search_slice(2, monkeypatch)
    chance = random.Random(11)
    for _ in range(300):
        history = history_of(2, max_channels=6)
        position = 0

        def publish(history: History = history) -> None:
            nonlocal position
            position += 1
            history.extend([publication(position, f"c{chance.randrange(9)}")])

        for _ in range(20):
            publish()
        selector, after, began = Selector.parse("c1*", "c2", "*3"), chance.randrange(20), position
        match chance.randrange(3):
            case 0:
                _, found = pieces_of(history.watermarks.newest_loss(selector, after=after), publish)
                assert found == run_to_completion(history.watermarks.newest_loss(selector, after=after))
            case 1:
                _, newest = pieces_of(
                    history.channel_index.newest_of_each(selector, upto=began, most=10), publish
                )
                assert all(one.position <= began and selector.first_match(one.channels) for one in newest)
                assert {one.channels for one in newest} >= {
                    log.oldest.channels
                    for log in history.channel_index.logs.values()
                    if selector.matches(log.channel) and log.count and log.newest.position <= began
                }
            case _:
                _, first = pieces_of(history.channel_index.first_position(selector), publish)
                held = [
                    one.position
                    for log in history.channel_index.logs.values()
                    for one in log.after(0)
                    if selector.matches(log.channel) and one.position <= began
                ]
                assert first is not None or not held
                assert not held or (first or 0) <= min(held)


def test_channels_are_named_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is there all the time once, whatever comes and goes."""
    monkeypatch.setattr(channel_index, "NAMES_PER_PAGE", 3)
    history = history_of(max_channels=8)
    fill(history, *(f"c{number}" for number in range(8)))
    pieces = []
    for piece in history.channel_index.names():
        pieces.append(piece)
        fill(history, f"d{len(pieces)}", start=100 + len(pieces))
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    named = channels_of(pieces)
    assert len(set(named)) == len(named)
    assert {f"c{number}" for number in range(3, 8)} <= set(named)


def test_so_many_are_looked_at_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that passes next to nothing gets what was found by then; what passes costs nothing."""
    history = history_of()
    rows = [("a", "t"), *[("a", "u")] * 3, ("b", "t"), *[("b", "u")] * 3, ("c", "t")]
    for position, (channel, kind) in enumerate(rows, 1):
        history.extend([publication(position, channel, type=kind)])
    selector = Selector.parse("*", types=["t"])

    def newest(looks: int, selector: Selector = selector) -> list[int]:
        monkeypatch.setattr(channel_index, "MAX_EVENTS_EXAMINED", looks)
        return [
            one.position
            for one in run_to_completion(history.channel_index.newest_of_each(selector, upto=9, most=10))
        ]

    assert newest(7) == [1, 5, 9]
    assert newest(6) == newest(4) == [5, 9]
    assert newest(3) == newest(1) == [9]
    assert newest(1, Selector.parse("*")) == [4, 8, 9]


def test_the_only_log_of_an_interest() -> None:
    history = history_of(empty=HistoryLimits(0, PLENTY, FOREVER))
    fill(history, "a", "b", "empty")
    log = history.channel_index.only_log(Selector.parse("a"))
    assert log is history.channel_index.logs.get("a") is not None
    for selector in (
        Selector.parse("a", "b"),
        Selector.parse("a", "none"),
        Selector.parse("a*"),
        Selector.parse("a", "b*"),
        Selector.parse("a", types=["message"]),
        Selector.parse("empty"),
        Selector.parse("none"),
    ):
        assert history.channel_index.only_log(selector) is None
