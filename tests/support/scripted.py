"""A server that says whatever a test wants, for clients of the command line and of the library."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from sse_broadcast.event import Event
from tests.support.acceptor import accepting

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

RETRY = b"retry: 500\n"
"""The shortest time that a client goes by."""

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"

OPENING = b': \nretry: 3127\nevent: $open\ndata: {"heartbeat": 4}\nid: k3f9-1041\n\n'
OPENED = STREAM + b"%x\r\n%b\r\n" % (len(OPENING), OPENING)
OPEN = Event('{"heartbeat": 4}', "$open", "k3f9-1041", 3127)
"""How every stream of the server begins."""

GONE = (b"", b"")
"""No answer, twice: aiohttp itself asks a second time."""

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(status: str, kind: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


class Held(bytes):
    """An answer after which the connection stays open."""


class Cut(bytes):
    """An answer that comes in two pieces, the second when the client has had time to read the first."""


class Script:
    """A server that gives each connection the next of its answers, and closes it.

    The last answer stays open, so that a client that should be content with it is not told to
    come again. `heads` are the requests that were answered, `bodies` what they brought.
    """

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self.url = ""
        self.heads: list[list[str]] = []
        self.bodies: list[bytes] = []
        self._answers = list(answers)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        if self._answers:
            self.heads.append(head.decode().split("\r\n")[:-2])
            self.bodies.append(await reader.readexactly(self._length()))
            answer = self._answers.pop(0)
            await self._write(writer, answer)
            if not self._answers or isinstance(answer, Held):
                await asyncio.Event().wait()

    def _length(self) -> int:
        name = "Content-Length: "
        return next((int(line.removeprefix(name)) for line in self.heads[-1] if line.startswith(name)), 0)

    async def _write(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        if isinstance(answer, Cut):
            writer.write(answer[:-20])
            for _ in range(50):  # turns of the loop that the client is in, too
                await asyncio.sleep(0)
            answer = answer[-20:]
        writer.write(answer)
        await writer.drain()

    def resumed_from(self) -> list[str | None]:
        """Return the Last-Event-ID of each request."""
        name = "Last-Event-ID: "
        return [next((line[15:] for line in head if line.startswith(name)), None) for head in self.heads]


Speak = Callable[..., Awaitable[Script]]


async def speak() -> AsyncIterator[Speak]:
    """Start scripted servers, and stop them when the test ends.

    A fixture once `pytest.fixture` has seen it.
    """
    async with AsyncExitStack() as stack:

        async def start(*answers: bytes, socket: Path | None = None) -> Script:
            script = Script(answers)
            acceptor = await stack.enter_async_context(accepting(script.answer, path=socket))
            script.url = f"unix:{socket}" if socket else f"http://127.0.0.1:{acceptor.port}"
            return script

        yield start
