"""Publications in memory: what is held, what is let go of, and that a loss is known."""

import pytest

from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.work_queue import run_to_completion
from tests.backends.contract import channels_of
from tests.backends.memory.history_cases import (
    FOREVER,
    PLENTY,
    TEN,
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

# Bounds.


def test_a_channel_holds_so_many_events() -> None:
    """The oldest go; the newest that went is the channel's watermark."""
    history = history_of(3)
    fill(history, *"aaaaa")
    assert held(history, "a") == [3, 4, 5]
    assert lost(history, "a") == 2


def test_each_channel_has_its_own_limits() -> None:
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
    history = history_of(total=room(20, channels=2))
    fill(history, "b")
    history.extend([publication(position, "a") for position in range(2, 302)])
    kept = held(history, "a")
    assert 0 < len(kept) < 20
    assert kept == list(range(302 - len(kept), 302))
    assert (held(history, "b"), history.bytes <= 20 * WEIGHT + 100) == ([1], True)
    require_bounded(history)


def test_a_batch_goes_to_each_of_its_channels() -> None:
    history = history_of(2)
    rows = ["a", "a", "a b", "a b", "b", "a", "b a", "c"]
    history.extend([publication(position, row) for position, row in enumerate(rows, 1)])
    assert [held(history, channel) for channel in "abc"] == [[6, 7], [5, 7], [8]]
    assert [lost(history, channel) for channel in "abc"] == [4, 4, 0]
    assert given_after(history, Selector.parse("*"), 0) == [5, 6, 7, 8]
    require_bounded(history)


def test_a_batch_of_nothing_changes_nothing() -> None:
    history = history_of()
    fill(history, "a")
    history.extend([])
    assert (held(history, "a"), history.bytes) == ([1], weight(publication(1)))


def test_a_large_event_pushes_out_many() -> None:
    history = history_of(bytes=20 * WEIGHT)
    fill(history, *"aaaaa")
    history.extend([publication(6, data="x" * (8 * WEIGHT))])
    assert held(history, "a")[-1] == 6
    assert len(held(history, "a")) < 6
    history.extend([publication(7, data="x" * (20 * WEIGHT))])
    assert (held(history, "a"), lost(history, "a"), history.bytes) == ([], 7, 0)


def test_a_channel_holds_what_is_not_too_old() -> None:
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
    assert (history.bytes, channels_of(history.channel_index.names())) == (0, [])


def test_a_channel_that_was_emptied_expires_again() -> None:
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
    losses = [lost(history, *names) for names in ("a", "b", ["a*"], ["b*"], ["*"], ["*a"])]
    assert losses == [1, 2, 1, 2, 2, 1]


def test_a_history_of_nothing_tells_every_loss() -> None:
    for history in (history_of(0), history_of(bytes=0), history_of(total=0)):
        for position in range(1, 200):
            history.extend([publication(position, "a b", id=str(position))])
            assert run_to_completion(history.watermarks.newest_loss(Selector.parse("a"))) == position
        assert (history.bytes, channels_of(history.channel_index.names()), held(history, "a")) == (0, [], [])
        gap = history.gap(Selector.parse("a"), 0, 199)
        assert (gap.channels, gap.position) == (("a",), 199)
        assert run_to_completion(history.custom_ids.position_of("199", Selector.parse("*"))) is None
        require_bounded(history)


# The total.


def test_the_noisiest_channel_gives_first() -> None:
    history = history_of(total=room(20, channels=2))
    fill(history, *["quiet"] * 5, *["noisy"] * 300)
    assert held(history, "quiet") == [1, 2, 3, 4, 5]
    noisy = held(history, "noisy")
    assert noisy == list(range(306 - len(noisy), 306))
    assert len(noisy) > 5
    assert history.bytes <= 20 * WEIGHT + 100


def test_channels_that_are_as_noisy_share_the_room() -> None:
    history = history_of(total=room(60, channels=4))
    fill(history, "small", *["a", "b", "c"] * 100)
    counts = [len(held(history, name)) for name in ("small", "a", "b", "c")]
    assert counts[0] == 1
    assert max(counts[1:]) - min(counts[1:]) <= 1
    assert history.bytes <= 60 * WEIGHT + 100


def test_bytes_make_noise_and_not_events() -> None:
    history = history_of(total=room(40, channels=2))
    fill(history, *["small"] * 10)
    for position in range(11, 60):
        history.extend([publication(position, "large", data="x" * (2 * WEIGHT))])
    assert len(held(history, "small")) == 10
    assert 0 < len(held(history, "large")) < 10


def test_what_no_total_could_hold_is_not_held() -> None:
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
    assert run_to_completion(history.custom_ids.position_of("mine", Selector.parse("*"))) == 1
    assert (lost(history, "a"), lost(history, "b")) == (0, 1)


def test_a_publication_in_several_channels_is_given_once() -> None:
    history = history_of()
    fill(history, "a b", "b", "c a b", "d", "a")
    assert given_after(history, Selector.parse("a", "b", "c"), 0) == [1, 2, 3, 5]
    assert given_after(history, Selector.parse("a", "b"), 1) == [2, 3, 5]
    assert given_after(history, Selector.parse("*"), 0) == [1, 2, 3, 4, 5]
    assert given_after(history, Selector.parse("b", "a*"), 0) == [1, 2, 3, 5]


def test_the_total_lets_go_of_every_copy() -> None:
    history = history_of(total=room(10, channels=3))
    fill(history, *["a b c"] * 100)
    assert 0 < history.bytes <= 10 * WEIGHT + 100
    require_bounded(history)


# Forgotten channels.


def test_an_empty_channel_is_forgotten_before_one_that_holds_something() -> None:
    history = history_of(max_channels=3, b=HistoryLimits(0, PLENTY, FOREVER))
    fill(history, "a", "b", "c", "d")
    assert sorted(channels_of(history.channel_index.names())) == ["a", "c", "d"]
    assert [lost(history, name) for name in ("a", "b", "c", "b*")] == [0, 2, 0, 2]


def test_however_many_channels_come_so_many_are_remembered() -> None:
    history = history_of(max_channels=10)
    for position in range(1, 2000):
        history.extend([publication(position, f"c{position}")])
        assert len(history.channel_index.logs) <= 10
    assert len(channels_of(history.channel_index.names())) == 10
    assert lost(history, "c5") == 1989
    require_bounded(history)


def test_channels_that_come_and_go_leave_nothing_behind() -> None:
    history = history_of(total=5 * WEIGHT, max_channels=10)
    for position in range(1, 2000):
        fill(history, f"c{position}", start=position)
    require_bounded(history)


def test_a_busy_channel_is_not_the_first_to_be_forgotten() -> None:
    """The channel that was published to longest ago goes first."""
    history = history_of(max_channels=3)
    fill(history, "busy", "x", "busy", "y", "busy", "z")
    assert held(history, "busy") == [1, 3, 5]
    assert sorted(channels_of(history.channel_index.names())) == ["busy", "y", "z"]


def test_a_new_channel_has_not_lost_what_it_holds() -> None:
    """Though another channel of the same publication is forgotten for it."""
    history = history_of(max_channels=2, b=HistoryLimits(0, PLENTY, FOREVER))
    fill(history, "a", "b c")
    assert held(history, "c") == [2]
    assert lost(history, "c") < 2
    require_bounded(history)


# Gaps.


def test_a_gap_ends_just_before_what_is_still_held() -> None:
    """Its channels are those that lost something, or whose held events are given up with it."""
    history = history_of(2)
    fill(history, "quiet", "noisy", "noisy", "noisy", "other", "noisy", "quiet", "late")
    selector = Selector.parse("quiet", "noisy", "other", "late", "none")
    gap = history.gap(selector, 0, run_to_completion(history.watermarks.newest_loss(selector)))
    assert (gap.channels, gap.position) == (("noisy", "quiet"), 3)
    gap = history.gap(selector, 1, run_to_completion(history.watermarks.newest_loss(selector)))
    assert (gap.channels, gap.position) == (("noisy",), 3)


def test_a_gap_with_nothing_behind_it_ends_at_the_loss() -> None:
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


def test_a_replay_of_patterns_ends_its_page_after_so_much_work() -> None:
    """Texts that are looked for count, in each channel of an event that nobody wants."""
    history = history_of()
    history.extend([publication(1, "a"), publication(2, " ".join(f"c{n}" for n in range(100)))])
    costs = [cost for _, _, cost in history.after(TEN, 0)]
    assert costs == [1 + 40 // 8, 1 + 100 * 40 // 8]
    assert [cost for _, _, cost in history.after(Selector.parse("a", "c1"), 0)] == [1, 1]


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
