"""Real clients of a real server: streams that are cut, and the comparison of published and shown events."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import aiohttp

from tests.support.client_drivers import Driver, Runtime, Seen, Watch, What
from tests.support.sockets import PATIENCE, until_first
from tests.support.stream_proxy import Cut, StreamProxy, inside

T = TypeVar("T")

# The clients.


class Fault(StrEnum):
    """An error of a client that no server can prevent."""

    EARLY_ID = "stores an id before the blank line, and so never asks for an event that is cut there"
    HALF_ID = "parses an incomplete id line at a clean end of the body"
    HALF_BLOCK = "dispatches an incomplete block at a clean end of the body"
    UNHEARD_ID = "after a status other than 200, forgets the ids of event types without a listener"


@dataclass(frozen=True, slots=True)
class Client:
    """A client, and how it differs from the others."""

    name: str
    runtime: Runtime
    faults: frozenset[Fault] = frozenset()
    ends_when_cut_off: bool = False
    """It gives up with an error when the body ends without its last chunk."""
    ends_at_502: bool = False
    """It gives up with an error after a status other than 200, as WHATWG HTML 9.2.3 demands."""

    @property
    def shows_everything(self) -> bool:
        """Whether its driver can report the server's own events without changing what it does."""
        return Fault.UNHEARD_ID not in self.faults


CLIENTS = (
    Client("eventsource 2", Runtime.NODE, frozenset({Fault.EARLY_ID})),
    Client("eventsource 3", Runtime.NODE, ends_at_502=True),
    Client("eventsource 5", Runtime.NODE, ends_at_502=True),
    Client("fetch-event-source", Runtime.NODE, frozenset({Fault.EARLY_ID})),
    Client("event-source-polyfill", Runtime.NODE, ends_at_502=True),
    Client("reconnecting-eventsource", Runtime.NODE, frozenset({Fault.UNHEARD_ID})),
    Client("reconnecting-eventsource and $open", Runtime.NODE),
    Client("eventsource-client", Runtime.NODE),
    Client("sseclient-py", Runtime.PYTHON, frozenset({Fault.HALF_BLOCK})),
    Client("httpx-sse", Runtime.PYTHON),
    Client("aiohttp-sse-client2", Runtime.PYTHON, ends_when_cut_off=True, ends_at_502=True),
    Client("requests-sse", Runtime.PYTHON, ends_at_502=True),
    Client("requests", Runtime.PYTHON, frozenset({Fault.EARLY_ID, Fault.HALF_ID})),
    Client("chromium", Runtime.CHROMIUM, ends_at_502=True),
    Client("firefox", Runtime.FIREFOX, ends_at_502=True),
)


# The comparison of what was published and what was shown.


@dataclass(frozen=True, slots=True)
class Verdict:
    """The errors in what a client showed, compared to what was published. The default is no error."""

    lost: tuple[str, ...] = ()
    """Events that were never shown, and that neither a `$reset` nor an error of the client accounts for."""
    repeated: tuple[str, ...] = ()
    disordered: tuple[str, ...] = ()
    invented: tuple[str, ...] = ()
    """Data that was shown and never published, such as half an event."""
    resets: int = 0
    """How many `$reset` events were shown."""
    ended: bool = False
    """Whether the client gave up with an error."""


def compare(seen: Sequence[Seen], published: Sequence[str], optional: Collection[str] = ()) -> Verdict:
    """Compare what was shown to what was published. An optional event may be missing."""
    lost: list[str] = []
    repeated: list[str] = []
    disordered: list[str] = []
    invented: list[str] = []
    shown: set[str] = set()
    place, told = 0, False
    for each in seen:
        if each.what is not What.EVENT or each.type.startswith("$"):
            told = told or each.what is What.END or each.type == "$reset"
        elif each.data in shown:
            repeated.append(each.data)
        elif each.data not in published:
            invented.append(each.data)
        elif (index := published.index(each.data)) < place:
            disordered.append(each.data)
        else:
            lost += [] if told else published[place:index]
            shown.add(each.data)
            place, told = index + 1, False
    lost += [] if told else published[place:]
    return Verdict(
        lost=tuple(data for data in lost if data not in optional),
        repeated=tuple(repeated),
        disordered=tuple(disordered),
        invented=tuple(invented),
        resets=sum(each.type == "$reset" for each in seen),
        ended=any(each.what is What.END for each in seen),
    )


# One stream.

FIRST = "first"
CUT = "cut\nhere"
MISSED = "missed"
LAST = "last"

Publish = Callable[[str, str, str], Awaitable[object]]
"""Publishes an event: channel, data and type."""

_channels = (f"channel-{number}" for number in itertools.count(1))


