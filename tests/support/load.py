"""Readers and publishers that leave a server no rest, as a program of their own: PORT READERS PUBLISHERS.

Says how many readers there are once all of them are, and goes on until it is ended.
"""

import asyncio
import sys

BATCH = b'{"message": "%b"}\n' % (b"x" * 1000) * 100

SUBSCRIBE = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
PUBLISH = (
    b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BATCH), BATCH)
)


class Reader(asyncio.Protocol):
    """Takes all that comes, and looks at none of it."""

    def __init__(self) -> None:
        self.begun = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(SUBSCRIBE)

    def data_received(self, data: bytes) -> None:
        if not self.begun.done():
            self.begun.set_result(data.startswith(b"HTTP/1.1 200 "))


async def read(port: int) -> asyncio.Transport:
    transport, reader = await asyncio.get_running_loop().create_connection(Reader, "127.0.0.1", port)
    assert await reader.begun
    return transport


async def publish(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        writer.write(PUBLISH)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        size = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(size[15:]))


async def main(port: int, readers: int, publishers: int) -> None:
    connected = [await read(port) for _ in range(readers)]
    sys.stdout.write(f"{len(connected)}\n")
    sys.stdout.flush()
    await asyncio.gather(*(publish(port) for _ in range(publishers)))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
