"""Broadcaster: publishing, subscribing, draining and reloading. Streams and sinks have their own files."""

import asyncio
import bisect
import dataclasses
import functools
import gc
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from sse_broadcast import (
    Broadcaster,
    ClosedError,
    Config,
    Event,
    EventError,
    EventTooLargeError,
    Receipt,
    wire,
)
from sse_broadcast import broadcaster as broadcaster_module
from sse_broadcast.backends.base import IdempotencyKey, ResetReason, StartPoint
from sse_broadcast.broadcaster import (
    DRAIN_BATCH,
    DRAIN_INTERVAL,
    RECONNECTS_PER_SECOND,
    ChannelState,
    drain_batch_size,
)
from sse_broadcast.channels import Selector
from sse_broadcast.config.schema import ChannelRule, Overflow
from sse_broadcast.cursor import Cursor, CustomId, EventId, Keyword, parse_id, parse_since
from sse_broadcast.encoding import CHUNKED_JSON, CHUNKED_NDJSON, CHUNKED_TEXT, JSON, NDJSON, TEXT, Encoding
from sse_broadcast.errors import FullError, IdempotencyError
from sse_broadcast.event import LONGEST_RETRY, SHORTEST_RETRY
from sse_broadcast.fanout.outbox import Outbox, OutboxGroup
from sse_broadcast.fanout.subscriber import CloseReason, Heartbeat
from tests.support.dispatching import Timers, deliver, publish, settled
from tests.support.internals import backend_of, hub_of, outboxes_of, patterns_of, routes_of, set_clock
from tests.support.memory_sinks import EPOCH, MemorySink, block, connect, make_broadcaster
from tests.support.sockets import PATIENCE, until


@pytest.fixture
def broadcaster() -> Broadcaster:
    """Return a broadcaster with the default configuration and the fixed epoch."""
    return make_broadcaster()


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    """Record the pending timers: a broadcaster has one while its history holds anything."""
    return Timers(monkeypatch)


DEFAULT = Selector.parse("default")

BAD_NAMES = [
    ([], "channels: must name at least one"),
    ([""], "channel: must be 1 to 128 characters: ''"),
    (["x" * 129], "channel: must be 1 to 128 characters"),
    (["a b"], "channel: must not contain ' ': 'a b'"),
    (["a/b"], "channel: must not contain '/'"),
    (["fine", "\u00e9"], r"channel: must not contain '\\xe9'"),
    ([".."], "channel: must not be '..'"),
]


async def test_a_receipt_has_the_subscriber_count_the_channels_and_the_id(broadcaster: Broadcaster) -> None:
    """Each HTTP subscriber and stream counts once. Channels are in the publisher's order."""
    connect(broadcaster)
    stream = aiter(broadcaster.subscribe("default", "other"))
    both = await broadcaster.broadcast("x", channels=["other", "default", "other"])
    assert both == Receipt(2, ("other", "default"), "0123abcd-1")
    assert await broadcaster.broadcast("x", channels=["other"]) == Receipt(1, ("other",), "0123abcd-2")
    assert await broadcaster.broadcast("x", channels=["none"]) == Receipt(0, ("none",), "0123abcd-3")
    assert await broadcaster.broadcast("x", id="mine") == Receipt(2, ("default",), "mine")
    assert broadcaster.client_count == 2
    del stream


async def test_subscribers_that_filter_an_event_out_are_not_counted(broadcaster: Broadcaster) -> None:
    """`clients` is the number of subscribers that receive the event."""
    connect(broadcaster, types=["t"])
    connect(broadcaster, "def*", types=["u"])
    receipts = [await broadcaster.broadcast("x", event=event) for event in ("t", "v", None)]
    assert [receipt.clients for receipt in receipts] == [1, 0, 0]


async def require_refused(problem: str, **fields: Any) -> None:
    """Fail unless an event is refused with this error and nothing is published."""
    broadcaster = Broadcaster()
    with pytest.raises(EventError, match=problem):
        await broadcaster.broadcast("x", **fields)
    channels = fields.pop("channels", ["default"])
    with pytest.raises(EventError, match=problem):
        broadcaster.draft(Event("x", fields.pop("event", "message"), **fields), channels)
    assert broadcaster.counts.published == 0


@pytest.mark.parametrize(("channels", "problem"), [*BAD_NAMES, (["a*"], r"channel: must not contain '\*'")])
async def test_publishing_to_a_bad_channel_name_is_refused(channels: list[str], problem: str) -> None:
    """The error names the character, and nothing is published. A pattern is refused too."""
    await require_refused(problem, channels=channels)


@pytest.mark.parametrize(("channels", "problem"), BAD_NAMES)
def test_subscribing_to_a_bad_channel_name_is_refused(channels: list[str], problem: str) -> None:
    """The error names the character.

    A stream without channels subscribes to `default`; `selector` refuses none.
    """
    broadcaster = Broadcaster()
    with pytest.raises(EventError, match=problem):
        broadcaster.selector(channels)
    if channels:
        with pytest.raises(EventError, match=problem):
            broadcaster.subscribe(*channels)


async def test_a_string_instead_of_a_list_of_channels_is_refused() -> None:
    """Otherwise `channels="news"` would publish to four channels of one letter."""
    with pytest.raises(TypeError, match=r"^channels: must be a sequence of names, not the string 'news'$"):
        await Broadcaster().broadcast("x", channels="news")


async def test_the_number_of_channels_is_limited() -> None:
    """`max_channels` holds for a subscription, patterns included, and for a publish."""
    broadcaster = Broadcaster(Config(max_channels=3))
    problem = "^channels: 4 given, at most 3 allowed$"
    with pytest.raises(EventError, match=problem):
        broadcaster.selector(["a", "b", "c", "d*"])
    with pytest.raises(EventError, match=problem):
        broadcaster.subscribe("a", "b", "c", "d")
    with pytest.raises(EventError, match=problem):
        await broadcaster.broadcast("x", channels=["a", "b", "c", "d"])


