"""Publications in memory: what is held, what is let go of, and that a loss is known."""

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.memory import history as history_module
from sse_broadcast.backends.memory.history import (
    History,
)
from sse_broadcast.backends.memory.weights import CHANNEL_COST, PUBLISHER_COST
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.event import DEFAULT_TYPE
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import Steps, finish
from tests.backends.contract import channels_of
from tests.backends.memory.history_cases import (
    ALL,
    FOREVER,
    PLENTY,
    WEIGHT,
    fill,
    given_after,
    held,
    history_of,
    lost,
    publication,
    require_bounded,
    room,
    weight,
)

T = TypeVar("T")


# Bounds.


def test_a_channel_holds_so_many_events() -> None:
    """The oldest go; the newest that went is the channel's watermark."""
    history = history_of(3)
    fill(history, *"aaaaa")
    assert held(history, "a") == [3, 4, 5]
    assert lost(history, "a") == 2


def test_each_channel_has_its_own_limits() -> None:
    """What one lets go of, another keeps."""
    history = history_of(3, b=HistoryLimits(1, PLENTY, FOREVER), c=HistoryLimits(0, PLENTY, FOREVER))
    fill(history, *["a b c"] * 4)
    assert [held(history, channel) for channel in "abc"] == [[2, 3, 4], [4], []]
    assert [lost(history, channel) for channel in "abc"] == [1, 3, 4]


def test_a_channel_holds_so_many_bytes() -> None:
    """To the byte: as many as the limit holds, and one less if it is one byte less."""
    each = weight(publication(1, id="0000000001"))
    for bytes, expected in [(3 * each, [8, 9, 10]), (3 * each - 1, [9, 10]), (each, [10]), (each - 1, [])]:
        history = history_of(bytes=bytes)
        for position in range(1, 11):
            history.extend([publication(position, id=f"{position:010}")])
        assert held(history, "a") == expected
        assert history.bytes == each * len(expected)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (HistoryLimits(3, PLENTY, FOREVER), [8, 9, 10]),
        (HistoryLimits(1, PLENTY, FOREVER), [10]),
        (HistoryLimits(0, PLENTY, FOREVER), []),
        (HistoryLimits(1000, 2 * weight(publication(100, "a b")), FOREVER), [9, 10]),
        (HistoryLimits(1000, WEIGHT - 10, FOREVER), []),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_a_batch_may_be_larger_than_what_is_held(limits: HistoryLimits, kept: list[int], before: int) -> None:
    """Its own first go as well, and the watermark is the newest of them."""
    history = history_of(a=limits)
    fill(history, *["a"] * before)
    history.extend([publication(position, "a b") for position in range(before + 1, 11)])
    assert held(history, "a") == kept
    assert lost(history, "a") == 10 - len(kept)
    assert held(history, "b") == list(range(before + 1, 11))
    require_bounded(history)


def test_a_batch_larger_than_the_total_leaves_what_there_is_room_for() -> None:
    """The newest of it, within the total when the batch is over."""
    history = history_of(total=room(20, channels=2))
    fill(history, "b")
    history.extend([publication(position, "a") for position in range(2, 302)])
    kept = held(history, "a")
    assert 0 < len(kept) < 20
    assert kept == list(range(302 - len(kept), 302))
    assert (held(history, "b"), history.bytes <= 20 * WEIGHT + 100) == ([1], True)
    require_bounded(history)


def test_a_batch_goes_to_each_of_its_channels() -> None:
    """However they change from one event to the next."""
    history = history_of(2)
    rows = ["a", "a", "a b", "a b", "b", "a", "b a", "c"]
    history.extend([publication(position, row) for position, row in enumerate(rows, 1)])
    assert [held(history, channel) for channel in "abc"] == [[6, 7], [5, 7], [8]]
    assert [lost(history, channel) for channel in "abc"] == [4, 4, 0]
    assert given_after(history, Selector.parse("*"), 0) == [5, 6, 7, 8]
    require_bounded(history)


def test_a_batch_of_nothing_changes_nothing() -> None:
    """There is no event in it."""
    history = history_of()
    fill(history, "a")
    history.extend([])
    assert (held(history, "a"), history.bytes) == ([1], weight(publication(1)))


def test_a_large_event_pushes_out_many() -> None:
    """And one that is larger than the limit pushes out all, itself included."""
    history = history_of(bytes=20 * WEIGHT)
    fill(history, *"aaaaa")
    history.extend([publication(6, data="x" * (8 * WEIGHT))])
    assert held(history, "a")[-1] == 6
    assert len(held(history, "a")) < 6
    history.extend([publication(7, data="x" * (20 * WEIGHT))])
    assert (held(history, "a"), lost(history, "a"), history.bytes) == ([], 7, 0)


def test_a_channel_holds_what_is_not_too_old() -> None:
    """By the clock it is told, each channel by its own age."""
    history = history_of(age=10.0, b=HistoryLimits(1000, PLENTY, 20.0))
    for position in range(1, 6):
        history.extend([publication(position, "a b", time=float(position))])
    history.expire(11.0 - 0.001)
    assert held(history, "a") == [1, 2, 3, 4, 5]
    history.expire(13.5)
    assert (held(history, "a"), held(history, "b")) == ([4, 5], [1, 2, 3, 4, 5])
    history.expire(22.5)
    assert (held(history, "a"), held(history, "b")) == ([], [3, 4, 5])
    assert (lost(history, "a"), lost(history, "b")) == (5, 2)
    history.expire(1000.0)
    assert (history.bytes, channels_of(history.channels())) == (0, [])


