"""Services: the objects that handlers find in the application."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from aiohttp import StreamReader, web

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.principal import Principal
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config
from sse_broadcast.config.sources import ActiveSources
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.access.authorization import PRINCIPAL, Authorizer
from sse_broadcast.server.access.rate_limits import RateLimiter
from sse_broadcast.server.access.shares import Shares
from sse_broadcast.server.http.client_address import Proxies
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.http.json_body import largest_body, largest_event
from sse_broadcast.server.streams.expiry import StreamExpiry
from sse_broadcast.work_queue import FairLock

BROADCASTER: web.AppKey[Broadcaster] = web.AppKey("sse_broadcast", Broadcaster)
"""The broadcaster of an application made by `create_app`."""


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that follow from one configuration. `openapi` is the OpenAPI document as JSON.

    `generated` is the token generated at the start, or None.
    """

    config: Config
    authenticator: Authenticator
    authorizer: Authorizer
    cors: Cors
    proxies: Proxies
    rate_limiter: RateLimiter
    openapi: bytes = field(repr=False)
    generated: str | None = field(repr=False)
    largest_event: int = field(init=False, repr=False)
    """Bytes of the largest body of one event."""
    largest_body: int = field(init=False, repr=False)
    """Bytes of the largest body of a publish."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "largest_event", largest_event(self.config))
        object.__setattr__(self, "largest_body", largest_body(self.config))


class ActiveServices:
    """The services in use. A reload replaces them as a whole."""

    # Code that reads `services` once sees one configuration. A second read may see the next one.
    __slots__ = ("services",)

    def __init__(self, services: Services) -> None:
        self.services = services


ACTIVE_SERVICES: web.AppKey[ActiveServices] = web.AppKey("sse_broadcast.active_services", ActiveServices)


def services_of(request: web.Request) -> Services:
    """Return the services in use."""
    return request.app[ACTIVE_SERVICES].services


def caller_of(request: web.Request) -> Hashable:
    """Return the caller that long work counts for: the credential, or else the client's address.

    All loopback clients without a credential are one caller.
    """
    principal = request[PRINCIPAL]
    if not principal.anonymous:
        return principal.bearer
    return services_of(request).proxies.limit_key(request)


STREAM_EXPIRY: web.AppKey[StreamExpiry] = web.AppKey("sse_broadcast.stream_expiry", StreamExpiry)
"""The streams that a credential, a revocation or their lifetime may end."""

SHARES: web.AppKey[Shares] = web.AppKey("sse_broadcast.shares", Shares)
"""The callers' shares of what all of them use."""

OWN_LISTENER: web.AppKey[bool] = web.AppKey("sse_broadcast.own_listener", bool)
"""Whether the listening sockets have the options of `tune_listener`."""

LINE_STREAMS: web.AppKey[set[StreamReader]] = web.AppKey("sse_broadcast.line_streams", set)
"""The bodies of publishers' streams that are being read."""

CONFIG_SOURCES: web.AppKey[ActiveSources] = web.AppKey("sse_broadcast.config_sources", ActiveSources)
"""Where each value of the active configuration came from."""

STATUS_STREAMS: web.AppKey[set[asyncio.Future[CloseReason]]] = web.AppKey("sse_broadcast.status_streams", set)
"""The ends of the open status streams: each future is set to why its stream ends."""

DRAINING: web.AppKey[asyncio.Event] = web.AppKey("sse_broadcast.draining", asyncio.Event)
"""Set when publishers' streams must end."""

BATCH_LOCK: web.AppKey[FairLock] = web.AppKey("sse_broadcast.batch_lock", FairLock)
"""Held while a batch is published."""


def confirm(request: web.Request) -> Principal:
    """Return the principal of a request, if its credential is still valid. Raises `Problem`.

    A handler that has awaited since its request arrived calls this right before it acts, without another
    await.
    """
    # The credential may have expired or been revoked meanwhile. A reload makes no difference: a request
    # keeps the grants that it arrived with.
    principal = request[PRINCIPAL]
    if principal.subject is not None:  # without a credential there is nothing to revoke
        services_of(request).authorizer.require_good(principal)
    return principal
