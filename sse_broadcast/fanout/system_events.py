"""System events: the server's own events that end a stream (`$close`) or report a loss (`$reset`)."""

import json
from collections.abc import Sequence

from sse_broadcast import clock
from sse_broadcast.encoding import Encoding, own_block
from sse_broadcast.event import Event
from sse_broadcast.publication import Publication, place


def close_event(reason: str, retry: int) -> Event:
    """Return the event that ends a stream, with the reason and the reconnection time in milliseconds."""
    return Event(json.dumps({"reason": reason}), type="$close", retry=retry, json=True)


def close_frame(encoding: Encoding, reason: str, *, retry: int, id: str) -> bytes:
    """Encode the `$close` of one stream. The subscriber resumes after `id`."""
    return encoding.frame(own_block(encoding.format, close_event(reason, retry), id))


def reset_event(reason: str, channels: Sequence[str], *, missed: int | None) -> Event:
    """Return a `$reset` without a position. `missed` is the number of lost events, None if unknown."""
    loss = {"reason": reason, "channels": list(channels), "missed": missed}
    return Event(json.dumps(loss), type="$reset", json=True)


def reset_publication(
    reason: str, channels: Sequence[str], *, epoch: str, position: int, missed: int | None
) -> Publication:
    """Return a `$reset` to queue among publications. The subscriber resumes after `position`."""
    event = reset_event(reason, channels, missed=missed)
    return place((), event, epoch=epoch, position=position, time=clock.now())
