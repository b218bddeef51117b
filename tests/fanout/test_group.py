"""The log that readers of the same thing share."""

import pytest

from sse_broadcast.backends.base import StartPoint
from sse_broadcast.backends.memory.backend import open_memory
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.encoding import CHUNKED_JSON, JSON, NDJSON, TEXT, Encoding
from sse_broadcast.event import Event
from sse_broadcast.fanout.group import Batch, Outbox, SubscriberGroup
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.subscriber import AFTER_QUEUE, CloseReason, Subscriber
from sse_broadcast.fanout.writers import NOT_LISTED
from sse_broadcast.publication import Draft
from tests.support.memory_sinks import MemorySink, block, data_of, publication, terms

MANY = 1 << 20


class Clock:
    """A time of the day that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


DEFAULT = Selector.parse("default")


class RecordingScheduler:
    """Notes what it is asked, and empties a log that is at its bounds."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def schedule(self, group: SubscriberGroup) -> None:
        self.calls.append("wake")

    def flush(self, group: SubscriberGroup) -> None:
        self.calls.append("hurry")
        group.drop_delivered(len(group.log))

    def schedule_outbox(self, outbox: Outbox) -> None:
        self.calls.append("wake lane")

    def flush_outbox(self, outbox: Outbox) -> None:
        self.calls.append("hurry lane")

    def on_full(self, outbox: Outbox) -> None:
        self.calls.append("block")

    def resume(self, outbox: Outbox) -> None:
        self.calls.append("resume")

    def on_closed(self, outbox: Outbox, reason: CloseReason) -> None:
        self.calls.append(f"end {reason}")


def make_audience(
    selector: Selector = DEFAULT,
    encoding: Encoding = TEXT,
    *,
    queue_size: int = 10,
    queue_bytes: int = 1000,
) -> tuple[SubscriberGroup, RecordingScheduler]:
    scheduler = RecordingScheduler()
    group = SubscriberGroup(selector, encoding, scheduler, queue_size=queue_size, queue_bytes=queue_bytes)
    return group, scheduler


def make_lane(
    group: SubscriberGroup, scheduler: RecordingScheduler, catching_up: Replay | None = None
) -> Outbox:
    subscriber = Subscriber(group.selector, terms()[0], catching_up)
    sink = MemorySink()
    outbox = Outbox(scheduler, group, subscriber, sink)
    sink.attach(outbox)
    subscriber.consumer = outbox
    return outbox


def add_lane(group: SubscriberGroup, scheduler: RecordingScheduler) -> Outbox:
    outbox = make_lane(group, scheduler)
    outbox.join_group()
    return outbox


def bring(group: SubscriberGroup, *, limit: int, to: int) -> None:
    """Begin a pass over the lanes that march, and have it come to so many of them."""
    group.batch = Batch(group, limit=limit)
    group.writers.begin()
    for writer in group.writers.take(to):
        writer.write(group.batch.data)


def end(group: SubscriberGroup) -> None:
    """End the pass, which has come to everyone."""
    assert group.writers.done
    assert group.batch is not None
    group.writers.end()
    brought, group.batch = group.batch.end - group.batch.base, None
    group.drop_delivered(brought)


def publish(group: SubscriberGroup, *data: str) -> None:
    """Publish at the positions 1, 2, 3, ..., with frames of 24 bytes for one character."""
    first = group.end + 1
    for position, each in enumerate(data, first):
        group.append(publication(each, position=position))


def test_publishing_wakes_the_walk_once_and_touches_no_lane() -> None:
    """However many publications wait, the walk is asked for once."""
    group, scheduler = make_audience()
    outbox = add_lane(group, scheduler)
    publish(group, "a", "b")
    assert scheduler.calls == ["wake"]
    assert data_of(group.log) == ["a", "b"]
    assert (outbox.offset, group.end, group.waiting_bytes) == (0, 2, 48)


def test_nothing_is_logged_for_nobody() -> None:
    """An audience without lanes keeps nothing."""
    group, scheduler = make_audience()
    publish(group, "a")
    assert (group.log, scheduler.calls) == ([], [])