@dataclass(slots=True)
class Stream:
    """One client, subscribed to a channel of its own through a proxy of its own."""

    client: Client
    channel: str
    proxy: StreamProxy
    watch: Watch
    send: Publish
    published: list[str] = field(default_factory=list)
    optional: set[str] = field(default_factory=set)
    opened_before: int = 0
    """How many times it was open before the client reconnects."""

    async def publish(self, data: str) -> None:
        """Publish an event that the client must show."""
        self.published.append(data)
        await self.send(self.channel, data, "price")

    async def opened(self) -> None:
        """Wait until the stream is open, and the client has its cursor."""
        await self.proxy.until(lambda: self.proxy.opened > 0)
        if self.client.shows_everything:
            await self.watch.until(lambda: any(each.type == "$open" for each in self.watch.seen))

    def note_opened(self) -> None:
        """Remember how often the stream was open. `finish` waits until it is open once more."""
        self.opened_before = self.proxy.opened

    async def begin(self) -> None:
        """Wait until the stream is open, publish an event, and wait until it is shown."""
        await self.opened()
        await self.publish(FIRST)
        await self.watch.shown(FIRST)

    async def cut_off(self) -> None:
        """End the stream in a way after which this client reconnects, and hold its requests.

        Without a clean end a client may drop bytes that it has not parsed yet: a stream of fetch() that fails
        discards its queue (WHATWG Streams). So a caller waits until the client shows what it must know.
        """
        clean = self.client.ends_when_cut_off or not self.client.shows_everything
        await self.proxy.cut_now(clean=clean)
        self.note_opened()

    async def was_cut(self) -> None:
        """Wait until the stream has reached its cut, and end it.

        If the block is whole there, the client must show it first.
        """
        proxy = self.proxy
        await self._or_given_up(proxy.until(lambda: proxy.cut_reached))
        if proxy.cut_reached:
            if proxy.cut_offset == len(proxy.cut_block) and self.client.shows_everything:
                await self.watch.shown(*data_and_type(proxy.cut_block))
            await proxy.end_cut()
        self.note_opened()

    async def refused(self) -> None:
        """Let requests through, and wait until one is refused."""
        before = self.proxy.refused
        self.proxy.restore()
        await self._or_given_up(self.proxy.until(lambda: self.proxy.refused > before))

    async def finish(self) -> Verdict:
        """Let requests through, wait until the client is back, publish, and wait until that is shown."""
        self.proxy.restore()
        await self._or_given_up(self.proxy.until(lambda: self.proxy.opened > self.opened_before))
        await self._or_given_up(self.opened())  # one that was cut in its first opening has no cursor yet
        await self.publish(LAST)
        await self.watch.shown(LAST)
        return self.verdict

    async def _or_given_up(self, awaited: Coroutine[Any, Any, object]) -> None:
        await until_first(awaited, self.watch.until(lambda: self.watch.has_ended))

    @property
    def verdict(self) -> Verdict:
        """The comparison of everything shown so far."""
        return compare(self.watch.seen, self.published, self.optional)

    @property
    def transcript(self) -> str:
        """All requests, bytes and events of the stream, to find the cause of an error."""
        requests = [
            f"{each.status} {each.path} after {each.last_event_id!r}: {each.sent!r}"
            for each in self.proxy.exchanges
        ]
        shown = [f"{each.what} {each.type} {each.data!r} {each.id!r}" for each in self.watch.seen]
        head = f"{self.client.name}: {self.verdict} of {self.published}"
        return "\n  ".join([head, *requests, *shown])


def data_and_type(block: bytes) -> tuple[str, str]:
    """Parse a block of the server."""
    lines = [line.split(": ", 1) for line in block.decode().splitlines() if line]
    data = "\n".join(value for name, value in lines if name == "data")
    return data, next(value for name, value in lines if name == "event")


@dataclass(frozen=True, slots=True)
class Site:
    """A server and the drivers of its clients."""

    port: int
    history_size: int
    """Events that the server holds for each channel."""
    send: Publish
    disconnect: Callable[[str], Awaitable[object]]
    """Ends the streams of a channel with DELETE."""
    drivers: Mapping[Runtime, Driver]

    @asynccontextmanager
    async def stream(
        self, client: Client, *, query: str = "", cut: Cut | None = None
    ) -> AsyncIterator[Stream]:
        """Start a client. `cut` ends its first stream."""
        channel = next(_channels)
        async with StreamProxy(self.port, f"/events/{channel}") as proxy:
            if cut is not None:
                proxy.cut_inside(cut)
            url = f"{proxy.url}{proxy.path}{query}"
            async with self.drivers[client.runtime].client(client.name, url) as watch:
                yield Stream(client, channel, proxy, watch, self.send)


def site_of(
    port: int, session: aiohttp.ClientSession, drivers: Mapping[Runtime, Driver], *, history_size: int
) -> Site:
    """Return a site that uses HTTP to publish and to disconnect. The session has the base URL."""

    async def publish(channel: str, data: str, kind: str) -> None:
        async with session.post(f"/send/{channel}", params={"event": kind}, data=data) as response:
            assert response.status == 200, await response.text()

    async def disconnect(channel: str) -> None:
        async with session.get("/subscribers", params={"channel": channel}) as response:
            found = (await response.json())["subscribers"]
        for each in found:
            async with session.delete(f"/subscribers/{each['id']}") as response:
                assert response.status == 200, await response.text()

    return Site(port, history_size, publish, disconnect, drivers)


