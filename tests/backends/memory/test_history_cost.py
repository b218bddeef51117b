"""A publish takes as long whatever is held, and nothing grows with what has passed."""

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from sse_broadcast.backends.memory import watermarks
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.largest import Largest
from sse_broadcast.backends.memory.lazy_heap import LazyHeap
from sse_broadcast.channels import Selector
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import run_to_completion
from tests.backends.contract import channels_of
from tests.backends.memory.history_cases import (
    PLENTY,
    WEIGHT,
    fill,
    held,
    history_of,
    publication,
    require_bounded,
    room,
)
from tests.support.memory import inside


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
    monkeypatch.setattr(watermarks, "MAX_RECENT_EVICTIONS", 4)
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
            run_to_completion(history.watermarks.newest_loss(Selector.parse(f"c{chance.randrange(10)}*")))
        assert history.bytes <= total
        if step % 125 == 0:
            require_bounded(history)
    history.expire(now + 40.0)
    require_bounded(history)
    assert (history.bytes, channels_of(history.channel_index.names()), history.custom_ids.count) == (0, [], 0)


def some_names(chance: random.Random) -> set[str]:
    """Return one or two channels, some of them far busier than others."""
    return {f"c{min(chance.randrange(30), chance.randrange(30))}" for _ in range(chance.choice([1, 1, 2]))}


def test_a_busy_channel_does_not_crowd_the_heaps() -> None:
    history = history_of(total=room(50, channels=1), age=1.0)
    for position in range(1, 5001):
        history.expire(position / 10.0)
        history.extend([publication(position, time=position / 10.0, data="x" * (position % 97 * 20))])
        assert all(len(largest) <= 1 for largest in inside(history, Largest))
        assert [len(heap) <= 67 for heap in inside(history, LazyHeap)] == [True]
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
    ("total", "size"), [(PLENTY, 1000), (PLENTY, 1), (PLENTY, 0)], ids=["held", "replaced", "not held"]
)
def test_a_publish_takes_as_long_with_ten_thousand_channels(total: int, size: int) -> None:
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
    rows = [publication(position, "a b") for position in range(1, 1001)]
    alone, together = history_of(100), history_of(100)
    assert 4 * steps_of(lambda: together.extend(rows)) < steps_of_appending(alone, rows)
    assert held(alone, "a") == held(together, "a")
