"""Running the server: the one builder that the command line and the tests both use.

Phases: `Server.start` (listen), then, when a signal comes, `Server.begin_drain` (not ready any more) and
`Server.stop` (drain).
"""

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from aiohttp import web

from sse_broadcast.auth.principal import Principal
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config, Endpoint
from sse_broadcast.logs.pipeline import LogPipeline
from sse_broadcast.quantity import Quantity
from sse_broadcast.server.app import build_app, end_streams
from sse_broadcast.server.assembly import build_services
from sse_broadcast.server.endpoints.metrics import EXPOSITION
from sse_broadcast.server.http.health import READINESS
from sse_broadcast.server.http.request_head import checking_hosts
from sse_broadcast.server.process.loop import DaemonThreadExecutor, new_loop, tune_collector
from sse_broadcast.server.process.signals import STOP, Table, hangup_handler, ignore, install_handlers
from sse_broadcast.server.process.systemd import SystemdNotifier
from sse_broadcast.server.reload import RELOADER, Commit, Reloader
from sse_broadcast.server.services import ACTIVE_SERVICES, BROADCASTER, Services
from sse_broadcast.server.streams.registry import STREAM_REGISTRY
from sse_broadcast.server.transport.admission import (
    AdmissionControl,
    ConnectionLimits,
    private_share,
    raise_descriptor_limit,
    room,
)
from sse_broadcast.server.transport.connection import ConnectionTimeouts
from sse_broadcast.server.transport.counts import ConnectionCounts
from sse_broadcast.server.transport.listener import Listener, is_local
from sse_broadcast.server.transport.socket_activation import InheritedSocket, bind_to_inherited, take_sockets
from sse_broadcast.server.transport.socket_options import kernel_timeout
from sse_broadcast.unix_address import UNIX_PREFIX

logger = logging.getLogger("sse_broadcast.process")

RUNNER_SHARE = 1 / 16
"""Of `shutdown_timeout`, what requests in hand may take; the runner waits for it twice."""

LINGER = 0.1
"""Seconds in which a request on a kept connection is still answered when all else has ended.

A publisher that sends one batch after another meets the close of its connection otherwise, with a request on
its way: it has no answer then, and cannot know that nothing was published (nginx: `keepalive_min_timeout`).
"""