@pytest.mark.parametrize("bounds", [{"queue_size": 2}, {"queue_bytes": 48}])
def test_a_log_at_its_bounds_is_emptied_before_it_grows(bounds: dict[str, int]) -> None:
    """A publisher faster than the walk waits for the walk, and memory does not grow."""
    group, scheduler = make_audience(**bounds)  # type: ignore[arg-type]
    add_lane(group, scheduler)
    publish(group, "a", "b", "c")
    assert scheduler.calls == ["wake", "hurry", "wake"]
    assert data_of(group.log) == ["c"]
    assert group.waiting_bytes == 24


def test_a_lane_that_strays_takes_the_rest_of_the_log_along() -> None:
    """What it had not seen is in its queue, in order, and what comes later behind it."""
    group, scheduler = make_audience()
    outbox = add_lane(group, scheduler)
    publish(group, "a", "b")
    bring(group, limit=1, to=1)
    outbox.leave_to_own_queue()
    publish(group, "c")
    assert data_of(outbox.subscriber.take(MANY)) == ["b", "c"]
    assert (group.outboxes, group.following) == ([], 0)
    assert (outbox.following, outbox.index) == (False, NOT_LISTED)


def test_a_lane_strays_once() -> None:
    """What a lane with its own queue has is not offered to it again."""
    group, scheduler = make_audience()
    outbox, _ = add_lane(group, scheduler), add_lane(group, scheduler)
    publish(group, "a")
    outbox.leave_to_own_queue()
    outbox.leave_to_own_queue()
    assert data_of(outbox.subscriber.take(MANY)) == ["a"]


def test_a_lane_that_leaves_takes_nothing_along() -> None:
    """What it had not seen is nobody's concern any more, and leaving twice is leaving once."""
    group, scheduler = make_audience()
    outbox, other = add_lane(group, scheduler), add_lane(group, scheduler)
    publish(group, "a")
    outbox.leave_group()
    outbox.leave_group()
    publish(group, "b")
    assert (outbox.following, outbox.index, len(outbox.subscriber)) == (False, NOT_LISTED, 0)
    assert (group.outboxes, group.following) == ([other], 1)
    assert group.queued == {}


def test_a_lane_that_follows_again_begins_at_the_end() -> None:
    """Once its own queue is empty it has everything, and waits for what comes next."""
    group, scheduler = make_audience()
    outbox, other = add_lane(group, scheduler), add_lane(group, scheduler)
    outbox.leave_to_own_queue()
    publish(group, "a")
    outbox.subscriber.take(MANY)
    outbox.join_group()
    assert (outbox.offset, other.offset, group.end) == (1, 0, 1)
    assert group.queued == {}


async def test_a_lane_that_catches_up_is_given_nothing_that_is_published() -> None:
    """It finds it in the history: nothing is logged for it, and nothing queued, before it follows."""
    config = Config()
    memory = open_memory(config, ChannelPolicies(config), lambda _: 0)
    await memory.publish([Draft(("default",), Event("before"))])
    group, scheduler = make_audience()
    outbox = make_lane(group, scheduler, Replay(memory, DEFAULT, StartPoint(0), terms()[1]))
    publish(group, "a")
    assert (group.log, len(outbox.subscriber), scheduler.calls) == ([], 0, [])
    outbox.leave_to_own_queue()
    assert (group.queued, outbox.following) == ({}, False)
    outbox.subscriber.take(MANY)
    outbox.join_group()
    assert (outbox.subscriber.catching_up, outbox.offset) == (None, group.end)
    publish(group, "b")
    assert data_of(group.log) == ["b"]


def test_a_lane_passes_on_what_its_subscriber_and_its_sink_say() -> None:
    """To whoever carries for it."""
    group, scheduler = make_audience()
    outbox = make_lane(group, scheduler)
    for number in range(4):
        outbox.subscriber.offer(publication(str(number)))
    outbox.on_drained()
    assert scheduler.calls == ["wake lane", "hurry lane", "end slow", "resume"]


