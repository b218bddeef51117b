"""The check of sequence numbers."""

from collections.abc import Iterable

from sse_broadcast.bench.sequence import Arrival, SequenceCheck


def taken(numbers: Iterable[int]) -> tuple[SequenceCheck, list[Arrival]]:
    check = SequenceCheck(1)
    return check, [check.take(0, number) for number in numbers]


def test_events_in_order_are_no_news() -> None:
    check, arrivals = taken([1, 2, 3])
    assert set(arrivals) == {Arrival.IN_ORDER}
    assert check.lost(0, sent=3) == 0


def test_a_gap_is_a_loss_until_it_is_filled() -> None:
    check, arrivals = taken([1, 4])
    assert arrivals[-1] is Arrival.AFTER_GAP
    assert check.lost(0, sent=4) == 2
    assert check.take(0, 3) is Arrival.LATE
    assert check.lost(0, sent=4) == 1
    assert check.take(0, 3) is Arrival.REPEAT


def test_what_never_came_at_the_end_is_lost() -> None:
    check, _ = taken([1, 2])
    assert check.lost(0, sent=5) == 3


def test_an_event_that_comes_twice_is_a_repeat() -> None:
    _, arrivals = taken([1, 1, 2, 1])
    assert arrivals == [Arrival.IN_ORDER, Arrival.REPEAT, Arrival.IN_ORDER, Arrival.REPEAT]


def test_publishers_are_counted_apart() -> None:
    check = SequenceCheck(2)
    assert [check.take(0, 1), check.take(1, 1), check.take(1, 3)] == [
        Arrival.IN_ORDER,
        Arrival.IN_ORDER,
        Arrival.AFTER_GAP,
    ]
    assert (check.lost(0, sent=1), check.lost(1, sent=3)) == (0, 1)


def test_what_the_server_refused_is_not_lost() -> None:
    check, _ = taken([1, 4])
    assert check.lost(0, sent=6, not_published={2, 6}) == 2  # 3 and 5
    assert check.lost(0, sent=6, not_published={1, 4}) == 4  # those came all the same
