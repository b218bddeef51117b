"""Authenticator: verify tokens of every kind, issue tokens and revoke them."""

import math
import time
from collections.abc import Callable

from sse_broadcast.auth.claims import ClaimRules, access_of
from sse_broadcast.auth.issuer import OWN_RULES, IssuedToken, TokenIssuer
from sse_broadcast.auth.jwks import Jwks
from sse_broadcast.auth.jwt import OWN_KID, Verifier, header_of, is_signed
from sse_broadcast.auth.keys import Key, key_of_file, require_extra
from sse_broadcast.auth.principal import CredentialKind, Grants, Principal
from sse_broadcast.auth.revocation import RevocationList
from sse_broadcast.auth.static_tokens import MAX_TOKEN, StaticTokens
from sse_broadcast.auth.token_cache import VerifiedTokenCache
from sse_broadcast.clock import utc
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import ConfigError, CredentialError, ExtraError


class Authenticator:
    """Verifies tokens and returns their principals; issues and revokes tokens.

    `generated` is a token that allows everything, made for a server without one. `before` is the
    authenticator that a reload replaces: its revocations, its generated secret and the keys of the same JWKS
    are taken over. `clock` gives seconds since 1970; PyJWT checks the times of a token seen for the first
    time by its own clock. Raises `ConfigError` for credentials that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        *,
        generated: str | None = None,
        clock: Callable[[], float] = time.time,
        before: "Authenticator | None" = None,
    ) -> None:
        _require_keys_for_rules(config)
        self.clock = clock
        """The current time, in seconds since 1970."""
        self._takes_tokens = config.has_credentials or generated is not None
        self._static = StaticTokens(config, generated=generated)
        self._revoked: RevocationList = RevocationList(clock) if before is None else before._revoked  # noqa: SLF001
        self._verified = VerifiedTokenCache()
        self._rules = ClaimRules(config.jwt_claim, config.jwt_issuer, config.jwt_audience)
        try:
            mint, jwks = (None, None) if before is None else (before._mint, before._jwks)  # noqa: SLF001
            self._mint: TokenIssuer = TokenIssuer(config, clock, before=mint)
            self._jwks: Jwks | None = _jwks(config, self._verified.forget, jwks)
            self._verifier = Verifier(self._rules, _keys(config), self._jwks)
        except ExtraError as error:
            raise ConfigError(str(error)) from None

    @property
    def takes_tokens(self) -> bool:
        """Whether any token could be valid: credentials are configured, or a token was generated."""
        return self._takes_tokens

    async def start(self) -> None:
        """Fetch the JWKS, and keep it up to date. A failure is only logged."""
        if self._jwks is not None:
            await self._jwks.start()

    def require_keys(self) -> None:
        """Raise `ConfigError` if the last fetch of the JWKS failed."""
        if self._jwks is not None and self._jwks.fault is not None:
            raise self._jwks.fault

    async def close(self) -> None:
        """Stop fetching the JWKS."""
        if self._jwks is not None:
            await self._jwks.close()

    def cached(self, token: str) -> Principal | None:
        """Return the principal of a token, or None for a signed token that has not been verified yet.

        Raises `CredentialError` with the reason for a token that is not valid.
        """
        if len(token) > MAX_TOKEN:
            raise CredentialError(f"token: is longer than {MAX_TOKEN} characters")
        if not token.isascii():
            raise CredentialError("token: contains a character that is not ASCII")
        signed = is_signed(token)
        # Static tokens are never added to the cache of verified tokens, so the order cannot confuse the two.
        principal = (self._verified.find(token) if signed else None) or self._static.find(token)
        if principal is None and not signed:
            raise CredentialError("token: is not known")
        return None if principal is None else self.require_good(principal)

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of a token. Raises `CredentialError` with the reason if it is not valid."""
        principal = self.cached(token)
        if principal is not None:
            return principal
        principal = await self._verify(token)
        # No await between the verification and this: keys that change in between would clear the cache first,
        # and a token of a removed key would stay in it.
        self._verified.add(token, principal)
        return self.require_good(principal)

    def issue(self, grants: Grants, *, subject: str, lifetime: float, by: Principal) -> IssuedToken:
        """Issue a token with a subset of the grants of `by`, valid for at most `lifetime` seconds.

        Raises `ForbiddenError` for grants that `by` does not have, `EventError` for an invalid subject,
        lifetime or pattern, and `ExtraError` without the extra `jwt`.
        """
        return self._mint.make(grants, subject=subject, lifetime=lifetime, by=by)

    @property
    def revocations(self) -> RevocationList:
        """The revocations, kept across reloads."""
        return self._revoked

    def revoke(self, kind: CredentialKind, name: str, *, expires: float | None = None) -> None:
        """Refuse the tokens of a `subject` issued until now, the token with an `id`, or a `caller`.

        The revocation is kept until `expires`, in seconds since 1970, or until the process ends. Raises
        `EventError` for an invalid name, `FullError` if no more revocations can be held.
        """
        self._revoked.revoke(kind, name, until=math.inf if expires is None else expires)

    def require_good(self, principal: Principal) -> Principal:
        """Return the principal. Raises `CredentialError` if its token has expired or was revoked."""
        if principal.expires is not None and principal.expires <= self.clock():
            raise CredentialError(f"token: expired at {utc(principal.expires)}")
        if self._revoked.refuses(principal):
            raise CredentialError("token: was revoked")
        return principal

    async def _verify(self, token: str) -> Principal:
        header = header_of(token)
        if header.kid == OWN_KID:
            claims = await Verifier(OWN_RULES, self._mint.keys).claims_of(token, header)
            return access_of(claims, OWN_RULES.claim)
        claims = await self._verifier.claims_of(token, header)
        return access_of(claims, self._rules.claim)


def _require_keys_for_rules(config: Config) -> None:
    for name in ("jwt_issuer", "jwt_audience"):
        if getattr(config, name) and not (config.jwt_key_file or config.jwt_jwks):
            raise ConfigError(f"{name}: is set without jwt_key_file or jwt_jwks")


def _keys(config: Config) -> tuple[Key, ...]:
    if not config.jwt_key_file:
        return ()
    require_extra()
    return (key_of_file(config.jwt_key_file, setting="jwt_key_file"),)


def _jwks(config: Config, changed: Callable[[], None], before: Jwks | None) -> Jwks | None:
    if not config.jwt_jwks:
        return None
    require_extra()
    known = before.keys if before is not None and before.source == config.jwt_jwks else ()
    return Jwks(config.jwt_jwks, refresh=config.jwt_jwks_refresh, known=known, changed=changed)
