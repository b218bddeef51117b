"""Hub: which subscribers receive a publication."""

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.channels import Selector, compile_patterns
from sse_broadcast.encoding import CHUNKED_TEXT, JSON, TEXT, Encoding
from sse_broadcast.errors import FullError
from sse_broadcast.fanout import hub as hub_module
from sse_broadcast.fanout import pattern_index
from sse_broadcast.fanout.group import SubscriberGroup
from sse_broadcast.fanout.hub import Hub
from sse_broadcast.fanout.outbox import OutboxGroup
from sse_broadcast.fanout.subscriber import CloseReason, Subscriber
from tests.support.groups import RecordingScheduler
from tests.support.internals import forbid_iterating_channels, patterns_of, route_bytes_of, routes_of
from tests.support.memory_sinks import RecordingConsumer, data_of, publication, terms

MANY = 1 << 20


class HubWithQueues:
    """A hub whose subscribers have queues of their own."""

    def __init__(self, *, most: int = 2000) -> None:
        self.hub = Hub(self._found, most=most)
        self._terms = terms(queue_size=10, queue_bytes=MANY, on_close=self.hub.leave)[0]

    def join(self, *channels: str, types: list[str] | None = None, encoding: Encoding = TEXT) -> Subscriber:
        subscriber = Subscriber(Selector.parse(*channels, types=types), self._terms)
        subscriber.consumer = RecordingConsumer()
        self.hub.join(subscriber, encoding).queued[subscriber] = None
        return subscriber

    def publish(self, data: str, *channels: str, event: str = "message") -> int:
        return self.hub.deliver([publication(data, *channels, event=event)])

    @staticmethod
    def _found(selector: Selector, encoding: Encoding) -> OutboxGroup:
        return SubscriberGroup(selector, encoding, RecordingScheduler(), queue_size=10, queue_bytes=MANY)


@pytest.fixture
def queues() -> HubWithQueues:
    """Return a hub with room for 2000 channels and patterns."""
    return HubWithQueues()


def got(subscriber: Subscriber) -> list[str]:
    return data_of(subscriber.take(MANY))


