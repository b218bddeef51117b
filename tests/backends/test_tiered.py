"""Two tiers: what memory has lost is asked of the store, in order, whole, and once for all."""

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_broadcast.backends import tiered as module
from sse_broadcast.backends.base import (
    ChannelUsage,
    Far,
    Gap,
    HistoryUsage,
    IdempotencyKey,
    ReplayPage,
    ResetReason,
    StartPoint,
)
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.backends.memory.history import History
from sse_broadcast.backends.store import TakePublications
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.cursor import Cursor, EventId, Keyword
from sse_broadcast.errors import BackendUnavailableError
from sse_broadcast.publication import Draft, Publication, Receipt, place
from sse_broadcast.work_queue import run_to_completion
from tests.backends.contract import answer_of, draft

EPOCH = "0123abcd"

A = Selector.parse("a")


class FakeStore:
    """A store that keeps everything in a list, and has lost what is up to `lost`; it waits at a gate."""

    def __init__(self, held: int = 0, *, page: int = 3) -> None:
        self.take: TakePublications = lambda publications, publisher: 0
        self.on_remove: Callable[[int], object] = bool
        self.on_clear: Callable[[str], object] = bool
        self.epoch = EPOCH
        self.outage: str | None = None
        self.untidy = False
        self.evictions = 1
        self.lost = 0
        self.asked: list[tuple[str, int]] = []
        self.most_at_once = self.at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0
        self._page = page
        self.events: list[Publication] = []
        for _ in range(held):
            self.add("a")

    @property
    def position(self) -> int:
        return len(self.events)

    def add(self, channels: str) -> Publication:
        one = draft(channels)
        position = len(self.events) + 1
        self.events.append(
            place(one.channels, one.event, epoch=EPOCH, position=position, time=float(position))
        )
        return self.events[-1]

    def count_after(self, position: int) -> int:
        return self.position - position

    async def start(self) -> None:
        """Be open already."""

    async def aclose(self) -> None:
        """Have nothing to close."""

    async def publish(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None, publisher: str
    ) -> Receipt:
        added = [self.add(" ".join(each.channels)) for each in drafts]
        clients = self.take(added, publisher)
        return Receipt(clients, added[-1].channels, added[-1].id, len(added))

    def locate(self, id: EventId) -> int | StartPoint:
        return id.position

    async def resume(self, selector: Selector, position: int) -> StartPoint:
        await self._ask("resume", position)
        if position < self.lost:
            return StartPoint(self.lost, reset_reason=ResetReason.EVICTED, channels=selector.channels)
        return StartPoint(position)

    async def find(self, cursor: Cursor, selector: Selector) -> StartPoint:
        await self._ask("find", 0)
        return StartPoint(self.lost, evictions_seen=self.evictions)

    async def page(self, selector: Selector, *, after: int, evictions_seen: int, limit: int) -> ReplayPage:
        upto = self.position
        await self._ask("page", after)
        if after < self.lost and evictions_seen < self.evictions:
            return ReplayPage((), self.lost, Gap(selector.channels, self.lost), evictions_seen=self.evictions)
        some = self.events[max(after, self.lost) : min(after + self._page, upto)]
        found = [each for each in some if selector.first_match(each.channels) is not None]
        return ReplayPage(found, some[-1].position if some else upto, evictions_seen=self.evictions)

    async def _ask(self, what: str, position: int) -> None:
        self.asked.append((what, position))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if self.failures:
                self.failures -= 1
                raise BackendUnavailableError("away")
        finally:
            self.at_once -= 1

    def replayable(self, selector: Selector, *, after: int) -> bool:
        return after >= self.lost

    def oldest(self, selector: Selector, *, after: int) -> float | None:
        return 1.0

    def reload_limits(self) -> None:
        """Have none."""

    def evict_expired(self) -> bool:
        return False

    def channel_usage(self, channel: str) -> ChannelUsage:
        return ChannelUsage(len(self.events), None)

    def channels(self) -> Iterator[Sequence[str]]:
        yield ["a"]

    def usage(self) -> HistoryUsage:
        return HistoryUsage(1, len(self.events), 0)

    async def remove(self, position: int) -> bool:
        self.on_remove(position)
        return True

    async def clear(self, channel: str) -> int:
        self.on_clear(channel)
        return 0


