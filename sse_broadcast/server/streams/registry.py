"""Stream registry: the open HTTP streams, for listings, disconnects and the log."""

import asyncio
import functools
import heapq
import itertools
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from enum import StrEnum

from aiohttp import web

from sse_broadcast.channels import Selector
from sse_broadcast.encoding import JSON, NDJSON, TEXT
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.logs.batching import BatchedLogger
from sse_broadcast.quantity import Quantity
from sse_broadcast.server.access.authorization import PRINCIPAL
from sse_broadcast.server.http.responses import Caller, SubscriberState

logger = logging.getLogger("sse_broadcast.streams")

ENTRIES_PER_TURN = 500
"""Streams examined between two turns of the event loop."""

DESCRIBED = 100
"""Streams described between two turns of the event loop."""

NAMED = 10
"""Maximum channels of a stream in a log line."""

FORMAT_NAMES = {TEXT.format: "text", JSON.format: "json", NDJSON.format: "ndjson"}

Wanted = Callable[[Selector], bool]


class StreamState(StrEnum):
    """The state of a stream."""

    LIVE = "live"
    """It gets events as they are published."""
    CATCHING_UP = "catching-up"
    """It gets missed events from the history."""
    FULL = "full"
    """Its socket is full, and events wait for it."""
    ENDING = "ending"
    """It is closed, and its client has yet to read the end."""


class SortKey(StrEnum):
    """An order of streams. Those that an operator looks for come first."""

    LAG = "lag"
    QUEUE = "queue"
    AGE = "age"
    EVENTS = "events"
    DROPS = "drops"


class StreamEntry:
    """One open stream. Its properties are computed on demand."""

    __slots__ = ("_client", "_request", "ended", "id", "opened", "outbox")

    def __init__(self, id: int, request: web.Request, outbox: Outbox, client: str | None) -> None:
        self.id = id
        self.outbox = outbox
        self.opened = asyncio.get_running_loop().time()
        self.ended: float | None = None
        self._client = client
        self._request = request

    @property
    def address(self) -> str:
        """The client's address as trusted proxies report it, or `unix` for a UNIX socket without a proxy."""
        return self._client or self._request.remote or "unix"

    @property
    def age(self) -> float:
        """The seconds since it opened, or between its opening and its end."""
        return (asyncio.get_running_loop().time() if self.ended is None else self.ended) - self.opened

    @property
    def caller(self) -> Caller | None:
        """The bearer of its credential, or None."""
        kind, name, _ = self._request[PRINCIPAL].bearer
        return None if name is None else Caller(kind, name)

    @property
    def state(self) -> StreamState:
        """The current state."""
        outbox = self.outbox
        if outbox.subscriber.closed is not None:
            return StreamState.ENDING
        if outbox.blocked:
            return StreamState.FULL
        return StreamState.LIVE if outbox.subscriber.catching_up is None else StreamState.CATCHING_UP

    def described(self) -> SubscriberState:
        """Return the current state for a listing."""
        outbox = self.outbox
        selector = outbox.subscriber.selector
        return SubscriberState(
            id=str(self.id),
            address=self.address,
            channels=selector.channels,
            types=None if selector.types is None else sorted(selector.types),
            format=FORMAT_NAMES[outbox.sink.encoding.format],
            caller=self.caller,
            state=self.state,
            age=round(self.age, 3),
            events=outbox.given,
            drops=outbox.subscriber.dropped,
            behind=outbox.behind,
            queued_bytes=outbox.waiting_bytes,
            lag=round(outbox.lag, 3),
        )


SORT_VALUES: Mapping[SortKey, Callable[[StreamEntry], float]] = {
    SortKey.LAG: lambda reader: reader.outbox.lag,
    SortKey.QUEUE: lambda reader: reader.outbox.behind,
    SortKey.AGE: lambda reader: -reader.opened,
    SortKey.EVENTS: lambda reader: reader.outbox.given,
    SortKey.DROPS: lambda reader: reader.outbox.subscriber.dropped,
}
"""The value of each order. Streams with the greatest value come first."""


