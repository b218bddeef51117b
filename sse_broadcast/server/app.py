"""The application: its routes, and what holds for every request."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NoReturn

from aiohttp import HttpVersion10, hdrs, web

from sse_broadcast.auth.principal import Principal
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config, Endpoint, config_or_default
from sse_broadcast.errors import BroadcastError
from sse_broadcast.server.access.authorization import PRINCIPAL, require_endpoint
from sse_broadcast.server.access.shares import Shares
from sse_broadcast.server.assembly import build_services
from sse_broadcast.server.endpoints.channels import channel, channels
from sse_broadcast.server.endpoints.events import Events
from sse_broadcast.server.endpoints.metrics import EXPOSITION, Exposition, metrics
from sse_broadcast.server.endpoints.publish import send
from sse_broadcast.server.endpoints.publish_stream import end_line_streams
from sse_broadcast.server.endpoints.status import status
from sse_broadcast.server.endpoints.subscribers import dismiss, subscriber, subscribers
from sse_broadcast.server.endpoints.tokens import revoke, tokens
from sse_broadcast.server.http import path_hints
from sse_broadcast.server.http.health import READINESS, Readiness, healthz, readyz
from sse_broadcast.server.http.log import log_foreign_page, log_refusal
from sse_broadcast.server.http.problem import Problem, answer, problem_of
from sse_broadcast.server.http.request_head import require_valid_head
from sse_broadcast.server.http.responses import sign
from sse_broadcast.server.http.targets import forget_targets, require_fitting_target
from sse_broadcast.server.openapi.document import openapi
from sse_broadcast.server.process.body_decoder import DECODER, BodyDecoder, close_decoder
from sse_broadcast.server.process.loop import LoopLagMonitor
from sse_broadcast.server.reload import RELOADER, Reloader, reload
from sse_broadcast.server.services import (
    ACTIVE_SERVICES,
    BATCH_LOCK,
    BROADCASTER,
    DRAINING,
    LINE_STREAMS,
    OWN_LISTENER,
    SHARES,
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
    SPOKEN,
    Connection,
    ListenerInfo,
    answer_as_http_1_0,
    listener_of,
)

OTHER = "other"
"""What counts for the endpoint of a request that is for none that has its own credentials."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLOSING_SHARE = 0.75
"""Of `shutdown_timeout`, what streams may take to end; the rest is the runner's."""


def create_app(config: Config | None = None) -> web.Application:
    """Give the server as an application, to run or to mount in another (with `add_subapp`).

    Its broadcaster is `app[BROADCASTER]`, for programs that publish from the same process. Needs
    nothing of the runner: aiohttp's defaults will do, though a runner that cancels the handlers
    of lost connections (`handler_cancellation=True`) lets go of readers at once, and any other
    with their next heartbeat. `host`, `port`, `max_connections` and what else belongs to the
    listening socket are the runner's business.
    """
    settled = config_or_default(config)
    app = build_app(build_services(settled), tuned=False, load=lambda: settled)

    async def keep(_: web.Application) -> AsyncIterator[None]:
        await app[ACTIVE_SERVICES].services.authenticator.start()
        yield
        await app[RELOADER].close()
        await app[ACTIVE_SERVICES].services.authenticator.close()

    app.cleanup_ctx.append(keep)
    return app


