"""No loss is unnoticed: by name, by pattern, and in channels that were forgotten."""

import pytest

from sse_broadcast.backends.memory import watermarks
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.work_queue import run_to_completion
from tests.backends.contract import channels_of
from tests.backends.memory.history_cases import (
    FOREVER,
    PLENTY,
    fill,
    held,
    history_of,
    lost,
    publication,
    require_bounded,
)


def test_a_pattern_has_the_watermark_of_what_it_matches() -> None:
    history = history_of(1)
    assert lost(history, "x.*") == 0
    fill(history, "x.1", "y.1", "x.1", "y.1", "x.2", "y.1")
    patterns = ("x.*", "y.*", "*", "*.1", "*.2", "z*")
    assert [lost(history, pattern) for pattern in patterns] == [1, 4, 4, 4, 0, 0]
    fill(history, "x.2", "z", "z", start=7)
    assert [lost(history, pattern) for pattern in patterns] == [5, 4, 8, 4, 5, 8]


@pytest.mark.parametrize("recent", [1, 2, 3, 100])
def test_losses_of_patterns_are_found_however_many_are_remembered(
    recent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the latest of them, or where those do not go back far enough by a look at each channel."""
    monkeypatch.setattr(watermarks, "MAX_RECENT_EVICTIONS", recent)
    history = history_of(1)
    fill(history, "a", "a", "b", "b", "ab", "ab")
    patterns = {"a*": 5, "b*": 3, "*b": 5, "*": 5, "*a": 1}
    assert {pattern: lost(history, pattern) for pattern in patterns} == patterns
    fill(history, "a", "c", start=7)
    assert {pattern: lost(history, pattern) for pattern in patterns} == {**patterns, "*a": 2}
    for after in range(9):
        for pattern, newest in {**patterns, "*a": 2}.items():
            found = run_to_completion(history.watermarks.newest_loss(Selector.parse(pattern), after=after))
            assert found == (newest if newest > after else 0)
    require_bounded(history)


def test_a_forgotten_channel_leaves_its_watermark_to_all() -> None:
    """To patterns, and to whatever is not remembered; channels still held lose nothing by it."""
    history = history_of(max_channels=2)
    fill(history, "a", "b", "b", "c")
    assert held(history, "a") == []
    assert sorted(channels_of(history.channel_index.names())) == ["b", "c"]
    assert [lost(history, name) for name in ("a", "never", "b*", "*", "b")] == [1, 1, 1, 1, 0]
    fill(history, "a", start=5)
    assert lost(history, "a") >= 1
    require_bounded(history)


def test_what_was_evicted_before_is_no_news() -> None:
    """By the number of the eviction, and not by the position: a quiet channel loses old ones later."""
    history = history_of(2, b=HistoryLimits(1000, PLENTY, 10.0))
    fill(history, "b", *"aaaa")
    both, told = Selector.parse("a", "b"), history.watermarks.evictions
    assert (
        run_to_completion(history.watermarks.newest_loss(both)),
        run_to_completion(history.watermarks.newest_loss(both, seen=told)),
    ) == (3, 0)
    history.expire(10.0)
    assert history.watermarks.evictions == told + 1
    for selector in (both, Selector.parse("*"), Selector.parse("b"), Selector.parse("a", "b*")):
        assert run_to_completion(history.watermarks.newest_loss(selector, seen=told)) == 1
        found = run_to_completion(history.watermarks.newest_loss(selector, seen=history.watermarks.evictions))
        assert found == 0
    assert run_to_completion(history.watermarks.newest_loss(Selector.parse("a"), seen=told)) == 0


def test_each_event_that_goes_is_an_eviction() -> None:
    """A run of them counts for as many, in each channel of its own."""
    history = history_of(2)
    before = history.watermarks.evictions
    history.extend([publication(position, "a b") for position in range(1, 6)])
    assert history.watermarks.evictions == before + 6


def test_a_channel_that_was_forgotten_meanwhile_is_news() -> None:
    """Gone, or back again and told apart from one that was always there."""
    history = history_of(max_channels=2)
    fill(history, "a", "b")
    told = history.watermarks.evictions
    fill(history, "c", start=3)
    assert run_to_completion(history.watermarks.newest_loss(Selector.parse("a"), seen=told)) == 1
    assert (
        run_to_completion(
            history.watermarks.newest_loss(Selector.parse("a"), seen=history.watermarks.evictions)
        )
        == 0
    )
    fill(history, "a", start=4)
    assert run_to_completion(history.watermarks.newest_loss(Selector.parse("a"), seen=told)) >= 1


def test_another_channel_that_is_forgotten_is_no_news() -> None:
    history = history_of(max_channels=3, a=HistoryLimits(2, PLENTY, FOREVER))
    fill(history, "x", "b", *"aaaa", "b", "x", "a", "b")
    both, told = Selector.parse("a", "b"), history.watermarks.evictions
    assert run_to_completion(history.watermarks.newest_loss(both)) == 5
    fill(history, "a", "b", "y", start=11)
    told += 1  # the one that the last a has cost
    assert sorted(channels_of(history.channel_index.names())) == ["a", "b", "y"]
    assert run_to_completion(history.watermarks.newest_loss(both, seen=told)) == 0
    assert run_to_completion(history.watermarks.newest_loss(Selector.parse("x"), seen=told)) == 8
    fill(history, "x", start=14)
    assert run_to_completion(history.watermarks.newest_loss(Selector.parse("x"), seen=told)) >= 8
