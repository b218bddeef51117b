"""An index by position gives what was not removed, in order, in chunks of bounded size."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.memory import position_index
from sse_broadcast.backends.memory.position_index import Chunk, PositionIndex
from sse_broadcast.publication import Publication
from tests.backends.memory.history_cases import publication, require_bounded_order
from tests.support.memory import entries


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 50), st.randoms(use_true_random=False))
def test_an_order_gives_what_was_not_removed(count: int, chance: random.Random) -> None:
    order, kept = PositionIndex(), list[Publication]()
    position = 0
    for _ in range(count):
        run = []
        for _ in range(chance.choice([1, 1, 2, 10, 50])):
            position += chance.randint(1, 3)
            run.append(publication(position))
        order.extend(run)
        kept += run
        while kept and chance.random() < 0.6:
            gone = some_of(kept, chance)
            order.remove(gone)
            went = {one.position for one in gone}
            kept = [one for one in kept if one.position not in went]
        after = chance.randint(0, position)
        found = list(order.after(after))
        assert [one for _, one in found if one is not None] == [one for one in kept if one.position > after]
        assert all(one is None or one.position == place for place, one in found)
        assert [place for place, _ in found] == sorted({place for place, _ in found})
        require_bounded_order(order, {one.position for one in kept})
        assert [one for _, one in order.after(0) if one is not None] == kept


def some_of(kept: list[Publication], chance: random.Random) -> list[Publication]:
    """Return some of them in their order: from the beginning, in a row, here and there, or all."""
    first = chance.randrange(len(kept)) if chance.random() < 0.5 else 0
    some = kept[first : first + chance.choice([1, 2, 5, 40, len(kept)])]
    if chance.random() < 0.4:
        some = sorted(chance.sample(some, chance.randint(1, len(some))), key=lambda one: one.position)
    return some


REMOVALS = [[[1, 2, 3]], [[2, 3], [1]], [[1, 3]], [[1, 4], [2, 3]], [[3], [1, 2]], [[2, 4], [1, 3, 5]]]
REMOVALS += [[[4, 5], [1, 2, 3]], [[1, 2, 4], [3]], [[1, 2, 3, 4, 5]]]


@pytest.mark.parametrize("removals", REMOVALS)
def test_an_order_lets_go_by_runs_with_holes_and_without(removals: list[list[int]]) -> None:
    order = PositionIndex()
    order.extend([publication(position) for position in range(1, 6)])
    kept = {1, 2, 3, 4, 5}
    for gone in removals:
        order.remove([publication(position) for position in gone])
        kept -= set(gone)
        assert [place for place, one in order.after(0) if one is not None] == sorted(kept)
        assert len(order) == len(kept)
    order.extend([publication(6)])
    assert [place for place, one in order.after(0) if one is not None] == sorted({*kept, 6})


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_an_order_is_a_list_that_loses_any_of_its_own(seed: int) -> None:
    chance = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(position_index, "CHUNK_SIZE", 8)
        patch.setattr(position_index, "SPARE_HOLES", 2)
        order, kept, position = PositionIndex(), dict[int, Publication](), 0
        for _ in range(120):
            run = []
            for _ in range(chance.choice([1, 1, 1, 4, 20])):
                position += chance.choice([1, 1, 30])
                run.append(publication(position))
            order.extend(run)
            kept.update((one.position, one) for one in run)
            gone = sorted(chance.sample(sorted(kept), min(len(kept), chance.randrange(12))))
            if gone:
                order.remove([kept.pop(each) for each in gone])
            require_bounded_order(order, kept)
            after = chance.randrange(position + 2)
            assert [one for _, one in order.after(after) if one] == [
                one for each, one in kept.items() if each > after
            ]


def test_no_eviction_touches_more_than_its_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    compact = Chunk.compact

    def noted(chunk: Chunk) -> None:
        moved.append(len(chunk.positions))
        compact(chunk)

    monkeypatch.setattr(Chunk, "compact", noted)
    order, chance = PositionIndex(), random.Random(3)
    everything = [publication(position) for position in range(1, 20_001)]
    for one in everything:
        order.extend([one])
    chance.shuffle(everything)
    for one in everything:
        order.remove([one])
    assert len(order) == entries(order) == 0
    assert max(moved) <= position_index.CHUNK_SIZE
    assert sum(moved) <= 4 * 20_000


def test_holes_are_looked_into_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many evicted publications, where any channel may be wanted: the answer takes no longer than that."""
    monkeypatch.setattr(position_index, "PAGE_SCAN_LIMIT", 3)
    order = PositionIndex()
    rows = [publication(position, time=float(position)) for position in range(1, 12)]
    order.extend(rows)
    order.remove(rows[4:6])
    assert [order.time_after(position) for position in (0, 3, 4, 10, 11)] == [1.0, 4.0, 7.0, 11.0, None]
    order.remove(rows[6:8])
    assert [order.time_after(position) for position in (3, 4, 5, 6)] == [4.0, None, None, 9.0]
