"""Authorization: the caller of a request, and what it may do."""

import functools
from collections.abc import Iterator, Mapping, Sequence

from aiohttp import hdrs, web
from multidict import istr

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.principal import EVERYTHING, Action, Grants, Principal
from sse_broadcast.channels import ANY
from sse_broadcast.config.schema import Config, Endpoint
from sse_broadcast.errors import CredentialError
from sse_broadcast.server.http.client_address import is_loopback_name
from sse_broadcast.server.http.cors import Origins, is_same_origin
from sse_broadcast.server.http.problem import Problem, given_several_times
from sse_broadcast.server.http.query import only
from sse_broadcast.server.http.request_head import host_name, origin_of, requested_host
from sse_broadcast.server.transport.connection import ListenerInfo, listener_of

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("sse_broadcast.principal", Principal)
"""The principal of a request. `guarded` sets it."""

IN_QUERY = "access_token"
"""The query parameter for a token, since EventSource cannot send headers (RFC 6750, 2.3)."""

CHALLENGE = 'Bearer realm="sse-broadcast"'

X_REAL_IP = istr("X-Real-IP")

SAFE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})


class Authorizer:
    """Identifies callers by the credential of their requests and by the listener they use.

    A server without credentials allows everything to clients of the loopback, except to web pages: those of
    other origins, and those whose own name was pointed to our address (DNS rebinding). Other clients may only
    subscribe.
    """

    def __init__(self, config: Config, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._cookie = config.cookie
        self._origins = Origins(config.cors_origins)
        self._hosts = frozenset({*config.allowed_hosts, *(each.host.lower() for each in config.listeners)})
        # 256 hosts of the 261 characters that `is_host` accepts: 100 KB at most.
        self._is_ours = functools.lru_cache(maxsize=256)(self._names_this_server)
        self._open = config.open
        self._everyone = Principal(EVERYTHING)
        granted: Grants = {Action.SUBSCRIBE: (ANY,)} if self._open else _anonymous(config)
        self.anonymous = Principal({**granted, **_forced(config)})
        """The principal of a caller without credential."""

    def identify(self, request: web.Request, endpoint: Endpoint, place: ListenerInfo) -> Principal | str:
        """Return the principal of a request, or its token if the token must be verified first.

        `place` is the listener. Raises `Problem` for a caller that is not allowed in.
        """
        if endpoint not in place.endpoints:
            raise _nothing_here(request)
        if self._open and place.loopback and self._is_local(request, place):
            return self._everyone
        if not self._authenticator.takes_tokens:
            return self.anonymous
        token = self._token(request, endpoint)
        if token is None:
            return self.anonymous
        try:
            return self._authenticator.cached(token) or token
        except CredentialError as error:
            raise unauthorized(str(error), error="invalid_token") from None

    async def authenticate(self, token: str) -> Principal:
        """Verify a token and return its principal. Raises `Problem` if it is not valid."""
        try:
            return await self._authenticator.authenticate(token)
        except CredentialError as error:
            raise unauthorized(str(error), error="invalid_token") from None

    def require_good(self, principal: Principal) -> None:
        """Raise `Problem` if the credential of an admitted caller is no longer valid."""
        try:
            self._authenticator.require_good(principal)
        except CredentialError as error:
            raise unauthorized(str(error), error="invalid_token") from None

    def is_admin(self, token: str) -> bool | None:
        """Return whether a token has `admin`, or None if it must be verified first."""
        try:
            principal = self._authenticator.cached(token)
        except CredentialError:
            return False
        return None if principal is None else principal.allows(Action.ADMIN)

    async def verify_admin(self, token: str) -> bool:
        """Verify a token, and return whether it has `admin`."""
        try:
            return (await self._authenticator.authenticate(token)).allows(Action.ADMIN)
        except CredentialError:
            return False

    def anonymous_on(self, place: ListenerInfo) -> Principal:
        """Return the principal of a caller without credential on a listener."""
        return self._everyone if self._open and place.loopback else self.anonymous

    def _token(self, request: web.Request, endpoint: Endpoint) -> str | None:
        """Return the token from the first place that has one: the header, the query, the cookie."""
        header = only(request.headers, hdrs.AUTHORIZATION)
        asked = self._in_query(request, endpoint) if request.query_string else None
        if header is not None:
            if asked is not None:
                raise Problem(400, f"{IN_QUERY}: not allowed together with an Authorization header")
            return _bearer(header)
        if asked is not None:
            return asked
        return self._in_cookie(request) if self._cookie else None

    def _in_query(self, request: web.Request, endpoint: Endpoint) -> str | None:
        if IN_QUERY not in request.query:
            return None
        if endpoint is not Endpoint.SUBSCRIBE:
            raise Problem(400, f"{IN_QUERY}: only GET /events accepts it; use an Authorization header")
        values = request.query.getall(IN_QUERY)
        if len(values) > 1:
            raise given_several_times(IN_QUERY, len(values))
        return values[0]

    def _in_cookie(self, request: web.Request) -> str | None:
        values = list(_cookies(request, self._cookie))
        if not values:
            return None
        if len(values) > 1:
            # Another host of the same domain may have set one of them, and nothing tells which.
            raise given_several_times(hdrs.COOKIE, len(values), name=self._cookie)
        if request.method not in SAFE:
            self._require_known_page(request)
        return values[0]

    def _require_known_page(self, request: web.Request) -> None:
        # A browser sends cookies with the requests of any page. Only Origin names the page.
        origin = origin_of(request)
        if origin is None or not self._is_known(origin, request):
            raise Problem(
                403,
                f"Origin: {_quoted(origin)} may not {request.method} with a cookie;"
                " add it to cors_origins to allow it",
            )

    def _is_local(self, request: web.Request, place: ListenerInfo) -> bool:
        """Return whether a program on this machine asks, and no proxy for somebody else.

        Raises `Problem` for a web page of another origin.
        """
        # Asked of what a proxy brings too: a page under a name that was rebound can say that it is one.
        headers = request.headers
        host = headers.get(hdrs.HOST) or requested_host(request)
        if not place.unix and not self._is_ours(host):
            raise Problem(
                421,
                f"Host: {_quoted(host)} is not this server's; add it to allowed_hosts, or set a token",
            )
        origin = headers.get(hdrs.ORIGIN)  # never two, see `require_valid_head`
        if origin is not None and not self._is_known(origin, request):
            raise Problem(
                403, f"Origin: {_quoted(origin)} is not allowed; add it to cors_origins to allow it"
            )
        return not (
            hdrs.X_FORWARDED_FOR in headers
            or hdrs.X_FORWARDED_HOST in headers
            or hdrs.X_FORWARDED_PROTO in headers
            or hdrs.FORWARDED in headers
            or hdrs.VIA in headers
            or X_REAL_IP in headers
        )

    def _names_this_server(self, host: str) -> bool:
        name = host_name(host)
        return name in self._hosts or is_loopback_name(name)

    def _is_known(self, origin: str, request: web.Request) -> bool:
        return origin in self._origins or is_same_origin(origin, request)


def require_endpoint(request: web.Request, endpoint: Endpoint | None) -> ListenerInfo:
    """Return the listener of a request, if it serves the endpoint. Raises `Problem`."""
    place = listener_of(request)
    if endpoint is not None and endpoint not in place.endpoints:
        raise _nothing_here(request)
    return place


def _nothing_here(request: web.Request) -> Problem:
    return Problem(404, f"nothing is at {request.path[:80]} here")


def require_permission(request: web.Request, action: Action, channels: Sequence[str] = (ANY,)) -> Principal:
    """Return the principal of a request, if it may do this in each of the channels and patterns.

    `*` includes the server itself. Raises `Problem`.
    """
    principal = request[PRINCIPAL]
    refused = principal.first_denied(action, channels)
    if refused is not None:
        raise _refusal(principal, action, f"{action} {refused!r}")
    return principal


def require_any_channel(request: web.Request, action: Action) -> None:
    """Raise `Problem` for a caller that may do this in no channel, before its request is parsed."""
    if not request[PRINCIPAL].grants.get(action):
        raise _refusal(request[PRINCIPAL], action, action)


def unauthorized(detail: str, *, error: str | None = None) -> Problem:
    """Return the problem for a missing or an invalid credential (RFC 6750, 3)."""
    return Problem(401, detail, headers=challenge(error))


def challenge(error: str | None = None) -> Mapping[str, str]:
    """Return the WWW-Authenticate header, with the error of the credential if there is one."""
    return {hdrs.WWW_AUTHENTICATE: CHALLENGE if error is None else f'{CHALLENGE}, error="{error}"'}


def _refusal(principal: Principal, action: Action, what: str) -> Problem:
    if principal.anonymous:
        shown = f"Authorization: Bearer ..., or {IN_QUERY}= in the URL if you cannot send headers"
        return unauthorized(
            f"{what}: needs a token ({shown if action is Action.SUBSCRIBE else 'Authorization: Bearer ...'})"
        )
    return Problem(403, f"{what}: the token does not allow it", headers=challenge("insufficient_scope"))


def _anonymous(config: Config) -> Grants:
    granted: dict[Action, tuple[str, ...]] = {
        Action.SUBSCRIBE: config.anonymous_subscribe,
        Action.PUBLISH: config.anonymous_publish,
        Action.INSPECT: config.anonymous_inspect,
    }
    return {action: patterns for action, patterns in granted.items() if patterns}


def _forced(config: Config) -> Grants:
    return {Action.PUBLISH: (ANY,)} if config.insecure_publish else {}


def _cookies(request: web.Request, name: str) -> Iterator[str]:
    """Yield the values of a cookie, from all Cookie headers."""
    # Not `request.cookies`: it has only the last value of the first header.
    for header in request.headers.getall(hdrs.COOKIE, ()):
        for pair in header.split(";"):
            key, _, value = pair.partition("=")
            if key.strip() == name:
                yield value.strip().removeprefix('"').removesuffix('"')


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise unauthorized("Authorization: only the scheme Bearer is supported", error="invalid_request")
    return token.strip()


def _quoted(value: str | None) -> str:
    return "none" if value is None else ascii(value[:80])
