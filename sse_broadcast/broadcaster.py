"""Broadcaster: what a program or a handler holds to publish and to subscribe."""

import asyncio
import functools
import re
from collections.abc import Sequence

from sse_broadcast.audience import Audience, Lane, Sink
from sse_broadcast.config import Config
from sse_broadcast.delivery import Delivery
from sse_broadcast.errors import ClosedError, EventError, EventTooLargeError
from sse_broadcast.event import DEFAULT_TYPE, Event
from sse_broadcast.hub import Hub
from sse_broadcast.metrics import Counts, Metrics
from sse_broadcast.publication import Encoding, Publication, Receipt, text
from sse_broadcast.stream import Stream, Wakeup
from sse_broadcast.subscriber import CloseReason, Subscriber, Terms

DEFAULT_CHANNEL = "default"
MAX_CHANNEL = 128
_NOT_IN_A_CHANNEL = re.compile(r"[^A-Za-z0-9._:@~-]")


class Broadcaster:
    """Publishes events to everyone who subscribes: HTTP readers and streams in this process.

    Belongs to one event loop; make no calls from other threads. Needs no starting, and holds
    no task: `close` ends its subscribers. Of the configuration it uses the bounds of queues
    and events, the overflow policy, and the times of readers.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._metrics = Metrics()
        self._delivery = Delivery(
            heartbeat=self._config.heartbeat,
            write_timeout=self._config.write_timeout,
            retry=self._config.retry,
            metrics=self._metrics,
        )
        self._hub = Hub(self._found)
        self._terms = Terms(
            queue_size=self._config.queue_size,
            queue_bytes=self._config.queue_bytes,
            overflow=self._config.overflow,
            metrics=self._metrics,
            on_close=self._hub.leave,
        )
        self._closed = False

    @property
    def client_count(self) -> int:
        """How many subscribers there are: HTTP readers and streams."""
        return len(self._hub)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @property
    def counts(self) -> Counts:
        """What was counted so far."""
        return self._metrics.counts()

    async def broadcast(
        self,
        message: str,
        *,
        event: str | None = None,
        retry: int | None = None,
        channels: Sequence[str] = (DEFAULT_CHANNEL,),
    ) -> Receipt:
        """Publish a message to everyone who listens to one of the channels, once each.

        `event` is its type, `retry` a reconnection time in milliseconds. Returns without
        waiting for any reader. Raises `EventError` for what an event or a channel name may
        not say, `EventTooLargeError` beyond `max_event`, `ClosedError` after `close`; nothing
        is published then.
        """
        return await self.publish(
            Event(message, DEFAULT_TYPE if event is None else event, retry=retry), channels
        )

    async def publish(self, event: Event, channels: Sequence[str] = (DEFAULT_CHANNEL,)) -> Receipt:
        """Publish an event. See `broadcast` for what it promises and raises."""
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        if event.reserved:
            raise EventError("event", f"types beginning with $ are the server's own: {event.type[:80]!r}")
        publication = Publication(_names(channels), event)
        self._require_size(publication)
        self._metrics.published()
        return Receipt(self._hub.deliver(publication), publication.channels)

    def subscribe(self, *channels: str) -> Stream:
        """Give a stream of the channels, or of `default`. See `Stream` for its life.

        Raises `EventError` for a bad channel name; using the stream after `close` raises
        `ClosedError`.
        """
        names = _names(channels or (DEFAULT_CHANNEL,))

        def join(wakeup: Wakeup) -> Subscriber:
            subscriber, audience = self._join(names, text)
            subscriber.outlet = wakeup
            audience.queued[subscriber] = None
            return subscriber

        return Stream(join)

    def opening(self) -> bytes:
        """Give the first bytes of a new reader's stream."""
        return self._delivery.opening()

    def connect(self, sink: Sink, channels: Sequence[str] = (DEFAULT_CHANNEL,)) -> Lane:
        """Deliver the channels to a sink from now on, until `disconnect`. Raises `ClosedError`."""
        subscriber, audience = self._join(_names(channels), sink.encoding)
        return self._delivery.attach(subscriber, audience, sink)

    def disconnect(self, lane: Lane) -> None:
        """Forget a reader whose connection is over. Synchronous, so that `finally` can call it."""
        lane.subscriber.close(CloseReason.LEFT)
        self._delivery.detach(lane)

    async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109 - what is late is cut, not cancelled
        """End every subscriber, saying so; after `timeout` seconds cut whoever has not taken it."""
        self._closed = True
        self._delivery.settle(self._hub.audiences)
        for subscriber in self._hub:
            subscriber.close(CloseReason.DRAIN)
        try:
            async with asyncio.timeout(timeout):
                await self._delivery.emptied()
        except TimeoutError:
            self._delivery.abort()

    def _found(self, channels: tuple[str, ...], encoding: Encoding) -> Audience:
        return Audience(
            channels,
            encoding,
            self._delivery,
            queue_size=self._config.queue_size,
            queue_bytes=self._config.queue_bytes,
        )

    def _join(self, channels: tuple[str, ...], encoding: Encoding) -> tuple[Subscriber, Audience]:
        if self._closed:
            raise ClosedError("the broadcaster is closed")
        subscriber = Subscriber(channels, self._terms)
        self._metrics.opened()
        return subscriber, self._hub.join(subscriber, encoding)

    def _require_size(self, publication: Publication) -> None:
        most = self._config.max_event
        data = len(publication.event.data.encode())
        if data > most:
            raise EventTooLargeError("data", f"is {data} bytes, and an event may be {most}")
        if publication.size > most:
            raise EventTooLargeError(
                "data", f"is {publication.size} bytes as a frame, and an event may be {most}"
            )


def _names(channels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(channels, str):
        raise TypeError(f"channels must be a sequence of names, not the string {channels!r}")
    return _checked(tuple(channels))


@functools.lru_cache(maxsize=1024)
def _checked(channels: tuple[str, ...]) -> tuple[str, ...]:
    if not channels:
        raise EventError("channels", "must name at least one")
    for name in channels:
        _require_channel(name)
    return tuple(dict.fromkeys(channels))


def _require_channel(name: str) -> None:
    if not 1 <= len(name) <= MAX_CHANNEL:
        raise EventError("channel", f"must be 1 to {MAX_CHANNEL} characters: {name[:80]!r}")
    if bad := _NOT_IN_A_CHANNEL.search(name):
        raise EventError("channel", f"must not contain {bad[0]!a}: {name[:80]!a}")
    if name in {".", ".."}:
        raise EventError("channel", f"must not be {name!r}, which clients take for a folder")
