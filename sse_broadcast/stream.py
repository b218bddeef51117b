"""Stream: a subscription inside the process, an async iterator."""

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from sse_broadcast.fanout.outbox import OutboxGroup
from sse_broadcast.fanout.subscriber import CloseReason, Subscriber
from sse_broadcast.metrics import SubscriberKind
from sse_broadcast.publication import Publication, Received

PAGE_BYTES = 65_536
"""Bytes of history to take from the queue at once."""


class StreamConsumer:
    """The queue consumer of a stream. The stream takes events itself, and only has to be woken."""

    __slots__ = ("_event",)

    kind = SubscriberKind.STREAM

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def on_ready(self) -> None:
        """Wake the stream."""
        self._event.set()

    def make_room(self) -> None:
        """Do nothing: only the iterating program can make room."""

    def on_closed(self, reason: CloseReason) -> None:  # noqa: ARG002 - the stream reads it from its subscriber
        """Wake the stream, which then reads the reason from its subscriber."""
        self._event.set()

    async def wait(self) -> None:
        """Sleep until the queue may have an event, or is closed."""
        self._event.clear()
        await self._event.wait()


class Stream:
    """The events of some channels, from the first use of the stream on.

    It joins when it is first iterated, or entered with `async with`. It leaves when the broadcaster closes
    it, when the task waiting for its next event is cancelled, with `aclose()`, at the end of its `async
    with`, or when it is garbage. After a `break` a stream that is still referenced stays joined, keeps
    queueing, and can be iterated further.

    A slow stream is treated like any slow subscriber: with `drop-oldest` and `drop-newest` it gets a
    `Received` of the type `$reset` with the number of missed events, with `disconnect` it ends. `closed` is
    the reason of the end, or None. History is read in pages as the stream is iterated.
    """

    def __init__(self, join: Callable[[StreamConsumer], tuple[Subscriber, OutboxGroup]]) -> None:
        self._join = join
        self._wakeup = StreamConsumer()
        self._subscriber: Subscriber | None = None
        self._group: OutboxGroup | None = None
        self._page: deque[Publication] = deque()

    @property
    def closed(self) -> CloseReason | None:
        """Why the stream ended, or None."""
        return None if self._subscriber is None else self._subscriber.closed

    @property
    def queued(self) -> int:
        """The number of events in its queue; 0 while it reads the history."""
        return 0 if self._subscriber is None else len(self._subscriber)

    def __aiter__(self) -> Self:
        self._joined()
        return self

    async def __anext__(self) -> Received:
        subscriber = self._joined()
        while not self._page:
            if subscriber.fetching:
                await self._await(self._wakeup.wait(), subscriber)
            elif subscriber.waiting:
                await self._take(subscriber)
            elif subscriber.closed is not None:
                raise StopAsyncIteration
            elif subscriber.catching_up is not None:
                self._go_live(subscriber)
            else:
                await self._await(self._wakeup.wait(), subscriber)
        return self._received(self._page.popleft())

    async def aclose(self) -> None:
        """Leave. Queued events are dropped, and a running iteration ends."""
        self._page.clear()
        if self._subscriber is not None:
            self._subscriber.close(CloseReason.LEFT)

    async def __aenter__(self) -> Self:
        self._joined()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _joined(self) -> Subscriber:
        if self._subscriber is None:
            self._subscriber, self._group = self._join(self._wakeup)
            if self._subscriber.catching_up is None:
                self._go_live(self._subscriber)
            # The hub refers to the subscriber, not to the stream, so a forgotten stream becomes garbage. Its
            # subscriber must then leave, or it would stay in the hub for ever.
            loop = asyncio.get_running_loop()
            weakref.finalize(self, _leave_soon, loop, self._subscriber).atexit = False
        return self._subscriber

    def _go_live(self, subscriber: Subscriber) -> None:
        assert self._group is not None
        subscriber.go_live()
        self._group.queued[subscriber] = None

    async def _take(self, subscriber: Subscriber) -> None:
        try:
            page = subscriber.take(PAGE_BYTES if subscriber.catching_up else 0)
        except Exception:
            subscriber.close(CloseReason.ERROR)
            raise
        subscriber.options.metrics.handed(len(page))
        self._page.extend(page)
        if not self._page:
            # This page of the history had nothing for this stream. Let other tasks run before the next page.
            await self._await(asyncio.sleep(0), subscriber)

    async def _await(self, something: Awaitable[None], subscriber: Subscriber) -> None:
        try:
            await something
        except asyncio.CancelledError:
            subscriber.close(CloseReason.LEFT)
            raise

    def _received(self, publication: Publication) -> Received:
        assert self._subscriber is not None
        event = publication.event
        channel = self._subscriber.selector.first_match(publication.channels) or ""
        return Received(channel, event.data, event.type, publication.id, event.retry)


def _leave_soon(loop: asyncio.AbstractEventLoop, subscriber: Subscriber) -> None:
    # The collector may run in another thread, or in the middle of a publish.
    with contextlib.suppress(RuntimeError):  # the loop is closed, and the hub with it
        loop.call_soon_threadsafe(subscriber.close, CloseReason.LEFT)
