"""GET /status, /channels, /subscribers and /openapi.json: what can be asked about the server."""

from sse_broadcast.broadcaster import ChannelState
from sse_broadcast.server.http.query import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from sse_broadcast.server.http.responses import ChannelPage, ServerStatus, SubscriberPage, SubscriberState
from sse_broadcast.server.openapi import model
from sse_broadcast.server.openapi.model import Example, Media, Operation, Parameter, Response, Schema
from sse_broadcast.server.openapi.operations import GUARDED, problems, read_operations
from sse_broadcast.server.streams.registry import SortKey

_LIMIT = Parameter(
    "limit",
    "query",
    f"At most so many; {DEFAULT_PAGE_SIZE} if it is not said.",
    {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE},
    examples={"ten": Example(10)},
)

_PAGES = [
    Parameter(
        "prefix",
        "query",
        "Only those whose names begin so.",
        model.TEXT_SCHEMA,
        examples={"orders": Example("orders.")},
    ),
    Parameter(
        "after",
        "query",
        "Only those whose names come after this one: the `next` of a page.",
        model.TEXT_SCHEMA,
    ),
    _LIMIT,
]

_SUBSCRIBERS = [
    Parameter(
        "sort",
        "query",
        "Those that come first by this, with the most of it, instead of all in the order of their opening.",
        model.choice(*SortKey),
        examples={"slowest": Example("lag"), "loss": Example("drops")},
    ),
    Parameter(
        "channel",
        "query",
        "Only those that get what is published there, by its name or by a pattern.",
        model.CHANNEL_SCHEMA,
        examples={"news": Example("news")},
    ),
    Parameter(
        "after",
        "query",
        "Only those that came after this one: the `next` of a page. Not together with `sort`.",
        model.text("[0-9]{1,19}"),
        examples={"first": Example("0")},
    ),
    _LIMIT,
]

_CHANNEL = Parameter(
    "channel",
    "path",
    "The channel, whether anything was ever published there or not.",
    model.CHANNEL_SCHEMA,
    required=True,
    examples={"news": Example("news")},
)


def _ask(name: str, summary: str, schema: Schema, *parameters: Parameter) -> Operation:
    return Operation(
        name,
        summary,
        tags=["inspect"],
        parameters=parameters,
        responses={
            "200": Response("As it is now.", content={"application/json": Media(schema)}),
            **problems(*GUARDED),
        },
    )


_METRICS = Operation(
    "metrics",
    "What was counted, and how things are, for Prometheus; 404 where it is switched off",
    tags=["inspect"],
    responses={
        "200": Response(
            "The text format of Prometheus, or OpenMetrics where that is asked for.",
            content={
                kind: Media(model.TEXT_SCHEMA) for kind in ("text/plain", "application/openmetrics-text")
            },
        ),
        **problems(*GUARDED),
    },
)

INSPECT_PATHS = {
    "/status": read_operations(_ask("status", "Who listens, and what was counted", model.kind(ServerStatus))),
    "/channels": read_operations(
        _ask("channels", "Channels with history or subscribers", model.kind(ChannelPage), *_PAGES)
    ),
    "/channels/{channel}": read_operations(
        _ask("channel", "Who listens to a channel, and what is held", model.kind(ChannelState)), _CHANNEL
    ),
    "/subscribers": read_operations(
        _ask("subscribers", "Subscribers that are connected", model.kind(SubscriberPage), *_SUBSCRIBERS)
    ),
    "/subscribers/{id}": read_operations(
        _ask("subscriber", "One subscriber that is connected", model.kind(SubscriberState)), model.STREAM
    ),
    "/metrics": read_operations(_METRICS),
    "/openapi.json": read_operations(_ask("contract", "This document", {"type": "object"})),
}
