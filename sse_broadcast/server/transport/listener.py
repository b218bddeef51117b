"""Listeners: the addresses where the server accepts connections, by TCP or a UNIX socket, with TLS or not."""

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

EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - what `*` and `::` ask for

NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""What a machine without IPv6 says. `*` does without it, `::` does not."""

BACKLOG = 4096
"""Connections the kernel holds for us: after a restart everyone comes at once."""

LEFT: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Has a loop leave the file of a UNIX socket, which is ours to remove, or theirs who handed it down."""


def is_local(rule: ListenerRule) -> bool:
    """Whether a listener is only for this machine, by what it is called."""
    return rule.path is not None or is_loopback_name(rule.host.lower())


def socket_count(rule: ListenerRule) -> int:
    """Return how many sockets a listener takes, as far as its host tells without being looked up."""
    return len(EVERY_ADDRESS) if rule.host in {"*", "::"} else 1


class Listener:
    """One address to listen on. Call `bind`, `accept`, `stop`, `close`, in this order.

    `inherited` is a socket that listens there already. Raises `CertificateError`.
    """

    def __init__(self, rule: ListenerRule, config: Config, *, inherited: socket.socket | None = None) -> None:
        self.rule = rule
        self.inherited = inherited is not None
        """Whether its socket stays open in the process that opened it, for those that come after us."""
        self._config = config
        self._certificate = Certificate(rule.certificate, rule.key) if rule.certificate else None
        self._file: UnixFile | None = None
        self._accepting: list[asyncio.Server] = []
        self._handshakes: list[TlsAcceptor] = []
        self.sockets: list[socket.socket] = [] if inherited is None else [inherited]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.rule.host if self.rule.path else f"{self.rule.host} port {self.rule.port}"

    @property
    def port(self) -> int | None:
        """The port it listens on, also when it was told to take a free one; None of a UNIX socket."""
        return None if self.rule.path else int(self.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where it is reached; of a UNIX socket `unix:` and its path."""
        host = "0.0.0.0" if self.rule.host == "*" else self.rule.host  # noqa: S104
        if self.rule.path:
            return host
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether it is only for this machine."""
        return is_local(self.rule)

    @property
    def info(self) -> ListenerInfo:
        """What connections of its first socket are told about it."""
        return self._info_of(self.sockets[0])

    async def bind(self) -> None:
        """Take the address, and accept nobody yet. Raises `ListenError`."""
        try:
            if not self.inherited:
                await self._open()
        except (OSError, ValueError) as error:  # a name may be one that Python cannot even ask for
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
        """Accept connections, which `admission` admits or rejects. Raises `ListenError`."""
        for sock in self.sockets:
            try:
                sock.listen(BACKLOG)
                await (self._serve if self._certificate is None else self._secure)(sock, admission)
            except OSError as error:  # two may bind what only one can listen on
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
        # A loop accepts as many connections in one turn as its backlog says, before it counts one; how
        # many the kernel holds for us meanwhile is another thing, and the loop has set both.
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
        """Return the SO_SNDBUF to set on each connection; 0 where it inherits the listener's."""
        return self._config.send_buffer if info.unix else 0

    def _info_of(self, sock: socket.socket) -> ListenerInfo:
        host = host_of(sock.getsockname())
        # By its name too: what is called by one that others may know is not for this machine alone.
        loopback = host is None or (is_local(self.rule) and client_address.is_loopback(host))
        return ListenerInfo(frozenset(self.rule.endpoints), loopback=loopback, unix=host is None)

    def renewed(self, rule: ListenerRule) -> Certificate | None:
        """Read the certificate that a rule names for this listener, and change nothing."""
        return None if self._certificate is None else Certificate(rule.certificate, rule.key)

    def take(self, certificate: Certificate | None) -> None:
        """Use for new connections what `renewed` has read."""
        if self._certificate is not None and certificate is not None:
            self._certificate.replace_with(certificate)

    def stop(self) -> None:
        """Accept no more; those that are connected stay, and others are refused, or left to who is next."""
        if self._file is not None:
            self._file.remove()
        for accepting in self._accepting:
            _close_server(accepting)
        self._accepting.clear()
        for handshakes in self._handshakes:
            handshakes.stop()
        # A loop's own server closes its socket. Of the others the kernel would go on taking connections.
        if self._handshakes:
            self._release()

    async def close(self) -> None:
        """Let go of everything."""
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
    """Close a loop's server, once the connections that the loop has accepted have their transports.

    asyncio's makes a transport one turn after it accepts, and forgets a connection whose server has been
    closed in between: its socket would stay open until it is collected.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        server.close()
        return
    for sock in server.sockets:
        loop.remove_reader(sock)
    loop.call_soon(server.close)


def _doubles(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> Iterator[socket.socket]:
    """Yield the further descriptors of a listening socket with which a loop accepts `ACCEPTS` in one turn.

    asyncio's own needs none. uvloop accepts one connection from each, however many wait, and then polls,
    which is a tenth of what a connection costs in a crowd. One that comes alone costs as much more now, where
    it matters less (both measured).
    """
    if not isinstance(loop, asyncio.BaseEventLoop):
        for _ in range(ACCEPTS - 1):
            yield sock.dup()


async def _bind(host: str, port: int, *, into: list[socket.socket]) -> None:
    """Bind a socket to each address of a host, all to one port.

    Every address takes two: one socket for both families would see IPv4 clients by mapped addresses
    (`::ffff:192.0.2.1`), which limits and `trusted_proxies` would take for others.
    """
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
