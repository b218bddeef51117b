"""The application: its routes, and what holds for every request."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

from aiohttp import web

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config import Config
from sse_broadcast.errors import BroadcastError
from sse_broadcast.server.events import events, events_head
from sse_broadcast.server.problem import Problem, answer, problem_of, problem_of_http
from sse_broadcast.server.publish import send
from sse_broadcast.server.state import BROADCASTER, CONFIG
from sse_broadcast.server.status import status

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLOSING_SHARE = 0.75
"""Of `shutdown_timeout`, what streams may take to end; the rest is the runner's."""


def create_app(config: Config | None = None) -> web.Application:
    """Give the server as an application, to run or to mount: `app.add_subapp("/push/", create_app())`.

    Its broadcaster is `app[BROADCASTER]`, for programs that publish from the same process. Needs
    nothing of the runner: aiohttp's defaults will do, though a runner that cancels the handlers
    of lost connections (`handler_cancellation=True`) lets go of readers at once, and any other
    with their next heartbeat. `host`, `port`, `max_connections` and what else belongs to the
    listening socket are the runner's business.
    """
    config = config or Config()
    app = web.Application(middlewares=[problems])
    app[CONFIG] = config
    app[BROADCASTER] = Broadcaster(config)
    _route(app, "/events", {"GET": events, "HEAD": events_head})
    _route(app, "/send", {"POST": send, "PUT": send})
    _route(app, "/status", {"GET": status, "HEAD": status})
    app.on_response_prepare.append(_sign)
    app.on_shutdown.append(_end_streams)
    return app


def _route(app: web.Application, path: str, handlers: dict[str, Handler]) -> None:
    allow = ", ".join([*handlers, "OPTIONS"])

    async def options(_: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Allow": allow})

    for method, handler in {**handlers, "OPTIONS": options}.items():
        app.router.add_route(method, path, handler, expect_handler=_expect)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error of a request as a problem, and refuse what is not UTF-8 before a handler sees it."""
    try:
        _require_utf8(request)
        return await handler(request)
    except Problem as problem:
        return answer(problem)
    except BroadcastError as error:
        return answer(problem_of(error))
    except web.HTTPException as error:
        return answer(problem_of_http(request, error))


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
        return answer(Problem(417, f"Expect: {expectation[:80]!a} is not taken"))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The interim answer is no part of the response: an error after it is still told.
    request.writer.output_size = 0
    return None


async def _sign(_: web.Request, response: web.StreamResponse) -> None:
    # Without a version: nobody but an attacker would use it.
    response.headers["Server"] = "sse-broadcast"


async def _end_streams(app: web.Application) -> None:
    await app[BROADCASTER].close(timeout=app[CONFIG].shutdown_timeout * CLOSING_SHARE)
