"""Listeners: the addresses that accept connections, TCP or UNIX socket, with or without TLS."""

import asyncio
import errno
import itertools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sse_broadcast.config.schema import Config, ListenerRule
from sse_broadcast.errors import ListenError
from sse_broadcast.server.http import client_address
from sse_broadcast.server.http.client_address import is_loopback_name
from sse_broadcast.server.transport.admission import ACCEPTS, AcceptProtocol, AdmissionControl, host_of
from sse_broadcast.server.transport.connection import ListenerInfo
from sse_broadcast.server.transport.socket_options import tune_listener
from sse_broadcast.server.transport.tls import Certificate, tls_fault
from sse_broadcast.server.transport.tls_accept import TlsAcceptor
from sse_broadcast.server.transport.unix_socket import UnixFile

EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - the user configured it, as `*` or `::`

NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""Errors on a machine without IPv6. `*` ignores them, `::` does not."""

BACKLOG = 4096
"""Connections that wait in the kernel to be accepted: after a restart all clients reconnect at once."""

LEFT: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Keeps the event loop from removing a UNIX socket's file: `UnixFile` does it, or the supervisor owns it."""


def is_local(rule: ListenerRule) -> bool:
    """Return whether only this machine can reach a listener, judged by its host or path."""
    return rule.path is not None or is_loopback_name(rule.host.lower())


def socket_count(rule: ListenerRule) -> int:
    """Return how many sockets a listener needs, as far as its host tells without a name look-up."""
    return len(EVERY_ADDRESS) if rule.host in {"*", "::"} else 1


