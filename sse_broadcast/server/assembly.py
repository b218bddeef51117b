"""Build the services of a configuration, completely, before any of them is used."""

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
    """Make what follows from a configuration, in the place of what held `before`, if anything did.

    `generated` is a token that may do everything, for a server that has none. The authority is started and
    closed by whoever calls this. Raises `ConfigError` for credentials that cannot be used.
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
    """Return the token that was made at the start, if it is good for another configuration too.

    It ends with the first credential that is configured, and does not come back. Raises `ConfigError` for a
    configuration that takes the last credential away or has grants beside none: half a file is one, and a
    token that was made now would have nowhere to be shown.
    """
    if config.has_credentials:
        return None
    if before.config.has_credentials or (config.open and not before.config.open):
        raise ConfigError("token: no credential or grant is configured any more, which takes a restart")
    if before.config.open and not config.open and before.generated is None:
        raise ConfigError("token: there is none beside anonymous grants; one is made at the start alone")
    return before.generated
