"""The network path to a server: a TCP forwarder that can be cut, inside a frame too, and restored."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.support.acceptor import Acceptor

PIECE = 65_536


class Proxy:
    """Forwards connections to a port of this machine, from a port that stays the same while it is cut."""

    def __init__(self, target: int) -> None:
        self.accepted = 0
        """How many connections it was asked to forward, ever."""
        self._target = target
        self._acceptor = Acceptor(self._accepted)
        self._transports: set[asyncio.WriteTransport] = set()
        self._left: int | None = None
        self._swallowing: set[asyncio.WriteTransport] = set()

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._acceptor.close()

    @property
    def port(self) -> int:
        """Where it listens, or did before it was cut."""
        return self._acceptor.port

    async def restore(self) -> None:
        """Listen, and forward from now on; on the same port each time."""
        self._left = None
        self._acceptor.listen(port=self.port)

    def cut(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._acceptor.stop()
        for transport in self._transports:
            transport.abort()

    def cut_behind(self, count: int) -> None:
        """Cut as soon as so many more bytes have come from the server; what is behind them never arrives."""
        self._left = count

    def swallow(self) -> None:
        """Forward nothing more on the open connections, and leave them open; new ones are forwarded."""
        self._swallowing |= self._transports

    @property
    def is_cut(self) -> bool:
        """Whether nothing is forwarded."""
        return not self._acceptor.is_listening

    async def idle(self) -> None:
        """Wait until nothing is connected."""
        while self._transports:
            await asyncio.sleep(0.002)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self._carry(reader, writer)
        finally:
            # What is cut, or has no server behind it, ends at once.
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer.transport, far_writer.transport}
        self._transports |= ends
        try:
            if self.is_cut:  # since it was accepted
                return
            await asyncio.gather(self._up(reader, far_writer), self._down(far_reader, writer))
        finally:
            self._transports -= ends
            self._swallowing -= ends
            far_writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                if writer.transport in self._swallowing:
                    continue
                data = self._let_through(data)
                writer.write(data)
                await writer.drain()
                if self._left == 0:
                    await self._sent(writer)
                    self.cut()
        writer.close()

    def _let_through(self, data: bytes) -> bytes:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data

    async def _sent(self, writer: asyncio.StreamWriter) -> None:
        while writer.transport.get_write_buffer_size():
            await asyncio.sleep(0)