async def test_the_number_of_patterns_has_its_own_limit() -> None:
    """Channel names do not count, and a repeated pattern counts once."""
    broadcaster = Broadcaster(Config(max_patterns=2))
    names = [f"c{number}" for number in range(97)]
    assert broadcaster.selector([*names, "a*", "b*", "a*"]).patterns == ("a*", "b*")
    problem = "^channels: 3 patterns given, at most 2 allowed$"
    with pytest.raises(EventError, match=problem):
        broadcaster.selector(["a*", "b*", "c*"])
    with pytest.raises(EventError, match=problem):
        broadcaster.subscribe("a", "a*", "b*", "c*")
    assert broadcaster.selector(["a", "b", "c*"]).channels == ("a", "b", "c*")
    assert (await broadcaster.broadcast("x", channels=["a", "b", "c"])).channels == ("a", "b", "c")
    assert broadcaster.counts.published == 1


async def test_reserved_types_are_refused() -> None:
    """Types that begin with `$` are reserved for the server."""
    for event in ("$reset", "$"):
        await require_refused(
            rf"event: types that begin with \$ are reserved for the server: '\{event}'", event=event
        )


@pytest.mark.parametrize("event", ["open", "error"])
async def test_event_types_of_event_source_are_refused(event: str) -> None:
    """A browser would call its error handlers, and a Node process without a handler would end."""
    problem = f"^event: '{event}' is reserved: browsers fire EventSource events of this name$"
    await require_refused(problem, event=event)


@pytest.mark.parametrize("event", ["message", "Open", "errors", "opened", "close"])
async def test_similar_types_are_accepted(event: str) -> None:
    """Only `open` and `error` are reserved."""
    assert (await Broadcaster().broadcast("x", event=event)).count == 1


@pytest.mark.parametrize("retry", [0, 499, 3_600_001, 2**31 - 1])
async def test_a_retry_out_of_bounds_is_refused(retry: int) -> None:
    """Browsers would reconnect at once, or never. The value is not clamped."""
    await require_refused(f"^retry: must be 500 to 3600000 milliseconds, not {retry}$", retry=retry)


@pytest.mark.parametrize("retry", [SHORTEST_RETRY, LONGEST_RETRY])
async def test_a_retry_at_its_bounds_is_accepted(retry: int, broadcaster: Broadcaster) -> None:
    """The bounds are half a second and one hour."""
    _, sink = connect(broadcaster)
    await deliver(broadcaster, "x", retry=retry)
    assert sink.data == f"retry: {retry}\ndata: x\nid: 0123abcd-1\n\n".encode()


@pytest.mark.parametrize(
    ("id", "problem"),
    [
        ("0123abcd-1", "id: '0123abcd-1' has the form of the server's own ids"),
        ("ffffffff-9999999999999999999", "has the form of the server's own ids"),
        ("earliest", "id: 'earliest' has a meaning for `since`"),
        ("last", "has a meaning for `since`"),
        ("10m", "has a meaning for `since`"),
        ("", "id: must be 1 to 128 characters"),
        ("x" * 129, "id: must be 1 to 128 characters"),
        ("a b", "id: must not contain ' '"),
        ("\u00e9", "id: must not contain"),
        ("a\nb", "id: must not contain LF"),
    ],
)
async def test_an_ambiguous_id_is_refused(id: str, problem: str) -> None:
    """A publisher's id must not look like an id of the server or a value of `since`."""
    await require_refused(problem, id=id)


@pytest.mark.parametrize("id", ["0123abcd", "0123ABCD-1", "x" * 128, "first", "10", "0123abcd-1.", "10min"])
async def test_any_other_id_is_accepted(id: str, broadcaster: Broadcaster) -> None:
    """Subscribers receive it, and can resume from it."""
    assert (await broadcaster.broadcast("x", id=id)).id == id
    await broadcaster.broadcast("y")
    _, sink = connect(broadcaster, since=id)
    await settled()
    assert sink.data == block(2, "y")


@pytest.mark.parametrize("key", ["", "x" * 129, "a\nb"])
async def test_a_bad_key_is_refused(key: str) -> None:
    """A key has 1 to 128 characters and no line end."""
    with pytest.raises(EventError, match=r"^key: must "):
        await Broadcaster().broadcast("x", key=key)


async def test_a_publication_has_every_field_of_its_event(broadcaster: Broadcaster) -> None:
    outbox, _ = connect(broadcaster)
    await broadcaster.broadcast("x", event="t", id="mine", key="k", retry=5000)
    (one,) = outbox.group.log
    assert one.event == Event("x", "t", "mine", 5000, "k")
    assert (one.channels, one.id, one.position) == (("default",), "mine", 1)


async def test_max_event_limits_the_data_and_the_frame() -> None:
    """Both are measured in bytes. The frame includes the id that the server assigns."""
    broadcaster = Broadcaster(Config(max_event=100))
    await broadcaster.broadcast("x" * 59)
    with pytest.raises(
        EventTooLargeError, match="data: is 101 bytes as a frame, more than the 100 that max_event allows"
    ):
        await broadcaster.broadcast("x" * 60)
    with pytest.raises(
        EventTooLargeError, match="data: is 102 bytes, more than the 100 that max_event allows"
    ):
        await broadcaster.broadcast("\u00e9" * 51)
    with pytest.raises(EventTooLargeError, match="data: is 139 bytes as a frame"):
        await broadcaster.broadcast("\n" * 14)
    await broadcaster.broadcast("x" * 84, id="id")
    with pytest.raises(EventTooLargeError, match="data: is 101 bytes as a frame"):
        await broadcaster.broadcast("x" * 86, id="id")
    assert broadcaster.counts.published == 2


@pytest.mark.parametrize("text", ["x", "\n", "\r", "\r\n", "\u20ac", "\U0001f600", "\U0001f600\n"])
@pytest.mark.parametrize("event_type", ["message", "\U0001f600" * 300])
def test_no_frame_exceeds_max_event(text: str, event_type: str) -> None:
    """The largest event that fits is accepted, whatever its characters."""
    most = 10_000
    broadcaster = make_broadcaster(max_event=most)
    id = "0123abcd-9999999999999999999"

    def event(count: int) -> Event:
        return Event(text * count, event_type, retry=LONGEST_RETRY)

    too_many = bisect.bisect_right(range(most), most, key=lambda count: len(wire.encode(event(count), id)))
    broadcaster.draft(event(too_many - 1))
    with pytest.raises(EventTooLargeError, match="more than the 10000 that max_event allows"):
        broadcaster.draft(event(too_many))


# Drafts and batches.