def build_app(services: Services, *, tuned: bool, load: Callable[[], Config]) -> web.Application:
    """Give the application; `tuned` says that its listening sockets are ours (see `sink.tune`).

    `load` gives the configuration anew. Of what is in force, the authority is started and closed, and the
    reloader closed before it, by whoever calls this.
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
    app[DRAINING] = asyncio.Event()
    app[BATCH_LOCK] = asyncio.Lock()
    app[DECODER] = BodyDecoder()
    _route_all(app)
    # A brace in a name is told to be a bad one: aiohttp's own `{name}` would not match it.
    app.router.add_route("*", r"/{path:[\s\S]*}", guarded(app, _not_found, None), expect_handler=_expect)
    app[EXPOSITION] = Exposition(app[BROADCASTER], services.authenticator.revocations)
    app.cleanup_ctx.append(_watch_loop)
    app.on_shutdown.append(end_streams)
    app.on_cleanup.append(_close_roster)
    app.on_cleanup.append(close_decoder)
    return app


def _route_all(app: web.Application) -> None:
    events = Events(app)
    read: dict[str, Handler] = {"GET": events.get, "HEAD": events.head}
    _route(app, "/events", {**read, "POST": events.post}, Endpoint.SUBSCRIBE)
    _route(app, "/events/{channels:[^/]+}", read, Endpoint.SUBSCRIBE)
    for path in ("/send", "/send/{channels:[^/]+}"):
        _route(app, path, {"POST": send, "PUT": send}, Endpoint.PUBLISH)
    _route(app, "/channels", {"GET": channels, "HEAD": channels}, Endpoint.INSPECT)
    _route(app, "/channels/{channel:[^/]+}", {"GET": channel, "HEAD": channel}, Endpoint.INSPECT)
    _route(app, "/status", {"GET": status, "HEAD": status}, Endpoint.INSPECT)
    _route(app, "/subscribers", {"GET": subscribers, "HEAD": subscribers}, Endpoint.INSPECT)
    _route_each(
        app,
        "/subscribers/{id:[^/]+}",
        {Endpoint.INSPECT: {"GET": subscriber, "HEAD": subscriber}, Endpoint.ADMIN: {"DELETE": dismiss}},
    )
    _route(app, "/metrics", {"GET": metrics, "HEAD": metrics}, Endpoint.INSPECT)
    _route(app, "/openapi.json", {"GET": openapi, "HEAD": openapi}, Endpoint.INSPECT)
    _route(app, "/tokens", {"POST": tokens}, Endpoint.ADMIN)
    _route(app, "/revoke", {"POST": revoke}, Endpoint.ADMIN)
    _route(app, "/reload", {"POST": reload}, Endpoint.ADMIN)
    _route(app, "/healthz", {"GET": healthz, "HEAD": healthz}, None)
    _route(app, "/readyz", {"GET": readyz, "HEAD": readyz}, None)


def _route(app: web.Application, path: str, handlers: dict[str, Handler], endpoint: Endpoint | None) -> None:
    _route_each(app, path, {endpoint: handlers})


def _route_each(
    app: web.Application, path: str, endpoints: Mapping[Endpoint | None, dict[str, Handler]]
) -> None:
    """Route a path whose methods may belong to several endpoints. Its are taken where one is served."""

    def taken(request: web.Request) -> str:
        served = {None, *require_endpoint(request, None).endpoints}
        methods = [method for endpoint in endpoints if endpoint in served for method in endpoints[endpoint]]
        if not methods:
            require_endpoint(request, next(iter(endpoints)))
        return ", ".join([*methods, "OPTIONS"])

    async def options(request: web.Request) -> web.StreamResponse:
        methods = taken(request)
        response = web.Response(status=204, headers={"Allow": methods})
        cors = services_of(request).cors
        cors.tell_beforehand(request, response.headers, methods)
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers and (origin := cors.kept_from(request)):
            log_foreign_page(request, address=services_of(request).proxies.client(request), origin=origin)
        return response

    async def refuse(request: web.Request) -> web.StreamResponse:
        methods = taken(request)
        meant = path_hints.other_method(request.path, request.method, listener_of(request).endpoints)
        detail = f"{request.path[:80]} does not take {request.method[:20]}, but {methods}{meant}"
        raise Problem(405, detail, headers={"Allow": methods})

    app.router.add_route("OPTIONS", path, guarded(app, options, None), expect_handler=_expect)
    for endpoint, handlers in endpoints.items():
        for method, handler in handlers.items():
            app.router.add_route(method, path, guarded(app, handler, endpoint), expect_handler=_expect)
    app.router.add_route("*", path, guarded(app, refuse, None), expect_handler=_expect)


async def _not_found(request: web.Request) -> web.StreamResponse:
    hint = path_hints.hint(request.path, listener_of(request).endpoints)
    raise Problem(404, f"nothing is at {request.path[:80]}{hint}")


def guarded(app: web.Application, handler: Handler, endpoint: Endpoint | None) -> Handler:
    """Have the caller of a handler admitted, and every error told as a problem.

    What belongs to no endpoint is open to all. A wrapper and not a middleware: aiohttp puts two
    coroutines around a handler for the first middleware, and a stream keeps them for its whole life.
    """
    active = app[ACTIVE_SERVICES]

    @functools.wraps(handler)
    async def tell(request: web.Request) -> web.StreamResponse:
        try:
            place = _listener_of(request)
            require_fitting_target(request, max_channels=active.services.config.max_channels)
            require_valid_head(request)
            if endpoint is not None:
                principal = active.services.authorizer.identify(request, endpoint, place)
                if isinstance(principal, str):
                    principal = await _admitted(request, endpoint, place, active)
                request[PRINCIPAL] = principal
            response = await handler(request)
            if endpoint is Endpoint.INSPECT:
                confirm(request)  # where many are listed, others have their turn meanwhile
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
    """Give what the bearer of a token may do by what is in force when it comes in.

    It may have waited for a key that its token is signed with, and what it was judged by be gone since.
    """
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
    """Count a request that aiohttp answers with 500; one whose client has left is none."""
    if not isinstance(error, ConnectionError):
        app[BROADCASTER].metrics.refused_request(500, endpoint or OTHER)


def _finish_response(
    request: web.Request, response: web.StreamResponse, services: Services
) -> web.StreamResponse:
    if request.app[READINESS].draining:
        response.force_close()  # so that the next request is made to another server
    sign(response)
    services.cors.tell(request, response.headers)
    return response


def _listener_of(request: web.Request) -> ListenerInfo:
    """Give where a request came in; its connection was asked something, as a new one must be in time."""
    protocol = request.protocol
    if not isinstance(protocol, Connection):
        _require_version(request)
        return listener_of(request)
    protocol.mark_active()
    if request.version not in SPOKEN:
        _refuse_version(request)
    if protocol.had_much:
        _require_short_head(request)
    return protocol.place


def _require_version(request: web.Request) -> None:
    # Before all else that may be refused: aiohttp would answer in the version that the request said.
    if request.version not in SPOKEN:
        _refuse_version(request)


def _require_short_head(request: web.Request) -> None:
    # Looked at only on connections where so much has come at one time that it may be too long.
    size = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > MAX_HEAD:
        raise Problem(431, f"head: is {size} bytes, and may be {MAX_HEAD}")


def _refuse_version(request: web.Request) -> NoReturn:
    said = answer_as_http_1_0(request)
    assert said is not None
    detail = f"version: HTTP/{said.major}.{said.minor} is not spoken here; 1.0 and 1.1 are"
    raise Problem(400, detail, closes=True)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    try:
        _require_version(request)
        require_valid_head(request)
        _require_continue(request)
    except Problem as problem:
        return _finish_response(request, _refused(request, request.app, problem, None), services_of(request))
    if request.version == HttpVersion10:
        return None  # which knows no interim answers (RFC 9110, 10.1.1)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The interim answer is no part of the response: an error after it is still told.
    request.writer.output_size = 0
    return None


def _require_continue(request: web.Request) -> None:
    expectation = ", ".join(request.headers.getall("Expect", ()))
    if expectation.lower() != "100-continue":
        raise Problem(417, f"Expect: {expectation[:80]!a} is not taken")


async def _close_roster(app: web.Application) -> None:
    app[STREAM_REGISTRY].close()


async def end_streams(app: web.Application) -> None:
    """Answer every long request, and let go of every reader; what is left then has its share of the time."""
    end_line_streams(app)
    config = app[ACTIVE_SERVICES].services.config
    await app[BROADCASTER].close(timeout=config.shutdown_timeout * CLOSING_SHARE, over=config.drain_timeout)


async def _watch_loop(app: web.Application) -> AsyncIterator[None]:
    """Have an application's loop looked at while it runs."""
    lag = LoopLagMonitor(app[BROADCASTER].metrics)
    lag.start()
    yield
    lag.stop()
