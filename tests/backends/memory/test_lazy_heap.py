"""LazyHeap: what comes first of those that count, whatever else is in it."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.memory.lazy_heap import ENTRIES_MOVED_PER_PUSH, Entry, LazyHeap


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_a_heap_gives_what_counts_in_its_order(seed: int) -> None:
    """Whatever counts no longer, and whenever that is sorted out, a few entries at each push."""
    chance = random.Random(seed)
    alive = dict[int, Entry[str]]()
    heap, serial = LazyHeap[str](lambda entry: entry[1] in alive), 0
    for _ in range(300):
        if chance.random() < 0.6:
            serial += 1
            alive[serial] = entry = (float(chance.randrange(9)), serial, "thing")
            heap.push(entry, most=2 * len(alive) + 4)
        elif alive and chance.random() < 0.5:
            del alive[chance.choice(list(alive))]
        else:
            while heap.first and heap.first[1] not in alive:
                heap.pop()
            first = min(alive.values(), default=None)
            assert heap.first == first
            if first is not None:
                assert heap.pop() == first
                del alive[first[1]]
    assert alive.keys() <= {entry[1] for entry in heap}


def test_a_heap_is_sorted_out_a_few_at_a_time() -> None:
    """No push looks at more than `ENTRIES_MOVED_PER_PUSH` of what is in it."""
    looked = 0

    def counts(entry: Entry[str]) -> bool:
        nonlocal looked
        looked += 1
        return entry[1] % 2 == 0

    heap = LazyHeap[str](counts)
    for serial in range(10_000):
        before = looked
        heap.push((float(serial), serial, "thing"), most=500)
        assert looked - before <= ENTRIES_MOVED_PER_PUSH
    assert len(heap) < 10_000 * 0.6
