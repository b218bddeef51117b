"""What handlers find in the application."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from aiohttp import StreamReader, web

from sse_broadcast.auth.authenticator import Authority
from sse_broadcast.auth.principal import Access
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config
from sse_broadcast.server.access.authorization import ACCESS, Gate
from sse_broadcast.server.access.rate_limits import Limits
from sse_broadcast.server.access.shares import Shares
from sse_broadcast.server.http.client_address import Proxies, key
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.streams.expiry import Sessions

BROADCASTER: web.AppKey[Broadcaster] = web.AppKey("sse_broadcast", Broadcaster)
"""The broadcaster of an application made by `create_app`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What follows from one configuration: `contract` is its document, as JSON.

    `generated` is the token that was made where none was configured.
    """

    config: Config
    authority: Authority
    gate: Gate
    cors: Cors
    proxies: Proxies
    limits: Limits
    contract: bytes = field(repr=False)
    generated: str | None = field(repr=False)


class InForce:
    """The setup that holds now. A reload puts another in its place, as a whole.

    So whoever takes it once has all of one configuration, and whoever takes it again may have another.
    """

    __slots__ = ("setup",)

    def __init__(self, setup: Setup) -> None:
        self.setup = setup


IN_FORCE: web.AppKey[InForce] = web.AppKey("sse_broadcast.in_force", InForce)


def setup_of(request: web.Request) -> Setup:
    """Give the setup that holds now."""
    return request.app[IN_FORCE].setup


def caller_of(request: web.Request) -> Hashable:
    """Return who long work is charged to: the credential of a request, or else its client's address.

    Callers of the loopback without a credential are one.
    """
    access = request[ACCESS]
    if not access.anonymous:
        return access.bearer
    return key(setup_of(request).proxies.client(request))


SESSIONS: web.AppKey[Sessions] = web.AppKey("sse_broadcast.sessions", Sessions)
"""The open streams that a credential or their age may end."""

SHARES: web.AppKey[Shares] = web.AppKey("sse_broadcast.shares", Shares)
"""What each caller holds of what all use together."""

TUNED: web.AppKey[bool] = web.AppKey("sse_broadcast.tuned", bool)
"""Whether connections come from a listening socket that `sink.tune` has seen."""

INTAKES: web.AppKey[set[StreamReader]] = web.AppKey("sse_broadcast.intakes", set)
"""The bodies of long requests that are being read."""

DRAINING: web.AppKey[asyncio.Event] = web.AppKey("sse_broadcast.draining", asyncio.Event)
"""Set when long requests are to end."""

TURN: web.AppKey[asyncio.Lock] = web.AppKey("sse_broadcast.turn", asyncio.Lock)
"""Held by the batch that is being published."""


def confirm(request: web.Request) -> Access:
    """Return what the caller of a request may do, if its credential is still good. Raises `Problem`.

    A handler that has awaited anything since its request came calls this right before its act, and awaits
    nothing in between: meanwhile the credential may have expired, or been revoked. A reload makes no
    difference: what came before it goes by the grants that it came with.
    """
    access = request[ACCESS]
    if access.subject is not None:  # what shows no credential has none that could be revoked
        setup_of(request).gate.require_good(access)
    return access
