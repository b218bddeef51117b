"""Encoding: a format (SSE, JSON, NDJSON) with or without chunked transfer coding."""

import time
from typing import Protocol

import msgspec
from typing_extensions import override

from sse_broadcast import wire
from sse_broadcast.event import Event

HEARTBEAT_EVENT = Event("{}", type="$heartbeat", json=True)
"""The event that moves a subscriber's cursor. Its type keeps it from pages' `message` handlers. It has data,
since Firefox and ten libraries ignore the id of a block without data."""


def opening_event(heartbeat: float) -> Event:
    """Return the first event of a stream, which carries its cursor.

    `heartbeat` is the seconds without an event before a heartbeat.
    """
    return Event(f'{{"heartbeat": {heartbeat:.10g}}}', type="$open", json=True)


class Format(Protocol):
    """The text of a stream. All methods are pure functions."""

    content_type: str
    """The media type, which clients name in Accept."""
    content_type_header: str
    names_channel: bool
    """Whether a block names the channel of its event."""
    heartbeat: bytes
    """Bytes that keep a stream alive without being an event."""

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        """Return the text of an event. `channel` is None for the server's own events.

        It is a comma list where the subscriber follows several of the event's channels.
        """

    def preamble(self, retry: int) -> bytes:
        """Return the first bytes of a stream, before any event. `retry` is in milliseconds."""


def own_block(format: Format, event: Event, id: str | None) -> bytes:
    """Return the text of one of the server's own events, with the current time."""
    return format.block(event, id=id, channel=None, time=time.time())


class TextFormat(Format):
    """text/event-stream with the data as it was published."""

    content_type = wire.CONTENT_TYPE
    content_type_header = wire.CONTENT_TYPE_HEADER
    names_channel = False
    heartbeat = wire.HEARTBEAT_COMMENT

    @override
    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        return wire.encode(event, id)

    @override
    def preamble(self, retry: int) -> bytes:
        return wire.preamble(retry)


class JsonFormat(TextFormat):
    """text/event-stream with an envelope as data, which names the event's channel."""

    names_channel = True

    @override
    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        if channel is None:
            return wire.encode(event, id)  # the data of the server's own events is JSON already
        data = envelope(event, id=id, channel=channel, time=time).decode()
        return wire.encode(Event(data, event.type, retry=event.retry), id)


class NdjsonFormat(Format):
    """application/x-ndjson: an envelope on each line."""

    content_type = content_type_header = "application/x-ndjson"
    names_channel = True
    heartbeat = b"\n"

    @override
    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        return envelope(event, id=id, channel=channel, time=time) + b"\n"

    @override
    def preamble(self, retry: int) -> bytes:
        return b""  # clients of NDJSON do not reconnect by themselves, so none needs the time


def envelope(event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
    """Return an event as a JSON object: `data` as published, `time` in seconds since 1970.

    With a comma list as `channel`, `channels` names all of them. The tabs of a browser share one connection,
    and each tab follows other channels.
    """
    data = msgspec.Raw(_on_one_line(event.data).encode()) if event.json else event.data
    said: dict[str, object] = {
        "channel": channel,
        "id": id,
        "event": event.type,
        "data": data,
        "time": round(time, 3),
    }
    if channel is not None and "," in channel:
        said["channels"] = channels = channel.split(",")
        said["channel"] = channels[0]
    return msgspec.json.encode(said)


def _on_one_line(value: str) -> str:
    """Replace the line ends of a JSON value by spaces. Its strings contain none."""
    if "\n" in value or "\r" in value:
        return value.replace("\r", " ").replace("\n", " ")
    return value


class Encoding:
    """A format with or without the chunked coding of HTTP/1.1. Encodings are compared by identity."""

    __slots__ = ("chunked", "format", "heartbeat")

    def __init__(self, format: Format, *, chunked: bool) -> None:
        self.format = format
        self.chunked = chunked
        self.heartbeat = self.frame(format.heartbeat)

    def frame(self, block: bytes) -> bytes:
        """Wrap a block in the transfer coding."""
        return wire.chunk(block) if self.chunked else block


TEXT = Encoding(TextFormat(), chunked=False)
CHUNKED_TEXT = Encoding(TEXT.format, chunked=True)
JSON = Encoding(JsonFormat(), chunked=False)
CHUNKED_JSON = Encoding(JSON.format, chunked=True)
NDJSON = Encoding(NdjsonFormat(), chunked=False)
CHUNKED_NDJSON = Encoding(NDJSON.format, chunked=True)
