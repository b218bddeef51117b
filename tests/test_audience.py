"""The log that readers of the same thing share."""

import pytest

from sse_broadcast.audience import Audience, Lane, Lap
from sse_broadcast.publication import text
from sse_broadcast.subscriber import CloseReason, Subscriber
from tests.support.outlets import MemorySink, data_of, publication, terms

MANY = 1 << 20


class Carrier:
    """Notes what it is asked, and empties a log that is at its bounds."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def wake(self, audience: Audience) -> None:
        self.calls.append("wake")

    def hurry(self, audience: Audience) -> None:
        self.calls.append("hurry")
        audience.forget(len(audience.log))

    def wake_lane(self, lane: Lane) -> None:
        self.calls.append("wake lane")

    def hurry_lane(self, lane: Lane) -> None:
        self.calls.append("hurry lane")

    def resume(self, lane: Lane) -> None:
        self.calls.append("resume")

    def end(self, lane: Lane, reason: CloseReason) -> None:
        self.calls.append(f"end {reason}")


def make_audience(*, queue_size: int = 10, queue_bytes: int = 1000) -> tuple[Audience, Carrier]:
    carrier = Carrier()
    return Audience(("default",), text, carrier, queue_size=queue_size, queue_bytes=queue_bytes), carrier


def add_lane(audience: Audience, carrier: Carrier) -> Lane:
    subscriber = Subscriber(("default",), terms()[0])
    lane = Lane(carrier, audience, subscriber, MemorySink())
    subscriber.outlet = lane
    lane.follow()
    return lane


def publish(audience: Audience, *data: str) -> None:
    for each in data:
        audience.publish(publication(each))


def test_publishing_wakes_the_walk_once_and_touches_no_lane() -> None:
    """However many publications wait, the walk is asked for once."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    publish(audience, "a", "b")
    assert carrier.calls == ["wake"]
    assert data_of(audience.log) == ["a", "b"]
    assert (lane.seen, audience.end, audience.waiting_bytes) == (0, 2, 18)


def test_nothing_is_logged_for_nobody() -> None:
    """An audience without lanes keeps nothing."""
    audience, carrier = make_audience()
    publish(audience, "a")
    assert (audience.log, carrier.calls) == ([], [])


@pytest.mark.parametrize("bounds", [{"queue_size": 2}, {"queue_bytes": 20}])
def test_a_log_at_its_bounds_is_emptied_before_it_grows(bounds: dict[str, int]) -> None:
    """A publisher faster than the walk waits for the walk, and memory does not grow."""
    audience, carrier = make_audience(**bounds)
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    assert carrier.calls == ["wake", "hurry", "wake"]
    assert data_of(audience.log) == ["c"]
    assert audience.waiting_bytes == 9


def test_a_lane_that_strays_takes_the_rest_of_the_log_along() -> None:
    """What it had not seen is in its queue, in order, and what comes later behind it."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    publish(audience, "a", "b")
    lane.seen = 1
    lane.stray()
    publish(audience, "c")
    assert data_of(lane.subscriber.take(MANY)) == ["b", "c"]
    assert audience.lanes == {}


def test_a_lane_that_follows_again_begins_at_the_end() -> None:
    """Once its own queue is empty it has everything, and waits for what comes next."""
    audience, carrier = make_audience()
    lane, other = add_lane(audience, carrier), add_lane(audience, carrier)
    lane.stray()
    publish(audience, "a")
    lane.subscriber.take(MANY)
    lane.follow()
    assert (lane.seen, other.seen, audience.end) == (1, 0, 1)
    assert audience.queued == {}


def test_a_pass_gives_each_lane_the_same_bytes() -> None:
    """What waits is joined once, and a lane that came in the middle gets its rest of it."""
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    lap = Lap(audience, limit=MANY)
    assert lap.data == b"data: a\n\ndata: b\n\ndata: c\n\n"
    assert lap.rest(1) == b"data: b\n\ndata: c\n\n"
    assert (lap.base, lap.end) == (0, 3)


def test_a_pass_is_bounded_in_bytes_and_brings_one_at_least() -> None:
    """Frames of 9 bytes: a limit of 20 takes two, a limit of 5 takes one."""
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    assert Lap(audience, limit=20).end == 2
    assert Lap(audience, limit=5).end == 1


def test_forgetting_moves_the_base_and_not_the_end() -> None:
    """Places keep their meaning."""
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    audience.forget(2)
    assert (audience.base, audience.end, data_of(audience.log), audience.waiting_bytes) == (2, 3, ["c"], 9)
