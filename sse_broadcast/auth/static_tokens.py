"""Static tokens: the tokens that a configuration lists."""

from collections.abc import Iterator

from sse_broadcast.auth.bearer_token import is_token
from sse_broadcast.auth.principal import EVERYTHING, Action, Grants, Principal
from sse_broadcast.auth.secret_sources import KeyedDigest, read_secret_text, read_variable
from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.errors import ConfigError

MIN_TOKEN = 16
"""Minimum characters of a token: shorter ones can be guessed."""

MAX_TOKEN = 8192
"""Maximum characters of a token: aiohttp's limit for a header line."""


class StaticTokens:
    """The configured tokens, kept as digests under a key of this process.

    `generated` is one more token, which allows everything. Raises `ConfigError` for an invalid token, and for
    a token that two callers share.
    """

    def __init__(self, config: Config, *, generated: str | None = None) -> None:
        self._digests = KeyedDigest()
        self._known: dict[bytes, Principal] = {}
        for where, token, principal in _tokens(config, generated):
            _require_token(where, token)
            self._add(where, self._digests.of(token), principal)

    def find(self, token: str) -> Principal | None:
        """Return the principal of a token, or None for an unknown one."""
        return self._known.get(self._digests.of(token))

    def _add(self, where: str, digest: bytes, principal: Principal) -> None:
        if digest in self._known:
            raise ConfigError(f"{where}: is also the token of {self._known[digest].subject!r}")
        self._known[digest] = principal


def _tokens(config: Config, generated: str | None) -> Iterator[tuple[str, str, Principal]]:
    """Yield each token with its source and its principal."""
    if config.token:
        yield "token", config.token, Principal(EVERYTHING, "token", static=True)
    if config.token_file:
        token = read_secret_text(config.token_file, setting="token_file")
        yield "token_file", token, Principal(EVERYTHING, "token", static=True)
    if generated is not None:
        yield "generated", generated, Principal(EVERYTHING, "generated", static=True)
    for caller in config.caller:
        principal = Principal(_grants_of(caller), caller.name, static=True)
        yield f"[[caller]] {caller.name!r}: token", _token_of(caller), principal


def _token_of(caller: CallerRule) -> str:
    where = f"[[caller]] {caller.name!r}"
    if caller.token_file is not None:
        return read_secret_text(caller.token_file, setting=f"{where}: token_file")
    if caller.token_env is not None:
        return read_variable(caller.token_env, setting=f"{where}: token_env")
    return caller.token or ""


def _grants_of(caller: CallerRule) -> Grants:
    granted = {
        Action.PUBLISH: caller.publish,
        Action.SUBSCRIBE: caller.subscribe,
        Action.INSPECT: caller.inspect,
        Action.ADMIN: caller.admin,
    }
    return {action: patterns for action, patterns in granted.items() if patterns}


def _require_token(where: str, token: str) -> None:
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
        raise ConfigError(f"{where}: must have {MIN_TOKEN} to {MAX_TOKEN} characters, not {len(token)}")
    if not is_token(token):
        raise ConfigError(f"{where}: contains a character other than A-Z a-z 0-9 . _ ~ + / -")
