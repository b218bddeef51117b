"""JWT: verify signed tokens with PyJWT and our keys (RFC 7519, RFC 8725)."""

import base64
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sse_broadcast.auth.claims import ClaimRules, in_short
from sse_broadcast.auth.keys import Key
from sse_broadcast.clock import utc
from sse_broadcast.errors import CredentialError
from sse_broadcast.json_depth import TOO_DEEP, is_too_deep

OWN_KID = "sse-broadcast"
"""The id of the key that the server itself signs with."""

FOREIGN = ("jku", "jwk", "x5c", "x5u")
"""Members of a header that would have us believe a key of the token's own."""

Claims = Mapping[str, Any]


class UnsignedError(CredentialError):
    """A token that none of our keys has signed."""


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What a token says of its signature, before anyone has looked whether that is so."""

    algorithm: object
    kid: str | None


class KeySource(Protocol):
    """Keys that may change."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, as far as they are known now."""

    async def refresh(self) -> None:
        """Look whether there are others. Never raises, and may have looked too lately to look again."""


def is_signed(token: str) -> bool:
    """Whether a token has the three parts of one that was signed."""
    return token.count(".") == 2


def header_of(token: str) -> TokenHeader:
    """Return a token's header. Raises `CredentialError` for one that is none, or that is not taken."""
    try:
        import jwt  # noqa: PLC0415
    except ModuleNotFoundError:  # then there is no key either
        raise UnsignedError(UNKNOWN_KEY) from None

    if any(is_too_deep(part) for part in _decoded_parts(token)):
        raise CredentialError(f"token: {TOO_DEEP}")

    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise CredentialError(f"token: is not taken: {in_short(str(error))}") from None
    for name in FOREIGN:
        if name in header:
            raise CredentialError(f"token: its header has {name}, which is not taken")
    return TokenHeader(header.get("alg"), header.get("kid"))


def _decoded_parts(token: str) -> Iterator[bytes]:
    """Yield the JSON of the header and of the claims, without parts that PyJWT refuses to decode."""
    for part in token.split(".")[:2]:
        with contextlib.suppress(ValueError):
            yield base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


class Verifier:
    """Verifies tokens with these keys, or with those of a source that changes, and by these rules."""

    def __init__(self, rules: ClaimRules, keys: Sequence[Key] = (), source: KeySource | None = None) -> None:
        self._rules = rules
        self._keys = tuple(keys)
        self._source = source

    async def claims_of(self, token: str, header: TokenHeader) -> Claims:
        """Return what a token says that is good now. Raises `CredentialError`, which says why it is not."""
        try:
            return claims_of(token, header, self._known(), self._rules)
        except UnsignedError:
            if self._source is None or self._is_named(header.kid):
                raise
        await self._source.refresh()
        return claims_of(token, header, self._known(), self._rules)

    def _known(self) -> tuple[Key, ...]:
        return self._keys if self._source is None else (*self._keys, *self._source.keys)

    def _is_named(self, kid: str | None) -> bool:
        return kid is not None and any(key.kid == kid for key in self._known())


def claims_of(token: str, header: TokenHeader, keys: Sequence[Key], rules: ClaimRules) -> Claims:
    """Return what a token says that one of these keys has signed, and that is good now.

    Its `kid` chooses among our keys, and each of them has its own algorithm: what a token says of itself
    can only make it fail (RFC 8725, 3.1). Raises `CredentialError`, which says why it is not good.
    """
    meant = [key for key in keys if key.kid is None or header.kid is None or key.kid == header.kid]
    fitting = [key for key in meant if key.algorithm == header.algorithm]
    if not meant:
        raise UnsignedError(UNKNOWN_KEY)
    if not fitting:
        claimed = in_short(str(header.algorithm)) if isinstance(header.algorithm, str) else "no algorithm"
        raise UnsignedError(f"token: is signed with {claimed}, which is not its key's algorithm")
    for key in fitting:
        claims = _decoded(token, key, rules)
        if claims is not None:
            return claims
    raise UnsignedError("token: its signature is wrong")


def _decoded(token: str, key: Key, rules: ClaimRules) -> Claims | None:
    """Return what a token says, or None for one that the key has not signed."""
    import jwt  # noqa: PLC0415

    try:
        return jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            audience=rules.audience or None,
            issuer=rules.issuer or None,
            options={"require": ["exp"], "verify_iat": rules.dated, "enforce_minimum_key_length": True},
        )
    except jwt.InvalidSignatureError:
        return None
    except jwt.MissingRequiredClaimError as error:
        raise CredentialError(f"token: has no {error.claim}") from None
    except jwt.PyJWTError as error:
        raise CredentialError(f"token: {_reason(error, token)}") from None


def _reason(error: Exception, token: str) -> str:
    """Say why a token is not good that is signed as it should be."""
    import jwt  # noqa: PLC0415

    tell = _REASONS.get(type(error).__name__)
    if tell is None:
        return f"is not taken: {in_short(str(error))}"
    return tell(jwt.decode(token, options={"verify_signature": False}))


UNKNOWN_KEY = "token: is signed with a key that is not known"

# By the names of PyJWT's exceptions, which is not there before a token is.
_REASONS: dict[str, Callable[[Claims], str]] = {
    "ExpiredSignatureError": lambda claims: f"expired at {_time(claims, 'exp')}",
    "ImmatureSignatureError": lambda claims: (
        f"is not good yet (nbf {_time(claims, 'nbf')}, iat {_time(claims, 'iat')})"
    ),
    "InvalidIssuerError": lambda claims: f"is of another issuer: {_names(claims['iss'])}",
    "InvalidAudienceError": lambda claims: f"is for somebody else: {_names(claims['aud'])} (aud)",
}


def _time(claims: Claims, name: str) -> str:
    if name not in claims:
        return "none"
    try:
        return utc(float(claims[name]))
    except (TypeError, ValueError, OverflowError, OSError):
        return "a time that is none"


def _names(value: object) -> str:
    names = value if isinstance(value, list) else [value]
    return f"{', '.join(name for name in names if isinstance(name, str))!a:.120}"