def test_a_pass_gives_each_lane_the_same_bytes() -> None:
    """What waits is joined once, and a lane that came in the middle gets its rest of it."""
    group, scheduler = make_audience()
    add_lane(group, scheduler)
    publish(group, "a", "b", "c")
    batch = Batch(group, limit=MANY)
    assert batch.data == block(1, "a") + block(2, "b") + block(3, "c")
    assert batch.remainder_from(1) == block(2, "b") + block(3, "c")
    assert (batch.base, batch.end) == (0, 3)


def test_a_pass_is_bounded_in_bytes_and_brings_one_at_least() -> None:
    """Frames of 24 bytes: a limit of 50 takes two, a limit of 5 takes one."""
    group, scheduler = make_audience()
    add_lane(group, scheduler)
    publish(group, "a", "b", "c")
    assert Batch(group, limit=50).end == 2
    assert Batch(group, limit=5).end == 1


def test_a_lane_that_begins_in_the_middle_of_the_log_is_late() -> None:
    """Until the log is forgotten up to there: then it marches with the others."""
    group, scheduler = make_audience()
    first = add_lane(group, scheduler)
    publish(group, "a")
    second = add_lane(group, scheduler)
    publish(group, "b")
    third = add_lane(group, scheduler)
    publish(group, "c")
    assert (group.outboxes, group.following) == ([first, second, third], 3)
    assert (list(group.writers), group.late_joiners) == ([first], {second: 1, third: 2})
    assert [outbox.offset for outbox in group.outboxes] == [0, 1, 2]
    bring(group, limit=1, to=1)
    assert group.batch is not None
    assert group.batch.late == []
    end(group)
    assert (list(group.writers), group.late_joiners) == ([first, second], {third: 2})
    assert [outbox.offset for outbox in group.outboxes] == [1, 1, 2]
    bring(group, limit=MANY, to=2)
    assert group.batch.late == [third]
    assert (group.batch.followed, group.batch.remainder_from(third.offset)) == (True, block(3, "c"))
    group.late_joiners[third] = group.batch.end
    assert [outbox.offset for outbox in group.outboxes] == [3, 3, 3]
    end(group)
    assert (list(group.writers), group.late_joiners) == ([first, second, third], {})


def test_a_lane_that_is_late_may_leave() -> None:
    """And takes the rest of the log along if it strays."""
    group, scheduler = make_audience()
    add_lane(group, scheduler)
    publish(group, "a")
    leaves, strays = add_lane(group, scheduler), add_lane(group, scheduler)
    publish(group, "b")
    leaves.leave_group()
    strays.leave_to_own_queue()
    assert group.late_joiners == {}
    assert data_of(strays.subscriber.take(MANY)) == ["b"]


def test_how_far_a_pass_has_come_is_what_each_lane_has_seen() -> None:
    """Nothing is set for any of them."""
    group, scheduler = make_audience()
    outboxes = [add_lane(group, scheduler) for _ in range(3)]
    publish(group, "a", "b")
    bring(group, limit=MANY, to=2)
    assert [outbox.offset for outbox in outboxes] == [2, 2, 0]
    assert [outbox.behind for outbox in outboxes] == [0, 0, 2]


def test_the_position_of_a_lane_is_that_of_the_last_it_was_given() -> None:
    """By a pass that has come to it, or alone, as by its opening."""
    group, scheduler = make_audience()
    first, second = add_lane(group, scheduler), add_lane(group, scheduler)
    second.last_position_sent = 7
    assert (first.position, second.position) == (0, 7)
    group.append(publication("a", position=8))
    group.append(publication("b", position=9))
    assert (first.position, second.position) == (0, 7)
    bring(group, limit=1, to=1)
    assert (first.position, second.position) == (8, 7)
    assert list(group.writers.take(1)) == [second.writer]
    assert (first.position, second.position) == (8, 8)
    end(group)
    assert (first.position, second.position) == (8, 8)
    third = add_lane(group, scheduler)  # late: it begins behind what waits
    third.last_position_sent = 9
    assert third.position == 9


