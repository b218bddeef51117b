"""The log that readers of the same thing share."""

import pytest

from sse_broadcast.backends.base import Start
from sse_broadcast.backends.memory.backend import open_memory
from sse_broadcast.channels import Interest
from sse_broadcast.config.policy import Policies
from sse_broadcast.config.schema import Config
from sse_broadcast.encoding import CHUNKED_JSON, JSON, NDJSON, TEXT, Encoding
from sse_broadcast.event import Event
from sse_broadcast.fanout.group import Audience, Lane, Lap
from sse_broadcast.fanout.replay import CatchUp
from sse_broadcast.fanout.subscriber import GRACEFUL, CloseReason, Subscriber
from sse_broadcast.fanout.writers import APART
from sse_broadcast.publication import Draft
from tests.support.outlets import MemorySink, block, data_of, publication, terms

MANY = 1 << 20


class Clock:
    """A time of the day that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


DEFAULT = Interest.of("default")


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

    def block(self, lane: Lane) -> None:
        self.calls.append("block")

    def resume(self, lane: Lane) -> None:
        self.calls.append("resume")

    def end(self, lane: Lane, reason: CloseReason) -> None:
        self.calls.append(f"end {reason}")


def make_audience(
    interest: Interest = DEFAULT,
    encoding: Encoding = TEXT,
    *,
    queue_size: int = 10,
    queue_bytes: int = 1000,
) -> tuple[Audience, Carrier]:
    carrier = Carrier()
    audience = Audience(interest, encoding, carrier, queue_size=queue_size, queue_bytes=queue_bytes)
    return audience, carrier


def make_lane(audience: Audience, carrier: Carrier, catching_up: CatchUp | None = None) -> Lane:
    subscriber = Subscriber(audience.interest, terms()[0], catching_up)
    sink = MemorySink()
    lane = Lane(carrier, audience, subscriber, sink)
    sink.attach(lane)
    subscriber.outlet = lane
    return lane


def add_lane(audience: Audience, carrier: Carrier) -> Lane:
    lane = make_lane(audience, carrier)
    lane.follow()
    return lane


def bring(audience: Audience, *, limit: int, to: int) -> None:
    """Begin a pass over the lanes that march, and have it come to so many of them."""
    audience.lap = Lap(audience, limit=limit)
    audience.march.begin()
    for writer in audience.march.stride(to):
        writer.write(audience.lap.data)


def end(audience: Audience) -> None:
    """End the pass, which has come to everyone."""
    assert audience.march.done
    assert audience.lap is not None
    audience.march.end()
    brought, audience.lap = audience.lap.end - audience.lap.base, None
    audience.forget(brought)


def publish(audience: Audience, *data: str) -> None:
    """Publish at the positions 1, 2, 3, ..., with frames of 24 bytes for one character."""
    first = audience.end + 1
    for position, each in enumerate(data, first):
        audience.publish(publication(each, position=position))


def test_publishing_wakes_the_walk_once_and_touches_no_lane() -> None:
    """However many publications wait, the walk is asked for once."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    publish(audience, "a", "b")
    assert carrier.calls == ["wake"]
    assert data_of(audience.log) == ["a", "b"]
    assert (lane.seen, audience.end, audience.waiting_bytes) == (0, 2, 48)


def test_nothing_is_logged_for_nobody() -> None:
    """An audience without lanes keeps nothing."""
    audience, carrier = make_audience()
    publish(audience, "a")
    assert (audience.log, carrier.calls) == ([], [])


@pytest.mark.parametrize("bounds", [{"queue_size": 2}, {"queue_bytes": 48}])
def test_a_log_at_its_bounds_is_emptied_before_it_grows(bounds: dict[str, int]) -> None:
    """A publisher faster than the walk waits for the walk, and memory does not grow."""
    audience, carrier = make_audience(**bounds)  # type: ignore[arg-type]
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    assert carrier.calls == ["wake", "hurry", "wake"]
    assert data_of(audience.log) == ["c"]
    assert audience.waiting_bytes == 24


