"""JWT: verify signed tokens with PyJWT and the configured keys (RFC 7519, RFC 8725)."""

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
"""Header members that bring a key of the token's own: they are refused (RFC 8725, 3.10)."""

Claims = Mapping[str, Any]


class UnsignedError(CredentialError):
    """A token that none of the known keys has signed."""


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """The algorithm and the key id that a token claims, before verification."""

    algorithm: object
    kid: str | None


class KeySource(Protocol):
    """A source of keys that may change."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys known now."""

    async def refresh(self) -> None:
        """Read the keys again. Never raises, and may do nothing if the last read was recent."""


def is_signed(token: str) -> bool:
    """Return whether a token has the three parts of a signed token."""
    return token.count(".") == 2


def header_of(token: str) -> TokenHeader:
    """Return the header of a token. Raises `CredentialError` if it is malformed or not accepted."""
    try:
        import jwt  # noqa: PLC0415
    except ModuleNotFoundError:  # without the extra no key can be configured, so no token can be valid
        raise UnsignedError(UNKNOWN_KEY) from None

    if any(is_too_deep(part) for part in _decoded_parts(token)):
        raise CredentialError(f"token: {TOO_DEEP}")

    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise CredentialError(f"token: is not valid: {in_short(str(error))}") from None
    for name in FOREIGN:
        if name in header:
            raise CredentialError(f"token: its header has {name}, which is not accepted")
    return TokenHeader(header.get("alg"), header.get("kid"))


def _decoded_parts(token: str) -> Iterator[bytes]:
    """Yield the JSON of the header and of the claims. Parts that are not base64 are skipped."""
    for part in token.split(".")[:2]:
        with contextlib.suppress(ValueError):  # PyJWT refuses such a part itself, with its reason
            yield base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


class Verifier:
    """Verifies tokens by the given rules, with fixed keys and those of a source that may change."""

    def __init__(self, rules: ClaimRules, keys: Sequence[Key] = (), source: KeySource | None = None) -> None:
        self._rules = rules
        self._keys = tuple(keys)
        self._source = source

    async def claims_of(self, token: str, header: TokenHeader) -> Claims:
        """Return the claims of a valid token. Raises `CredentialError` with the reason otherwise."""
        try:
            return claims_of(token, header, self._known(), self._rules)
        except UnsignedError:
            if self._source is None or self._is_named(header.kid):
                raise
        # The issuer may have changed its keys since the last read.
        await self._source.refresh()
        return claims_of(token, header, self._known(), self._rules)

    def _known(self) -> tuple[Key, ...]:
        return self._keys if self._source is None else (*self._keys, *self._source.keys)

    def _is_named(self, kid: str | None) -> bool:
        return kid is not None and any(key.kid == kid for key in self._known())


def claims_of(token: str, header: TokenHeader, keys: Sequence[Key], rules: ClaimRules) -> Claims:
    """Return the claims of a token that is signed with one of the keys and valid now.

    Raises `CredentialError` with the reason otherwise.
    """
    # A token's `kid` only chooses among our keys, and each key has one algorithm of its own: the token cannot
    # choose one (RFC 8725, 3.1).
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
    """Return the claims of a token, or None if the key did not sign it."""
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
    """Return why a correctly signed token is not valid."""
    import jwt  # noqa: PLC0415

    tell = _REASONS.get(type(error).__name__)
    if tell is None:
        return f"is not valid: {in_short(str(error))}"
    return tell(jwt.decode(token, options={"verify_signature": False}))


UNKNOWN_KEY = "token: is signed with an unknown key"

# Keyed by the names of PyJWT's exceptions: PyJWT is an extra, imported only when a signed token arrives.
_REASONS: dict[str, Callable[[Claims], str]] = {
    "ExpiredSignatureError": lambda claims: f"expired at {_time(claims, 'exp')}",
    "ImmatureSignatureError": lambda claims: (
        f"is not valid yet (nbf {_time(claims, 'nbf')}, iat {_time(claims, 'iat')})"
    ),
    "InvalidIssuerError": lambda claims: f"is of another issuer: {_names(claims['iss'])}",
    "InvalidAudienceError": lambda claims: f"is for another audience: {_names(claims['aud'])} (aud)",
}


def _time(claims: Claims, name: str) -> str:
    if name not in claims:
        return "none"
    try:
        return utc(float(claims[name]))
    except (TypeError, ValueError, OverflowError, OSError):
        return "an invalid time"


def _names(value: object) -> str:
    names = value if isinstance(value, list) else [value]
    return f"{', '.join(name for name in names if isinstance(name, str))!a:.120}"
