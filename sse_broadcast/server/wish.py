"""What a reader asks for with GET /events, read from its request."""

import functools
from dataclasses import dataclass

from aiohttp import HttpVersion11, hdrs, web

from sse_broadcast import wire
from sse_broadcast.cursor import Age, Cursor, Word, parse_id, parse_since
from sse_broadcast.encoding import (
    CHUNKED_JSON,
    CHUNKED_NDJSON,
    CHUNKED_TEXT,
    HEARTBEAT,
    JSON,
    NDJSON,
    TEXT,
    Encoding,
)
from sse_broadcast.interest import DEFAULT_CHANNEL, Interest
from sse_broadcast.server import query
from sse_broadcast.server.gate import IN_QUERY
from sse_broadcast.server.problem import Problem
from sse_broadcast.server.state import BROADCASTER

PARAMETERS = (IN_QUERY, "channel", "event", "format", "heartbeat", "last_event_id", "since")

CHUNKED = {TEXT: CHUNKED_TEXT, JSON: CHUNKED_JSON, NDJSON: CHUNKED_NDJSON}
"""Each format as HTTP/1.1 has it; HTTP/1.0 knows no chunks."""

FORMATS = {"text": TEXT, "json": JSON}

HEARTBEAT_EVENT = wire.encode(HEARTBEAT)
"""For pages that must notice a half-open connection: a comment does not reach them."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a reader asked for. `heartbeat` is what it is sent in silence, if not its format's own."""

    interest: Interest
    encoding: Encoding
    cursor: Cursor | None = None
    heartbeat: bytes | None = None

    @property
    def needs_id(self) -> bool:
        """Whether it has brought no id, and so must be given one to come back with."""
        return self.cursor is None or isinstance(self.cursor, Word | Age)


_DEFAULT = Interest.of(DEFAULT_CHANNEL)
_PLAIN = Wish(_DEFAULT, CHUNKED_TEXT)


def read_wish(request: web.Request) -> Wish:
    """Read what a reader asks for. Raises `Problem` and `EventError`."""
    plain = not request.query_string and "channels" not in request.match_info
    headers = request.headers
    ndjson = _is_ndjson(",".join(headers.getall(hdrs.ACCEPT, ())))
    if plain and hdrs.LAST_EVENT_ID not in headers and not ndjson:
        if request.version >= HttpVersion11:
            return _PLAIN
        return Wish(_DEFAULT, TEXT)
    query.require_known(request, PARAMETERS)
    encoding = _encoding(request, ndjson=ndjson)
    return Wish(
        _interest(request),
        CHUNKED[encoding] if request.version >= HttpVersion11 else encoding,
        _cursor(request),
        _heartbeat(request, encoding),
    )


def _interest(request: web.Request) -> Interest:
    types = request.query.getall("event", [])
    if "" in types:
        raise Problem(400, "event: must not be empty")
    channels = query.channels(request) or [DEFAULT_CHANNEL]
    return request.app[BROADCASTER].interest(channels, types=types)


@functools.lru_cache(maxsize=256)
def _is_ndjson(accept: str) -> bool:
    return NDJSON.format.content_type in accept.lower()


def _encoding(request: web.Request, *, ndjson: bool) -> Encoding:
    name = query.only(request, "format")
    if name is not None and name not in FORMATS:
        raise Problem(400, f"format: must be one of {', '.join(FORMATS)}, not {name[:80]!a}")
    return NDJSON if ndjson else FORMATS[name or "text"]


def _cursor(request: web.Request) -> Cursor | None:
    since, asked = query.only(request, "since"), query.only(request, "last_event_id")
    if since and asked:
        raise Problem(400, "since and last_event_id: only one of them may be given")
    # An EventSource that reconnects repeats its URL; what it has seen meanwhile is in the header.
    if brought := request.headers.get(hdrs.LAST_EVENT_ID) or asked:
        return parse_id(brought)
    return parse_since(since) if since else None


def _heartbeat(request: web.Request, encoding: Encoding) -> bytes | None:
    kind = query.only(request, "heartbeat")
    if kind is None:
        return None
    if kind != "event":
        raise Problem(400, f"heartbeat: must be event, not {kind[:80]!a}")
    return None if encoding is NDJSON else HEARTBEAT_EVENT
