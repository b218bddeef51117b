"""Validate request heads: headers that may come once, hosts, and targets with their length and encoding.

A proxy, a browser and this server each parse a head. A head that they could read differently is refused.
"""

import functools
import ipaddress
import re
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import unquote_to_bytes

import yarl
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import RawRequestMessage
from yarl import URL

from sse_broadcast.server.http.problem import Problem, given_several_times
from sse_broadcast.server.transport.aiohttp_internals import CLEAR_URL_CACHES, with_url

_NAME = r"[\w.~!$&'()*+,;=-]*+"

_HOST = re.compile(
    rf"(?:\[([0-9A-Fa-f:.]{{2,45}})\]|{_NAME}(?:%[0-9A-Fa-f]{{2}}{_NAME})*+)(?::([0-9]{{0,5}}))?", re.ASCII
)
"""uri-host [ ":" port ] (RFC 9110, 7.2; RFC 3986, 3.2.2). IPv6 zones are never sent (RFC 6874, 4), and
IPvFuture has no use."""

MAX_HOST_AND_PORT = 261
"""Maximum characters of a host and a port: a DNS name has at most 255."""

MAX_PORT = 65_535

_ABSOLUTE = re.compile(r"https?://([^/?]*)(?:[/?].*)?", re.IGNORECASE | re.ASCII | re.DOTALL)
"""A target in absolute form (RFC 9112, 3.2.2). The group is its host."""


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


def require_valid_head(request: web.Request, *, max_channels: int) -> None:
    """Refuse a request that others may read differently, that is too long, or not UTF-8. Raises `Problem`.

    Call it first: the target is measured before it is parsed.
    """
    target = request.raw_path
    if len(target) > SHORT_TARGET or request.rel_url is IMPOSSIBLE:
        require_fitting_target(request, max_channels=max_channels)
    headers = request.headers
    host = headers.get(hdrs.HOST)  # never two: the parser refuses those
    # `is_host` without its call: this is asked of each request.
    if host is not None and not (len(host) <= MAX_HOST_AND_PORT and _is_host(host)):
        raise Problem(400, f"Host: {_shown(host)} is not a host, or a host and a port")
    if hdrs.ORIGIN in headers and (count := len(headers.getall(hdrs.ORIGIN))) > 1:
        raise given_several_times(hdrs.ORIGIN, count)
    if hdrs.TRANSFER_ENCODING in headers:
        _require_chunks(request)
    if "#" in target:
        raise Problem(400, "request line: has a fragment (#), which clients must not send")
    if not target.startswith("/"):
        _require_own_target(target, host)
    # aiohttp decodes paths and queries leniently: a byte that is not UTF-8 becomes U+FFFD, so the request
    # would name another channel.
    if ("%" in target or not target.isascii()) and not _is_utf8(target):
        _refuse_bytes(target)


def is_host(text: str) -> bool:
    """Return whether a text is a host, with or without a port, or empty (RFC 9110, 7.2)."""
    # Longer texts are refused before the cache: it holds 256 texts, at most 100 KB.
    return len(text) <= MAX_HOST_AND_PORT and _is_host(text)


@functools.lru_cache(maxsize=256)
def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    if found is None or (found[2] and int(found[2]) > MAX_PORT):
        return False
    return found[1] is None or _is_ipv6(found[1])


def requested_host(request: web.BaseRequest) -> str:
    """Return the host that a request is for, with its port if it has one, or "".

    It is the host of the target in absolute form; `Host` is then the same.
    """
    host = request.headers.get(hdrs.HOST)
    if host is not None:
        return host
    found = _ABSOLUTE.fullmatch(request.raw_path)
    return found[1] if found else ""


def origin_of(request: web.BaseRequest) -> str | None:
    """Return the origin of the requesting page, or None for no Origin header or several."""
    said = request.headers.getall(hdrs.ORIGIN, ())
    return said[0] if len(said) == 1 else None


def _require_chunks(request: web.BaseRequest) -> None:
    """Refuse a body whose end another parser may see elsewhere. Raises `Problem`, and closes."""
    said = ", ".join(request.headers.getall(hdrs.TRANSFER_ENCODING))
    if request.version != HttpVersion11:
        # RFC 9112, 6.1: a proxy that does not know chunks has seen the end of the body elsewhere.
        raise Problem(400, "Transfer-Encoding: HTTP/1.0 does not have it", closes=True)
    codings = [coding.strip().lower() for coding in said.split(",")]
    if "" in codings:
        raise Problem(400, f"Transfer-Encoding: {said[:80]!a} is not a list of codings", closes=True)
    if codings != ["chunked"]:
        raise Problem(501, f"Transfer-Encoding: {said[:80]!a} is not supported; use chunked", closes=True)


def _require_own_target(target: str, host: str | None) -> None:
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Problem(400, "request line: must have a path, or a URL that starts with http:// or https://")
    if not (found[1] and is_host(found[1])):
        raise Problem(400, f"request line: {_shown(found[1])} is not a host, or a host and a port")
    if host is not None and host.lower() != found[1].lower():
        # RFC 9112, 3.2.2 prefers the target's host, but a filter in front may have checked Host.
        raise Problem(400, f"Host: {_shown(host)} differs from the host in the request line")


def _refuse_bytes(target: str) -> NoReturn:
    path, _, query = target.partition("?")
    if not _is_utf8(path):
        raise Problem(400, f"path: is not UTF-8: {path[:80]!a}")
    # Only the name of the parameter: its value may be a token.
    pair = next((pair for pair in query.split("&") if not _is_utf8(pair)), query)
    raise Problem(400, f"query: is not UTF-8 in {pair.partition('=')[0][:80]!a}")


def _is_utf8(quoted: str) -> bool:
    try:
        unquote_to_bytes(quoted).decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        return False
    return True


def _shown(host: str) -> str:
    return "user@" if "@" in host else ascii(host[:80])  # a password may stand before the @


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def host_name(host: str) -> str:
    """Return the name of a valid host in lower case, without its port."""
    if host.startswith("["):
        return host.lower().partition("]")[0] + "]"
    return host.lower().partition(":")[0].removesuffix(".")


def channels_of_path(request: web.Request, require_few: Callable[[int], object]) -> list[str]:
    """Return the channels of a path's comma list; there may be none.

    `require_few` raises for a number that is too large, before they are taken apart.
    """
    path = request.match_info.get("channels")
    if path is None:
        return []
    if "," not in path:
        return [path]
    require_few(path.count(",") + 1)
    return path.split(",")


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
            f"request line: has {len(target)} bytes, more than {MAX_TARGET};"
            " send a long list of channels in the body of POST /events",
        )
    most = max_channels + OTHER_PARAMETERS
    if asks and (count := target.count("&") + 1) > most:
        raise Problem(400, f"query: has {count} parameters, more than {most}")


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
