"""Static tokens: credentials that a configuration names one by one."""

from collections.abc import Iterator

from sse_broadcast.auth.bearer_token import is_token
from sse_broadcast.auth.principal import EVERYTHING, Action, Grants, Principal
from sse_broadcast.auth.secret_sources import KeyedDigest, read_secret_text, read_variable
from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.errors import ConfigError

MIN_TOKEN = 16
"""Characters of a token: fewer can be guessed."""

MAX_TOKEN = 8192
"""Characters of a token: as many as a line of a request may have."""


class StaticTokens:
    """The tokens of a configuration, kept as digests under a key of this process.

    How long a look-up takes tells nothing of a token: nobody knows which digest a guess has. `generated` is
    one more, that may do everything. Raises `ConfigError` for a token that cannot be one, or that is two
    callers'.
    """

    def __init__(self, config: Config, *, generated: str | None = None) -> None:
        self._digests = KeyedDigest()
        self._known: dict[bytes, Principal] = {}
        for where, token, principal in _tokens(config, generated):
            _require_token(where, token)
            self._add(where, self._digests.of(token), principal)

    def find(self, token: str) -> Principal | None:
        """Return what the bearer of a token may do, or None for a token that is not here."""
        return self._known.get(self._digests.of(token))

    def _add(self, where: str, digest: bytes, principal: Principal) -> None:
        if digest in self._known:
            raise ConfigError(f"{where}: is the token of {self._known[digest].subject!r} too")
        self._known[digest] = principal


def _tokens(config: Config, generated: str | None) -> Iterator[tuple[str, str, Principal]]:
    """Yield each token, with where it is from and what its bearer may do."""
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
        raise ConfigError(f"{where}: has a character that no token may have (A-Z a-z 0-9 . _ ~ + / - alone)")