@dataclass
class Scene:
    """A backend of two tiers: memory holds so many events of each channel."""

    store: FakeStore
    size: int = 1000

    def __post_init__(self) -> None:
        limits = HistoryLimits(self.size, 1 << 30, 1e9)
        history = History(lambda _: limits, total=1 << 30, max_channels=100)
        self.announced: list[Publication] = []
        memory = MemoryBackend(history, self._deliver, window=1.0, clock=lambda: 1000.0)
        self.backend = TieredBackend(self.store, memory)

    def _deliver(self, publications: Sequence[Publication]) -> int:
        self.announced += publications
        return 7

    async def page(self, after: int, *, seen: int = 0, selector: Selector = A) -> ReplayPage:
        return await answer_of(self.backend.replay(selector, after=after, evictions_seen=seen, limit=1 << 20))


async def opened(held: int = 0, *, size: int = 1000, page: int = 3) -> Scene:
    """Open a store that holds so much."""
    scene = Scene(FakeStore(held, page=page), size)
    await scene.backend.start()
    return scene


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_what_the_store_has_is_held_and_announced_in_one_step() -> None:
    """The answer says how many wanted it."""
    scene = await opened(2)
    assert scene.backend.position == 2
    receipt = await scene.backend.publish([draft("a"), draft("b")])
    assert (receipt.clients, scene.backend.position) == (7, 4)
    assert [each.position for each in scene.announced] == [3, 4]


async def test_memory_answers_what_it_has() -> None:
    """The store is not asked; and of what came before this process it is."""
    scene = await opened(2)
    for _ in range(3):
        await scene.backend.publish([draft("a")])
    assert [each.position for each in (await scene.page(2)).publications] == [3, 4, 5]
    assert await answer_of(scene.backend.find(EventId(EPOCH, 2), A)) == StartPoint(2)
    assert scene.store.asked == []
    assert [each.position for each in (await scene.page(0)).publications] == [1, 2, 3]
    assert await answer_of(scene.backend.find(EventId(EPOCH, 1), A)) == StartPoint(1)
    assert scene.store.asked == [("page", 0), ("resume", 1)]


async def test_words_and_ages_are_the_stores() -> None:
    """Memory does not know what was before it."""
    scene = await opened(2)
    assert isinstance(run_to_completion(scene.backend.find(Keyword.EARLIEST, A)), Far)


async def test_what_memory_evicts_is_no_loss() -> None:
    """Only the store's word is one."""
    scene = await opened(size=2)
    for _ in range(6):
        await scene.backend.publish([draft("a")])
    page = await scene.page(0)
    assert ([each.position for each in page.publications], page.gap) == ([1, 2, 3], None)
    assert scene.backend.replayable(A, after=0)
    scene.store.lost = 2
    assert (await scene.page(0)).gap == Gap(("a",), 2)
    assert not scene.backend.replayable(A, after=0)


async def test_equal_pages_are_fetched_once() -> None:
    """Subscribers that come back together share them; another selector has its own."""
    scene = await opened(5)
    scene.store.gate.clear()
    other = Selector.parse("a", "b")
    asking = [asyncio.create_task(scene.page(0)) for _ in range(50)]
    asking.append(asyncio.create_task(scene.page(0, selector=other)))
    await until(lambda: len(scene.store.asked) == 2)
    scene.store.gate.set()
    pages = await asyncio.gather(*asking)
    assert all(page is pages[0] for page in pages[:50])
    assert scene.store.asked == [("page", 0)] * 2


async def test_few_pages_are_fetched_at_one_time() -> None:
    """However many subscribers are behind."""
    scene = await opened(50)
    scene.store.gate.clear()
    asking = [asyncio.create_task(scene.page(after)) for after in range(20)]
    await until(lambda: scene.store.at_once == module.FETCHES)
    for _ in range(5):
        await asyncio.sleep(0)
    scene.store.gate.set()
    await asyncio.gather(*asking)
    assert scene.store.most_at_once == module.FETCHES