async def test_a_draft_is_checked_and_not_published(broadcaster: Broadcaster) -> None:
    draft = broadcaster.draft(Event("x"), ["b", "a", "b"])
    assert (draft.channels, draft.event) == (("b", "a"), Event("x"))
    assert broadcaster.draft(Event("x")).channels == ("default",)
    with pytest.raises(EventTooLargeError):
        broadcaster.draft(Event("x" * 2_000_000))
    assert (broadcaster.cursor, broadcaster.counts.published) == ("0123abcd-0", 0)


async def test_a_batch_is_published_in_order_at_consecutive_positions(broadcaster: Broadcaster) -> None:
    """The receipt counts its events, and each subscriber once."""
    _, sink = connect(broadcaster, "a", "b")
    connect(broadcaster, "b")
    drafts = [
        broadcaster.draft(Event("1"), ["a"]),
        broadcaster.draft(Event("2"), ["b"]),
        broadcaster.draft(Event("3", id="mine"), ["b", "c"]),
    ]
    assert await broadcaster.publish_all(drafts) == Receipt(2, ("b", "c"), "mine", 3)
    await settled()
    assert sink.written == [block(1, "1") + block(2, "2") + b"data: 3\nid: mine\n\n"]
    assert (broadcaster.counts.published, broadcaster.cursor) == (3, "0123abcd-3")


async def test_an_empty_batch_is_refused(broadcaster: Broadcaster) -> None:
    """Nothing is published, and the idempotency key stays unused."""
    key = IdempotencyKey(("k",), b"")
    for given in (None, key):
        with pytest.raises(EventError, match=r"^events: must have at least one event$"):
            await broadcaster.publish_all([], given)
    assert (broadcaster.cursor, broadcaster.counts.published) == ("0123abcd-0", 0)
    assert (await broadcaster.publish_all([broadcaster.draft(Event("x"))], key)).id == "0123abcd-1"
    await broadcaster.close(timeout=1)
    with pytest.raises(ClosedError):
        await broadcaster.publish_all([])


async def test_validated_channels_serve_many_drafts() -> None:
    """A draft made with them equals the draft made with the channels."""
    broadcaster = make_broadcaster(max_channels=3, max_event=1000)
    channels = broadcaster.validate_channels(["b", "a", "b"])
    assert channels == ("b", "a")
    for number in range(3):
        event = Event(str(number))
        assert broadcaster.prepare(event, channels) == broadcaster.draft(event, ["b", "a", "b"])
    with pytest.raises(EventError, match=r"^channels: 4 given, at most 3 allowed$"):
        broadcaster.validate_channels(["a", "b", "a", "b"])
    with pytest.raises(EventError, match=r"^channels: must name at least one$"):
        broadcaster.validate_channels([])
    with pytest.raises(EventError, match=r"^channel: must not contain '\*'"):
        broadcaster.validate_channels(["a*"])
    for refused in (
        Event("x", "$close"),
        Event("x", "open"),
        Event("x", retry=1),
        Event("x", id="0123abcd-1"),
        Event("x" * 1001),
    ):
        with pytest.raises(EventError) as alone:
            broadcaster.draft(refused, ["a"])
        with pytest.raises(type(alone.value), match=re.escape(str(alone.value))):
            broadcaster.prepare(refused, ("a",))


async def test_an_idempotency_key_publishes_once(broadcaster: Broadcaster) -> None:
    """The second publish returns the first receipt, whatever happened in between."""
    _, sink = connect(broadcaster)
    key = IdempotencyKey(("caller", "/send", "k"), b"digest")
    drafts = [broadcaster.draft(Event("x")), broadcaster.draft(Event("y"))]
    first = await broadcaster.publish_all(drafts, key)
    await broadcaster.broadcast("between")
    connect(broadcaster)
    assert await broadcaster.publish_all(drafts, key) == first == Receipt(1, ("default",), "0123abcd-2", 2)
    await settled()
    assert sink.data == block(1, "x") + block(2, "y") + block(3, "between")
    assert broadcaster.counts.published == 3


async def test_an_idempotency_key_for_other_content_is_an_error(broadcaster: Broadcaster) -> None:
    """Nothing is published, and the key stays valid for its content. Another scope has keys of its own."""
    draft = broadcaster.draft(Event("x"))
    first = await broadcaster.publish_all([draft], IdempotencyKey(("a", "k"), b"one"))
    with pytest.raises(IdempotencyError, match=r"^Idempotency-Key: it was used before"):
        await broadcaster.publish_all([draft], IdempotencyKey(("a", "k"), b"two"))
    assert broadcaster.counts.published == 1
    assert await broadcaster.publish_all([draft], IdempotencyKey(("a", "k"), b"one")) == first
    assert (await broadcaster.publish_all([draft], IdempotencyKey(("b", "k"), b"two"))).id == "0123abcd-2"


# Where subscriptions begin.


async def test_the_cursor_is_the_newest_position(broadcaster: Broadcaster) -> None:
    """A subscription that begins there gets every later event and none before."""
    assert broadcaster.cursor == "0123abcd-0"
    await broadcaster.broadcast("a", id="mine")
    cursor = broadcaster.cursor
    assert cursor == "0123abcd-1"
    await broadcaster.broadcast("b")
    _, sink = connect(broadcaster, since=cursor)
    await settled()
    assert sink.data == block(2, "b")


@pytest.mark.parametrize(
    ("cursor", "start"),
    [
        (None, StartPoint(3)),
        (EventId(EPOCH, 1), StartPoint(1)),
        (EventId(EPOCH, 4), StartPoint(3, reset_reason=ResetReason.UNKNOWN)),
        (EventId("fedcba98", 1), StartPoint(3, reset_reason=ResetReason.EPOCH)),
        (CustomId("mine"), StartPoint(2)),
        (CustomId("mine", said_in_since=True), StartPoint(2)),
        (CustomId("another's"), StartPoint(3, reset_reason=ResetReason.UNKNOWN)),
        (Keyword.EARLIEST, StartPoint(0)),
    ],
)
async def test_a_subscription_begins_at_its_cursor(cursor: Cursor | None, start: StartPoint) -> None:
    """The start is the position just before the first event to deliver."""
    broadcaster = make_broadcaster()
    for id in (None, "mine", None):
        await broadcaster.broadcast("x", id=id)
    given = broadcaster.start_point(DEFAULT, cursor)
    # `evictions_seen` is internal to the backend.
    assert dataclasses.replace(given, evictions_seen=0) == start


