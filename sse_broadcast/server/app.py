"""The aiohttp application: its parts, and the checks and headers of every request."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

from aiohttp import HttpVersion10, hdrs, web

from sse_broadcast.auth.principal import Principal
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config, Endpoint, config_or_default
from sse_broadcast.config.sources import ActiveSources
from sse_broadcast.errors import BroadcastError
from sse_broadcast.server.access.authorization import PRINCIPAL
from sse_broadcast.server.access.shares import Shares
from sse_broadcast.server.assembly import build_services
from sse_broadcast.server.endpoints.events import Events
from sse_broadcast.server.endpoints.metrics import EXPOSITION, Exposition
from sse_broadcast.server.endpoints.publish import Publishing
from sse_broadcast.server.endpoints.publish_stream import end_line_streams
from sse_broadcast.server.endpoints.status_stream import end_status_streams
from sse_broadcast.server.http.health import READINESS, Readiness
from sse_broadcast.server.http.log import log_refusal
from sse_broadcast.server.http.problem import Problem, answer, problem_of
from sse_broadcast.server.http.request_head import forget_targets, require_valid_head
from sse_broadcast.server.http.responses import sign
from sse_broadcast.server.process.body_decoder import DECODER, BodyDecoder, close_decoder
from sse_broadcast.server.process.loop import LoopLagMonitor
from sse_broadcast.server.reload import RELOADER, Reloader
from sse_broadcast.server.routing import Handler, add_routes
from sse_broadcast.server.services import (
    ACTIVE_SERVICES,
    BATCH_LOCK,
    BROADCASTER,
    CONFIG_SOURCES,
    DRAINING,
    LINE_STREAMS,
    OWN_LISTENER,
    SHARES,
    STATUS_STREAMS,
    STREAM_EXPIRY,
    ActiveServices,
    Services,
    confirm,
    services_of,
)
from sse_broadcast.server.streams.expiry import StreamExpiry
from sse_broadcast.server.streams.registry import STREAM_REGISTRY, StreamRegistry
from sse_broadcast.server.transport.connection import (
    MAX_HEAD,
    SUPPORTED_VERSIONS,
    Connection,
    ListenerInfo,
    answer_as_http_1_0,
    listener_of,
)
from sse_broadcast.work_queue import FairLock

OTHER = "other"
"""The metrics label of refused requests that belong to no endpoint."""

CLOSING_SHARE = 0.75
"""Part of `shutdown_timeout` for the ends of streams. The runner has the rest."""


def create_app(config: Config | None = None) -> web.Application:
    """Return the server as an application, to run or to mount in another one (with `add_subapp`).

    `app[BROADCASTER]` is its broadcaster, for programs that publish from the same process. Any aiohttp runner
    works. With `handler_cancellation=True` a subscriber is released when its connection is lost, otherwise at
    the next heartbeat. The runner decides `host`, `port`, `max_connections` and the other settings of the
    listening socket.
    """
    settled = config_or_default(config)
    app = build_app(build_services(settled), tuned=False, load=lambda: settled)

    async def keep(_: web.Application) -> AsyncIterator[None]:
        await app[BROADCASTER].start()
        await app[ACTIVE_SERVICES].services.authenticator.start()
        yield
        await app[RELOADER].close()
        await app[ACTIVE_SERVICES].services.authenticator.close()

    app.cleanup_ctx.append(keep)
    return app


def build_app(services: Services, *, tuned: bool, load: Callable[[], Config]) -> web.Application:
    """Return the application. `tuned` means that its listening sockets are ours (see `tune_listener`).

    `load` reads the configuration again, for a reload. The caller starts the authenticator of the active
    services, and at the end closes first the reloader, then the authenticator.
    """
    app = web.Application()
    app[ACTIVE_SERVICES] = ActiveServices(services)
    app[RELOADER] = Reloader(app, load)
    app[STREAM_REGISTRY] = StreamRegistry()
    app[BROADCASTER] = Broadcaster(services.config)
    app[SHARES] = Shares(services.config, app[BROADCASTER].metrics)
    app[STREAM_EXPIRY] = StreamExpiry(services.config, on_limit=app[SHARES].reached)
    app[READINESS] = Readiness(app[BROADCASTER])
    app[OWN_LISTENER] = tuned
    app[LINE_STREAMS] = set()
    app[STATUS_STREAMS] = set()
    app[CONFIG_SOURCES] = ActiveSources.of(services.config)
    app[DRAINING] = asyncio.Event()
    app[BATCH_LOCK] = FairLock()
    app[DECODER] = BodyDecoder()

    def add(method: str, path: str, handler: Handler, endpoint: Endpoint | None) -> None:
        app.router.add_route(method, path, guarded(app, handler, endpoint), expect_handler=_expect)

    add_routes(Events(app), Publishing(app), add)
    app[EXPOSITION] = Exposition(app[BROADCASTER], services.authenticator.revocations)
    app.cleanup_ctx.append(_watch_loop)
    app.on_shutdown.append(end_streams)
    app.on_cleanup.append(_close_registry)
    app.on_cleanup.append(close_decoder)
    return app


def guarded(app: web.Application, handler: Handler, endpoint: Endpoint | None) -> Handler:
    """Wrap a handler: check the request, authenticate its caller, and answer every error as a problem.

    A handler without an endpoint needs no credential.
    """
    # Not a middleware: for the first middleware aiohttp puts two coroutines around a handler, and a stream
    # keeps them for its whole life.
    active = app[ACTIVE_SERVICES]

    @functools.wraps(handler)
    async def tell(request: web.Request) -> web.StreamResponse:
        try:
            place = _listener_of(request)
            require_valid_head(request, max_channels=active.services.config.max_channels)
            if endpoint is not None:
                principal = active.services.authorizer.identify(request, endpoint, place)
                if isinstance(principal, str):
                    principal = await _admitted(request, endpoint, place, active)
                request[PRINCIPAL] = principal
            response = await handler(request)
            if endpoint is Endpoint.INSPECT and not response.prepared:
                confirm(request)  # a long list awaits in between, and the credential may be revoked meanwhile
        except Problem as problem:
            response = _refused(request, app, problem, endpoint)
        except BroadcastError as error:
            response = _refused(request, app, problem_of(error), endpoint)
        except Exception as error:
            _count_failure(app, error, endpoint)
            raise
        return response if response.prepared else _finish_response(request, response, active.services)

    return tell


async def _admitted(
    request: web.Request, endpoint: Endpoint, place: ListenerInfo, active: ActiveServices
) -> Principal:
    """Verify the token of a request and return its principal."""
    # Fetching a signing key takes a while, and a reload may replace the services meanwhile. Then decide
    # again.
    while True:
        services = active.services
        try:
            principal = services.authorizer.identify(request, endpoint, place)
            if isinstance(principal, str):
                principal = await services.authorizer.authenticate(principal)
        except Problem:
            if services is active.services:
                raise
        else:
            if services is active.services:
                return principal


def _refused(
    request: web.Request, app: web.Application, problem: Problem, endpoint: Endpoint | None
) -> web.StreamResponse:
    forget_targets()
    app[BROADCASTER].metrics.refused_request(problem.status, endpoint or OTHER)
    services = app[ACTIVE_SERVICES].services
    log_refusal(
        request,
        problem.status,
        problem.detail,
        address=services.proxies.client(request),
        origin=services.cors.kept_from(request),
    )
    return problem.instead or answer(problem)


def _count_failure(app: web.Application, error: Exception, endpoint: Endpoint | None) -> None:
    """Count a request that aiohttp answers with 500, unless its client disconnected."""
    if not isinstance(error, ConnectionError):
        app[BROADCASTER].metrics.refused_request(500, endpoint or OTHER)


def _finish_response(
    request: web.Request, response: web.StreamResponse, services: Services
) -> web.StreamResponse:
    if request.app[READINESS].draining:
        response.force_close()  # the client's next request then goes to another server
    if hdrs.SERVER not in response.headers:  # `answered` has written all of them at once
        sign(response)
    if services.cors.enabled:
        services.cors.tell(request, response.headers)
    return response


def _listener_of(request: web.Request) -> ListenerInfo:
    """Return the listener of a request whose version and size of head are served. Raises `Problem`."""
    protocol = request.protocol
    if not isinstance(protocol, Connection):
        _require_version(request)
        return listener_of(request)
    if request.version not in SUPPORTED_VERSIONS:
        _refuse_version(request)
    if protocol.had_much:
        _require_short_head(request)
    return protocol.listener_info


def _require_version(request: web.Request) -> None:
    # Checked first: aiohttp answers any other error in the version that the request states.
    if request.version not in SUPPORTED_VERSIONS:
        _refuse_version(request)


def _require_short_head(request: web.Request) -> None:
    # Measured only on connections that received so much at once that a head may be too long.
    size = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > MAX_HEAD:
        raise Problem(431, f"head: has {size} bytes, more than {MAX_HEAD}")


def _refuse_version(request: web.Request) -> NoReturn:
    said = answer_as_http_1_0(request)
    assert said is not None
    detail = f"version: HTTP/{said.major}.{said.minor} is not supported; use 1.0 or 1.1"
    raise Problem(400, detail, closes=True)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    try:
        _require_version(request)
        require_valid_head(request, max_channels=services_of(request).config.max_channels)
        _require_continue(request)
    except Problem as problem:
        return _finish_response(request, _refused(request, request.app, problem, None), services_of(request))
    if request.version == HttpVersion10:
        return None  # HTTP/1.0 has no interim responses (RFC 9110, 10.1.1)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The interim response does not count as sent output: an error after it can still be answered.
    request.writer.output_size = 0
    return None


def _require_continue(request: web.Request) -> None:
    expectation = ", ".join(request.headers.getall("Expect", ()))
    if expectation.lower() != "100-continue":
        raise Problem(417, f"Expect: {expectation[:80]!a} is not supported")


async def _close_registry(app: web.Application) -> None:
    app[STREAM_REGISTRY].close()


async def end_streams(app: web.Application) -> None:
    """End all streams of publishers and subscribers, within their part of the shutdown time."""
    app[READINESS].drain()
    end_line_streams(app)
    end_status_streams(app)
    config = app[ACTIVE_SERVICES].services.config
    await app[BROADCASTER].close(timeout=config.shutdown_timeout * CLOSING_SHARE, over=config.drain_timeout)


async def _watch_loop(app: web.Application) -> AsyncIterator[None]:
    """Measure the lag of the event loop while the application runs."""
    lag = LoopLagMonitor(app[BROADCASTER].metrics)
    lag.start()
    yield
    lag.stop()