async def test_a_page_that_nobody_waits_for_is_given_up() -> None:
    """Those who left had it to themselves; who comes then has it fetched anew."""
    scene = await opened(5)
    scene.store.gate.clear()
    asking = [asyncio.create_task(scene.page(0)) for _ in range(2)]
    await until(lambda: scene.store.at_once == 1)
    asking[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert scene.store.at_once == 1
    asking[1].cancel()
    await until(lambda: scene.store.at_once == 0)
    scene.store.gate.set()
    assert (await scene.page(0)).upto == 3
    assert len(scene.store.asked) == 2


async def test_a_page_is_tried_again_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its subscriber waits; who only comes now is refused at once."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    scene = await opened(5)
    scene.store.failures = 3
    assert (await scene.page(0)).upto == 3
    assert len(scene.store.asked) == 4
    scene.store.failures = 1
    with pytest.raises(BackendUnavailableError):
        await answer_of(scene.backend.find(Keyword.EARLIEST, A))


async def test_closing_ends_what_is_on_its_way() -> None:
    """No task is left."""
    scene = await opened(5)
    scene.store.gate.clear()
    asking = asyncio.create_task(scene.page(0))
    await until(lambda: scene.store.at_once == 1)
    await scene.backend.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_is_removed_goes_from_memory_too() -> None:
    """When the store says so, in its order."""
    scene = await opened()
    for _ in range(3):
        await scene.backend.publish([draft("a")])
    await scene.backend.remove(2)
    assert [each.position for each in (await scene.page(0)).publications] == [1, 3]
    await scene.backend.clear("a")
    assert (await scene.page(0)).publications == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(["a", "b", "a b"])),
        st.tuples(st.just("read"), st.just("")),
        st.tuples(st.just("lose"), st.just("")),
        st.tuples(st.just("hold"), st.just("")),
        st.tuples(st.just("go on"), st.just("")),
    ),
    max_size=40,
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    held=st.integers(0, 9),
    size=st.sampled_from([0, 1, 2, 5, 100]),
    page=st.integers(1, 4),
    begin=st.integers(0, 9),
    channels=st.sampled_from([("a",), ("a", "b"), ("*",), ("b",)]),
    steps=STEPS,
)
def test_a_reader_passes_from_store_to_memory_without_a_seam(
    held: int, size: int, page: int, begin: int, channels: tuple[str, ...], steps: list[tuple[str, str]]
) -> None:
    """Whatever is published, lost or slow on its way: each event once, in order, or told as a gap."""
    asyncio.run(pass_over(held, size, page, min(begin, held), Selector.parse(*channels), steps))


async def pass_over(  # noqa: C901 - a script
    held: int, size: int, page: int, begin: int, selector: Selector, steps: list[tuple[str, str]]
) -> None:
    scene = await opened(held, size=size, page=page)
    store, backend = scene.store, scene.backend
    got: list[int] = []
    told = cursor = begin
    seen = 0
    asking: asyncio.Task[ReplayPage] | None = None

    def taken(found: ReplayPage) -> None:
        nonlocal cursor, seen, told
        assert cursor < found.upto <= backend.position
        got.extend(each.position for each in found.publications)
        if found.gap is not None:
            told = found.gap.position
        cursor, seen = found.upto, found.evictions_seen

    for what, names in [*steps, ("go on", "")]:
        match what:
            case "publish":
                await backend.publish([draft(names)])
            case "lose":
                store.lost, store.evictions = (
                    max(store.lost, cursor, store.position // 2),
                    store.evictions + 1,
                )
            case "hold":
                store.gate.clear()
            case "go on":
                store.gate.set()
            case "read" if asking is None and cursor < backend.position:
                asking = asyncio.create_task(scene.page(cursor, seen=seen, selector=selector))
        for _ in range(6):
            await asyncio.sleep(0)
        if asking is not None and asking.done():
            taken(asking.result())
            asking = None
    if asking is not None:
        taken(await asking)
    while cursor < backend.position:
        taken(await scene.page(cursor, seen=seen, selector=selector))
    assert got == sorted(set(got))
    wanted = [each.position for each in store.events if selector.first_match(each.channels)]
    missing = [position for position in wanted if position > begin and position not in got]
    assert all(position <= told for position in missing), (missing, told)
    assert all(position > begin for position in got)