@pytest.mark.parametrize("since", ["yesterday", "10min", "-1", "1 h", "never-ours", "gone", "elsewhere", ""])
async def test_an_invalid_since_is_refused(since: str) -> None:
    """It is a misspelt age or keyword, or an id that no event in these channels has."""
    broadcaster = make_broadcaster(history_size=1)
    for id in ("gone", "held"):
        await broadcaster.broadcast("x", id=id)
    await broadcaster.broadcast("x", id="elsewhere", channels=["other"])
    problem = (
        f"since: {since!a} is neither an age (500ms, 30s, 10m, 2h, 7d), nor earliest or last,"
        " nor the id of an event that is held"
    )
    with pytest.raises(EventError, match=f"^{re.escape(problem)}$") as caught:
        broadcaster.start_point(DEFAULT, parse_since(since))
    assert caught.value.field == "since"
    assert broadcaster.start_point(DEFAULT, parse_since("held")) == StartPoint(2)
    assert broadcaster.start_point(DEFAULT, parse_id(since)).reset_reason is ResetReason.UNKNOWN


async def test_an_invalid_since_is_quoted_in_part() -> None:
    """The error has at most 80 of its characters, with control characters escaped."""
    with pytest.raises(EventError, match=r"^since: '\\x1b(x{79})' is neither"):
        make_broadcaster().start_point(DEFAULT, parse_since("\x1b" + "x" * 200))


async def test_a_since_of_another_epoch_is_a_loss(broadcaster: Broadcaster) -> None:
    """It has the form of a server's id, so it comes from an earlier subscription."""
    for since, lost in (("fedcba98-1", ResetReason.EPOCH), ("0123abcd-1", ResetReason.UNKNOWN)):
        assert broadcaster.start_point(DEFAULT, parse_since(since)) == StartPoint(0, reset_reason=lost)


async def test_the_cursor_of_last_is_before_the_newest_event_of_each_channel() -> None:
    """A client cut off before its first event gets that event again."""
    broadcaster = make_broadcaster(retry=0)
    for channel in ("a", "a", "b", "c"):
        await broadcaster.broadcast("x", channels=[channel])
    start = broadcaster.start_point(Selector.parse("a", "b"), Keyword.LAST)
    assert [publication.position for publication in start.preloaded] == [2, 3]
    assert (start.after, start.cursor) == (4, 1)
    assert opened(broadcaster, start) == OPENING % b"0123abcd-1"
    assert broadcaster.start_point(Selector.parse("none"), Keyword.LAST).cursor == 4


async def test_events_published_between_the_start_and_the_connection_are_replayed() -> None:
    """The response head is sent in between, and names the start as its cursor."""
    broadcaster = make_broadcaster(retry=0)
    start = broadcaster.start_point(DEFAULT, None)
    frames = opened(broadcaster, start)
    await broadcaster.broadcast("between")
    sink = MemorySink()
    broadcaster.connect(sink, DEFAULT, start, broadcaster.heartbeat())
    await deliver(broadcaster, "after")
    assert frames == OPENING % b"0123abcd-0"
    assert sink.data == block(1, "between") + block(2, "after")


@pytest.mark.parametrize(
    ("id", "reason"), [("fedcba98-2", "epoch"), ("0123abcd-3", "unknown"), ("never-ours", "unknown")]
)
async def test_an_unknown_id_begins_with_a_reset(id: str, reason: str) -> None:
    """Nothing is replayed. Later events are delivered live."""
    broadcaster = make_broadcaster(retry=0)
    await publish(broadcaster, "a", "b")
    start = broadcaster.start_point(DEFAULT, parse_id(id))
    reported = b'{"reason": "%b", "channels": ["default"], "missed": null}' % reason.encode()
    assert opened(broadcaster, start) == RESET % (reported, b"0123abcd-2", b"0123abcd-2")
    sink = MemorySink()
    outbox = broadcaster.connect(sink, DEFAULT, start, broadcaster.heartbeat())
    await settled()
    await deliver(broadcaster, "c")
    assert sink.data == block(3, "c")
    assert outbox.given == 2
    assert broadcaster.counts.resets == {reason: 1}


async def test_an_id_whose_successors_are_evicted_begins_with_a_reset() -> None:
    """It has the affected channels, and the id just before the oldest event still in the history."""
    broadcaster = make_broadcaster(history_size=2, retry=0)
    await publish(broadcaster, *["x"] * 4)
    await broadcaster.broadcast("y", channels=["quiet"])
    selector = Selector.parse("quiet", "default")
    start = broadcaster.start_point(selector, parse_id("0123abcd-1"))
    reported = b'{"reason": "evicted", "channels": ["default"], "missed": null}'
    frames = broadcaster.first_frames(selector, TEXT, start, Heartbeat(4))
    assert frames == RESET % (reported, b"0123abcd-2", b"0123abcd-2")
    sink = MemorySink()
    outbox = broadcaster.connect(sink, selector, start, broadcaster.heartbeat())
    await settled()
    assert sink.data == block(3, "x") + block(4, "x") + block(5, "y")
    assert (outbox.given, broadcaster.counts.resets) == (4, {"evicted": 1})


# What a stream begins with.

OPENING = b': \nretry: 0\nevent: $open\ndata: {"heartbeat": 4}\nid: %b\n\n'
RESET = b': \nretry: 0\nevent: $reset\ndata: %b\nid: %b\n\nevent: $open\ndata: {"heartbeat": 4}\nid: %b\n\n'


def opened(
    broadcaster: Broadcaster, start: StartPoint, encoding: Encoding = TEXT, seconds: float = 4
) -> bytes:
    return broadcaster.first_frames(DEFAULT, encoding, start, Heartbeat(seconds))


async def test_a_stream_begins_with_retry_and_the_cursor() -> None:
    """This holds for each encoding, with and without a `Last-Event-ID`."""
    broadcaster = make_broadcaster(retry=0)
    await broadcaster.broadcast("x")
    for cursor in (None, parse_id("0123abcd-1")):
        start = broadcaster.start_point(DEFAULT, cursor)
        # aiohttp, or the head of the stream, makes the chunk of its first bytes.
        for encoding in (TEXT, CHUNKED_TEXT, JSON, CHUNKED_JSON):
            assert opened(broadcaster, start, encoding) == OPENING % b"0123abcd-1"