@pytest.fixture
def matched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record each match of a pattern against a channel."""
    matched: list[tuple[str, str]] = []

    def noted(pattern: str) -> Callable[[str], object]:
        def matches(channel: str) -> object:
            matched.append((pattern, channel))
            return compile_patterns(pattern)(channel)

        return matches

    monkeypatch.setattr(pattern_index, "compile_patterns", noted)
    return matched


def test_a_publication_reaches_only_subscribers_of_its_channel(queues: HubWithQueues) -> None:
    """The hub returns their number."""
    one, two, other = queues.join("a"), queues.join("a"), queues.join("b")
    assert queues.publish("x", "a") == 2
    assert (len(one), len(two), len(other)) == (1, 1, 0)
    assert queues.publish("x", "c") == 0


def test_a_subscriber_of_several_of_its_channels_gets_a_publication_once(queues: HubWithQueues) -> None:
    both, pattern, mixed = queues.join("a", "b"), queues.join("*"), queues.join("a", "b*", "*")
    assert queues.publish("x", "a", "b") == 3
    assert [got(each) for each in (both, pattern, mixed)] == [["x"]] * 3


def test_subscribers_with_the_same_selector_and_encoding_are_one_group(queues: HubWithQueues) -> None:
    """Another encoding or other types make another group."""
    queues.join("a", "b")
    queues.join("b", "a")
    queues.join("a", "b", encoding=CHUNKED_TEXT)
    queues.join("a", "b", types=["t"])
    assert sorted(group.members for group in queues.hub.groups) == [1, 1, 2]
    assert queues.publish("x", "a") == 3


def test_a_batch_is_delivered_in_order_and_counts_each_subscriber_once(queues: HubWithQueues) -> None:
    """The count has each subscriber of any of its events, as of before the first."""
    one, both, none = queues.join("a"), queues.join("a", "b"), queues.join("c")
    batch = [publication("1", "a"), publication("2", "b"), publication("3", "a", "b")]
    assert queues.hub.deliver(batch) == 2
    assert (got(one), got(both), got(none)) == (["1", "3"], ["1", "2", "3"], [])
    assert queues.hub.deliver([]) == 0


def test_a_subscriber_that_overflows_during_a_batch_is_counted(queues: HubWithQueues) -> None:
    """It counts once, and gets no more of the batch."""
    slow = queues.join("a")
    assert queues.hub.deliver([publication(str(number), "a") for number in range(20)]) == 1
    assert slow.closed is CloseReason.SLOW
    assert len(queues.hub) == 0


def test_a_batch_counts_the_subscribers_before_it(queues: HubWithQueues) -> None:
    """One of them overflows while the batch is delivered to the others."""
    slow = queues.join("a")
    for number in range(9):
        queues.publish(str(number), "a")
    fresh = queues.join("a")
    assert queues.hub.deliver([publication(data, "a") for data in "xyz"]) == 2
    assert slow.closed is CloseReason.SLOW
    assert got(fresh) == ["x", "y", "z"]


def test_unwanted_types_are_neither_delivered_nor_counted(queues: HubWithQueues) -> None:
    """The filter belongs to the group. System events pass it."""
    picky, open_to_all = queues.join("a", types=["t", "u"]), queues.join("a")
    assert queues.publish("1", "a") == 1
    assert queues.publish("2", "a", event="t") == 2
    assert queues.publish("3", "a", event="$reset") == 2
    assert (got(picky), got(open_to_all)) == (["2", "3"], ["1", "2", "3"])
    assert queues.hub.deliver([publication("4", "a"), publication("5", "a", event="u")]) == 2


def test_the_last_member_takes_its_group_and_channels_along(queues: HubWithQueues) -> None:
    hub = queues.hub
    one, two = queues.join("a", "b"), queues.join("b")
    hub.leave(one)
    hub.leave(one)
    assert (len(hub), list(hub), sorted(hub.channels)) == (1, [two], ["b"])
    hub.leave(two)
    assert (len(hub), len(hub.groups), list(hub.channels)) == (0, 0, [])


def test_nothing_is_offered_to_a_subscriber_that_left(queues: HubWithQueues) -> None:
    """Its group goes on with the others."""
    one, two = queues.join("a"), queues.join("a")
    (group,) = queues.hub.groups
    queues.hub.leave(one)
    assert queues.publish("x", "a") == 1
    assert (list(group.queued), len(one), len(two)) == ([two], 0, 1)


def test_a_subscriber_may_overflow_during_delivery_to_others(queues: HubWithQueues) -> None:
    """It disturbs no other subscriber, also where it is the last of its group."""
    slow, slow_too = queues.join("a"), queues.join("a*")
    for number in range(10):
        queues.publish(str(number), "a")
    fresh, fresh_too = queues.join("a"), queues.join("*")
    assert queues.publish("x", "a") == 4
    assert slow.closed is slow_too.closed is CloseReason.SLOW
    assert (got(fresh), got(fresh_too)) == (["x"], ["x"])
    assert len(queues.hub) == 2


def test_the_subscribers_of_a_channel_are_those_it_would_reach(queues: HubWithQueues) -> None:
    """Each counts once, by name or by pattern, whatever its types and encoding."""
    queues.join("a", "b", types=["t"])
    queues.join("a", encoding=JSON)
    queues.join("a", "*")
    queues.join("orders.*")
    subscribers = {channel: queues.hub.subscribers(channel) for channel in ("a", "b", "c", "orders.eu")}
    assert subscribers == {"a": 3, "b": 2, "c": 1, "orders.eu": 2}


# The limit on channels and patterns with subscribers.


def test_one_channel_beyond_the_limit_is_refused() -> None:
    """Names and patterns count alike. The error has the number and the limit."""
    queues = HubWithQueues(most=3)
    queues.join("a", "b*")
    with pytest.raises(FullError) as refused:
        queues.join("c", "d*", "a")
    assert str(refused.value) == (
        "subscribed_channels: the limit is 3 different channels and patterns:"
        " 2 are in use, so 2 more are too many"
    )
    queues.join("c")
    with pytest.raises(FullError):
        queues.join("*")


def test_a_full_hub_accepts_channels_that_have_subscribers() -> None:
    """Only a new name or pattern needs room, whatever the selector and encoding."""
    queues = HubWithQueues(most=2)
    queues.join("a", "b*")
    for channels in (["a"], ["b*"], ["b*", "a"]):
        queues.join(*channels, types=["t"], encoding=JSON)
    assert queues.publish("x", "a", event="t") == 3


def test_a_refused_subscriber_leaves_nothing_behind() -> None:
    """The other subscribers are not affected."""
    queues = HubWithQueues(most=2)
    subscriber = queues.join("a", "b")
    hub = queues.hub
    with pytest.raises(FullError):
        queues.join("a", "c", "d*")
    assert (len(hub), len(hub.groups), sorted(hub.channels)) == (1, 1, ["a", "b"])
    assert patterns_of(hub) == []
    assert queues.publish("x", "a") == 1
    assert (got(subscriber), queues.publish("x", "c")) == (["x"], 0)


def test_the_last_subscriber_of_a_channel_makes_room() -> None:
    """This holds for a pattern too. Removing a subscriber twice makes room once."""
    queues = HubWithQueues(most=2)
    first, second = queues.join("a", "p*"), queues.join("a", "p*", encoding=JSON)
    queues.hub.leave(first)
    with pytest.raises(FullError):
        queues.join("b")
    queues.hub.leave(second)
    queues.hub.leave(second)
    queues.join("b", "c")
    with pytest.raises(FullError):
        queues.join("a")


@given(st.data())
def test_the_count_stays_right_over_joins_and_leaves(data: st.DataObject) -> None:
    """A selector that fits is accepted and another is refused, after any history of joins."""
    most = 5
    queues = HubWithQueues(most=most)
    there: list[Subscriber] = []
    for _ in range(data.draw(st.integers(1, 40))):
        leaves: bool = data.draw(st.booleans())
        if there and leaves:
            queues.hub.leave(there.pop(data.draw(st.integers(0, len(there) - 1))))
            continue
        channels = data.draw(st.lists(st.sampled_from(["a", "b", "c", "d", "a*", "b*", "*"]), min_size=1))
        followed = {channel for subscriber in there for channel in subscriber.selector.channels}
        if len(followed | set(channels)) <= most:
            there.append(queues.join(*channels, encoding=data.draw(st.sampled_from([TEXT, JSON]))))
        else:
            with pytest.raises(FullError):
                queues.join(*channels)
        assert len(queues.hub) == len(there)


# Patterns.


@pytest.mark.parametrize(
    ("pattern", "reached"),
    [
        ("orders.*", {"orders.", "orders.eu", "orders.eu.de"}),
        ("*", {"orders", "orders.", "orders.eu", "orders.eu.de", "xorders.eu"}),
        ("*.eu", {"orders.eu", "xorders.eu"}),
        ("orders.*.de", {"orders.eu.de"}),
        ("**", {"orders", "orders.", "orders.eu", "orders.eu.de", "xorders.eu"}),
    ],
)
def test_a_star_matches_any_characters_or_none(
    queues: HubWithQueues, pattern: str, reached: set[str]
) -> None:
    """All other characters match themselves, a dot too. The whole name must match."""
    subscriber = queues.join(pattern)
    channels = ["orders", "orders.", "orders.eu", "orders.eu.de", "xorders.eu"]
    clients = [queues.publish(channel, channel) for channel in channels]
    assert set(got(subscriber)) == reached
    assert sum(clients) == len(reached)


def test_a_pattern_is_matched_once_per_channel(queues: HubWithQueues, matched: list[tuple[str, str]]) -> None:
    """Both results are cached, also while other subscribers of the pattern come and go."""
    queues.join("*r*")
    for _ in range(3):
        queues.publish("x", "orders.eu")
        queues.publish("x", "prices")
        queues.publish("x", "orders.eu", "prices", "z")
        queues.hub.leave(queues.join("*r*", "**r**", "other"))
    assert matched == [("*r*", "orders.eu"), ("*r*", "prices")]


def test_nothing_is_matched_without_patterns(queues: HubWithQueues, matched: list[tuple[str, str]]) -> None:
    """An exact name costs a dictionary look-up, and nothing is cached."""
    queues.join("a")
    queues.publish("x", "a", "b")
    assert (matched, routes_of(queues.hub)) == ([], {})


def test_a_new_pattern_reaches_a_channel_already_routed(matched: list[tuple[str, str]]) -> None:
    """Each channel matches only the patterns that are new to it."""
    queues = HubWithQueues()
    first = queues.join("a*")
    queues.publish("1", "ab")
    second, third = queues.join("*b"), queues.join("*c")
    assert queues.publish("2", "ab") == 2
    assert (got(first), got(second), got(third)) == (["1", "2"], ["2"], [])
    assert sorted(matched) == [("*b", "ab"), ("*c", "ab"), ("a*", "ab")]


def test_a_closed_pattern_is_forgotten(queues: HubWithQueues, matched: list[tuple[str, str]]) -> None:
    """No route has it. Opened again it is a new pattern."""
    hub = queues.hub
    stays, goes = queues.join("a*"), queues.join("*b", "x")
    queues.publish("1", "ab")
    hub.leave(goes)
    assert patterns_of(hub) == ["a*"]
    assert queues.publish("2", "ab") == 1
    assert routes_of(hub) == {"ab": 1}
    again = queues.join("*b")
    assert queues.publish("3", "ab") == 2
    assert (got(stays), got(goes), got(again)) == (["1", "2", "3"], ["1"], ["3"])
    assert matched.count(("*b", "ab")) == 2


def test_cached_routes_go_with_the_last_pattern(
    monkeypatch: pytest.MonkeyPatch, queues: HubWithQueues
) -> None:
    """Each publish drops some of them, so that none takes long."""
    monkeypatch.setattr(hub_module, "SHED", 4)
    hub, subscriber, other = queues.hub, queues.join("*"), queues.join("a", "*")
    for number in range(10):
        queues.publish("x", f"c{number}")
    hub.leave(subscriber)
    assert len(routes_of(hub)) == 10
    hub.leave(other)
    left = [len(routes_of(hub))]
    queues.join("a")
    for _ in range(3):
        queues.publish("x", "a")
        left.append(len(routes_of(hub)))
    assert left == [6, 2, 0, 0]
    assert (route_bytes_of(hub), patterns_of(hub)) == (0, [])


def test_two_groups_share_a_pattern(queues: HubWithQueues) -> None:
    """It is closed with the last of them."""
    text, json = queues.join("a*"), queues.join("a*", encoding=JSON)
    assert queues.publish("1", "ab") == 2
    queues.hub.leave(text)
    assert queues.publish("2", "ab") == 1
    assert got(json) == ["1", "2"]


def test_cached_routes_are_limited(
    monkeypatch: pytest.MonkeyPatch, queues: HubWithQueues, matched: list[tuple[str, str]]
) -> None:
    """Beyond the limit patterns are matched again, and every event still arrives."""
    monkeypatch.setattr(hub_module, "MAX_ROUTE_BYTES", 3 * (hub_module.ROUTE + 2 * hub_module.LINK))
    subscriber, goes = queues.join("c*"), queues.join("*1")
    sent = [f"c{number % 5}" for number in range(10)]
    for channel in sent:
        queues.publish(channel, channel)
        assert len(routes_of(queues.hub)) <= 3
    assert got(subscriber) == sent
    assert len(matched) > 2 * len(set(sent))
    queues.hub.leave(goes)
    assert queues.publish("x", "c1") == 1
    assert routes_of(queues.hub)["c1"] == 1


def test_queries_for_channels_leave_limited_memory(
    monkeypatch: pytest.MonkeyPatch, queues: HubWithQueues
) -> None:
    """Queries for any number of channels cache no more routes than publishing does."""
    monkeypatch.setattr(hub_module, "MAX_ROUTE_BYTES", 3 * (hub_module.ROUTE + hub_module.LINK))
    queues.join("*")
    assert [queues.hub.subscribers(f"c{number}") for number in range(10)] == [1] * 10
    assert len(routes_of(queues.hub)) == 3


def many_patterns(count: int) -> list[str]:
    """Return different patterns that all match every channel that begins with `public.room`."""
    word = "public.room"
    return [
        "".join(letter + "*" * (number >> place & 1) for place, letter in enumerate(word)) + "*"
        for number in range(count)
    ]


def test_matches_of_patterns_take_limited_memory() -> None:
    """A hundred subscribers have ten patterns each, on many channels: each match takes `LINK` bytes."""
    queues = HubWithQueues(most=20_000)
    patterns, channels = many_patterns(1000), [f"public.room{number}" for number in range(200)]
    for begin in range(0, len(patterns), 10):
        queues.join(*patterns[begin : begin + 10])
    for channel in channels[:2]:  # objects made once per process
        assert queues.hub.subscribers(channel) == 100
    tracemalloc.start()
    for channel in channels:
        queues.hub.subscribers(channel)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept <= (hub_module.ROUTE + hub_module.LINK * len(patterns)) * len(channels)
    assert kept <= route_bytes_of(queues.hub)


def test_closed_patterns_leave_nothing_in_routes(queues: HubWithQueues) -> None:
    """The channels that they matched are never published to again."""
    queues.join("public.r*")
    patterns = many_patterns(40)
    for number in range(20):
        subscriber = queues.join(*patterns)
        assert queues.hub.subscribers(f"public.room{number}") == 2
        queues.hub.leave(subscriber)
    assert patterns_of(queues.hub) == ["public.r*"]
    assert queues.publish("x", "public.room0") == 1
    assert routes_of(queues.hub)["public.room0"] == 1


def test_many_new_patterns_are_found_by_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used when matching each pattern would take longer, and finds none twice."""
    monkeypatch.setattr(hub_module, "NEWER", 3)
    queues = HubWithQueues()
    first = queues.join("a*")
    queues.publish("1", "ab")
    others = [queues.join(pattern) for pattern in ("*b", "ab*", "*a*", "*c", "a*b*")]
    assert queues.publish("2", "ab") == 5
    assert (got(first), [got(other) for other in others]) == (["1", "2"], [["2"], ["2"], ["2"], [], ["2"]])


