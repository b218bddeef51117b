"""GET /events: what a reader may ask for, and what it is given."""

from sse_broadcast.server.answers import Envelope, StreamEvent
from sse_broadcast.server.contract.fields import PATTERN, TEXT, choice, kind, several
from sse_broadcast.server.contract.methods import read
from sse_broadcast.server.contract.problems import GUARDED, problems
from sse_broadcast.server.contract.words import Answer, Example, Header, Media, Operation, Parameter

_LINES = """\
:
retry: 3127
id: 0a1b2c3d-41

id: 0a1b2c3d-42
event: price
data: EUR 1.08

"""

_LINE = """\
{"channel":"prices","id":"0a1b2c3d-42","event":"price","data":"EUR 1.08","time":1763800000.25}
"""

# Of a sequence, one item is described: OpenAPI 3.2 has a word of its own for that, 3.1 has not.
_STREAM = Answer(
    "The stream. It ends when its reader leaves, or with an event `$close` that says why; what a reader has "
    "lost is told by one `$reset`. A browser that cannot be served now is given `retry:`, and the end.",
    headers={
        "Last-Event-ID": Header("With NDJSON, the cursor to begin with: a line there is an event.", TEXT),
        "Cache-Control": Header("That nobody stores or changes the stream.", TEXT, required=True),
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
    several(PATTERN),
    required=True,
    examples={"two": Example(["news", "orders.*"])},
)

_PARAMETERS = [
    Parameter(
        "channel", "query", "As the list in the path.", several(PATTERN), examples={"one": Example(["news"])}
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
        TEXT,
        examples={"word": Example("earliest"), "age": Example("10m"), "id": Example("0a1b2c3d-42")},
    ),
    Parameter(
        "last_event_id",
        "query",
        "The header of this name, for what can send no header. Not together with `since`.",
        TEXT,
    ),
    Parameter("Last-Event-ID", "header", "The id to go on after. It is heard before the query.", TEXT),
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
        "Have heartbeats as events, for pages that must notice a dead connection.",
        choice("event"),
        examples={"event": Example("event")},
    ),
]


def _subscribe(name: str, summary: str) -> Operation:
    return Operation(
        name,
        summary,
        tags=["subscribe"],
        parameters=_PARAMETERS,
        responses={"200": _STREAM, **problems(*GUARDED)},
    )


PATHS = {
    "/events": read(_subscribe("subscribe", "Subscribe to the channel `default`, or to those of the query")),
    "/events/{channels}": read(_subscribe("subscribeTo", "Subscribe to channels"), _NAMED),
}