async def test_an_ndjson_stream_begins_with_an_opening_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its channel is null. A `$reset` is another envelope before it."""
    monkeypatch.setattr("sse_broadcast.encoding.time.time", lambda: 7.0)
    broadcaster = make_broadcaster()
    opening = b'{"channel":null,"id":"0123abcd-0","event":"$open","data":{"heartbeat": 4},"time":7.0}\n'
    reset = (
        b'{"channel":null,"id":"0123abcd-0","event":"$reset",'
        b'"data":{"reason": "epoch", "channels": ["default"], "missed": null},"time":7.0}\n'
    )
    start = broadcaster.start_point(DEFAULT, None)
    assert opened(broadcaster, start, NDJSON) == opened(broadcaster, start, CHUNKED_NDJSON) == opening
    lost = broadcaster.start_point(DEFAULT, parse_id("fedcba98-1"))
    assert opened(broadcaster, lost, NDJSON) == reset + opening


@pytest.mark.parametrize(("seconds", "said"), [(4.0, b"4"), (3, b"3"), (0.05, b"0.05"), (60, b"60")])
async def test_the_opening_has_the_heartbeat_of_its_subscriber(seconds: float, said: bytes) -> None:
    """The value is in seconds."""
    broadcaster = make_broadcaster(retry=0)
    reported = OPENING.replace(b'{"heartbeat": 4}', b'{"heartbeat": %b}' % said) % b"0123abcd-0"
    assert opened(broadcaster, broadcaster.start_point(DEFAULT, None), TEXT, seconds) == reported


async def test_retry_is_jittered() -> None:
    """It varies by half, so that clients disconnected together do not reconnect together."""
    broadcaster = make_broadcaster(retry=3000)
    start = broadcaster.start_point(DEFAULT, None)
    times = {retry_of(opened(broadcaster, start)) for _ in range(200)}
    assert len(times) > 50
    assert 1500 <= min(times) <= max(times) <= 4500


def retry_of(frames: bytes) -> int:
    found = re.match(rb": \nretry: ([0-9]+)\nevent: \$open\n", frames)
    assert found is not None
    return int(found[1])


def test_the_default_heartbeat_is_the_configured_one() -> None:
    """A subscriber can ask for other seconds, and for events. All defaults share one object."""
    broadcaster = make_broadcaster(heartbeat=9)
    assert broadcaster.heartbeat() is broadcaster.heartbeat() is not None
    assert broadcaster.heartbeat() == Heartbeat(9, as_event=False)
    assert broadcaster.heartbeat(seconds=3) == Heartbeat(3, as_event=False)
    assert broadcaster.heartbeat(as_event=True) == Heartbeat(9, as_event=True)
    assert broadcaster.heartbeat(seconds=60, as_event=True) == Heartbeat(60, as_event=True)


# Rules for channels.

RULES = (
    ChannelRule(match="prices.*", overflow=Overflow.CONFLATE, retry=0),
    ChannelRule(match="p*", overflow=Overflow.DROP_NEWEST, history_size=1),
)


@pytest.mark.parametrize(
    ("channels", "overflow"),
    [
        (["prices.eu"], Overflow.CONFLATE),
        (["prices.eu", "prices.us"], Overflow.CONFLATE),
        (["plain"], Overflow.DROP_NEWEST),
        (["other"], Overflow.DROP_OLDEST),
        (["prices.eu", "plain"], Overflow.DISCONNECT),
        (["prices.eu", "other"], Overflow.DISCONNECT),
        (["prices.*"], Overflow.DROP_OLDEST),
        (["prices.eu", "p*"], Overflow.DROP_OLDEST),
    ],
)
async def test_a_subscriber_has_one_overflow_policy(channels: list[str], overflow: Overflow) -> None:
    """It is the policy of its channels if they agree, else `disconnect`.

    Patterns have the configured policy.
    """
    broadcaster = make_broadcaster(overflow=Overflow.DROP_OLDEST, channel=RULES)
    outbox, _ = connect(broadcaster, *channels)
    assert outbox.subscriber.options.overflow is overflow


async def test_retry_follows_the_rule_of_the_channels() -> None:
    """If the channels disagree, it is the configured value."""
    broadcaster = make_broadcaster(retry=1000, channel=RULES)

    def retries(*channels: str) -> set[int]:
        selector = Selector.parse(*channels)
        start = broadcaster.start_point(selector, None)
        frames = (broadcaster.first_frames(selector, TEXT, start, Heartbeat(4)) for _ in range(50))
        return {retry_of(each) for each in frames}

    assert retries("prices.eu") == retries("prices.eu", "prices.us") == {0}
    for others in (["other"], ["plain"], ["prices.eu", "other"], ["prices.*"]):
        assert 0 not in retries(*others)
    assert connect(broadcaster, "prices.eu")[0].subscriber.options.retry == 0


async def test_subscribers_with_the_same_policy_share_their_options() -> None:
    """They must have the same heartbeat too."""
    broadcaster = make_broadcaster(channel=RULES)
    names = ("a", "b", "plain", "prices.eu", "plainer")
    a, b, plain, prices, plainer = (connect(broadcaster, name)[0].subscriber.options for name in names)
    assert a is b
    assert plain is plainer
    assert len({id(terms) for terms in (a, plain, prices)}) == 3
    assert plain.overflow is Overflow.DROP_NEWEST
    assert a.epoch == EPOCH
    asked = (broadcaster.heartbeat(seconds=5), Heartbeat(5), Heartbeat(5, as_event=True))
    five, same, events = (connect(broadcaster, "a", heartbeat=each)[0].subscriber.options for each in asked)
    assert five is same
    assert [each.heartbeat for each in (a, five, events)] == [broadcaster.heartbeat(), asked[0], asked[2]]


async def test_a_channels_history_is_limited_by_its_rule() -> None:
    """The first rule that matches applies, and no other."""
    broadcaster = make_broadcaster(history_size=3, channel=RULES)
    for channel in ("plain", "prices.eu", "other"):
        await publish(broadcaster, *["x"] * 5, channels=[channel])
    held = {state.channel: state.events for state in broadcaster.channels(limit=10)}
    assert held == {"other": 3, "plain": 1, "prices.eu": 3}


# The state of channels.


async def test_the_state_of_a_channel_counts_subscribers_and_history() -> None:
    """Subscribers by pattern count too."""
    broadcaster = make_broadcaster(history_size=2)
    connect(broadcaster, "a")
    connect(broadcaster, "a*", types=["t"])
    for id in (None, "second", None):
        await broadcaster.broadcast("x", id=id, channels=["a", "b"])
    await broadcaster.broadcast("x", channels=["b"])
    assert broadcaster.channel("a") == ChannelState("a", 2, "0123abcd-4", 2, "second")
    assert broadcaster.channel("b") == ChannelState("b", 0, "0123abcd-4", 2, "0123abcd-3")


async def test_a_channel_never_used_has_a_state(broadcaster: Broadcaster) -> None:
    """Reading it creates no channel. A bad name or a pattern is refused."""
    assert broadcaster.channel("new") == ChannelState("new", 0, "0123abcd-0", 0, None)
    assert broadcaster.channels(limit=10) == []
    for bad in ("a b", "a*", "", ".."):
        with pytest.raises(EventError, match=r"^channel: "):
            broadcaster.channel(bad)


async def test_channels_with_history_or_subscribers_are_listed_by_name(broadcaster: Broadcaster) -> None:
    """Each is listed once. A pattern is not a channel."""
    connect(broadcaster, "read", "both", "p*")
    await broadcaster.broadcast("x", channels=["held", "both"])
    states = broadcaster.channels(limit=10)
    assert [(state.channel, state.subscribers, state.events) for state in states] == [
        ("both", 1, 1),
        ("held", 0, 1),
        ("read", 1, 0),
    ]


async def test_channels_are_listed_in_pages(broadcaster: Broadcaster) -> None:
    """A page begins after the name `after`, and has only names with the prefix."""
    names = [f"{letter}.{number}" for letter in "ba" for number in range(5)]
    for name in names:
        await broadcaster.broadcast("x", channels=[name])

    def listed(*, prefix: str = "", after: str = "") -> list[str]:
        return [state.channel for state in broadcaster.channels(limit=4, prefix=prefix, after=after)]

    pages = [listed()]
    while pages[-1]:
        pages.append(listed(after=pages[-1][-1]))
    assert pages == [sorted(names)[:4], sorted(names)[4:8], sorted(names)[8:], []]
    assert listed(prefix="b.") == ["b.0", "b.1", "b.2", "b.3"]
    assert listed(prefix="b.", after="b.3") == ["b.4"]
    assert listed(prefix="b.", after="a.0") == ["b.0", "b.1", "b.2", "b.3"]
    assert listed(prefix="c") == []


# Expiry.


def clock_of(broadcaster: Broadcaster) -> Callable[[float], None]:
    """Set a clock for a broadcaster, and return a function that advances it by seconds."""
    now = 1_700_000_000.0

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds

    set_clock(broadcaster, lambda: now)
    return forward


async def test_expired_events_are_evicted_without_traffic(
    monkeypatch: pytest.MonkeyPatch, timers: Timers
) -> None:
    """A timer runs while the history holds anything, and stops until the next publish."""
    monkeypatch.setattr(broadcaster_module, "EVICTION_INTERVAL", 0.001)
    broadcaster = Broadcaster(Config(history_age=10.0))
    forward = clock_of(broadcaster)
    assert timers.pending == []
    for _ in range(2):
        await broadcaster.broadcast("x")
        (first,) = timers.pending
        await broadcaster.broadcast("x")
        assert timers.pending == [first]
        await until(lambda: timers.pending != [first])  # noqa: B023 - awaited at once
        assert len(timers.pending) == 1
        forward(9.0)
        assert broadcaster.history_usage.events == 2
        forward(1.0)
        await until(lambda: not timers.pending)
        assert broadcaster.history_usage.events == 0


async def test_expired_idempotency_keys_are_removed_without_traffic(
    monkeypatch: pytest.MonkeyPatch, timers: Timers
) -> None:
    """This holds even if no event is held."""
    monkeypatch.setattr(broadcaster_module, "EVICTION_INTERVAL", 0.001)
    broadcaster = Broadcaster(Config(history_size=0, idempotency_window=10.0))
    forward = clock_of(broadcaster)
    await broadcaster.broadcast("x")
    assert not timers.pending
    await broadcaster.publish_all([broadcaster.draft(Event("x"))], IdempotencyKey(("k",), b""))
    assert timers.pending
    forward(10.0)
    await until(lambda: not timers.pending)


async def test_a_failed_eviction_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, timers: Timers
) -> None:
    """Neither the publish nor the reload that started it fails."""
    monkeypatch.setattr(broadcaster_module, "EVICTION_INTERVAL", 0.001)
    broadcaster = Broadcaster(Config(history_age=10.0))
    forward = clock_of(broadcaster)
    calls = 0

    def bad() -> bool:
        nonlocal calls
        calls += 1
        raise RuntimeError("away")

    with monkeypatch.context() as broken:
        broken.setattr(backend_of(broadcaster), "evict_expired", bad)
        assert (await broadcaster.broadcast("x")).clients == 0
        broadcaster.reload(Config(history_age=10.0))
        await until(lambda: calls > 3)
    forward(10.0)
    await until(lambda: not timers.pending)
    assert broadcaster.history_usage.events == 0
    assert set(caplog.messages) == {"removing expired events failed; trying again in 0.001 s"}
    assert {str(record.exc_info[1]) for record in caplog.records if record.exc_info} == {"away"}
    assert len(caplog.records) == calls


async def test_a_lost_connection_found_while_closing_does_not_affect_others(broadcaster: Broadcaster) -> None:
    """The other subscribers get the last event and `$close`."""
    (gone, lost), *others = [connect(broadcaster, channel) for channel in ("a", "b", "c")]
    await broadcaster.broadcast("x", channels=("a", "b", "c"))
    lost.gone = True
    await broadcaster.close(timeout=0.01)
    assert gone.subscriber.closed == "left"
    for outbox, sink in others:
        assert sink.data.startswith(block(1, "x") + b"event: $close\n")
        broadcaster.disconnect(outbox)


@pytest.mark.parametrize("held", [0, 1])
async def test_closing_leaves_no_timer(
    monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster, timers: Timers, held: int
) -> None:
    """This holds with a full history, and for a publish that is under way."""
    backend, on_its_way = backend_of(broadcaster), asyncio.Event()
    now = backend.publish

    async def late(*args: Any) -> Receipt:
        await on_its_way.wait()
        return await now(*args)

    await publish(broadcaster, *range(held))
    assert len(timers.pending) == held
    monkeypatch.setattr(backend, "publish", late)
    publishing = asyncio.ensure_future(broadcaster.broadcast("y"))
    await settled()
    await broadcaster.close(timeout=1)
    assert timers.pending == []
    on_its_way.set()
    assert (await publishing).id == f"{EPOCH}-{1 + held}"
    assert timers.pending == []


async def test_a_closed_broadcaster_refuses_publishes_and_subscribers(broadcaster: Broadcaster) -> None:
    """A known idempotency key is refused too."""
    drafts, key = [broadcaster.draft(Event("x"))], IdempotencyKey(("k",), b"")
    await broadcaster.publish_all(drafts, key)
    start = broadcaster.start_point(DEFAULT, None)
    await broadcaster.close(timeout=1)
    assert broadcaster.closed
    with pytest.raises(ClosedError):
        await broadcaster.broadcast("x")
    with pytest.raises(ClosedError):
        await broadcaster.publish_all(drafts, key)
    with pytest.raises(ClosedError):
        broadcaster.connect(MemorySink(), DEFAULT, start, broadcaster.heartbeat())
    assert (broadcaster.counts.opened, broadcaster.client_count) == (0, 0)


async def test_subscribers_that_leave_leave_nothing_behind(broadcaster: Broadcaster) -> None:
    """The count is exact and every table is empty, also for those that were replaying."""
    await broadcaster.broadcast("before")
    asked = (("default", None), ("def*", None), ("default", "earliest"))
    outboxes = [connect(broadcaster, channel, since=since)[0] for channel, since in asked * 30]
    await broadcaster.broadcast("x")
    assert broadcaster.client_count == 90
    for outbox in outboxes:
        broadcaster.disconnect(outbox)
        broadcaster.disconnect(outbox)
    assert broadcaster.client_count == 0
    assert (broadcaster.counts.opened, broadcaster.counts.closed) == (90, {"left": 90})
    assert not outboxes_of(broadcaster)
    hub = hub_of(broadcaster)
    assert (len(hub.groups), list(hub.channels), patterns_of(hub), routes_of(hub)) == (0, [], [], {})


async def by_disconnecting(broadcaster: Broadcaster, channel: str) -> None:
    broadcaster.disconnect(connect(broadcaster, channel)[0])


async def by_a_fault(broadcaster: Broadcaster, channel: str, *, fault: str) -> None:
    _, sink = connect(broadcaster, channel)
    setattr(sink, fault, True)
    await broadcaster.broadcast("x", channels=[channel.rstrip("*")])


async def by_being_slow(broadcaster: Broadcaster, channel: str) -> None:
    outbox, _sink = connect(broadcaster, channel, takes_more=False)
    for _ in range(4):
        await deliver(broadcaster, "x", channels=[channel.rstrip("*")])
    assert outbox.subscriber.closed is CloseReason.SLOW


async def by_being_revoked(broadcaster: Broadcaster, channel: str) -> None:
    broadcaster.end(connect(broadcaster, channel)[0], CloseReason.REVOKED)


async def by_closing_a_stream(broadcaster: Broadcaster, channel: str) -> None:
    async with broadcaster.subscribe(channel):
        pass


async def by_cancelling_a_wait(broadcaster: Broadcaster, channel: str) -> None:
    waiting = asyncio.ensure_future(anext(broadcaster.subscribe(channel)))
    await settled()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def by_being_garbage(broadcaster: Broadcaster, channel: str) -> None:
    aiter(broadcaster.subscribe(channel))
    gc.collect()


LEAVING: list[Callable[[Broadcaster, str], Awaitable[None]]] = [
    by_disconnecting,
    functools.partial(by_a_fault, fault="gone"),
    functools.partial(by_a_fault, fault="broken"),
    by_being_slow,
    by_being_revoked,
    by_closing_a_stream,
    by_cancelling_a_wait,
    by_being_garbage,
]


@pytest.mark.parametrize("channel", ["a", "a*"])
@pytest.mark.parametrize("leaving", LEAVING)
async def test_a_channel_frees_its_place_when_its_last_subscriber_leaves(
    leaving: Callable[[Broadcaster, str], Awaitable[None]], channel: str
) -> None:
    """The way it leaves does not matter. A refused subscription takes no place."""
    broadcaster = make_broadcaster(subscribed_channels=2, queue_size=2)
    connect(broadcaster, "stays")
    await leaving(broadcaster, channel)
    await settled()
    outbox, _ = connect(broadcaster, "b*")
    for full in ("c", "c*"):
        with pytest.raises(FullError):
            connect(broadcaster, "stays", full)
        with pytest.raises(FullError):
            aiter(broadcaster.subscribe(full))
    assert broadcaster.client_count == 2
    broadcaster.disconnect(outbox)
    connect(broadcaster, "c")


# Draining.


def disconnect_all(broadcaster: Broadcaster, subscribers: Iterable[tuple[Outbox, MemorySink]]) -> None:
    for outbox, _ in subscribers:
        broadcaster.disconnect(outbox)


def test_the_drain_batch_grows_with_the_number_of_subscribers() -> None:
    """All are closed within the time. Without time all are closed at once."""
    batches = 5.0 / DRAIN_INTERVAL
    assert drain_batch_size(1, over=5.0) == drain_batch_size(DRAIN_BATCH, over=5.0) == DRAIN_BATCH
    assert drain_batch_size(DRAIN_BATCH * 10, over=5.0) == DRAIN_BATCH
    for subscribers in (12_345, 100_000):
        assert (
            (batches - 1) * drain_batch_size(subscribers, over=5.0)
            < subscribers
            <= batches * drain_batch_size(subscribers, over=5.0)
        )
    for none in (0.0, DRAIN_INTERVAL / 2):
        assert drain_batch_size(100_000, over=none) == 100_000


async def test_subscribers_are_closed_in_batches(
    monkeypatch: pytest.MonkeyPatch, broadcaster: Broadcaster
) -> None:
    """Those of later batches stay subscribed until then, and all get the events published before."""
    monkeypatch.setattr(broadcaster_module, "DRAIN_BATCH", 2)
    monkeypatch.setattr(broadcaster_module, "DRAIN_INTERVAL", 0.01)
    subscribers = [connect(broadcaster) for _ in range(5)]
    await broadcaster.broadcast("x")
    left: list[int] = []
    closing = asyncio.ensure_future(broadcaster.close(timeout=30, over=1.0))
    while not closing.done():
        if broadcaster.client_count not in left:
            left.append(broadcaster.client_count)
        disconnect_all(broadcaster, (each for each in subscribers if each[1].closed))
        await asyncio.sleep(0)
    assert left == [5, 3, 1, 0]
    for _, sink in subscribers:
        assert sink.data.startswith(block(1, "x") + b"event: $close\nretry: ")


async def test_publishing_is_refused_once_the_drain_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers that are closed already would miss the event, and could not be told."""
    monkeypatch.setattr(broadcaster_module, "DRAIN_BATCH", 1)
    broadcaster = make_broadcaster()
    subscribers = [connect(broadcaster) for _ in range(2)]
    closing = asyncio.ensure_future(broadcaster.close(timeout=30, over=3600.0))
    await until(lambda: broadcaster.client_count == 1)
    with pytest.raises(ClosedError):
        await broadcaster.broadcast("x")
    closing.cancel()
    disconnect_all(broadcaster, subscribers)