def test_a_lane_that_strays_takes_the_rest_of_the_log_along() -> None:
    """What it had not seen is in its queue, in order, and what comes later behind it."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    publish(audience, "a", "b")
    bring(audience, limit=1, to=1)
    lane.stray()
    publish(audience, "c")
    assert data_of(lane.subscriber.take(MANY)) == ["b", "c"]
    assert (audience.lanes, audience.following) == ([], 0)
    assert (lane.following, lane.rank) == (False, APART)


def test_a_lane_strays_once() -> None:
    """What a lane with its own queue has is not offered to it again."""
    audience, carrier = make_audience()
    lane, _ = add_lane(audience, carrier), add_lane(audience, carrier)
    publish(audience, "a")
    lane.stray()
    lane.stray()
    assert data_of(lane.subscriber.take(MANY)) == ["a"]


def test_a_lane_that_leaves_takes_nothing_along() -> None:
    """What it had not seen is nobody's concern any more, and leaving twice is leaving once."""
    audience, carrier = make_audience()
    lane, other = add_lane(audience, carrier), add_lane(audience, carrier)
    publish(audience, "a")
    lane.leave()
    lane.leave()
    publish(audience, "b")
    assert (lane.following, lane.rank, len(lane.subscriber)) == (False, APART, 0)
    assert (audience.lanes, audience.following) == ([other], 1)
    assert audience.queued == {}


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


async def test_a_lane_that_catches_up_is_given_nothing_that_is_published() -> None:
    """It finds it in the history: nothing is logged for it, and nothing queued, before it follows."""
    config = Config()
    memory = open_memory(config, Policies(config), lambda _: 0)
    await memory.publish([Draft(("default",), Event("before"))])
    audience, carrier = make_audience()
    lane = make_lane(audience, carrier, CatchUp(memory, DEFAULT, Start(0), terms()[1]))
    publish(audience, "a")
    assert (audience.log, len(lane.subscriber), carrier.calls) == ([], 0, [])
    lane.stray()
    assert (audience.queued, lane.following) == ({}, False)
    lane.subscriber.take(MANY)
    lane.follow()
    assert (lane.subscriber.catching_up, lane.seen) == (None, audience.end)
    publish(audience, "b")
    assert data_of(audience.log) == ["b"]


def test_a_lane_passes_on_what_its_subscriber_and_its_sink_say() -> None:
    """To whoever carries for it."""
    audience, carrier = make_audience()
    lane = make_lane(audience, carrier)
    for number in range(4):
        lane.subscriber.offer(publication(str(number)))
    lane.resume()
    assert carrier.calls == ["wake lane", "hurry lane", "end slow", "resume"]


def test_a_pass_gives_each_lane_the_same_bytes() -> None:
    """What waits is joined once, and a lane that came in the middle gets its rest of it."""
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    lap = Lap(audience, limit=MANY)
    assert lap.data == block(1, "a") + block(2, "b") + block(3, "c")
    assert lap.rest(1) == block(2, "b") + block(3, "c")
    assert (lap.base, lap.end) == (0, 3)


def test_a_pass_is_bounded_in_bytes_and_brings_one_at_least() -> None:
    """Frames of 24 bytes: a limit of 50 takes two, a limit of 5 takes one."""
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    assert Lap(audience, limit=50).end == 2
    assert Lap(audience, limit=5).end == 1


def test_a_lane_that_begins_in_the_middle_of_the_log_is_late() -> None:
    """Until the log is forgotten up to there: then it marches with the others."""
    audience, carrier = make_audience()
    first = add_lane(audience, carrier)
    publish(audience, "a")
    second = add_lane(audience, carrier)
    publish(audience, "b")
    third = add_lane(audience, carrier)
    publish(audience, "c")
    assert (audience.lanes, audience.following) == ([first, second, third], 3)
    assert (list(audience.march), audience.late) == ([first], {second: 1, third: 2})
    assert [lane.seen for lane in audience.lanes] == [0, 1, 2]
    bring(audience, limit=1, to=1)
    assert audience.lap is not None
    assert audience.lap.late == []
    end(audience)
    assert (list(audience.march), audience.late) == ([first, second], {third: 2})
    assert [lane.seen for lane in audience.lanes] == [1, 1, 2]
    bring(audience, limit=MANY, to=2)
    assert audience.lap.late == [third]
    assert (audience.lap.followed, audience.lap.rest(third.seen)) == (True, block(3, "c"))
    audience.late[third] = audience.lap.end
    assert [lane.seen for lane in audience.lanes] == [3, 3, 3]
    end(audience)
    assert (list(audience.march), audience.late) == ([first, second, third], {})


def test_a_lane_that_is_late_may_leave() -> None:
    """And takes the rest of the log along if it strays."""
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a")
    leaves, strays = add_lane(audience, carrier), add_lane(audience, carrier)
    publish(audience, "b")
    leaves.leave()
    strays.stray()
    assert audience.late == {}
    assert data_of(strays.subscriber.take(MANY)) == ["b"]


