"""GET /events: what a subscriber may ask for, and what it is given."""

import msgspec

from sse_broadcast.server.endpoints.subscribe_request import CHANNEL_PARAMETERS
from sse_broadcast.server.http.responses import Envelope, StreamEvent
from sse_broadcast.server.openapi.model import (
    PATTERN_SCHEMA,
    TEXT_SCHEMA,
    Body,
    Example,
    Header,
    Media,
    Operation,
    Parameter,
    Path,
    Response,
    Schema,
    choice,
    kind,
    several,
    text,
)
from sse_broadcast.server.openapi.operations import GUARDED, problems, read_operations

_LINES = (
    ": \n"
    "retry: 3127\n"
    "event: $open\n"
    'data: {"heartbeat": 4}\n'
    "id: 0a1b2c3d-41\n"
    "\n"
    "event: price\n"
    "data: EUR 1.08\n"
    "id: 0a1b2c3d-42\n"
    "\n"
)

_LINE = """\
{"channel":"prices","id":"0a1b2c3d-42","event":"price","data":"EUR 1.08","time":1763800000.25}
"""

_SECONDS = "([3-9]|[1-5][0-9]|60)"
_HEARTBEAT = text(f"(event|(event,)?{_SECONDS}|{_SECONDS},event)")

# Of a sequence, one item is described: OpenAPI 3.2 has a word of its own for that, 3.1 has not.
_STREAM = Response(
    "The stream. `$open` gives its cursor, `$heartbeat` moves it, one `$reset` tells of a loss, and `$close`"
    " says why it ends. The id is the last line of each block. Whoever accepts `text/event-stream` and"
    " cannot be served now is given `$close` alone, which says when to come back.",
    headers={
        "Cache-Control": Header("That nobody stores or changes the stream.", TEXT_SCHEMA, required=True),
        "Retry-After": Header("Of a stream that is refused: seconds after which to come back.", TEXT_SCHEMA),
    },
    content={
        "text/event-stream": Media(kind(StreamEvent), {"event": Example(_LINES)}),
        "application/x-ndjson": Media(kind(Envelope), {"event": Example(_LINE)}),
    },
)

_NAMED = Parameter(
    "channels",
    "path",
    "Channels, and patterns in which `*` is any characters; at most `max_channels`, of them at most"
    " `max_patterns` patterns, with those of the query.",
    several(PATTERN_SCHEMA),
    required=True,
    examples={"two": Example(["news", "orders.*"])},
)

_PARAMETERS = [
    Parameter(
        "channel",
        "query",
        "As the list in the path.",
        several(PATTERN_SCHEMA),
        examples={"one": Example(["news"])},
    ),
    Parameter(
        "event",
        "query",
        "Only events of these types; types beginning with `$` always pass.",
        several({"type": "string", "minLength": 1}),
        examples={"two": Example(["price", "news"])},
    ),
    Parameter(
        "since",
        "query",
        "Begin after this id, at an age, with `earliest`, or `last`, the newest event of each channel.",
        TEXT_SCHEMA,
        examples={"word": Example("earliest"), "age": Example("10m"), "id": Example("0a1b2c3d-42")},
    ),
    Parameter(
        "last_event_id",
        "query",
        "The header of this name, for what can send no header; `lastEventId`, `Last-Event-ID` and the like"
        " are read as it. It wins over `since`.",
        TEXT_SCHEMA,
    ),
    Parameter(
        "Last-Event-ID",
        "header",
        "The id to resume after. It wins over the query; of several, the last that is not empty.",
        TEXT_SCHEMA,
    ),
    Parameter(
        "format",
        "query",
        "What the data is: that which was published, or JSON that says where each event came from.",
        choice("text", "json"),
        examples={"json": Example("json")},
    ),
    Parameter(
        "heartbeat",
        "query",
        "`event` asks for heartbeats as events, for pages that must notice a dead connection; a number, for"
        " so many seconds of silence before one.",
        _HEARTBEAT,
        examples={"event": Example("event"), "seconds": Example("60"), "both": Example("event,4")},
    ),
]

_NAMES: Schema = {"anyOf": [PATTERN_SCHEMA, several(PATTERN_SCHEMA)]}

_WISH: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys((*CHANNEL_PARAMETERS, "channels"), _NAMES),
        "event": {"anyOf": [{"type": "string", "minLength": 1}, several({"type": "string", "minLength": 1})]},
        "since": TEXT_SCHEMA,
        **dict.fromkeys(("last_event_id", "lastEventId", "Last-Event-ID"), TEXT_SCHEMA),
        "format": choice("text", "json"),
        "heartbeat": {"anyOf": [{"type": "integer", "minimum": 3, "maximum": 60}, _HEARTBEAT]},
    },
}
"""What a body says: the parameters of the query, as members."""


def _subscribe(name: str, summary: str) -> Operation:
    return Operation(
        name,
        summary,
        tags=["subscribe"],
        parameters=_PARAMETERS,
        responses={"200": _STREAM, **problems(*GUARDED)},
    )


_BY_BODY = Operation(
    "subscribeByBody",
    "Subscribe to what the body names, for lists too long for a URL",
    tags=["subscribe"],
    request_body=Body(
        {"application/json": Media(_WISH, {"two": Example({"channel": ["news", "orders.*"]})})}, required=True
    ),
    responses={"200": _STREAM, **problems(*GUARDED, 408, 413, 415, 422)},
)


def _with_body(path: Path) -> Path:
    """Return a path that can be read by POST as well."""
    return msgspec.structs.replace(path, post=_BY_BODY)


SUBSCRIBE_PATHS = {
    "/events": _with_body(
        read_operations(
            _subscribe("subscribe", "Subscribe to the channel `default`, or to those of the query")
        )
    ),
    "/events/{channels}": read_operations(_subscribe("subscribeTo", "Subscribe to channels"), _NAMED),
}
