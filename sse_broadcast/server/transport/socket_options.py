"""Options of the sockets of streams: what the kernel may hold for a reader, and for how long."""

import socket

from aiohttp import web


def kernel_timeout(write_timeout: float) -> float:
    """Give TCP_USER_TIMEOUT for a write deadline, in seconds: behind it, as a backstop.

    It sees what the deadline cannot, a peer that vanished without filling its buffer. Were it
    not later, the kernel would cut frozen readers first, and they would be counted as having left.
    """
    return write_timeout * 1.5


def tune_listener(sock: socket.socket, *, send_buffer: int, write_timeout: float) -> None:
    """Set what a stream's socket needs on a listening socket: the kernel hands it down to all it accepts.

    Set one by one, each costs a connection 2 us more (uvloop makes a socket object each time). A UNIX
    socket has no vanished peers, and hands nothing down: `limit_kernel` is for each that it accepts.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
