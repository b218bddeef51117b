"""Readers that come and go as an EventSource does, a note of all they saw, and whether that was right."""

import asyncio
import fnmatch
import heapq
import json
import re
import socket
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import msgspec
import pytest

from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.history import History
from sse_broadcast.event import Event
from sse_broadcast.publication import Publication
from sse_broadcast.wire import Decoder

OWN_ID = re.compile(r"([0-9a-f]{8})-(\d+)")
NO_IDS = ("", "earliest", "last", "1h")
"""What a reader's URL may say of where it begins, beside an id."""

CURSOR_TYPES = ("$open", "$heartbeat", "$close")
"""Types of the server's own events that tell a reader nothing but where it is."""

END = "end-"
"""What the ids of the events begin with after which nothing comes that a reader waits for."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a reader asks for: channels and patterns, and the types of event; none is all."""

    channels: tuple[str, ...]
    types: tuple[str, ...] = ()

    def covers(self, channel: str) -> bool:
        """Whether the channel is one of those asked for."""
        return any(fnmatch.fnmatchcase(channel, asked) for asked in self.channels)

    def wants(self, publication: Publication) -> bool:
        """Whether a publication is for this reader."""
        of_a_type = not self.types or publication.event.type in self.types
        return of_a_type and any(self.covers(channel) for channel in publication.channels)


class Ledger:
    """What was really held and evicted, noted where a history does so. Its clock is the newest position."""

    def __init__(self, epoch: str = "") -> None:
        self.epoch = epoch
        self.arriving: set[Reader] = set()
        self.published: list[Publication] = []
        self._named: dict[str, int] = {}
        # By channel, oldest first: positions, and the newest position when each of them was evicted.
        self._held: defaultdict[str, list[int]] = defaultdict(list)
        self._evicted: defaultdict[str, list[int]] = defaultdict(list)
        self._wanted: dict[Want, list[int]] = {}
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._ended = False

    @property
    def position(self) -> int:
        """The newest position."""
        return len(self.published)

    @property
    def names(self) -> list[str]:
        """The ids that publishers chose."""
        return list(self._named)

    def keep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note from now on what the history of this process appends and evicts."""
        extend, evict = History.extend, ChannelLog.evict

        def noted_extend(history: History, publications: Sequence[Publication], publisher: str = "") -> None:
            for publication in publications:
                self.append(publication)
            extend(history, publications, publisher)

        def noted_evict(log: ChannelLog, count: int) -> list[Publication]:
            self._evicted[log.channel] += [self.position] * count
            return evict(log, count)

        monkeypatch.setattr(History, "extend", noted_extend)
        monkeypatch.setattr(ChannelLog, "evict", noted_evict)

    def append(self, publication: Publication) -> None:
        """Note a publication, and call whoever waits for its position."""
        self.published.append(publication)
        if publication.event.id is not None:
            self._named[publication.event.id] = publication.position
        for channel in publication.channels:
            self._held[channel].append(publication.position)
        while self._due and self._due[0][0] <= self.position:
            heapq.heappop(self._due)[2]()

    def call_at(self, position: int, call: Callable[[], None]) -> None:
        """Call once the newest position is this one."""
        if position <= self.position or self._ended:
            call()
            return
        self._serial += 1
        heapq.heappush(self._due, (position, self._serial, call))

    async def reaches(self, position: int) -> None:
        """Wait until the newest position is this one."""
        if position <= self.position or self._ended:
            return
        reached = asyncio.get_running_loop().create_future()
        self.call_at(position, lambda: None if reached.done() else reached.set_result(None))
        await reached

    def end(self) -> None:
        """Let everyone go on who waits for a position, now and later."""
        self._ended = True
        while self._due:
            heapq.heappop(self._due)[2]()

    def place_of(self, id: str) -> int | None:
        """Return the position of an id, or None if no publication of this history can have it."""
        own = OWN_ID.fullmatch(id)
        if own is None:
            return self._named.get(id)
        return int(own[2]) if own[1] == self.epoch and int(own[2]) <= self.position else None

    def wanted(self, want: Want) -> list[int]:
        """Return the positions of all that is for a reader."""
        if want not in self._wanted or self._wanted[want][-1:] != [self.position + 1]:
            found = [publication.position for publication in self.published if want.wants(publication)]
            # How far was looked, as a position that does not exist.
            self._wanted[want] = [*found, self.position + 1]
        return self._wanted[want][:-1]

    def gone(self, want: Want, position: int, now: int) -> bool:
        """Whether none of the reader's channels held this any more."""
        channels = [name for name in self.published[position - 1].channels if want.covers(name)]
        return all(position <= self._lost(channel, now) for channel in channels)

    def lost_within(self, want: Want, after: int, upto: int, now: int) -> bool:
        """Whether anything of a reader's channels was evicted behind one position and up to another."""
        for channel in filter(want.covers, self._held):
            lost = self._held[channel][: self._count_lost(channel, now)]
            place = bisect_right(lost, after)
            if place < len(lost) and lost[place] <= upto:
                return True
        return False

    def newest_loss(self, want: Want, now: int) -> int:
        """Return the newest position evicted from a reader's channels."""
        return max((self._lost(channel, now) for channel in filter(want.covers, self._held)), default=0)

    def newest_of_each(self, want: Want, now: int) -> list[int]:
        """Return the newest that each of a reader's channels held for it at some moment, in order."""
        found = set()
        for channel in filter(want.covers, self._held):
            positions = self._held[channel]
            first, last = self._count_lost(channel, now), bisect_right(positions, now)
            held = (place for place in reversed(positions[first:last]) if self._has_type(want, place))
            found.update(list(held)[:1])
        return sorted(found)

    def _has_type(self, want: Want, position: int) -> bool:
        return not want.types or self.published[position - 1].event.type in want.types

    def _count_lost(self, channel: str, now: int) -> int:
        return bisect_right(self._evicted[channel], now)

    def _lost(self, channel: str, now: int) -> int:
        count = self._count_lost(channel, now)
        return self._held[channel][count - 1] if count else 0


