"""What every backend promises, as tests. A backend's own test file says how it is opened, and runs them.

The file defines a fixture `open_backend` of type `OpenBackend`, and a subclass of `Contract`.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from sse_broadcast.backends.base import (
    Backend,
    ChannelUsage,
    Deliver,
    Far,
    Gap,
    IdempotencyKey,
    ReplayPage,
    ResetReason,
    StartPoint,
)
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import ChannelRule, Config
from sse_broadcast.cursor import Cursor, CustomId, EventId, parse_since
from sse_broadcast.errors import IdempotencyError
from sse_broadcast.event import Event
from sse_broadcast.publication import Draft, Publication, Receipt
from sse_broadcast.work_queue import SlicedWork, run_to_completion

ALL = 1 << 30

ROUNDS = 10
"""Tidyings in which a backend has seen to the few channels of a test, when they may hold less."""


class Clock:
    """A clock that only its test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


OpenBackend = Callable[[Config, ChannelPolicies, Deliver, Clock], Awaitable[Backend]]
"""How a backend is opened. The policies are its channels' for as long as it lives, and may change."""


def draft(channels: str = "a", data: str = "x", **fields: Any) -> Draft:
    """Return an event for channels named in one string, with blanks between."""
    return Draft(tuple(channels.split()), Event(data, **fields))


def channels_of(pieces: Iterable[Sequence[str]]) -> list[str]:
    """Return all channels that a backend names."""
    return [channel for piece in pieces for channel in piece]


A = TypeVar("A")


async def answer_of(steps: SlicedWork[A | Far[A]]) -> A:
    """Return an answer, from memory or from the store."""
    answer = run_to_completion(steps)
    return await answer.fetch() if isinstance(answer, Far) else answer


def ready(answer: Coroutine[Any, Any, A]) -> A:
    """Return what a coroutine returns that waits for nothing, as with a backend in memory."""
    try:
        answer.send(None)
    except StopIteration as end:
        value: A = end.value
        return value
    raise AssertionError("it waits")


async def _nothing() -> None:
    """Do nothing: what memory evicts is gone at once."""


@dataclass
class Pages:
    """What a reader got of a history: positions, gaps by the position told, and in how many pages.

    A gap may be told by a page, or by the start.
    """

    positions: list[int] = field(default_factory=list)
    gaps: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    count: int = field(default=0, compare=False)


class Case:
    """A backend under test, its clock, and what it announced."""

    def __init__(self, policies: ChannelPolicies) -> None:
        self.clock = Clock()
        self.policies = policies
        self.announced: list[list[Publication]] = []
        self.on_deliver: Callable[[], None] = lambda: None
        self.clients = 0
        self.on_settle: Callable[[], Awaitable[None]] = _nothing
        self.backend: Backend

    def deliver(self, publications: Sequence[Publication]) -> int:
        self.announced.append(list(publications))
        self.on_deliver()
        return self.clients

    @property
    def published(self) -> list[Publication]:
        return [publication for batch in self.announced for publication in batch]

    async def publish(self, channels: str = "a", data: str = "x", **fields: Any) -> Receipt:
        return await self.backend.publish([draft(channels, data, **fields)])

    async def change(self, **settings: Any) -> None:
        """Have channels go by another configuration, and have all that goes by it gone."""
        self.policies.reload(Config(**settings))
        self.backend.reload_limits()
        await self.settle()

    async def settle(self) -> None:
        """Have everything gone that is too old, or too much: a store may take a second for that."""
        for _ in range(ROUNDS):
            self.backend.evict_expired()
            await self.on_settle()

    async def wait(self, seconds: float) -> None:
        """Let time pass, and have gone what is then too old."""
        self.clock.now += seconds
        await self.settle()

    async def find(self, cursor: str, *channels: str, types: Sequence[str] = ()) -> StartPoint:
        return await self.start(parse_since(cursor), Selector.parse(*channels, types=types))

    async def start(self, cursor: Cursor, selector: Selector) -> StartPoint:
        return await answer_of(self.backend.find(cursor, selector))

    async def page(
        self, selector: Selector, *, after: int, evictions_seen: int = 0, limit: int = ALL
    ) -> ReplayPage:
        return await answer_of(
            self.backend.replay(selector, after=after, evictions_seen=evictions_seen, limit=limit)
        )

    def place(self, position: int) -> str:
        return f"{self.backend.epoch}-{position}"

    async def read(self, selector: Selector, start: StartPoint, *, limit: int = ALL) -> Pages:
        """Read page by page to the end, and hold the backend to what every page promises."""
        pages, after = Pages([publication.position for publication in start.preloaded]), start.after
        if start.reset_reason is ResetReason.EVICTED:
            pages.gaps.append((start.after, start.channels))
        while after < self.backend.position:
            page = await self.page(selector, after=after, evictions_seen=start.evictions_seen, limit=limit)
            assert after < page.upto <= self.backend.position
            found = [publication.position for publication in page.publications]
            assert found == sorted(set(found))
            assert all(after < position <= page.upto for position in found)
            pages.positions += found
            if page.gap is not None:
                assert page.gap.position == page.upto
                pages.gaps.append((page.gap.position, page.gap.channels))
            after = page.upto
            pages.count += 1
        return pages

    async def since(self, cursor: str, *channels: str, types: Sequence[str] = ()) -> Pages:
        selector = Selector.parse(*channels, types=types)
        return await self.read(selector, await self.start(parse_since(cursor), selector))


OpenCase = Callable[..., Awaitable[Case]]