async def in_time(stream: Stream, steps: Awaitable[T]) -> T:
    """Return the result of some steps. Raises `AssertionError` with the transcript if they hang."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await steps
    except TimeoutError as error:
        raise AssertionError(f"no progress: {stream.transcript}") from error


# One cut, in one kind of block.


class Kind(StrEnum):
    """The block in which a stream is cut."""

    EVENT = "event"
    OPENING = "opening"
    """The first block of the first stream: the client has no id yet."""
    RETURN = "opening of the next stream"
    RESET = "$reset"
    HEARTBEAT = "$heartbeat"
    CLOSE = "$close"


MARKS = {
    Kind.EVENT: b"data: cut\n",
    Kind.OPENING: b"event: $open\n",
    Kind.RETURN: b"event: $open\n",
    Kind.RESET: b"event: $reset\n",
    Kind.HEARTBEAT: b"event: $heartbeat\n",
    Kind.CLOSE: b"event: $close\n",
}
"""Bytes that identify each kind of block."""

QUERIES = {Kind.HEARTBEAT: "?heartbeat=event"}


@dataclass(frozen=True, slots=True)
class CutResult:
    """Where a stream was cut, and the verdict."""

    client: Client
    kind: Kind
    block: bytes
    offset: int
    clean: bool
    verdict: Verdict
    transcript: str

    @property
    def expected(self) -> Verdict:
        """The verdict on a client without faults: no error, and one `$reset` where events were lost."""
        ended = self.client.ends_when_cut_off and not self.clean
        told = self.kind is Kind.RESET and (not ended or self.offset == len(self.block))
        return Verdict(resets=int(told), ended=ended)

    @property
    def fault(self) -> Fault | None:
        """The client's own fault that a cut in this place triggers.

        The faults about ids count only where the id is the last line, as the server must send it.
        """
        behind_id = len(self.block) - 1
        last_line = self.block.rindex(b"\n", 0, behind_id - 1) + 1
        has_id_last = self.block.startswith(b"id: ", last_line)
        if has_id_last and self.offset == behind_id:
            return self._if_client_has(Fault.EARLY_ID)
        if has_id_last and self.clean and last_line < self.offset < behind_id:
            return self._if_client_has(Fault.HALF_ID) or self._if_client_has(Fault.HALF_BLOCK)
        if self.clean and self.block.index(b"data: ") < self.offset < behind_id:
            return self._if_client_has(Fault.HALF_BLOCK)
        return None

    @property
    def is_unexplained(self) -> bool:
        """Whether there is an error that the client's own fault does not explain."""
        verdict = self.verdict
        if verdict == self.expected:
            return False
        match self.fault:
            case Fault.EARLY_ID:
                may_be_lost = {CUT} if self.kind is Kind.EVENT else set()
                unexpected = self.kind is not Kind.RESET and set(verdict.lost) - may_be_lost
                return bool(unexpected or verdict.repeated or verdict.invented or verdict.disordered)
            case Fault.HALF_ID:
                return bool(verdict.invented or verdict.disordered)
            case Fault.HALF_BLOCK:
                return bool(verdict.lost or verdict.disordered)
        return True

    def _if_client_has(self, fault: Fault) -> Fault | None:
        return fault if fault in self.client.faults else None


async def run_cut(
    site: Site, client: Client, kind: Kind, offset: Callable[[bytes], int], *, clean: bool
) -> CutResult:
    """Cut a stream once, publish while the client is away, and compare what it shows afterwards."""
    cut = Cut(inside(MARKS[kind], offset), clean)
    first = cut if kind is Kind.OPENING else None
    async with site.stream(client, query=QUERIES.get(kind, ""), cut=first) as stream:
        verdict = await in_time(stream, _cut_once(site, stream, kind, cut))
        proxy = stream.proxy
        return CutResult(client, kind, proxy.cut_block, proxy.cut_offset, clean, verdict, stream.transcript)


async def _cut_once(site: Site, stream: Stream, kind: Kind, cut: Cut) -> Verdict:
    if kind is not Kind.OPENING:
        await stream.begin()
        if kind in {Kind.RETURN, Kind.RESET}:
            await _miss_events(site, stream, kind)
        stream.proxy.cut_inside(cut)
        stream.proxy.restore()
        if kind is Kind.EVENT:
            await stream.publish(CUT)
        elif kind is Kind.CLOSE:
            await site.disconnect(stream.channel)
    await stream.was_cut()
    if not stream.proxy.opened or not (cut.clean or stream.client.shows_everything):
        # Without an opening the client has no cursor: it is not subscribed yet.
        stream.optional.add(MISSED)
    if kind is not Kind.RESET:  # it would evict another event: a second loss
        await stream.publish(MISSED)
    return await stream.finish()


async def _miss_events(site: Site, stream: Stream, kind: Kind) -> None:
    """Cut the stream after an event, and publish; for a `$reset`, more than the server holds."""
    await stream.cut_off()
    for number in range(site.history_size if kind is Kind.RESET else 0):
        await stream.publish(f"while away {number}")
    await stream.publish(CUT)
