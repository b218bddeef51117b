"""Validate request heads: headers that may come once, hosts, targets and their encoding.

A proxy, a browser and this server each read a head. What they could read differently is refused.
"""

import functools
import ipaddress
import re
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from aiohttp import HttpVersion11, hdrs, web

from sse_broadcast.server.http.problem import Problem, given_several_times
from sse_broadcast.server.http.targets import IMPOSSIBLE, SHORT_TARGET, require_fitting_target

_NAME = r"[\w.~!$&'()*+,;=-]*+"

_HOST = re.compile(
    rf"(?:\[([0-9A-Fa-f:.]{{2,45}})\]|{_NAME}(?:%[0-9A-Fa-f]{{2}}{_NAME})*+)(?::([0-9]{{0,5}}))?", re.ASCII
)
"""uri-host [ ":" port ] (RFC 9110, 7.2; RFC 3986, 3.2.2). A zone of IPv6 is for its own machine, and never
sent (RFC 6874, 4); of a later kind of address than IPv6 there is none."""

MAX_HOST_AND_PORT = 261
"""Characters of a host and a port: a name of DNS has 255 at most."""

MAX_PORT = 65_535

_ABSOLUTE = re.compile(r"https?://([^/?]*)(?:[/?].*)?", re.IGNORECASE | re.ASCII | re.DOTALL)
"""A target with the name of the server in it (RFC 9112, 3.2.2), and that name."""


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
        raise Problem(400, "request line: has a fragment (#), which is for the client alone")
    if not target.startswith("/"):
        _require_own_target(target, host)
    # aiohttp decodes paths and queries leniently: a byte that is not UTF-8 would become U+FFFD,
    # or part of a name that nobody sent.
    if ("%" in target or not target.isascii()) and not _is_utf8(target):
        _refuse_bytes(target)


def is_host(text: str) -> bool:
    """Whether this is a host, maybe with a port, as `Host` has it. It may be empty (RFC 9110, 7.2)."""
    # What is longer is not asked about: the cache keeps 256 of these, 100 KB at most.
    return len(text) <= MAX_HOST_AND_PORT and _is_host(text)


@functools.lru_cache(maxsize=256)
def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    if found is None or (found[2] and int(found[2]) > MAX_PORT):
        return False
    return found[1] is None or _is_ipv6(found[1])


def requested_host(request: web.BaseRequest) -> str:
    """Return the host, maybe with a port, that a request is for; "" if it says none.

    It is that of the target where it has one, and then no other is in `Host`.
    """
    host = request.headers.get(hdrs.HOST)
    if host is not None:
        return host
    found = _ABSOLUTE.fullmatch(request.raw_path)
    return found[1] if found else ""


def origin_of(request: web.BaseRequest) -> str | None:
    """Return the origin of the page that asks, or None if none is said, or more than one."""
    said = request.headers.getall(hdrs.ORIGIN, ())
    return said[0] if len(said) == 1 else None


def _require_chunks(request: web.BaseRequest) -> None:
    """Refuse a body whose end another may see elsewhere. Raises `Problem`, and ends the connection."""
    said = ", ".join(request.headers.getall(hdrs.TRANSFER_ENCODING))
    if request.version != HttpVersion11:
        # RFC 9112, 6.1: a proxy that knows no chunks has seen another end, or none.
        raise Problem(400, "Transfer-Encoding: HTTP/1.0 does not have it", closes=True)
    codings = [coding.strip().lower() for coding in said.split(",")]
    if "" in codings:
        raise Problem(400, f"Transfer-Encoding: {said[:80]!a} is no list of codings", closes=True)
    if codings != ["chunked"]:
        raise Problem(501, f"Transfer-Encoding: {said[:80]!a} is not taken; chunked is", closes=True)


def _require_own_target(target: str, host: str | None) -> None:
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Problem(400, "request line: must have a path, or a URL that begins with http:// or https://")
    if not (found[1] and is_host(found[1])):
        raise Problem(400, f"request line: {_shown(found[1])} is not a host, or a host and a port")
    if host is not None and host.lower() != found[1].lower():
        # RFC 9112, 3.2.2 would have us take the target's, and a filter in front may have looked at Host.
        raise Problem(400, f"Host: {_shown(host)} differs from the host in the request line")


def _refuse_bytes(target: str) -> NoReturn:
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


def _shown(host: str) -> str:
    return "user@" if "@" in host else ascii(host[:80])  # there may be a password before it


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def host_name(host: str) -> str:
    """Return the name in a host that `is_host` accepts: in lower case, without its port."""
    if host.startswith("["):
        return host.lower().partition("]")[0] + "]"
    return host.lower().partition(":")[0].removesuffix(".")
