"""text/event-stream, encoded and decoded (WHATWG HTML 9.2.5 and 9.2.6).

The encoder is the security boundary of a stream: nothing after it checks the bytes. It writes LF line ends,
one space after the colon, whole blocks, and never a byte order mark. The decoder accepts whatever the format
allows.
"""

import codecs
import re
from dataclasses import dataclass, field

from sse_broadcast.event import DEFAULT_TYPE, MAX_RETRY, Event

CONTENT_TYPE = "text/event-stream"
JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"

CONTENT_TYPE_HEADER = f"{CONTENT_TYPE}; charset=utf-8"
"""The Content-Type of every stream. Without the charset, clients built on `requests` decode Latin-1."""

HEARTBEAT_COMMENT = b": \n"
"""A comment. It has a space: RESTEasy 7 reads an empty comment and the next line as one comment. No blank
line follows: Jersey, CXF and others would show one as an empty message."""

REQUEST_VERSION_HEADER = "SSE-Broadcast-Request"
"""The header of a stream that was requested in HTTP/1.0, with that version as its value."""

LINE_END = re.compile(r"\r\n|\r|\n")
BYTE_ORDER_MARK = "\ufeff"

# The id is the last line of a block. Half of the clients store an id as soon as they read its line
# (eventsource 1 and 2, fetch-event-source, most hand-written loops). With the id first, a stream cut before
# the data would lose the event.


def encode(event: Event, id: str | None = None) -> bytes:
    r"""Return the event's block, blank line included. `id` replaces the event's own.

    >>> encode(Event("a\nb", type="greeting"), "7")
    b'event: greeting\ndata: a\ndata: b\nid: 7\n\n'
    """
    data = _data_lines(event.data)
    if id is None or event.type is not DEFAULT_TYPE or event.retry is not None:
        return f"{_fields_before_data(event)}data: {data}\n{_id_line(event, id)}\n".encode()
    return f"data: {data}\nid: {id}\n\n".encode()  # most events


def size(event: Event, id: str | None = None) -> int:
    """Return the length of `encode(event, id)` in bytes, in most cases without encoding."""
    data = event.data
    if not data.isascii() or "\n" in data or "\r" in data:
        return len(encode(event, id))
    if id is None or event.type is not DEFAULT_TYPE or event.retry is not None:
        return len((_fields_before_data(event) + _id_line(event, id)).encode()) + len(data) + 8
    return len(id.encode()) + len(data) + 13


def _fields_before_data(event: Event) -> str:
    fields = "" if event.type == DEFAULT_TYPE else f"event: {event.type}\n"
    return fields if event.retry is None else f"{fields}retry: {event.retry}\n"


def _id_line(event: Event, id: str | None) -> str:
    id = event.id if id is None else id
    return "" if id is None else f"id: {id}\n"


def _data_lines(data: str) -> str:
    if "\r" in data:
        data = data.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" in data:
        data = data.replace("\n", "\ndata: ")
    return data


def chunk(frame: bytes) -> bytes:
    """Wrap a frame for HTTP/1.1's chunked transfer coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def preamble(retry: int) -> bytes:
    """Return the first lines of a stream: a comment, and the reconnection time in milliseconds."""
    # No blank line: `retry` takes effect at its line end, and becomes part of the next block.
    return b": \nretry: %d\n" % retry


@dataclass(slots=True)
class _Block:
    """The fields of a block whose blank line has not arrived yet."""

    data: list[str] = field(default_factory=list)
    type: str = ""
    id: str | None = None
    retry: int | None = None


class Decoder:
    """Decodes bytes into events, however the bytes are split.

    `last_event_id` is the id to send as `Last-Event-ID` on reconnection. `retry` is the reconnection time in
    milliseconds, or None until the stream sends one. The `id` and `retry` of an event are those of its block.
    As the standard says, bytes that are not UTF-8 become U+FFFD, and a block cut by the end of the stream is
    dropped. No input raises an error.
    """

    __slots__ = ("_block", "_started", "_tail", "_text", "_was_cr", "last_event_id", "retry")

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False
        self._was_cr = False
        # The pieces of an unfinished line are joined once: joining at each piece would make a long line
        # quadratic.
        self._tail: list[str] = []
        self._block = _Block()

    def feed(self, data: bytes) -> list[Event]:
        """Decode the next bytes, and return the events that they complete."""
        text = self._text.decode(data)
        if not text:
            return []
        if not self._started:
            self._started = True
            text = text.removeprefix(BYTE_ORDER_MARK)
        if self._was_cr:
            text = text.removeprefix("\n")
        self._was_cr = text.endswith("\r")
        *lines, tail = LINE_END.split(text)
        if lines:
            lines[0] = "".join(self._tail) + lines[0]
            self._tail.clear()
        if tail:
            self._tail.append(tail)
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        self._field(name, value.removeprefix(" "))
        return None

    def _field(self, name: str, value: str) -> None:
        match name:
            case "data":
                self._block.data.append(value)
            case "event" if "\0" not in value:
                self._block.type = value
            case "id" if "\0" not in value:
                self._block.id = value
            case "retry" if value.isascii() and value.isdigit():
                self._block.retry = self.retry = min(int(value[:20]), MAX_RETRY)

    def _dispatch(self) -> Event | None:
        block, self._block = self._block, _Block()
        if block.id is not None:
            self.last_event_id = block.id
        if not block.data:
            return None
        return Event("\n".join(block.data), block.type or DEFAULT_TYPE, block.id, block.retry)
