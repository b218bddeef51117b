"""Socket options of streams: how much the kernel may buffer for a subscriber, and for how long."""

import socket

from aiohttp import web


def kernel_timeout(write_timeout: float) -> float:
    """Return TCP_USER_TIMEOUT for a write timeout, both in seconds."""
    # It catches a peer that vanished before its buffer was full, which the write timeout cannot. It is
    # longer, or the kernel would end stalled subscribers first, and they would count as having left.
    return write_timeout * 1.5


def tune_listener(sock: socket.socket, *, send_buffer: int, write_timeout: float) -> None:
    """Set the options of streams on a listening socket: accepted TCP sockets inherit them.

    UNIX sockets inherit nothing, and their peers cannot vanish: call `limit_kernel` on each accepted one.
    """
    # Set on each connection, an option costs 2 us more: uvloop makes a socket object each time.
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if send_buffer:
        limit_kernel(sock, send_buffer)
    _limit_unacknowledged(sock, write_timeout)


def limit_kernel(sock: socket.socket, send_buffer: int) -> None:
    """Set how many bytes the kernel may buffer for the peer of a socket (SO_SNDBUF)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)


def tune_connection(request: web.Request, *, send_buffer: int, write_timeout: float) -> None:
    """Set the options of streams on one connection, for applications that another server runs."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None:
        return
    if send_buffer:
        limit_kernel(sock, send_buffer)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        _limit_unacknowledged(sock, write_timeout)


def _limit_unacknowledged(sock: socket.socket, write_timeout: float) -> None:
    """Set TCP_USER_TIMEOUT, if the system has it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(kernel_timeout(write_timeout) * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