def test_too_many_similar_patterns_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal leaves nothing behind and says what would be accepted, and that is accepted."""
    monkeypatch.setattr(pattern_index, "BUCKET", 2)
    monkeypatch.setattr(pattern_index, "MAX_CROWDED_STEPS", 9)
    queues = HubWithQueues()
    alike = ["*a*", "*a*a*", "*a*a*a*", "*a*a*a*a*"]
    queues.join(*alike[:3])
    with pytest.raises(FullError) as refused:
        queues.join(alike[3], "b")
    assert str(refused.value) == (
        "subscribed_channels: too many patterns consist of the same texts; use a pattern with"
        " text of its own, or names of channels"
    )
    assert "b" not in queues.hub.channels
    queues.join("*a*b*", *alike[:3])
    assert queues.publish("x", "aab") == 2


def test_other_channels_cost_a_publish_nothing(queues: HubWithQueues, matched: list[tuple[str, str]]) -> None:
    """Delivery visits only groups of its channel, however many others there are."""
    for number in range(1000):
        queues.join(f"c{number}")
    queues.join("c*7")
    forbid_iterating_channels(queues.hub)
    assert queues.publish("x", "c7") == 2
    assert matched == [("c*7", "c7")]


def test_the_limit_can_be_changed() -> None:
    """Subscribers stay under a lower one. Channels with subscribers stay open to others."""
    queues = HubWithQueues(most=2)
    queues.join("a")
    queues.join("b")
    queues.hub.most = 1
    queues.join("a")
    with pytest.raises(FullError, match=r"^subscribed_channels: the limit is 1 different"):
        queues.join("c")
    queues.hub.most = 3
    queues.join("c")
