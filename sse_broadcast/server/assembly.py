"""Assembly: build the services of a configuration, all of them before any is used."""

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import ConfigError
from sse_broadcast.server.access.authorization import Authorizer
from sse_broadcast.server.access.rate_limits import RateLimiter
from sse_broadcast.server.http.client_address import Proxies
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.security import SecuritySchemes
from sse_broadcast.server.services import Services


def build_services(
    config: Config, *, generated: str | None = None, before: Services | None = None
) -> Services:
    """Build the services of a configuration. On a reload they take over the state of those `before`.

    `generated` is a token that allows everything, for a server without one. The caller starts and closes the
    authenticator. Raises `ConfigError` for credentials that cannot be used.
    """
    authenticator = Authenticator(
        config, generated=generated, before=None if before is None else before.authenticator
    )
    authorizer = Authorizer(config, authenticator)
    terms = SecuritySchemes(
        secured=authenticator.takes_tokens, anonymous=authorizer.anonymous.grants, cookie=config.cookie
    )
    return Services(
        config,
        authenticator,
        authorizer,
        Cors(config.cors_origins),
        Proxies(config),
        RateLimiter(config, before=None if before is None else before.rate_limiter),
        document(terms),
        generated,
    )


def kept_token(config: Config, before: Services) -> str | None:
    """Return the token generated at the start, if it stays valid under another configuration.

    It ends for good with the first configured credential. Raises `ConfigError` for a configuration that
    removes the last credential, or has grants without one.
    """
    # A file without its credentials is probably half-written. And a token generated now could be shown
    # nowhere.
    if config.has_credentials:
        return None
    if before.config.has_credentials or (config.open and not before.config.open):
        raise ConfigError("token: no credential or grant is left, and only a restart may remove the last one")
    if before.config.open and not config.open and before.generated is None:
        raise ConfigError(
            "token: anonymous grants need a token beside them; restart to generate one, or set one"
        )
    return before.generated
