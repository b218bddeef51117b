"""Socket options of streams: how much the kernel may hold for a subscriber, and for how long."""

import socket

from aiohttp import web


def kernel_timeout(write_timeout: float) -> float:
    """Return TCP_USER_TIMEOUT for a write timeout, both in seconds.

    It catches what the write timeout cannot: a peer that vanished before its buffer was full. It is the
    longer of the two, or the kernel would cut frozen subscribers first, and they would count as having left.
    """
    return write_timeout * 1.5


def tune_listener(sock: socket.socket, *, send_buffer: int, write_timeout: float) -> None:
    """Set what a stream's socket needs on a listening socket: accepted TCP sockets inherit it.

    Set on each connection, an option costs 2 us more (uvloop makes a socket object each time). UNIX sockets
    have no vanished peers and inherit nothing: use `limit_kernel` on each that is accepted.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if send_buffer:
        limit_kernel(sock, send_buffer)
    _limit_unacknowledged(sock, write_timeout)


def limit_kernel(sock: socket.socket, send_buffer: int) -> None:
    """Set how many bytes the kernel may hold for the peer of a socket (SO_SNDBUF)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)


def tune_connection(request: web.Request, *, send_buffer: int, write_timeout: float) -> None:
    """Set what a stream's socket needs on one connection, of a listening socket that is not ours."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None:
        return
    if send_buffer:
        limit_kernel(sock, send_buffer)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        _limit_unacknowledged(sock, write_timeout)


def _limit_unacknowledged(sock: socket.socket, write_timeout: float) -> None:
    """Set TCP_USER_TIMEOUT, where the system has it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(kernel_timeout(write_timeout) * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
