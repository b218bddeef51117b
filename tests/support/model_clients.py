"""Model clients: one small parser for each way in which real client libraries read a stream.

Which library reads how is in docs/clients.md. Each takes bytes in any pieces, and tells what it shows to its
program, what id it would resume after, and how it asks again.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

BLANK = b""


@dataclass(frozen=True, slots=True)
class Shown:
    """An event as a program gets it."""

    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Request:
    """How a client asks again: its query, and its headers."""

    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Block:
    """The fields of a block so far."""

    type: str = ""
    data: list[str] = field(default_factory=list)
    id: str | None = None


class Standard:
    """The standard's own way (WHATWG HTML 9.2.6): Chromium, eventsource 5, undici."""

    charset = "utf-8"

    def __init__(self, last_id: str = "") -> None:
        self.first_id = self.last_id = last_id
        self.shown: list[Shown] = []
        self._tail = b""
        self._block = Block()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in self.lines(lines):
            self.take(line)

    def end(self) -> None:
        """See the end of the stream. A block that it cuts short is none."""

    def lines(self, lines: list[bytes]) -> Iterator[bytes]:
        """Return the lines that are looked at."""
        return iter(lines)

    def take(self, line: bytes) -> None:
        """Take one line."""
        if line == BLANK:
            self.dispatch()
        elif not line.startswith(b":"):
            name, _, value = line.partition(b":")
            # A cut may leave half a character.
            self.field(name.decode(), value.removeprefix(b" ").decode(self.charset, "replace"))

    def field(self, name: str, value: str) -> None:
        """Take one field."""
        match name:
            case "data":
                self._block.data.append(value)
            case "event":
                self._block.type = value
            case "id":
                self.id(value)

    def id(self, value: str) -> None:
        """Take an id."""
        self._block.id = value

    def dispatch(self) -> None:
        """End a block."""
        block, self._block = self._block, Block()
        self.learn(block)
        if block.data:
            self.show(block)

    def learn(self, block: Block) -> None:
        """Take the id of a whole block."""
        if block.id is not None:
            self.last_id = block.id

    def show(self, block: Block) -> None:
        """Give a block to the program."""
        self.shown.append(Shown(block.type or "message", "\n".join(block.data)))

    def again(self) -> Request:
        """Return how it asks again."""
        return Request(headers=(("Last-Event-ID", self.last_id),) if self.last_id else ())


class NeedsData(Standard):
    """Takes no id from a block without data: Firefox, eventsource 3 and 4, OkHttp, LaunchDarkly's clients."""

    def learn(self, block: Block) -> None:
        """Take the id, if there is something to show."""
        if block.data:
            super().learn(block)


class AsItPasses(Standard):
    """Takes an id as its line passes: eventsource 1 and 2, fetch-event-source, most hand-written loops."""

    def id(self, value: str) -> None:
        """Take an id at once."""
        self.last_id = value


class Forgetful(NeedsData):
    """Forgets its id over a block with data and none: reqwest-eventsource and three others of Rust."""

    def learn(self, block: Block) -> None:
        """Take the id, or the lack of one."""
        if block.data:
            self.last_id = block.id or ""


class EmptyMessages(Standard):
    """Shows a block without data as an empty message: fetch-event-source, httpx-sse, Jersey, Spring."""

    def dispatch(self) -> None:
        """End a block, whatever is in it."""
        block, self._block = self._block, Block()
        self.learn(block)
        if block.data or block.type or block.id is not None:
            self.show(block)


class SwallowsBehindComments(Standard):
    """Takes an empty comment and the line behind it as one comment: RESTEasy 7."""

    def __init__(self, last_id: str = "") -> None:
        super().__init__(last_id)
        self._swallows = False

    def take(self, line: bytes) -> None:
        """Take a line, unless it stands behind an empty comment."""
        swallowed, self._swallows = self._swallows, line == b":"
        if not swallowed:
            super().take(line)


class CommentsAreBlocks(Standard):
    """Shows a comment and a blank line as an empty message: Jersey, RESTEasy, CXF, Vert.x, ktor."""

    def __init__(self, last_id: str = "") -> None:
        super().__init__(last_id)
        self._commented = False

    def take(self, line: bytes) -> None:
        """Take a line, a comment too."""
        if line == BLANK and self._commented and not self._block.data:
            self.show(self._block)
        self._commented = line.startswith(b":") or (self._commented and line != BLANK)
        super().take(line)


class HoldsBlocks(Standard):
    """Holds bytes until a blank line, 64 KiB at most: r3labs, tmaxmax, bufio.Scanner."""

    LIMIT = 65_536

    def __init__(self, last_id: str = "") -> None:
        super().__init__(last_id)
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Take bytes, and look at them when a block is whole."""
        self._held += data
        end = self._held.rfind(b"\n\n") + 2
        if end > 1:
            super().feed(self._held[:end])
            self._held = self._held[end:]
        if len(self._held) > self.LIMIT:
            raise OverflowError("token too long")


class TwoHeaders(NeedsData):
    """Sends the id that it began with and the one that it learnt: reqwest-eventsource with a saved id."""

    def again(self) -> Request:
        """Return both, the newer behind the older."""
        return Request(headers=(("Last-Event-ID", self.first_id), ("Last-Event-ID", self.last_id)))


class InQuery(NeedsData):
    """Sends its id in the query: event-source-polyfill, reconnecting-eventsource."""

    def again(self) -> Request:
        """Return the parameter."""
        return Request(query=f"lastEventId={self.last_id}" if self.last_id else "")


class NamesItsStream(Standard):
    """Adds the channel as `?stream=`: r3labs."""

    def again(self) -> Request:
        """Return it beside the header."""
        return Request("stream=a", super().again().headers)


class ShowsHalves(Standard):
    """Shows half a block, and takes half an id, at a clean end: sseclient-py, r3labs, Jersey, Spring."""

    def end(self) -> None:
        """Take what is there for whole."""
        if self._tail:
            self.take(self._tail)
            self._tail = b""
        self.dispatch()


class Latin1(Standard):
    """Reads by the charset of the header, and Latin-1 without any: all that is built on requests."""

    def __init__(self, last_id: str = "", content_type: str = "") -> None:
        super().__init__(last_id)
        found = re.search(r"charset=([\w-]+)", content_type)
        self.charset = found[1] if found else "latin-1"


CLIENTS: Mapping[str, type[Standard]] = {
    kind.__name__: kind
    for kind in (
        Standard,
        NeedsData,
        AsItPasses,
        Forgetful,
        EmptyMessages,
        SwallowsBehindComments,
        CommentsAreBlocks,
        HoldsBlocks,
        TwoHeaders,
        InQuery,
        NamesItsStream,
        ShowsHalves,
    )
}
