"""Encoding: a format (SSE, JSON, NDJSON) with or without chunked transfer coding."""

import time
from typing import Protocol

import msgspec

from sse_broadcast import wire
from sse_broadcast.event import Event

HEARTBEAT_EVENT = Event("{}", type="$heartbeat", json=True)
"""Moves a subscriber's cursor. It is a named event, since pages do not listen to its type, and it has data,
since Firefox and ten libraries take no id from a block without."""


def opening_event(heartbeat: float) -> Event:
    """Return the first event of a stream, which gives its subscriber a cursor.

    `heartbeat` is the seconds of silence after which a heartbeat comes.
    """
    return Event(f'{{"heartbeat": {heartbeat:.10g}}}', type="$open", json=True)


class Format(Protocol):
    """What a stream looks like. Its methods are pure."""

    content_type: str
    """The media type, by which clients ask for the format."""
    content_type_header: str
    names_channel: bool
    """Whether a block says on which channel the event came."""
    heartbeat: bytes
    """What breaks a silence without being an event."""

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        """Return an event with its id, the channel it came on (None for the server's own), and its time."""

    def preamble(self, retry: int) -> bytes:
        """Return what a stream begins with, before any event. `retry` is in milliseconds."""


def own_block(format: Format, event: Event, id: str | None) -> bytes:
    """Return one of the server's own events, which are of no channel, with the current time."""
    return format.block(event, id=id, channel=None, time=time.time())


class TextFormat:
    """text/event-stream, the data as it was published."""

    content_type = wire.CONTENT_TYPE
    content_type_header = wire.CONTENT_TYPE_HEADER
    names_channel = False
    heartbeat = wire.HEARTBEAT_COMMENT

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:  # noqa: ARG002
        """See `Format`."""
        return wire.encode(event, id)

    def preamble(self, retry: int) -> bytes:
        """See `Format`."""
        return wire.preamble(retry)


class JsonFormat(TextFormat):
    """text/event-stream, the data an envelope that says where the event came from."""

    names_channel = True

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        """See `Format`. The server's own events are as in text: their data is JSON already."""
        if channel is None:
            return wire.encode(event, id)
        data = envelope(event, id=id, channel=channel, time=time).decode()
        return wire.encode(Event(data, event.type, retry=event.retry), id)


class NdjsonFormat:
    """application/x-ndjson: an envelope a line."""

    content_type = content_type_header = "application/x-ndjson"
    names_channel = True
    heartbeat = b"\n"

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        """See `Format`."""
        return envelope(event, id=id, channel=channel, time=time) + b"\n"

    def preamble(self, retry: int) -> bytes:  # noqa: ARG002
        """See `Format`. No reader of lines reconnects by itself, so none is told when to."""
        return b""


def envelope(event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
    """Return an event as JSON: `data` as it was published, `time` in seconds since 1970."""
    data = msgspec.Raw(_on_one_line(event.data).encode()) if event.json else event.data
    return msgspec.json.encode(
        {"channel": channel, "id": id, "event": event.type, "data": data, "time": round(time, 3)}
    )


def _on_one_line(value: str) -> str:
    """Replace the line ends of a JSON value; inside its strings there are none."""
    if "\n" in value or "\r" in value:
        return value.replace("\r", " ").replace("\n", " ")
    return value


class Encoding:
    """A format, in chunks of HTTP/1.1 or bare. Each is one object, known by its identity."""

    __slots__ = ("chunked", "format", "heartbeat")

    def __init__(self, format: Format, *, chunked: bool) -> None:
        self.format = format
        self.chunked = chunked
        self.heartbeat = self.frame(format.heartbeat)

    def frame(self, block: bytes) -> bytes:
        """Wrap a block as the transfer coding asks."""
        return wire.chunk(block) if self.chunked else block


TEXT = Encoding(TextFormat(), chunked=False)
CHUNKED_TEXT = Encoding(TEXT.format, chunked=True)
JSON = Encoding(JsonFormat(), chunked=False)
CHUNKED_JSON = Encoding(JSON.format, chunked=True)
NDJSON = Encoding(NdjsonFormat(), chunked=False)
CHUNKED_NDJSON = Encoding(NDJSON.format, chunked=True)
