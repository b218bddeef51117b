"""POST /tokens and POST /revoke: make short-lived tokens, and end what a token was good for."""

import asyncio
import math
from typing import Annotated, ClassVar, TypeVar

import msgspec
from aiohttp import web

from sse_broadcast.auth.claims import MAX_SUBJECT, MAX_TIME
from sse_broadcast.auth.principal import Action, CredentialKind
from sse_broadcast.auth.revocation import RevocationList
from sse_broadcast.config.values import Pattern
from sse_broadcast.errors import FullError
from sse_broadcast.server.access.authorization import require_permission
from sse_broadcast.server.endpoints import request_body
from sse_broadcast.server.http.json_body import JsonShape
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.responses import MintedToken, Revoked, answered
from sse_broadcast.server.services import BROADCASTER, STREAM_EXPIRY, Services, confirm, services_of
from sse_broadcast.wire import JSON_TYPE

T = TypeVar("T")

MAX_TOKEN_REQUEST = 65_536
"""Bytes of a body."""

LIFETIME = 600.0
"""Seconds that a token is good for, if it is not said: a page opens its stream at once."""

RECENT = 1_767_225_600.0
"""The beginning of 2026, in seconds since 1970: what is less was meant from now on, and revokes nothing."""

LONGEST_WAIT = 3600
"""Seconds after which to ask again at most, while as many revocations are held as there may be."""

INSTEAD = (
    "Take a [[caller]] out of the configuration, change the key of the tokens or token_secret and reload:"
    " that refuses them; DELETE /subscribers/{id} ends a stream"
)
"""What helps then. A restart would forget all revocations."""


TokenText = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SUBJECT)]


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of POST /tokens. `lifetime` is in seconds, cut to `token_lifetime`."""

    schema_name: ClassVar = "TokenWish"

    grants: dict[Action, tuple[Pattern, ...]]
    subject: TokenText = "visitor"
    lifetime: Annotated[float, msgspec.Meta(ge=1, le=31_536_000)] = LIFETIME


class RevocationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of POST /revoke: whose signed tokens, which one of them, or which `[[caller]]`.

    `expires` is in seconds since 1970.
    """

    schema_name: ClassVar = "RevocationWish"

    subject: TokenText | None = None
    id: TokenText | None = None
    caller: TokenText | None = None
    expires: Annotated[float, msgspec.Meta(ge=RECENT, le=MAX_TIME)] | None = None


_token_requests = JsonShape(
    TokenRequest,
    {
        "grants": 'must be an object such as {"subscribe": ["orders.*"]}: lists of channels and patterns,'
        " under publish, subscribe and inspect",
        "subject": f"must be text of 1 to {MAX_SUBJECT} characters{{not}}",
        "lifetime": "must be seconds, from 1 to 31536000{not}",
    },
)
_revocations = JsonShape(
    RevocationRequest,
    {
        "subject": f"must be text of 1 to {MAX_SUBJECT} characters{{not}}",
        "id": f"must be text of 1 to {MAX_SUBJECT} characters{{not}}",
        "caller": f"must be text of 1 to {MAX_SUBJECT} characters{{not}}",
        "expires": "must be seconds since 1970{not}",
    },
)


async def post_tokens(request: web.Request) -> web.Response:
    """Make a token that may do a part of what its maker may."""
    require_permission(request, Action.ADMIN)
    services = services_of(request)
    wanted = await _read(request, services, _token_requests)
    maker = confirm(request)
    issued = services.authenticator.issue(
        wanted.grants, subject=wanted.subject, lifetime=wanted.lifetime, by=maker
    )
    return _answer(MintedToken(issued.token, issued.id, issued.subject, issued.expires, wanted.grants))


async def post_revoke(request: web.Request) -> web.Response:
    """Refuse a subject, a token or a caller from now on, and end its streams."""
    require_permission(request, Action.ADMIN)
    services = services_of(request)
    wanted = await _read(request, services, _revocations)
    kind, name = _revoked(wanted)
    confirm(request)
    try:
        services.authenticator.revoke(kind, name, expires=wanted.expires)
    except FullError as error:
        raise _full(error, services.authenticator.revocations) from None
    # It goes on if its client leaves: a revocation that is half done would be none.
    ending = request.app[BROADCASTER].work.start(
        request.app[STREAM_EXPIRY].revoke(kind, name), caller=object()
    )
    streams = await asyncio.shield(ending)
    return _answer(Revoked("revoked", streams))


def _full(error: FullError, revocations: RevocationList) -> Problem:
    seconds = revocations.seconds_to_room()
    wait = LONGEST_WAIT if seconds is None else min(math.ceil(seconds) or 1, LONGEST_WAIT)
    detail = f"{error}: nothing was revoked, and no stream ended. {INSTEAD}"
    return Problem(503, detail, headers={"Retry-After": str(wait)})


def _revoked(wanted: RevocationRequest) -> tuple[CredentialKind, str]:
    given: dict[CredentialKind, str | None] = {
        "subject": wanted.subject,
        "id": wanted.id,
        "caller": wanted.caller,
    }
    named = [(kind, name) for kind, name in given.items() if name is not None]
    if len(named) != 1:
        raise Problem(422, "subject, id and caller: one of them must be given")
    return named[0]


async def _read(request: web.Request, services: Services, shape: JsonShape[T]) -> T:
    declared = request_body.body_type(request)
    if declared.name != JSON_TYPE:
        raise Problem(415, f"Content-Type: must be {JSON_TYPE}, not {declared.name[:80]!a}", closes=True)
    data = await request_body.read_text(
        request, declared, most=MAX_TOKEN_REQUEST, timeout=services.config.body_timeout
    )
    return shape.decode(data)


def _answer(content: MintedToken | Revoked) -> web.Response:
    response = answered(content)
    response.headers["Cache-Control"] = "no-store"
    return response
