"""Roster: the HTTP streams that are open, and what is known of each when somebody asks."""

import asyncio
import functools
import heapq
import itertools
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum

from aiohttp import web

from sse_broadcast.channels import Interest
from sse_broadcast.encoding import JSON, NDJSON, TEXT
from sse_broadcast.fanout.group import Lane
from sse_broadcast.logs.batching import Gathered
from sse_broadcast.quantity import Count
from sse_broadcast.server.access.authorization import ACCESS
from sse_broadcast.server.http.responses import Caller, SubscriberState

logger = logging.getLogger("sse_broadcast.streams")

PORTION = 500
"""Readers that are looked at between two turns of the loop."""

DESCRIBED = 100
"""Readers that are described between two turns."""

NAMED = 10
"""Channels of a reader that a line of the log names."""

FORMATS = {TEXT.format: "text", JSON.format: "json", NDJSON.format: "ndjson"}

Wanted = Callable[[Interest], bool]


class State(StrEnum):
    """What a reader is at."""

    LIVE = "live"
    """It gets what is published as it comes."""
    CATCHING_UP = "catching-up"
    """It gets what it missed, from the history."""
    FULL = "full"
    """Its socket takes no more for now, and what is published for it waits."""
    ENDING = "ending"
    """Its stream is over, and it has yet to take the end."""


class Order(StrEnum):
    """By what readers are put in order; those that an operator looks for come first."""

    LAG = "lag"
    QUEUE = "queue"
    AGE = "age"
    EVENTS = "events"
    DROPS = "drops"


class Reader:
    """One open stream. It holds what its handler holds anyway; what it says is found out when asked."""

    __slots__ = ("_client", "_request", "ended", "id", "lane", "opened")

    def __init__(self, id: int, request: web.Request, lane: Lane, client: str | None) -> None:
        self.id = id
        self.lane = lane
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
        kind, name, _ = self._request[ACCESS].bearer
        return None if name is None else Caller(kind, name)

    @property
    def state(self) -> State:
        """What it is at."""
        lane = self.lane
        if lane.subscriber.closed is not None:
            return State.ENDING
        if lane.blocked:
            return State.FULL
        return State.LIVE if lane.subscriber.catching_up is None else State.CATCHING_UP

    def described(self) -> SubscriberState:
        """Give all that is known of it now."""
        lane = self.lane
        interest = lane.subscriber.interest
        return SubscriberState(
            id=str(self.id),
            address=self.address,
            channels=interest.channels,
            types=None if interest.types is None else sorted(interest.types),
            format=FORMATS[lane.sink.encoding.format],
            caller=self.caller,
            state=self.state,
            age=round(self.age, 3),
            events=lane.given,
            drops=lane.subscriber.dropped,
            behind=lane.behind,
            queued_bytes=lane.waiting_bytes,
            lag=round(lane.lag, 3),
        )


FIRST: Mapping[Order, Callable[[Reader], float]] = {
    Order.LAG: lambda reader: reader.lane.lag,
    Order.QUEUE: lambda reader: reader.lane.behind,
    Order.AGE: lambda reader: -reader.opened,
    Order.EVENTS: lambda reader: reader.lane.given,
    Order.DROPS: lambda reader: reader.lane.subscriber.dropped,
}
"""What is the greater the earlier a reader comes."""


class Roster:
    """The open streams by id, in the order of their opening; no id is given twice.

    To be on it costs a reader a microsecond at either end, and nothing between. Each opening and end is a
    line of the log, if those of its level are kept.
    """

    def __init__(self) -> None:
        self._open: dict[int, Reader] = {}
        self._ids = itertools.count(1)
        self._log = Gathered(logger)

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, request: web.Request, lane: Lane, client: str | None = None) -> Reader:
        """Take note of a stream, until `leave`. `client` is for whom a proxy speaks, if one does."""
        reader = Reader(next(self._ids), request, lane, client)
        self._open[reader.id] = reader
        self._log.say(
            "stream %(id)s opened by %(address)s: %(channels)s", functools.partial(_opening, reader)
        )
        return reader

    def leave(self, reader: Reader) -> None:
        """Forget a stream that is over; once."""
        del self._open[reader.id]
        reader.ended = asyncio.get_running_loop().time()
        self._log.say(
            "stream %(id)s of %(address)s closed: %(reason)s, after %(duration)s s, with %(events)s"
            " given and %(drops)s dropped, %(lag)s s behind: %(channels)s",
            functools.partial(_end, reader),
        )

    def close(self) -> None:
        """Have the log say what was gathered of openings and ends."""
        self._log.close()

    def find(self, id: str) -> Reader | None:
        """Give an open stream by its id."""
        return self._open.get(int(id)) if id.isascii() and id.isdigit() and len(id) < 20 else None

    async def page(self, *, after: int, limit: int, wanted: Wanted | None = None) -> list[SubscriberState]:
        """Give the streams behind an id, in the order of their opening."""
        found: list[Reader] = []
        async for some in self._portions(after, wanted):
            found += some
            if len(found) >= limit:
                break
        return await _described(found[:limit])

    async def first(self, order: Order, *, limit: int, wanted: Wanted | None = None) -> list[SubscriberState]:
        """Give the streams that come first in an order, as they were when it was their turn."""
        first, found = FIRST[order], list[tuple[float, int, Reader]]()
        async for some in self._portions(0, wanted):
            found += [(first(reader), -reader.id, reader) for reader in some]
            found = heapq.nlargest(limit, found)
        return await _described([reader for _, _, reader in found])

    async def _portions(self, after: int, wanted: Wanted | None) -> AsyncIterator[list[Reader]]:
        """Give those that are wanted, a few at a time, and let everyone else go on in between."""
        ids = list(self._open)
        for first in range(bisect_right(ids, after), len(ids), PORTION):
            found = map(self._open.get, ids[first : first + PORTION])
            yield [
                reader
                for reader in found
                if reader is not None and (wanted is None or wanted(reader.lane.subscriber.interest))
            ]
            await asyncio.sleep(0)


ROSTER: web.AppKey[Roster] = web.AppKey("sse_broadcast.roster", Roster)


async def _described(readers: list[Reader]) -> list[SubscriberState]:
    described: list[SubscriberState] = []
    for first in range(0, len(readers), DESCRIBED):
        described += [reader.described() for reader in readers[first : first + DESCRIBED]]
        await asyncio.sleep(0)
    return described


def _opening(reader: Reader) -> Mapping[str, object]:
    channels = reader.lane.subscriber.interest.channels
    more = f" and {len(channels) - NAMED} more" if len(channels) > NAMED else ""
    return {
        "id": str(reader.id),
        "address": reader.address,
        "channels": ",".join(channels[:NAMED]) + more,
    }


def _end(reader: Reader) -> Mapping[str, object]:
    lane = reader.lane
    return {
        **_opening(reader),
        "reason": str(lane.subscriber.closed),
        "duration": round(reader.age, 3),
        "events": Count(lane.given, "event"),
        "drops": lane.subscriber.dropped,
        "lag": round(lane.waited, 3),
    }
