"""Request targets: their bounds, and what yarl caches of them."""

from collections.abc import Callable

import yarl
from aiohttp import web
from aiohttp.http import RawRequestMessage
from yarl import URL

from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.transport.aiohttp_internals import CLEAR_URL_CACHES, with_url

KEPT_PATH = 256
"""Characters of a target without a query that yarl may keep."""

MAX_TARGET = 16_384
"""Bytes of the path and query of a request."""

MAX_HOST = 255
"""Characters of the host in a target (RFC 1035, 2.3.4)."""

IMPOSSIBLE = URL.build(path="/?", encoded=True)
"""Stands for a target whose host cannot be one. No parser makes a path with a question mark."""

RequestFactory = Callable[..., web.BaseRequest]
"""Makes a request of what the parser found, as aiohttp calls it."""

SHORT_TARGET = 64
"""Characters of a target that is looked at no further: it has 32 parameters at most."""

OTHER_PARAMETERS = 100
"""Parameters of a query beside those that name a channel each."""


def require_fitting_target(request: web.Request, *, max_channels: int) -> None:
    """Refuse a target that is too long, or has too many parameters, before it is parsed. Raises `Problem`.

    It also clears yarl's caches of a target that is too long to stay in them.
    """
    target = request.raw_path
    if request.rel_url is IMPOSSIBLE:
        forget_targets()
        # Not repeated: a token that was put in the place of a host would be in the answer.
        detail = f"request line: its host is not valid, in a target of {len(target)} characters"
        raise Problem(400, detail, closes=True)
    asks = "?" in target
    if asks or len(target) > KEPT_PATH:
        forget_targets()
    if len(target) > MAX_TARGET:
        raise Problem(
            414,
            f"request line: is {len(target)} bytes, and may be {MAX_TARGET};"
            " POST /events takes a long list of channels in its body",
        )
    most = max_channels + OTHER_PARAMETERS
    if asks and (count := target.count("&") + 1) > most:
        raise Problem(400, f"query: {count} parameters are too many, {most} may be given")


def checking_hosts(make: RequestFactory) -> RequestFactory:
    """Return what makes requests as `make` does, but not of a host that there cannot be.

    aiohttp asks the host in a target for its Unicode. That takes 165 ms for one of 60 KB, and what it raises
    ends the connection with a traceback, and no answer.
    """

    def make_checked(message: RawRequestMessage, *rest: object) -> web.BaseRequest:
        if not message.path.startswith("/") and not _has_possible_host(message.url):
            message = with_url(message, IMPOSSIBLE)
        return make(message, *rest)

    return make_checked


def _has_possible_host(url: URL) -> bool:
    host = url.raw_host
    if host is None:
        return True
    if len(host) > MAX_HOST:
        return False
    try:
        return url.host is not None
    except ValueError:
        return False


def forget_targets() -> None:
    """Clear the caches of yarl that are filled by the targets of requests."""
    for clear in CLEAR:
        clear()


CLEAR = (yarl.cache_clear, *CLEAR_URL_CACHES)
"""Clear the caches of hosts, which a target may have too, and those of whole targets."""
