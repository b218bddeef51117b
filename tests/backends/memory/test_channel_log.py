"""A channel log is read from a position or a time, and evicts its oldest publications."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.position_index import PAGE_SCAN_LIMIT
from sse_broadcast.backends.memory.publisher_share import PublisherShare
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.publication import Publication
from tests.backends.memory.history_cases import ALL, PLENTY, publication, weight
from tests.support.memory import entries, inside


def log_of(count: int) -> ChannelLog:
    """Return a log of positions from 1, each published at the time of its position."""
    log = ChannelLog("a", HistoryLimits(1000, PLENTY, 50.0), watermark=0, share=PublisherShare(""), slot=0)
    run = [publication(position, time=float(position)) for position in range(1, count + 1)]
    log.extend(run, sum(map(weight, run)))
    return log


def test_a_log_is_read_from_a_time_forwards_and_backwards() -> None:
    log = log_of(100)
    assert [one.position for one in log.evict(60)] == list(range(1, 61))
    assert (log.oldest.position, log.newest.position, log.watermark, log.count) == (61, 100, 60, 40)
    for time, expected in [(0.0, 61), (60.5, 61), (70.0, 70), (70.5, 71), (100.0, 100), (100.5, None)]:
        found = log.since(time)
        assert (found and found.position) == expected
    assert [one.position for one in log.backwards()] == list(range(100, 60, -1))
    assert [one.position for one in log.after(97)] == [98, 99, 100]


@pytest.mark.parametrize("gone", [0, 5, 20, 60])
def test_a_log_knows_how_many_are_too_old(gone: int) -> None:
    """By its own age, counted from the oldest that it still holds."""
    log = log_of(100)
    if gone:
        log.evict(gone)
    for now, old in [(0.0, 0), (50.5, 0), (60.0, 10), (60.5, 10), (120.0, 70), (1000.0, 100)]:
        assert log.expired(now) == max(old - gone, 0)


@pytest.mark.parametrize("gone", [0, 5, 60])
def test_a_page_of_a_log_is_bounded_in_bytes(gone: int) -> None:
    log = log_of(99)
    if gone:
        log.evict(gone)
    size = log.newest.size
    assert size == publication(61).size

    def page(position: int, limit: int) -> list[int]:
        return [one.position for one in log.page(position, limit, most=PAGE_SCAN_LIMIT)]

    assert page(60, 3 * size) == [61, 62, 63]
    assert page(60, 3 * size - 1) == page(60, 2 * size) == [61, 62]
    assert page(60, 1) == page(60, 0) == page(60, size) == [61]
    assert page(97, 1 << 20) == [98, 99]
    assert page(98, 0) == [99]
    assert page(99, 1 << 20) == page(1000, 0) == []
    assert page(0, 0) == [gone + 1]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_a_log_is_a_list_that_loses_its_beginning(steps: list[tuple[int, int]]) -> None:
    """By runs of any length; its places never grow far beyond what it holds."""
    log = ChannelLog("a", HistoryLimits(0, 0, 0.0), watermark=7, share=PublisherShare(""), slot=0)
    kept, position = list[Publication](), 100
    went = set[Publication]()
    for come, go in steps:
        run = [publication(position + number, data="x" * (number % 5)) for number in range(come)]
        position += come
        log.extend(run, sum(map(weight, run)))
        kept += run
        if count := min(go, len(kept)):
            assert log.evict(count) == kept[:count]
            assert log.watermark == kept[count - 1].position
            went |= {*kept[:count]}
            del kept[:count]
        assert list(log.after(0)) == kept
        assert list(log.backwards()) == kept[::-1]
        assert (log.count, log.bytes) == (len(kept), sum(map(weight, kept)))
        assert entries(log) <= 2 * len(kept) + 34
        assert not {*inside(log, Publication)} & went, "what was let go of is kept in memory"
        if kept:
            assert (log.oldest, log.newest) == (kept[0], kept[-1])
            assert log.page(kept[0].position, ALL, most=PAGE_SCAN_LIMIT) == kept[1:]
