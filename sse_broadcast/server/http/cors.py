"""CORS: the pages of other origins that may use the server. None may, unless `cors_origins` names them."""

import re
from collections.abc import Iterable, MutableMapping

from aiohttp import hdrs, web

from sse_broadcast.server.http.request_head import origin_of, requested_host

REQUEST_HEADERS = (
    "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, X-Requested-With"
)
"""Request headers that a browser asks about in a preflight. Axios, jQuery and others add the last."""

RESPONSE_HEADERS = "Retry-After, WWW-Authenticate"
"""Response headers that a page may read, besides the CORS-safelisted ones."""

MAX_AGE = "7200"
"""Seconds for which a browser may cache the answer to a preflight: Chromium's maximum."""

ANY_LABELS = "*."
"""In an origin: one or more labels before the rest of the host name."""

_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\."


class Origins:
    """The origins of `cors_origins`: exact ones, and all below a name (`https://*.example.com`)."""

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
    """Adds the CORS headers that let pages of the allowed origins read answers, errors included."""

    # With credentials the answer must name the origin and never `*` (Fetch, 3.2.5). Vary keeps a cache from
    # serving one origin's answer to another.

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = Origins(origins)
        self.enabled = bool(self._origins)
        """Whether any origin is named: otherwise `tell` adds nothing."""

    def kept_from(self, request: web.BaseRequest) -> str | None:
        """Return the origin of the requesting page if its browser will hide the answer from it, else None."""
        origin = origin_of(request)
        if origin is None or origin in self._origins or is_same_origin(origin, request):
            return None
        return origin

    def tell(self, request: web.BaseRequest, headers: MutableMapping[str, str]) -> None:
        """Add the CORS headers of any answer."""
        if self.enabled:
            self.tell_origin(origin_of(request), headers)

    def tell_origin(self, origin: str | None, headers: MutableMapping[str, str]) -> None:
        """Add the CORS headers of any answer, for a page of `origin`."""
        if not self.enabled:
            return
        varies = headers.get(hdrs.VARY)
        headers[hdrs.VARY] = hdrs.ORIGIN if varies is None else f"{varies}, {hdrs.ORIGIN}"
        if origin is not None and origin in self._origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = RESPONSE_HEADERS

    def tell_beforehand(
        self, request: web.BaseRequest, headers: MutableMapping[str, str], methods: str
    ) -> None:
        """Add the CORS headers of a preflight: the allowed methods and headers."""
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return
        if origin_of(request) in self._origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = methods
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = REQUEST_HEADERS
            headers[hdrs.ACCESS_CONTROL_MAX_AGE] = MAX_AGE


def is_same_origin(origin: str, request: web.BaseRequest) -> bool:
    """Return whether the page's origin is the server's address as the request names it."""
    scheme, _, host = origin.lower().partition("://")
    # Behind a proxy that terminates TLS, the page has https and the request arrives by http: allowed. A page
    # loaded by http is not allowed on https: anyone on its way could have changed it.
    schemes = {"https"} if request.secure else {"http", "https"}
    return scheme in schemes and host != "" and host == requested_host(request).lower()
