"""Refused stream: an event stream that only tells its subscriber why and when to reconnect.

By the standard an EventSource stops for good at any status but 200, and so do half of the libraries that
reconnect. So a refused client that accepts an event stream gets one with a single event. Other clients get
429 or 503.
"""

import math
from collections.abc import Mapping
from enum import StrEnum

from sse_broadcast import wire
from sse_broadcast.event import jittered
from sse_broadcast.fanout.system_events import close_event
from sse_broadcast.server.http.last_event_id import fit_to_repeat

COME_BACK = 20_000
"""Milliseconds that a refused subscriber waits before it reconnects, 50 % more or less."""


class RefusalReason(StrEnum):
    """Why a stream is not opened, as `$close` states it."""

    FULL = "full"
    """The limit of connections, or of subscribed channels, is reached."""
    ADDRESS = "address"
    """The connection limit of the client's address is reached."""
    TOKEN = "token"  # noqa: S105
    """The stream limit of the client's token is reached."""
    RATE = "rate"
    """The rate limit of new streams is reached."""
    DRAIN = "drain"
    """The server is shutting down."""
    BACKEND = "backend"
    """The backend is not available."""


def wants_event_stream(accept: str) -> bool:
    """Return whether an Accept header names `text/event-stream`, as an EventSource's does."""
    return wire.CONTENT_TYPE in accept.lower()


def refused_stream(
    reason: RefusalReason, *, brought: str, retry_after: int = 0
) -> tuple[Mapping[str, str], bytes]:
    """Return the headers and the body of a refusal. Its status is 200.

    `brought` is the request's Last-Event-ID, or "". `retry_after` is the minimum wait, in seconds.
    """
    # The id is repeated: four Rust clients forget theirs when an event with data has no id.
    retry = max(jittered(COME_BACK), retry_after * 1000)
    headers = {
        "Content-Type": wire.CONTENT_TYPE_HEADER,
        "Cache-Control": "no-store",
        "Retry-After": str(math.ceil(retry / 1000)),
    }
    return headers, wire.encode(close_event(reason, retry), fit_to_repeat(brought))