async def test_a_drain_ends_when_the_last_subscriber_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the rest of its time."""
    monkeypatch.setattr(broadcaster_module, "DRAIN_BATCH", 1)
    broadcaster = make_broadcaster()
    subscribers = [connect(broadcaster) for _ in range(100)]
    closing = asyncio.ensure_future(broadcaster.close(timeout=3600, over=3600.0))
    await until(lambda: broadcaster.client_count < 100)
    disconnect_all(broadcaster, subscribers)
    async with asyncio.timeout(PATIENCE):
        await closing


async def test_late_drain_batches_shorten_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain ends in time on a slow machine: frozen subscribers are aborted earlier."""
    monkeypatch.setattr(broadcaster_module, "DRAIN_BATCH", 1)
    broadcaster = make_broadcaster(write_timeout=86_400)
    loop, lost = asyncio.get_running_loop(), 0.0
    real = loop.time

    class Slow(MemorySink):
        def write(self, data: bytes) -> None:
            nonlocal lost
            super().write(data)
            lost += 60.0 * data.startswith(b"event: $close")

    connect(broadcaster, sink=Slow())
    _, frozen = connect(broadcaster, takes_more=False)
    await deliver(broadcaster, "x")
    monkeypatch.setattr(loop, "time", lambda: real() + lost)
    began = real()
    await broadcaster.close(timeout=20, over=5)
    assert real() - began < 10
    assert (lost, frozen.aborted) == (60.0, 1)


