"""CORS: which pages of other origins may use the server. Closed, unless `cors_origins` names some."""

from collections.abc import Iterable, MutableMapping

from aiohttp import hdrs, web

ASKED = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID"
"""The headers of a request for which a browser asks beforehand."""

SHOWN = "Last-Event-ID, Retry-After, WWW-Authenticate"
"""The headers of an answer that a page may see beside those it may always."""

REMEMBERED = "7200"
"""Seconds for which a browser may remember the answer to a preflight: what Chromium takes at most."""


class Cors:
    """Adds to answers what lets pages of some origins read them, whatever the answer is.

    With credentials an origin is named exactly, and never by `*` (Fetch, 3.2.5); an answer that depends
    on it says so, or a cache would give one origin's answer to another.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    def tell(self, request: web.BaseRequest, headers: MutableMapping[str, str]) -> None:
        """Add the headers of any answer."""
        if self._origins:
            self.tell_origin(request.headers.get(hdrs.ORIGIN), headers)

    def tell_origin(self, origin: str | None, headers: MutableMapping[str, str]) -> None:
        """Add the headers of any answer to a page of an origin."""
        if not self._origins:
            return
        headers[hdrs.VARY] = hdrs.ORIGIN
        if origin in self._origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = SHOWN

    def tell_beforehand(
        self, request: web.BaseRequest, headers: MutableMapping[str, str], methods: str
    ) -> None:
        """Add what a preflight asks for: the methods and headers that may be used."""
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return
        if request.headers.get(hdrs.ORIGIN) in self._origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = methods
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ASKED
            headers[hdrs.ACCESS_CONTROL_MAX_AGE] = REMEMBERED
