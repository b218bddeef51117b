"""The application: its routes, and what holds for every request."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote_to_bytes

from aiohttp import web

from sse_broadcast.auth.authority import Authority
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import Config, Endpoint
from sse_broadcast.errors import BroadcastError
from sse_broadcast.server.address import Proxies
from sse_broadcast.server.channels import channel, channels
from sse_broadcast.server.connection import Connection, speak
from sse_broadcast.server.contract.terms import Terms
from sse_broadcast.server.cors import Cors
from sse_broadcast.server.events import events, events_head
from sse_broadcast.server.gate import ACCESS, GATE, Gate, require_served
from sse_broadcast.server.health import healthz, readyz
from sse_broadcast.server.intake import end_intakes
from sse_broadcast.server.limits import Limits
from sse_broadcast.server.openapi import CONTRACT, document, openapi
from sse_broadcast.server.problem import Problem, answer, problem_of
from sse_broadcast.server.publish import send
from sse_broadcast.server.sessions import Sessions
from sse_broadcast.server.sink import SERVER
from sse_broadcast.server.state import (
    AUTHORITY,
    BROADCASTER,
    CONFIG,
    CORS,
    DRAINING,
    INTAKES,
    LIMITS,
    PROXIES,
    SESSIONS,
    TUNED,
    TURN,
)
from sse_broadcast.server.status import status
from sse_broadcast.server.tokens import revoke, tokens

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
    config = config or Config()
    authority = Authority(config)
    app = build_app(config, authority=authority, tuned=False)

    async def keep(_: web.Application) -> AsyncIterator[None]:
        await authority.start()
        yield
        await authority.close()

    app.cleanup_ctx.append(keep)
    return app


def build_app(config: Config, *, authority: Authority, tuned: bool) -> web.Application:
    """Give the application; `tuned` says that its listening sockets are ours (see `sink.tune`).

    The authority is started and closed by whoever made it.
    """
    app = web.Application()
    app[CONFIG] = config
    app[AUTHORITY] = authority
    app[GATE] = gate = Gate(config, authority)
    app[CONTRACT] = document(
        Terms(secured=authority.takes_tokens, anonymous=gate.anonymous.grants, cookie=config.cookie)
    )
    app[SESSIONS] = Sessions(
        per_token=config.max_connections_per_token,
        per_address=config.max_connections_per_address,
        lifetime=config.lifetime,
    )
    app[CORS] = Cors(config.cors_origins)
    app[BROADCASTER] = Broadcaster(config)
    app[TUNED] = tuned
    app[PROXIES] = Proxies(config)
    app[LIMITS] = Limits(config)
    app[INTAKES] = set()
    app[DRAINING] = asyncio.Event()
    app[TURN] = asyncio.Lock()
    _route_all(app)
    # A brace in a name is told to be a bad one: aiohttp's own `{name}` would not match it.
    app.router.add_route("*", "/{path:.*}", told(_not_found, None), expect_handler=_expect)
    app.on_shutdown.append(_end_streams)
    return app


def _route_all(app: web.Application) -> None:
    for path in ("/events", "/events/{channels:[^/]+}"):
        _route(app, path, {"GET": events, "HEAD": events_head}, Endpoint.SUBSCRIBE)
    for path in ("/send", "/send/{channels:[^/]+}"):
        _route(app, path, {"POST": send, "PUT": send}, Endpoint.PUBLISH)
    _route(app, "/channels", {"GET": channels, "HEAD": channels}, Endpoint.INSPECT)
    _route(app, "/channels/{channel:[^/]+}", {"GET": channel, "HEAD": channel}, Endpoint.INSPECT)
    _route(app, "/status", {"GET": status, "HEAD": status}, Endpoint.INSPECT)
    _route(app, "/openapi.json", {"GET": openapi, "HEAD": openapi}, Endpoint.INSPECT)
    _route(app, "/tokens", {"POST": tokens}, Endpoint.ADMIN)
    _route(app, "/revoke", {"POST": revoke}, Endpoint.ADMIN)
    _route(app, "/healthz", {"GET": healthz, "HEAD": healthz}, None)
    _route(app, "/readyz", {"GET": readyz, "HEAD": readyz}, None)


def _route(app: web.Application, path: str, handlers: dict[str, Handler], endpoint: Endpoint | None) -> None:
    methods = ", ".join([*handlers, "OPTIONS"])

    async def options(request: web.Request) -> web.StreamResponse:
        require_served(request, endpoint)
        response = web.Response(status=204, headers={"Allow": methods})
        app[CORS].tell_beforehand(request, response.headers, methods)
        return response

    async def refuse(request: web.Request) -> web.StreamResponse:
        require_served(request, endpoint)
        raise Problem(405, f"{request.path[:80]} does not take {request.method}", headers={"Allow": methods})

    app.router.add_route("OPTIONS", path, told(options, None), expect_handler=_expect)
    for method, handler in handlers.items():
        app.router.add_route(method, path, told(handler, endpoint), expect_handler=_expect)
    app.router.add_route("*", path, told(refuse, None), expect_handler=_expect)


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise Problem(404, f"nothing is at {request.path[:80]}")


def told(handler: Handler, endpoint: Endpoint | None) -> Handler:
    """Have the caller of a handler admitted, and every error told as a problem.

    What belongs to no endpoint is open to all. A wrapper and not a middleware: aiohttp puts two
    coroutines around a handler for the first middleware, and a stream keeps them for its whole life.
    """

    @functools.wraps(handler)
    async def tell(request: web.Request) -> web.StreamResponse:
        app = request.app
        try:
            _heard(request)
            _require_version(request)
            _require_utf8(request)
            if endpoint is not None:
                request[ACCESS] = await app[GATE].admit(request, endpoint)
            response = await handler(request)
        except Problem as problem:
            response = _refused(app, problem)
        except BroadcastError as error:
            response = _refused(app, problem_of(error))
        return response if response.prepared else _finished(request, response)

    return tell


def _refused(app: web.Application, problem: Problem) -> web.StreamResponse:
    app[BROADCASTER].metrics.refused(str(problem.status))
    return answer(problem)


def _finished(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    response.headers["Server"] = SERVER
    request.app[CORS].tell(request, response.headers)
    return response


def _heard(request: web.Request) -> None:
    """Have the connection know that it was asked something, as a new one must be in time."""
    protocol = request.protocol
    if isinstance(protocol, Connection):
        protocol.spoke()


def _require_version(request: web.Request) -> None:
    if said := speak(request):
        detail = f"version: HTTP/{said.major}.{said.minor} is not spoken here; 1.0 and 1.1 are"
        raise Problem(400, detail, closes=True)


def _require_utf8(request: web.Request) -> None:
    # aiohttp decodes paths and queries leniently: a byte that is not UTF-8 would become U+FFFD,
    # or part of a name that nobody sent.
    target = request.raw_path
    if ("%" not in target and target.isascii()) or _is_utf8(target):
        return
    path, _, query = target.partition("?")
    if not _is_utf8(path):
        raise Problem(400, f"path: is not UTF-8: {path[:80]!a}")
    # Its name alone: the value may be a token.
    pair = next((pair for pair in query.split("&") if not _is_utf8(pair)), query)
    raise Problem(400, f"query: is not UTF-8 in {pair.partition('=')[0][:80]!a}")


def _is_utf8(quoted: str) -> bool:
    try:
        unquote_to_bytes(quoted).decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        return False
    return True


async def _expect(request: web.Request) -> web.StreamResponse | None:
    try:
        _require_version(request)
        _require_continue(request)
    except Problem as problem:
        return _finished(request, _refused(request.app, problem))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The interim answer is no part of the response: an error after it is still told.
    request.writer.output_size = 0
    return None


def _require_continue(request: web.Request) -> None:
    expectation = request.headers.get("Expect", "")
    if expectation.lower() != "100-continue":
        raise Problem(417, f"Expect: {expectation[:80]!a} is not taken")


async def _end_streams(app: web.Application) -> None:
    end_intakes(app)
    await app[BROADCASTER].close(timeout=app[CONFIG].shutdown_timeout * CLOSING_SHARE)
