"""Claims: what a signed token says of its bearer (RFC 7519, 4.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from sse_broadcast.auth.principal import Action, Principal
from sse_broadcast.config.values import Pattern
from sse_broadcast.errors import CredentialError

T = TypeVar("T")

MAX_SUBJECT = 255
"""Characters of a subject and of a token's id (OpenID Connect Core, 2: `sub`)."""

MAX_TIME = 253_402_300_799.0
"""The end of the year 9999, in seconds since 1970: what is later is no time that anyone meant."""

# JSON can have half a surrogate pair in it, which nothing that is written or sent can.
_Name = Annotated[str, msgspec.Meta(max_length=MAX_SUBJECT, pattern=r"^[^\ud800-\udfff]*\Z")]
_Time = Annotated[float, msgspec.Meta(ge=0, le=MAX_TIME)]


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """Whose tokens are taken, and which claim says what their bearer may do.

    An empty `issuer` takes any; an empty `audience` those that are for nobody in particular. `dated` refuses
    tokens whose issuer's clock is ahead of ours (iat).
    """

    claim: str = "grants"
    issuer: str = ""
    audience: str = ""
    dated: bool = True


class _Said(msgspec.Struct, frozen=True):
    """The claims that every issuer has; others are left alone."""

    exp: _Time
    iat: _Time | None = None
    sub: _Name = ""
    jti: _Name | None = None


def access_of(claims: Mapping[str, Any], claim: str) -> Principal:
    """Return what the bearer of a verified token may do, as the named claim says.

    A token without a subject is of the empty one. Raises `CredentialError` for claims of another shape.
    """
    if claim not in claims:
        raise CredentialError(f"token: has no claim {claim!r}, which says what its bearer may do")
    said = _converted(claims, _Said, where="claims")
    grants = _converted(claims[claim], dict[Action, tuple[Pattern, ...]], where=f"claim {claim!r}")
    return Principal(grants, said.sub, id=said.jti, issued=said.iat, expires=said.exp)


def in_short(text: str) -> str:
    """Return what a stranger may have written as a message tells it: ASCII, on one line, cut."""
    return ascii(text)[1:-1].replace("\\\\", "\\")[:120]


def _converted(value: object, kind: type[T], *, where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except ValueError as error:  # of msgspec, or of text that has no UTF-8
        raise CredentialError(f"token: {where}: {in_short(str(error))}") from None
