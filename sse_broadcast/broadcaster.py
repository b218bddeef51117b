"""Broadcaster: publish events, and subscribe to channels."""

import asyncio
import functools
import itertools
import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

from sse_broadcast import wire
from sse_broadcast.backends.base import Far, HistoryUsage, IdempotencyKey, ResetReason, StartPoint
from sse_broadcast.backends.instrumented import InstrumentedBackend
from sse_broadcast.backends.registry import make_backend
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
from sse_broadcast.errors import BackendUnavailableError, ClosedError, EventError, EventTooLargeError
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
from sse_broadcast.publication import Draft, Publication, Receipt
from sse_broadcast.reminder import Reminder
from sse_broadcast.stream import Stream, StreamConsumer
from sse_broadcast.work_queue import ITEMS_PER_SLICE, SlicedWork, WorkQueue, run_to_completion

logger = logging.getLogger("sse_broadcast.history")

FRAME_OVERHEAD = 512
"""Upper bound, in bytes, for the fields of a frame other than its data and its type."""

MAX_ID_LINE = len("id: \n") + LONGEST_OWN
"""Bytes of the `id:` line with the longest id that the server assigns."""

EVICTION_INTERVAL = 1.0
"""Seconds between two checks for expired events, while the history holds any."""

MATCH_COST = 8
"""Cost of matching one channel name against grants and inserting it into a page, in name comparisons."""

CHANNELS_PER_SLICE = 16
"""Channels whose state is read in one slice of work."""

RELOAD = "reload"
"""The caller under which the work queue runs the rest of a reload."""

DRAIN_BATCH = 100
"""Minimum number of subscribers closed at once: about 10 ms of work, here and at the next server."""

DRAIN_INTERVAL = 0.05
"""Seconds between two batches."""

RECONNECTS_PER_SECOND = 2000
"""Maximum number of subscribers told to reconnect per second: half of what one core accepts."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The state of a channel at one moment.

    `cursor` is the id of the newest position: a subscription that begins there misses nothing.
    """

    channel: str
    subscribers: int
    cursor: str
    events: int
    oldest: str | None


