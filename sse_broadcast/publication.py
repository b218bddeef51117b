"""Publication: an event placed in its channels, with each encoding made once and shared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sse_broadcast import wire
from sse_broadcast.event import Event


class Publication:
    """One event on its way to every subscriber of its channels.

    `size` is the length of its text frame in bytes; it is what an event counts for in a
    queue, whichever encoding its reader takes.
    """

    __slots__ = ("_frames", "channels", "event", "size")

    def __init__(self, channels: tuple[str, ...], event: Event) -> None:
        self.channels = channels
        self.event = event
        self._frames: dict[Encoding, bytes] = {}
        self.size = len(self.frame(text))

    def frame(self, encoding: "Encoding") -> bytes:
        """Give the event in this encoding: made when first asked for, then the same object for all."""
        try:
            return self._frames[encoding]
        except KeyError:
            frame = self._frames[encoding] = encoding(self)
            return frame


Encoding: TypeAlias = Callable[[Publication], bytes]
"""A way to write a publication: `text`, or `chunked_text` for HTTP/1.1 readers."""


def text(publication: Publication) -> bytes:
    """Encode as a block of text/event-stream."""
    return wire.encode(publication.event)


def chunked_text(publication: Publication) -> bytes:
    """Encode as that block in a chunk of HTTP/1.1."""
    return wire.chunk(publication.frame(text))


@dataclass(frozen=True, slots=True)
class Received:
    """What a `Stream` gives: an event, and the channel it came on."""

    channel: str
    data: str
    event: str
    id: str | None = None
    retry: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a publish: the event has its place in the order, whoever reads it.

    `clients` is how many subscribers its channels had at that moment, streams included.
    """

    clients: int
    channels: tuple[str, ...]
