"""An HTTP proxy for event streams that can end a stream at any byte of its body and answer 502."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.support.acceptor import Acceptor
from tests.support.sockets import until_first

PAGE = Path(__file__).parent.parent / "clients" / "page.html"
"""The page served at /page, which has the same origin as the stream."""

BLOCK_END = b"\n\n"
COMMENT = b": \n"

HOP_BY_HOP = (b"connection:", b"keep-alive:", b"transfer-encoding:", b"content-length:")
"""Headers that belong to one connection only (RFC 9110, 7.6.1)."""

BAD_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 11\r\nConnection: close\r\n\r\n"
    b"Bad Gateway"
)

LAST_CHUNK = b"0\r\n\r\n"

Place = Callable[[bytes], int | None]
"""Returns the offset in a block at which to end the stream, or None for another block."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A planned end of a stream, in the first block for which `place` returns an offset.

    A clean end has the last chunk, as if the response were complete. Some proxies send that when they lose
    their server, and an HTTP/1.0 body always looks complete.
    """

    place: Place
    clean: bool


def inside(mark: bytes, offset: Callable[[bytes], int]) -> Place:
    """Return a place in the first block that contains `mark`, at an offset computed from the block."""
    return lambda block: offset(block) if mark in block else None


@dataclass(slots=True)
class Exchange:
    """One request for the stream, and the part of the response that was forwarded."""

    path: str
    last_event_id: str
    status: int = 0
    sent: bytes = b""
    """The bytes of the body that were forwarded, without the transfer coding."""
    ended: bool = False

    @property
    def is_refusal(self) -> bool:
        """Whether the response has a status other than 200, or is a `$close` alone."""
        closed_at_once = b"event: $close\n" in self.sent and b"event: $open\n" not in self.sent
        return self.status not in {0, 200} or closed_at_once

    @property
    def is_open(self) -> bool:
        """Whether the first block of a stream was forwarded whole."""
        return BLOCK_END in self.sent and not self.is_refusal


class StreamProxy:
    """Forwards the requests of one client, for one path, to a port on 127.0.0.1.

    Requests for other paths get no response: a client of an earlier test may still try a port that is reused.
    """

    def __init__(self, target: int, path: str) -> None:
        self.path = path
        self.exchanges: list[Exchange] = []
        self.refusing = False
        """Whether requests get 502."""
        self.cut_block = b""
        """The block in which the planned cut took place."""
        self.cut_offset = 0
        self.cut_reached = False
        """Whether the client got everything up to the planned cut; `end_cut` ends its stream."""
        self._target = target
        self._cut: Cut | None = None
        self._cut_ended = asyncio.Event()
        self._forwarding = asyncio.Event()
        self._changed = asyncio.Event()
        self._acceptor = Acceptor(self._answer)
        self._streams: dict[asyncio.StreamWriter, Exchange] = {}

    async def __aenter__(self) -> Self:
        self._acceptor.listen()
        self._forwarding.set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._acceptor.close()

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return self._acceptor.port

    @property
    def url(self) -> str:
        """Where a client connects."""
        return f"http://127.0.0.1:{self.port}"

    # For tests.

    def cut_inside(self, cut: Cut) -> None:
        """Plan a cut. It takes place once, and later requests are held until `restore`."""
        self._cut = cut
        self.cut_reached = False
        self._cut_ended.clear()

    def hold(self) -> None:
        """Accept requests, but neither forward nor answer them until `restore`."""
        self._forwarding.clear()

    async def cut_now(self, *, clean: bool) -> None:
        """End every stream after its last whole block, and hold later requests until `restore`."""
        self.hold()
        for writer, exchange in list(self._streams.items()):
            await self._end(writer, exchange, clean=clean)

    def restore(self) -> None:
        """Forward or refuse requests again, held ones too."""
        self._forwarding.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the exchanges holds."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    @property
    def opened(self) -> int:
        """How many streams were opened."""
        return sum(exchange.is_open for exchange in self.exchanges)

    @property
    def refused(self) -> int:
        """How many requests were refused, by the proxy or the server."""
        return sum(exchange.is_refusal for exchange in self.exchanges)

    async def end_cut(self) -> None:
        """End the stream that has reached its planned cut."""
        self._cut_ended.set()
        await self.until(lambda: self._cut is None)

    # Forwarding.

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        exchange = read_request(head)
        path = urlsplit(exchange.path).path
        if path == "/page":
            writer.write(page_response())
        elif path == self.path:
            # The client may give up a request that is held: nothing must be forwarded to it later.
            await until_first(self._respond(head, writer, exchange), reader.read())

    async def _respond(self, head: bytes, writer: asyncio.StreamWriter, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self._changed.set()
        await self._forwarding.wait()
        if self.refusing:
            writer.write(BAD_GATEWAY)
            self._note(exchange, status=502)
        else:
            await self._forward(head, writer, exchange)

    async def _forward(self, head: bytes, writer: asyncio.StreamWriter, exchange: Exchange) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        self._streams[writer] = exchange
        try:
            to_server.write(head)
            response = await server.readuntil(b"\r\n\r\n")
            writer.write(response_head(response))
            self._note(exchange, status=int(response.split()[1]))
            await self._forward_body(body_of(response, server), writer, exchange)
        finally:
            del self._streams[writer]
            to_server.transport.abort()

    async def _forward_body(
        self, body: AsyncIterator[bytes], writer: asyncio.StreamWriter, exchange: Exchange
    ) -> None:
        waiting = b""
        async for piece in body:
            *blocks, waiting = (waiting + piece).split(BLOCK_END)
            for block in blocks:
                await self._forward_block(block + BLOCK_END, writer, exchange)
            if waiting == COMMENT:  # a heartbeat comment, which belongs to no block yet
                self._send(waiting, writer, exchange)
                waiting = b""
        self._send(waiting, writer, exchange)
        await self._end(writer, exchange, clean=True)

    async def _forward_block(self, block: bytes, writer: asyncio.StreamWriter, exchange: Exchange) -> None:
        place = None if self._cut is None or exchange.ended else self._cut.place(block)
        if self._cut is None or place is None:
            self._send(block, writer, exchange)
            return
        self.hold()
        self._send(block[:place], writer, exchange)
        self.cut_block, self.cut_offset, self.cut_reached = block, place, True
        self._changed.set()
        try:
            await self._cut_ended.wait()
            await self._end(writer, exchange, clean=self._cut.clean)
        finally:  # the client may leave before
            self._cut = None
            self._changed.set()

    def _send(self, data: bytes, writer: asyncio.StreamWriter, exchange: Exchange) -> None:
        if data and not exchange.ended:
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            exchange.sent += data
            self._changed.set()

    async def _end(self, writer: asyncio.StreamWriter, exchange: Exchange, *, clean: bool) -> None:
        if exchange.ended:
            return
        exchange.ended = True
        if clean:
            writer.write(LAST_CHUNK)
        writer.close()
        self._changed.set()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def _note(self, exchange: Exchange, *, status: int) -> None:
        exchange.status = status
        self._changed.set()


def read_request(head: bytes) -> Exchange:
    """Parse a request: its path, and the id in its header or query."""
    line, *headers = head.decode("latin-1").split("\r\n")
    path = line.split(" ")[1]
    named = dict(header.lower().split(": ", 1) for header in headers if ": " in header)
    query = parse_qs(urlsplit(path).query)
    return Exchange(path, named.get("last-event-id") or query.get("lastEventId", [""])[-1])


def page_response() -> bytes:
    """Return the response to a request for the page."""
    body = PAGE.read_bytes()
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def response_head(head: bytes) -> bytes:
    """Return the response head for the client, whose body is chunked anew and ends the connection."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith(HOP_BY_HOP)]
    return b"\r\n".join([*kept, b"Transfer-Encoding: chunked", b"Connection: close", b"", b""])


async def body_of(head: bytes, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the parts of a body. Raises `asyncio.IncompleteReadError` if it is incomplete."""
    lines = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" not in lines:
        length = next(int(line.split()[1]) for line in lines if line.startswith(b"content-length:"))
        yield await reader.readexactly(length)
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
