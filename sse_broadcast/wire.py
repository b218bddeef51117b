"""text/event-stream, both ways (WHATWG HTML 9.2.5 and 9.2.6).

The encoder is the security boundary of a stream: nothing behind it looks at the
bytes again. It writes LF line ends, one space after the colon, whole blocks, and
never a byte order mark. The decoder takes whatever the format allows.
"""

import codecs
import re
from dataclasses import dataclass, field

from sse_broadcast.event import DEFAULT_TYPE, MAX_RETRY, Event

CONTENT_TYPE = "text/event-stream"

HEARTBEAT = b":\n"
"""A comment of one line. `: ping` and a blank line would reach httpx-sse users as an empty event."""

LINE_END = re.compile(r"\r\n|\r|\n")
BYTE_ORDER_MARK = "\ufeff"


def encode(event: Event, id: str | None = None) -> bytes:
    r"""Give the event's block, ending with its blank line. `id` stands for the event's own.

    >>> encode(Event("a\nb", type="greeting"))
    b'event: greeting\ndata: a\ndata: b\n\n'
    """
    data = event.data
    if id is None or event.type is not DEFAULT_TYPE or event.retry is not None:
        return f"{_head(event, id)}data: {_lines(data)}\n\n".encode()
    return f"id: {id}\ndata: {_lines(data)}\n\n".encode()  # what most events are


def size(event: Event, id: str | None = None) -> int:
    """Give the length of `encode(event, id)` in bytes, mostly without making it."""
    data = event.data
    if not data.isascii() or "\n" in data or "\r" in data:
        return len(encode(event, id))
    if id is None or event.type is not DEFAULT_TYPE or event.retry is not None:
        return len(_head(event, id).encode()) + len(data) + 8
    return len(id.encode()) + len(data) + 13


def _head(event: Event, id: str | None) -> str:
    head = ""
    if id is None:
        id = event.id
    if id is not None:
        head = f"id: {id}\n"
    if event.type != DEFAULT_TYPE:
        head += f"event: {event.type}\n"
    if event.retry is not None:
        head += f"retry: {event.retry}\n"
    return head


def _lines(data: str) -> str:
    if "\r" in data:
        data = data.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" in data:
        data = data.replace("\n", "\ndata: ")
    return data


def chunk(frame: bytes) -> bytes:
    """Wrap a frame for HTTP/1.1's chunked transfer coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def opening(retry: int, id: str | None = None) -> bytes:
    """Give a stream's first bytes: a comment, the reconnection time in milliseconds, and a cursor.

    A reader that is given an id has it from the blank line on. Without one there is no blank
    line: `retry` takes effect at its line end, and an empty block would reach httpx-sse users as
    an empty event.
    """
    if id is None:
        return b":\nretry: %d\n" % retry
    return f":\nretry: {retry}\nid: {id}\n\n".encode()


def here(id: str) -> bytes:
    """Give a block that moves a reader's cursor and dispatches nothing (WHATWG HTML 9.2.6)."""
    return f"id: {id}\n\n".encode()


@dataclass(slots=True)
class _Block:
    """The fields of a block whose blank line has not come yet."""

    data: list[str] = field(default_factory=list)
    type: str = ""
    id: str | None = None
    retry: int | None = None


class Decoder:
    """Bytes in, events out, whatever the pieces they arrive in.

    `last_event_id` is the id a reader sends as `Last-Event-ID` when it reconnects, and
    `retry` the reconnection time in milliseconds, or None while the stream has named
    none. An event's own `id` and `retry` are those of its block. Bytes that are not UTF-8
    become U+FFFD, a block that the stream's end cuts short is never given (both as the
    standard says). Nothing that arrives makes it raise.
    """

    __slots__ = ("_block", "_started", "_tail", "_text", "_was_cr", "last_event_id", "retry")

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False
        self._was_cr = False
        # The pieces of a line whose end has not come: joined once, so that a long line
        # in many pieces costs its length and not its square.
        self._tail: list[str] = []
        self._block = _Block()

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes, and give the events they complete."""
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