async def test_retry_grows_with_the_number_of_closed_subscribers() -> None:
    """At most `RECONNECTS_PER_SECOND` are told to reconnect per second."""
    broadcaster = make_broadcaster(retry=0)
    subscribers = [connect(broadcaster) for _ in range(3000)]
    closing = asyncio.ensure_future(broadcaster.close(timeout=30))
    await until(lambda: all(sink.closed for _, sink in subscribers))
    disconnect_all(broadcaster, subscribers)
    await closing
    retries = [int(sink.data.split(b"retry: ")[1].split(b"\n")[0]) for _, sink in subscribers]
    assert max(retries) < 1000 * len(subscribers) / RECONNECTS_PER_SECOND
    for tenth in range(10):
        begin = tenth * 100 * len(subscribers) / RECONNECTS_PER_SECOND
        assert sum(begin <= retry < begin + 150 for retry in retries) > 200


# Reload.


async def longest_log(broadcaster: Broadcaster, group: OutboxGroup) -> int:
    """Return the length that the log reaches while the dispatcher does not run."""
    longest = 0
    for _ in range(10):
        await broadcaster.broadcast("x", channels=["a"])
        longest = max(longest, len(group.log))
    await settled()
    return longest


async def test_a_reload_changes_the_options_of_new_subscribers_only() -> None:
    """Old and new share a group, whose log is limited by the smaller queue size."""
    broadcaster = make_broadcaster(queue_size=5, retry=1, overflow=Overflow.DROP_OLDEST)
    old, _ = connect(broadcaster, "a")
    broadcaster.reload(Config(queue_size=50, retry=2))
    new, _ = connect(broadcaster, "a")
    assert old.group is new.group
    terms = [outbox.subscriber.options for outbox in (old, new)]
    assert [(each.queue_size, each.retry) for each in terms] == [(5, 1), (50, 2)]
    assert [each.overflow for each in terms] == [Overflow.DROP_OLDEST, Overflow.DISCONNECT]
    assert await longest_log(broadcaster, old.group) == 5
    broadcaster.reload(Config(queue_size=3))
    assert await longest_log(broadcaster, old.group) == 3
    await broadcaster.close(timeout=1)


