"""Routes: the handler of each path and method, and the answers for all others."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from sse_broadcast.config.schema import Endpoint
from sse_broadcast.server.access.authorization import require_endpoint
from sse_broadcast.server.endpoints.channels import get_channel, get_channels
from sse_broadcast.server.endpoints.config import get_config
from sse_broadcast.server.endpoints.console import get_client, get_console
from sse_broadcast.server.endpoints.events import Events
from sse_broadcast.server.endpoints.metrics import get_metrics
from sse_broadcast.server.endpoints.publish import Publishing
from sse_broadcast.server.endpoints.status import get_status
from sse_broadcast.server.endpoints.subscribers import delete_subscriber, get_subscriber, get_subscribers
from sse_broadcast.server.endpoints.tokens import post_revoke, post_tokens
from sse_broadcast.server.http import path_hints
from sse_broadcast.server.http.health import get_healthz, get_readyz
from sse_broadcast.server.http.log import log_foreign_page
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.openapi.document import get_openapi
from sse_broadcast.server.reload import post_reload
from sse_broadcast.server.services import services_of
from sse_broadcast.server.transport.connection import listener_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

AddRoute = Callable[[str, str, Handler, Endpoint | None], None]
"""Registers one route: method, path, handler, and the endpoint it belongs to; None is open to all."""


def add_routes(events: Events, publishing: Publishing, add: AddRoute) -> None:
    """Register all paths, and last a handler that answers every other path with 404."""
    read: dict[str, Handler] = {"GET": events.get, "HEAD": events.head}
    _route(add, "/events", Endpoint.SUBSCRIBE, {**read, "POST": events.post})
    _route(add, "/events/{channels:[^/]+}", Endpoint.SUBSCRIBE, read)
    for path in ("/send", "/send/{channels:[^/]+}"):
        _route(add, path, Endpoint.PUBLISH, {"POST": publishing.post, "PUT": publishing.post})
    _route(add, "/channels", Endpoint.INSPECT, _reads(get_channels))
    _route(add, "/channels/{channel:[^/]+}", Endpoint.INSPECT, _reads(get_channel))
    _route(add, "/status", Endpoint.INSPECT, _reads(get_status))
    _route(add, "/subscribers", Endpoint.INSPECT, _reads(get_subscribers))
    one: dict[Endpoint | None, dict[str, Handler]] = {
        Endpoint.INSPECT: _reads(get_subscriber),
        Endpoint.ADMIN: {"DELETE": delete_subscriber},
    }
    _route_each(add, "/subscribers/{id:[^/]+}", one)
    _route(add, "/metrics", Endpoint.INSPECT, _reads(get_metrics))
    _route(add, "/openapi.json", Endpoint.INSPECT, _reads(get_openapi))
    _route(add, "/tokens", Endpoint.ADMIN, {"POST": post_tokens})
    _route(add, "/revoke", Endpoint.ADMIN, {"POST": post_revoke})
    _route(add, "/reload", Endpoint.ADMIN, {"POST": post_reload})
    _route(add, "/config", Endpoint.ADMIN, _reads(get_config))
    _route(_open(add), "/", Endpoint.CONSOLE, _reads(get_console))
    _route(_open(add), "/client.js", Endpoint.SUBSCRIBE, _reads(get_client))
    _route(add, "/healthz", None, _reads(get_healthz))
    _route(add, "/readyz", None, _reads(get_readyz))
    # aiohttp's `{name}` does not match braces: a channel name with one would get 404 without a reason.
    add("*", r"/{path:[\s\S]*}", _not_found, None)


def _reads(handler: Handler) -> dict[str, Handler]:
    return {"GET": handler, "HEAD": handler}


def _open(add: AddRoute) -> AddRoute:
    """Return what registers routes of an endpoint that need no credential, and read none.

    A browser that opens a page or loads a module sends no header, and maybe a cookie with an old token.
    """

    def add_open(method: str, path: str, handler: Handler, endpoint: Endpoint | None) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            require_endpoint(request, endpoint)
            return await handler(request)

        add(method, path, answer, None)

    return add_open


def _route(add: AddRoute, path: str, endpoint: Endpoint | None, handlers: dict[str, Handler]) -> None:
    _route_each(add, path, {endpoint: handlers})


def _route_each(add: AddRoute, path: str, endpoints: Mapping[Endpoint | None, dict[str, Handler]]) -> None:
    """Register a path whose methods may belong to several endpoints, with its OPTIONS and its 405.

    A listener supports the methods of those endpoints that it serves.
    """

    def methods_of(request: web.Request) -> str:
        served = {None, *require_endpoint(request, None).endpoints}
        methods = [method for endpoint in endpoints if endpoint in served for method in endpoints[endpoint]]
        if not methods:
            require_endpoint(request, next(iter(endpoints)))
        return ", ".join([*methods, "OPTIONS"])

    async def options(request: web.Request) -> web.StreamResponse:
        methods = methods_of(request)
        response = web.Response(status=204, headers={"Allow": methods})
        cors = services_of(request).cors
        cors.tell_beforehand(request, response.headers, methods)
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers and (origin := cors.kept_from(request)):
            log_foreign_page(request, address=services_of(request).proxies.client(request), origin=origin)
        return response

    async def method_not_allowed(request: web.Request) -> web.StreamResponse:
        methods = methods_of(request)
        meant = path_hints.other_method(request.path, request.method, listener_of(request).endpoints)
        detail = f"{request.path[:80]} does not support {request.method[:20]}, but {methods}{meant}"
        raise Problem(405, detail, headers={"Allow": methods})

    add("OPTIONS", path, options, None)
    for endpoint, handlers in endpoints.items():
        for method, handler in handlers.items():
            add(method, path, handler, endpoint)
    add("*", path, method_not_allowed, None)


async def _not_found(request: web.Request) -> web.StreamResponse:
    hint = path_hints.hint(request.path, listener_of(request).endpoints)
    raise Problem(404, f"nothing is at {request.path[:80]}{hint}")