def test_a_lane_that_strays_or_leaves_keeps_its_position() -> None:
    """What it was given together with others is known of it alone from then on."""
    group, scheduler = make_audience()
    strays, leaves = add_lane(group, scheduler), add_lane(group, scheduler)
    publish(group, "a", "b")
    bring(group, limit=1, to=1)
    strays.leave_to_own_queue()
    leaves.leave_to_own_queue()
    assert (strays.position, leaves.position) == (1, 0)
    publish(group, "c")
    assert (strays.position, leaves.position) == (1, 0)


def test_a_pass_names_the_channel_where_its_format_does() -> None:
    """The first of the publisher's channels that these readers asked for; none for the server's own."""
    group, scheduler = make_audience(Selector.parse("b", "c", "orders.*"), NDJSON)
    add_lane(group, scheduler)
    group.append(publication("x", "a", "c", "b", position=1))
    group.append(publication("y", "a", "orders.eu", "b", position=2))
    group.append(publication("{}", "none of theirs", event="$reset", position=3))
    line = '{"channel":%s,"id":"0123abcd-%d","event":"%s","data":"%s","time":1700000000.0}\n'
    assert [each.decode() for each in Batch(group, limit=MANY).data.splitlines(keepends=True)] == [
        line % ('"c"', 1, "message", "x"),
        line % ('"orders.eu"', 2, "message", "y"),
        line % ("null", 3, "$reset", "{}"),
    ]


@pytest.mark.parametrize("encoding", [JSON, CHUNKED_JSON])
def test_audiences_of_the_same_channel_share_an_envelope(encoding: Encoding) -> None:
    """However different the rest of what they asked for is."""
    one, _ = make_audience(Selector.parse("a", "z"), encoding)
    two, _ = make_audience(Selector.parse("a"), encoding)
    both = publication("x", "a", "b", position=1)
    assert one.frames([both]) == two.frames([both]) == both.frame(encoding, "a")
    assert both._frames is not None
    assert len(both._frames) == 1


def test_a_format_that_names_no_channel_is_asked_for_none() -> None:
    """One frame serves the readers of every channel."""
    one, _ = make_audience(Selector.parse("a"))
    two, _ = make_audience(Selector.parse("b"))
    both = publication("x", "a", "b", position=1)
    assert one.frames([both]) == two.frames([both]) == block(1, "x")
    assert both._frames is not None
    assert list(both._frames) == [TEXT]


def test_forgetting_moves_the_base_and_not_the_end() -> None:
    """Places keep their meaning, and the newest position that went is remembered."""
    group, scheduler = make_audience()
    add_lane(group, scheduler)
    publish(group, "a", "b", "c")
    assert group.told == 0
    group.drop_delivered(2)
    assert (group.base, group.end, data_of(group.log), group.waiting_bytes) == (2, 3, ["c"], 24)
    assert group.told == 2


# What is known of a lane when somebody asks.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have it be the second at which everything here is published."""
    clock = Clock(1_700_000_000.0)
    monkeypatch.setattr("sse_broadcast.clock.now", clock)
    return clock


def known(outbox: Outbox) -> tuple[int, int, int, float]:
    return outbox.given, outbox.behind, outbox.waiting_bytes, outbox.lag


def test_a_place_in_the_log_says_what_a_lane_was_given_and_what_waits(clock: Clock) -> None:
    """Nobody counts for it: two lanes of one log, of which one has an event more."""
    group, scheduler = make_audience()
    publish(group, "before")
    ahead, behind = add_lane(group, scheduler), add_lane(group, scheduler)
    assert known(ahead) == known(behind) == (0, 0, 0, 0.0)
    publish(group, "a", "b", "c")
    clock.now += 7
    bring(group, limit=48, to=1)
    assert known(ahead) == (2, 1, 24, 7.0)
    assert known(behind) == (0, 3, 72, 7.0)
    list(group.writers.take(1))
    end(group)
    assert known(ahead) == known(behind) == (2, 1, 24, 7.0)
    bring(group, limit=MANY, to=2)
    assert known(ahead) == known(behind) == (3, 0, 0, 0.0)
    end(group)
    assert known(ahead) == known(behind) == (3, 0, 0, 0.0)


