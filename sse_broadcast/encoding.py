"""Encoding: how a reader takes a stream, as a format in a transfer coding."""

import time
from typing import Protocol

import msgspec

from sse_broadcast import wire
from sse_broadcast.event import Event

HEARTBEAT = Event("{}", type="$heartbeat", json=True)
"""A heartbeat as an event, where a comment would not do."""


class Format(Protocol):
    """What a stream looks like. Its methods are pure."""

    content_type: str
    names_channel: bool
    """Whether a block says on which channel the event came."""
    heartbeat: bytes

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        """Give an event: its id, the channel it came on (None for the server's own), when."""

    def here(self, id: str) -> bytes:
        """Give what moves a reader's cursor without an event of anybody's."""

    def opening(self, retry: int, id: str | None) -> bytes:
        """Give the first bytes: the reconnection time in milliseconds, the cursor if there is one to give."""


class TextFormat:
    """text/event-stream, the data as it was published."""

    content_type = wire.CONTENT_TYPE
    names_channel = False
    heartbeat = wire.HEARTBEAT

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:  # noqa: ARG002
        """See `Format`."""
        return wire.encode(event, id)

    def here(self, id: str) -> bytes:
        """See `Format`."""
        return wire.here(id)

    def opening(self, retry: int, id: str | None) -> bytes:
        """See `Format`."""
        return wire.opening(retry, id)


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

    content_type = "application/x-ndjson"
    names_channel = True
    heartbeat = b"\n"

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        """See `Format`."""
        return envelope(event, id=id, channel=channel, time=time) + b"\n"

    def here(self, id: str) -> bytes:
        """See `Format`. A line of this format is an event, so it is one of the server's own."""
        return self.block(HEARTBEAT, id=id, channel=None, time=time.time())

    def opening(self, retry: int, id: str | None) -> bytes:  # noqa: ARG002 - a header says it
        """See `Format`."""
        return self.heartbeat


def envelope(event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
    """Give an event as JSON: `data` as it was published, `time` in seconds since 1970."""
    data = msgspec.Raw(_on_one_line(event.data).encode()) if event.json else event.data
    return msgspec.json.encode(
        {"channel": channel, "id": id, "event": event.type, "data": data, "time": round(time, 3)}
    )


def _on_one_line(value: str) -> str:
    """Give a JSON value without line ends; inside its strings there are none."""
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
        """Give a block as the transfer coding has it."""
        return wire.chunk(block) if self.chunked else block


TEXT = Encoding(TextFormat(), chunked=False)
CHUNKED_TEXT = Encoding(TEXT.format, chunked=True)
JSON = Encoding(JsonFormat(), chunked=False)
CHUNKED_JSON = Encoding(JSON.format, chunked=True)
NDJSON = Encoding(NdjsonFormat(), chunked=False)
CHUNKED_NDJSON = Encoding(NDJSON.format, chunked=True)