def test_how_far_a_pass_has_come_is_what_each_lane_has_seen() -> None:
    """Nothing is set for any of them."""
    audience, carrier = make_audience()
    lanes = [add_lane(audience, carrier) for _ in range(3)]
    publish(audience, "a", "b")
    bring(audience, limit=MANY, to=2)
    assert [lane.seen for lane in lanes] == [2, 2, 0]
    assert [lane.behind for lane in lanes] == [0, 0, 2]


def test_the_position_of_a_lane_is_that_of_the_last_it_was_given() -> None:
    """By a pass that has come to it, or alone, as by its opening."""
    audience, carrier = make_audience()
    first, second = add_lane(audience, carrier), add_lane(audience, carrier)
    second.told = 7
    assert (first.position, second.position) == (0, 7)
    audience.publish(publication("a", position=8))
    audience.publish(publication("b", position=9))
    assert (first.position, second.position) == (0, 7)
    bring(audience, limit=1, to=1)
    assert (first.position, second.position) == (8, 7)
    assert list(audience.march.stride(1)) == [second.writer]
    assert (first.position, second.position) == (8, 8)
    end(audience)
    assert (first.position, second.position) == (8, 8)
    third = add_lane(audience, carrier)  # late: it begins behind what waits
    third.told = 9
    assert third.position == 9


def test_a_lane_that_strays_or_leaves_keeps_its_position() -> None:
    """What it was given together with others is known of it alone from then on."""
    audience, carrier = make_audience()
    strays, leaves = add_lane(audience, carrier), add_lane(audience, carrier)
    publish(audience, "a", "b")
    bring(audience, limit=1, to=1)
    strays.stray()
    leaves.stray()
    assert (strays.position, leaves.position) == (1, 0)
    publish(audience, "c")
    assert (strays.position, leaves.position) == (1, 0)


def test_a_pass_names_the_channel_where_its_format_does() -> None:
    """The first of the publisher's channels that these readers asked for; none for the server's own."""
    audience, carrier = make_audience(Interest.of("b", "c", "orders.*"), NDJSON)
    add_lane(audience, carrier)
    audience.publish(publication("x", "a", "c", "b", position=1))
    audience.publish(publication("y", "a", "orders.eu", "b", position=2))
    audience.publish(publication("{}", "none of theirs", event="$reset", position=3))
    line = '{"channel":%s,"id":"0123abcd-%d","event":"%s","data":"%s","time":1700000000.0}\n'
    assert [each.decode() for each in Lap(audience, limit=MANY).data.splitlines(keepends=True)] == [
        line % ('"c"', 1, "message", "x"),
        line % ('"orders.eu"', 2, "message", "y"),
        line % ("null", 3, "$reset", "{}"),
    ]


@pytest.mark.parametrize("encoding", [JSON, CHUNKED_JSON])
def test_audiences_of_the_same_channel_share_an_envelope(encoding: Encoding) -> None:
    """However different the rest of what they asked for is."""
    one, _ = make_audience(Interest.of("a", "z"), encoding)
    two, _ = make_audience(Interest.of("a"), encoding)
    both = publication("x", "a", "b", position=1)
    assert one.frames([both]) == two.frames([both]) == both.frame(encoding, "a")
    assert both._frames is not None
    assert len(both._frames) == 1


def test_a_format_that_names_no_channel_is_asked_for_none() -> None:
    """One frame serves the readers of every channel."""
    one, _ = make_audience(Interest.of("a"))
    two, _ = make_audience(Interest.of("b"))
    both = publication("x", "a", "b", position=1)
    assert one.frames([both]) == two.frames([both]) == block(1, "x")
    assert both._frames is not None
    assert list(both._frames) == [TEXT]


def test_forgetting_moves_the_base_and_not_the_end() -> None:
    """Places keep their meaning, and the newest position that went is remembered."""
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a", "b", "c")
    assert audience.told == 0
    audience.forget(2)
    assert (audience.base, audience.end, data_of(audience.log), audience.waiting_bytes) == (2, 3, ["c"], 24)
    assert audience.told == 2


# What is known of a lane when somebody asks.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have it be the second at which everything here is published."""
    clock = Clock(1_700_000_000.0)
    monkeypatch.setattr("sse_broadcast.clock.now", clock)
    return clock


def known(lane: Lane) -> tuple[int, int, int, float]:
    return lane.given, lane.behind, lane.waiting_bytes, lane.lag