class Server:
    """One server: what it serves, and where it listens.

    Without any credential configured, and with something that needs one, it makes a token for the caller
    that may do everything. Raises `ConfigError` for credentials that cannot be used.

    With `inherited` sockets it listens there, and nowhere else: raises `ListenError` if they and the
    listeners do not fit together.

    A reload goes by what `load` gives, or by the same configuration, whose files are then read again.
    """

    def __init__(
        self,
        config: Config,
        *,
        inherited: Sequence[InheritedSocket] = (),
        load: Callable[[], Config] | None = None,
    ) -> None:
        load = load or functools.partial(_same, config)
        config, self._inherited = bind_to_inherited(config, inherited)
        services = build_services(
            config, generated=secrets.token_urlsafe(32) if needs_token(config) else None
        )
        self.app = build_app(services, tuned=True, load=lambda: bind_to_inherited(load(), inherited)[0])
        """The aiohttp application that is served; the keys of `server.services` find what it holds."""
        self.reloader.parts.append(self._prepare)
        self._runner = web.AppRunner(
            self.app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=config.shutdown_timeout * RUNNER_SHARE,
        )
        self._connection_counts = ConnectionCounts(self.broadcaster.metrics)
        self.app[EXPOSITION].connection_counts = self._connection_counts
        self._patience = ConnectionTimeouts(
            head=config.head_timeout, answer=kernel_timeout(config.write_timeout)
        )
        self._closing = contextlib.AsyncExitStack()
        self.listeners: list[Listener] = []

    @property
    def room(self) -> int:
        """How many connections it lets in; 0 before it listens."""
        return self._connection_counts.limit

    @property
    def private_share(self) -> int:
        """How many of them are for private listeners alone; 0 without such a listener."""
        return private_share(self.room) if any(each.rule.private for each in self.listeners) else 0

    @property
    def services(self) -> Services:
        """What follows from the configuration in force; a reload puts another in its place."""
        return self.app[ACTIVE_SERVICES].services

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.services.config

    @property
    def token(self) -> str | None:
        """The token that was made, to be shown once; None where there is none, or another is configured."""
        return self.services.generated

    @property
    def reloader(self) -> Reloader:
        """What has it go by another configuration."""
        return self.app[RELOADER]

    @property
    def broadcaster(self) -> Broadcaster:
        """The broadcaster that is served."""
        return self.app[BROADCASTER]

    @property
    def port(self) -> int:
        """The first port it listens on; with `port=0` the one it was given. 0 without any."""
        return next((listener.port for listener in self.listeners if listener.port is not None), 0)

    @property
    def url(self) -> str:
        """Where it is reached: at its first port, or else at its first UNIX socket."""
        return next((url for url in self.urls if not url.startswith(UNIX_PREFIX)), self.urls[0])

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it is reached, of each listener; a UNIX socket as `unix:` and its path."""
        return tuple(listener.url for listener in self.listeners)

    def anonymous_on(self, listener: Listener) -> Principal:
        """Return what a caller without a token may do there."""
        return self.services.authorizer.anonymous_on(listener.info)

    @property
    def stopping_takes(self) -> float:
        """The seconds from the signal to the exit, at most."""
        config = self.config
        return config.drain_delay + config.drain_timeout + config.shutdown_timeout

    @property
    def connections(self) -> int:
        """How many sockets are open, or lost to handlers that have still to end."""
        held = len(self._runner.server.connections) if self._runner.server is not None else 0
        return max(self._connection_counts.count, held)

    async def start(self) -> None:
        """Listen, everywhere or nowhere. Raises `ListenError`, `CertificateError`."""
        self.listeners = [
            Listener(rule, self.config, inherited=sock)
            for rule, sock in zip(self.config.listeners, self._inherited, strict=True)
        ]
        try:
            async with self.reloader.turn:
                await self.services.authenticator.start()
                await self._listen()
        except BaseException:
            await self._close()
            raise

    async def _listen(self) -> None:
        for listener in self.listeners:
            await listener.bind()
        self._connection_counts.limit = self._connection_limit(self.config)
        await self._runner.setup()
        assert self._runner.server is not None
        self._runner.server.request_factory = checking_hosts(self._runner.server.request_factory)
        self.admission = AdmissionControl(
            self._runner.server,
            connection_counts=self._connection_counts,
            timeouts=self._patience,
            readiness=self.app[READINESS],
        )
        """Decides which connections are let in; there is none before it listens."""
        self._closing.push_async_callback(self.admission.close)
        self._apply_connection_limits()
        for listener in self.listeners:
            await listener.accept(self.admission)

    async def _close(self) -> None:
        for listener in self.listeners:
            await listener.close()
        await self._closing.aclose()
        self._patience.close()
        await self.reloader.close()
        await self.services.authenticator.close()

    def _connection_limit(self, config: Config) -> int:
        sockets = sum(len(listener.sockets) for listener in self.listeners)
        most, fitting = config.max_connections, room(raise_descriptor_limit(), sockets=sockets)
        if most > fitting:
            logger.warning(
                "max_connections: %(asked)d do not fit, %(fitting)d do", {"asked": most, "fitting": fitting}
            )
        return connection_limit(config, fitting)

    def _apply_connection_limits(self) -> None:
        """Admit as many connections as the active configuration allows."""
        capacity = ConnectionLimits(
            self.room,
            public=self.room - self.private_share,
            per_address=self.config.max_connections_per_address,
            excepted=self.services.proxies.trusts,
        )
        self.admission.configure(capacity, self.services.cors, self.services.authorizer)

    def _prepare(self, config: Config) -> Commit:
        """Read what listeners have in files, and see how many fit. See `PreparePart`."""
        rules = zip(self.listeners, config.listeners, strict=True)
        renewed = [(listener, listener.renewed(rule)) for listener, rule in rules]
        fitting = self._connection_limit(config)

        def commit() -> None:
            for listener, certificate in renewed:
                listener.take(certificate)
            self._connection_counts.limit = fitting
            self._apply_connection_limits()

        return commit

    async def begin_drain(self) -> None:
        """Be ready no more, and go on serving for `drain_delay`, in which who balances load can see it.

        An inherited socket is left at once to the process that comes next: what it accepts is better off.
        """
        self.app[READINESS].drain()
        for listener in self.listeners:
            if listener.inherited:
                listener.stop()
        await asyncio.sleep(self.config.drain_delay)

    def flush_stream_log(self) -> None:
        """Have the log say at once what it has yet to say of streams. It is for a process that exits."""
        self.app[STREAM_REGISTRY].close()

    async def stop(self) -> None:
        """Stop listening, let go of every reader over `drain_timeout`; the rest has `shutdown_timeout`."""
        self.app[READINESS].drain()
        for listener in self.listeners:
            listener.stop()
        # Before the runner's own cleaning up, which stops listening to idle connections and leaves
        # them open: until the streams have ended, whoever asks on one is answered with 503.
        await end_streams(self.app)
        await self._answer_the_last_requests()
        # Before the runner's cleaning up: it would leave open a connection that comes behind it.
        await self._closing.aclose()
        await self._runner.cleanup()
        await self._close()

    async def _answer_the_last_requests(self) -> None:
        """Keep connections open for `LINGER`: each answer ends its own, so most are gone before that."""
        loop = asyncio.get_running_loop()
        end = loop.time() + min(LINGER, self.config.shutdown_timeout * RUNNER_SHARE)
        while self.connections and loop.time() < end:  # noqa: ASYNC110 - nothing tells that they are gone
            await asyncio.sleep(0.005)


def _same(config: Config) -> Config:
    return config


def connection_limit(config: Config, fitting: int) -> int:
    """Return how many connections are let in, of those that fit under the limit of descriptors."""
    return min(config.max_connections or fitting, fitting)


def needs_token(config: Config) -> bool:
    """Whether there is something that needs a token, and none is configured."""
    if config.has_credentials:
        return False
    return any(
        set(rule.endpoints) != {Endpoint.SUBSCRIBE} and (config.has_anonymous_grants or not is_local(rule))
        for rule in config.listeners
    )


def run(
    config: Config,
    log: LogPipeline,
    *,
    started: Callable[[Server], None],
    forced: Callable[[], NoReturn],
    load: Callable[[], Config] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. SIGUSR1 has everything logged, and another no longer.

    At SIGHUP it goes by what `load` gives, as `Server` has it; once its terminal is closed, it drains.
    `started` is called once the server listens, `forced` at a second signal. Raises `ListenError`,
    `CertificateError`, `ConfigError`. Takes the sockets that a supervisor hands down.
    """
    make = functools.partial(Server, config, inherited=take_sockets(os.environ), load=load)
    with asyncio.Runner(loop_factory=lambda: new_loop(config.event_loop)) as runner:
        runner.get_loop().set_default_executor(DaemonThreadExecutor())
        heard = runner.run(_serve(make, log, started, forced))
    # What comes between here and the exit finds nothing left to stop, and must not look like a kill.
    ignore(heard)


