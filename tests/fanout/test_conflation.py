"""A queue in which the newest replaces."""

import tracemalloc
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.channels import Selector
from sse_broadcast.event import Event
from sse_broadcast.fanout.conflation import Conflated
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


def test_the_newest_of_a_key_stands_at_its_own_place() -> None:
    """Ids only rise: what replaces stands where it was published, not where the replaced one stood."""
    queue = Conflated(Selector.parse("a"))
    offer(queue, publication(1, key="x"), publication(2, key="y"), publication(3, key="x"))
    assert positions(queue) == [2, 3]


def test_what_is_replaced_gives_its_bytes_back() -> None:
    """As many as it counted for."""
    queue = Conflated(Selector.parse("a"))
    old = publication(1, data="x" * 50)
    assert offer(queue, old) == 0
    assert queue.replace(publication(2)) == old.size
    assert len(queue) == 0


def test_events_without_a_key_stay() -> None:
    """They replace nothing and nothing replaces them."""
    queue = Conflated(Selector.parse("a"))
    assert offer(queue, *(publication(place, key=None) for place in range(1, 4)), publication(4)) == 0
    assert positions(queue) == [1, 2, 3, 4]


def test_keys_are_of_their_channel() -> None:
    """The same key on another channel is another thing."""
    queue = Conflated(Selector.parse("a", "b"))
    assert offer(queue, publication(1, "a"), publication(2, "b")) == 0
    assert positions(queue) == [1, 2]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (["ab", "a"], [1, 2]),
        (["ab", "a", "b"], [2, 3]),
        (["ab", "b", "b", "a"], [3, 4]),
        (["ab", "ab"], [2]),
        (["a", "ab", "b"], [2, 3]),
        (["a", "b", "ab"], [3]),
        (["abc", "c", "b"], [1, 2, 3]),
        (["abc", "cb", "a"], [2, 3]),
    ],
)
def test_one_in_several_channels_goes_once_each_has_a_newer(channels: list[str], expected: list[int]) -> None:
    """As long as it is the newest of its key in one of them, it is news."""
    queue = Conflated(Selector.parse("a", "b", "c"))
    offer(queue, *(publication(place, names) for place, names in enumerate(channels, 1)))
    assert positions(queue) == expected


@pytest.mark.parametrize("selector", [Selector.parse("a"), Selector.parse("a*"), Selector.parse("a", "a*")])
def test_only_the_readers_own_channels_count(selector: Selector) -> None:
    """A channel it does not read keeps nothing for it."""
    queue = Conflated(selector)
    offer(queue, publication(1, "ab"), publication(2, "ca"))
    assert positions(queue) == [2]


def test_what_was_taken_is_neither_replaced_nor_counted() -> None:
    """A reader that has an event gets the newer one as well, and no bytes come back."""
    queue = Conflated(Selector.parse("a"))
    offer(queue, publication(1))
    assert queue.popleft().position == 1
    assert offer(queue, publication(2)) == 0
    assert positions(queue) == [2]


def test_one_partly_replaced_when_it_is_taken_leaves_nothing_behind() -> None:
    """Its claim on the other channel goes with it; the newer one's stays."""
    queue = Conflated(Selector.parse("a", "b"))
    offer(queue, publication(1, "ab"), publication(2, "a"))
    assert queue.popleft().position == 1
    assert offer(queue, publication(3, "b")) == 0
    assert offer(queue, publication(4, "a")) == publication(2, "a").size
    assert positions(queue) == [3, 4]
    assert (queue._newest, queue._claims) == ({}, {})


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
def test_it_keeps_what_the_naive_way_keeps(steps: list[tuple[str, str | None, str] | None]) -> None:
    """After any offers and takes: the same events in the same order, the same bytes given back."""
    queue, naive = Conflated(Selector.parse("a", "b", "c")), Naive(set("abc"))
    for position, step in enumerate(steps, 1):
        if step is not None:
            channels, key, data = step
            if set(channels) != {"d"}:
                new = publication(position, channels, key, data)
                assert offer(queue, new) == naive.offer(new)
        elif naive.items:
            assert queue.popleft() is naive.items.pop(0)
        assert list(queue._items.values()) == naive.items
        assert len(queue) == len(naive.items)
        assert len(queue._claims) <= len(queue)
        assert len(queue._newest) <= 3 * len(queue)
    assert positions(queue) == [one.position for one in naive.items]
    assert (queue._newest, queue._claims) == ({}, {})


@pytest.mark.parametrize("channels", [1, 100])
def test_what_a_queue_takes_itself_is_counted(channels: int) -> None:
    """Its indexes too, which are larger than small events are."""
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
