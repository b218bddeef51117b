"""The backend in memory: the contract, and what is its own."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends.base import Backend, Deliver, IdempotencyKey, ResetReason, StartPoint
from sse_broadcast.backends.memory import backend as memory
from sse_broadcast.backends.memory import idempotency
from sse_broadcast.backends.memory.backend import MemoryBackend, open_memory
from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.memory.idempotency import RememberedAnswer
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies, HistoryLimits
from sse_broadcast.config.schema import ChannelRule, Config
from sse_broadcast.cursor import EventId, parse_id, parse_since
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import run_to_completion
from tests.backends.contract import (
    ALL,
    Case,
    Clock,
    Contract,
    OpenBackend,
    OpenCase,
    Pages,
    channels_of,
    draft,
    ready,
)
from tests.support.memory import inside


def nobody(publications: Sequence[Publication]) -> int:
    return 0


Row = tuple[str, str, str]
"""Channels, data and type."""


def memory_of(config: Config, policies: ChannelPolicies, deliver: Deliver, clock: Clock) -> MemoryBackend:
    history = History(
        lambda channel: policies.for_channel(channel).limits,
        total=config.history_total,
        max_channels=config.history_channels,
    )
    return MemoryBackend(history, deliver, window=config.idempotency_window, clock=clock)


@pytest.fixture
def open_backend() -> OpenBackend:
    async def open_it(config: Config, policies: ChannelPolicies, deliver: Deliver, clock: Clock) -> Backend:
        return memory_of(config, policies, deliver, clock)

    return open_it


class TestMemory(Contract):
    """The contract, and the bounds that this backend sets itself."""

    async def test_one_log_is_looked_at_as_far_as_any(
        self, opened: OpenCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PAGE_SCAN_LIMIT publications at most, as it says."""
        monkeypatch.setattr(memory, "PAGE_SCAN_LIMIT", 10)
        case = await opened()
        for _ in range(30):
            await case.publish()
        page = await case.page(Selector.parse("a"), after=0)
        assert (len(page.publications), page.upto) == (10, 10)

    async def test_a_page_looks_at_so_many_publications(
        self, opened: OpenCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A filter that passes nothing holds nobody up: it is read in pages as well, and comes to the end."""
        monkeypatch.setattr(memory, "PAGE_SCAN_LIMIT", 10)
        case = await opened()
        for number in range(1, 101):
            await case.publish("a b", type="rare" if number % 40 == 0 else "t")
        for channels in (("a",), ("a", "b"), ("*",)):
            pages = await case.since(case.place(0), *channels, types=["rare"])
            assert (pages.positions, pages.gaps) == ([40, 80], [])
            assert 9 <= pages.count <= 11

    @pytest.mark.parametrize("channels", [("a", "b"), ("a", "none"), ("*",), ("a", "b*")])
    async def test_a_page_looks_at_exactly_so_many(
        self, opened: OpenCase, monkeypatch: pytest.MonkeyPatch, channels: tuple[str, ...]
    ) -> None:
        """The next page begins behind the last one looked at."""
        monkeypatch.setattr(memory, "PAGE_SCAN_LIMIT", 10)
        case = await opened()
        for _ in range(30):
            await case.publish()
        page = await case.page(Selector.parse(*channels), after=0)
        assert ([one.position for one in page.publications], page.upto) == (list(range(1, 11)), 10)
        assert (await case.read(Selector.parse(*channels), StartPoint(0))) == Pages(list(range(1, 31)))

    async def test_a_pattern_pauses_among_what_is_not_its_own(
        self, opened: OpenCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "PAGE_SCAN_LIMIT", 10)
        case = await opened(history_size=100, channel=(ChannelRule(match="short", history_size=2),))
        for number in range(60):
            await case.publish("short" if number % 3 else "noise")
        await case.publish("rare")
        pages = await case.since(case.place(0), "ra*")
        assert (pages.positions, pages.gaps) == ([61], [])
        assert pages.count > 1

    async def test_last_is_capped_to_the_newest(
        self, opened: OpenCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "MAX_LAST", 3)
        case = await opened()
        for name in ("c5", "c1", "c4", "c2", "c3", "c1"):
            await case.publish(name)
        start = await case.find("last", "*")
        assert [publication.position for publication in start.preloaded] == [4, 5, 6]
        assert start.after == 6
        assert [publication.position for publication in (await case.find("last", "c5", "c4")).preloaded] == [
            1,
            3,
        ]

    async def test_so_many_tokens_are_remembered(
        self, opened: OpenCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The oldest are forgotten first, and publish again."""
        monkeypatch.setattr(idempotency, "MAX_KEYS", 10)
        case = await opened()
        for number in (*range(30), *range(20, 30)):
            await case.backend.publish([draft()], IdempotencyKey((str(number),), b""))
        assert case.backend.position == 30
        for number in (19, 0):
            await case.backend.publish([draft()], IdempotencyKey((str(number),), b""))
        assert case.backend.position == 32

    async def test_a_token_that_is_used_again_pushes_out_no_other(
        self, opened: OpenCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(idempotency, "MAX_KEYS", 2)
        case = await opened()
        for key in ("one", "two", "one", "two", "one"):
            await case.backend.publish([draft()], IdempotencyKey((key,), b""))
        assert case.backend.position == 2

    async def test_tidying_lets_go_of_what_is_too_old(self, opened: OpenCase) -> None:
        """Though nobody publishes or reads: the memory is given back."""
        case = await opened(history_age=10.0, idempotency_window=5.0)
        backend = case.backend
        assert isinstance(backend, MemoryBackend)
        await backend.publish([draft("a b"), draft("b", id="mine")], IdempotencyKey(("k",), b""))
        case.clock.now += 5.0
        assert backend.evict_expired()
        assert (inside(backend, RememberedAnswer), backend.usage().events) == ([], 2)
        case.clock.now += 5.0
        assert not backend.evict_expired()
        assert backend.usage().events == 0
        assert (await case.find("mine", "*")).reset_reason == ResetReason.UNKNOWN

    async def test_tokens_out_of_their_window_are_let_go(self, opened: OpenCase) -> None:
        case = await opened(idempotency_window=5.0)
        for number in range(30):
            await case.backend.publish([draft()], IdempotencyKey((str(number),), b""))
            case.clock.now += 1.0
        assert len(inside(case.backend, RememberedAnswer)) <= 6

    async def test_a_clock_that_goes_back_keeps_tokens_in_order(self, opened: OpenCase) -> None:
        case = await opened(idempotency_window=10.0)
        await case.backend.publish([draft()], IdempotencyKey(("first",), b""))
        case.clock.now -= 1000.0
        await case.backend.publish([draft()], IdempotencyKey(("second",), b""))
        case.clock.now += 1009.0
        await case.backend.publish([draft()], IdempotencyKey(("first",), b""))
        await case.backend.publish([draft()], IdempotencyKey(("second",), b""))
        assert case.backend.position == 2
        case.clock.now += 2.0
        await case.backend.publish([draft()], IdempotencyKey(("first",), b""))
        assert case.backend.position == 3

    async def test_a_channel_that_was_forgotten_says_so(self, opened: OpenCase) -> None:
        case = await opened(history_channels=2)
        for name in ("a", "b", "c"):
            await case.publish(name)
        assert sorted(channels_of(case.backend.channels())) == ["b", "c"]
        for channels in (("a",), ("a*",), ("none",)):
            assert (await case.since(case.place(0), *channels)).gaps != []
            assert (await case.since(case.place(1), *channels)).gaps == []
        assert (await case.since(case.place(0), "b")) == Pages([2])
        assert (await case.since("earliest", "a", "*")).gaps == []


def test_each_memory_is_a_life_of_its_own() -> None:
    config = Config()
    epochs = {open_memory(config, ChannelPolicies(config), nobody).epoch for _ in range(10)}
    assert len(epochs) == 10


async def test_what_a_configuration_describes_is_opened() -> None:
    config = Config(
        history_size=3,
        history_channels=2,
        history_total=1 << 20,
        idempotency_window=60.0,
        channel=(ChannelRule(match="one", history_size=1),),
    )
    backend = open_memory(config, ChannelPolicies(config), nobody)
    for _ in range(5):
        await backend.publish([draft("one a")])
    assert [backend.channel_usage(name).events for name in ("one", "a")] == [1, 3]
    await backend.publish([draft("b")])
    assert len(channels_of(backend.channels())) == 2
    (answer,) = {(await backend.publish([draft()], IdempotencyKey(("k",), b""))).id for _ in range(2)}
    assert answer == f"{backend.epoch}-7"


def at_once(case: Case, rows: Sequence[Row]) -> None:
    """Publish a batch without an event loop: in memory nothing is waited for."""
    drafts = [draft(channels, data, type=kind) for channels, data, kind in rows]
    publishing = case.backend.publish(drafts)
    with pytest.raises(StopIteration):
        publishing.send(None)


def case_of(limits: Callable[[str], HistoryLimits], *, max_channels: int = 100) -> tuple[Case, History]:
    case = Case(ChannelPolicies(Config()))
    history = History(limits, total=1 << 30, max_channels=max_channels)
    case.backend = MemoryBackend(history, case.deliver, window=1.0, clock=case.clock)
    return case, history


ROWS = st.tuples(
    st.sampled_from(["a", "b", "c", "a b", "b c", "c b a"]),
    st.integers(0, 200).map("x".__mul__),
    st.sampled_from(["message", "t"]),
)
BATCHES = st.lists(st.lists(ROWS, min_size=1, max_size=6), max_size=12)
INTERESTS = st.tuples(
    st.sets(st.sampled_from(["a", "b", "c", "none", "*", "a*"]), min_size=1),
    st.sampled_from([(), ("t",), ("none",)]),
)


def logs_of(history: History, selector: Selector) -> list[ChannelLog]:
    """Return the logs of an interest's channels that hold something."""
    return [log for log in history.channel_index.logs.values() if log.count and selector.matches(log.channel)]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(BATCHES, st.integers(0, 6), INTERESTS, st.integers(0, 40), st.integers(0, 500), st.integers(1, 8))
def test_pages_of_any_size_are_the_same_replay(
    batches: list[list[Row]],
    size: int,
    asked: tuple[set[str], tuple[str, ...]],
    after: int,
    limit: int,
    stride: int,
) -> None:
    """However a replay is cut into pages, it is the events after the cursor or after one gap, each once."""
    limits = HistoryLimits(size, 1 << 20, 3600.0)
    case, history = case_of(lambda channel: limits)
    for batch in batches:
        at_once(case, batch)
    selector, start = Selector.parse(*asked[0], types=asked[1]), StartPoint(min(after, case.backend.position))
    whole = ready(case.read(selector, start, limit=ALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "PAGE_SCAN_LIMIT", stride)
        pages = ready(case.read(selector, start, limit=limit))
    assert (pages.positions, pages.gaps) == (whole.positions, whole.gaps)
    behind = max([start.after, *(position for position, _ in whole.gaps)])
    held = {one.position for log in logs_of(history, selector) for one in log.after(behind)}
    assert whole.positions == [
        one.position
        for one in case.published
        if one.position in held and selector.accepts_type(one.event.type)
    ]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(BATCHES, st.integers(0, 8), st.integers(0, 500) | st.just(ALL))
def test_the_short_way_through_one_log_is_the_general_way(
    batches: list[list[Row]], size: int, limit: int
) -> None:
    limits = HistoryLimits(size, 1 << 20, 3600.0)
    case, history = case_of(lambda channel: limits)
    for batch in batches:
        at_once(case, batch)
    backend = case.backend
    assert isinstance(backend, MemoryBackend)
    for selector in (Selector.parse("a"), Selector.parse("b"), Selector.parse("c")):
        if history.channel_index.only_log(selector) is None:
            continue
        both = Selector.parse(*selector.names, "never.published")
        assert history.channel_index.only_log(both) is None
        for after in range(run_to_completion(history.watermarks.newest_loss(selector)), backend.position + 1):
            short = run_to_completion(backend.replay(selector, after=after, evictions_seen=0, limit=limit))
            general = run_to_completion(backend.replay(both, after=after, evictions_seen=0, limit=limit))
            assert list(short.publications) == list(general.publications)
            assert (short.upto, short.gap) == (general.upto, general.gap)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(BATCHES, st.integers(0, 6), INTERESTS, st.sampled_from([100, 2, 1]))
def test_a_loss_is_the_same_whoever_tells_of_it(
    batches: list[list[Row]], size: int, asked: tuple[set[str], tuple[str, ...]], max_channels: int
) -> None:
    """From each position: by the start, by the first page, and as what makes a cursor not replayable."""
    limits = HistoryLimits(size, 1 << 20, 3600.0)
    case, _ = case_of(lambda channel: limits, max_channels=max_channels)
    for batch in batches:
        at_once(case, batch)
    selector = Selector.parse(*asked[0], types=asked[1])
    for after in range(case.backend.position + 1):
        start = ready(case.start(EventId(case.backend.epoch, after), selector))
        pages = ready(case.read(selector, start))
        assert pages == ready(case.read(selector, StartPoint(after)))
        assert (start.reset_reason is None) == (pages.gaps == [])
        replayable = case.backend.replayable(selector, after=after)
        assert replayable == (start.reset_reason is None) or (selector.patterns and not replayable)


ON_THE_WAY = {
    "a": HistoryLimits(3, 1 << 20, 3600.0),
    "b": HistoryLimits(100, 1 << 20, 10.0),
    "c": HistoryLimits(2, 1 << 20, 30.0),
}
"""Limits under which a channel may lose old events after another one has lost newer ones."""


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    BATCHES,
    BATCHES,
    st.sampled_from(["earliest", "25s", "8s"]),
    INTERESTS,
    st.lists(st.sampled_from([0.0, 1.0, 6.0, 12.0]), min_size=24, max_size=24),
    st.sampled_from([0, 100, ALL]),
    st.sampled_from([100, 100, 2, 1]),
)
def test_who_asks_for_what_is_held_is_told_of_what_it_lost_since(
    before: list[list[Row]],
    meanwhile: list[list[Row]],
    cursor: str,
    asked: tuple[set[str], tuple[str, ...]],
    passing: list[float],
    limit: int,
    max_channels: int,
) -> None:
    """A gap if something went that was held when it came, or came later, and only then; else all of it.

    Where channels were forgotten there may be more gaps than losses, and never less.
    """
    case, history = case_of(ON_THE_WAY.__getitem__, max_channels=max_channels)
    selector, times = Selector.parse(*asked[0], types=asked[1]), iter(passing)

    def holding() -> set[tuple[str, int]]:
        return {(log.channel, one.position) for log in logs_of(history, selector) for one in log.after(0)}

    for batch in before:
        case.clock.now += next(times)
        at_once(case, batch)
    start = ready(case.start(parse_since(cursor), selector))
    due, newest = holding(), case.backend.position
    for batch in meanwhile:
        case.clock.now += next(times)
        at_once(case, batch)
    due |= {
        (channel, one.position)
        for one in case.published[newest:]
        for channel in one.channels
        if selector.matches(channel)
    }
    due = {(channel, position) for channel, position in due if position > start.after}
    case.backend.evict_expired()
    gone = due - holding()
    got = ready(case.read(selector, start, limit=limit))
    assert len(got.gaps) == bool(gone) or (len(got.gaps) == 1 and history.watermarks.forgotten)
    behind = max((position for position, _ in got.gaps), default=0)
    assert behind >= max((position for _, position in gone), default=0)
    wanted = {one.position for one in case.published if selector.accepts_type(one.event.type)}
    expected = {position for _, position in due}
    if selector.patterns:
        # A pattern is compared with all channels of an event, whichever of them still holds it.
        held = {one.position for log in history.channel_index.logs.values() for one in log.after(start.after)}
        matching = {one.position for one in case.published if selector.first_match(one.channels) is not None}
        expected |= held & matching
    assert got.positions == sorted({position for position in expected if position > behind} & wanted)


AGE = 20.0
ASKED = [Selector.parse("a"), Selector.parse("a", "b"), Selector.parse("b", "c"), Selector.parse("*")]
PUBLISHES = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True),
        st.sampled_from([None, "one", "two"]),
        st.sampled_from([0.0, 0.0, 1.0, 7.0]),
    ),
    max_size=25,
)
"""Channels, the id that the publisher chooses, and the time that passes before."""


