"""An SSE server that does what a benchmark must find: it stalls, loses, repeats or reorders."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tests.support.acceptor import Acceptor, accepting
from tests.support.scripted import STREAM, chunk

ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class FaultyServer:
    """Gives each message to all who follow its channel, as `plan` says.

    `plan` gets the number of the message, from 1, and the message; it returns those that are sent for it.
    `stall` maps numbers to the seconds for which everything stands still before that message. `status` is the
    answer to a publish, `cut_after` the number of the message after which every stream is cut.
    """

    plan: Callable[[int, bytes], Sequence[bytes]] = lambda _, message: [message]
    stall: dict[int, float] = field(default_factory=dict)
    status: Callable[[int], bytes] = lambda _: ACCEPTED
    cut_after: int = 0
    published: int = 0
    requests: list[bytes] = field(default_factory=list)
    followers: dict[bytes, list[asyncio.StreamWriter]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            method, path, _ = head.split(b" ", 2)
            channel = path.partition(b"?")[0].rpartition(b"/")[2]
            if method == b"GET":
                writer.write(STREAM + chunk(b": \n"))
                self.followers.setdefault(channel, []).append(writer)
                await reader.read()
                return
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await self._publish(channel, await reader.readexactly(length), writer)

    async def _publish(self, channel: bytes, message: bytes, writer: asyncio.StreamWriter) -> None:
        async with self.lock:
            self.published += 1
            number = self.published
            await asyncio.sleep(self.stall.get(number, 0.0))
            for each in self.plan(number, message):
                for follower in self.followers.get(channel, []):
                    follower.write(chunk(b"data: %b\n\n" % each))
            if number == self.cut_after:
                for follower in self.followers.pop(channel, []):
                    await follower.drain()
                    follower.transport.abort()
            writer.write(self.status(number))


async def faulty_servers() -> AsyncIterator[Callable[..., "asyncio.Future[FaultyServer]"]]:
    """Start servers with faults, and stop them when the test ends. A fixture once pytest has seen it."""
    async with AsyncExitStack() as stack:

        async def start(**faults: object) -> FaultyServer:
            server = FaultyServer(**faults)  # type: ignore[arg-type]
            acceptor: Acceptor = await stack.enter_async_context(accepting(server.serve))
            server.url = f"http://127.0.0.1:{acceptor.port}"
            return server

        yield start  # type: ignore[misc]
