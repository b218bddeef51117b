"""CORS: which pages of other origins may use the server. Closed, unless `cors_origins` names some."""

import re
from collections.abc import Iterable, MutableMapping

from aiohttp import hdrs, web

from sse_broadcast.server.http.request_head import origin_of, requested_host

REQUEST_HEADERS = (
    "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, X-Requested-With"
)
"""The headers of a request for which a browser asks beforehand. Axios, jQuery and others add the last."""

RESPONSE_HEADERS = "Retry-After, WWW-Authenticate"
"""The headers of an answer that a page may see beside those it may always."""

MAX_AGE = "7200"
"""Seconds for which a browser may remember the answer to a preflight: what Chromium takes at most."""

ANY_LABELS = "*."
"""In an origin: one or more labels of a host name, which stand before the rest of it."""

_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\."


class Origins:
    """The origins of `cors_origins`: as they are, or all below a name (`https://*.example.com`)."""

    def __init__(self, origins: Iterable[str]) -> None:
        named = frozenset(origins)
        self._exact = frozenset(origin for origin in named if ANY_LABELS not in origin)
        below = [
            re.escape(origin).replace(re.escape(ANY_LABELS), _LABELS)
            for origin in sorted(named - self._exact)
        ]
        self._below = re.compile("|".join(below)).fullmatch if below else None

    def __bool__(self) -> bool:
        return bool(self._exact) or self._below is not None

    def __contains__(self, origin: object) -> bool:
        if origin in self._exact:
            return True
        return self._below is not None and isinstance(origin, str) and self._below(origin) is not None


class Cors:
    """Adds to answers what lets pages of some origins read them, whatever the answer is.

    With credentials an origin is named exactly, and never by `*` (Fetch, 3.2.5); an answer that depends
    on it says so, or a cache would give one origin's answer to another.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = Origins(origins)
        self.enabled = bool(self._origins)
        """Whether any origin is named: otherwise `tell` adds nothing."""

    def kept_from(self, request: web.BaseRequest) -> str | None:
        """Return the origin of the page that asks, if its browser will keep the answer from it; else None."""
        origin = origin_of(request)
        if origin is None or origin in self._origins or is_same_origin(origin, request):
            return None
        return origin

    def tell(self, request: web.BaseRequest, headers: MutableMapping[str, str]) -> None:
        """Add the headers of any answer."""
        if self.enabled:
            self.tell_origin(origin_of(request), headers)

    def tell_origin(self, origin: str | None, headers: MutableMapping[str, str]) -> None:
        """Add the headers of any answer to a page of an origin."""
        if not self.enabled:
            return
        headers[hdrs.VARY] = hdrs.ORIGIN
        if origin is not None and origin in self._origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = RESPONSE_HEADERS

    def tell_beforehand(
        self, request: web.BaseRequest, headers: MutableMapping[str, str], methods: str
    ) -> None:
        """Add what a preflight asks for: the methods and headers that may be used."""
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return
        if origin_of(request) in self._origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = methods
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = REQUEST_HEADERS
            headers[hdrs.ACCESS_CONTROL_MAX_AGE] = MAX_AGE


def is_same_origin(origin: str, request: web.BaseRequest) -> bool:
    """Return whether a page of this origin has the address by which it asks."""
    scheme, _, host = origin.lower().partition("://")
    # Behind a proxy that speaks TLS for us we are called by https and see http. The other way
    # round it is a page that anyone on the way could have written.
    schemes = {"https"} if request.secure else {"http", "https"}
    return scheme in schemes and host != "" and host == requested_host(request).lower()