@settings(derandomize=True, deadline=None, max_examples=150)
@given(PUBLISHES, st.tuples(*[st.sampled_from([1, 2, 100])] * 3))
async def test_no_id_loses_an_event_whoever_uses_it_again(
    publishes: list[tuple[list[str], str | None, float]], sizes: tuple[int, int, int]
) -> None:
    """A subscriber cut at any event of the last `history_age` is given all since, or told of a loss."""
    sized = dict(zip("abc", sizes, strict=True))
    seen: list[Publication] = []
    clock = Clock()

    def deliver(publications: Sequence[Publication]) -> int:
        seen.extend(publications)
        return 0

    history = History(lambda name: HistoryLimits(sized[name], ALL, AGE), total=ALL, max_channels=100)
    backend = MemoryBackend(history, deliver, window=10.0, clock=clock)
    for channels, name, passing in publishes:
        clock.now += passing
        await backend.publish([draft(" ".join(channels), id=name)])
        for selector in ASKED:
            wanted = [one for one in seen if selector.first_match(one.channels)]
            for last in wanted:
                if seen[-1].time - last.time < AGE:
                    start = run_to_completion(backend.find(parse_id(last.id), selector))
                    skipped = [one for one in wanted if last.position < one.position <= start.after]
                    assert start.reset_reason or not skipped
