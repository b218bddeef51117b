"""Conflation: a newer event of a key replaces the older one."""

import itertools
import tracemalloc
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.channels import Selector
from sse_broadcast.event import Event
from sse_broadcast.fanout.conflation import ITEM, NAME, Conflated
from sse_broadcast.publication import Publication, place


def publication(position: int, channels: str = "a", key: str | None = "k", data: str = "") -> Publication:
    event = Event(data, key=key)
    return place(tuple(channels), event, epoch="0123abcd", position=position, time=0.0)


def offer(queue: Conflated, *publications: Publication) -> int:
    freed = 0
    for one in publications:
        freed += queue.replace(one)
        queue.append(one)
    return freed


def positions(queue: Conflated) -> list[int]:
    taken = []
    while queue:
        first = queue.first()
        assert queue.popleft() is first
        taken.append(first.position)
    return taken


def test_a_replaced_event_frees_its_bytes() -> None:
    """The queue frees as many bytes as it counted for the event."""
    queue = Conflated(Selector.parse("a"))
    old = publication(1, data="x" * 50)
    assert offer(queue, old) == 0
    assert queue.replace(publication(2)) == old.size
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        (["a:x", "a:y", "a:x"], [2, 3]),
        (["a", "a", "a", "a:k"], [1, 2, 3, 4]),
        (["a:k", "b:k"], [1, 2]),
        (["ab:k", "a:k"], [1, 2]),
        (["ab:k", "a:k", "b:k"], [2, 3]),
        (["ab:k", "b:k", "b:k", "a:k"], [3, 4]),
        (["ab:k", "ab:k"], [2]),
        (["a:k", "ab:k", "b:k"], [2, 3]),
        (["a:k", "b:k", "ab:k"], [3]),
        (["abc:k", "c:k", "b:k"], [1, 2, 3]),
        (["abc:k", "cb:k", "a:k"], [2, 3]),
    ],
)
def test_an_event_is_replaced_once_all_its_channels_have_a_newer_one(
    offers: list[str], expected: list[int]
) -> None:
    """An event without a key replaces nothing and is never replaced."""
    queue = Conflated(Selector.parse("a", "b", "c"))
    for position, each in enumerate(offers, 1):
        channels, _, key = each.partition(":")
        offer(queue, publication(position, channels, key or None))
    assert positions(queue) == expected


@pytest.mark.parametrize("selector", [Selector.parse("a"), Selector.parse("a*"), Selector.parse("a", "a*")])
def test_only_channels_of_the_subscriber_count(selector: Selector) -> None:
    """An event's other channels need no newer event of its key."""
    queue = Conflated(selector)
    offer(queue, publication(1, "ab"), publication(2, "ca"))
    assert positions(queue) == [2]


def test_a_taken_event_is_not_replaced() -> None:
    """The subscriber gets the newer one as well, and no bytes are freed."""
    queue = Conflated(Selector.parse("a"))
    offer(queue, publication(1))
    assert queue.popleft().position == 1
    assert offer(queue, publication(2)) == 0
    assert positions(queue) == [2]


def test_taking_a_partly_replaced_event_clears_its_index_entries() -> None:
    """The entry of the newer event stays."""
    queue = Conflated(Selector.parse("a", "b"))
    offer(queue, publication(1, "ab"), publication(2, "a"))
    assert queue.popleft().position == 1
    assert offer(queue, publication(3, "b")) == 0
    assert offer(queue, publication(4, "a")) == publication(2, "a").size
    assert positions(queue) == [3, 4]
    assert queue.bytes == 0


def test_a_queue_that_empties_repeatedly_does_not_grow() -> None:
    """The index keeps nothing of taken events, partly replaced or not."""
    queue = Conflated(Selector.parse("a", "b"))
    came = [publication(position, "ab" if position % 2 else "a") for position in range(1, 2001)]
    tracemalloc.start()
    for first, second in itertools.pairwise(came):
        offer(queue, first, second)
        positions(queue)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20 * ITEM


@dataclass
class Naive:
    """The same rule over a plain list."""

    relevant: set[str]
    items: list[Publication] = field(default_factory=list)
    since: dict[int, set[str]] = field(default_factory=dict)

    def offer(self, new: Publication) -> int:
        mine = set(new.channels) & self.relevant
        dropped = []
        for old in self.items:
            if new.event.key is not None and old.event.key == new.event.key:
                self.since[old.position] |= mine
                if set(old.channels) & self.relevant <= self.since[old.position]:
                    dropped.append(old)
        self.items = [old for old in self.items if old not in dropped]
        self.items.append(new)
        self.since[new.position] = set()
        return sum(old.size for old in dropped)


OFFERS = st.tuples(
    st.sets(st.sampled_from("abcd"), min_size=1).map(sorted).map("".join),
    st.sampled_from([None, "k", "l"]),
    st.integers(0, 30).map("x".__mul__),
)


@given(st.lists(st.none() | OFFERS, max_size=60))
def test_conflation_agrees_with_a_naive_model(steps: list[tuple[str, str | None, str] | None]) -> None:
    """After any offers and takes both have the same events in the same order, and freed the same bytes."""
    queue, naive = Conflated(Selector.parse("a", "b", "c")), Naive(set("abc"))
    for position, step in enumerate(steps, 1):
        if step is not None:
            channels, key, data = step
            if set(channels) != {"d"}:
                new = publication(position, channels, key, data)
                assert offer(queue, new) == naive.offer(new)
        elif naive.items:
            assert queue.popleft() is naive.items.pop(0)
        assert len(queue) == len(naive.items)
        assert queue.bytes <= (ITEM + 3 * NAME) * len(queue)
    assert positions(queue) == [one.position for one in naive.items]
    assert queue.bytes == 0


@pytest.mark.parametrize("channels", [1, 100])
def test_memory_of_the_indexes_is_counted(channels: int) -> None:
    """For small events the indexes are larger than the events."""
    names = tuple(f"c{number}" for number in range(channels))
    queue = Conflated(Selector.parse(*names))
    came = [
        place(names, Event("x", key=str(number)), epoch="0123abcd", position=number, time=0.0)
        for number in range(1, 201)
    ]
    tracemalloc.start()
    offer(queue, *came)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * queue.bytes < kept <= queue.bytes
    assert len(positions(queue)) == 200
    assert queue.bytes == 0
