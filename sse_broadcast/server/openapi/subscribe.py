"""OpenAPI operations of GET and POST /events."""

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

# The schema describes one event: OpenAPI 3.1 cannot describe a sequence of them, 3.2 can (`itemSchema`).
_STREAM = Response(
    "The stream. `$open` carries the cursor, `$heartbeat` moves it, one `$reset` reports lost events, and"
    " `$close` names the reason of the end. The id is the last line of each event. If the server cannot serve"
    " a client that accepts `text/event-stream` now, it sends only `$close`, with the time to reconnect.",
    headers={
        "Cache-Control": Header("Forbids proxies to store or change the stream.", TEXT_SCHEMA, required=True),
        "Retry-After": Header("For a refused stream: seconds to wait before the next attempt.", TEXT_SCHEMA),
    },
    content={
        "text/event-stream": Media(kind(StreamEvent), {"event": Example(_LINES)}),
        "application/x-ndjson": Media(kind(Envelope), {"event": Example(_LINE)}),
    },
)

_NAMED = Parameter(
    "channels",
    "path",
    "Channels, and patterns in which `*` stands for any characters. Together with those of the query at most"
    " `max_channels`, and at most `max_patterns` patterns.",
    several(PATTERN_SCHEMA),
    required=True,
    examples={"two": Example(["news", "orders.*"])},
)

_PARAMETERS = [
    Parameter(
        "channel",
        "query",
        "A channel or a pattern to subscribe to.",
        several(PATTERN_SCHEMA),
        examples={"one": Example(["news"])},
    ),
    Parameter(
        "event",
        "query",
        "Send only events of these types. Types that start with `$` are always sent.",
        several({"type": "string", "minLength": 1}),
        examples={"two": Example(["price", "news"])},
    ),
    Parameter(
        "since",
        "query",
        "Start after this id, at an age, at the `earliest` event, or at the `last` of each channel.",
        TEXT_SCHEMA,
        examples={"word": Example("earliest"), "age": Example("10m"), "id": Example("0a1b2c3d-42")},
    ),
    Parameter(
        "last_event_id",
        "query",
        "The header `Last-Event-ID`, for clients that cannot send headers. Overrides `since`. Other spellings"
        " such as `lastEventId` are accepted.",
        TEXT_SCHEMA,
    ),
    Parameter(
        "Last-Event-ID",
        "header",
        "The id to resume after. Overrides the query. Of several headers the last that is not empty counts.",
        TEXT_SCHEMA,
    ),
    Parameter(
        "format",
        "query",
        "The data of each event: as published (`text`), or in a JSON object with its channel (`json`).",
        choice("text", "json"),
        examples={"json": Example("json")},
    ),
    Parameter(
        "heartbeat",
        "query",
        "`event` sends heartbeats as events, for pages that must notice a dead connection. A number sets the"
        " seconds without an event before a heartbeat.",
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
"""The body of POST /events: the parameters of the query, as members."""


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
    "Subscribe to the channels in the body, for lists too long for a URL",
    tags=["subscribe"],
    request_body=Body(
        {"application/json": Media(_WISH, {"two": Example({"channel": ["news", "orders.*"]})})}, required=True
    ),
    responses={"200": _STREAM, **problems(*GUARDED, 408, 413, 415, 422)},
)


def _with_body(path: Path) -> Path:
    """Return a path with POST added."""
    return msgspec.structs.replace(path, post=_BY_BODY)


SUBSCRIBE_PATHS = {
    "/events": _with_body(
        read_operations(_subscribe("subscribe", "Subscribe to the channels of the query, or to `default`"))
    ),
    "/events/{channels}": read_operations(_subscribe("subscribeTo", "Subscribe to channels"), _NAMED),
}
