"""Claims: the content of a signed token (RFC 7519, 4.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from sse_broadcast.auth.principal import Action, Principal
from sse_broadcast.config.values import Pattern
from sse_broadcast.errors import CredentialError

T = TypeVar("T")

MAX_SUBJECT = 255
"""Maximum characters of a subject and of a token's id (OpenID Connect Core, 2: `sub`)."""

MAX_TIME = 253_402_300_799.0
"""The end of the year 9999, in seconds since 1970. Later times are typing errors, and overflow datetime."""

# JSON may contain an unpaired surrogate. UTF-8 cannot encode it: logging the subject would fail.
_Name = Annotated[str, msgspec.Meta(max_length=MAX_SUBJECT, pattern=r"^[^\ud800-\udfff]*\Z")]
_Time = Annotated[float, msgspec.Meta(ge=0, le=MAX_TIME)]


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """The tokens to accept, and the claim that holds the grants.

    An empty `issuer` accepts any. An empty `audience` accepts only tokens without one. `dated` refuses tokens
    whose `iat` is in the future.
    """

    claim: str = "grants"
    issuer: str = ""
    audience: str = ""
    dated: bool = True


class _Said(msgspec.Struct, frozen=True):
    """The registered claims that are used. All others are ignored."""

    exp: _Time
    iat: _Time | None = None
    sub: _Name = ""
    jti: _Name | None = None


def access_of(claims: Mapping[str, Any], claim: str) -> Principal:
    """Return the principal of a verified token, with the grants in the named claim.

    A token without `sub` has the empty subject. Raises `CredentialError` for claims of the wrong type.
    """
    if claim not in claims:
        raise CredentialError(f"token: has no claim {claim!r}, which holds its grants")
    said = _converted(claims, _Said, where="claims")
    grants = _converted(claims[claim], dict[Action, tuple[Pattern, ...]], where=f"claim {claim!r}")
    return Principal(grants, said.sub, id=said.jti, issued=said.iat, expires=said.exp)


def in_short(text: str) -> str:
    """Return untrusted text for a message: ASCII, on one line, at most 120 characters."""
    return ascii(text)[1:-1].replace("\\\\", "\\")[:120]


def _converted(value: object, kind: type[T], *, where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except ValueError as error:  # from msgspec, or UnicodeEncodeError for an unpaired surrogate
        raise CredentialError(f"token: {where}: {in_short(str(error))}") from None
