"""Connections of subscribers: who reads the sockets, and how the time of arrival is known."""

import asyncio
import functools
import select
import socket
import struct
import time
from typing import Protocol, cast

from sse_broadcast.bench.http_connection import PeerAddress
from sse_broadcast.bench.subscribers import Subscription

READ_SIZE = 1 << 18
"""Bytes of one read."""

MAX_BATCH = 1000
"""Sockets that are read before publishers have their turn."""

SO_TIMESTAMPNS = 35
"""Linux: the kernel says with a read when its bytes arrived. Python has no name for it."""

_TIMESPEC = struct.Struct("@ll")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size)


class Connections(Protocol):
    """Opens connections for subscriptions, and reads them."""

    async def open(self, subscription: Subscription, request: bytes) -> None:
        """Connect, and send the request. Raises `OSError`, `TimeoutError`."""

    def close(self) -> None:
        """Read no more."""


def connections_to(address: PeerAddress) -> Connections:
    """Return what reads connections to an address: plain sockets where possible."""
    if address.tls is None and hasattr(select, "epoll"):
        return SocketConnections(address)
    return ProtocolConnections(address)


class SocketConnections:
    """Plain sockets in an epoll of their own, which the event loop watches.

    The kernel stamps what arrives, so latency does not grow with the load generator's own work: with 500
    subscribers its reads alone take as long as the server's writes. A transport of the event loop would cost
    as much again per read, and could not ask for the stamp.
    """

    def __init__(self, address: PeerAddress) -> None:
        self._address = address
        self._epoll = select.epoll()
        self._reading: dict[int, tuple[socket.socket, Subscription]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._read)

    async def open(self, subscription: Subscription, request: bytes) -> None:
        """Connect, subscribe, and note each frame as it arrives."""
        sock = await self._address.open_socket(frozen=subscription.is_frozen)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        subscription.close = functools.partial(self._close, sock)
        subscription.pause = functools.partial(self._stop_reading, sock)
        subscription.resume = functools.partial(self._start_reading, sock, subscription)
        await asyncio.get_running_loop().sock_sendall(sock, request)
        self._start_reading(sock, subscription)

    def _read(self) -> None:
        ready = self._epoll.poll(0, MAX_BATCH)
        now = time.monotonic()
        to_monotonic = now - time.time()
        for descriptor, _ in ready:
            sock, subscription = self._reading[descriptor]
            try:
                data, ancillary, _, _ = sock.recvmsg(READ_SIZE, _ANCILLARY)
            except BlockingIOError:
                continue
            except OSError as error:
                subscription.lost(error)
                continue
            if not data:
                subscription.lost(None)
                continue
            arrived = now
            if ancillary:
                seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                arrived = seconds + nanoseconds * 1e-9 + to_monotonic
            subscription.feed(data, arrived)

    def _start_reading(self, sock: socket.socket, subscription: Subscription) -> None:
        if sock.fileno() != -1:
            self._reading[sock.fileno()] = (sock, subscription)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _stop_reading(self, sock: socket.socket) -> None:
        if self._reading.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def _close(self, sock: socket.socket) -> None:
        self._stop_reading(sock)
        sock.close()

    def close(self) -> None:
        """Connect, subscribe, and note each frame as it arrives."""
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()


class ProtocolConnections:
    """Transports of the event loop, for TLS and where there is no epoll. An event arrives when it is read."""

    def __init__(self, address: PeerAddress) -> None:
        self._address = address

    async def open(self, subscription: Subscription, request: bytes) -> None:
        """Connect, subscribe, and note each frame as it arrives."""
        make = functools.partial(_ReadProtocol, subscription)
        protocol = await self._address.connect(make, frozen=subscription.is_frozen)
        protocol.write(request)

    def close(self) -> None:
        """Do nothing: each transport is closed by its subscription."""


class _ReadProtocol(asyncio.Protocol):
    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._transport: asyncio.Transport | None = None

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._subscription.close = self._transport.abort
        self._subscription.pause = self._transport.pause_reading
        self._subscription.resume = self._transport.resume_reading

    def data_received(self, data: bytes) -> None:
        self._subscription.feed(data, time.monotonic())

    def connection_lost(self, exc: Exception | None) -> None:
        self._subscription.lost(exc)
