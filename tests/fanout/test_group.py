"""Subscriber group: the shared log of what its members are to be written."""

import pytest

from sse_broadcast.channels import Selector
from sse_broadcast.encoding import CHUNKED_JSON, JSON, NDJSON, TEXT, Encoding
from sse_broadcast.fanout.group import Batch
from tests.support.groups import MANY, RecordedGroup, begin_pass, end_pass
from tests.support.memory_sinks import block, data_of, publication


def test_publishing_schedules_the_group_once_and_touches_no_member(group: RecordedGroup) -> None:
    """It is scheduled once however many publications wait."""
    outbox = group.add()
    group.publish("a", "b")
    assert group.scheduler.calls == ["schedule_group"]
    assert data_of(group.log) == ["a", "b"]
    assert (outbox.offset, group.end, group.waiting_bytes) == (0, 2, 48)


def test_a_group_without_members_logs_nothing(group: RecordedGroup) -> None:
    group.publish("a")
    assert (group.log, group.scheduler.calls) == ([], [])


@pytest.mark.parametrize("bounds", [{"queue_size": 2}, {"queue_bytes": 48}])
def test_a_full_log_is_written_before_it_grows(bounds: dict[str, int]) -> None:
    """A publisher faster than the dispatcher waits for it, and memory does not grow."""
    group = RecordedGroup(**bounds)  # type: ignore[arg-type]
    group.add()
    group.publish("a", "b", "c")
    assert group.scheduler.calls == ["schedule_group", "flush_group", "schedule_group"]
    assert data_of(group.log) == ["c"]
    assert group.waiting_bytes == 24


def test_a_batch_has_the_same_bytes_for_each_member(group: RecordedGroup) -> None:
    """The events are joined once, and a late joiner gets the remainder."""
    group.add()
    group.publish("a", "b", "c")
    batch = Batch(group, limit=MANY)
    assert batch.data == block(1, "a") + block(2, "b") + block(3, "c")
    assert batch.remainder_from(1) == block(2, "b") + block(3, "c")
    assert (batch.base, batch.end) == (0, 3)


def test_a_batch_is_limited_in_bytes_and_holds_one_publication_at_least(group: RecordedGroup) -> None:
    """Frames of 24 bytes: a limit of 50 takes two, a limit of 5 takes one."""
    group.add()
    group.publish("a", "b", "c")
    assert Batch(group, limit=50).end == 2
    assert Batch(group, limit=5).end == 1


def test_an_outbox_that_joins_within_the_log_is_a_late_joiner(group: RecordedGroup) -> None:
    """Once the log is dropped up to its offset it is in the writer list."""
    first = group.add()
    group.publish("a")
    second = group.add()
    group.publish("b")
    third = group.add()
    group.publish("c")
    assert (group.followers, group.following) == ([first, second, third], 3)
    assert (list(group.writers), group.late_joiners) == ([first], {second: 1, third: 2})
    assert [outbox.offset for outbox in group.followers] == [0, 1, 2]
    begin_pass(group, limit=1, to=1)
    assert group.batch is not None
    assert group.batch.late_joiners == []
    end_pass(group)
    assert (list(group.writers), group.late_joiners) == ([first, second], {third: 2})
    assert [outbox.offset for outbox in group.followers] == [1, 1, 2]
    begin_pass(group, limit=MANY, to=2)
    assert group.batch.late_joiners == [third]
    assert (group.batch.followed, group.batch.remainder_from(third.offset)) == (True, block(3, "c"))
    group.late_joiners[third] = group.batch.end
    assert [outbox.offset for outbox in group.followers] == [3, 3, 3]
    end_pass(group)
    assert (list(group.writers), group.late_joiners) == ([first, second, third], {})


def test_a_batch_names_the_channel_if_its_format_does() -> None:
    """Those of the publisher's channels that the group asked for count. System events have none."""
    group = RecordedGroup(Selector.parse("b", "c", "orders.*"), NDJSON)
    group.add()
    group.append(publication("x", "a", "c", "b", position=1))
    group.append(publication("y", "a", "orders.eu", "b", position=2))
    group.append(publication("{}", "none of theirs", event="$reset", position=3))
    line = '{"channel":%s,"id":"0123abcd-%d","event":"%s","data":"%s","time":1700000000.0%s}\n'
    assert [each.decode() for each in Batch(group, limit=MANY).data.splitlines(keepends=True)] == [
        line % ('"c"', 1, "message", "x", ',"channels":["c","b"]'),
        line % ('"orders.eu"', 2, "message", "y", ',"channels":["orders.eu","b"]'),
        line % ("null", 3, "$reset", "{}", ""),
    ]


@pytest.mark.parametrize("encoding", [JSON, CHUNKED_JSON])
def test_groups_of_the_same_channel_share_an_envelope(encoding: Encoding) -> None:
    """The rest of their selectors may differ."""
    one = RecordedGroup(Selector.parse("a", "z"), encoding)
    two = RecordedGroup(Selector.parse("a"), encoding)
    both = publication("x", "a", "b", position=1)
    # Joining one frame returns the same object.
    assert one.frames([both]) is two.frames([both]) is both.frame(encoding, "a")


def test_a_format_without_channel_names_shares_one_frame() -> None:
    """It serves the subscribers of every channel."""
    one = RecordedGroup(Selector.parse("a"))
    two = RecordedGroup(Selector.parse("b"))
    both = publication("x", "a", "b", position=1)
    assert one.frames([both]) == block(1, "x")
    assert one.frames([both]) is two.frames([both]) is both.frame(TEXT)


def test_dropping_moves_the_base_and_not_the_end(group: RecordedGroup) -> None:
    """Offsets keep their meaning, and the newest dropped position is kept."""
    group.add()
    group.publish("a", "b", "c")
    assert group.last_position_sent == 0
    group.drop_delivered(2)
    assert (group.base, group.end, data_of(group.log), group.waiting_bytes) == (2, 3, ["c"], 24)
    assert group.last_position_sent == 2


def test_a_batch_has_the_time_of_its_oldest_publication(
    group: RecordedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read once in a pass, and not at each publish."""
    looks = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr("sse_broadcast.fanout.group.time.monotonic", lambda: next(looks))
    group.add()
    group.publish("a", "b")  # the clock is read at 10
    batch = Batch(group, limit=1)
    assert (batch.published_at, batch.end - batch.base) == (10.0, 1)
    group.publish("c", "d")  # during the pass, at 20
    group.drop_delivered(1)
    assert Batch(group, limit=1).published_at == 10.0  # of "b"
    group.drop_delivered(1)
    group.publish("e")  # at 30
    assert Batch(group, limit=1).published_at == 20.0
    group.drop_delivered(1)
    assert Batch(group, limit=1).published_at == 20.0
    group.drop_delivered(1)
    assert Batch(group, limit=1).published_at == 30.0