class Contract:
    """The tests. Each opens a backend that has nothing in it."""

    @pytest.fixture
    def opened(self, open_backend: OpenBackend) -> OpenCase:
        async def open_case(**settings: Any) -> Case:
            config = Config(**settings)
            case = Case(ChannelPolicies(config))
            case.backend = await open_backend(config, case.policies, case.deliver, case.clock)
            return case

        return open_case

    # Publishing.

    async def test_a_new_history_is_empty(self, opened: OpenCase) -> None:
        """Position 0 is before everything; the epoch is one that ids of ours can have."""
        case = await opened()
        backend = case.backend
        assert backend.position == 0
        assert isinstance(parse_since(case.place(0)), EventId)
        assert (channels_of(backend.channels()), backend.channel_usage("a")) == ([], ChannelUsage(0, None))
        for cursor in ("earliest", "last", "1h", case.place(0)):
            start = await case.find(cursor, "a", "b*")
            assert (start.after, start.preloaded, start.reset_reason) == (0, (), None)

    async def test_positions_rise_by_one_from_1(self, opened: OpenCase) -> None:
        """Whatever the channels, and in a batch as alone."""
        case = await opened()
        await case.publish("a")
        await case.publish("b")
        await case.backend.publish([draft("a"), draft("c b"), draft("a")])
        await case.publish("c")
        assert [publication.position for publication in case.published] == [1, 2, 3, 4, 5, 6]
        assert case.backend.position == 6

    async def test_what_is_announced_is_what_was_published(self, opened: OpenCase) -> None:
        """The event, its channels in their order, its own id or its position's, and when."""
        case = await opened()
        await case.publish("b a", "hello", type="t", id="mine", retry=5, key="k")
        await case.publish("a", '{"n":1}', json=True)
        first, second = case.published
        assert first.event == Event("hello", "t", "mine", 5, "k")
        assert (first.channels, first.id, first.time) == (("b", "a"), "mine", case.clock.now)
        assert second.event == Event('{"n":1}', json=True)
        assert (second.channels, second.id) == (("a",), case.place(2))

    async def test_what_is_read_back_is_what_was_announced(self, opened: OpenCase) -> None:
        """Every field of it, and the same bytes."""
        case = await opened()
        await case.publish("b a", "é\n", type="t", id="mine", retry=5, key="k")
        await case.publish("a", '{"n":1}', json=True)
        page = await case.page(Selector.parse("a"), after=0)
        for read, announced in zip(page.publications, case.published, strict=True):
            assert (read.channels, read.event, read.id) == (announced.channels, announced.event, announced.id)
            assert (read.position, read.time, read.size) == (
                announced.position,
                announced.time,
                announced.size,
            )

    async def test_a_batch_is_announced_once_when_all_of_it_is_held(self, opened: OpenCase) -> None:
        """Whoever is woken by its first event finds the last in the history."""
        case = await opened()
        seen: list[tuple[int, int]] = []
        case.on_deliver = lambda: seen.append((case.backend.position, case.backend.channel_usage("a").events))
        await case.backend.publish([draft("a"), draft("b"), draft("a")])
        assert seen == [(3, 2)]
        assert [[publication.position for publication in batch] for batch in case.announced] == [[1, 2, 3]]

    async def test_a_receipt_is_of_the_last_event(self, opened: OpenCase) -> None:
        """Its id and its channels; how many there were; and the clients of the whole batch."""
        case = await opened()
        case.clients = 7
        assert await case.publish("b a") == Receipt(7, ("b", "a"), case.place(1), 1)
        drafts = [draft("a"), draft("c b", id="mine")]
        assert await case.backend.publish(drafts) == Receipt(7, ("c", "b"), "mine", 2)

    # Where a reader begins.

    async def test_an_id_of_ours_is_its_position(self, opened: OpenCase) -> None:
        """From the very first, which is before all events, to the newest."""
        case = await opened()
        await case.publish()
        await case.publish()
        for position in (0, 1, 2):
            start = await case.find(case.place(position), "a")
            assert (start.after, start.evictions_seen, start.preloaded, start.reset_reason) == (
                position,
                0,
                (),
                None,
            )

    async def test_an_id_of_another_life_is_lost(self, opened: OpenCase) -> None:
        """The reader joins at the newest position, and is told why."""
        case = await opened()
        await case.publish()
        epoch = f"{int(case.backend.epoch, 16) ^ 1:08x}"
        for position in (0, 1, 99):
            assert (await case.find(f"{epoch}-{position}", "a")) == StartPoint(
                1, reset_reason=ResetReason.EPOCH
            )

    async def test_an_id_that_was_never_given_is_unknown(self, opened: OpenCase) -> None:
        """A position still to come, or text from elsewhere."""
        case = await opened()
        await case.publish()
        for cursor in (case.place(2), case.place(9_999_999_999_999_999_999), "nobody's", "42", "-"):
            assert (await case.find(cursor, "a")) == StartPoint(1, reset_reason=ResetReason.UNKNOWN)
        assert await case.start(CustomId(""), Selector.parse("a")) == StartPoint(
            1, reset_reason=ResetReason.UNKNOWN
        )

    async def test_a_publishers_id_is_found(self, opened: OpenCase) -> None:
        """As the position of its event; elsewhere than in the reader's channels it is unknown."""
        case = await opened()
        await case.publish("a", id="one")
        await case.publish("b", id="two")
        await case.publish("a")
        assert (await case.find("one", "a")).after == 1
        assert (await case.find("two", "a")).reset_reason is ResetReason.UNKNOWN
        assert (await case.since("one", "a", "b")).positions == [2, 3]

    async def test_an_id_used_again_means_its_oldest_event(self, opened: OpenCase) -> None:
        """A reader may have seen any of them: it is given some again, and misses none."""
        case = await opened()
        for channel in "abab":
            await case.publish(channel, id="same" if channel == "a" else None)
        assert (await case.find("same", "a", "b")).after == 1
        assert (await case.since("same", "a", "b")).positions == [2, 3, 4]

    async def test_a_publishers_id_is_forgotten_with_its_event(self, opened: OpenCase) -> None:
        """And stands as long as any channel holds the event."""
        case = await opened(history_size=10, channel=(ChannelRule(match="small", history_size=1),))
        await case.publish("small", id="gone")
        await case.publish("small a", id="kept")
        await case.publish("small")
        assert (await case.find("gone", "a")).reset_reason is ResetReason.UNKNOWN
        assert (await case.find("kept", "a")).after == 2

    async def test_an_id_used_again_is_unknown_once_its_first_event_is_gone(self, opened: OpenCase) -> None:
        """The reader may have seen that one, and what came between is not known to have reached it."""
        case = await opened(channel=(ChannelRule(match="a", history_size=1),))
        await case.publish("a", id="same")
        await case.publish("b")
        await case.publish("a", id="same")
        for selector in ("a", "b"), ("*",):
            assert (await case.find("same", *selector)) == StartPoint(3, reset_reason=ResetReason.UNKNOWN)
        await case.publish("c", id="same")
        assert (await case.find("same", "b", "c")).after == 4

    async def test_an_id_is_remembered_as_long_as_events_are(self, opened: OpenCase) -> None:
        """Behind that it is as any other: nobody who saw its first event is told of what came since."""
        case = await opened(history_size=1, history_age=10.0)
        for name in ("same", "other"):
            await case.publish("a", id=name)
        await case.wait(9.0)
        await case.publish("a", id="same")
        assert (await case.find("same", "a")).reset_reason is ResetReason.UNKNOWN
        await case.wait(10.0)
        await case.publish("a", id="same")
        assert (await case.find("same", "a")).reset_reason is ResetReason.UNKNOWN
        await case.wait(21.0)
        await case.publish("a", id="same")
        assert (await case.find("same", "a")).after == case.backend.position

    async def test_earliest_is_all_that_is_held_of_the_interest(self, opened: OpenCase) -> None:
        """And what other channels lost, or hold, makes no difference."""
        case = await opened(history_size=2)
        for channels in ("b", "a", "b", "a", "b", "a", "c"):
            await case.publish(channels)
        assert (await case.since("earliest", "a")) == Pages([4, 6])
        assert (await case.since("earliest", "a", "b")).positions == [3, 4, 5, 6]
        assert (await case.since("earliest", "*")).positions == [3, 4, 5, 6, 7]
        assert (await case.since("earliest", "nothing", "x*")).positions == []

    async def test_last_is_the_newest_of_each_channel(self, opened: OpenCase) -> None:
        """In order, each event once, and then what comes."""
        case = await opened()
        for channels in ("a", "b", "a", "c a", "b", "d"):
            await case.publish(channels)
        start = await case.find("last", "a", "b", "c", "none")
        assert [publication.position for publication in start.preloaded] == [4, 5]
        assert (start.after, start.reset_reason) == (6, None)
        assert [publication.position for publication in (await case.find("last", "*")).preloaded] == [4, 5, 6]
        assert (await case.since("last", "d")) == Pages([6])

    async def test_last_is_the_newest_that_the_filter_passes(self, opened: OpenCase) -> None:
        """A newer event of another type does not stand in its way."""
        case = await opened()
        await case.publish("a", type="t")
        await case.publish("a", type="u")
        await case.publish("b", type="u")
        first = (await case.find("last", "a", "b", types=["t"])).preloaded
        assert [publication.position for publication in first] == [1]

    async def test_an_age_is_what_was_published_since(self, opened: OpenCase) -> None:
        """In every channel of the interest, and not a moment more."""
        case = await opened()
        for channels in ("a", "b", "a", "b"):
            await case.publish(channels)
            await case.wait(10.0)
        assert (await case.since("25s", "a", "b")).positions == [3, 4]
        assert (await case.since("15s", "a")).positions == []
        assert (await case.since("25s", "a")).positions == [3]
        assert (await case.since("1h", "*")).positions == [1, 2, 3, 4]
        assert (await case.since("5s", "*")).positions == []
        assert (await case.find("5s", "a")).after == 4

    async def test_an_age_holds_what_is_exactly_as_old(self, opened: OpenCase) -> None:
        """What was published so many seconds ago is not older than that."""
        case = await opened()
        await case.publish()
        await case.wait(10.0)
        assert (await case.since("10s", "a")).positions == [1]
        assert (await case.since("9s", "a")).positions == []

    @pytest.mark.parametrize("cursor", ["earliest", "last", "1h", "12s", "0s"])
    @pytest.mark.parametrize("channels", [("a",), ("a", "b"), ("*",), ("b", "a*"), ("none",)])
    async def test_asking_for_what_is_held_is_no_loss(
        self, opened: OpenCase, cursor: str, channels: tuple[str, ...]
    ) -> None:
        """Words and ages cause no gap for what was gone before, by count or by age."""
        case = await opened(history_size=3, history_age=20.0)
        for number in range(40):
            await case.publish("a" if number % 3 else "b")
            await case.wait(1.5)
        assert (await case.find(cursor, *channels)).reset_reason is None
        assert (await case.since(cursor, *channels)).gaps == []

    # Replay.

    async def test_what_came_after_a_position_is_given_in_order(self, opened: OpenCase) -> None:
        """Of the channels asked for, from every position there was."""
        case = await opened()
        rows = ["a", "b", "c", "a", "x.1", "b", "x.2", "a"]
        for row in rows:
            await case.publish(row)
        wanted = {
            ("a",): "a",
            ("a", "c"): "ac",
            ("c",): "c",
            ("x.*",): "x",
            ("b", "x.*"): "bx",
            ("*",): "abcx",
        }
        for channels, letters in wanted.items():
            for after in range(len(rows) + 1):
                got = await case.since(case.place(after), *channels)
                expected = [n for n, row in enumerate(rows, 1) if n > after and row[0] in letters]
                assert got == Pages(expected)

    async def test_an_event_in_several_channels_is_given_once(self, opened: OpenCase) -> None:
        """To a reader of all of them, of some, and of a pattern."""
        case = await opened()
        for channels in ("a b c", "b", "c a", "a"):
            await case.publish(channels)
        assert (await case.since("earliest", "a", "b", "c")).positions == [1, 2, 3, 4]
        assert (await case.since("earliest", "c", "b")).positions == [1, 2, 3]
        assert (await case.since("earliest", "a", "*")).positions == [1, 2, 3, 4]

    async def test_only_the_types_asked_for_are_given(self, opened: OpenCase) -> None:
        """And the reader's cursor passes over the others."""
        case = await opened()
        for kind in ("t", "u", "t", "message", "u"):
            await case.publish("a", type=kind)
        assert (await case.since(case.place(0), "a", types=["t"])).positions == [1, 3]
        assert (await case.since(case.place(0), "a", types=["message", "u"])).positions == [2, 4, 5]
        assert (await case.since(case.place(0), "*", types=["none"])) == Pages([])

    @pytest.mark.parametrize("channels", [("a",), ("a", "b"), ("*",)])
    async def test_a_page_is_bounded_in_bytes(self, opened: OpenCase, channels: tuple[str, ...]) -> None:
        """As many as the limit holds, and one at least, however large."""
        case = await opened()
        for data in ("x" * 10, "x" * 10, "x" * 1000, "x" * 10, "x" * 10, "x" * 10):
            await case.publish("a", data)
        size, selector = case.published[0].size, Selector.parse(*channels)

        async def page(after: int, limit: int) -> list[int]:
            replay = await case.page(selector, after=after, limit=limit)
            return [publication.position for publication in replay.publications]

        assert await page(0, 2 * size) == [1, 2]
        assert await page(0, 2 * size - 1) == await page(0, 1) == await page(0, 0) == [1]
        assert await page(2, 500) == [3]
        assert await page(1, 1 << 20) == [2, 3, 4, 5, 6]
        for limit in (0, size, 2 * size, 1100, ALL):
            start = await case.find("earliest", *channels)
            assert (await case.read(selector, start, limit=limit)).positions == [1, 2, 3, 4, 5, 6]

    async def test_a_reader_of_nothing_comes_to_the_end(self, opened: OpenCase) -> None:
        """Progress is certain, whoever the events in between are for."""
        case = await opened()
        for _ in range(50):
            await case.publish("a")
        for channels in (("b",), ("b", "c"), ("b*",)):
            assert (await case.read(Selector.parse(*channels), StartPoint(0), limit=1)).positions == []

    async def test_nothing_comes_after_the_newest(self, opened: OpenCase) -> None:
        """A page from there is empty, and stays there."""
        case = await opened()
        await case.publish()
        page = await case.page(Selector.parse("a"), after=1)
        assert (list(page.publications), page.upto, page.gap) == ([], 1, None)

    # Loss.

    async def test_a_loss_is_told_once_and_then_what_is_held_is_given(self, opened: OpenCase) -> None:
        """The gap ends just before the first event that is still held."""
        case = await opened(history_size=2)
        for channels in ("a", "a", "b", "a", "b", "a"):
            await case.publish(channels)
        assert (await case.since(case.place(0), "a")) == Pages([4, 6], [(3, ("a",))])
        assert (await case.since(case.place(1), "a")) == Pages([4, 6], [(3, ("a",))])
        assert (await case.since(case.place(2), "a")) == Pages([4, 6])
        assert (await case.since(case.place(3), "a")) == Pages([4, 6])

    async def test_a_loss_is_known_before_the_first_page(self, opened: OpenCase) -> None:
        """A reader is told of it before anything else; the gap is the one that a page would tell."""
        case = await opened(history_size=2)
        for channels in ("a", "a", "b", "a", "b", "a"):
            await case.publish(channels)
        assert (await case.find(case.place(0), "a")) == StartPoint(
            3, reset_reason=ResetReason.EVICTED, channels=("a",)
        )
        assert (await case.find(case.place(0), "a", "b")) == StartPoint(
            2, reset_reason=ResetReason.EVICTED, channels=("a",)
        )
        page = await case.page(Selector.parse("a", "b"), after=0)
        assert (page.publications, page.upto, page.gap) == ((), 2, Gap(("a",), 2))
        assert (await case.find(case.place(2), "a", "b")) == StartPoint(2)

    async def test_a_publishers_id_may_be_held_where_another_channel_lost_something(
        self, opened: OpenCase
    ) -> None:
        """Then the reader is told of the loss, and nothing comes from before it."""
        case = await opened(history_size=10, channel=(ChannelRule(match="small", history_size=1),))
        await case.publish("a", id="mine")
        for _ in range(2):
            await case.publish("small")
        assert (await case.find("mine", "a")) == StartPoint(1)
        assert (await case.find("mine", "a", "small")) == StartPoint(
            2, reset_reason=ResetReason.EVICTED, channels=("small",)
        )
        assert (await case.since("mine", "a", "small")) == Pages([3], [(2, ("small",))])

    async def test_a_loss_on_the_way_is_told_by_a_page(self, opened: OpenCase) -> None:
        """Nobody could know of it when the reader came, though it may have been told of an older one."""
        case = await opened(history_size=2)
        for _ in range(3):
            await case.publish("a")
        start = await case.find(case.place(0), "a")
        assert start == StartPoint(1, reset_reason=ResetReason.EVICTED, channels=("a",))
        for _ in range(2):
            await case.publish("a")
        assert (await case.read(Selector.parse("a"), start)) == Pages([4, 5], [(1, ("a",)), (3, ("a",))])

    async def test_a_cursor_is_replayable_while_nothing_is_lost_behind_it(self, opened: OpenCase) -> None:
        """What came before makes no difference, nor what other channels lost unless it is of patterns."""
        case = await opened(history_size=2, history_age=10.0)
        for channels in ("a", "a", "b", "a", "b", "a"):
            await case.publish(channels)

        def replayable(*channels: str) -> list[bool]:
            selector = Selector.parse(*channels)
            return [case.backend.replayable(selector, after=after) for after in range(7)]

        assert replayable("a") == replayable("a", "b") == replayable("*") == [False, False, *[True] * 5]
        assert replayable("b") == replayable("none") == [True] * 7
        assert replayable("none", "x*")[2:] == [True] * 5
        await case.wait(20.0)
        assert replayable("a") == [*[False] * 6, True]
        assert replayable("b") == [*[False] * 5, True, True]

    async def test_who_is_cut_behind_the_news_is_not_told_again(self, opened: OpenCase) -> None:
        """Its id resumes there, without a second gap and without losing more."""
        case = await opened(history_size=2)
        for name in ("a", "b", "a", "a", "b", "b", "a", "b"):
            await case.publish(name)
        asked: list[tuple[str, ...]] = [("a",), ("a", "b"), ("*",)]
        for channels in asked:
            told = await case.since(case.place(0), *channels)
            ((position, _),) = told.gaps
            assert (await case.since(case.place(position), *channels)) == Pages(told.positions)

    async def test_what_another_channel_lost_is_no_loss(self, opened: OpenCase) -> None:
        """A channel is a filter: a reader of quiet ones is told nothing of a noisy one."""
        case = await opened(history_size=2)
        await case.publish("quiet")
        for _ in range(10):
            await case.publish("noisy")
        assert (await case.since(case.place(0), "quiet")) == Pages([1])
        assert (await case.since(case.place(0), "qu*")) == Pages([1])
        assert (await case.since(case.place(0), "none")) == Pages([])
        assert (await case.since(case.place(0), "noisy")).gaps == [(9, ("noisy",))]
        assert (await case.since(case.place(0), "no*")).gaps[0][1] == ("no*",)

    async def test_nothing_older_than_a_loss_comes_behind_it(self, opened: OpenCase) -> None:
        """What other channels hold from before the newest loss is given up, and they are named."""
        case = await opened(history_size=2)
        for channels in ("quiet", "noisy", "noisy", "noisy", "noisy", "quiet", "noisy"):
            await case.publish(channels)
        assert (await case.since(case.place(0), "noisy", "quiet", "none")) == Pages(
            [5, 6, 7], [(4, ("noisy", "quiet"))]
        )
        assert (await case.since(case.place(2), "noisy", "quiet")) == Pages([5, 6, 7], [(4, ("noisy",))])

    async def test_nothing_held_leaves_the_reader_behind_the_loss(self, opened: OpenCase) -> None:
        """With no history at all each loss is told, and each reader comes to the end."""
        case = await opened(history_size=0)
        for _ in range(3):
            await case.publish("a")
        assert case.backend.channel_usage("a") == ChannelUsage(0, None)
        for after in range(3):
            assert (await case.since(case.place(after), "a")) == Pages([], [(3, ("a",))])
        assert (await case.since(case.place(3), "a")) == Pages([])
        assert (await case.since("earliest", "a")) == Pages([])

    async def test_a_channel_that_was_emptied_remembers_its_loss(self, opened: OpenCase) -> None:
        """What came after a silence does not hide what was lost before it."""
        case = await opened(history_age=10.0)
        await case.publish("a")
        await case.wait(20.0)
        assert channels_of(case.backend.channels()) == []
        await case.publish("b")
        await case.publish("a")
        assert (await case.since(case.place(0), "a")) == Pages([3], [(2, ("a",))])
        assert (await case.since(case.place(0), "a*")).gaps[0][1] == ("a*",)
        assert (await case.since(case.place(1), "a")) == Pages([3])

    async def test_eviction_that_overtakes_a_reader_is_a_loss_whatever_it_asked_for(
        self, opened: OpenCase
    ) -> None:
        """Who asked for all that is held has lost what was held then and is gone now."""
        case = await opened(history_size=3)
        for _ in range(5):
            await case.publish("a")
        start = await case.find("earliest", "a")
        assert start.after == 2
        for _ in range(2):
            await case.publish("a")
        assert (await case.read(Selector.parse("a"), start)) == Pages([5, 6, 7], [(4, ("a",))])

    @pytest.mark.parametrize("cursor", ["earliest", "90s"])
    @pytest.mark.parametrize("channels", [("a", "b"), ("*",)])
    async def test_what_was_gone_before_hides_no_later_loss(
        self, opened: OpenCase, cursor: str, channels: tuple[str, ...]
    ) -> None:
        """A noisy channel's old losses are no news; a quiet one's, while its reader is on the way, is."""
        rules = (ChannelRule(match="b", history_age=100.0),)
        case = await opened(history_size=3, history_age=1000.0, channel=rules)
        for name in ("b", "b", "b", "a", "a", "a", "a", "a", "a"):
            await case.publish(name)
            await case.wait(1.0)
        start = await case.find(cursor, *channels)
        assert start.after == 0
        await case.wait(92.5)  # b's 1 and 2 are too old now, and nobody has had them
        assert case.backend.channel_usage("b") == ChannelUsage(1, case.place(3))
        got = await case.read(Selector.parse(*channels), start)
        assert (got.positions, [position for position, _ in got.gaps]) == ([3, 7, 8, 9], [2])

    async def test_a_loss_behind_the_reader_is_none_of_its_own(self, opened: OpenCase) -> None:
        """What it has may go while it is on its way, whatever it asked for."""
        case = await opened(history_size=2)
        for name in ("a", "a", "b", "a"):
            await case.publish(name)
        start = await case.find("earliest", "a", "b")
        assert start.after == 1
        for _ in range(2):
            await case.publish("a")
        told = await case.page(Selector.parse("a", "b"), after=4, evictions_seen=start.evictions_seen)
        assert ([one.position for one in told.publications], told.gap) == ([5, 6], None)

    # Bounds.

    async def test_events_of_a_channel_are_bounded(self, opened: OpenCase) -> None:
        """Each by its own rule; the oldest goes first."""
        case = await opened(history_size=5, channel=(ChannelRule(match="s*", history_size=2),))
        for _ in range(7):
            await case.publish("a s")
        assert case.backend.channel_usage("a") == ChannelUsage(5, case.place(3))
        assert case.backend.channel_usage("s") == ChannelUsage(2, case.place(6))

    async def test_bytes_of_a_channel_are_bounded(self, opened: OpenCase) -> None:
        """Large events push out many small ones, and one too large pushes out itself."""
        case = await opened(history_bytes=20_000)
        for _ in range(30):
            await case.publish("a", "x")
        before = case.backend.channel_usage("a").events
        await case.publish("a", "x" * 9000)
        await case.publish("a", "x" * 9000)
        assert 0 < case.backend.channel_usage("a").events < before
        assert (await case.since("earliest", "a")).positions[-1] == 32
        await case.publish("a", "x" * 20_000)
        assert case.backend.channel_usage("a").events == 0
        assert (await case.since(case.place(32), "a")).gaps == [(33, ("a",))]

    async def test_age_is_bounded(self, opened: OpenCase) -> None:
        """Nothing has to be published for something to grow old."""
        case = await opened(history_age=10.0, channel=(ChannelRule(match="long", history_age=100.0),))
        await case.publish("a long")
        await case.wait(6.0)
        await case.publish("a")
        await case.wait(6.0)
        assert case.backend.channel_usage("a") == ChannelUsage(1, case.place(2))
        assert case.backend.channel_usage("long") == ChannelUsage(1, case.place(1))
        await case.wait(6.0)
        assert channels_of(case.backend.channels()) == ["long"]
        assert (await case.since(case.place(0), "a")).gaps == [(2, ("a",))]
        assert (await case.since(case.place(0), "long")) == Pages([1])

    async def test_tidying_says_whether_anything_is_left_to_grow_old(self, opened: OpenCase) -> None:
        """Events and tokens: once all are gone there is nothing to come back for."""
        case = await opened(history_age=10.0, idempotency_window=20.0)
        assert not case.backend.evict_expired()
        await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"d"))
        await case.publish("b")
        assert case.backend.evict_expired()
        await case.wait(10.0)
        assert case.backend.evict_expired()
        await case.wait(10.0)
        assert not case.backend.evict_expired()
        await case.publish("a")
        assert case.backend.evict_expired()
        assert (await case.since(case.place(2), "a")) == Pages([3])

    async def test_the_oldest_behind_a_position_is_known_by_its_time(self, opened: OpenCase) -> None:
        """Of named channels their own, of patterns any channel's; what is held no more does not count."""
        case = await opened(history_size=2)
        began = case.clock.now
        for channels in ("a", "b", "b c", "a"):
            await case.wait(1.0)
            await case.publish(channels)

        def oldest(after: int, *channels: str) -> float | None:
            time = case.backend.oldest(Selector.parse(*channels), after=after)
            return None if time is None else time - began

        assert [oldest(after, "a") for after in range(5)] == [1.0, 4.0, 4.0, 4.0, None]
        assert [oldest(after, "a", "c") for after in range(5)] == [1.0, 3.0, 3.0, 4.0, None]
        assert [oldest(after, "a", "x*") for after in range(5)] == [1.0, 2.0, 3.0, 4.0, None]
        assert oldest(0, "nobody") is None
        await case.wait(1.0)
        await case.publish("a")
        assert (oldest(0, "a"), oldest(0, "*")) == (4.0, 2.0)

    async def test_a_batch_larger_than_its_channel_is_announced_whole(self, opened: OpenCase) -> None:
        """What is live gets all of it; who comes back is told what was not held."""
        case = await opened(history_size=3)
        await case.backend.publish([draft("a" if number % 3 else "a b") for number in range(9)])
        assert [publication.position for publication in case.published] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert (await case.since(case.place(0), "a")) == Pages([7, 8, 9], [(6, ("a",))])
        assert (await case.since(case.place(0), "b")) == Pages([1, 4, 7])
        assert (await case.since("earliest", "*")).positions == [1, 4, 7, 8, 9]

    async def test_a_noisy_channel_gives_before_a_quiet_one(self, opened: OpenCase) -> None:
        """Over the total, what holds the most lets go first."""
        case = await opened(history_total=20_000)
        for _ in range(3):
            await case.publish("quiet")
        for _ in range(200):
            await case.publish("noisy")
        assert case.backend.channel_usage("quiet").events == 3
        assert 3 <= case.backend.channel_usage("noisy").events < 200
        assert (await case.since(case.place(0), "quiet")) == Pages([1, 2, 3])

    async def test_a_channel_is_held_by_the_names_of_what_it_holds(self, opened: OpenCase) -> None:
        """Its oldest id may be a publisher's."""
        case = await opened()
        await case.publish("b a", id="mine")
        await case.publish("a")
        assert sorted(channels_of(case.backend.channels())) == ["a", "b"]
        assert case.backend.channel_usage("a") == ChannelUsage(2, "mine")
        assert case.backend.channel_usage("b") == ChannelUsage(1, "mine")

    # Other bounds.

    @pytest.mark.parametrize(
        ("settings", "left"),
        [
            ({"history_size": 2}, [6, 7]),
            ({"history_size": 0}, []),
            ({"history_age": 2.0}, [6, 7]),
            ({"history_size": 10, "history_bytes": 1_000_000, "history_age": 100.0}, [3, 4, 5, 6, 7]),
        ],
        ids=str,
    )
    async def test_what_is_held_beyond_other_bounds_goes(
        self, opened: OpenCase, settings: dict[str, Any], left: list[int]
    ) -> None:
        """Within a few tidyings, oldest first, and told as any loss; who asks then is told of none."""
        case = await opened(history_size=5)
        for _ in range(7):
            await case.wait(1.0)
            await case.publish("a")
        asked, others = (await case.find("earliest", "a")), (await case.since("earliest", "a")).positions
        assert others == [3, 4, 5, 6, 7]
        (await case.change(**settings))
        assert case.backend.channel_usage("a") == ChannelUsage(
            len(left), case.place(left[0]) if left else None
        )
        gone = sorted(set(others) - set(left))
        assert (await case.read(Selector.parse("a"), asked)) == Pages(
            left, [(gone[-1], ("a",))] if gone else []
        )
        assert (await case.since("earliest", "a")) == Pages(left)

    async def test_fewer_bytes_hold_less(self, opened: OpenCase) -> None:
        """How many events that is depends on what a backend takes for each."""
        case = await opened()
        for _ in range(7):
            await case.publish("a", "x" * 4000)
        (await case.change(history_bytes=20_000))
        assert 0 < case.backend.channel_usage("a").events < 5
        assert (await case.since("earliest", "a")).positions[-1] == 7

    async def test_other_bounds_are_those_of_what_follows(self, opened: OpenCase) -> None:
        """Wider ones too; what is gone stays so."""
        case = await opened(history_size=2, history_age=10.0)
        for _ in range(3):
            await case.publish()
        (await case.change(history_size=4, history_age=100.0))
        assert case.backend.channel_usage("a") == ChannelUsage(2, case.place(2))
        await case.wait(50.0)
        for count in (3, 4, 4):
            await case.publish()
            assert case.backend.channel_usage("a").events == count
        assert (await case.since(case.place(1), "a")) == Pages([3, 4, 5, 6], [(2, ("a",))])

    async def test_other_bounds_are_each_channels_own(self, opened: OpenCase) -> None:
        """What several channels hold goes from one of them, and what no rule has changed stays."""
        case = await opened(history_size=5)
        for channels in ("a b", "a", "b", "a b", "c"):
            await case.publish(channels)
        (await case.change(history_size=5, channel=(ChannelRule(match="b", history_size=1),)))
        assert [case.backend.channel_usage(name).events for name in "abc"] == [3, 1, 1]
        assert (await case.since(case.place(0), "a")) == Pages([1, 2, 4])
        assert (await case.since(case.place(0), "b")) == Pages([4], [(3, ("b",))])
        (await case.change(history_size=1))
        assert (await case.since("earliest", "*")).positions == [4, 5]

    # Time.

    async def test_a_clock_that_goes_back_does_no_harm(self, opened: OpenCase) -> None:
        """Times never fall, so ages and order stay what they are."""
        case = await opened(history_age=10.0)
        await case.publish("a")
        case.clock.now -= 3600.0
        await case.publish("a")
        await case.publish("b")
        times = [publication.time for publication in case.published]
        assert times == sorted(times)
        assert (await case.since("5s", "a", "b")).positions == [1, 2, 3]
        await case.wait(3611.0)
        assert channels_of(case.backend.channels()) == []

    # Idempotency.

    async def test_a_token_seen_before_publishes_nothing(self, opened: OpenCase) -> None:
        """It is answered as the first time, whatever has happened since."""
        case = await opened()
        case.clients = 3
        token = IdempotencyKey(("me", "/send/a", "k"), b"digest")
        receipt = await case.backend.publish([draft("a"), draft("b")], token)
        case.clients = 9
        await case.publish("a")
        again = IdempotencyKey(("me", "/send/a", "k"), b"digest")
        assert await case.backend.publish([draft("a"), draft("b")], again) == receipt
        assert receipt == Receipt(3, ("b",), case.place(2), 2)
        assert (case.backend.position, len(case.announced)) == (3, 2)

    async def test_a_token_of_something_else_is_refused(self, opened: OpenCase) -> None:
        """Nothing is published, and the first answer stands."""
        case = await opened()
        receipt = await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"one"))
        with pytest.raises(IdempotencyError, match=r"^Idempotency-Key: "):
            await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"two"))
        assert case.backend.position == 1
        assert await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"one")) == receipt

    async def test_a_token_is_its_whole_scope(self, opened: OpenCase) -> None:
        """Another caller's or path's key is another token, however the parts are cut."""
        case = await opened()
        for scope in (("a", "b"), ("a", "c"), ("ab",), ("a", "b", ""), ("b", "a")):
            await case.backend.publish([draft("a")], IdempotencyKey(scope, b"d"))
        assert case.backend.position == 5

    async def test_a_token_is_remembered_for_its_window(self, opened: OpenCase) -> None:
        """Counted from its first use; then the same key publishes again."""
        case = await opened(idempotency_window=60.0)
        token = IdempotencyKey(("k",), b"d")
        await case.backend.publish([draft("a")], token)
        for _ in range(3):
            await case.wait(19.0)
            await case.backend.publish([draft("a")], token)
        assert case.backend.position == 1
        await case.wait(4.0)
        assert (await case.backend.publish([draft("a")], token)).id == case.place(2)

    async def test_after_its_window_a_token_may_be_of_something_else(self, opened: OpenCase) -> None:
        """What was forgotten refuses nothing."""
        case = await opened(idempotency_window=60.0)
        await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"one"))
        await case.wait(61.0)
        await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"two"))
        assert case.backend.position == 2

    async def test_a_token_outlives_its_events(self, opened: OpenCase) -> None:
        """The history may have let go of what it answers for."""
        case = await opened(history_size=0)
        receipt = await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"d"))
        assert await case.backend.publish([draft("a")], IdempotencyKey(("k",), b"d")) == receipt

    # Removal.

    async def test_an_event_that_is_removed_is_no_loss(self, opened: OpenCase) -> None:
        """From wherever a reader comes back: it is given what is left, and told nothing."""
        case = await opened()
        for channels in ("a", "a b", "b", "a"):
            await case.publish(channels)
        assert await case.backend.remove(2)
        assert not await case.backend.remove(2)
        assert not await case.backend.remove(99)
        for after in range(5):
            assert (await case.since(case.place(after), "a")) == Pages([n for n in (1, 4) if n > after])
            assert (await case.since(case.place(after), "a", "b")) == Pages(
                [n for n in (1, 3, 4) if n > after]
            )
        assert (await case.since("earliest", "*")).positions == [1, 3, 4]
        assert case.backend.channel_usage("a") == ChannelUsage(2, case.place(1))
        assert case.backend.usage().events == 3

    async def test_a_channel_that_is_cleared_is_no_loss(self, opened: OpenCase) -> None:
        """What other channels hold stays there, and what comes next is held."""
        case = await opened()
        for channels in ("a", "a b", "b", "a"):
            await case.publish(channels)
        assert await case.backend.clear("a") == 3
        assert await case.backend.clear("a") == await case.backend.clear("never") == 0
        assert (await case.since(case.place(0), "a")) == Pages([])
        assert (await case.since(case.place(0), "a", "b")) == Pages([2, 3])
        await case.publish("a")
        assert (await case.since(case.place(0), "a")) == Pages([5])
        assert case.backend.channel_usage("a") == ChannelUsage(1, case.place(5))
        assert channels_of(case.backend.channels()) == ["a", "b"]

    async def test_a_removal_hides_no_loss(self, opened: OpenCase) -> None:
        """What was evicted before, or is evicted since, is told all the same."""
        case = await opened(history_size=3)
        for _ in range(5):
            await case.publish("a")
        await case.backend.remove(4)
        assert (await case.since(case.place(0), "a")) == Pages([3, 5], [(2, ("a",))])
        assert (await case.since(case.place(2), "a")) == Pages([3, 5])
        for _ in range(2):
            await case.publish("a")
        assert (await case.since(case.place(2), "a")) == Pages([5, 6, 7], [(4, ("a",))])

    async def test_the_id_of_an_event_that_was_removed_is_unknown(self, opened: OpenCase) -> None:
        """And may be used again."""
        case = await opened()
        await case.publish("a", id="mine")
        await case.publish("a", id="other")
        assert await case.backend.remove(1)
        assert (await case.find("mine", "a")).reset_reason is ResetReason.UNKNOWN
        await case.publish("a", id="mine")
        assert (await case.find("mine", "a")).after == 3
        assert (await case.find("other", "a")).after == 2

    async def test_what_is_removed_is_room_for_others(self, opened: OpenCase) -> None:
        """Of its channel, of all, and of the time that the oldest has."""
        case = await opened(history_size=2, history_age=10.0)
        await case.publish("a")
        await case.wait(5.0)
        await case.publish("a")
        await case.backend.remove(1)
        await case.publish("a")
        assert case.backend.channel_usage("a").events == 2
        await case.wait(6.0)
        assert case.backend.channel_usage("a").events == 2
        await case.wait(5.0)
        assert case.backend.channel_usage("a") == ChannelUsage(0, None)
        assert (await case.since(case.place(1), "a")) == Pages([], [(3, ("a",))])

    async def test_positions_given_are_counted(self, opened: OpenCase) -> None:
        """As many as were published behind one."""
        case = await opened()
        for _ in range(3):
            await case.publish("a")
        newest = case.backend.position
        assert [case.backend.count_after(newest - back) for back in range(4)] == [0, 1, 2, 3]