@dataclass(frozen=True, slots=True)
class Note:
    """An event, or None for a cursor that moved without one; `now` was the newest position then."""

    id: str
    now: int
    event: Event | None = None
    channel: str | None = None


@dataclass(slots=True)
class Visit:
    """One connection: the id it brought, what its URL said, the newest position when it asked."""

    brought: str
    since: str
    asked: int
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a reader leaves: after so many bytes, by FIN or RST, for so many positions."""

    after: int
    reset: bool
    away: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Where a reader stops to read: after so many bytes, for so many positions."""

    after: int
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a reader will do."""

    name: str
    want: Want
    joins: int
    format: str = "text"
    version: str = "1.1"
    cuts: tuple[Cut, ...] = ()
    pause: Pause | None = None
    receive_buffer: int = 0
    heartbeat: str = ""
    """What it asks for with `heartbeat=`."""
    last: str = ""
    """What the id of the event ends with after which nothing comes that it waits for."""
    choose: Callable[[Ledger], tuple[str, str]] = lambda _: ("", "")
    """Gives the id it brings and the `since` of its URL, when it joins."""


class Reader:
    """One reader from its first connection to its end. It comes back with the last id it dispatched."""

    def __init__(self, plan: Plan, ledger: Ledger, port: int) -> None:
        self.plan = plan
        self.ledger = ledger
        self.visits: list[Visit] = []
        self.last_id = ""
        self.done = False
        self._port = port
        self._since = ""

    async def run(self) -> None:
        """Join, leave and come back as planned, until the end was seen."""
        await self.ledger.reaches(self.plan.joins)
        self.last_id, self._since = self.plan.choose(self.ledger)
        cuts = list(self.plan.cuts)
        while not self.done:
            cut = cuts.pop(0) if cuts else None
            self.ledger.arriving.add(self)
            try:
                await self._visit(cut)
            finally:
                self.ledger.arriving.discard(self)
            if cut is not None:
                await self.ledger.reaches(self.ledger.position + cut.away)

    def note(self, id: str, event: Event | None, channel: str | None) -> None:
        """Keep what came."""
        self.last_id = id
        self.visits[-1].notes.append(Note(id, self.ledger.position, event, channel))
        if event is not None and id.startswith(END):
            self.done = self.done or id.endswith(self.plan.last)

    async def _visit(self, cut: Cut | None) -> None:
        sock = socket.socket()
        if self.plan.receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.plan.receive_buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, ("127.0.0.1", self._port))
        except BaseException:
            sock.close()
            raise
        self.visits.append(Visit(self.last_id, self._since, self.ledger.position))
        line = Line(self, cut)
        transport, _ = await loop.create_connection(lambda: line, sock=sock)
        try:
            transport.write(self._request())
            await line.over
        finally:
            transport.abort()

    def _request(self) -> bytes:
        plan = self.plan
        query = [f"event={name}" for name in plan.want.types]
        query += [self._beginning()] if self._since else []
        query += ["format=json"] if plan.format == "json" else []
        query += [f"heartbeat={plan.heartbeat}"] if plan.heartbeat else []
        lines = [f"GET /events/{','.join(plan.want.channels)}?{'&'.join(query)} HTTP/{plan.version}"]
        lines += ["Host: localhost"]
        lines += ["Accept: application/x-ndjson"] if plan.format == "ndjson" else []
        lines += [f"Last-Event-ID: {self.last_id}"] if self.last_id else []
        return "\r\n".join([*lines, "", ""]).encode()

    def _beginning(self) -> str:
        """Return what its URL says of where it begins. `since=` is no place for an id that may be unknown."""
        said = self._since
        name = "since" if said in NO_IDS or OWN_ID.fullmatch(said) else "last_event_id"
        return f"{name}={said}"


class Line(asyncio.Protocol):
    """One connection of a reader: cut where its plan says, decoded up to that byte."""

    def __init__(self, reader: Reader, cut: Cut | None) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._cut = cut
        self._count = 0
        self._stream = Dispatcher(reader.plan.format, reader.note)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._reader.ledger.arriving.discard(self._reader)
        before, self._count = self._count, self._count + len(data)
        cut, pause = self._cut, self._reader.plan.pause
        if cut is not None and self._count >= cut.after:
            data = data[: max(cut.after - before, 0)]
        try:
            self._stream.feed(data)
        except Exception as error:  # noqa: BLE001 - what is wrong is for the reader's task to raise
            self.over.set_exception(error)
            self._transport.abort()
        if self._reader.done or (cut is not None and self._count >= cut.after):
            self._leave(reset=cut is not None and cut.reset)
        elif pause is not None and before < pause.after <= self._count:
            self._pause(pause)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if not self.over.done():
            self.over.set_result(None)

    def _leave(self, *, reset: bool) -> None:
        self._cut = Cut(0, reset=False, away=0)  # what still comes is not read
        if reset:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.close()

    def _pause(self, pause: Pause) -> None:
        transport = self._transport
        transport.pause_reading()
        ledger = self._reader.ledger
        ledger.call_at(
            ledger.position + pause.length,
            lambda: None if transport.is_closing() else transport.resume_reading(),
        )


class Dispatcher:
    """An answer's bytes in, in any pieces; the events and the moves of the cursor out, in order.

    Raises `AssertionError` for an event without an id, and unless `$open` comes once, behind nothing but
    the news of losses.
    """

    def __init__(self, format: str, note: Callable[[str, Event | None, str | None], None]) -> None:
        self._format = format
        self._note = note
        self._opened = False
        self._decoder = Decoder()
        self._head: bytes | None = b""
        self._chunks: Chunks | None = None
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._head is not None:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            head, data = self._head.split(b"\r\n\r\n", 1)
            self._head = None
            self._begin(head)
        if self._chunks is not None:
            data = self._chunks.feed(data)
        self._tail += data
        mark = b"\n" if self._format == "ndjson" else b"\n\n"
        *whole, self._tail = self._tail.split(mark)
        for piece in whole:
            if self._format == "ndjson":
                self._line(piece)
            else:
                self._block(piece + mark)

    def _begin(self, head: bytes) -> None:
        status, *headers = head.decode().split("\r\n")
        assert status.split()[1] == "200", head
        said = dict(header.lower().split(": ", 1) for header in headers)
        if said.get("transfer-encoding") == "chunked":
            self._chunks = Chunks()

    def _line(self, line: bytes) -> None:
        if line:
            self._envelope(line)

    def _envelope(self, line: bytes) -> None:
        said = msgspec.json.decode(line)
        data = said["data"] if isinstance(said["data"], str) else json.dumps(said["data"])
        self._take(said["id"], Event(data, said["event"]), said["channel"])

    def _block(self, block: bytes) -> None:
        before = self._decoder.last_event_id
        events = self._decoder.feed(block)
        assert events or self._decoder.last_event_id == before, f"an id without data: {block!r}"
        for event in events:
            if self._format == "json" and not event.reserved:
                said = msgspec.json.decode(event.data)
                assert (said["id"], said["event"]) == (event.id, event.type)
                self._envelope(event.data.encode())
            else:
                self._take(event.id, event, None)

    def _take(self, id: str | None, event: Event, channel: str | None) -> None:
        assert id, f"an event without an id: {event}"
        if self._opened:
            assert event.type != "$open", f"a second opening: {id}"
        elif event.type != "$reset":
            assert event.type == "$open", f"an event before the opening: {event}"
            self._opened = True
        self._note(id, None if event.type in CURSOR_TYPES else event, channel)


class Chunks:
    """The chunked transfer coding, taken off as it comes (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self._left = 0
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, and give what of the body is among them."""
        found = []
        place = 0
        while place < len(data):
            if self._left:
                piece = data[place : place + self._left]
                found.append(piece)
                self._left -= len(piece)
                place += len(piece)
                continue
            end = data.find(b"\n", place) + 1
            self._line += data[place : end or len(data)]
            place = end or len(data)
            if end:
                # The CRLF behind a chunk is a line without a size.
                size, self._line = self._line.strip(), b""
                self._left = int(size, 16) if size else 0
        return b"".join(found)


class Kind(StrEnum):
    """What can be wrong with what a reader saw."""

    GAP = "something was left out"
    REPEAT = "something came twice"
    ORDER = "something came behind what was published later"
    UNWANTED = "something came that was not asked for"
    ALTERED = "something came that was not published so"
    BEGINNING = "it began elsewhere than it asked"
    NO_RESET = "a loss was not told"
    SECOND_RESET = "a loss was told again"
    UNTRUE_RESET = "a loss was told that was none"


class WrongError(AssertionError):
    """A reader saw what it should not have seen, or did not see what it should have."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(slots=True)
class Way:
    """Where a visit may have begun: after a position, with `first` before all else.

    `forgiven` is up to when an eviction is no loss; `owed` is the reason of the reset that must come,
    `feared` of one that may. Until it is `opened` the next move of the cursor is the opening, which is
    where it begins. `here` is the position of the last id that came.
    """

    at: int
    first: list[int] = field(default_factory=list)
    forgiven: int = 0
    owed: str = ""
    feared: str = ""
    taken: int = 0
    opened: bool = False
    here: int = -1


class Judge:
    """Compares what one reader saw with the ledger: no gap, no repeat, one order, true resets."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._want = reader.plan.want
        self._ledger = reader.ledger
        self._wanted = reader.ledger.wanted(self._want)
        self._seen: set[int] = set()
        self._told = -1

    def require_all(self) -> None:
        """Raise `WrongError` for the first thing that is wrong."""
        for count, visit in enumerate(self._reader.visits, 1):
            try:
                self._require(visit)
            except WrongError as wrong:
                raise WrongError(wrong.kind, f"{wrong}\n{self._where(count, visit)}") from None
        if not self._reader.done:
            last = self._reader.visits[-1] if self._reader.visits else None
            raise WrongError(Kind.GAP, f"it never came to the end\n{self._where(0, last)}")

    def _where(self, count: int, visit: Visit | None) -> str:
        plan = self._reader.plan
        asked = "" if visit is None else f"{visit.brought!r}, since={visit.since!r}, at {visit.asked}"
        came = [] if visit is None else [(note.id, note.event and note.event.type) for note in visit.notes]
        return (
            f"  reader {plan.name}: {plan.want}, {plan.format} over HTTP/{plan.version}\n"
            f"  connection {count} of {len(self._reader.visits)} brought {asked}\n"
            f"  came: {len(came)} in all, the last {came[-5:]}\n"
            f"  history: epoch {self._ledger.epoch}, {self._ledger.position} positions"
        )

    def _require(self, visit: Visit) -> None:
        if not visit.notes:
            return
        ways, notes = self._ways(visit)
        failed: list[tuple[int, WrongError]] = []
        for way in ways:
            seen, told = set(self._seen), self._told
            try:
                self._follow(way, visit, notes)
            except WrongError as wrong:
                failed.append((way.taken, wrong))
                self._seen, self._told = seen, told
            else:
                return
        raise max(failed, key=lambda failure: failure[0])[1]

    def _ways(self, visit: Visit) -> tuple[list[Way], Sequence[Note]]:
        """Return where a visit may have begun, and what of its notes comes after that."""
        named = visit.brought or (visit.since if visit.since not in NO_IDS else "")
        if named:
            return [self._from_id(named, visit)], visit.notes
        first = visit.notes[0]
        given = self._ledger.place_of(first.id)
        if first.event is not None or given is None:
            raise WrongError(Kind.BEGINNING, f"it was given no cursor, but {first}")
        if visit.since == "last":
            ways = self._from_last(visit, first.now, given)
        elif visit.since:
            ways = [Way(given, forgiven=first.now, opened=True)]
            if self._holds_before(given, first.now):
                raise WrongError(Kind.BEGINNING, f"older than {given} is held")
        else:
            ways = [Way(given, opened=True)] if visit.asked <= given <= first.now else []
        if not ways:
            raise WrongError(Kind.BEGINNING, f"{given} is not where it was at {visit.asked} to {first.now}")
        return ways, visit.notes[1:]

    def _from_id(self, named: str, visit: Visit) -> Way:
        own = OWN_ID.fullmatch(named)
        place = self._ledger.place_of(named)
        if own is not None and own[1] != self._ledger.epoch:
            return Way(visit.asked, owed="epoch")
        if place is None:
            return Way(visit.asked, owed="unknown")
        if own is None and self._ledger.gone(self._want, place, visit.asked):
            return Way(visit.asked, owed="unknown")
        lost = self._ledger.lost_within(self._want, place, visit.asked, visit.asked)
        gone = own is None and self._ledger.gone(self._want, place, visit.notes[0].now)
        return Way(place, owed="evicted" if lost else "", feared="unknown" if gone else "")

    def _from_last(self, visit: Visit, now: int, given: int) -> list[Way]:
        ways = []
        for at in range(visit.asked, now + 1):
            first = self._ledger.newest_of_each(self._want, at)
            if given == (first[0] - 1 if first else at):
                ways.append(Way(at, first=first, opened=True))
        return ways

    def _holds_before(self, position: int, now: int) -> bool:
        older = self._wanted[: bisect_right(self._wanted, position)]
        return any(not self._ledger.gone(self._want, place, now) for place in older)

    def _follow(self, way: Way, visit: Visit, notes: Sequence[Note]) -> None:
        for note in notes:
            if note.event is not None and note.event.type == "$reset":
                self._reset(way, visit, note)
            elif way.owed:
                raise WrongError(Kind.NO_RESET, f"{note.id} came before the news of {way.owed!r}")
            elif note.event is None:
                self._moved(way, note)
            else:
                self._event(way, note)
            way.feared = ""
            way.taken += 1

    def _place(self, note: Note) -> int:
        place = self._ledger.place_of(note.id)
        if place is None or place > note.now:
            raise WrongError(Kind.ALTERED, f"the id {note.id!r} is none, at {note.now}")
        return place

    def _moved(self, way: Way, note: Note) -> None:
        place = self._place(note)
        if not way.opened and place != way.at:
            raise WrongError(Kind.BEGINNING, f"its opening is at {place}, not at {way.at}")
        way.opened = True
        if place == way.here:
            return  # said again; the newest of a channel may be older than where the others begin
        way.here = place
        if place < way.at:
            raise WrongError(Kind.ORDER, f"the cursor went from {way.at} back to {place}")
        left = self._left(way, upto=place)
        if left or way.first:
            self._missing((way.first or left)[0], note)
        way.at = place

    def _left(self, way: Way, *, upto: int, came: int = 0) -> list[int]:
        """Give what was for the reader behind where it is, and is not forgiven, since it came or was held."""
        wanted = self._wanted[bisect_right(self._wanted, way.at) : bisect_right(self._wanted, upto)]
        if not way.forgiven:
            return wanted
        gone = self._ledger.gone
        return [place for place in wanted if place == came or not gone(self._want, place, way.forgiven)]

    def _missing(self, place: int, note: Note) -> None:
        kind = Kind.NO_RESET if self._ledger.gone(self._want, place, note.now) else Kind.GAP
        raise WrongError(kind, f"expected {self._name(place)}, and {note.id} came")

    def _name(self, place: int) -> str:
        publication = self._ledger.published[place - 1]
        return f"position {place} (id {publication.id}, on {','.join(publication.channels)})"

    def _event(self, way: Way, note: Note) -> None:
        place = self._place(note)
        if way.first:
            expected: int | None = way.first[0]
        else:
            left = self._left(way, upto=max(place, way.at), came=place)
            expected = left[0] if left else None
        if place != expected:
            self._unexpected(way, note, place, expected)
        self._require_same(self._ledger.published[place - 1], note)
        self._seen.add(place)
        way.here = place
        if way.first:
            way.first.pop(0)
        else:
            way.at = place

    def _unexpected(self, way: Way, note: Note, place: int, expected: int | None) -> None:
        if not self._want.wants(self._ledger.published[place - 1]):
            raise WrongError(Kind.UNWANTED, f"{self._name(place)} came")
        if place <= way.at and not way.first:
            kind = Kind.REPEAT if place in self._seen else Kind.ORDER
            raise WrongError(kind, f"{self._name(place)} came behind {way.at}")
        assert expected is not None
        self._missing(expected, note)

    def _require_same(self, publication: Publication, note: Note) -> None:
        assert note.event is not None
        published = publication.event
        if (note.event.data, note.event.type) != (published.data, published.type):
            raise WrongError(Kind.ALTERED, f"{published} came as {note.event}")
        if note.channel is not None:
            first = next(name for name in publication.channels if self._want.covers(name))
            if note.channel != first:
                raise WrongError(Kind.ALTERED, f"{publication.id} came on {note.channel}, not {first}")

    def _reset(self, way: Way, visit: Visit, note: Note) -> None:
        assert note.event is not None
        said = json.loads(note.event.data)
        place = self._place(note)
        if said["missed"] is not None or not {*said["channels"]} <= {*self._want.channels}:
            raise WrongError(Kind.ALTERED, f"the loss is told as {said}")
        if said["reason"] in {way.owed, way.feared} - {"", "evicted"}:
            if not visit.asked <= place <= note.now:
                raise WrongError(Kind.BEGINNING, f"it joined at {place}, but asked at {visit.asked}")
        elif way.owed not in {"", said["reason"]}:
            raise WrongError(Kind.NO_RESET, f"{said} came before the news of {way.owed!r}")
        else:
            self._require_true(way, note, place, said["reason"])
        way.owed = ""
        way.at = way.here = self._told = place

    def _require_true(self, way: Way, note: Note, place: int, reason: str) -> None:
        ledger, want = self._ledger, self._want
        if reason != "evicted" or not ledger.lost_within(want, way.at, place, note.now):
            again = self._told == way.at
            kind = Kind.SECOND_RESET if again else Kind.UNTRUE_RESET
            raise WrongError(kind, f"{reason!r} at {way.at} up to {place}")
        held = self._wanted[bisect_right(self._wanted, ledger.newest_loss(want, note.now)) :]
        if held and held[0] <= place:
            raise WrongError(Kind.GAP, f"{self._name(held[0])} was given up behind the loss, up to {place}")
        way.first.clear()