def test_a_place_in_the_log_says_what_a_lane_was_given_and_what_waits(clock: Clock) -> None:
    """Nobody counts for it: two lanes of one log, of which one has an event more."""
    audience, carrier = make_audience()
    publish(audience, "before")
    ahead, behind = add_lane(audience, carrier), add_lane(audience, carrier)
    assert known(ahead) == known(behind) == (0, 0, 0, 0.0)
    publish(audience, "a", "b", "c")
    clock.now += 7
    bring(audience, limit=48, to=1)
    assert known(ahead) == (2, 1, 24, 7.0)
    assert known(behind) == (0, 3, 72, 7.0)
    list(audience.march.stride(1))
    end(audience)
    assert known(ahead) == known(behind) == (2, 1, 24, 7.0)
    bring(audience, limit=MANY, to=2)
    assert known(ahead) == known(behind) == (3, 0, 0, 0.0)
    end(audience)
    assert known(ahead) == known(behind) == (3, 0, 0, 0.0)


def test_a_clock_that_was_set_back_makes_no_negative_lag(clock: Clock) -> None:
    """What was published in a future that has not come is published now."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    publish(audience, "a")
    clock.now -= 60
    assert lane.lag == 0.0


def test_a_lane_that_strays_keeps_its_count(clock: Clock) -> None:
    """Through its own queue and back to the log: each event counts once, when it is taken."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    publish(audience, "a", "b")
    clock.now += 3
    bring(audience, limit=24, to=1)
    lane.stray()
    assert known(lane) == (1, 1, 24, 3.0)
    end(audience)
    audience.forget(1)
    publish(audience, "c")
    assert known(lane) == (1, 2, 48, 3.0)
    lane.subscriber.take(MANY)
    assert known(lane) == (3, 0, 0, 0.0)
    lane.follow()
    publish(audience, "d")
    bring(audience, limit=MANY, to=1)
    assert known(lane) == (4, 0, 0, 0.0)


async def test_a_lane_that_catches_up_is_behind_by_what_the_history_has(clock: Clock) -> None:
    """What it was given of that counts as any other."""
    config = Config()
    memory = open_memory(config, Policies(config), lambda _: 0)
    memory._clock = clock
    for data in "abc":
        await memory.publish([Draft(("default",), Event(data))])
        clock.now += 10
    audience, carrier = make_audience()
    lane = make_lane(audience, carrier, CatchUp(memory, DEFAULT, Start(0), terms()[1]))
    assert known(lane) == (0, 3, 0, 30.0)
    lane.subscriber.take(1)
    assert known(lane) == (1, 2, 0, 20.0)
    lane.subscriber.take(MANY)
    assert known(lane) == (3, 0, 0, 0.0)
    lane.follow()
    assert known(lane) == (3, 0, 0, 0.0)


@pytest.mark.parametrize("reason", CloseReason)
@pytest.mark.parametrize("stray", [False, True])
def test_what_a_lane_was_behind_when_it_ended_is_kept(
    clock: Clock, reason: CloseReason, *, stray: bool
) -> None:
    """Whether what waited is still given to it or not."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    publish(audience, "a")
    if stray:
        lane.stray()
    clock.now += 5
    lane.subscriber.close(reason)
    clock.now += 5
    assert (lane.waited, lane.given) == (5.0, 0)
    assert len(lane.subscriber) == (stray and reason in GRACEFUL)


def test_a_lane_that_ends_with_nothing_to_get_was_not_behind() -> None:
    """However long ago the last event was."""
    audience, carrier = make_audience()
    lane = add_lane(audience, carrier)
    lane.subscriber.close(CloseReason.LEFT)
    assert lane.waited == 0.0


def test_a_pass_knows_when_its_oldest_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what came first since another pass began: one look at the clock for a pass, not for a publish."""
    looks = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr("sse_broadcast.fanout.group.time.monotonic", lambda: next(looks))
    audience, carrier = make_audience()
    add_lane(audience, carrier)
    publish(audience, "a", "b")  # looked at 10
    lap = Lap(audience, limit=1)
    assert (lap.since, lap.end - lap.base) == (10.0, 1)
    publish(audience, "c", "d")  # while that goes on, at 20
    audience.forget(1)
    assert Lap(audience, limit=1).since == 10.0  # of "b"
    audience.forget(1)
    publish(audience, "e")  # at 30
    assert Lap(audience, limit=1).since == 20.0
    audience.forget(1)
    assert Lap(audience, limit=1).since == 20.0
    audience.forget(1)
    assert Lap(audience, limit=1).since == 30.0
