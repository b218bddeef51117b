"""Many readers and a few publishers in one loop, that notice whatever is missing: for servers that stop.

The readers do what an EventSource does, and check what they are given: whole frames, in their order, none
missing, and a clean end.
"""

import asyncio
import contextlib
import json
import re
import resource
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.harness import HOST, PATIENCE, fail

SIZE = 100

FRAME = re.compile(rb"data: x{%d}\nid: ([0-9a-f]{8})-(\d+)\n\n" % SIZE)
BEGIN = re.compile(rb"event: \$(?:open|reset)\ndata: [^\n]*\nid: ([0-9a-f]{8})-(\d+)\n\n")
NEWS = re.compile(rb'event: \$(\w+)\n(?:retry: (\d+)\n)?data: \{"reason": "(\w+)"')

SUBSCRIBE = "GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"

END = b"\r\n0\r\n\r\n"
"""The bytes that end a complete body."""

AT_ONCE = 200
"""Connections that are on their way at one time."""


def raise_descriptor_limit() -> None:
    """Raise the limit of descriptors to its maximum."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def process(command: Sequence[str], *, descriptors: Sequence[int] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, and kill it if it has not ended in the end; what it said is shown if it failed."""
    with tempfile.TemporaryFile("w+") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", pass_fds=descriptors)
        try:
            yield started
        finally:
            started.kill()
            if started.wait() not in {0, -9}:
                log.seek(0)
                print(log.read()[-2000:])


async def exit_of(server: subprocess.Popen[bytes]) -> int:
    """Wait for a server's end, and give its exit code."""
    return await asyncio.to_thread(server.wait)


async def until_it_accepts(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server is there."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while server.poll() is None and loop.time() < deadline:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    fail("the server did not start")


class Stream(asyncio.Protocol):
    """One connection of a reader, from its request to its end."""

    def __init__(self, last_event_id: str) -> None:
        cursor = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
        self._request = f"{SUBSCRIBE}{cursor}\r\n"
        self._tail = b""
        self.last_event_id = last_event_id
        self.epoch = ""
        self.began = 0
        self.position = 0
        self.gaps = 0
        self.retry = 0
        self.news: list[str] = []
        self.opened = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        """Look at the blocks that are whole."""
        data = self._tail + data
        end = data.rfind(b"\n\n") + 2
        if end > 1:
            self._read(data[:end])
            data = data[end:]
        self._tail = data

    def connection_lost(self, exc: Exception | None) -> None:
        """Report whether the body was complete."""
        self.whole = exc is None and self._tail == END
        if not self.opened.done():
            self.opened.set_result(False)
        if not self.ended.done():  # as it is when nobody waits for it any more
            self.ended.set_result(asyncio.get_running_loop().time())

    def _read(self, blocks: bytes) -> None:
        if not self.opened.done() or b"event: $" in blocks:
            self._hear(blocks)
        frames = FRAME.findall(blocks)
        if frames:
            first, last = int(frames[0][1]), int(frames[-1][1])
            self.gaps += first != self.position + 1 or last - first + 1 != len(frames)
            self.position = last
            self.last_event_id = f"{self.epoch}-{last}"

    def _hear(self, blocks: bytes) -> None:
        begun = BEGIN.search(blocks)
        if begun is not None:
            self.epoch = begun[1].decode()
            self.began = self.position = int(begun[2])
            self.last_event_id = f"{self.epoch}-{self.began}"
            if not self.opened.done():
                self.opened.set_result(True)
        for kind, retry, reason in NEWS.findall(blocks):
            self.news.append(f"{kind.decode()} {reason.decode()}")
            self.retry = int(retry or 0)


async def open_stream(port: int, last_event_id: str = "") -> Stream:
    """Connect a reader, and give its stream once it has begun. Raises `OSError`, `TimeoutError`."""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: Stream(last_event_id), HOST, port)
    async with asyncio.timeout(PATIENCE):
        begun = await stream.opened
    if not begun:
        raise ConnectionError("the stream did not begin")
    return stream


async def open_streams(port: int, count: int) -> list[Stream]:
    """Connect so many readers."""
    doors = asyncio.Semaphore(AT_ONCE)

    async def come() -> Stream:
        async with doors:
            return await open_stream(port)

    return await asyncio.gather(*(come() for _ in range(count)))


PUBLISH = b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (SIZE, b"x" * SIZE)


@dataclass
class Answers:
    """What publishers were answered: the newest position of each epoch, the statuses, and what went wrong."""

    newest: dict[str, int] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    enough: bool = False
    """Whether nothing more is to be published."""

    def take(self, status: int, body: bytes) -> None:
        """Note an answer."""
        self.statuses[status] += 1
        if status == 200:
            epoch, _, position = json.loads(body)["id"].partition("-")
            self.newest[epoch] = max(int(position), self.newest.get(epoch, 0))


class Publisher:
    """Publishes over one connection that it keeps, until an answer says that it is closed."""

    def __init__(self, port: int, answers: Answers) -> None:
        self._port = port
        self._answers = answers
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, *, every: float, after: float) -> None:
        """Publish every so many seconds, the first time after so many, until there is enough."""
        loop = asyncio.get_running_loop()
        due = loop.time() + after
        try:
            while not self._answers.enough:
                await asyncio.sleep(due - loop.time())
                due = max(due + every, loop.time() - 1)
                await self._publish()
        finally:
            self._close()

    async def _publish(self) -> None:
        try:
            if self._connection is None:
                self._connection = await asyncio.open_connection(HOST, self._port)
            reader, writer = self._connection
            writer.write(PUBLISH)
            head = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
            body = await reader.readexactly(int(size[1]) if size else 0)
        except (OSError, EOFError) as error:
            self._answers.failures[repr(error)] += 1
            self._close()
            return
        self._answers.take(int(head.split()[1]), body)
        if b"\r\nconnection: close\r\n" in head.lower():
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None
