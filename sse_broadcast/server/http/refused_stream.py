"""The stream that refuses a subscriber, so that every client comes back that can.

By the standard an EventSource stops for good at any status but 200, and so do half of the libraries that
reconnect by themselves. So whoever asks for an event stream gets one, of a single block that says why and
when to come back. Everyone else gets 503 or 429.
"""

import math
from collections.abc import Mapping
from enum import StrEnum

from sse_broadcast import wire
from sse_broadcast.event import jittered
from sse_broadcast.fanout.system_events import close_event
from sse_broadcast.server.http.last_event_id import fit_to_repeat

COME_BACK = 20_000
"""Milliseconds, give or take half, after which a client that was refused tries again."""


class RefusalReason(StrEnum):
    """Why a stream is not opened, as its `$close` says it."""

    FULL = "full"
    """The server has as many connections, or channels that are followed, as it takes."""
    ADDRESS = "address"
    """The client's address has as many connections as it may."""
    TOKEN = "token"  # noqa: S105
    """The client's token has as many streams as it may."""
    RATE = "rate"
    """More streams are opened in a second than may be."""
    DRAIN = "drain"
    """The server is shutting down."""
    BACKEND = "backend"
    """What keeps the events is away."""


def wants_event_stream(accept: str) -> bool:
    """Return whether an Accept header names the media type of event streams, as an EventSource's does."""
    return wire.CONTENT_TYPE in accept.lower()


def refused_stream(
    reason: RefusalReason, *, brought: str, retry_after: int = 0
) -> tuple[Mapping[str, str], bytes]:
    """Return the headers and the body of a refusal; the status is 200.

    `brought` is the id that the request brought, "" for none. It is repeated: four Rust clients forget theirs
    over a block with data that has no id. `retry_after` is the least that the client should wait, in seconds.
    """
    retry = max(jittered(COME_BACK), retry_after * 1000)
    headers = {
        "Content-Type": wire.CONTENT_TYPE_HEADER,
        "Cache-Control": "no-store",
        "Retry-After": str(math.ceil(retry / 1000)),
    }
    return headers, wire.encode(close_event(reason, retry), fit_to_repeat(brought))