class StreamRegistry:
    """The open streams by id, in the order of their opening. Ids are never reused.

    Each opening and end is a line of the log at INFO.
    """

    def __init__(self) -> None:
        self._open: dict[int, StreamEntry] = {}
        self._ids = itertools.count(1)
        self._log = BatchedLogger(logger)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[StreamEntry]:
        """Iterate over the open streams in the order of their opening. None may come or go meanwhile."""
        return iter(self._open.values())

    def add(self, request: web.Request, outbox: Outbox, client: str | None = None) -> StreamEntry:
        """Register a stream until `remove`. `client` is the address behind a trusted proxy, or None."""
        reader = StreamEntry(next(self._ids), request, outbox, client)
        self._open[reader.id] = reader
        self._log.info(
            "stream %(id)s opened by %(address)s: %(channels)s", functools.partial(_opening, reader)
        )
        return reader

    def remove(self, reader: StreamEntry) -> None:
        """Remove a stream that is over. Call it once."""
        del self._open[reader.id]
        reader.ended = asyncio.get_running_loop().time()
        self._log.info(
            "stream %(id)s of %(address)s closed: %(reason)s, after %(duration)s s, with %(events)s"
            " sent and %(drops)s dropped, %(lag)s s behind: %(channels)s",
            functools.partial(_end, reader),
        )

    def close(self) -> None:
        """Log the openings and ends collected so far."""
        self._log.close()

    def find(self, id: str) -> StreamEntry | None:
        """Return an open stream by its id, or None."""
        return self._open.get(int(id)) if id.isascii() and id.isdigit() and len(id) < 20 else None

    async def page(self, *, after: int, limit: int, wanted: Wanted | None = None) -> list[SubscriberState]:
        """Return the streams after an id, in the order of their opening."""
        found: list[StreamEntry] = []
        async for some in self._portions(after, wanted):
            found += some
            if len(found) >= limit:
                break
        return await _described(found[:limit])

    async def top(self, order: SortKey, *, limit: int, wanted: Wanted | None = None) -> list[SubscriberState]:
        """Return the first streams in an order, each as it was when it was examined."""
        first, found = SORT_VALUES[order], list[tuple[float, int, StreamEntry]]()
        async for some in self._portions(0, wanted):
            found += [(first(reader), -reader.id, reader) for reader in some]
            found = heapq.nlargest(limit, found)
        return await _described([reader for _, _, reader in found])

    async def _portions(self, after: int, wanted: Wanted | None) -> AsyncIterator[list[StreamEntry]]:
        """Yield the wanted streams a few at a time, and let other tasks run in between."""
        ids = list(self._open)
        for first in range(bisect_right(ids, after), len(ids), ENTRIES_PER_TURN):
            found = map(self._open.get, ids[first : first + ENTRIES_PER_TURN])
            yield [
                reader
                for reader in found
                if reader is not None and (wanted is None or wanted(reader.outbox.subscriber.selector))
            ]
            await asyncio.sleep(0)


STREAM_REGISTRY: web.AppKey[StreamRegistry] = web.AppKey("sse_broadcast.stream_registry", StreamRegistry)


async def _described(readers: list[StreamEntry]) -> list[SubscriberState]:
    described: list[SubscriberState] = []
    for first in range(0, len(readers), DESCRIBED):
        described += [reader.described() for reader in readers[first : first + DESCRIBED]]
        await asyncio.sleep(0)
    return described


def _opening(reader: StreamEntry) -> Mapping[str, object]:
    channels = reader.outbox.subscriber.selector.channels
    more = f" and {len(channels) - NAMED} more" if len(channels) > NAMED else ""
    return {
        "id": str(reader.id),
        "address": reader.address,
        "channels": ",".join(channels[:NAMED]) + more,
    }


def _end(reader: StreamEntry) -> Mapping[str, object]:
    outbox = reader.outbox
    return {
        **_opening(reader),
        "reason": str(outbox.subscriber.closed),
        "duration": round(reader.age, 3),
        "events": Quantity(outbox.given, "event"),
        "drops": outbox.subscriber.dropped,
        "lag": round(outbox.waited, 3),
    }