async def _serve(
    make: Callable[[], Server],
    log: LogPipeline,
    started: Callable[[Server], None],
    forced: Callable[[], NoReturn],
) -> Table:
    server = make()
    supervisor = SystemdNotifier.of(os.environ)
    asked = asyncio.Event()

    def stop() -> None:
        if asked.is_set():
            server.flush_stream_log()
            forced()
        asked.set()

    log.count_lost(server.broadcaster.metrics.log_lines_lost)
    server.reloader.parts.append(lambda config: functools.partial(log.set_level, config.log_level))
    table = _signals(stop, hangup_handler(server.reloader.ask, asked.set), log)
    install_handlers(table)
    try:
        await server.start()
        tune_collector()
        started(server)
        status = f"listens on {', '.join(server.urls)}"
        supervisor.ready(status)
        server.reloader.around = functools.partial(_reported, supervisor, status)
        await asked.wait()
        count = Quantity(server.broadcaster.client_count, "reader")
        logger.info(
            "stopping: ending the streams of %(readers)s; a second signal exits at once",
            {"readers": count},
        )
        await server.reloader.close()
        supervisor.stopping(f"letting go of {count}", within=server.stopping_takes)
        await server.begin_drain()
    finally:
        await server.stop()
        supervisor.close()
    return table


def _signals(stop: Callable[[], None], hang_up: Callable[[], None], log: LogPipeline) -> Table:
    """Return what each signal does."""
    return {**dict.fromkeys(STOP, stop), signal.SIGHUP: hang_up, signal.SIGUSR1: log.switch_debug}


@contextlib.contextmanager
def _reported(supervisor: SystemdNotifier, status: str) -> Iterator[None]:
    """Have a supervisor know that a reload begins, and that it is over."""
    supervisor.reloading()
    try:
        yield
    finally:
        supervisor.ready(status)
