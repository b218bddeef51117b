"""The directory: what a store holds of each channel, and what has to go."""

from dataclasses import dataclass, field

import pytest

from sse_broadcast.backends import directory as module
from sse_broadcast.backends.directory import ChannelChange, Directory
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.metrics import Share
from sse_broadcast.work_queue import run_to_completion


@dataclass
class House:
    """A directory, and what it reports."""

    total: int = 1 << 30
    most: int = 100
    limits: HistoryLimits = field(default_factory=lambda: HistoryLimits(10, 1 << 20, 60.0))
    position: int = 0

    def __post_init__(self) -> None:
        self.reported: list[tuple[Share, str]] = []
        self.directory = Directory(
            lambda _: self.limits,
            total=self.total,
            max_channels=self.most,
            report=lambda share, publisher: self.reported.append((share, publisher)),
        )
        self.directory.begin((), events=0, bytes=0, forgotten=0)

    def apply(self, *changes: ChannelChange, bytes: int = 0, forgotten: int = 0) -> None:
        self.position = max(self.position, *(each.newest for each in changes))
        self.directory.apply(
            changes,
            position=self.position,
            events=0,
            bytes=bytes or self.directory.bytes,
            forgotten=forgotten,
        )

    def loss(self, *channels: str, after: int = 0, seen: int = 0) -> int:
        selector = Selector.parse(*channels)
        return run_to_completion(self.directory.watermarks.newest_loss(selector, after=after, seen=seen))


def change(channel: str, **fields: object) -> ChannelChange:
    """Return a channel with one event at 1, or with what is said of it."""
    known: dict[str, object] = {
        "publisher": "p",
        "count": 1,
        "bytes": 100,
        "newest": 1,
        "lost": 0,
        "evicted": 0,
        "oldest": 1,
        "oldest_time": 0.0,
        "oldest_id": None,
    }
    return ChannelChange(channel, **known | fields)  # type: ignore[arg-type]


def names(directory: Directory) -> list[str]:
    return [name for page in directory.names() for name in page]


def test_it_knows_the_channels_that_hold_something() -> None:
    """One that was emptied is remembered, and not told of."""
    house = House()
    house.apply(change("a"), change("b"))
    assert (names(house.directory), house.directory.channels) == (["a", "b"], 2)
    house.apply(change("a", count=0, bytes=0, newest=0, lost=1, evicted=1))
    assert (names(house.directory), house.directory.channels) == (["b"], 1)
    house.apply(change("a", newest=2, oldest=2, lost=1))
    assert house.directory.channels == 2


def test_names_come_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(module, "NAMES_PER_PAGE", 2)
    house = House()
    house.apply(*(change(name) for name in "abcde"))
    assert list(house.directory.names()) == [["a", "b"], ["c", "d"], ["e"]]


def test_an_eviction_is_a_loss_of_its_channel() -> None:
    """By name, by pattern, and not to whoever was told of it."""
    house = House()
    house.apply(change("a"), change("b"))
    before = house.directory.watermarks.evictions
    house.apply(change("a", newest=5, lost=3, evicted=2))
    assert (house.loss("a"), house.loss("a", after=3), house.loss("b")) == (3, 0, 0)
    assert (house.loss("a*"), house.loss("b*")) == (3, 0)
    assert house.loss("a", seen=before) == 3
    assert house.loss("a", seen=house.directory.watermarks.evictions) == 0


def test_a_forgotten_channel_is_a_loss_of_all_that_are_not_known() -> None:
    """Its watermark is in the common one."""
    house = House()
    house.apply(change("a", newest=4), change("b"))
    house.apply(change("a", count=0, bytes=0, newest=0, lost=4, forgotten=True), forgotten=4)
    assert names(house.directory) == ["b"]
    assert (house.loss("a"), house.loss("other"), house.loss("b"), house.loss("x*")) == (4, 4, 0, 4)


def test_what_was_lost_before_it_was_opened_is_lost() -> None:
    """The store says so of each channel, and of those it has forgotten."""
    house = House()
    house.directory.begin([change("a", lost=7, newest=9), change("b")], events=2, bytes=200, forgotten=5)
    assert (house.loss("a"), house.loss("b"), house.loss("other"), house.loss("*")) == (7, 0, 5, 7)
    assert (house.loss("a", after=7), house.loss("*", after=7)) == (0, 0)


def test_a_channel_is_overdue_once_until_it_has_changed() -> None:
    """By its oldest event and its own age."""
    house = House()
    house.apply(change("a", oldest_time=10.0), change("b", oldest_time=20.0))
    assert house.directory.overdue(69.0, most=9) == []
    (found,) = house.directory.overdue(70.0, most=9)
    assert found.channel == "a"
    assert house.directory.overdue(70.0, most=9) == []
    house.directory.expect(found)
    assert house.directory.overdue(70.0, most=9) == [found]
    house.apply(change("a", oldest=2, newest=2, oldest_time=15.0))
    assert house.directory.overdue(74.0, most=9) == []
    assert house.directory.overdue(99.0, most=1) == [found]


def test_reloaded_limits_are_applied_a_few_at_a_time() -> None:
    """To each channel, and those that hold more are named."""
    house = House()
    house.apply(*(change(name, count=count) for name, count in zip("abc", (5, 1, 5), strict=True)))
    house.limits = HistoryLimits(3, 1 << 20, 5.0)
    house.directory.reload_limits()
    assert [each.channel for each in house.directory.apply_limits(2)] == ["c"]
    assert house.directory.limits_pending
    assert [each.channel for each in house.directory.apply_limits(9)] == ["a"]
    assert not house.directory.limits_pending
    assert {each.channel for each in house.directory.overdue(5.0, most=9)} == {"a", "b", "c"}


def test_the_largest_channel_of_the_largest_publisher_gives_way() -> None:
    """By as many bytes as are too many."""
    house = House(total=1000)
    house.apply(
        change("a", publisher="p", bytes=600),
        change("b", publisher="q", bytes=300),
        change("c", publisher="p", bytes=100),
        bytes=1000,
    )
    assert house.directory.largest_over_total() is None
    house.apply(change("b", publisher="q", bytes=500, newest=2), bytes=1200)
    found = house.directory.largest_over_total()
    assert found is not None
    assert (found[0].channel, found[1]) == ("a", 200)
    assert house.reported == [(Share.HISTORY_TOTAL, "p")]


def test_a_publisher_with_most_channels_has_one_forgotten() -> None:
    """An empty one first, else the one that was published to least recently."""
    house = House(most=3)
    house.apply(change("a", publisher="p"), change("b", publisher="p"), change("c", publisher="q"))
    assert house.directory.next_to_forget() is None
    house.apply(change("d", publisher="p", newest=2))
    last = house.directory.next_to_forget()
    assert last is not None
    assert last.channel == "a"
    house.apply(change("a", publisher="p", newest=3), change("b", publisher="p", count=0, bytes=0, newest=1))
    last = house.directory.next_to_forget()
    assert last is not None
    assert last.channel == "b"


def test_nothing_is_left_of_a_publisher_without_channels() -> None:
    """Its share goes with its last channel, and a slot is used again."""
    house = House()
    house.apply(change("a", publisher="p"), change("b", publisher="q"))
    house.apply(change("a", count=0, bytes=0, newest=0, lost=1, forgotten=True), forgotten=1)
    assert list(house.directory._shares) == ["q"]
    house.apply(change("c", publisher="q"))
    assert [each and each.channel for each in house.directory.slots] == ["c", "b"]
