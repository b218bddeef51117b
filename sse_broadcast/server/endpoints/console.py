"""GET / and GET /client.js: the console, and the module by which pages follow a server."""

import base64
import functools
import hashlib
from importlib.resources import files

from aiohttp import hdrs, web

from sse_broadcast.config.schema import Endpoint
from sse_broadcast.server.http import path_hints
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.request_head import requested_host
from sse_broadcast.server.http.static_file import StaticFile
from sse_broadcast.server.services import services_of
from sse_broadcast.server.transport.connection import listener_of
from sse_broadcast.version import __version__

FILES = files("sse_broadcast.server") / "console"

SCRIPT_TYPE = "text/javascript; charset=utf-8"

CLIENT_HEADERS = {
    hdrs.CONTENT_TYPE: SCRIPT_TYPE,
    hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
    # Pages that isolate themselves (COEP) load nothing of another origin without it.
    "Cross-Origin-Resource-Policy": "cross-origin",
}

PAGE_HEADERS = {
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    hdrs.VARY: hdrs.ACCEPT,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}

CURLS = (
    (Endpoint.SUBSCRIBE, "curl -N {url}/events", "subscribe to the channel `default`"),
    (Endpoint.SUBSCRIBE, "curl -N {url}/events/orders,chat.*", "to channels and patterns"),
    (Endpoint.PUBLISH, "curl -d hello {url}/send", "publish to `default`"),
    (Endpoint.PUBLISH, "curl -d hello {url}/send/orders", "to another channel"),
    (Endpoint.INSPECT, "curl {url}/status", "what the server does"),
    (Endpoint.INSPECT, "curl {url}/openapi.json", "all of its interface"),
)
"""What a program can ask for: the endpoint that must be served, the command, and what it does."""

HINTS = """\
Where a token is needed: -H "Authorization: Bearer $TOKEN"
A browser gets the console here.
"""


@functools.cache
def client_file() -> StaticFile:
    """Return the module, as it is published too."""
    return StaticFile((FILES / "client" / "client.js").read_bytes(), CLIENT_HEADERS)


@functools.cache
def page_file() -> StaticFile:
    """Return the console: one document, so that one request brings all of it."""
    style, script = _read("console.css"), _read("client/client.js") + _read("console.js")
    page = _read("index.html").replace("/*style*/", style).replace("/*script*/", script)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    return StaticFile(page.encode(), {**PAGE_HEADERS, "Content-Security-Policy": policy})


def _read(name: str) -> str:
    return FILES.joinpath(*name.split("/")).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return the CSP source of an inline text (CSP 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def get_client(request: web.Request) -> web.Response:
    """Answer with the module, to any page."""
    return client_file().answer(request)


async def get_console(request: web.Request) -> web.Response:
    """Answer a browser with the console, and a program with what it can ask for.

    The page holds no secret: what it shows is asked for with the token of whoever looks at it.
    """
    if not services_of(request).config.console:
        raise Problem(404, f"nothing is at /{path_hints.hint('/', listener_of(request).endpoints)}")
    if "text/html" in ",".join(request.headers.getall(hdrs.ACCEPT, ())).lower():
        return page_file().answer(request)
    return web.Response(text=_told(request), headers={hdrs.VARY: hdrs.ACCEPT, hdrs.CACHE_CONTROL: "no-store"})


def _told(request: web.Request) -> str:
    url = f"{request.scheme}://{requested_host(request) or 'localhost'}"
    served = listener_of(request).endpoints
    curls = [(line.format(url=url), does) for endpoint, line, does in CURLS if endpoint in served]
    width = max((len(line) for line, _ in curls), default=0)
    lines = [f"{line:<{width}}  # {does}\n" for line, does in curls]
    return f"sse-broadcast {__version__}\n\n{''.join(lines)}\n{HINTS}"
