"""Random joins: no silent loss for subscribers that join, leave and resume while publishers publish.

Each subscriber's events are compared with the log filtered by its selector, from its cursor on, or from a
correct `$reset` on. Servers that each do one thing in a wrong order show that the comparison finds errors.
"""

import asyncio
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sse_broadcast import broadcaster
from sse_broadcast.backends.base import Backend, Gap, ReplayPage, ResetReason, StartPoint
from sse_broadcast.backends.memory import backend as memory
from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.watermarks import Watermarks
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.channels import Selector
from sse_broadcast.config.schema import Config, EventLoop
from sse_broadcast.encoding import Encoding
from sse_broadcast.fanout import dispatcher, system_events
from sse_broadcast.fanout import replay as replay_module
from sse_broadcast.fanout.dispatcher import Dispatcher
from sse_broadcast.fanout.hub import Hub
from sse_broadcast.fanout.outbox import Outbox, OutboxGroup, Sink
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.subscriber import CloseReason, Heartbeat, Subscriber
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Draft, Publication, Receipt, place
from sse_broadcast.server.process.loop import new_loop
from sse_broadcast.server.runner import Server
from sse_broadcast.work_queue import SlicedWork, run_to_completion
from tests.support.readers import END, Cut, Judge, Kind, Ledger, Pause, Plan, Reader, Want, WrongError
from tests.support.sockets import RawClient

TYPES = ("alert", "message", "price")
CHANNELS = (*(f"room-{number}" for number in range(12)), "orders.eu", "orders.us", "prices.x", "quiet")
PATTERNS = ("orders.*", "*.us", "room-1*", "*", "qui*")

READERS = 400
"""Half as many are enough to find each of the wrong orders below."""

PUBLISHERS = 8
ARRIVING = 8
"""Subscribers that may be joining during a publish."""

PATIENCE = 50.0
"""Seconds after which subscribers that have not ended have failed."""

ROUND = 0.25
"""Seconds between publishes of the final events, until all subscribers have left."""

LARGE: dict[str, Any] = {"history_size": 1_000_000, "history_bytes": 1 << 30, "history_total": 1 << 30}
SMALL: dict[str, Any] = {"history_size": 25}


def an_interest(rng: random.Random) -> Want:
    channels = rng.sample(CHANNELS, rng.choice((1, 1, 2, 3)))
    if rng.random() < 0.25:
        channels[0] = rng.choice(PATTERNS)
    types = rng.sample(TYPES, rng.choice((1, 2))) if rng.random() < 0.3 else []
    return Want(tuple(channels), tuple(sorted(types)))


def a_cursor(rng: random.Random) -> Callable[[Ledger], tuple[str, str]]:
    """Return where a subscriber begins: with nothing, a keyword, or an id in its header or URL."""
    kind = rng.choice(("none", "none", "none", "earliest", "last", "1h", "own", "own", "named", "odd"))
    in_the_url = rng.random() < 0.5
    share = rng.random()

    def choose(ledger: Ledger) -> tuple[str, str]:
        match kind:
            case "none":
                return "", ""
            case "own":
                id = f"{ledger.epoch}-{int(share * (ledger.position + 1))}"
            case "named" if ledger.names:
                id = ledger.names[int(share * len(ledger.names))]
            case "odd" | "named":
                ids = ("00000000-1", f"{ledger.epoch}-999999999999", "never-published")
                id = ids[int(share * len(ids))]
            case _:
                return "", kind
        return ("", id) if in_the_url else (id, "")

    return choose


def a_cut(rng: random.Random, publications: int) -> Cut:
    after = rng.randrange(rng.choice((300, 3_000, 30_000)))
    return Cut(after, reset=rng.random() < 0.5, away=rng.randrange(rng.choice((1, 20, publications // 4))))


def plans(rng: random.Random, subscribers: int, publications: int) -> list[Plan]:
    selectors = [an_interest(rng) for _ in range(max(subscribers // 20, 8))]
    found = []
    for number in range(subscribers):
        want = rng.choice(selectors)
        slow = rng.random() < 0.15
        found.append(
            Plan(
                f"{number}",
                want,
                joins=rng.randrange(publications),
                format=rng.choice(("text", "text", "json", "ndjson")),
                version=rng.choice(("1.1", "1.1", "1.1", "1.0")),
                cuts=tuple(a_cut(rng, publications) for _ in range(rng.choice((0, 1, 2, 4)))),
                pause=Pause(rng.randrange(6000), publications // 2) if slow else None,
                receive_buffer=2048 if slow else 0,
                last=want.types[-1] if want.types else TYPES[-1],
                heartbeat=rng.choice(("", "", "", "event")),
                choose=a_cursor(rng),
            )
        )
    return found


class Publisher:
    """A publisher to random channels, of one event or several, in any way there is."""

    def __init__(self, number: int, rng: random.Random, port: int, ledger: Ledger) -> None:
        self.sent: list[str] = []
        self.answers: list[tuple[str, str]] = []
        self._number = number
        self._rng = rng
        self._port = port
        self._ledger = ledger

    async def run(self, turns: Iterator[int]) -> None:
        """Publish a number of times, each after the response of the last."""
        client = await RawClient.open(self._port)
        try:
            for _ in turns:
                await self._publish(client)
                # Otherwise some loops let publishers finish before half of the subscribers have come.
                while len(self._ledger.arriving) > ARRIVING:
                    await asyncio.sleep(0)
        finally:
            client.close()

    async def _publish(self, client: RawClient) -> None:
        way = self._rng.choice(("text", "text", "object", "array", "lines"))
        channels = ",".join(self._rng.sample(CHANNELS[:-1], self._rng.choice((1, 1, 1, 2, 3))))
        path, headers, body = f"/send/{channels}", "", b""
        if way == "text":
            event = self._event()
            query = "&".join(f"{name}={event[name]}" for name in ("event", "id") if name in event)
            path, body = f"{path}?{query}", event["message"].encode()
        elif way == "object":
            headers, body = "Content-Type: application/json\r\n", json.dumps(self._event()).encode()
        else:
            events = [self._event() for _ in range(self._rng.randrange(1, 5))]
            lines = way == "lines"
            headers = f"Content-Type: application/{'x-ndjson' if lines else 'json'}\r\n"
            body = "\n".join(map(json.dumps, events)).encode() if lines else json.dumps(events).encode()
        status, answer = await client.ask("POST", path, body=body, headers=headers)
        assert status == 200, answer
        self.answers.append((json.loads(answer)["id"], self.sent[-1]))

    def _event(self) -> dict[str, str]:
        name = f"{self._number}-{len(self.sent)}"
        size = self._rng.choice((0, 10, 40, 40, 40, 1500))
        self.sent.append(f"{name} \u00e9\n{'x' * size}")
        event = {"message": self.sent[-1]}
        if self._rng.random() < 0.4:
            event["event"] = self._rng.choice(TYPES)
        if self._rng.random() < 0.2:
            event["id"] = f"own.{name}"
        return event


async def final_events(port: int, ledger: Ledger, count: int) -> None:
    """Publish an event of each type to every channel. A subscriber that gets its own has come to its end."""
    client = await RawClient.open(port)
    for kind in TYPES:
        path = f"/send/{','.join(CHANNELS)}?event={kind}&id={END}{count}-{kind}"
        assert (await client.ask("POST", path, body=b"end"))[0] == 200
    client.close()


async def scenario(
    ledger: Ledger, *, seed: int, subscribers: int, publications: int, settings: dict[str, Any]
) -> list[Reader]:
    """Let subscribers join, leave and resume at random while publishers publish, up to the end."""
    rng = random.Random(seed)
    server = Server(Config(port=0, heartbeat=0.3, send_buffer=4096, shutdown_timeout=1, **settings))
    await server.start()
    try:
        ledger.epoch = server.broadcaster.cursor.partition("-")[0]
        everyone = [Reader(plan, ledger, server.port) for plan in plans(rng, subscribers, publications)]
        reading = [asyncio.create_task(subscriber.run()) for subscriber in everyone]
        publishers = [
            Publisher(count, random.Random(rng.random()), server.port, ledger) for count in range(PUBLISHERS)
        ]
        turns = iter(range(publications))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(publisher.run(turns) for publisher in publishers))
        ledger.end()
        await until_all_left(reading, server.port, ledger)
        require_answers_kept(publishers, ledger)
        return everyone
    finally:
        await server.stop()


async def until_all_left(reading: Sequence[asyncio.Task[None]], port: int, ledger: Ledger) -> None:
    """Publish the final events, again for later subscribers, until all have left or time is over."""
    rounds = itertools.count()
    deadline = asyncio.get_running_loop().time() + PATIENCE / 2
    pending = set(reading)
    while pending and asyncio.get_running_loop().time() < deadline:
        await final_events(port, ledger, next(rounds))
        left, pending = await asyncio.wait(pending, timeout=ROUND)
        for task in left:
            task.result()
    for task in pending:
        task.cancel()
    for outcome in await asyncio.gather(*reading, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def require_answers_kept(publishers: Sequence[Publisher], ledger: Ledger) -> None:
    """Assert that each publisher's events are in its order, at the positions of its responses."""
    for number, publisher in enumerate(publishers):
        data = [each.event.data for each in ledger.published if each.event.data.startswith(f"{number}-")]
        assert data == publisher.sent
        for id, sent in publisher.answers:
            place = ledger.place_of(id)
            assert place is not None
            assert ledger.published[place - 1].event.data == sent


def wrong(everyone: Sequence[Reader]) -> list[WrongError]:
    """Return the first error in what each subscriber got."""
    found = []
    for subscriber in everyone:
        try:
            Judge(subscriber).require_all()
        except WrongError as error:
            found.append(error)
    return found


def require_nothing_wrong(everyone: Sequence[Reader]) -> None:
    """Fail with the first few subscribers that got something wrong, and the errors."""
    found = wrong(everyone)
    if found:
        few = "\n".join(str(error) for error in found[:5])
        pytest.fail(f"{len(found)} of {len(everyone)} subscribers got something wrong:\n{few}", pytrace=False)


def resets(everyone: Sequence[Reader]) -> list[str]:
    """Return the reasons of all resets that subscribers got."""
    return [
        json.loads(note.event.data)["reason"]
        for subscriber in everyone
        for visit in subscriber.visits
        for note in visit.notes
        if note.event is not None and note.event.type == "$reset"
    ]


def run(loop: EventLoop, ledger: Ledger, **options: Any) -> list[Reader]:
    with asyncio.Runner(loop_factory=lambda: new_loop(loop)) as runner:
        return runner.run(scenario(ledger, **options))


LOOPS = pytest.mark.parametrize("loop", [EventLoop.ASYNCIO, EventLoop.UVLOOP])


@LOOPS
def test_every_subscriber_gets_the_log_from_its_cursor_on(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history has all events: none is missing, repeated or out of order, and there is no `$reset`."""
    ledger = Ledger()
    ledger.keep(monkeypatch)
    everyone = run(
        loop, ledger, seed=1, subscribers=READERS, publications=600, settings={**LARGE, "queue_size": 20}
    )
    require_nothing_wrong(everyone)
    assert set(resets(everyone)) <= {"epoch", "unknown"}
    assert sum(len(subscriber.visits) for subscriber in everyone) > READERS * 3 // 2


@LOOPS
def test_every_loss_is_reported_once_and_correctly(loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short history loses events of many subscribers, and each gets one `$reset` per loss in its place."""
    ledger = Ledger()
    ledger.keep(monkeypatch)
    small_pages(monkeypatch)
    everyone = run(
        loop, ledger, seed=2, subscribers=READERS, publications=800, settings={**SMALL, "queue_size": 20}
    )
    require_nothing_wrong(everyone)
    assert resets(everyone).count("evicted") > READERS // 10


def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a replay take many pages, and many turns of the loop."""
    monkeypatch.setattr(dispatcher, "WRITE_LIMIT", 1024)
    monkeypatch.setattr(memory, "PAGE_SCAN_LIMIT", 16)


# Servers with one error each.


class ReplayFirst(Replay):
    """A replay that ends where it began, and registers at whatever position is the newest then."""

    __slots__ = ("_goal",)

    def __init__(
        self, backend: Backend, selector: Selector, start: StartPoint, metrics: Metrics, **more: Any
    ) -> None:
        super().__init__(backend, selector, start, metrics, **more)
        self._goal = backend.position

    @property
    def done(self) -> bool:
        return not self._first and self.cursor >= self._goal

    def take(self, limit: int) -> Sequence[Publication]:
        return [each for each in super().take(limit) if each.position <= self._goal]


def registers_after_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcaster, "Replay", ReplayFirst)


def queues_what_the_replay_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    attach, follow = Dispatcher.attach, Outbox.join_group

    def attach_and_queue(
        self: Dispatcher, subscriber: Subscriber, group: OutboxGroup, sink: Sink, *, cursor: int
    ) -> Outbox:
        outbox = attach(self, subscriber, group, sink, cursor=cursor)
        if subscriber.catching_up is not None:
            group.queued[subscriber] = None
        return outbox

    def follow_behind_the_queue(self: Outbox) -> None:
        if len(self.subscriber):
            self.subscriber.go_live()
            self.scheduler.schedule_outbox(self)
        else:
            follow(self)

    monkeypatch.setattr(Dispatcher, "attach", attach_and_queue)
    monkeypatch.setattr(Outbox, "join_group", follow_behind_the_queue)


class OnePageEarly(Replay):
    """A replay that is done when one more page would do."""

    __slots__ = ()

    @property
    def done(self) -> bool:
        page = run_to_completion(
            self._backend.replay(
                self._selector, after=self.cursor, evictions_seen=self._evictions_seen, limit=1024
            )
        )
        assert isinstance(page, ReplayPage)
        return not self._first and page.upto == self._backend.position


def goes_live_one_page_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcaster, "Replay", OnePageEarly)


def placed(self: MemoryBackend, drafts: Sequence[Draft], now: float) -> list[Publication]:
    batch = []
    for draft in drafts:
        self.position += 1
        batch.append(place(draft.channels, draft.event, epoch=self.epoch, position=self.position, time=now))
    return batch


def announces_before_it_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(self: MemoryBackend, drafts: Sequence[Draft], now: float, publisher: str) -> Receipt:
        batch = placed(self, drafts, now)
        clients = self._deliver(batch)
        asyncio.get_running_loop().call_soon(self._history.extend, batch, publisher)
        return Receipt(clients, batch[-1].channels, batch[-1].id, len(batch))

    monkeypatch.setattr(MemoryBackend, "_append", append)


def announces_long_after_it_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(self: MemoryBackend, drafts: Sequence[Draft], now: float, publisher: str) -> Receipt:
        batch = placed(self, drafts, now)
        self._history.extend(batch, publisher)
        asyncio.get_running_loop().call_later(0.001, self._deliver, batch)
        return Receipt(0, batch[-1].channels, batch[-1].id, len(batch))

    monkeypatch.setattr(MemoryBackend, "_append", append)


def announces_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = Hub.deliver

    def deliver_backwards(self: Hub, publications: Sequence[Publication]) -> int:
        return deliver(self, publications[::-1])

    monkeypatch.setattr(Hub, "deliver", deliver_backwards)


def change_pages(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Sequence[Publication]], Sequence[Publication]]
) -> None:
    """Let a replay return other publications than it takes."""
    take = Replay.take
    monkeypatch.setattr(Replay, "take", lambda self, limit: change(take(self, limit)))


def change_opening(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Broadcaster, StartPoint], StartPoint]
) -> None:
    """Let the first frames of a stream be those of another start."""
    first_frames = Broadcaster.first_frames

    def open_elsewhere(
        self: Broadcaster, selector: Selector, encoding: Encoding, start: StartPoint, heartbeat: Heartbeat
    ) -> bytes:
        return first_frames(self, selector, encoding, change(self, start), heartbeat)

    monkeypatch.setattr(Broadcaster, "first_frames", open_elsewhere)


def reports_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    change_pages(monkeypatch, lambda page: [each for each in page if not each.event.reserved])
    change_opening(monkeypatch, lambda _, start: replace(start, reset_reason=None))


def reports_each_loss_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    change_pages(monkeypatch, lambda page: [each for each in page for _ in range(1 + each.event.reserved)])


def reports_each_loss_again_after_the_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Broadcaster.connect

    def connect_with_news(
        self: Broadcaster, sink: Sink, selector: Selector, start: StartPoint, *rest: Any, **more: Any
    ) -> Outbox:
        return connect(self, sink, selector, self._with_reset(selector, start), *rest, **more)

    monkeypatch.setattr(Broadcaster, "connect", connect_with_news)


def opens_before_it_reports_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    reports_each_loss_again_after_the_opening(monkeypatch)
    change_opening(monkeypatch, lambda _, start: replace(start, reset_reason=None))


def opens_at_the_newest_position(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest(here: Broadcaster, start: StartPoint) -> StartPoint:
        return replace(start, after=int(here.cursor.partition("-")[2]))

    change_opening(monkeypatch, newest)


def closes_at_the_newest_position(monkeypatch: pytest.MonkeyPatch) -> None:
    on_closed = Dispatcher.on_closed

    def close_there(self: Dispatcher, outbox: Outbox, reason: CloseReason) -> None:
        on_closed(self, outbox, reason)
        outbox.last_position_sent = self._backend.position

    monkeypatch.setattr(Dispatcher, "on_closed", close_there)


def resets_at_the_old_position(monkeypatch: pytest.MonkeyPatch) -> None:
    take, reset = Replay.take, system_events.reset_publication
    here = 0

    def take_noting_where(self: Replay, limit: int) -> Sequence[Publication]:
        nonlocal here
        here = self.cursor
        return take(self, limit)

    def reset_there(reason: ResetReason, channels: Sequence[str], **options: Any) -> Publication:
        return reset(reason, channels, **{**options, "position": here})

    monkeypatch.setattr(Replay, "take", take_noting_where)
    monkeypatch.setattr(replay_module, "reset_publication", reset_there)


def takes_the_loss_of_one_channel_for_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest_loss(
        self: Watermarks[ChannelLog], _: Selector, *, after: int = 0, **options: int
    ) -> SlicedWork[int]:
        yield from ()
        newest = max((log.watermark for log in self._channels.logs.values()), default=0)
        return newest if newest > after else 0

    monkeypatch.setattr(Watermarks, "newest_loss", newest_loss)


def loses_events_of_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    replay = MemoryBackend.replay

    def replay_up_to_the_newest(
        self: MemoryBackend, selector: Selector, **options: Any
    ) -> SlicedWork[ReplayPage]:
        page = yield from replay(self, selector, **options)
        if page.gap is None:
            return page
        return ReplayPage((), self.position, Gap(page.gap.channels, self.position))

    monkeypatch.setattr(MemoryBackend, "replay", replay_up_to_the_newest)


Break = Callable[[pytest.MonkeyPatch], None]

WRONG_ORDERS: list[tuple[Break, dict[str, Any], Kind]] = [
    (registers_after_the_replay, LARGE, Kind.GAP),
    (queues_what_the_replay_covers, LARGE, Kind.REPEAT),
    (goes_live_one_page_too_early, LARGE, Kind.GAP),
    (announces_before_it_appends, LARGE, Kind.GAP),
    (announces_long_after_it_appends, LARGE, Kind.REPEAT),
    (announces_in_another_order, LARGE, Kind.GAP),
    (reports_no_loss, SMALL, Kind.NO_RESET),
    (reports_each_loss_twice, SMALL, Kind.SECOND_RESET),
    (reports_each_loss_again_after_the_opening, SMALL, Kind.SECOND_RESET),
    (opens_before_it_reports_a_loss, SMALL, Kind.NO_RESET),
    (opens_at_the_newest_position, LARGE, Kind.BEGINNING),
    (closes_at_the_newest_position, {**LARGE, "queue_size": 2}, Kind.GAP),
    (resets_at_the_old_position, SMALL, Kind.UNTRUE_RESET),
    (takes_the_loss_of_one_channel_for_that_of_all, SMALL, Kind.UNTRUE_RESET),
    (loses_events_of_the_history, SMALL, Kind.GAP),
]


@pytest.mark.parametrize(
    ("break_it", "settings", "kind"), WRONG_ORDERS, ids=[case[0].__name__ for case in WRONG_ORDERS]
)
def test_each_wrong_order_of_a_server_is_found(
    break_it: Break, settings: dict[str, Any], kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wrong order that was thought of gives its own errors."""
    ledger = Ledger()
    ledger.keep(monkeypatch)
    small_pages(monkeypatch)
    monkeypatch.setattr(
        sys.modules[__name__], "ARRIVING", 1000
    )  # With more subscribers the error shows sooner.
    break_it(monkeypatch)
    everyone = run(EventLoop.ASYNCIO, ledger, seed=3, subscribers=200, publications=400, settings=settings)
    assert kind in {error.kind for error in wrong(everyone)}


def test_the_real_server_has_none_of_these_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same checks find nothing, at the same size."""
    for settings in (LARGE, SMALL):
        with monkeypatch.context() as patched:
            ledger = Ledger()
            ledger.keep(patched)
            small_pages(patched)
            everyone = run(
                EventLoop.ASYNCIO, ledger, seed=3, subscribers=200, publications=400, settings=settings
            )
        require_nothing_wrong(everyone)
