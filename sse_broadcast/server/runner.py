"""Runner: the one builder of a running server, for the command line and the tests.

Phases: `Server.start` (listen), then after a signal `Server.begin_drain` (not ready) and `Server.stop`
(drain).
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
from sse_broadcast.config.sources import ActiveSources
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
from sse_broadcast.server.services import ACTIVE_SERVICES, BROADCASTER, CONFIG_SOURCES, Services
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
"""Part of `shutdown_timeout` for requests in progress. The runner waits for it twice."""

# A publisher that sends one batch after another would otherwise have a request on its way when its
# connection closes. Without an answer it cannot know that nothing was published (nginx has
# `keepalive_min_timeout` for this).
LINGER = 0.1
"""Seconds in which requests on kept connections are still answered after everything else has ended."""


class Server:
    """One server: its application and its listeners.

    If no credential is configured and something needs one, it generates a token that allows everything. With
    `inherited` sockets it listens only on those. `load` returns the configuration of a reload; by default it
    is the same, with its files read again. `sources` says where the values came from. Raises `ConfigError`
    for credentials that cannot be used, and `ListenError` for inherited sockets that fit no listener.
    """

    def __init__(
        self,
        config: Config,
        *,
        inherited: Sequence[InheritedSocket] = (),
        load: Callable[[], Config] | None = None,
        sources: ActiveSources | None = None,
    ) -> None:
        load = load or functools.partial(_same, config)
        sources = sources or ActiveSources.of(config)
        config, self._inherited = bind_to_inherited(config, inherited)
        services = build_services(
            config, generated=secrets.token_urlsafe(32) if needs_token(config) else None
        )
        self.app = build_app(services, tuned=True, load=lambda: bind_to_inherited(load(), inherited)[0])
        """The aiohttp application. Its parts are under the keys of `server.services`."""
        self.app[CONFIG_SOURCES] = sources
        self.reloader.parts += [self._prepare, sources.prepare]
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
        """The connection limit; 0 before the server listens."""
        return self._connection_counts.limit

    @property
    def private_share(self) -> int:
        """The part of the connection limit for private listeners only; 0 without such a listener."""
        return private_share(self.room) if any(each.rule.private for each in self.listeners) else 0

    @property
    def services(self) -> Services:
        """The services of the active configuration. A reload replaces them."""
        return self.app[ACTIVE_SERVICES].services

    @property
    def config(self) -> Config:
        """The active configuration."""
        return self.services.config

    @property
    def token(self) -> str | None:
        """The token generated at the start, or None."""
        return self.services.generated

    @property
    def reloader(self) -> Reloader:
        """The reloader of the application."""
        return self.app[RELOADER]

    @property
    def broadcaster(self) -> Broadcaster:
        """The broadcaster of the application."""
        return self.app[BROADCASTER]

    @property
    def port(self) -> int:
        """The first port that the server listens on, also if the kernel chose it; 0 without any."""
        return next((listener.port for listener in self.listeners if listener.port is not None), 0)

    @property
    def url(self) -> str:
        """The URL of the first port, or else of the first UNIX socket."""
        return next((url for url in self.urls if not url.startswith(UNIX_PREFIX)), self.urls[0])

    @property
    def urls(self) -> tuple[str, ...]:
        """The URL of each listener; a UNIX socket is `unix:` and its path."""
        return tuple(listener.url for listener in self.listeners)

    def anonymous_on(self, listener: Listener) -> Principal:
        """Return the principal of a caller without a token on a listener."""
        return self.services.authorizer.anonymous_on(listener.info)

    @property
    def stopping_takes(self) -> float:
        """The maximum seconds from the signal to the exit."""
        config = self.config
        return config.drain_delay + config.drain_timeout + config.shutdown_timeout

    @property
    def connections(self) -> int:
        """The number of open sockets, and of lost ones whose handlers have not ended."""
        held = len(self._runner.server.connections) if self._runner.server is not None else 0
        return max(self._connection_counts.count, held)

    async def start(self) -> None:
        """Open the store, then listen on all addresses or on none.

        Raises `StoreError`, `ListenError`, `CertificateError`.
        """
        self.listeners = [
            Listener(rule, self.config, inherited=sock)
            for rule, sock in zip(self.config.listeners, self._inherited, strict=True)
        ]
        try:
            await self.broadcaster.start()
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
        """The admission control. It exists from `start` on."""
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
                "max_connections: %(asked)d needs more file descriptors than allowed, using %(fitting)d",
                {"asked": most, "fitting": fitting},
            )
        return connection_limit(config, fitting)

    def _apply_connection_limits(self) -> None:
        """Apply the connection limits of the active configuration."""
        capacity = ConnectionLimits(
            self.room,
            public=self.room - self.private_share,
            per_address=self.config.max_connections_per_address,
            excepted=self.services.proxies.trusts,
        )
        self.admission.configure(capacity, self.services.cors, self.services.authorizer)

    def _prepare(self, config: Config) -> Commit:
        """Load the certificates of all listeners, and compute the connection limit (a `PreparePart`)."""
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
        """Become not ready, and keep serving for `drain_delay`, so that load balancers notice."""
        # An inherited socket is left at once to the next process: connections accepted here would soon be
        # closed.
        self.app[READINESS].drain()
        for listener in self.listeners:
            if listener.inherited:
                listener.stop()
        await asyncio.sleep(self.config.drain_delay)

    def flush_stream_log(self) -> None:
        """Write the collected log lines of streams now. Call it only before the process exits."""
        self.app[STREAM_REGISTRY].close()

    async def stop(self) -> None:
        """Stop listening, disconnect subscribers over `drain_timeout`, end the rest in `shutdown_timeout`."""
        self.app[READINESS].drain()
        for listener in self.listeners:
            listener.stop()
        # Before the runner's cleanup, which stops reading from idle connections and leaves them open. Until
        # the streams have ended, requests on idle connections get a 503.
        await end_streams(self.app)
        await self._answer_the_last_requests()
        # Before the runner's cleanup: it would leave open a connection accepted after it.
        await self._closing.aclose()
        await self._runner.cleanup()
        await self._close()

    async def _answer_the_last_requests(self) -> None:
        """Keep idle connections open for `LINGER`. Each answer closes its connection."""
        loop = asyncio.get_running_loop()
        end = loop.time() + min(LINGER, self.config.shutdown_timeout * RUNNER_SHARE)
        while self.connections and loop.time() < end:  # noqa: ASYNC110 - nothing tells that they are gone
            await asyncio.sleep(0.005)


def _same(config: Config) -> Config:
    return config


def connection_limit(config: Config, fitting: int) -> int:
    """Return the connection limit. `fitting` connections fit under the limit of descriptors."""
    return min(config.max_connections or fitting, fitting)


def needs_token(config: Config) -> bool:
    """Return whether something needs a token and none is configured."""
    if config.has_credentials:
        return False
    return any(
        not set(rule.endpoints) <= {Endpoint.SUBSCRIBE, Endpoint.CONSOLE}
        and (config.has_anonymous_grants or not is_local(rule))
        for rule in config.listeners
    )


def run(  # noqa: PLR0913 - what the command line knows
    config: Config,
    log: LogPipeline,
    *,
    started: Callable[[Server], None],
    forced: Callable[[], NoReturn],
    load: Callable[[], Config] | None = None,
    sources: ActiveSources | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. SIGUSR1 switches debug logging on and off.

    SIGHUP reloads with `load`; once the terminal is closed it drains instead. `started` is called when the
    server listens, `forced` at a second signal. Uses the sockets that a supervisor passes on. Raises
    `ListenError`, `CertificateError`, `ConfigError`.
    """
    make = functools.partial(Server, config, inherited=take_sockets(os.environ), load=load, sources=sources)
    with asyncio.Runner(loop_factory=lambda: new_loop(config.event_loop)) as runner:
        runner.get_loop().set_default_executor(DaemonThreadExecutor())
        heard = runner.run(_serve(make, log, started, forced))
    # A signal between here and the exit has nothing left to stop. Its default action would look like a kill.
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
        count = Quantity(server.broadcaster.client_count, "subscriber")
        logger.info(
            "stopping: ending the streams of %(readers)s; a second signal exits at once",
            {"readers": count},
        )
        await server.reloader.close()
        supervisor.stopping(f"disconnecting {count}", within=server.stopping_takes)
        await server.begin_drain()
    finally:
        await server.stop()
        supervisor.close()
    return table


def _signals(stop: Callable[[], None], hang_up: Callable[[], None], log: LogPipeline) -> Table:
    """Return the handler of each signal."""
    return {**dict.fromkeys(STOP, stop), signal.SIGHUP: hang_up, signal.SIGUSR1: log.switch_debug}


@contextlib.contextmanager
def _reported(supervisor: SystemdNotifier, status: str) -> Iterator[None]:
    """Notify the service manager when a reload begins and when it is over."""
    supervisor.reloading()
    try:
        yield
    finally:
        supervisor.ready(status)
