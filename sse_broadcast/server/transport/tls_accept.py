"""TLS acceptor: accept TLS connections, counted from their accept.

A loop's own server reports a connection only after its handshake, and never reports one that fails. Many
handshakes at once would then use more descriptors than there are.
"""

import asyncio
import errno
import functools
import logging
import socket
from asyncio import sslproto

from sse_broadcast.server.transport.admission import ACCEPTS, AdmissionControl, HandshakeProtocol, host_of
from sse_broadcast.server.transport.connection import ListenerInfo
from sse_broadcast.server.transport.rejection import REJECTION_TIMEOUT, RejectionProtocol
from sse_broadcast.server.transport.socket_options import limit_kernel
from sse_broadcast.server.transport.tls import Certificate

logger = logging.getLogger("sse_broadcast.connections")

SHUTDOWN = 5.0
"""Seconds for a peer to read the rest, and to answer the end of TLS (close_notify)."""

ACCEPT_PAUSE = 1.0
"""Seconds to stop accepting when the process or the system has no descriptors left."""

READ_BUFFER = 16_384
"""Bytes of asyncio's read buffer per TLS connection: one TLS record. asyncio fills the buffer with zeros, so
it is all in memory; its default is 256 KiB. uvloop's buffer is touched only as far as it is used."""

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TlsAcceptor:
    """Accepts the connections of one listening socket, and makes their TLS handshakes.

    A handshake may take `handshake_timeout` seconds. `send_buffer` is SO_SNDBUF for sockets that do not
    inherit it from the listening one, 0 for the others.
    """

    def __init__(  # noqa: PLR0913 - the parts of a listener
        self,
        listener: socket.socket,
        certificate: Certificate,
        admission: AdmissionControl,
        listener_info: ListenerInfo,
        *,
        handshake_timeout: float,
        send_buffer: int,
    ) -> None:
        self._listener = listener
        self._certificate = certificate
        self._admission = admission
        self._listener_info = listener_info
        self._handshake_timeout = handshake_timeout
        self._send_buffer = send_buffer
        self._loop = asyncio.get_running_loop()
        self._handshaking: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._handshaking)

    def start(self) -> None:
        """Start accepting. This sets the size of asyncio's TLS buffers for the whole process."""
        sslproto.SSLProtocol.max_size = READ_BUFFER
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Stop accepting. May be called again, and after the socket is closed."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
        if self._paused is not None:
            self._paused.cancel()

    async def close(self) -> None:
        """Cancel the handshakes in progress."""
        handshaking = tuple(self._handshaking)
        for task in handshaking:
            task.cancel()
        await asyncio.gather(*handshaking, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause(error)
                    return
                continue  # this client left before it was accepted
            self._receive(sock, host_of(peer))

    def _pause(self, error: OSError) -> None:
        logger.warning("cannot accept connections for a moment: %(reason)s", {"reason": error.strerror})
        self._loop.remove_reader(self._listener)
        self._paused = self._loop.call_later(ACCEPT_PAUSE, self.start)

    def _receive(self, sock: socket.socket, peer: str | None) -> None:
        sock.setblocking(False)
        protocol = self._admission.admit_to_handshake(self._listener_info, peer)
        if self._send_buffer:
            limit_kernel(sock, self._send_buffer)
        if isinstance(protocol, RejectionProtocol):
            protocol.queue_handshake(sock, functools.partial(self._begin, sock, protocol))
        else:
            self._begin(sock, protocol)

    def _begin(self, sock: socket.socket, protocol: HandshakeProtocol | RejectionProtocol) -> None:
        task = self._loop.create_task(self._handshake(sock, protocol))
        if isinstance(protocol, RejectionProtocol):
            protocol.cancel_handshake = task.cancel
        self._handshaking.add(task)
        task.add_done_callback(self._handshaking.discard)

    async def _handshake(self, sock: socket.socket, protocol: HandshakeProtocol | RejectionProtocol) -> None:
        timeout = REJECTION_TIMEOUT if isinstance(protocol, RejectionProtocol) else self._handshake_timeout
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                sock,
                ssl=self._certificate.context,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=SHUTDOWN,
            )
        except OSError:
            self._admission.count_failure()
        finally:
            if not protocol.connected:
                protocol.release()
