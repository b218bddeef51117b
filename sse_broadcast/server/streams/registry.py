"""Stream registry: the open HTTP streams, for listings and for ending one."""

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
"""Readers that are looked at between two turns of the loop."""

DESCRIBED = 100
"""Readers that are described between two turns."""

NAMED = 10
"""Channels of a reader that a line of the log names."""

FORMAT_NAMES = {TEXT.format: "text", JSON.format: "json", NDJSON.format: "ndjson"}

Wanted = Callable[[Selector], bool]


class StreamState(StrEnum):
    """What a reader is at."""

    LIVE = "live"
    """It gets what is published as it comes."""
    CATCHING_UP = "catching-up"
    """It gets what it missed, from the history."""
    FULL = "full"
    """Its socket takes no more for now, and what is published for it waits."""
    ENDING = "ending"
    """Its stream is over, and it has yet to take the end."""


class SortKey(StrEnum):
    """By what readers are put in order; those that an operator looks for come first."""

    LAG = "lag"
    QUEUE = "queue"
    AGE = "age"
    EVENTS = "events"
    DROPS = "drops"


class StreamEntry:
    """One open stream. It holds what its handler holds anyway; what it says is found out when asked."""

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
        """The client's address, as trusted proxies have it; `unix` of a socket that none speaks for."""
        return self._client or self._request.remote or "unix"

    @property
    def age(self) -> float:
        """The seconds that it lasts, or lasted."""
        return (asyncio.get_running_loop().time() if self.ended is None else self.ended) - self.opened

    @property
    def caller(self) -> Caller | None:
        """Who it is, if it showed a credential."""
        kind, name, _ = self._request[PRINCIPAL].bearer
        return None if name is None else Caller(kind, name)

    @property
    def state(self) -> StreamState:
        """What it is at."""
        outbox = self.outbox
        if outbox.subscriber.closed is not None:
            return StreamState.ENDING
        if outbox.blocked:
            return StreamState.FULL
        return StreamState.LIVE if outbox.subscriber.catching_up is None else StreamState.CATCHING_UP

    def described(self) -> SubscriberState:
        """Return all that is known of it now."""
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
"""What is the greater the earlier a reader comes."""


class StreamRegistry:
    """The open streams by id, in the order of their opening; no id is given twice.

    To be on it costs a reader a microsecond at either end, and nothing between. Each opening and end is a
    line of the log, if those of its level are kept.
    """

    def __init__(self) -> None:
        self._open: dict[int, StreamEntry] = {}
        self._ids = itertools.count(1)
        self._log = BatchedLogger(logger)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[StreamEntry]:
        """Iterate over the open streams, in the order of their opening; none may come or go meanwhile."""
        return iter(self._open.values())

    def add(self, request: web.Request, outbox: Outbox, client: str | None = None) -> StreamEntry:
        """Take note of a stream, until `leave`. `client` is for whom a proxy speaks, if one does."""
        reader = StreamEntry(next(self._ids), request, outbox, client)
        self._open[reader.id] = reader
        self._log.info(
            "stream %(id)s opened by %(address)s: %(channels)s", functools.partial(_opening, reader)
        )
        return reader

    def remove(self, reader: StreamEntry) -> None:
        """Forget a stream that is over; once."""
        del self._open[reader.id]
        reader.ended = asyncio.get_running_loop().time()
        self._log.info(
            "stream %(id)s of %(address)s closed: %(reason)s, after %(duration)s s, with %(events)s"
            " given and %(drops)s dropped, %(lag)s s behind: %(channels)s",
            functools.partial(_end, reader),
        )

    def close(self) -> None:
        """Have the log say what was gathered of openings and ends."""
        self._log.close()

    def find(self, id: str) -> StreamEntry | None:
        """Return an open stream by its id."""
        return self._open.get(int(id)) if id.isascii() and id.isdigit() and len(id) < 20 else None

    async def page(self, *, after: int, limit: int, wanted: Wanted | None = None) -> list[SubscriberState]:
        """Return the streams behind an id, in the order of their opening."""
        found: list[StreamEntry] = []
        async for some in self._portions(after, wanted):
            found += some
            if len(found) >= limit:
                break
        return await _described(found[:limit])

    async def top(self, order: SortKey, *, limit: int, wanted: Wanted | None = None) -> list[SubscriberState]:
        """Return the streams that come first in an order, as they were when it was their turn."""
        first, found = SORT_VALUES[order], list[tuple[float, int, StreamEntry]]()
        async for some in self._portions(0, wanted):
            found += [(first(reader), -reader.id, reader) for reader in some]
            found = heapq.nlargest(limit, found)
        return await _described([reader for _, _, reader in found])

    async def _portions(self, after: int, wanted: Wanted | None) -> AsyncIterator[list[StreamEntry]]:
        """Yield those that are wanted, a few at a time, and let everyone else go on in between."""
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
