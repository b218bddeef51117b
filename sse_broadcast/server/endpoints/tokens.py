"""POST /tokens and POST /revoke: issue short-lived tokens, and revoke credentials."""

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
"""Maximum bytes of a body."""

LIFETIME = 600.0
"""Seconds that a token is valid by default: a page opens its stream at once."""

RECENT = 1_767_225_600.0
"""The beginning of 2026, in seconds since 1970. A smaller `expires` is a duration, sent by mistake."""

LONGEST_WAIT = 3600
"""Maximum seconds of `Retry-After` while the list of revocations is full."""

INSTEAD = (
    "To refuse credentials now, remove the [[caller]], or change the key of the tokens or token_secret, and"
    " reload. DELETE /subscribers/{id} closes a stream"
)
"""What to do while the list is full. Not a restart: it would lose all revocations."""

TokenText = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SUBJECT)]


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /tokens. `lifetime` is in seconds, and capped at `token_lifetime`."""

    schema_name: ClassVar = "TokenWish"

    grants: dict[Action, tuple[Pattern, ...]]
    subject: TokenText = "visitor"
    lifetime: Annotated[float, msgspec.Meta(ge=1, le=31_536_000)] = LIFETIME


class RevocationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /revoke: the subject or the id of signed tokens, or the name of a `[[caller]]`.

    `expires` is the end of the revocation, in seconds since 1970.
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
    """Issue a token with some of the permissions of its issuer."""
    require_permission(request, Action.ADMIN)
    services = services_of(request)
    body = await _read_body(request, services, _token_requests)
    issuer = confirm(request)
    issued = services.authenticator.issue(
        body.grants, subject=body.subject, lifetime=body.lifetime, by=issuer
    )
    return _answer(MintedToken(issued.token, issued.id, issued.subject, issued.expires, body.grants))


async def post_revoke(request: web.Request) -> web.Response:
    """Revoke a subject's tokens issued until now, one token, or a caller, and close their streams."""
    require_permission(request, Action.ADMIN)
    services = services_of(request)
    body = await _read_body(request, services, _revocations)
    kind, name = _revoked_credential(body)
    confirm(request)
    try:
        services.authenticator.revoke(kind, name, expires=body.expires)
    except FullError as error:
        raise _revocations_full(error, services.authenticator.revocations) from None
    # Shielded: if the client disconnects, the handler is cancelled, but all the streams must be closed.
    closing = request.app[BROADCASTER].work.start(
        request.app[STREAM_EXPIRY].revoke(kind, name), caller=object()
    )
    streams = await asyncio.shield(closing)
    return _answer(Revoked("revoked", streams))


def _revocations_full(error: FullError, revocations: RevocationList) -> Problem:
    seconds = revocations.seconds_to_room()
    wait = LONGEST_WAIT if seconds is None else min(math.ceil(seconds) or 1, LONGEST_WAIT)
    detail = f"{error}: nothing was revoked, and no stream ended. {INSTEAD}"
    return Problem(503, detail, headers={"Retry-After": str(wait)})


def _revoked_credential(body: RevocationRequest) -> tuple[CredentialKind, str]:
    given: dict[CredentialKind, str | None] = {
        "subject": body.subject,
        "id": body.id,
        "caller": body.caller,
    }
    named = [(kind, name) for kind, name in given.items() if name is not None]
    if len(named) != 1:
        raise Problem(422, "subject, id and caller: one of them must be given")
    return named[0]


async def _read_body(request: web.Request, services: Services, shape: JsonShape[T]) -> T:
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
