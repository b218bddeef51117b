"""The private names of aiohttp and yarl that this package uses: what each is for, and what breaks without it.

Their libraries promise none of these, so another version may lack them. All are checked when this module is
imported, before anything is served. No other module uses a private name of aiohttp, yarl or aiohttp-sse, as a
test of the architecture holds.
"""

from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from aiohttp import HttpVersion, StreamReader, web
from aiohttp.http import RawRequestMessage
from yarl import URL, _parse, _url

from sse_broadcast.errors import UnsupportedLibraryError

SUPPORTED = {"aiohttp": ">=3.14.5,<3.15", "yarl": ">=1.25.1,<1.26"}
"""The versions whose private names were tested, as pyproject.toml requires them."""


def require(library: str, owner: object, name: str) -> Any:  # noqa: ANN401 - whatever the library has there
    """Return a private attribute of a module or a class. Raises `UnsupportedLibraryError`.

    `ATTRS` counts as well: there aiohttp lists what the instances of its request classes have.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        if name in getattr(owner, "ATTRS", ()):
            return None
    where = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", repr(owner))
    raise UnsupportedLibraryError(
        f"{library} {version(library)} has no {where}.{name}: {library}{SUPPORTED[library]} works"
    )


def _of_handler(name: str) -> Any:  # noqa: ANN401
    return require("aiohttp", web.RequestHandler, name)


class NoKeepaliveTimer:
    """A keep-alive timer that does nothing."""

    def cancel(self) -> None:
        """Do nothing."""


NO_KEEPALIVE_TIMER: Any = NoKeepaliveTimer()


class RequestProtocol(web.RequestHandler):
    """aiohttp's protocol of one server connection, with public names for the private state that we need.

    `web.RequestHandler` itself is exported and not documented. Each alias below is the base class's slot, so
    that it is read and written as fast as by the private name.
    """

    __slots__ = ()

    request_count: int = _of_handler("_request_count")
    """The number of requests and parser errors received. Without it the first bytes of a connection, which
    may be HTTP/2's, and the start of a head look like any other bytes."""

    queued: "deque[tuple[Any, StreamReader]]" = _of_handler("_messages")
    """The parser's results that are not handled yet: requests with their bodies, and parser errors.

    Without it the handler of a broken body waits until `body_timeout`, a stream stores everything that its
    client sends, and a parser error keeps the received bytes in memory."""

    current_request: web.BaseRequest | None = _of_handler("_current_request")
    """The request that is being handled. Without it a broken body cannot be ended for its handler."""

    reading_paused: bool = _of_handler("_reading_paused")
    """Whether the transport is paused for a body that nobody reads. Without it the parser is fed nothing, and
    the transport resumed, for each body that was read: 3 us of a request."""

    next_request: Any = _of_handler("_waiter")
    """The future on which an idle connection waits. Without it a timeout would abort complete requests too:
    aiohttp has no other sign that a connection is idle."""

    keepalive_timer: Any = _of_handler("_keepalive_handle")
    """aiohttp's timer of an idle connection. With `NO_KEEPALIVE_TIMER` in its place aiohttp starts none.
    Without that each connection has a timer of its own."""

    handler_task: Any = _of_handler("_task_handler")
    """The task that handles the requests of the connection. aiohttp cancels it when the connection is lost.

    With None in its place aiohttp cancels nothing. Without that, a client that leaves in the middle of an
    unread body leaves a reference cycle of task, exception and frame, and a stream's end costs a quarter
    more."""

    def drop_error_frames(self) -> None:
        """Drop the traceback of the last queued parser error, if the last result is an error.

        Its frames hold the received bytes and the error: a reference cycle. aiohttp queues an error as an
        undocumented object with `exc`. Without this, the bytes stay until the collector runs.
        """
        error = getattr(self.queued[-1][0], "exc", None)
        if error is not None:
            error.__traceback__ = None


for _name in ("_version", "_cache"):
    require("aiohttp", web.BaseRequest, _name)
require("aiohttp", web.Request, "_match_info")
require("aiohttp", RawRequestMessage, "_replace")


def set_request_version(request: web.BaseRequest, version: HttpVersion) -> None:
    """Make a request look like one of another HTTP version, for its answer.

    aiohttp's parser takes any version, and its answer repeats the request's. Without this, a request of
    HTTP/0.9 or 2.0 is answered in a version that the server does not implement.
    """
    request._version = version  # noqa: SLF001
    request._cache.pop("version", None)  # noqa: SLF001 - the value that was returned before


def has_no_route(request: web.BaseRequest) -> bool:
    """Return whether the router found no route for a request.

    `Request.match_info` asserts that the router ran, which it did not before an error of the parser. Without
    this, an `Expect` that cannot be answered is answered with a traceback in the log.
    """
    found = request._match_info if isinstance(request, web.Request) else None  # noqa: SLF001
    return found is not None and found.http_exception is not None


def with_url(message: RawRequestMessage, url: URL) -> RawRequestMessage:
    """Return the parser's result with another URL.

    Without this, a request whose host aiohttp cannot decode gets no answer, and a traceback is logged.
    """
    return message._replace(url=url)


URL_CACHES: tuple[Any, ...] = tuple(
    require("yarl", module, name)
    for module, name in (
        (_url, "build_pre_encoded_url"),
        (_url, "pre_encoded_url"),
        (_url, "from_parts"),
        (_parse, "split_netloc"),
    )
)
"""Caches that aiohttp fills with each request target, besides those that `yarl.cache_clear` clears.

Each keeps the last 128 targets with everything parsed from them: 200 KB for 8 KB of parameters. They have no
setting. Without clearing them, the targets of all clients stay in memory, with the tokens in their queries.
"""

CLEAR_URL_CACHES: tuple[Callable[[], None], ...] = tuple(
    require("yarl", cache, "cache_clear") for cache in URL_CACHES
)
