"""A client that is nothing but a socket, for what real clients would not do."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Self

from sse_broadcast.event import Event
from sse_broadcast.wire import Decoder, chunk

CURSOR_TYPES = ("$open", "$heartbeat")
"""Types of the events that only move a subscriber's cursor."""

PATIENCE = 30.0
"""Seconds after which a test that still waits has failed; no test takes a tenth of it."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another part of this loop is about to do."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


async def until_first(*parts: Coroutine[Any, Any, object]) -> None:
    """Run these until one of them ends, cancel the others, and raise its exception."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RawClient:
    """One TCP connection; what is read stays in `buffer` until it is taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self._decoder = Decoder()

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int = 0, source: str = "") -> Self:
        """Connect, from an address of its own (127.0.0.2, say) if one is given.

        A small receive buffer, set before, makes a reader that is soon full.
        """
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(sock)

    @classmethod
    async def open_unix(cls, path: str) -> Self:
        """Connect to a UNIX socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, path)
        return cls(sock)

    @property
    def port(self) -> int:
        """Its own port, by which the other side's socket is found."""
        return int(self.sock.getsockname()[1])

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def subscribe(self, *, version: str = "1.1", path: str = "/events", headers: str = "") -> bytes:
        """Ask for the stream, and give its head."""
        await self.send(f"GET {path} HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n".encode())
        return await self.head()

    async def ask(self, method: str, path: str, *, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """Make a request on this connection and give the answer's status and body."""
        await self.request(method, path, body=body, headers=headers)
        return await self.answer()

    async def refused(
        self, method: str, path: str, *, body: bytes = b"", headers: str = ""
    ) -> tuple[int, str]:
        """Make a request on this connection and return the status and the detail of the problem it gets."""
        await self.request(method, path, body=body, headers=headers)
        return await self.refusal()

    async def refusal(self) -> tuple[int, str]:
        """Return the status and the detail of an answer that is a problem."""
        status, body = await self.answer()
        return status, json.loads(body)["detail"]

    async def request(self, method: str, path: str, *, body: bytes = b"", headers: str = "") -> None:
        """Make a request on this connection, and wait for nothing."""
        length = f"Content-Length: {len(body)}\r\n" if body or method in {"POST", "PUT"} else ""
        await self.send(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}{headers}\r\n".encode() + body
        )

    async def begin(self, path: str, *, headers: str = "") -> None:
        """Begin a PUT whose body comes in chunks, as `curl -T -` sends it."""
        await self.send(
            f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
        )

    async def send_chunk(self, data: bytes = b"") -> None:
        """Send a chunk of the body; b"" ends it."""
        await self.send(chunk(data))

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and body of an answer with a Content-Length."""
        head = await self.head()
        size = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        return int(head.split()[1]), await self.take(size)

    async def head(self) -> bytes:
        """Return what comes up to and with the blank line."""
        return await self.up_to(b"\r\n\r\n")

    async def up_to(self, mark: bytes) -> bytes:
        """Return what comes up to and with the mark."""
        while mark not in self.buffer:
            await self.more()
        end = self.buffer.index(mark) + len(mark)
        taken, self.buffer = self.buffer[:end], self.buffer[end:]
        return taken

    async def take(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        while len(self.buffer) < size:
            await self.more()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    async def chunk(self) -> bytes:
        """Return the next chunk of a chunked body; b"" is its end."""
        size = int(await self.up_to(b"\r\n"), 16)
        data = await self.take(size)
        assert await self.take(2) == b"\r\n"
        return data

    async def events(self, count: int) -> list[Event]:
        """Return the next events of a chunked stream, without those that only move the cursor.

        `last_event_id` is moved by them too.
        """
        found: list[Event] = []
        while len(found) < count:
            data = await self.chunk()
            assert data, f"the stream ended after {found}"
            found += [event for event in self._decoder.feed(data) if event.type not in CURSOR_TYPES]
        assert len(found) == count
        return found

    @property
    def last_event_id(self) -> str:
        """What it would send as `Last-Event-ID` after what `events` gave."""
        return self._decoder.last_event_id

    async def rest(self) -> bytes:
        """Return everything up to the connection's end."""
        while await self.more(or_end=True):
            pass
        taken, self.buffer = self.buffer, b""
        return taken

    async def more(self, *, or_end: bool = False) -> bool:
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
        if not data and not or_end:
            raise ConnectionError(f"the connection ended after {self.buffer!r}")
        self.buffer += data
        return bool(data)

    def reset(self) -> None:
        """Close with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close with a FIN."""
        self.sock.close()


class Reachable:
    """What listens at a port, and the clients that were opened to it, which are closed with `clients`."""

    clients: ExitStack | AsyncExitStack

    @property
    def port(self) -> int:
        """Where it listens."""
        raise NotImplementedError

    async def connect(self, **options: Any) -> RawClient:
        """Open a socket; see `RawClient.open`."""
        client = await RawClient.open(self.port, **options)
        self.clients.callback(client.close)
        return client

    async def subscriber(
        self, path: str = "/events", *, headers: str = "", version: str = "1.1", **options: Any
    ) -> RawClient:
        """Open a socket, ask for a stream, and take the head of what is answered."""
        client = await self.connect(**options)
        await client.subscribe(path=path, headers=headers, version=version)
        return client

    async def live(self, path: str = "/events", **options: Any) -> RawClient:
        """Open a stream, and take its head and its opening."""
        client = await self.subscriber(path, **options)
        await client.chunk()
        return client


LEAVING: dict[str, Callable[[RawClient], None]] = {
    "FIN": RawClient.close,
    "RST": RawClient.reset,
    "half-close": RawClient.half_close,
}
"""The ways in which a client can leave."""