def test_a_clock_that_was_set_back_makes_no_negative_lag(clock: Clock) -> None:
    """What was published in a future that has not come is published now."""
    group, scheduler = make_audience()
    outbox = add_lane(group, scheduler)
    publish(group, "a")
    clock.now -= 60
    assert outbox.lag == 0.0


def test_a_lane_that_strays_keeps_its_count(clock: Clock) -> None:
    """Through its own queue and back to the log: each event counts once, when it is taken."""
    group, scheduler = make_audience()
    outbox = add_lane(group, scheduler)
    publish(group, "a", "b")
    clock.now += 3
    bring(group, limit=24, to=1)
    outbox.leave_to_own_queue()
    assert known(outbox) == (1, 1, 24, 3.0)
    end(group)
    group.drop_delivered(1)
    publish(group, "c")
    assert known(outbox) == (1, 2, 48, 3.0)
    outbox.subscriber.take(MANY)
    assert known(outbox) == (3, 0, 0, 0.0)
    outbox.join_group()
    publish(group, "d")
    bring(group, limit=MANY, to=1)
    assert known(outbox) == (4, 0, 0, 0.0)


async def test_a_lane_that_catches_up_is_behind_by_what_the_history_has(clock: Clock) -> None:
    """What it was given of that counts as any other."""
    config = Config()
    memory = open_memory(config, ChannelPolicies(config), lambda _: 0)
    memory._clock = clock
    for data in "abc":
        await memory.publish([Draft(("default",), Event(data))])
        clock.now += 10
    group, scheduler = make_audience()
    outbox = make_lane(group, scheduler, Replay(memory, DEFAULT, StartPoint(0), terms()[1]))
    assert known(outbox) == (0, 3, 0, 30.0)
    outbox.subscriber.take(1)
    assert known(outbox) == (1, 2, 0, 20.0)
    outbox.subscriber.take(MANY)
    assert known(outbox) == (3, 0, 0, 0.0)
    outbox.join_group()
    assert known(outbox) == (3, 0, 0, 0.0)


@pytest.mark.parametrize("reason", CloseReason)
@pytest.mark.parametrize("stray", [False, True])
def test_what_a_lane_was_behind_when_it_ended_is_kept(
    clock: Clock, reason: CloseReason, *, stray: bool
) -> None:
    """Whether what waited is still given to it or not."""
    group, scheduler = make_audience()
    outbox = add_lane(group, scheduler)
    publish(group, "a")
    if stray:
        outbox.leave_to_own_queue()
    clock.now += 5
    outbox.subscriber.close(reason)
    clock.now += 5
    assert (outbox.waited, outbox.given) == (5.0, 0)
    assert len(outbox.subscriber) == (stray and reason in AFTER_QUEUE)


def test_a_lane_that_ends_with_nothing_to_get_was_not_behind() -> None:
    """However long ago the last event was."""
    group, scheduler = make_audience()
    outbox = add_lane(group, scheduler)
    outbox.subscriber.close(CloseReason.LEFT)
    assert outbox.waited == 0.0


def test_a_pass_knows_when_its_oldest_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what came first since another pass began: one look at the clock for a pass, not for a publish."""
    looks = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr("sse_broadcast.fanout.group.time.monotonic", lambda: next(looks))
    group, scheduler = make_audience()
    add_lane(group, scheduler)
    publish(group, "a", "b")  # looked at 10
    batch = Batch(group, limit=1)
    assert (batch.since, batch.end - batch.base) == (10.0, 1)
    publish(group, "c", "d")  # while that goes on, at 20
    group.drop_delivered(1)
    assert Batch(group, limit=1).since == 10.0  # of "b"
    group.drop_delivered(1)
    publish(group, "e")  # at 30
    assert Batch(group, limit=1).since == 20.0
    group.drop_delivered(1)
    assert Batch(group, limit=1).since == 20.0
    group.drop_delivered(1)
    assert Batch(group, limit=1).since == 30.0
