"""The application: its routes, and what holds for every request."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

from aiohttp import web

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import Config
from sse_broadcast.errors import BroadcastError
from sse_broadcast.server.channels import channel, channels
from sse_broadcast.server.events import events, events_head
from sse_broadcast.server.intake import end_intakes
from sse_broadcast.server.problem import Problem, answer, problem_of
from sse_broadcast.server.publish import send
from sse_broadcast.server.sink import SERVER
from sse_broadcast.server.state import BROADCASTER, CONFIG, INTAKES, TUNED, TURN
from sse_broadcast.server.status import status

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
    return build_app(config or Config(), tuned=False)


def build_app(config: Config, *, tuned: bool) -> web.Application:
    """Give the application; `tuned` says that its listening socket is ours (see `sink.tune`)."""
    app = web.Application()
    app[CONFIG] = config
    app[BROADCASTER] = Broadcaster(config)
    app[TUNED] = tuned
    app[INTAKES] = set()
    app[TURN] = asyncio.Lock()
    for path in ("/events", "/events/{channels:[^/]+}"):
        _route(app, path, {"GET": events, "HEAD": events_head})
    for path in ("/send", "/send/{channels:[^/]+}"):
        _route(app, path, {"POST": send, "PUT": send})
    _route(app, "/channels", {"GET": channels, "HEAD": channels})
    _route(app, "/channels/{channel:[^/]+}", {"GET": channel, "HEAD": channel})
    _route(app, "/status", {"GET": status, "HEAD": status})
    # A brace in a name is told to be a bad one: aiohttp's own `{name}` would not match it.
    app.router.add_route("*", "/{path:.*}", told(_not_found), expect_handler=_expect)
    app.on_shutdown.append(_end_streams)
    return app


def _route(app: web.Application, path: str, handlers: dict[str, Handler]) -> None:
    allow = {"Allow": ", ".join([*handlers, "OPTIONS"])}

    async def options(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers=allow)

    async def refuse(request: web.Request) -> web.StreamResponse:
        raise Problem(405, f"{request.path[:80]} does not take {request.method}", headers=allow)

    for method, handler in {**handlers, "OPTIONS": options, "*": refuse}.items():
        app.router.add_route(method, path, told(handler), expect_handler=_expect)


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise Problem(404, f"nothing is at {request.path[:80]}")


def told(handler: Handler) -> Handler:
    """Have every error of a handler told as a problem, and what is not UTF-8 refused before it.

    A wrapper and not a middleware: aiohttp puts two coroutines around a handler for the first
    middleware, and a stream keeps them for its whole life.
    """

    @functools.wraps(handler)
    async def tell(request: web.Request) -> web.StreamResponse:
        try:
            _require_utf8(request)
            response = await handler(request)
        except Problem as problem:
            response = answer(problem)
        except BroadcastError as error:
            response = answer(problem_of(error))
        if not response.prepared:
            response.headers["Server"] = SERVER
        return response

    return tell


def _require_utf8(request: web.Request) -> None:
    # aiohttp decodes paths and queries leniently: a byte that is not UTF-8 would become U+FFFD,
    # or part of a name that nobody sent.
    target = request.raw_path
    if "%" not in target and target.isascii():
        return
    try:
        unquote_to_bytes(target).decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise Problem(400, f"request target: is not UTF-8: {target[:80]!a}") from None


async def _expect(request: web.Request) -> web.StreamResponse | None:
    expectation = request.headers.get("Expect", "")
    if expectation.lower() != "100-continue":
        response = answer(Problem(417, f"Expect: {expectation[:80]!a} is not taken"))
        response.headers["Server"] = SERVER
        return response
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The interim answer is no part of the response: an error after it is still told.
    request.writer.output_size = 0
    return None


async def _end_streams(app: web.Application) -> None:
    end_intakes(app)
    await app[BROADCASTER].close(timeout=app[CONFIG].shutdown_timeout * CLOSING_SHARE)