class Listener:
    """One address to listen on. Call `bind`, `accept`, `stop` and `close` in this order.

    `inherited` is a socket that already listens there. Raises `CertificateError`.
    """

    def __init__(self, rule: ListenerRule, config: Config, *, inherited: socket.socket | None = None) -> None:
        self.rule = rule
        self.inherited = inherited is not None
        """Whether a supervisor opened the socket, and keeps it open for the next process."""
        self._config = config
        self._certificate = Certificate(rule.certificate, rule.key) if rule.certificate else None
        self._file: UnixFile | None = None
        self._accepting: list[asyncio.Server] = []
        self._handshakes: list[TlsAcceptor] = []
        self.sockets: list[socket.socket] = [] if inherited is None else [inherited]

    @property
    def name(self) -> str:
        """The address as messages show it."""
        return self.rule.host if self.rule.path else f"{self.rule.host} port {self.rule.port}"

    @property
    def port(self) -> int | None:
        """The port, also if the kernel chose it; None for a UNIX socket."""
        return None if self.rule.path else int(self.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The URL of the listener; `unix:` and the path for a UNIX socket."""
        host = "0.0.0.0" if self.rule.host == "*" else self.rule.host  # noqa: S104
        if self.rule.path:
            return host
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the listener."""
        return is_local(self.rule)

    @property
    def info(self) -> ListenerInfo:
        """The properties that connections of its first socket get."""
        return self._info_of(self.sockets[0])

    async def bind(self) -> None:
        """Bind the address without accepting connections. Raises `ListenError`."""
        try:
            if not self.inherited:
                await self._open()
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded for DNS
            await self.close()
            raise ListenError(f"cannot listen on {self.name}: {tls_fault(error)}") from None
        for sock in self.sockets:
            tune_listener(
                sock, send_buffer=self._config.send_buffer, write_timeout=self._config.write_timeout
            )

    async def _open(self) -> None:
        if self.rule.path is None:
            await _bind(self.rule.host, self.rule.port, into=self.sockets)
            return
        self._file = UnixFile(Path(self.rule.path))
        self.sockets = [self._file.bind(mode=self.rule.mode, owner=self.rule.owner)]

    async def accept(self, admission: AdmissionControl) -> None:
        """Accept connections. `admission` admits or rejects each. Raises `ListenError`."""
        for sock in self.sockets:
            try:
                sock.listen(BACKLOG)
                await (self._serve if self._certificate is None else self._secure)(sock, admission)
            except (
                OSError
            ) as error:  # with SO_REUSEADDR two sockets may bind an address, but only one listens
                raise ListenError(f"cannot listen on {self.name}: {tls_fault(error)}") from None
        if self._certificate is not None:
            self._certificate.watch()

    async def _serve(self, sock: socket.socket, admission: AdmissionControl) -> None:
        loop, info = asyncio.get_running_loop(), self._info_of(sock)
        serve = loop.create_unix_server if info.unix else loop.create_server
        options = LEFT if info.unix else {}
        protocol = AcceptProtocol(admission, info, send_buffer=self._own_send_buffer(info))

        def protocol_factory() -> asyncio.Protocol:
            return protocol

        for each in itertools.chain([sock], _doubles(sock, loop)):
            self._accepting.append(await serve(protocol_factory, sock=each, backlog=ACCEPTS, **options))
        # A loop uses `backlog` twice: as the number of accepts in one turn, and as the kernel's queue. Set
        # the queue again: it must be longer.
        sock.listen(BACKLOG)

    async def _secure(self, sock: socket.socket, admission: AdmissionControl) -> None:
        assert self._certificate is not None
        info = self._info_of(sock)
        handshakes = TlsAcceptor(
            sock,
            self._certificate,
            admission,
            info,
            handshake_timeout=self._config.head_timeout,
            send_buffer=self._own_send_buffer(info),
        )
        handshakes.start()
        self._handshakes.append(handshakes)

    def _own_send_buffer(self, info: ListenerInfo) -> int:
        """Return the SO_SNDBUF to set on each connection, or 0 if it inherits the listener's."""
        return self._config.send_buffer if info.unix else 0

    def _info_of(self, sock: socket.socket) -> ListenerInfo:
        host = host_of(sock.getsockname())
        # By its configured name too: a host name of this machine may resolve to the loopback here, and to an
        # outside address elsewhere.
        loopback = host is None or (is_local(self.rule) and client_address.is_loopback(host))
        return ListenerInfo(frozenset(self.rule.endpoints), loopback=loopback, unix=host is None)

    def renewed(self, rule: ListenerRule) -> Certificate | None:
        """Load the certificate that a rule names for this listener. Change nothing yet."""
        return None if self._certificate is None else Certificate(rule.certificate, rule.key)

    def take(self, certificate: Certificate | None) -> None:
        """Use a certificate from `renewed` for new connections."""
        if self._certificate is not None and certificate is not None:
            self._certificate.replace_with(certificate)

    def stop(self) -> None:
        """Stop accepting. Open connections stay. New ones are refused, or wait for the next process."""
        if self._file is not None:
            self._file.remove()
        for accepting in self._accepting:
            _close_server(accepting)
        self._accepting.clear()
        for handshakes in self._handshakes:
            handshakes.stop()
        # A loop's server closes its own socket. Sockets of TLS listeners are ours to close: until then the
        # kernel accepts connections on them.
        if self._handshakes:
            self._release()

    async def close(self) -> None:
        """Stop, cancel the handshakes, and close the sockets."""
        self.stop()
        await asyncio.sleep(0)  # `_close_server` needs the sockets for one more turn
        for handshakes in self._handshakes:
            await handshakes.close()
        if self._certificate is not None:
            self._certificate.close()
        self._release()

    def _release(self) -> None:
        for sock in self.sockets:
            sock.close()


def _close_server(server: asyncio.Server) -> None:
    """Close a loop's server after the connections that the loop has accepted have their transports."""
    # asyncio makes the transport one turn after the accept, and drops a connection whose server was closed in
    # between: its socket would stay open until the collector finds it.
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        server.close()
        return
    for sock in server.sockets:
        loop.remove_reader(sock)
    loop.call_soon(server.close)


def _doubles(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> Iterator[socket.socket]:
    """Yield further descriptors of a listening socket, so that a loop accepts `ACCEPTS` in one turn."""
    # asyncio needs none. uvloop accepts one connection per descriptor and then polls, which is a tenth of
    # the cost of a connection in a crowd. A connection that comes alone costs a tenth more instead (both
    # measured).
    if not isinstance(loop, asyncio.BaseEventLoop):
        for _ in range(ACCEPTS - 1):
            yield sock.dup()


async def _bind(host: str, port: int, *, into: list[socket.socket]) -> None:
    """Bind a socket to each address of a host, all to the same port."""
    # Two sockets for `*`: one for both families would report IPv4 clients by mapped addresses
    # (`::ffff:192.0.2.1`). Limits and `trusted_proxies` would not recognise them.
    for each in EVERY_ADDRESS if host in {"*", "::"} else (host,):
        infos = await asyncio.get_running_loop().getaddrinfo(
            each, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, found in dict.fromkeys(infos):
            try:
                sock = _bound(family, kind, protocol, (found[0], port, *found[2:]))
            except OSError as error:
                if host == "*" and family == socket.AF_INET6 and error.errno in NO_IPV6:
                    continue
                raise
            into.append(sock)
            port = sock.getsockname()[1]


def _bound(family: int, kind: int, protocol: int, address: tuple[str | int, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock
