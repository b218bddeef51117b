"""Broadcaster: what a program or a handler holds to publish and to subscribe."""

import asyncio
import functools
import itertools
import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

from sse_broadcast import wire
from sse_broadcast.backends.base import HistoryUsage, IdempotencyKey, ResetReason, StartPoint
from sse_broadcast.backends.instrumented import InstrumentedBackend
from sse_broadcast.backends.memory.backend import open_memory
from sse_broadcast.channels import DEFAULT_CHANNEL, Selector, shared, validate_channels
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config, Overflow, config_or_default
from sse_broadcast.cursor import (
    LONGEST_OWN,
    Cursor,
    CustomId,
    format_id,
    parse_id,
    parse_since,
    validate_custom_id,
)
from sse_broadcast.encoding import TEXT, Encoding, opening_event, own_block
from sse_broadcast.errors import ClosedError, EventError, EventTooLargeError
from sse_broadcast.event import (
    DEFAULT_TYPE,
    LONGEST_RETRY,
    OF_EVENT_SOURCE,
    SHORTEST_RETRY,
    Event,
    jittered,
)
from sse_broadcast.fanout.backlog import BacklogStats
from sse_broadcast.fanout.dispatcher import Dispatcher
from sse_broadcast.fanout.group import SubscriberGroup
from sse_broadcast.fanout.hub import Hub
from sse_broadcast.fanout.outbox import Outbox, OutboxGroup, Sink
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.subscriber import AFTER_QUEUE, CloseReason, Heartbeat, Subscriber, SubscriberOptions
from sse_broadcast.fanout.system_events import reset_event, reset_publication
from sse_broadcast.metrics import Counts, Metrics, Share, SubscriberKind
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.reminder import Reminder
from sse_broadcast.stream import Stream, StreamConsumer
from sse_broadcast.work_queue import ITEMS_PER_SLICE, SlicedWork, WorkQueue, run_to_completion

logger = logging.getLogger("sse_broadcast.history")

HEAD = 512
"""Bytes that the fields of a frame take beside its data and its type, generously."""

ID_LINE = len("id: \n") + LONGEST_OWN
"""Bytes that the longest id of ours takes in a frame."""


TIDY = 1.0
"""Seconds between two looks for what is too old, while anything is held."""

LOOK_COST = 8
"""Names that may be compared while one is looked at more closely: put in its place, or looked for among
grants."""

DESCRIBED_CHANNELS = 16
"""Channels that are described in one piece of work."""

RELOAD = "reload"
"""The caller of what a reload has left to do."""

WAVE = 100
"""Readers that are let go at once: some ten milliseconds of work, here and where they go."""

PACE = 0.05
"""Seconds between two waves of them."""

RETURNS = 2000
"""Readers that come back in a second at most, as they are told to: half of what a core takes in."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel as it is now. `cursor` is the newest position: to begin there is to miss nothing."""

    channel: str
    subscribers: int
    cursor: str
    events: int
    oldest: str | None