async def test_a_reload_changes_limits_at_once(broadcaster: Broadcaster) -> None:
    """The limits of events, channels, patterns and `subscribed_channels` change."""
    connect(broadcaster, "a")
    broadcaster.reload(Config(max_event=100, max_channels=1, max_patterns=1, subscribed_channels=1))
    for refused in (
        lambda: broadcaster.draft(Event("x" * 200)),
        lambda: broadcaster.validate_channels(["a", "b"]),
        lambda: broadcaster.selector(["a", "b"]),
    ):
        with pytest.raises(EventError):
            refused()
    with pytest.raises(FullError):
        broadcaster.start_point(Selector.parse("b"), None)
    broadcaster.reload(Config())
    assert broadcaster.validate_channels(["a", "b"]) == ("a", "b")
    broadcaster.start_point(Selector.parse("b"), None)
    await broadcaster.close(timeout=1)


async def test_a_reload_of_a_closed_broadcaster_starts_no_timer(
    broadcaster: Broadcaster, timers: Timers
) -> None:
    """Several reloads before that start one timer."""
    await broadcaster.broadcast("x")
    for _ in range(3):
        broadcaster.reload(Config(history_size=5))
    assert len(timers.pending) == 1
    await broadcaster.close(timeout=1)
    broadcaster.reload(Config(history_size=4))
    assert timers.pending == []