class Broadcaster:
    """Publishes events to HTTP subscribers and to streams in this process.

    Belongs to one event loop: call it from no other thread. With history in memory it needs no start, with a
    store `start`. `close` ends its subscribers.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = config_or_default(config)
        self._metrics = Metrics(self._config.metrics_channels)
        self._policies = ChannelPolicies(self._config)
        self._hub = Hub(self._new_group, most=self._config.subscribed_channels)
        self._reminder = Reminder()
        backend = make_backend(
            self._config,
            self._policies,
            self._announce,
            metrics=self._metrics.store,
            report=self._report_share,
        )
        self._backend = InstrumentedBackend(backend, self._metrics)
        self._dispatcher = Dispatcher(
            self._backend,
            heartbeat=self._config.heartbeat,
            write_timeout=self._config.write_timeout,
            metrics=self._metrics,
        )
        self._heartbeat = Heartbeat(self._config.heartbeat)
        self._options: dict[tuple[Overflow, int, Heartbeat], SubscriberOptions] = {}
        self._live_start = StartPoint(0)  # shared by all subscribers without a cursor
        self._eviction_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._pending_limits = 0  # reloads whose limits some groups do not have yet
        self.work = WorkQueue()
        """Long work, run in slices. Callers take turns."""

    async def start(self) -> None:
        """Open the store that keeps the history. Without one nothing need be started.

        Raises `StoreError` if it cannot be used. `close` closes it.
        """
        await self._backend.start()
        self._schedule_eviction()

    @property
    def client_count(self) -> int:
        """Number of subscribers: HTTP subscribers and streams."""
        return len(self._hub)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @property
    def outage(self) -> str | None:
        """Reason why the backend is unavailable, without secrets, or None if it is available."""
        return self._backend.outage

    @property
    def metrics(self) -> Metrics:
        """Counters and distributions of this broadcaster. The server adds its own counts."""
        return self._metrics

    @property
    def counts(self) -> Counts:
        """Snapshot of the counters."""
        return self._metrics.counts()

    @property
    def cursor(self) -> str:
        """Id of the newest position. `since` with this id begins right after it."""
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
        """Publish a message once to each subscriber of at least one of the channels.

        `event` is the type, `id` an id of your own, `retry` a reconnection time in milliseconds. Under the
        policy `conflate` a message replaces queued ones with the same `key`. When the call returns, the
        message is in the history and has its position. The call waits for no subscriber.

        Raises `EventError` for a bad field or channel name, `EventTooLargeError` beyond `max_event`, and
        `ClosedError` after `close`. Nothing is published then.
        """
        event_type = DEFAULT_TYPE if event is None else event
        return await self.publish(Event(message, event_type, id=id, key=key, retry=retry), channels)

    async def publish(self, event: Event, channels: Sequence[str] = (DEFAULT_CHANNEL,)) -> Receipt:
        """Publish an event. Promises and raises the same as `broadcast`."""
        return await self.publish_all([self.draft(event, channels)])

    def draft(self, event: Event, channels: Sequence[str] = (DEFAULT_CHANNEL,)) -> Draft:
        """Check an event and its channels without publishing. Raises the same errors as `broadcast`."""
        return self.prepare(event, shared(self.validate_channels(channels)))

    def prepare(self, event: Event, channels: tuple[str, ...]) -> Draft:
        """Check an event as `draft` does, for channels returned by `validate_channels`."""
        if event.type is not DEFAULT_TYPE:
            _require_publishable_type(event)
        if event.retry is not None and not SHORTEST_RETRY <= event.retry <= LONGEST_RETRY:
            raise EventError(
                "retry", f"must be {SHORTEST_RETRY} to {LONGEST_RETRY} milliseconds, not {event.retry}"
            )
        if event.id is not None:
            validate_custom_id(event.id)
        # Most events are far below the limit and need no exact size. A character takes at most 4 bytes, and a
        # line end 7, with the `data: ` of the next line.
        if 7 * len(event.data) + 4 * len(event.type) + FRAME_OVERHEAD > self._config.max_event:
            self._require_size(event)
        return Draft(channels, event)

    def validate_channels(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Return the channels to publish to, in order and without duplicates. Raises `EventError`."""
        # Not passed through `channels.shared` here: callers do that once the permission is checked, so that
        # unauthorized requests cannot fill its cache.
        if len(channels) > self._config.max_channels and not isinstance(channels, str):
            self.check_channel_count(len(channels))
        return validate_channels(channels)

    async def publish_all(
        self, drafts: Sequence[Draft], idempotency_key: IdempotencyKey | None = None, *, publisher: str = ""
    ) -> Receipt:
        """Publish drafts in order: all of them or none.

        The events and the idempotency key count for the share of `publisher`. If the key was used before,
        nothing is published and the first receipt is returned. Raises `IdempotencyError` if the key was used
        for other content, and `ClosedError` after `close`.
        """
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        if not drafts:
            raise EventError("events", "must have at least one event")
        receipt = await self._backend.publish(drafts, idempotency_key, publisher)
        if self._eviction_timer is None:
            self._schedule_eviction()
        return receipt

    def _announce(self, publications: Sequence[Publication]) -> int:
        """Deliver what has its place in the order, and count it. See `Deliver`: there is no other way."""
        clients = self._hub.deliver(publications)
        self._metrics.published(len(publications))
        if self._metrics.channels:
            for publication in publications:
                self._metrics.published_in(publication.channels)
        return clients

    def subscribe(
        self,
        *channels: str,
        since: str | None = None,
        last_event_id: str | None = None,
        events: Sequence[str] | None = None,
    ) -> Stream:
        """Return a stream of the channels, or of `default`. It subscribes when it is first used.

        A name that contains `*` is a pattern. `since` is an id, `earliest`, `last` or an age such as `10m`:
        the stream begins with the events after it. `last_event_id` is the id of the last event of an earlier
        stream, and takes precedence. If the history no longer has that id, the stream begins with `$reset`.
        `events` lists the wanted types.

        Raises `EventError` for a bad channel name and `TypeError` for an argument that is not text. Using the
        stream raises `ClosedError` after `close`, `FullError` beyond `subscribed_channels`, and `EventError`
        for an invalid `since`.
        """
        selector = self.selector(channels or (DEFAULT_CHANNEL,), types=events)
        for name, value in (("since", since), ("last_event_id", last_event_id)):
            if not (value is None or isinstance(value, str)):
                raise TypeError(f"{name}: must be text, not {type(value).__name__}")
        cursor = parse_id(last_event_id) if last_event_id else parse_since(since) if since else None

        def join(consumer: StreamConsumer) -> tuple[Subscriber, OutboxGroup]:
            start = self._stream_start(selector, cursor)
            subscriber, group = self._join(selector, TEXT, start, self._heartbeat, kind=SubscriberKind.STREAM)
            subscriber.consumer = consumer
            return subscriber, group

        return Stream(join)

    def selector(self, channels: Sequence[str], *, types: Sequence[str] | None = None) -> Selector:
        """Return the selector of a subscription. Raises `EventError`."""
        # Counted first: checking a name costs far more than counting it.
        self.check_channel_count(len(channels))
        if types is not None and not isinstance(types, str) and len(types) > self._config.max_channels:
            raise EventError("events", f"{len(types)} given, at most {self._config.max_channels} allowed")
        selector = Selector.parse(*channels, types=types)
        most = self._config.max_patterns
        if len(selector.patterns) > most:
            raise EventError("channels", f"{len(selector.patterns)} patterns given, at most {most} allowed")
        return selector

    def room_for(self, selector: Selector) -> tuple[int, int]:
        """Return the number of a selector's new channels and patterns, and the room left after adding them.

        The room is negative if they exceed `subscribed_channels`.
        """
        return self._hub.room_for(selector)

    def start_point(self, selector: Selector, cursor: Cursor | None, *, exempt: bool = False) -> StartPoint:
        """Return the start of a subscription: its cursor, or the newest position.

        An `exempt` subscriber may exceed `subscribed_channels`. Raises `FullError` as `connect` does, and
        `EventError` for an invalid `since`. A cursor is searched for without yielding to the event loop;
        `find_start_point` yields.
        """
        if cursor is not None:
            found = run_to_completion(self._find_start(selector, cursor, exempt=exempt))
            if isinstance(found, Far):
                raise BackendUnavailableError("since: is searched in the store, which takes waiting")
            return found
        if not exempt:
            self._hub.require_room(selector)
        if self._live_start.after != self._backend.position:
            self._live_start = StartPoint(self._backend.position)
        return self._live_start

    async def find_start_point(
        self, selector: Selector, cursor: Cursor, *, caller: Hashable, exempt: bool = False
    ) -> StartPoint:
        """Return the same as `start_point`, in slices of work that take turns with other callers.

        Raises the same errors, and `ClosedError` if the broadcaster was closed meanwhile.
        """
        # In slices, because a pattern can match every channel of the history.
        start = await self.work.run(self._find_start(selector, cursor, exempt=exempt), caller=caller)
        if isinstance(start, Far):
            start = await start.fetch()
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        if not exempt:
            self._hub.require_room(selector)  # other subscribers may have taken the room meanwhile
        return start

    def _find_start(
        self, selector: Selector, cursor: Cursor, *, exempt: bool
    ) -> SlicedWork[StartPoint | Far[StartPoint]]:
        if not exempt:
            self._hub.require_room(selector)
        found = yield from self._backend.find(cursor, selector)
        if isinstance(found, StartPoint):
            return _known_start(cursor, found)
        fetch = found.fetch

        async def fetch_known() -> StartPoint:
            return _known_start(cursor, await fetch())

        return Far(fetch_known)

    def heartbeat(self, *, seconds: float | None = None, as_event: bool = False) -> Heartbeat:
        """Return the heartbeat that a subscriber asked for. Without `seconds` the configured interval."""
        if seconds is None and not as_event:
            return self._heartbeat
        return Heartbeat(seconds or self._heartbeat.seconds, as_event=as_event)

    def first_frames(
        self, selector: Selector, encoding: Encoding, start: StartPoint, heartbeat: Heartbeat
    ) -> bytes:
        """Return the first bytes of a subscriber's stream, without the transfer coding.

        They end with `$open`, which gives the client a cursor.
        """
        format = encoding.format
        id = format_id(self._backend.epoch, start.cursor)
        _, retry = self._policies.for_subscriber(selector)
        frames = format.preamble(jittered(retry))
        if start.reset_reason is not None:
            # Before `$open`: a client that has the cursor must have been told of the loss, since it resumes
            # from that cursor.
            self._metrics.reset(start.reset_reason)
            loss = reset_event(start.reset_reason, start.channels or selector.channels, missed=None)
            frames += own_block(format, loss, id)
        return frames + own_block(format, _opening_event(heartbeat.seconds), id)

    def connect(  # noqa: PLR0913 - the parts of a subscription
        self,
        sink: Sink,
        selector: Selector,
        start: StartPoint,
        heartbeat: Heartbeat,
        *,
        caller: Hashable = None,
        exempt: bool = False,
    ) -> Outbox:
        """Deliver matching events to a sink, after its `first_frames`, until `disconnect`.

        The history is read in slices that take turns with other callers. Raises `ClosedError`, and
        `FullError` beyond `subscribed_channels` unless `exempt`. Nothing is registered then.
        """
        subscriber, group = self._join(
            selector, sink.encoding, start, heartbeat, kind=SubscriberKind.HTTP, caller=caller, exempt=exempt
        )
        if start.reset_reason is not None:
            subscriber.taken = 1  # counts the `$reset` of the first frames
        return self._dispatcher.attach(subscriber, group, sink, cursor=start.cursor)

    def disconnect(self, outbox: Outbox) -> None:
        """Remove a subscriber whose connection has ended."""
        # Synchronous, so that a cancelled handler can call it in `finally`.
        outbox.subscriber.close(CloseReason.LEFT)
        self._dispatcher.detach(outbox)

    def end(self, outbox: Outbox, reason: CloseReason) -> None:
        """End a subscriber's stream with a `$close`, after its queued events unless it was revoked."""
        if reason in AFTER_QUEUE:
            # Its queued events move to its own queue: flushing the group's log would write to all members.
            outbox.leave_to_own_queue()
        outbox.subscriber.close(reason)

    def reload(self, config: Config) -> None:
        """Apply another configuration, except for its `RESTART_ONLY` settings.

        Subscribers keep the options they connected with. Events beyond the new limits are evicted gradually,
        and as new events are published.
        """
        self._config = config
        self._policies.reload(config)
        self._options.clear()
        self._hub.most = config.subscribed_channels
        self._metrics.look_at(config.metrics_channels)
        self._pending_limits += 1
        self.work.start(self._lower_group_limits(config.queue_size, config.queue_bytes), caller=RELOAD)
        self._backend.reload_limits()
        if not self._closed:
            self._schedule_eviction()

    def _lower_group_limits(self, queue_size: int, queue_bytes: int) -> SlicedWork[None]:
        """Lower the queue limits of all groups, in slices."""
        for count, group in enumerate(tuple(self._hub.groups), 1):
            group.lower_limits(queue_size=queue_size, queue_bytes=queue_bytes)
            if not count % ITEMS_PER_SLICE:
                yield
        self._pending_limits -= 1

    def channel(self, name: str) -> ChannelState:
        """Return the state of a channel, also of one never used. Raises `EventError` for a bad name."""
        (channel,) = validate_channels((name,))
        return self._state(channel)

    @property
    def history_usage(self) -> HistoryUsage:
        """Number of events, bytes and channels in the history."""
        return self._backend.usage()

    async def backlog(self) -> BacklogStats:
        """Return how many events and bytes wait for how many subscribers.

        The count yields to the event loop, so it is not a snapshot.
        """
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
        """Return at most `limit` channels with history or subscribers, by name, after the name `after`.

        Only channels for which `visible` returns true, if it is given. The event loop is blocked meanwhile,
        about 50 ms for 100,000 channels; `list_channels` yields.
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
        """Return the same as `channels`, in slices of work that take turns with other callers.

        Each state is from the moment it was read. Channels are in order and without duplicates. A channel
        that was created or removed meanwhile may be missing.
        """
        return await self.work.run(self._channels(prefix, after, limit, visible), caller=caller)

    def _channels(
        self, prefix: str, after: str, limit: int, visible: Callable[[str], bool] | None
    ) -> SlicedWork[list[ChannelState]]:
        names = yield from self._first_names(_name_filter(prefix, after, visible), limit)
        states = []
        for count, name in enumerate(names, 1):
            states.append(self._state(name))
            if not count % CHANNELS_PER_SLICE:
                yield
        return states

    def _first_names(self, wanted: Callable[[str], bool], most: int) -> SlicedWork[list[str]]:
        names: list[str] = []
        work = 0
        for batch in itertools.chain(self._backend.channels(), _in_slices(self._hub.channels)):
            for name in batch:
                if len(names) == most and name >= names[-1]:
                    continue
                if work >= ITEMS_PER_SLICE:
                    work = 0
                    yield
                work += MATCH_COST
                if wanted(name):
                    _insert(names, name, most)
            work += len(batch)
            if work >= ITEMS_PER_SLICE:
                work = 0
                yield
        return names

    async def close(self, *, timeout: float, over: float = 0.0) -> None:  # noqa: ASYNC109 - then aborts
        """Close every subscriber with `$close`. Abort those that have not taken it after `timeout` seconds.

        Subscribers are closed in batches within `over` seconds. The whole takes at most `over + timeout`.
        From the call on, publishing raises `ClosedError`.
        """
        # First: subscribers that are closed already would miss a later event, and could not be told of it.
        self._closed = True
        if self._eviction_timer is not None:
            self._eviction_timer.cancel()
        await self._dispatcher.wait_flushed(self._hub.groups)
        self._dispatcher.spread_reconnects(len(self._hub) * 1000 // RECONNECTS_PER_SECOND)
        clock = asyncio.get_running_loop().time
        latest = clock() + over + timeout
        await self._close_subscribers(over)
        try:
            async with asyncio.timeout_at(min(clock() + timeout, latest)):
                await self._dispatcher.wait_empty()
        except TimeoutError:
            await self._dispatcher.abort()
        await self._backend.aclose()

    async def _close_subscribers(self, over: float) -> None:
        """Close all subscribers in batches. A late batch does not delay the next ones."""
        loop = asyncio.get_running_loop()
        size = drain_batch_size(len(self._hub), over=over)
        due = loop.time()
        while leaving := tuple(itertools.islice(self._hub, size)):
            for count, subscriber in enumerate(leaving, 1):
                subscriber.close(CloseReason.DRAIN)
                if not count % DRAIN_BATCH:
                    await asyncio.sleep(0)
            if len(self._hub):
                due += DRAIN_INTERVAL
                await asyncio.sleep(due - loop.time())

    def _schedule_eviction(self) -> None:
        """Evict some expired events, and schedule the next eviction while the history holds any."""
        if self._eviction_timer is not None:
            self._eviction_timer.cancel()
        left = self._evict_expired() and not self._closed
        pause = 0.0 if self._backend.untidy else EVICTION_INTERVAL
        self._eviction_timer = (
            asyncio.get_running_loop().call_later(pause, self._schedule_eviction) if left else None
        )

    def _evict_expired(self) -> bool:
        """Evict some expired events, and return whether the history holds any that can expire later.

        A failure is logged, and returns true.
        """
        try:
            return self._backend.evict_expired()
        except Exception:
            # Not raised: the publish that called this has already published.
            logger.exception(
                "removing expired events failed; trying again in %(pause)g s", {"pause": EVICTION_INTERVAL}
            )
            return True

    def _report_share(self, share: Share, publisher: str) -> None:
        """Count that a share was reached, and log it at intervals. The backend calls it."""
        self._metrics.share_reached(share)
        # A full history is the normal state of a busy server.
        if share is not Share.HISTORY_TOTAL and self._reminder.is_due(share):
            logger.warning(
                "%(share)s: limit reached; removing the oldest entries of %(publisher)s, which has the most",
                {"share": str(share), "publisher": ascii(publisher)[1:-1] or "this machine"},
            )

    def _new_group(self, selector: Selector, encoding: Encoding) -> OutboxGroup:
        return SubscriberGroup(
            selector,
            encoding,
            self._dispatcher,
            queue_size=self._config.queue_size,
            queue_bytes=self._config.queue_bytes,
        )

    def _stream_start(self, selector: Selector, cursor: Cursor | None) -> StartPoint | Far[StartPoint]:
        """Return where a stream begins, which has no first frames; it may have to be fetched."""
        if cursor is None:
            return self.start_point(selector, None)
        found = run_to_completion(self._find_start(selector, cursor, exempt=False))
        if isinstance(found, StartPoint):
            return self._with_reset(selector, found)
        fetch = found.fetch

        async def fetch_with_reset() -> StartPoint:
            return self._with_reset(selector, await fetch())

        return Far(fetch_with_reset)

    def _with_reset(self, selector: Selector, start: StartPoint) -> StartPoint:
        """Return a start whose first event is the due `$reset`: an in-process stream has no first frames."""
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
        start: StartPoint | Far[StartPoint],
        heartbeat: Heartbeat,
        *,
        kind: SubscriberKind,
        caller: Hashable = None,
        exempt: bool = False,
    ) -> tuple[Subscriber, OutboxGroup]:
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        replay = None
        if isinstance(start, Far) or start.after != self._backend.position or start.preloaded:
            replay = Replay(self._backend, selector, start, self._metrics, caller=caller)
        subscriber = Subscriber(selector, self._options_for(selector, heartbeat), replay)
        group = self._hub.join(subscriber, encoding, exempt=exempt)
        if self._pending_limits:
            # The group may be one that the reload's work has not reached.
            group.lower_limits(queue_size=self._config.queue_size, queue_bytes=self._config.queue_bytes)
        self._metrics.opened(kind)
        return subscriber, group

    def _options_for(self, selector: Selector, heartbeat: Heartbeat) -> SubscriberOptions:
        overflow, retry = self._policies.for_subscriber(selector)
        # Subscribers with the same policy, retry and heartbeat share one object, to save memory.
        options = self._options.get((overflow, retry, heartbeat))
        if options is None:
            options = self._options[overflow, retry, heartbeat] = SubscriberOptions(
                queue_size=self._config.queue_size,
                queue_bytes=self._config.queue_bytes,
                overflow=overflow,
                metrics=self._metrics,
                on_close=self._hub.leave,
                epoch=self._backend.epoch,
                heartbeat=heartbeat,
                retry=retry,
            )
        return options

    def _state(self, name: str) -> ChannelState:
        holding = self._backend.channel_usage(name)
        return ChannelState(name, self._hub.subscribers(name), self.cursor, holding.events, holding.oldest)

    def check_channel_count(self, count: int) -> None:
        """Raise `EventError` if one subscription or publish names more than `max_channels` channels."""
        most = self._config.max_channels
        if count > most:
            raise EventError("channels", f"{count} given, at most {most} allowed")

    def _require_size(self, event: Event) -> None:
        most = self._config.max_event
        frame = wire.size(event) + (MAX_ID_LINE if event.id is None else 0)
        if frame <= most:
            return
        data = len(event.data.encode())
        if data > most:
            raise EventTooLargeError("data", f"is {data} bytes, more than the {most} that max_event allows")
        raise EventTooLargeError(
            "data", f"is {frame} bytes as a frame, more than the {most} that max_event allows"
        )


def _known_start(cursor: Cursor, start: StartPoint) -> StartPoint:
    """Return a start, unless its cursor is a `since` that means nothing. Raises `EventError`."""
    if isinstance(cursor, CustomId) and cursor.said_in_since and start.reset_reason is ResetReason.UNKNOWN:
        raise _unknown_since(cursor.id)
    return start


def _unknown_since(text: str) -> EventError:
    return EventError(
        "since",
        f"{text[:80]!a} is neither an age (500ms, 30s, 10m, 2h, 7d), nor earliest or last, nor the id of an"
        " event that is held",
    )


def _require_publishable_type(event: Event) -> None:
    if event.reserved:
        raise EventError("event", f"types that begin with $ are reserved for the server: {event.type[:80]!r}")
    if event.type in OF_EVENT_SOURCE:
        raise EventError(
            "event", f"{event.type!r} is reserved: browsers fire EventSource events of this name"
        )


@functools.lru_cache(maxsize=64)
def _opening_event(heartbeat: float) -> Event:
    return opening_event(heartbeat)


def _name_filter(prefix: str, after: str, visible: Callable[[str], bool] | None) -> Callable[[str], bool]:
    def wanted(name: str) -> bool:
        return name > after and name.startswith(prefix) and (visible is None or visible(name))

    return wanted


def _insert(names: list[str], name: str, most: int) -> None:
    """Insert a name into a sorted page without duplicates, and cut the page to `most` names."""
    index = bisect_left(names, name)
    if names[index : index + 1] != [name]:
        names.insert(index, name)
        del names[most:]


def _in_slices(names: Collection[str]) -> Iterator[Sequence[str]]:
    """Yield a copy of the names, one slice at a time."""
    all_names = tuple(names)
    for begin in range(0, len(all_names), ITEMS_PER_SLICE):
        yield all_names[begin : begin + ITEMS_PER_SLICE]


def drain_batch_size(subscribers: int, *, over: float) -> int:
    """Return the number of subscribers to close at once, so that all are closed within `over` seconds."""
    batches = math.floor(over / DRAIN_INTERVAL)
    return max(DRAIN_BATCH, math.ceil(subscribers / batches)) if batches else max(DRAIN_BATCH, subscribers)
