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
"""Bytes of history taken at one time."""


class StreamConsumer:
    """The queue consumer of a stream, which takes from the queue itself and only has to be woken."""

    __slots__ = ("_event",)

    kind = SubscriberKind.STREAM

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def on_ready(self) -> None:
        """See `QueueConsumer`."""
        self._event.set()

    def make_room(self) -> None:
        """See `QueueConsumer`: only the program that iterates can make room."""

    def on_closed(self, reason: CloseReason) -> None:  # noqa: ARG002 - the stream reads it from its subscriber
        """See `QueueConsumer`."""
        self._event.set()

    async def wait(self) -> None:
        """Sleep until the queue may have something, or is over."""
        self._event.clear()
        await self._event.wait()


class Stream:
    """What is published on some channels from the first use of the stream on.

    It joins when it is first iterated, or entered with `async with`. It is let go when the
    broadcaster closes it, when the task that waits for its next event is cancelled, by
    `aclose()`, at the end of its `async with`, or when it is garbage. After a `break` a stream
    that is still referenced stays joined, goes on queueing, and can be iterated on.

    A stream that reads too slowly is treated as any reader is: with `drop-oldest` and
    `drop-newest` it gets a `Received` of the type `$reset` that says how many events it
    missed, with `disconnect` it ends. `closed` says why it ended, or is None. What it has to catch
    up with is read from the history as it is asked for.
    """

    def __init__(self, join: Callable[[StreamConsumer], tuple[Subscriber, OutboxGroup]]) -> None:
        self._join = join
        self._wakeup = StreamConsumer()
        self._subscriber: Subscriber | None = None
        self._group: OutboxGroup | None = None
        self._page: deque[Publication] = deque()

    @property
    def closed(self) -> CloseReason | None:
        """Why the stream ended, or None while it has not."""
        return None if self._subscriber is None else self._subscriber.closed

    @property
    def queued(self) -> int:
        """How many events wait in its queue; none while it is catching up with the history."""
        return 0 if self._subscriber is None else len(self._subscriber)

    def __aiter__(self) -> Self:
        self._joined()
        return self

    async def __anext__(self) -> Received:
        subscriber = self._joined()
        while not self._page:
            if subscriber.waiting:
                await self._take(subscriber)
            elif subscriber.closed is not None:
                raise StopAsyncIteration
            elif subscriber.catching_up is not None:
                self._go_live(subscriber)
            else:
                await self._await(self._wakeup.wait(), subscriber)
        return self._received(self._page.popleft())

    async def aclose(self) -> None:
        """Leave; an iteration that goes on gets what was queued no more, and ends."""
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
            # The hub keeps the subscriber and not the stream, so a forgotten stream can be
            # garbage, and then has nobody left to leave for it.
            loop = asyncio.get_running_loop()
            weakref.finalize(self, _leave_soon, loop, self._subscriber).atexit = False
        return self._subscriber

    def _go_live(self, subscriber: Subscriber) -> None:
        assert self._group is not None
        subscriber.go_live()
        self._group.queued[subscriber] = None

    async def _take(self, subscriber: Subscriber) -> None:
        page = subscriber.take(PAGE_BYTES if subscriber.catching_up else 0)
        subscriber.options.metrics.handed(len(page))
        self._page.extend(page)
        if not self._page:
            # A part of the history with nothing for this stream: everyone else may go before the next.
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
    # The collector runs where it likes: in another thread, or in the middle of a publish.
    with contextlib.suppress(RuntimeError):  # the loop is closed, and the hub gone with it
        loop.call_soon_threadsafe(subscriber.close, CloseReason.LEFT)