def test_a_channel_that_was_emptied_expires_again() -> None:
    """Whatever emptied it: age, count or the total."""
    for emptied in (
        history_of(1, age=10.0),
        history_of(age=10.0, total=room(1, channels=1) * 65 // 64),
        history_of(age=10.0),
    ):
        for position, time in enumerate([0.0, 5.0, 30.0, 35.0, 60.0], 1):
            emptied.expire(time)
            emptied.extend([publication(position, time=time)])
        assert held(emptied, "a") == [5]
        emptied.expire(69.0)
        assert held(emptied, "a") == [5]
        emptied.expire(70.5)
        assert held(emptied, "a") == []


def test_a_channel_that_was_emptied_keeps_its_watermark() -> None:
    """What comes next does not hide what was lost, by name or by pattern, old or new."""
    history = history_of(age=10.0)
    fill(history, "a", "b")
    assert lost(history, "a*") == 0
    history.expire(10.0)
    history.extend([publication(3, time=11.0)])
    assert [lost(history, *names) for names in ("a", "b", ["a*"], ["b*"], ["*"], ["*a"])] == [
        1,
        2,
        1,
        2,
        2,
        1,
    ]


def test_a_history_of_nothing_tells_every_loss() -> None:
    """With no room, each event is lost as it comes, and no trace of it takes room."""
    for history in (history_of(0), history_of(bytes=0), history_of(total=0)):
        for position in range(1, 200):
            history.extend([publication(position, "a b", id=str(position))])
            assert finish(history.lost(Selector.parse("a"))) == position
        assert (history.bytes, channels_of(history.channels()), held(history, "a")) == (0, [], [])
        gap = history.gap(Selector.parse("a"), 0, 199)
        assert (gap.channels, gap.position) == (("a",), 199)
        assert finish(history.position_of("199", Selector.parse("*"))) is None
        require_bounded(history)


# The total.


def test_the_noisiest_channel_gives_first() -> None:
    """A quiet one keeps all its own as long as a noisy one holds more."""
    history = history_of(total=room(20, channels=2))
    fill(history, *["quiet"] * 5, *["noisy"] * 300)
    assert held(history, "quiet") == [1, 2, 3, 4, 5]
    noisy = held(history, "noisy")
    assert noisy == list(range(306 - len(noisy), 306))
    assert len(noisy) > 5
    assert history.bytes <= 20 * WEIGHT + 100


def test_channels_that_are_as_noisy_share_the_room() -> None:
    """Each ends with about as much as the others, the small ones with all of theirs."""
    history = history_of(total=room(60, channels=4))
    fill(history, "small", *["a", "b", "c"] * 100)
    counts = [len(held(history, name)) for name in ("small", "a", "b", "c")]
    assert counts[0] == 1
    assert max(counts[1:]) - min(counts[1:]) <= 1
    assert history.bytes <= 60 * WEIGHT + 100


def test_bytes_make_noise_and_not_events() -> None:
    """One channel of few large events gives before one of many small ones."""
    history = history_of(total=room(40, channels=2))
    fill(history, *["small"] * 10)
    for position in range(11, 60):
        history.extend([publication(position, "large", data="x" * (2 * WEIGHT))])
    assert len(held(history, "small")) == 10
    assert 0 < len(held(history, "large")) < 10


def test_what_no_total_could_hold_is_not_held() -> None:
    """An event larger than all there is pushes out everything, and the next begins anew."""
    history = history_of(total=room(10, channels=4))
    fill(history, *"abc")
    history.extend([publication(4, "d", data="x" * (20 * WEIGHT))])
    assert history.bytes <= 10 * WEIGHT + 100
    assert (held(history, "d"), lost(history, "d")) == ([], 4)
    fill(history, "d", start=5)
    assert held(history, "d") == [5]


def test_a_channel_that_grew_quiet_keeps_what_it_has() -> None:
    """It is what a channel holds that counts, and not what it once held."""
    history = history_of(total=room(40, channels=2), age=10.0)
    for position in range(1, 31):
        history.extend([publication(position, "once", time=0.0)])
    history.expire(10.0)
    for position in range(31, 36):
        history.extend([publication(position, "once", time=11.0)])
    for position in range(36, 136):
        history.extend([publication(position, "now", time=11.0)])
    assert held(history, "once") == [31, 32, 33, 34, 35]


# Several channels.


def test_a_publication_in_several_channels_counts_once() -> None:
    """It is let go of in each by itself, and gone with the last."""
    history = history_of(b=HistoryLimits(1, PLENTY, FOREVER))
    history.extend([publication(1, "a b", id="mine")])
    whole = history.bytes
    assert whole == weight(publication(1, "a b", id="mine"))
    fill(history, "b", start=2)
    assert (held(history, "a"), held(history, "b")) == ([1], [2])
    assert history.bytes == whole + weight(publication(2))
    assert finish(history.position_of("mine", Selector.parse("*"))) == 1
    assert (lost(history, "a"), lost(history, "b")) == (0, 1)


def test_a_publication_in_several_channels_is_given_once() -> None:
    """In a merge of names, and for a pattern."""
    history = history_of()
    fill(history, "a b", "b", "c a b", "d", "a")
    assert given_after(history, Selector.parse("a", "b", "c"), 0) == [1, 2, 3, 5]
    assert given_after(history, Selector.parse("a", "b"), 1) == [2, 3, 5]
    assert given_after(history, Selector.parse("*"), 0) == [1, 2, 3, 4, 5]
    assert given_after(history, Selector.parse("b", "a*"), 0) == [1, 2, 3, 5]


def test_the_total_lets_go_of_every_copy() -> None:
    """Channels that hold the same make room together."""
    history = history_of(total=room(10, channels=3))
    fill(history, *["a b c"] * 100)
    assert 0 < history.bytes <= 10 * WEIGHT + 100
    require_bounded(history)


# Publishers' ids.


def test_a_publishers_id_is_found_and_forgotten() -> None:
    """The oldest wins, and with its end a later one stands for nothing either."""
    history = history_of(2)
    for position, name in enumerate(["x", "x", None, "y"], 1):
        history.extend([publication(position, id=name)])
        if position == 2:
            assert finish(history.position_of("x", Selector.parse("*"))) == 1
        if position == 3:
            assert finish(history.position_of("x", Selector.parse("*"))) is None
    assert finish(history.position_of("x", Selector.parse("*"))) is None
    assert finish(history.position_of("y", Selector.parse("*"))) == 4
    assert finish(history.position_of("z", Selector.parse("*"))) is None


# Watermarks.


def test_a_pattern_has_the_watermark_of_what_it_matches() -> None:
    """Seen before or after the eviction, and before or after the channel."""
    history = history_of(1)
    assert lost(history, "x.*") == 0
    fill(history, "x.1", "y.1", "x.1", "y.1", "x.2", "y.1")
    assert [lost(history, pattern) for pattern in ("x.*", "y.*", "*", "*.1", "*.2", "z*")] == [
        1,
        4,
        4,
        4,
        0,
        0,
    ]
    fill(history, "x.2", "z", "z", start=7)
    assert [lost(history, pattern) for pattern in ("x.*", "y.*", "*", "*.1", "*.2", "z*")] == [
        5,
        4,
        8,
        4,
        5,
        8,
    ]


@pytest.mark.parametrize("recent", [1, 2, 3, 100])
def test_losses_of_patterns_are_found_however_many_are_remembered(
    recent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the latest of them, or where those do not go back far enough by a look at each channel."""
    monkeypatch.setattr(history_module, "RECENT_EVICTIONS", recent)
    history = history_of(1)
    fill(history, "a", "a", "b", "b", "ab", "ab")
    patterns = {"a*": 5, "b*": 3, "*b": 5, "*": 5, "*a": 1}
    assert {pattern: lost(history, pattern) for pattern in patterns} == patterns
    fill(history, "a", "c", start=7)
    assert {pattern: lost(history, pattern) for pattern in patterns} == {**patterns, "*a": 2}
    for after in range(9):
        for pattern, newest in {**patterns, "*a": 2}.items():
            found = finish(history.lost(Selector.parse(pattern), after=after))
            assert found == (newest if newest > after else 0)
    require_bounded(history)


def test_a_forgotten_channel_leaves_its_watermark_to_all() -> None:
    """To patterns, and to whatever is not remembered; channels still held lose nothing by it."""
    history = history_of(max_channels=2)
    fill(history, "a", "b", "b", "c")
    assert held(history, "a") == []
    assert sorted(channels_of(history.channels())) == ["b", "c"]
    assert [lost(history, name) for name in ("a", "never", "b*", "*", "b")] == [1, 1, 1, 1, 0]
    fill(history, "a", start=5)
    assert lost(history, "a") >= 1
    require_bounded(history)


def test_an_empty_channel_is_forgotten_before_one_that_holds_something() -> None:
    """Nothing is evicted as long as there is one that has nothing."""
    history = history_of(max_channels=3, b=HistoryLimits(0, PLENTY, FOREVER))
    fill(history, "a", "b", "c", "d")
    assert sorted(channels_of(history.channels())) == ["a", "c", "d"]
    assert [lost(history, name) for name in ("a", "b", "c", "b*")] == [0, 2, 0, 2]


def test_however_many_channels_come_so_many_are_remembered() -> None:
    """And what is held is of those alone."""
    history = history_of(max_channels=10)
    for position in range(1, 2000):
        history.extend([publication(position, f"c{position}")])
        assert len(history._logs) <= 10
    assert len(channels_of(history.channels())) == 10
    assert lost(history, "c5") == 1989
    require_bounded(history)


def test_channels_that_come_and_go_leave_nothing_behind() -> None:
    """More channels than the total has room for: each is forgotten wholly."""
    history = history_of(total=5 * WEIGHT, max_channels=10)
    for position in range(1, 2000):
        fill(history, f"c{position}", start=position)
    require_bounded(history)


def test_a_busy_channel_is_not_the_first_to_be_forgotten() -> None:
    """The channel that was published to longest ago goes first."""
    history = history_of(max_channels=3)
    fill(history, "busy", "x", "busy", "y", "busy", "z")
    assert held(history, "busy") == [1, 3, 5]
    assert sorted(channels_of(history.channels())) == ["busy", "y", "z"]


def test_a_new_channel_has_not_lost_what_it_holds() -> None:
    """Though another channel of the same publication is forgotten for it."""
    history = history_of(max_channels=2, b=HistoryLimits(0, PLENTY, FOREVER))
    fill(history, "a", "b c")
    assert held(history, "c") == [2]
    assert lost(history, "c") < 2
    require_bounded(history)


# Losses that are no news.


def test_what_was_evicted_before_is_no_news() -> None:
    """By the number of the eviction, and not by the position: a quiet channel loses old ones later."""
    history = history_of(2, b=HistoryLimits(1000, PLENTY, 10.0))
    fill(history, "b", *"aaaa")
    both, told = Selector.parse("a", "b"), history.evictions
    assert (finish(history.lost(both)), finish(history.lost(both, told=told))) == (3, 0)
    history.expire(10.0)
    assert history.evictions == told + 1
    for selector in (both, Selector.parse("*"), Selector.parse("b"), Selector.parse("a", "b*")):
        assert finish(history.lost(selector, told=told)) == 1
        assert finish(history.lost(selector, told=history.evictions)) == 0
    assert finish(history.lost(Selector.parse("a"), told=told)) == 0


def test_each_event_that_goes_is_an_eviction() -> None:
    """A run of them counts for as many, in each channel of its own."""
    history = history_of(2)
    before = history.evictions
    history.extend([publication(position, "a b") for position in range(1, 6)])
    assert history.evictions == before + 6


def test_a_channel_that_was_forgotten_meanwhile_is_news() -> None:
    """Gone, or back again and told apart from one that was always there."""
    history = history_of(max_channels=2)
    fill(history, "a", "b")
    told = history.evictions
    fill(history, "c", start=3)
    assert finish(history.lost(Selector.parse("a"), told=told)) == 1
    assert finish(history.lost(Selector.parse("a"), told=history.evictions)) == 0
    fill(history, "a", start=4)
    assert finish(history.lost(Selector.parse("a"), told=told)) >= 1


# Gaps.


def test_a_gap_ends_just_before_what_is_still_held() -> None:
    """Its channels are those that lost something, or whose held events are given up with it."""
    history = history_of(2)
    fill(history, "quiet", "noisy", "noisy", "noisy", "other", "noisy", "quiet", "late")
    selector = Selector.parse("quiet", "noisy", "other", "late", "none")
    gap = history.gap(selector, 0, finish(history.lost(selector)))
    assert (gap.channels, gap.position) == (("noisy", "quiet"), 3)
    gap = history.gap(selector, 1, finish(history.lost(selector)))
    assert (gap.channels, gap.position) == (("noisy",), 3)


def test_a_gap_with_nothing_behind_it_ends_at_the_loss() -> None:
    """There is no event to stand before."""
    history = history_of(age=10.0)
    fill(history, "a", "b", "a")
    history.expire(10.0)
    gap = history.gap(Selector.parse("a", "b", "c"), 0, 3)
    assert (gap.channels, gap.position) == (("a", "b"), 3)


def test_a_gap_passes_over_what_other_channels_hold() -> None:
    """The reader's cursor comes as far as it can without passing an event of its own."""
    history = history_of(1)
    fill(history, "a", "a", "b", "c", "a")
    gap = history.gap(Selector.parse("a"), 0, 2)
    assert (gap.channels, gap.position) == (("a",), 4)


def test_a_gap_of_a_pattern_names_the_pattern() -> None:
    """A reader of patterns is told what it asked for."""
    history = history_of(1)
    fill(history, "a", "x.1", "x.1")
    gap = history.gap(Selector.parse("a", "x.*", "y*"), 0, 2)
    assert gap.channels[-2:] == ("x.*", "y*")
    assert gap.position == 2


# Reading.


def test_an_event_that_is_not_wanted_is_a_place_to_pause_at() -> None:
    """It is given as None, with its position."""
    history = history_of()
    for position, kind in enumerate(["t", "u", "t"], 1):
        history.extend([publication(position, type=kind)])
    for channels in (["a"], ["a", "b"], ["*"]):
        selector = Selector.parse(*channels, types=["t"])
        found = [(place, one and one.position) for place, one, _ in history.after(selector, 0)]
        assert found == [(1, 1), (2, None), (3, 3)]


def test_the_newest_of_each_channel_in_order() -> None:
    """Once each, so many at most, of the types wanted."""
    history = history_of()
    for position, (channels, kind) in enumerate(
        [("a", "t"), ("b", "t"), ("a", "u"), ("b c", "t"), ("d", "u")], 1
    ):
        history.extend([publication(position, channels, type=kind)])
    selector = Selector.parse("*", types=["t"])
    assert [one.position for one in finish(history.newest_of(selector, upto=9, most=10))] == [1, 4]
    assert [one.position for one in finish(history.newest_of(selector, upto=9, most=1))] == [4]
    assert [one.position for one in finish(history.newest_of(Selector.parse("*"), upto=9, most=10))] == [
        3,
        4,
        5,
    ]
    assert finish(history_of().newest_of(selector, upto=9, most=10)) == []
    assert [one.position for one in finish(history.newest_of(Selector.parse("*"), upto=3, most=10))] == [2, 3]


def test_the_first_of_an_interest_is_of_the_logs_that_hold_something() -> None:
    """By name and by pattern, and of those that are not too old."""
    history = history_of(b=HistoryLimits(0, PLENTY, FOREVER))
    for position, (channel, time) in enumerate([("b", 0.0), ("c", 1.0), ("a", 2.0), ("cc", 3.0)], 1):
        history.extend([publication(position, channel, time=time)])
    history.extend([publication(5, "c", time=4.0)])

    def first(*channels: str, since: float | None = None) -> int | None:
        return finish(history.first_of(Selector.parse(*channels), since=since))

    asked = (("a", "b", "none"), ("c*",), ("a", "c*"), ("*",), ("b",), ("x*",))
    assert [first(*channels) for channels in asked] == [3, 2, 2, 2, None, None]
    assert [first(*channels, since=2.5) for channels in asked] == [None, 4, 4, 4, None, None]
    assert first("*", since=4.5) is None


# Searches pause.


def pieces_of(steps: Steps[T], between: Callable[[], None] = lambda: None) -> tuple[int, T]:
    """Do work to its end, with something else in between; give its number of pieces, and its result."""
    pieces = 1
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return pieces, end.value
        between()
        pieces += 1


TEN = Selector.parse(*[f"*{digit}*z*" for digit in range(10)])
"""Ten patterns of three stars."""


SEARCHES: dict[str, Callable[[History], Steps[Any]]] = {
    "the first": lambda history: history.first_of(TEN),
    "the first since": lambda history: history.first_of(TEN, since=0.0),
    "the newest": lambda history: history.newest_of(TEN, upto=ALL, most=1000),
    "the newest of a type": lambda history: history.newest_of(
        Selector.parse(*TEN.patterns, types=["t"]), upto=ALL, most=1000
    ),
    "what was lost": lambda history: history.lost(TEN),
    "an id": lambda history: history.position_of("mine", TEN),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_pauses_for_each_so_many_looks(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel is one, and each text that may be looked for in its name: ten patterns have 40."""
    history = history_of(1, max_channels=5000)
    for position in range(1, 4001):
        own = "mine" if position > 2000 else None
        history.extend([publication(position, f"c{position % 2000}", id=own)])
    monkeypatch.setattr(history_module, "AT_FIRST", 0)
    for step in (410, 4100, 41_000):
        monkeypatch.setattr(history_module, "SEARCH_STEP", step)
        pieces, _ = pieces_of(SEARCHES[search](history))
        assert pieces - 1 == 2000 * 41 // step


def test_a_replay_of_patterns_ends_its_page_after_so_much_work() -> None:
    """Texts that are looked for count, in each channel of an event that nobody wants."""
    history = history_of()
    history.extend([publication(1, "a"), publication(2, " ".join(f"c{n}" for n in range(100)))])
    costs = [cost for _, _, cost in history.after(TEN, 0)]
    assert costs == [1 + 40 // 8, 1 + 100 * 40 // 8]
    assert [cost for _, _, cost in history.after(Selector.parse("a", "c1"), 0)] == [1, 1]


def test_what_comes_and_goes_in_between_leaves_a_search_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses up to its end are found; of what was published meanwhile, whatever is up to where it began."""
    monkeypatch.setattr(history_module, "SEARCH_STEP", 2)
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
                _, found = pieces_of(history.lost(selector, after=after), publish)
                assert found == finish(history.lost(selector, after=after))
            case 1:
                _, newest = pieces_of(history.newest_of(selector, upto=began, most=10), publish)
                assert all(one.position <= began and selector.first_match(one.channels) for one in newest)
                assert {one.channels for one in newest} >= {
                    log.oldest.channels
                    for log in history._logs.values()
                    if selector.matches(log.channel) and log.count and log.newest.position <= began
                }
            case _:
                _, first = pieces_of(history.first_of(selector), publish)
                held = [
                    one.position
                    for log in history._logs.values()
                    for one in log.after(0)
                    if selector.matches(log.channel) and one.position <= began
                ]
                assert first is not None or not held
                assert not held or (first or 0) <= min(held)


def test_channels_are_named_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is there all the time once, whatever comes and goes."""
    monkeypatch.setattr(history_module, "CHANNELS", 3)
    history = history_of(max_channels=8)
    fill(history, *(f"c{number}" for number in range(8)))
    pieces = []
    for piece in history.channels():
        pieces.append(piece)
        fill(history, f"d{len(pieces)}", start=100 + len(pieces))
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    named = channels_of(pieces)
    assert len(set(named)) == len(named)
    assert {f"c{number}" for number in range(3, 8)} <= set(named)


def test_what_is_too_old_goes_in_pieces() -> None:
    """So many publications at once, of one channel or of many; the rest is still due."""
    history = history_of(age=10.0)
    fill(history, *("a" * 100), *(f"c{number}" for number in range(100)))
    left = [history.usage.events]
    while history.expire(10.0, most=30):
        left.append(history.usage.events)
    assert left == [200, 170, 140, 110, 80, 50, 20]
    assert history.usage.events == 0
    require_bounded(history)


def test_so_many_are_looked_at_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that passes next to nothing gets what was found by then; what passes costs nothing."""
    history = history_of()
    rows = [("a", "t"), *[("a", "u")] * 3, ("b", "t"), *[("b", "u")] * 3, ("c", "t")]
    for position, (channel, kind) in enumerate(rows, 1):
        history.extend([publication(position, channel, type=kind)])
    selector = Selector.parse("*", types=["t"])

    def newest(looks: int, selector: Selector = selector) -> list[int]:
        monkeypatch.setattr(history_module, "LOOKS", looks)
        return [one.position for one in finish(history.newest_of(selector, upto=9, most=10))]

    assert newest(7) == [1, 5, 9]
    assert newest(6) == newest(4) == [5, 9]
    assert newest(3) == newest(1) == [9]
    assert newest(1, Selector.parse("*")) == [4, 8, 9]


def test_the_only_log_of_an_interest() -> None:
    """One name, every type, and something held; else there is none."""
    history = history_of(empty=HistoryLimits(0, PLENTY, FOREVER))
    fill(history, "a", "b", "empty")
    log = history.only_log(Selector.parse("a"))
    assert log is history.log_of("a") is not None
    for selector in (
        Selector.parse("a", "b"),
        Selector.parse("a", "none"),
        Selector.parse("a*"),
        Selector.parse("a", "b*"),
        Selector.parse("a", types=["message"]),
        Selector.parse("empty"),
        Selector.parse("none"),
    ):
        assert history.only_log(selector) is None


# The one order of all channels.


# Bounded, whatever happens.


@pytest.mark.parametrize(
    ("total", "max_channels", "size"),
    [
        (PLENTY, 1000, 10),
        (PLENTY, 12, 10),
        (200 * WEIGHT, 1000, 50),
        (200 * WEIGHT, 25, 50),
        (60 * WEIGHT, 10, 1000),
        (PLENTY, 1, 5),
        (PLENTY, 1000, 0),
    ],
)
def test_nothing_grows_with_what_has_passed(
    total: int, max_channels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After thousands of publishes, expiries and readers, every structure is bounded by what is held."""
    monkeypatch.setattr(history_module, "RECENT_EVICTIONS", 4)
    chance = random.Random(7)
    history = history_of(size, age=40.0, total=total, max_channels=max_channels)
    now, position = 0.0, 0
    for step in range(1, 2001):
        now += chance.choice([0.0, 0.0, 0.1, 1.0])
        history.expire(now)
        batch = []
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            names = " ".join(sorted(some_names(chance)))
            for _ in range(chance.choice([1, 1, 3])):
                position += 1
                name = f"id{chance.randrange(50)}" if chance.random() < 0.3 else None
                data = "x" * chance.randrange(100)
                batch.append(publication(position, names, time=now, id=name, data=data))
        history.extend(batch, chance.choice(["", "a", "b"]))
        if chance.random() < 0.1:
            finish(history.lost(Selector.parse(f"c{chance.randrange(10)}*")))
        assert history.bytes <= total
        if step % 125 == 0:
            require_bounded(history)
    history.expire(now + 40.0)
    require_bounded(history)
    assert (history.bytes, channels_of(history.channels()), history._named, history._copies) == (
        0,
        [],
        {},
        {},
    )


def some_names(chance: random.Random) -> set[str]:
    """Give one or two channels, some of them far busier than others."""
    return {f"c{min(chance.randrange(30), chance.randrange(30))}" for _ in range(chance.choice([1, 1, 2]))}


def test_a_busy_channel_does_not_crowd_the_heaps() -> None:
    """One that is filled and emptied over and over has its place among the noisiest once."""
    history = history_of(total=room(50, channels=1), age=1.0)
    for position in range(1, 5001):
        history.expire(position / 10.0)
        history.extend([publication(position, time=position / 10.0, data="x" * (position % 97 * 20))])
        (share,) = history._shares.values()
        assert len(share.largest_log) <= len(history._most_bytes) + 66 <= 132
        assert len(history._expiring) <= 67
    require_bounded(history)


def steps_of(act: Callable[[], None]) -> int:
    """Count the lines of Python that it takes."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return steps


def steps_of_appending(history: History, rows: list[Publication]) -> int:
    """Count the lines that it takes to hold each of these by itself."""

    def append() -> None:
        for row in rows:
            history.extend([row])

    return steps_of(append)


@pytest.mark.parametrize(
    ("total", "size"),
    [(PLENTY, 1000), (PLENTY, 1), (PLENTY, 0)],
    ids=["held", "replaced", "not held"],
)
def test_a_publish_takes_as_long_with_ten_thousand_channels(total: int, size: int) -> None:
    """As many steps beside ten thousand channels as beside ten."""

    def taken(others: int) -> int:
        history = history_of(size, total=total, max_channels=100_000)
        fill(history, *(f"c{number}" for number in range(others)))
        return steps_of_appending(history, [publication(n, "c1") for n in range(others + 1, others + 1001)])

    assert taken(10_000) <= 1.2 * taken(10)


def test_evicting_takes_as_long_from_a_long_log() -> None:
    """A full channel of ten thousand events takes another in as many steps as one of a hundred."""

    def taken(size: int) -> int:
        history = history_of(size)
        fill(history, *["a b"] * size)
        return steps_of_appending(history, [publication(n, "a b") for n in range(size + 1, size + 1001)])

    assert taken(10_000) <= 1.2 * taken(100)


def test_a_batch_takes_fewer_steps_than_its_events_alone() -> None:
    """What follows one another in the same channels is one step for each of them."""
    rows = [publication(position, "a b") for position in range(1, 1001)]
    alone, together = history_of(100), history_of(100)
    assert 4 * steps_of(lambda: together.extend(rows)) < steps_of_appending(alone, rows)
    assert held(alone, "a") == held(together, "a")


# Against a naive model.


class Model:
    """The same rules for one channel at a time, over plain lists."""

    def __init__(self, limits: dict[str, HistoryLimits]) -> None:
        self.limits = limits
        self.ever: list[Publication] = []
        self.held: dict[str, list[Publication]] = defaultdict(list)
        self.gone: dict[str, int] = defaultdict(int)

    def extend(self, publications: Sequence[Publication]) -> None:
        for new in publications:
            self.ever.append(new)
            for name in new.channels:
                log, limits = self.held[name], self.limits[name]
                log.append(new)
                while len(log) > limits.size or sum(map(weight, log)) > limits.bytes:
                    self.gone[name] = log.pop(0).position

    def expire(self, now: float) -> None:
        for name, log in self.held.items():
            while log and log[0].time + self.limits[name].age <= now:
                self.gone[name] = log.pop(0).position

    def read(self, selector: Selector, after: int) -> tuple[list[int], bool]:
        """Give what a reader gets, and whether it is told of a loss."""
        mine = [name for name in self.held if selector.matches(name)]
        newest_loss = max((self.gone[name] for name in mine), default=0)
        begin = max(after, newest_loss)
        found = {one.position: one for name in mine for one in self.held[name] if one.position > begin}
        return [n for n in sorted(found) if selector.accepts_type(found[n].event.type)], newest_loss > after


def read(history: History, selector: Selector, after: int) -> tuple[list[int], bool]:
    """Read a history to its end as a backend does: a gap if there is one, then what is behind it."""
    newest_loss = finish(history.lost(selector))
    told = newest_loss > after
    if told:
        gap = history.gap(selector, after, newest_loss)
        assert gap.position >= newest_loss
        assert gap.channels
        assert set(gap.channels) <= set(selector.channels)
        after = gap.position
        assert finish(history.lost(selector)) <= after, "told of the same loss again"
    return given_after(history, selector, after), told


NAMES = ["a", "b", "x.1", "x.2", "x"]
LIMITS = {
    "a": HistoryLimits(3, PLENTY, 20.0),
    "b": HistoryLimits(1000, 4 * WEIGHT, 5.0),
    "x.1": HistoryLimits(2, PLENTY, FOREVER),
    "x.2": HistoryLimits(0, PLENTY, FOREVER),
    "x": HistoryLimits(1000, PLENTY, 10.0),
}
Row = tuple[set[str], str, str | None, int, int]
Step = tuple[list[Row], float]

ROWS = st.tuples(
    st.sets(st.sampled_from(NAMES), min_size=1, max_size=3),
    st.sampled_from([DEFAULT_TYPE, "t"]),
    st.sampled_from([None, "one", "two"]),
    st.sampled_from([0, 0, 10, 300]),
    st.sampled_from([1, 1, 2, 6]),
)
"""Channels, type, id, length, and how many such events follow one another."""

STEPS = st.lists(
    st.tuples(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from([0.0, 0.0, 1.0, 4.0, 12.0])),
    max_size=15,
)
"""Batches, and the time that passes before each."""


def batches_of(steps: list[Step]) -> Iterator[tuple[float, list[Publication]]]:
    """Give what the steps say, with the time of each batch."""
    now, position = 0.0, 0
    for rows, passing in steps:
        now += passing
        batch = []
        for channels, kind, name, length, count in rows:
            for _ in range(count):
                position += 1
                places = " ".join(sorted(channels))
                data = "x" * length
                batch.append(publication(position, places, type=kind, id=name, data=data, time=now))
        yield now, batch


ASKED = [
    Selector.parse(*channels, types=types)
    for channels in (
        ["a"],
        ["b"],
        ["x.2"],
        ["a", "b"],
        ["a", "x", "none"],
        ["none"],
        NAMES,
        ["x*"],
        ["x.*", "a"],
        ["*"],
    )
    for types in (None, ["t"])
]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(STEPS, st.data())
def test_it_is_what_the_naive_model_is(steps: list[Step], data: st.DataObject) -> None:
    """For every interest and cursor: the same events, each once, and a gap if and only if there is one."""
    model = Model(LIMITS)
    history = History(LIMITS.__getitem__, total=PLENTY, max_channels=1000)
    for now, batch in batches_of(steps):
        for kept in (history, model):
            kept.expire(now)
            kept.extend(batch)
        for selector in data.draw(st.sets(st.sampled_from(ASKED), max_size=2)):
            finish(history.lost(selector))
    for name in NAMES:
        assert held(history, name) == [one.position for one in model.held[name]]
    for selector in ASKED:
        for after in range(len(model.ever) + 1):
            assert read(history, selector, after) == model.read(selector, after)
    still = [one for held in model.held.values() for one in held]
    for name in ("one", "two"):
        oldest = min((one.position for one in still if one.event.id == name), default=None)
        assert finish(history.position_of(name, Selector.parse("*"))) in {None, oldest}
    require_bounded(history)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(STEPS)
def test_a_batch_is_its_publications_one_by_one(steps: list[Step]) -> None:
    """What is held, what was lost, and the number of evictions do not say how it came."""
    together, alone = (History(LIMITS.__getitem__, total=PLENTY, max_channels=1000) for _ in range(2))
    for now, batch in batches_of(steps):
        together.expire(now)
        together.extend(batch)
        alone.expire(now)
        for one in batch:
            alone.extend([one])
        assert state_of(together) == state_of(alone)
        require_bounded(together)


def state_of(history: History) -> object:
    """Give all that a reader could ever see of it."""
    return (
        {name: held(history, name) for name in NAMES},
        {selector: finish(history.lost(selector)) for selector in ASKED},
        {name: finish(history.position_of(name, Selector.parse("*"))) for name in ("one", "two")},
        history.bytes,
        history.evictions,
    )


@settings(derandomize=True, deadline=None, max_examples=150)
@given(STEPS, st.integers(1, 30), st.integers(1, 5))
def test_no_loss_is_silent_however_it_came(steps: list[Step], room: int, max_channels: int) -> None:
    """With a total and forgotten channels too: all that is held behind a gap is given, all else was told."""
    history = History(LIMITS.__getitem__, total=room * WEIGHT, max_channels=max_channels)
    published: list[Publication] = []
    for now, batch in batches_of(steps):
        published += batch
        history.expire(now)
        history.extend(batch, f"{len(batch) % 3}")
        assert history.bytes <= room * WEIGHT
        require_bounded(history)
    for selector in ASKED:
        for after in range(len(published) + 1):
            require_told(history, selector, after, published)


def require_told(history: History, selector: Selector, after: int, published: list[Publication]) -> None:
    got, told = read(history, selector, after)
    assert got == sorted(set(got))
    due = [one for one in published if one.position > after and selector.first_match(one.channels)]
    wanted = [one.position for one in due if selector.accepts_type(one.event.type)]
    if told:
        assert got == wanted[len(wanted) - len(got) :]
    else:
        assert got == wanted
    whole = all(
        one.position in held(history, name) for one in due for name in one.channels if selector.matches(name)
    )
    assert told or whole
    if not history._forgotten:
        assert told is not whole


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 2000)), max_size=80), st.integers(10, 40))
def test_only_the_noisiest_gives(steps: list[tuple[str, int]], room: int) -> None:
    """No channel lets go of an event for the total while another one holds more.

    Where channels take more than all events do, channels are forgotten: there is more room here.
    """
    history = history_of(total=room * WEIGHT + 5 * (CHANNEL_COST + 1) + PUBLISHER_COST)
    published: dict[int, Publication] = {}
    for position, (name, length) in enumerate(steps, 1):
        before = {channel: finish(history.lost(Selector.parse(channel))) for channel in "abcde"}
        published[position] = publication(position, name, data="x" * length)
        history.extend([published[position]])
        bytes = {channel: log.bytes if (log := history.log_of(channel)) else 0 for channel in "abcde"}
        for channel in "abcde":
            last = finish(history.lost(Selector.parse(channel)))
            if last > before[channel]:
                assert bytes[channel] + weight(published[last]) >= max(bytes.values())


def test_another_channel_that_is_forgotten_is_no_news() -> None:
    """To who asked for channels by name that are all still remembered."""
    history = history_of(max_channels=3, a=HistoryLimits(2, PLENTY, FOREVER))
    fill(history, "x", "b", *"aaaa", "b", "x", "a", "b")
    both, told = Selector.parse("a", "b"), history.evictions
    assert finish(history.lost(both)) == 5
    fill(history, "a", "b", "y", start=11)
    told += 1  # the one that the last a has cost
    assert sorted(channels_of(history.channels())) == ["a", "b", "y"]
    assert finish(history.lost(both, told=told)) == 0
    assert finish(history.lost(Selector.parse("x"), told=told)) == 8
    fill(history, "x", start=14)
    assert finish(history.lost(Selector.parse("x"), told=told)) >= 8


def test_a_publishers_id_is_looked_for_in_the_channels_of_the_interest() -> None:
    """The same number in a channel of somebody else's says nothing of where a reader was."""
    history = history_of(gone=HistoryLimits(1, PLENTY, FOREVER))
    for position, (channels, name) in enumerate([("a", "17"), ("a b", None), ("b", "17"), ("gone", "17")], 1):
        history.extend([publication(position, channels, id=name)])
    assert finish(history.position_of("17", Selector.parse("a"))) == 1
    assert finish(history.position_of("17", Selector.parse("b"))) == 3
    assert finish(history.position_of("17", Selector.parse("a", "b"))) == 1
    assert finish(history.position_of("17", Selector.parse("g*"))) == 4
    assert finish(history.position_of("17", Selector.parse("c"))) is None
    fill(history, "gone", start=5)
    assert finish(history.position_of("17", Selector.parse("gone"))) is None
    assert finish(history.position_of("17", Selector.parse("*"))) == 1


# Other limits.


class Changing:
    """Limits that a test changes."""

    def __init__(self, limits: HistoryLimits) -> None:
        self.limits = limits
        self.history = History(lambda _: self.limits, total=PLENTY, max_channels=1000)

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
    assert not changing.history.settle(10)
    assert held(changing.history, "a") == left
    assert lost(changing.history, "a") == 5 - len(left)
    require_bounded(changing.history)


def test_channels_are_looked_at_a_few_at_a_time() -> None:
    """Until none is left; those that were forgotten meanwhile are passed over, and new ones are right.

    What is evicted counts as well.
    """
    changing = Changing(HistoryLimits(10, PLENTY, FOREVER))
    fill(changing.history, *"aabbccdd")
    changing.change(HistoryLimits(1, PLENTY, FOREVER))
    changing.history._forget(changing.history._logs["a"])
    changing.history.extend([publication(9, "e"), publication(10, "e")])
    assert changing.history.settle(4)
    assert sorted(len(held(changing.history, name)) for name in "bcd") == [1, 1, 2]
    assert not changing.history.settle(4)
    assert [held(changing.history, name) for name in "abcde"] == [[], [4], [6], [8], [10]]


def test_a_channel_that_holds_far_too_much_gives_a_part_at_a_time() -> None:
    """So that one with a long history holds nobody up, whichever limit it is."""
    for limits in (HistoryLimits(10, PLENTY, FOREVER), HistoryLimits(1000, 10 * WEIGHT, FOREVER)):
        changing = Changing(HistoryLimits(1000, PLENTY, FOREVER))
        fill(changing.history, *("a" * 100))
        changing.change(limits)
        left = []
        while changing.history.settle(31):
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
        history.settle(10)
    history.expire(9.0)
    assert held(history, "a") == [1]
    history.expire(10.0)
    assert held(history, "a") == []
    changing.change(HistoryLimits(0, PLENTY, 1000.0))
    history.extend([publication(2, "a", time=11.0)])
    history.settle(10)
    changing.change(HistoryLimits(10, PLENTY, 1.0))
    history.settle(10)
    history.extend([publication(3, "a", time=12.0)])
    history.expire(13.0)
    assert held(history, "a") == []


def test_changing_limits_leaves_nothing_behind() -> None:
    """However often, with what is held and without."""
    changing = Changing(HistoryLimits(10, PLENTY, 50.0))
    fill(changing.history, *"abcdeabcde")
    for turn in range(500):
        changing.change(HistoryLimits(10, PLENTY, 50.0 + turn % 7))
        changing.history.settle(1000)
    require_bounded(changing.history)
