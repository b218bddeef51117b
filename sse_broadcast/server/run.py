"""Running the server: the one builder that the command line and the tests both use.

Phases: `Server.start` (listen), then until a signal comes, `Server.stop` (drain).
"""

import asyncio
import gc
import logging
import secrets
import signal
from collections.abc import Callable
from typing import NoReturn

from aiohttp import web

from sse_broadcast.auth.access import Action
from sse_broadcast.auth.authority import Authority
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import UNIX, Config, Endpoint, EventLoop
from sse_broadcast.errors import ConfigError
from sse_broadcast.interest import ANY, DEFAULT_CHANNEL
from sse_broadcast.server.app import CLOSING_SHARE, build_app
from sse_broadcast.server.attendance import Attendance
from sse_broadcast.server.connection import Patience
from sse_broadcast.server.door import Capacity, Door, raise_descriptor_limit, room
from sse_broadcast.server.gate import GATE
from sse_broadcast.server.intake import end_intakes
from sse_broadcast.server.listener import Listener, is_local
from sse_broadcast.server.sink import kernel_timeout
from sse_broadcast.server.state import BROADCASTER, CORS, PROXIES

logger = logging.getLogger(__name__)

RUNNER_SHARE = 1 / 16
"""Of `shutdown_timeout`, what requests in hand may take; the runner waits for it twice."""

COLLECTOR = (50_000, 20, 100)
"""Collector thresholds. With CPython's defaults each new connection has the collector look at
its thousands of neighbours, which doubles the cost of connecting."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server:
    """One server: what it serves, and where it listens.

    Without any credential configured, and with something that needs one, it makes a token for the caller
    that may do everything. Raises `ConfigError` for credentials that cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.token = secrets.token_urlsafe(32) if needs_token(config) else None
        """The token that was made, to be shown once, or None."""
        self._authority = Authority(config, generated=self.token)
        self._app = build_app(config, authority=self._authority, tuned=True)
        self._runner = web.AppRunner(
            self._app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=config.shutdown_timeout * RUNNER_SHARE,
        )
        self._attendance = Attendance(self.broadcaster.metrics)
        self._patience = Patience(head=config.head_timeout, answer=kernel_timeout(config.write_timeout))
        self.listeners: list[Listener] = []
        self.room = 0

    @property
    def broadcaster(self) -> Broadcaster:
        """The broadcaster that is served."""
        return self._app[BROADCASTER]

    @property
    def port(self) -> int:
        """The first port it listens on; with `port=0` the one it was given. 0 without any."""
        return next((listener.port for listener in self.listeners if listener.port is not None), 0)

    @property
    def url(self) -> str:
        """Where it is reached: at its first port, or else at its first UNIX socket."""
        return next((url for url in self.urls if not url.startswith(UNIX)), self.urls[0])

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it is reached, of each listener; a UNIX socket as `unix:` and its path."""
        return tuple(listener.url for listener in self.listeners)

    @property
    def forced(self) -> bool:
        """Whether everyone may publish, since `insecure_publish` says so."""
        return self._config.insecure_publish

    def is_open(self, listener: Listener, action: Action) -> bool:
        """Whether a caller without a token may do this there: in `default`, where it is done in channels."""
        channel = DEFAULT_CHANNEL if action in {Action.SUBSCRIBE, Action.PUBLISH} else ANY
        return self._app[GATE].without_token(listener.place).allows(action, channel)

    @property
    def connections(self) -> int:
        """How many sockets are open, or lost to handlers that have still to end."""
        held = len(self._runner.server.connections) if self._runner.server is not None else 0
        return max(self._attendance.count, held)

    async def start(self) -> None:
        """Listen, everywhere or nowhere. Raises `ListenError`, `CertificateError`."""
        self.listeners = [Listener(rule, self._config) for rule in self._config.listeners]
        try:
            await self._authority.start()
            await self._listen()
        except BaseException:
            await self._close()
            raise

    async def _listen(self) -> None:
        for listener in self.listeners:
            await listener.bind()
        self.room = self._fitting()
        await self._runner.setup()
        door = self._door()
        for listener in self.listeners:
            await listener.accept(door)

    async def _close(self) -> None:
        for listener in self.listeners:
            await listener.close()
        self._patience.close()
        await self._authority.close()

    def _fitting(self) -> int:
        sockets = sum(len(listener.sockets) for listener in self.listeners)
        most, fitting = self._config.max_connections, room(raise_descriptor_limit(), sockets=sockets)
        if most > fitting:
            logger.warning("max_connections: %d do not fit, %d do", most, fitting)
        return min(most or fitting, fitting)

    def _door(self) -> Door:
        assert self._runner.server is not None
        capacity = Capacity(
            self.room,
            per_address=self._config.max_connections_per_address,
            excepted=self._app[PROXIES].trusts,
        )
        return Door(
            self._runner.server,
            capacity=capacity,
            attendance=self._attendance,
            patience=self._patience,
            cors=self._app[CORS],
        )

    async def stop(self) -> None:
        """Stop listening, end every stream, and wait for that for `shutdown_timeout` at most."""
        for listener in self.listeners:
            listener.stop()
        # Before the runner's own cleaning up, which stops listening to idle connections and leaves
        # them open: until the streams have ended, whoever asks on one is answered with 503.
        end_intakes(self._app)
        await self.broadcaster.close(timeout=self._config.shutdown_timeout * CLOSING_SHARE)
        await self._runner.cleanup()
        await self._close()


def needs_token(config: Config) -> bool:
    """Whether there is something that needs a token, and none is configured."""
    if config.has_credentials:
        return False
    return any(
        set(rule.endpoints) != {Endpoint.SUBSCRIBE} and (config.has_anonymous_grants or not is_local(rule))
        for rule in config.listeners
    )


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
