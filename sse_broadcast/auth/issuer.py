"""Token issuer: make the server's own tokens, and hold the key that verifies them."""

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sse_broadcast.auth.claims import MAX_SUBJECT, ClaimRules
from sse_broadcast.auth.jwt import OWN_KID
from sse_broadcast.auth.keys import MIN_SECRET, Key, require_extra, secret_key
from sse_broadcast.auth.principal import Action, Grants, Principal
from sse_broadcast.auth.secret_sources import read_secret_text
from sse_broadcast.auth.static_tokens import MAX_TOKEN
from sse_broadcast.channels import Selector
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import EventError, ForbiddenError

OWN_ISSUER = "sse-broadcast"

OWN_RULES = ClaimRules(issuer=OWN_ISSUER, dated=False)
"""Rules for the server's own tokens, whatever the rules for other issuers are.

`iat` is not checked: a page may show a new token at once to another server, whose clock may be behind.
"""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token just issued. `expires` is in seconds since 1970."""

    token: str = field(repr=False)
    id: str
    subject: str
    expires: float


class _Secret:
    """A secret and its key. The key of a generated secret is made with the first token."""

    def __init__(self, text: bytes | None = None, setting: str = "") -> None:
        self.text = secrets.token_bytes(MIN_SECRET) if text is None else text
        self.key = None if text is None else _own_key(text, setting)


class TokenIssuer:
    """Issues tokens, signed with the configured secret or with one generated for this process.

    A generated secret is taken over from the issuer `before` a reload. `clock` gives seconds since 1970.
    Raises `ConfigError` and `ExtraError` for a secret that cannot be used.
    """

    def __init__(
        self, config: Config, clock: Callable[[], float] = time.time, *, before: "TokenIssuer | None" = None
    ) -> None:
        self._lifetime = config.token_lifetime
        self._clock = clock
        self._made: _Secret = _Secret() if before is None else before._made  # noqa: SLF001 - one of its own kind
        configured = _configured_secret(config)
        self._secret = self._made if configured is None else _Secret(configured[1].encode(), configured[0])

    @property
    def keys(self) -> tuple[Key, ...]:
        """The key that verifies the tokens, or nothing before the first token."""
        return () if self._secret.key is None else (self._secret.key,)

    def make(self, grants: Grants, *, subject: str, lifetime: float, by: Principal) -> IssuedToken:
        """Make a token with a subset of the grants of `by`.

        It is valid for `lifetime` seconds, or less if `token_lifetime` or the expiry of `by` comes first.
        PyJWT rounds the expiry down to a second, so the token may be refused up to a second earlier.

        Raises `ForbiddenError` for grants that `by` does not have, `EventError` for an invalid subject,
        lifetime or pattern, and `ExtraError` without the extra `jwt`.
        """
        _require_subject(subject)
        _require_lifetime(lifetime)
        _require_within(grants, by)
        now = self._clock()
        expires = now + min(lifetime, self._lifetime)
        if by.expires is not None:
            expires = min(expires, by.expires)
        id = secrets.token_hex(12)
        claims = {"iss": OWN_ISSUER, "sub": subject, "jti": id, "iat": now, "exp": expires}
        token = self._sign({**claims, OWN_RULES.claim: {action: grants[action] for action in grants}})
        return IssuedToken(token, id, subject, expires)

    def _sign(self, claims: dict[str, object]) -> str:
        key = self._secret.key = self._secret.key or _own_key(self._secret.text, "token_secret")
        import jwt  # noqa: PLC0415

        token = jwt.encode(claims, self._secret.text, algorithm=key.algorithm, headers={"kid": OWN_KID})
        if len(token) > MAX_TOKEN:
            raise EventError("grants", f"make a token of {len(token)} characters, more than {MAX_TOKEN}")
        return token


def _configured_secret(config: Config) -> tuple[str, str] | None:
    """Return the name of the setting and the secret, or None if there is none."""
    if config.token_secret_file:
        setting = "token_secret_file"
        return setting, read_secret_text(config.token_secret_file, setting=setting)
    return ("token_secret", config.token_secret) if config.token_secret else None


def _own_key(text: bytes, setting: str) -> Key:
    require_extra()
    return secret_key(text, setting=setting, kid=OWN_KID)


def _require_subject(subject: str) -> None:
    if not 1 <= len(subject) <= MAX_SUBJECT:
        raise EventError("subject", f"must be 1 to {MAX_SUBJECT} characters, not {len(subject)}")


def _require_lifetime(lifetime: float) -> None:
    if not 0 < lifetime < math.inf:
        raise EventError("lifetime", f"must be a number of seconds above 0, not {lifetime}")


def _require_within(grants: Grants, by: Principal) -> None:
    for patterns in grants.values():
        if patterns:
            Selector.parse(*patterns)
    if grants.get(Action.ADMIN):
        raise ForbiddenError("admin: a token cannot grant it")
    for action, patterns in grants.items():
        beyond = by.first_denied(action, patterns)
        if beyond is not None:
            raise ForbiddenError(f"{action} {beyond!r}: the maker of the token is not allowed to grant it")
