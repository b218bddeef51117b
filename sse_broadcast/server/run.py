"""Running the server: the one builder that the command line and the tests both use.

Phases: `Server.start` (listen), `Server.wait` (until a signal), `Server.stop` (drain).
"""

import asyncio
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from typing import NoReturn

from aiohttp import web

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import Config, EventLoop
from sse_broadcast.errors import CertificateError, ConfigError, ListenError
from sse_broadcast.server.app import CLOSING_SHARE, build_app
from sse_broadcast.server.door import ACCEPTS, HANDSHAKE, Door, raise_descriptor_limit, room
from sse_broadcast.server.intake import end_intakes
from sse_broadcast.server.log import http_logger
from sse_broadcast.server.sink import tune
from sse_broadcast.server.state import BROADCASTER

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections the kernel holds for us: after a restart everyone comes at once."""

KEEP_ALIVE = 75.0
"""Seconds an idle connection is kept: longer than the 60 of the load balancers in front."""

RUNNER_SHARE = 1 / 16
"""Of `shutdown_timeout`, what requests in hand may take; the runner waits for it twice."""

COLLECTOR = (50_000, 20, 100)
"""Collector thresholds. With CPython's defaults each new connection has the collector look at
its thousands of neighbours, which doubles the cost of connecting."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server:
    """One server: what it serves, and where it listens."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._app = build_app(config, tuned=True)
        # A misspelt keyword here would silently drop them all; a test holds them.
        self._runner = web.AppRunner(
            self._app,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE,
            tcp_keepalive=False,  # handed down by the listening socket
            auto_decompress=False,
            access_log=None,
            logger=http_logger(),
            shutdown_timeout=config.shutdown_timeout * RUNNER_SHARE,
        )
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Server] = []
        self.room = 0

    @property
    def broadcaster(self) -> Broadcaster:
        """The broadcaster that is served."""
        return self._app[BROADCASTER]

    @property
    def port(self) -> int:
        """The port it listens on; with `port=0` the one it was given."""
        port: int = self._listeners[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where it is reached."""
        scheme = "https" if self._config.certificate else "http"
        host = self._config.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many sockets are open."""
        return len(self._runner.server.connections) if self._runner.server is not None else 0

    async def start(self) -> None:
        """Listen. Raises `ListenError`, `CertificateError`."""
        context = tls_context(self._config)
        fitting = room(raise_descriptor_limit())
        self.room = min(self._config.max_connections or fitting, fitting)
        if self._config.max_connections > fitting:
            logger.warning("max_connections: %d do not fit, %d do", self._config.max_connections, fitting)
        self._listeners = await _bind(self._config.host, self._config.port)
        await self._runner.setup()
        assert self._runner.server is not None
        door = Door(self._runner.server, limit=self.room)
        for listener in self._listeners:
            tune(listener, send_buffer=self._config.send_buffer, write_timeout=self._config.write_timeout)
            self._accepting.append(await _accept(door, listener, context))

    async def stop(self) -> None:
        """Stop listening, end every stream, and wait for that for `shutdown_timeout` at most."""
        for accepting in self._accepting:
            accepting.close()
        # Before the runner's own cleaning up, which stops listening to idle connections and leaves
        # them open: until the streams have ended, whoever asks on one is answered with 503.
        end_intakes(self._app)
        await self.broadcaster.close(timeout=self._config.shutdown_timeout * CLOSING_SHARE)
        await self._runner.cleanup()
        for listener in self._listeners:
            listener.close()


async def _accept(door: Door, listener: socket.socket, context: ssl.SSLContext | None) -> asyncio.Server:
    patience = None if context is None else HANDSHAKE
    server = await asyncio.get_running_loop().create_server(
        door, sock=listener, ssl=context, ssl_handshake_timeout=patience, backlog=ACCEPTS
    )
    # asyncio accepts as many connections in one turn as its backlog says, before it counts one;
    # how many the kernel holds for us meanwhile is another thing.
    listener.listen(BACKLOG)
    return server


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Give the TLS context of a configuration, or None for HTTP. Raises `CertificateError`."""
    if not config.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # An empty pass phrase, or OpenSSL would ask for the key's on the terminal and wait.
        context.load_cert_chain(config.certificate, config.key or None, password="")
    except (OSError, ValueError) as error:
        names = config.certificate + (f", {config.key}" if config.key else "")
        raise CertificateError(f"certificate: cannot load {names}: {_reason(error)}") from None
    return context


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Give a socket bound to each address of a host, all to one port."""
    listeners: list[socket.socket] = []
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, _, _, address in dict.fromkeys(infos):
            listener = socket.socket(family, kind)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port, *address[2:]))
            port = listener.getsockname()[1]
    except (OSError, UnicodeError) as error:  # a name may be one that Python cannot even ask for
        for listener in listeners:
            listener.close()
        raise ListenError(f"cannot listen on {host} port {port}: {_reason(error)}") from None
    return listeners


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def new_loop(choice: EventLoop) -> asyncio.AbstractEventLoop:
    """Give an event loop of the kind that was chosen. Raises `ConfigError` without the extra."""
    if choice is not EventLoop.ASYNCIO:
        try:
            import uvloop  # noqa: PLC0415 - the extra `fast`
        except ImportError:
            if choice is EventLoop.UVLOOP:
                raise ConfigError(
                    "event_loop: uvloop is not installed; pip install 'sse-broadcast[fast]'"
                ) from None
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run(config: Config, *, started: Callable[[Server], None], forced: Callable[[], NoReturn]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    `started` is called once the server listens, `forced` at a second signal. Raises
    `ListenError`, `CertificateError`, `ConfigError`.
    """
    with asyncio.Runner(loop_factory=lambda: new_loop(config.event_loop)) as runner:
        runner.run(_serve(config, started, forced))
    # What comes between here and the exit finds nothing left to stop, and must not look like a kill.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


async def _serve(config: Config, started: Callable[[Server], None], forced: Callable[[], NoReturn]) -> None:
    server = Server(config)
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            forced()
        asked.set()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await server.start()
        _tune_collector()
        started(server)
        await asked.wait()
        count = server.broadcaster.client_count
        logger.info("stopping: ending the streams of %d readers; a second signal exits at once", count)
    finally:
        await server.stop()


def _tune_collector() -> None:
    """Spare what is here to stay, and look at new objects less often. It is the whole process's."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR)
