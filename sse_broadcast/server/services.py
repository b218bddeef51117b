"""Services: what handlers find in the application."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from aiohttp import StreamReader, web

from sse_broadcast.auth.authenticator import Authenticator
from sse_broadcast.auth.principal import Principal
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config
from sse_broadcast.server.access.authorization import PRINCIPAL, Authorizer
from sse_broadcast.server.access.rate_limits import RateLimiter
from sse_broadcast.server.access.shares import Shares
from sse_broadcast.server.http.client_address import Proxies
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.http.json_body import largest_body, largest_event
from sse_broadcast.server.streams.expiry import StreamExpiry

BROADCASTER: web.AppKey[Broadcaster] = web.AppKey("sse_broadcast", Broadcaster)
"""The broadcaster of an application made by `create_app`."""


@dataclass(frozen=True, slots=True)
class Services:
    """What follows from one configuration: `openapi` is its document, as JSON.

    `generated` is the token that was made where none was configured.
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
    """The setup that holds now. A reload puts another in its place, as a whole.

    So whoever takes it once has all of one configuration, and whoever takes it again may have another.
    """

    __slots__ = ("services",)

    def __init__(self, services: Services) -> None:
        self.services = services


ACTIVE_SERVICES: web.AppKey[ActiveServices] = web.AppKey("sse_broadcast.active_services", ActiveServices)


def services_of(request: web.Request) -> Services:
    """Return the setup that holds now."""
    return request.app[ACTIVE_SERVICES].services


def caller_of(request: web.Request) -> Hashable:
    """Return who long work is charged to: the credential of a request, or else its client's address.

    Callers of the loopback without a credential are one.
    """
    principal = request[PRINCIPAL]
    if not principal.anonymous:
        return principal.bearer
    return services_of(request).proxies.limit_key(request)


STREAM_EXPIRY: web.AppKey[StreamExpiry] = web.AppKey("sse_broadcast.stream_expiry", StreamExpiry)
"""The open streams that a credential or their age may end."""

SHARES: web.AppKey[Shares] = web.AppKey("sse_broadcast.shares", Shares)
"""What each caller holds of what all use together."""

OWN_LISTENER: web.AppKey[bool] = web.AppKey("sse_broadcast.own_listener", bool)
"""Whether connections come from a listening socket that `tune_listener` has seen."""

LINE_STREAMS: web.AppKey[set[StreamReader]] = web.AppKey("sse_broadcast.line_streams", set)
"""The bodies of long requests that are being read."""

DRAINING: web.AppKey[asyncio.Event] = web.AppKey("sse_broadcast.draining", asyncio.Event)
"""Set when long requests are to end."""

BATCH_LOCK: web.AppKey[asyncio.Lock] = web.AppKey("sse_broadcast.batch_lock", asyncio.Lock)
"""Held by the batch that is being published."""


def confirm(request: web.Request) -> Principal:
    """Return what the caller of a request may do, if its credential is still good. Raises `Problem`.

    A handler that has awaited anything since its request came calls this right before its act, and awaits
    nothing in between: meanwhile the credential may have expired, or been revoked. A reload makes no
    difference: what came before it goes by the grants that it came with.
    """
    principal = request[PRINCIPAL]
    if principal.subject is not None:  # what shows no credential has none that could be revoked
        services_of(request).authorizer.require_good(principal)
    return principal
