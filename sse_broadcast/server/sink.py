"""The only place that touches an aiohttp transport.

Frames go to `transport.write` directly, already wrapped as chunks: one shared bytes object for
all readers, and a third less CPU than `StreamResponse.write` (measured: 5.4 against 7.4 us a
write). What that asks for in return is kept here:

- one writer at a time: the response writes the head and the end, delivery all between;
- nothing is written while `writing_paused`, and only the handler waits for that to pass, without
  a time-out of its own, since a cancelled drain poisons the next write;
- a transport that is gone or closing is never written to (uvloop raises, asyncio only warns);
- a peer that does not read is cut with a reset, so that the kernel lets go of its buffer too.
"""

import asyncio
import contextlib
import math
import socket
import struct
from collections.abc import Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from sse_broadcast import wire
from sse_broadcast.encoding import Encoding
from sse_broadcast.errors import SinkClosedError

SERVER = "sse-broadcast"
"""What the `Server` header says; without a version, which only an attacker would use."""

NO_LINGER = struct.pack("ii", 1, 0)


class EventStream(EventSourceResponse):
    """aiohttp-sse's response, without what a broadcast server does for all streams at once.

    It starts no ping task (delivery sends the heartbeats of all streams from one timer), its
    headers are those of http-api, and the connection closes with the stream. TCP_USER_TIMEOUT,
    which the base class sets to `timeout` seconds, stays set to the end: given back, it
    would leave a frozen peer's last bytes in the kernel for minutes. With None it is left as the
    listening socket had it.
    """

    # The head waits for the first bytes of the body, and both leave in one write.
    _send_headers_immediately = False

    def __init__(self, content_type: str, *, timeout: float | None) -> None:
        super().__init__(ping_interval=math.inf, send_timeout=timeout)
        headers = self.headers
        if content_type != wire.CONTENT_TYPE:
            headers["Content-Type"] = content_type
        headers["Cache-Control"] = "no-store, no-transform"
        headers["Server"] = SERVER
        # The base class always says keep-alive; aiohttp itself knows better.
        del headers["Connection"]
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Make the head ready. The base class would start a task here, a kilobyte for each reader."""
        self._set_tcp_user_timeout(request)
        return await web.StreamResponse.prepare(self, request)

    async def write_eof(self, data: bytes = b"") -> None:
        """End the body, and leave TCP_USER_TIMEOUT as it is."""
        await web.StreamResponse.write_eof(self, data)


class TransportSink:
    """The connection of one HTTP reader. Made and owned by its handler."""

    __slots__ = ("_over", "_transport", "_wake", "_writer", "encoding", "heartbeat")

    def __init__(self, request: web.Request, encoding: Encoding, *, heartbeat: bytes | None = None) -> None:
        if request.transport is None:
            raise SinkClosedError("the connection is closed")
        self._transport = request.transport
        self._writer = request.writer
        self._over = False
        self._wake = asyncio.get_running_loop().create_future()
        self.encoding = encoding
        self.heartbeat = encoding.heartbeat if heartbeat is None else encoding.frame(heartbeat)

    @property
    def gone(self) -> bool:
        """See `Sink`."""
        return self._transport.is_closing()

    def write(self, data: bytes) -> bool:
        """See `Sink`."""
        transport = self._transport
        if transport.is_closing():
            raise SinkClosedError("the connection is closed")
        transport.write(data)
        # Asked of the transport and not of the protocol, whose memory would have to be fetched.
        if transport.get_write_buffer_size():
            self._stir()
            return False
        return True

    def close(self) -> None:
        """See `Sink`."""
        self._over = True
        self._stir()

    def abort(self) -> None:
        """See `Sink`."""
        self.close()
        transport = self._transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        transport.abort()

    async def serve(self, resume: Callable[[], None]) -> None:
        """Sleep until the stream is over; call `resume` each time a full socket has emptied.

        The handler's whole life. Raises `ConnectionError` if the connection is lost while full.
        """
        while True:
            await self._wake
            if not self._over:
                await self._writer.drain()
            if self._over:
                return
            self._wake = asyncio.get_running_loop().create_future()
            resume()

    def _stir(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)


def prepare_connection(request: web.Request) -> None:
    """Make a connection fit for a stream: a full kernel buffer is a full sink, and is seen at once."""
    transport = request.transport
    if transport is None:
        raise SinkClosedError("the connection is closed")
    # With 1 and 0, "paused" means that the kernel takes no more, and "resumed" that all of the
    # last write is in the kernel; with the default, 64 KiB would lie between the two. (0 and 0
    # would have the TLS transport pause for ever: it compares with >=.)
    transport.set_write_buffer_limits(high=1, low=0)
    # A stream is not idle, and its timer would be a hundred bytes for nothing.
    request.protocol.keep_alive(False)


def kernel_timeout(write_timeout: float) -> float:
    """Give TCP_USER_TIMEOUT for a write deadline, in seconds: behind it, as a backstop.

    It sees what the deadline cannot, a peer that vanished without filling its buffer. Were it
    not later, the kernel would cut frozen readers first, and they would be counted as having left.
    """
    return write_timeout * 1.5


def tune(sock: socket.socket, *, send_buffer: int, write_timeout: float) -> None:
    """Set what a stream's socket needs on a listening socket: the kernel hands it down to all it accepts.

    Set one by one, each costs a connection 2 us more (uvloop makes a socket object each time). A UNIX
    socket has no vanished peers, and hands nothing down: `limit_kernel` is for each that it accepts.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if send_buffer:
        limit_kernel(sock, send_buffer)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(kernel_timeout(write_timeout) * 1000)
        )


def limit_kernel(sock: socket.socket, send_buffer: int) -> None:
    """Set how many bytes the kernel may hold for the reader behind a socket."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)


def limit_send_buffer(request: web.Request, send_buffer: int) -> None:
    """Set SO_SNDBUF of one connection, of a listening socket that is not ours."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if send_buffer and sock is not None:
        limit_kernel(sock, send_buffer)
