"""Where several publishers fill a history, the one that has most gives way first."""

import itertools

from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.publisher_share import PublisherShare
from sse_broadcast.backends.memory.weights import CHANNEL_COST
from sse_broadcast.config.policy import HistoryLimits
from tests.backends.memory.history_cases import (
    FOREVER,
    PLENTY,
    held,
    history_of,
    lost,
    publication,
    require_bounded,
    room,
)


def names(history: History) -> list[str]:
    return sorted(itertools.chain.from_iterable(history.channel_index.names()))


class Shared:
    """A history of several publishers, and what was reported of their shares."""

    def __init__(self, *, total: int = PLENTY, max_channels: int = 1000) -> None:
        self.reported: list[tuple[str, str]] = []
        self.position = 0
        self.history = History(
            lambda _: HistoryLimits(1000, PLENTY, FOREVER),
            total=total,
            max_channels=max_channels,
            report=lambda share, publisher: self.reported.append((share, publisher)),
        )

    def publish(self, publisher: str, *rows: str) -> None:
        for channels in rows:
            self.position += 1
            self.history.extend([publication(self.position, channels)], publisher)
        require_bounded(self.history)

    @property
    def shares(self) -> dict[str, PublisherShare[ChannelLog]]:
        return {log.share.name: log.share for log in self.history.channel_index.logs.values()}

    def events(self, *channels: str) -> list[int]:
        return [len(held(self.history, channel)) for channel in channels]


def test_a_publisher_that_opens_channels_forgets_its_own() -> None:
    """Of those the one it published to longest ago; others keep theirs, however many it opens."""
    shared = Shared(max_channels=5)
    shared.publish("shop", "orders", "stock")
    shared.publish("flood", *(f"f{number}" for number in range(100)), "f97", "f100")
    assert names(shared.history) == ["f100", "f97", "f99", "orders", "stock"]
    assert (lost(shared.history, "orders"), lost(shared.history, "f98")) == (0, 101)
    assert shared.reported == [("history_channels", "flood")] * 98
    shared.publish("shop", "s1", "s2", "s3")
    assert names(shared.history) == ["f100", "f97", "s1", "s2", "s3"]
    assert shared.reported[98:] == [("history_channels", name) for name in ("flood", "shop", "shop")]


def test_a_publisher_alone_has_all_channels() -> None:
    shared = Shared(max_channels=5)
    shared.publish("shop", *(f"s{number}" for number in range(8)))
    assert (names(shared.history), shared.reported) == ([f"s{number}" for number in range(3, 8)], [])


def test_channels_that_hold_nothing_are_forgotten_first_of_their_publishers() -> None:
    """Not those of others, whose subscribers would be told of a loss that was none."""
    history = history_of(age=10.0, max_channels=4)
    history.extend([publication(1, "quiet")], "shop")
    for position, channel in enumerate(["a", "b", "c"], 2):
        history.extend([publication(position, channel, time=float(position - 2) * 6.0)], "flood")
    history.expire(17.0)
    assert [len(held(history, channel)) for channel in ("quiet", "a", "b", "c")] == [0, 0, 0, 1]
    for position, channel in enumerate(["a", "d"], 5):
        history.extend([publication(position, channel, time=17.0)], "flood")
    remembered = [
        channel for channel in ("quiet", "a", "b", "c", "d") if history.channel_index.logs.get(channel)
    ]
    assert remembered == ["quiet", "a", "c", "d"]


def test_a_publisher_of_many_small_channels_gives_before_one_of_a_large_one() -> None:
    """Though each of its own holds less: it is what a publisher holds in all of them that counts."""
    shared = Shared(total=room(60, channels=11, publishers=2))
    shared.publish("shop", *["o"] * 20)
    shared.publish("flood", *"abcdefghij" * 40)
    flood = shared.events(*"abcdefghij")
    assert shared.events("o") == [20]
    assert max(flood) < 20 < sum(flood)
    assert {*shared.reported} == {("history_total", "flood")}
    shared.publish("shop", *["o"] * 200)
    assert abs(shared.events("o")[0] - sum(shared.events(*"abcdefghij"))) < 20


def test_a_channel_of_several_publishers_counts_for_who_opened_it() -> None:
    """Who publishes there shares it."""
    shared = Shared(total=room(20, channels=2, publishers=2))
    shared.publish("first", "a")
    shared.publish("second", *["a"] * 300, "b")
    assert shared.events("b") == [1]
    assert shared.shares.keys() == {"first", "second"}
    assert {*shared.reported} == {("history_total", "first")}


def test_a_publication_in_several_channels_counts_by_parts() -> None:
    shared = Shared()
    shared.publish("one", *["a"] * 12)
    shared.publish("three", *["b c d"] * 12)
    one, three = shared.shares["one"].bytes, shared.shares["three"].bytes
    assert one < three - 2 * CHANNEL_COST < 1.5 * one


def test_many_publishers_of_a_channel_each_leave_no_more_than_fits() -> None:
    shared = Shared(total=room(10, channels=10, publishers=10) + 200)
    for number in range(100):
        shared.publish(f"address {number}", f"c{number}")
    kept = len(shared.shares)
    assert kept >= 8
    assert names(shared.history) == [f"c{number}" for number in range(100 - kept, 100)]
