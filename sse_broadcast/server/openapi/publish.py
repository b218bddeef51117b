"""OpenAPI operations of POST and PUT /send."""

from collections.abc import Mapping
from typing import Any

from sse_broadcast.server.endpoints.publish import MAX_IDEMPOTENCY_KEY
from sse_broadcast.server.endpoints.publish_request import PublishBody
from sse_broadcast.server.http.responses import Sent, SentBatch
from sse_broadcast.server.openapi import model
from sse_broadcast.server.openapi.model import Body, Example, Media, Operation, Parameter, Response, Schema
from sse_broadcast.server.openapi.operations import GUARDED, post_or_put, problems
from sse_broadcast.wire import JSON_TYPE, NDJSON_TYPE

_ONE = {"message": "EUR 1.08", "event": "price"}
_MANY = '{"message":"one"}\n{"data":{"total":12},"event":"paid"}\n'

_CHANNELS = model.several(model.CHANNEL_SCHEMA)

_NAMED = Parameter(
    "channels",
    "path",
    "The channels, at most `max_channels` together with those of the query. All get the same event.",
    _CHANNELS,
    required=True,
    examples={"two": Example(["news", "alerts"])},
)

_PARAMETERS = [
    Parameter("channel", "query", "A channel to publish to.", _CHANNELS, examples={"one": Example(["news"])}),
    Parameter(
        "event",
        "query",
        "The event's type, if the body is text.",
        model.TYPE_SCHEMA,
        examples={"price": Example("price")},
    ),
    Parameter(
        "id",
        "query",
        "The event's id, if the body is text. The default is an id of the server.",
        model.ID_SCHEMA,
    ),
    Parameter(
        "key",
        "query",
        "With the policy `conflate`, the event replaces waiting events of this key.",
        model.KEY_SCHEMA,
    ),
    Parameter(
        "retry",
        "query",
        "Milliseconds that subscribers wait before they reconnect.",
        model.RETRY_SCHEMA,
    ),
    Parameter(
        "stream",
        "query",
        "With 1, each line of the body is published as it arrives: NDJSON as an event, otherwise as text.",
        model.choice("1", "0"),
    ),
    Parameter(
        "Idempotency-Key",
        "header",
        "A repeated request with the same key is not published again, and gets the first answer.",
        model.text(rf"[!-~]([ -~]{{0,{MAX_IDEMPOTENCY_KEY - 2}}}[!-~])?"),
        examples={"order": Example("order-17")},
    ),
]

_SENT = Response(
    "The event is in the history, with its place in the order. Subscribers may not have it yet.",
    content={JSON_TYPE: Media({"anyOf": [model.kind(Sent), model.kind(SentBatch)]})},
)


def _publish(name: str, summary: str, event: Schema) -> Operation:
    return Operation(
        name,
        summary,
        tags=["publish"],
        parameters=_PARAMETERS,
        request_body=_body(event),
        responses={"200": _SENT, **problems(*GUARDED, 408, 413, 415, 422)},
    )


def _body(event: Schema) -> Body:
    examples = {"one": Example(_ONE), "batch": Example([_ONE, {"message": "two"}])}
    return Body(
        {
            JSON_TYPE: Media({"anyOf": [event, model.several(event)]}, examples),
            NDJSON_TYPE: Media(event, {"batch": Example(_MANY)}),  # an event on each line
            "text/plain": Media(model.TEXT_SCHEMA, {"text": Example("hello")}),
        },
        "An event, or a batch of events: all are published, or none. A body of any other type is the message"
        " itself, in UTF-8, or in ISO-8859-1 or US-ASCII if its `charset` names that. Forms are refused.",
    )


def message(schema: Mapping[str, Any]) -> Schema:
    """Return the schema of an event as JSON, narrowed by the rules that its types do not express."""
    narrower = {
        "event": model.TYPE_SCHEMA,
        "id": model.ID_SCHEMA,
        "retry": model.RETRY_SCHEMA,
        "key": model.KEY_SCHEMA,
        "channel": model.CHANNEL_SCHEMA,
        "channels": _CHANNELS,
    }
    own = {name: model.or_null(field) for name, field in narrower.items()}
    both = {"channel": {"type": "string"}, "channels": {"type": "array"}}
    return {
        **schema,
        "properties": {**schema["properties"], **own},
        "oneOf": [{"required": ["message"]}, {"required": ["data"]}],
        "not": {"properties": both, "required": [*both]},
    }


_ANYWHERE = model.kind(PublishBody)
_THERE = {**_ANYWHERE, "properties": {"channel": {"type": "null"}, "channels": {"type": "null"}}}

PUBLISH_PATHS = {
    "/send": post_or_put(
        _publish("publish", "Publish to the channels of the query or the body, or to `default`", _ANYWHERE)
    ),
    "/send/{channels}": post_or_put(_publish("publishTo", "Publish to channels", _THERE), _NAMED),
}