class Broadcaster:
    """Publishes events to everyone who subscribes: HTTP readers and streams in this process.

    Belongs to one event loop; make no calls from other threads. Needs no starting, and holds
    no task: `close` ends its subscribers. Of the configuration it uses the bounds of queues,
    events and history, the overflow policy, the times of readers, and the rules for channels.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = config_or_default(config)
        self._metrics = Metrics(self._config.metrics_channels)
        self._policies = ChannelPolicies(self._config)
        self._hub = Hub(self._found, most=self._config.subscribed_channels)
        self._reminder = Reminder()
        memory = open_memory(self._config, self._policies, self._hub.deliver, self._report_share)
        self._backend = InstrumentedBackend(memory, self._metrics)
        self._dispatcher = Dispatcher(
            self._backend,
            heartbeat=self._config.heartbeat,
            write_timeout=self._config.write_timeout,
            metrics=self._metrics,
        )
        self._heartbeat = Heartbeat(self._config.heartbeat)
        self._terms: dict[tuple[Overflow, int, Heartbeat], SubscriberOptions] = {}
        self._newest = StartPoint(0)  # where whoever brings no cursor begins
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False
        self._narrowing = 0  # reloads whose bounds not every group goes by yet
        self.work = WorkQueue()
        """What takes long, in pieces, by turns among callers."""

    @property
    def client_count(self) -> int:
        """How many subscribers there are: HTTP readers and streams."""
        return len(self._hub)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @property
    def outage(self) -> str | None:
        """Why the backend cannot serve now, fit to be shown to everyone; None if it can."""
        return self._backend.outage

    @property
    def metrics(self) -> Metrics:
        """What counts, also for those who serve it."""
        return self._metrics

    @property
    def counts(self) -> Counts:
        """What was counted so far."""
        return self._metrics.counts()

    @property
    def cursor(self) -> str:
        """The id of the newest position: what `since` takes to begin right after it."""
        return format_id(self._backend.epoch, self._backend.position)

    async def broadcast(  # noqa: PLR0913 - a field of the event each
        self,
        message: str,
        *,
        event: str | None = None,
        id: str | None = None,
        key: str | None = None,
        retry: int | None = None,
        channels: Sequence[str] = (DEFAULT_CHANNEL,),
    ) -> Receipt:
        """Publish a message to everyone who listens to one of the channels, once each.

        `event` is its type, `id` one of your own, `key` what it replaces under the policy
        `conflate`, `retry` a reconnection time in milliseconds. Returns without waiting for any
        reader: the message is in the history, and has its place in the order. Raises
        `EventError` for what an event or a channel name may not say, `EventTooLargeError` beyond
        `max_event`, `ClosedError` after `close`; nothing is published then.
        """
        event_type = DEFAULT_TYPE if event is None else event
        return await self.publish(Event(message, event_type, id=id, key=key, retry=retry), channels)

    async def publish(self, event: Event, channels: Sequence[str] = (DEFAULT_CHANNEL,)) -> Receipt:
        """Publish an event. See `broadcast` for what it promises and raises."""
        return await self.publish_all([self.draft(event, channels)])

    def draft(self, event: Event, channels: Sequence[str] = (DEFAULT_CHANNEL,)) -> Draft:
        """Check an event and where it is to go, and publish nothing. Raises as `broadcast` does."""
        return self.prepare(event, shared(self.validate_channels(channels)))

    def prepare(self, event: Event, places: tuple[str, ...]) -> Draft:
        """Check an event as `draft` does, for channels that `validate_channels` returned."""
        if event.type is not DEFAULT_TYPE:
            _require_publishable_type(event)
        if event.retry is not None and not SHORTEST_RETRY <= event.retry <= LONGEST_RETRY:
            raise EventError(
                "retry", f"must be {SHORTEST_RETRY} to {LONGEST_RETRY} milliseconds, not {event.retry}"
            )
        if event.id is not None:
            validate_custom_id(event.id)
        # A character is four bytes at most, or a line end and the seven of the line it begins.
        if 7 * len(event.data) + 4 * len(event.type) + HEAD > self._config.max_event:
            self._require_size(event)
        return Draft(places, event)

    def validate_channels(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Check channels to publish to: each once, in their order. Raises `EventError`.

        Nothing is kept of them. A caller that was asked whether it may publish there passes them through
        `channels.shared`.
        """
        if len(channels) > self._config.max_channels and not isinstance(channels, str):
            self.require_few(len(channels))
        return validate_channels(channels)

    async def publish_all(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None = None, *, publisher: str = ""
    ) -> Receipt:
        """Publish what `draft` gave: all of it, in this order, or nothing.

        `publisher` names whose share of the history, and of the idempotency keys, it counts for.
        With a key seen before nothing is published, and the first receipt is given again. Raises
        `IdempotencyError` if something else was published with it, `ClosedError` after `close`.
        """
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        if not drafts:
            raise EventError("events", "must be one at least")
        before = self._backend.position
        receipt = await self._backend.publish(drafts, idempotency_key, publisher)
        count = self._backend.position - before
        self._metrics.published(count)
        if count and self._metrics.channels:
            for draft in drafts:
                self._metrics.published_in(draft.channels)
        if self._tidying is None:
            self._tidy()
        return receipt

    def subscribe(
        self,
        *channels: str,
        since: str | None = None,
        last_event_id: str | None = None,
        events: Sequence[str] | None = None,
    ) -> Stream:
        """Return a stream of the channels, or of `default`. See `Stream` for its life.

        A name with `*` in it is a pattern. `since` is an id, or `earliest`, `last` or an age such as
        `10m`, as over HTTP: the stream begins with what came after it. `last_event_id` is the id of the
        last event of an earlier stream, and wins over `since`; where it is not known any more, the stream
        begins with a `$reset`. `events` are the only types wanted. Raises `EventError` for a bad channel
        name, and `TypeError` for what is no text. Using the stream raises `ClosedError` after `close`,
        `FullError` beyond `subscribed_channels`, and `EventError` for a `since` that means nothing.
        """
        selector = self.selector(channels or (DEFAULT_CHANNEL,), types=events)
        for name, value in (("since", since), ("last_event_id", last_event_id)):
            if not (value is None or isinstance(value, str)):
                raise TypeError(f"{name}: must be text, not {type(value).__name__}")
        cursor = parse_id(last_event_id) if last_event_id else parse_since(since) if since else None

        def join(wakeup: StreamConsumer) -> tuple[Subscriber, OutboxGroup]:
            start = self._with_reset(selector, self.start_point(selector, cursor))
            subscriber, group = self._join(selector, TEXT, start, self._heartbeat, kind=SubscriberKind.STREAM)
            subscriber.consumer = wakeup
            return subscriber, group

        return Stream(join)

    def selector(self, channels: Sequence[str], *, types: Sequence[str] | None = None) -> Selector:
        """Check what a reader asks for, beginning with how much that is. Raises `EventError`."""
        self.require_few(len(channels))
        if types is not None and not isinstance(types, str) and len(types) > self._config.max_channels:
            raise EventError("events", f"{len(types)} are too many, {self._config.max_channels} may be named")
        selector = Selector.parse(*channels, types=types)
        most = self._config.max_patterns
        if len(selector.patterns) > most:
            raise EventError(
                "channels", f"{len(selector.patterns)} patterns are too many, {most} may be named"
            )
        return selector

    def room_for(self, selector: Selector) -> tuple[int, int]:
        """Return how many of a selector's channels and patterns are new, and the room that is left then.

        That is negative if there is none for all of them.
        """
        return self._hub.room_for(selector)

    def start_point(self, selector: Selector, cursor: Cursor | None, *, exempt: bool = False) -> StartPoint:
        """Return where a subscriber begins: at its cursor, or with what is published from now on.

        An `exempt` one is let in beyond `subscribed_channels`.
        Raises `FullError` as `connect` would, before a subscriber is told of anything, and `EventError` for a
        `since` that means nothing. A cursor is looked for in one piece: see `find_start_point`.
        """
        if cursor is not None:
            return run_to_completion(self._find_start(selector, cursor, exempt=exempt))
        if not exempt:
            self._hub.require_room(selector)
        if self._newest.after != self._backend.position:
            self._newest = StartPoint(self._backend.position)
        return self._newest

    async def find_start_point(
        self, selector: Selector, cursor: Cursor, *, caller: Hashable, exempt: bool = False
    ) -> StartPoint:
        """Return what `start_point` returns, in pieces, by turns with other callers: patterns look at much.

        Raises as `start_point` does, and `ClosedError` if the broadcaster was closed meanwhile.
        """
        start = await self.work.run(self._find_start(selector, cursor, exempt=exempt), caller=caller)
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        if not exempt:
            self._hub.require_room(selector)  # others may have taken it meanwhile
        return start

    def _find_start(self, selector: Selector, cursor: Cursor, *, exempt: bool) -> SlicedWork[StartPoint]:
        if not exempt:
            self._hub.require_room(selector)
        start = yield from self._backend.find(cursor, selector)
        if (
            isinstance(cursor, CustomId)
            and cursor.said_in_since
            and start.reset_reason is ResetReason.UNKNOWN
        ):
            raise _unknown_since(cursor.id)
        return start

    def heartbeat(self, *, seconds: float | None = None, as_event: bool = False) -> Heartbeat:
        """Return the heartbeat of a subscriber that asked for this; None is the server's own."""
        if seconds is None and not as_event:
            return self._heartbeat
        return Heartbeat(seconds or self._heartbeat.seconds, as_event=as_event)

    def first_frames(
        self, selector: Selector, encoding: Encoding, start: StartPoint, heartbeat: Heartbeat
    ) -> bytes:
        """Return the first bytes of a subscriber's stream, without the transfer coding.

        `$open` gives it a cursor. A `$reset` that is due comes before: whoever has the cursor was told.
        """
        format = encoding.format
        id = format_id(self._backend.epoch, start.cursor)
        _, retry = self._policies.for_subscriber(selector)
        frames = format.preamble(jittered(retry))
        if start.reset_reason is not None:
            self._metrics.reset(start.reset_reason)
            loss = reset_event(start.reset_reason, start.channels or selector.channels, missed=None)
            frames += own_block(format, loss, id)
        return frames + own_block(format, _opening_event(heartbeat.seconds), id)

    def connect(  # noqa: PLR0913 - what a subscriber is
        self,
        sink: Sink,
        selector: Selector,
        start: StartPoint,
        heartbeat: Heartbeat,
        *,
        caller: Hashable = None,
        exempt: bool = False,
    ) -> Outbox:
        """Deliver what a selector matches to a sink, behind its `first_frames`, until `disconnect`.

        What it has to catch up with is read by turns with other callers. Raises `ClosedError`, and
        `FullError` beyond `subscribed_channels` for one that is not `exempt`; nothing is to be undone then.
        """
        subscriber, group = self._join(
            selector, sink.encoding, start, heartbeat, kind=SubscriberKind.HTTP, caller=caller, exempt=exempt
        )
        if start.reset_reason is not None:
            subscriber.taken = 1  # the `$reset` of the first frames
        return self._dispatcher.attach(subscriber, group, sink, cursor=start.cursor)

    def disconnect(self, outbox: Outbox) -> None:
        """Forget a reader whose connection is over. Synchronous, so that `finally` can call it."""
        outbox.subscriber.close(CloseReason.LEFT)
        self._dispatcher.detach(outbox)

    def end(self, outbox: Outbox, reason: CloseReason) -> None:
        """End a reader's stream, telling it why; behind what was published for it, unless it was revoked."""
        if reason in AFTER_QUEUE:
            # It takes along what waits for it. To empty the log of its group now would write to everyone.
            outbox.leave_to_own_queue()
        outbox.subscriber.close(reason)

    def reload(self, config: Config) -> None:
        """Go by another configuration from now on, in all but `RESTART_ONLY`.

        Readers that there are keep the terms they came with. What is held beyond the new limits goes with
        what is published, and by and by.
        """
        self._config = config
        self._policies.reload(config)
        self._terms.clear()
        self._hub.most = config.subscribed_channels
        self._metrics.look_at(config.metrics_channels)
        self._narrowing += 1
        self.work.start(self._narrow(config.queue_size, config.queue_bytes), caller=RELOAD)
        self._backend.reload_limits()
        if not self._closed:
            self._tidy()

    def _narrow(self, queue_size: int, queue_bytes: int) -> SlicedWork[None]:
        """Bound the queues of all groups of subscribers, in pieces."""
        for count, group in enumerate(tuple(self._hub.groups), 1):
            group.lower_limits(queue_size=queue_size, queue_bytes=queue_bytes)
            if not count % ITEMS_PER_SLICE:
                yield
        self._narrowing -= 1

    def channel(self, name: str) -> ChannelState:
        """Return the state of a channel, heard of or not. Raises `EventError` for a bad name."""
        (channel,) = validate_channels((name,))
        return self._state(channel)

    @property
    def history_usage(self) -> HistoryUsage:
        """How much the history holds."""
        return self._backend.usage()

    async def backlog(self) -> BacklogStats:
        """Return what waits for how many subscribers. However many they are, the loop goes on turning."""
        backlog = BacklogStats()
        await backlog.collect(self._hub.groups)
        return backlog

    def channels(
        self,
        *,
        prefix: str = "",
        after: str = "",
        limit: int,
        visible: Callable[[str], bool] | None = None,
    ) -> list[ChannelState]:
        """Return the channels that have history or readers, by name: at most so many, behind `after`.

        Of them those that are `visible`, if that is given. In one piece, some 50 ms of 100,000 channels: see
        `list_channels`.
        """
        return run_to_completion(self._channels(prefix, after, limit, visible))

    async def list_channels(
        self,
        *,
        prefix: str,
        after: str,
        limit: int,
        visible: Callable[[str], bool] | None,
        caller: Hashable,
    ) -> list[ChannelState]:
        """Return what `channels` returns, in pieces, by turns with other callers.

        Each channel is as it was when it was looked at. They are in order, each once, and one that came or
        went meanwhile may be left out.
        """
        return await self.work.run(self._channels(prefix, after, limit, visible), caller=caller)

    def _channels(
        self, prefix: str, after: str, limit: int, visible: Callable[[str], bool] | None
    ) -> SlicedWork[list[ChannelState]]:
        names = yield from self._first_names(_wanted(prefix, after, visible), limit)
        states = []
        for count, name in enumerate(names, 1):
            states.append(self._state(name))
            if not count % DESCRIBED_CHANNELS:
                yield
        return states

    def _first_names(self, wanted: Callable[[str], bool], most: int) -> SlicedWork[list[str]]:
        names: list[str] = []
        work = 0
        for some in itertools.chain(self._backend.channels(), _in_pieces(self._hub.channels)):
            for name in some:
                if len(names) == most and name >= names[-1]:
                    continue
                if work >= ITEMS_PER_SLICE:
                    work = 0
                    yield
                work += LOOK_COST
                if wanted(name):
                    _insert(names, name, most)
            work += len(some)
            if work >= ITEMS_PER_SLICE:
                work = 0
                yield
        return names

    async def close(self, *, timeout: float, over: float = 0.0) -> None:  # noqa: ASYNC109 - what is late is cut
        """End every subscriber, saying so; then, after `timeout` seconds, cut whoever has not taken it.

        Many are let go in waves, over `over` seconds at most; both together take no longer. Nothing is
        published any more from the first on: those who have gone already would miss it, and nobody would
        tell them.
        """
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        await self._dispatcher.wait_flushed(self._hub.groups)
        self._dispatcher.spread_reconnects(len(self._hub) * 1000 // RETURNS)
        clock = asyncio.get_running_loop().time
        latest = clock() + over + timeout
        await self._let_go(over)
        try:
            async with asyncio.timeout_at(min(clock() + timeout, latest)):
                await self._dispatcher.wait_empty()
        except TimeoutError:
            await self._dispatcher.abort()

    async def _let_go(self, over: float) -> None:
        """End the streams of everyone, wave by wave; a wave that comes late does not put off the others."""
        loop = asyncio.get_running_loop()
        size = wave(len(self._hub), over=over)
        due = loop.time()
        while leaving := tuple(itertools.islice(self._hub, size)):
            for count, subscriber in enumerate(leaving, 1):
                subscriber.close(CloseReason.DRAIN)
                if not count % WAVE:
                    await asyncio.sleep(0)
            if len(self._hub):
                due += PACE
                await asyncio.sleep(due - loop.time())

    def _tidy(self) -> None:
        """Have the backend let go of what is too old, also while nobody comes, a little at a time."""
        if self._tidying is not None:
            self._tidying.cancel()
        left = self._tidied() and not self._closed
        pause = 0.0 if self._backend.untidy else TIDY
        self._tidying = asyncio.get_running_loop().call_later(pause, self._tidy) if left else None

    def _tidied(self) -> bool:
        """Say whether anything is left to tidy; after a failure there is, whatever was done.

        It is told where it happens: whoever published before it has published.
        """
        try:
            return self._backend.evict_expired()
        except Exception:
            logger.exception("the history could not be tidied; tried again in %(pause)g s", {"pause": TIDY})
            return True

    def _report_share(self, share: Share, publisher: str) -> None:
        """Count that a publisher has reached its share, and log it now and then."""
        self._metrics.share_reached(share)
        # A history that is full is nothing out of the ordinary.
        if share is not Share.HISTORY_TOTAL and self._reminder.is_due(share):
            logger.warning(
                "%(share)s: full; %(publisher)s holds the most, and its oldest are removed",
                {"share": str(share), "publisher": ascii(publisher)[1:-1] or "this machine"},
            )

    def _found(self, selector: Selector, encoding: Encoding) -> OutboxGroup:
        return SubscriberGroup(
            selector,
            encoding,
            self._dispatcher,
            queue_size=self._config.queue_size,
            queue_bytes=self._config.queue_bytes,
        )

    def _with_reset(self, selector: Selector, start: StartPoint) -> StartPoint:
        """Return a start whose first event tells of its loss, for a stream that has no first frames."""
        if start.reset_reason is None:
            return start
        self._metrics.reset(start.reset_reason)
        channels = start.channels or selector.channels
        first = reset_publication(
            start.reset_reason, channels, epoch=self._backend.epoch, position=start.after, missed=None
        )
        return StartPoint(start.after, preloaded=(first,))

    def _join(  # noqa: PLR0913
        self,
        selector: Selector,
        encoding: Encoding,
        start: StartPoint,
        heartbeat: Heartbeat,
        *,
        kind: SubscriberKind,
        caller: Hashable = None,
        exempt: bool = False,
    ) -> tuple[Subscriber, OutboxGroup]:
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        catching_up = None
        if start.after != self._backend.position or start.preloaded:
            catching_up = Replay(self._backend, selector, start, self._metrics, caller=caller)
        subscriber = Subscriber(selector, self._terms_of(selector, heartbeat), catching_up)
        group = self._hub.join(subscriber, encoding, exempt=exempt)
        if self._narrowing:
            group.lower_limits(queue_size=self._config.queue_size, queue_bytes=self._config.queue_bytes)
        self._metrics.opened(kind)
        return subscriber, group

    def _terms_of(self, selector: Selector, heartbeat: Heartbeat) -> SubscriberOptions:
        overflow, retry = self._policies.for_subscriber(selector)
        terms = self._terms.get((overflow, retry, heartbeat))
        if terms is None:
            terms = self._terms[overflow, retry, heartbeat] = SubscriberOptions(
                queue_size=self._config.queue_size,
                queue_bytes=self._config.queue_bytes,
                overflow=overflow,
                metrics=self._metrics,
                on_close=self._hub.leave,
                epoch=self._backend.epoch,
                heartbeat=heartbeat,
                retry=retry,
            )
        return terms

    def _state(self, name: str) -> ChannelState:
        holding = self._backend.channel_usage(name)
        return ChannelState(name, self._hub.subscribers(name), self.cursor, holding.events, holding.oldest)

    def require_few(self, count: int) -> None:
        """Refuse so many channels of one reader or one publish, before one is looked at, by `EventError`."""
        most = self._config.max_channels
        if count > most:
            raise EventError("channels", f"{count} are too many, {most} may be named")

    def _require_size(self, event: Event) -> None:
        most = self._config.max_event
        frame = wire.size(event) + (ID_LINE if event.id is None else 0)
        if frame <= most:
            return
        data = len(event.data.encode())
        if data > most:
            raise EventTooLargeError("data", f"is {data} bytes, and an event may be {most}")
        raise EventTooLargeError("data", f"is {frame} bytes as a frame, and an event may be {most}")


def _unknown_since(text: str) -> EventError:
    return EventError(
        "since",
        f"{text[:80]!a} is neither an age (500ms, 30s, 10m, 2h, 7d), nor earliest or last, nor the id of an"
        " event that is held",
    )


def _require_publishable_type(event: Event) -> None:
    if event.reserved:
        raise EventError("event", f"types beginning with $ are the server's own: {event.type[:80]!r}")
    if event.type in OF_EVENT_SOURCE:
        raise EventError(
            "event", f"{event.type!r} is EventSource's own: browsers would call their handlers of it"
        )


@functools.lru_cache(maxsize=64)
def _opening_event(heartbeat: float) -> Event:
    return opening_event(heartbeat)


def _wanted(prefix: str, after: str, visible: Callable[[str], bool] | None) -> Callable[[str], bool]:
    def wanted(name: str) -> bool:
        return name > after and name.startswith(prefix) and (visible is None or visible(name))

    return wanted


def _insert(names: list[str], name: str, most: int) -> None:
    """Put a name where it belongs among the first ones, unless it is there."""
    place = bisect_left(names, name)
    if names[place : place + 1] != [name]:
        names.insert(place, name)
        del names[most:]


def _in_pieces(names: Collection[str]) -> Iterator[Sequence[str]]:
    """Yield the names of this moment, a few at a time."""
    all_names = tuple(names)
    for begin in range(0, len(all_names), ITEMS_PER_SLICE):
        yield all_names[begin : begin + ITEMS_PER_SLICE]


def wave(readers: int, *, over: float) -> int:
    """Return how many of so many readers are let go at once, so that the last go within `over` seconds."""
    waves = math.floor(over / PACE)
    return max(WAVE, math.ceil(readers / waves)) if waves else max(WAVE, readers)
