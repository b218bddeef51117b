"""OpenAPI operations that inspect the server: status, channels, subscribers, metrics and this document."""

from sse_broadcast.broadcaster import ChannelState
from sse_broadcast.server.http.query import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from sse_broadcast.server.http.responses import (
    ChannelPage,
    ServerStatus,
    StatusSample,
    SubscriberPage,
    SubscriberState,
)
from sse_broadcast.server.openapi import model
from sse_broadcast.server.openapi.model import Example, Media, Operation, Parameter, Response, Schema
from sse_broadcast.server.openapi.operations import GUARDED, problems, read_operations
from sse_broadcast.server.streams.registry import SortKey

_LIMIT = Parameter(
    "limit",
    "query",
    f"The maximum number of entries. The default is {DEFAULT_PAGE_SIZE}.",
    {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE},
    examples={"ten": Example(10)},
)

_PAGES = [
    Parameter(
        "prefix",
        "query",
        "List only channels whose names start with this.",
        model.TEXT_SCHEMA,
        examples={"orders": Example("orders.")},
    ),
    Parameter(
        "after",
        "query",
        "List only channels after this name: the `next` of the page before.",
        model.TEXT_SCHEMA,
    ),
    _LIMIT,
]

_SUBSCRIBERS = [
    Parameter(
        "sort",
        "query",
        "List the subscribers with the highest value first. The default is the order of their opening.",
        model.choice(*SortKey),
        examples={"slowest": Example("lag"), "loss": Example("drops")},
    ),
    Parameter(
        "channel",
        "query",
        "List only subscribers of this channel, by its name or by a pattern.",
        model.CHANNEL_SCHEMA,
        examples={"news": Example("news")},
    ),
    Parameter(
        "after",
        "query",
        "List only subscribers after this id: the `next` of the page before. Not allowed with `sort`.",
        model.text("[0-9]{1,19}"),
        examples={"first": Example("0")},
    ),
    _LIMIT,
]

_CHANNEL = Parameter(
    "channel",
    "path",
    "The channel. It need not have any events.",
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
            "200": Response("The current state.", content={"application/json": Media(schema)}),
            **problems(*GUARDED),
        },
    )


_STATUS = Operation(
    "status",
    "Who listens, and what was counted",
    description="A client that accepts `text/event-stream` gets a sample each second.",
    tags=["inspect"],
    responses={
        "200": Response(
            "As it is now, or as it goes on.",
            content={
                "application/json": Media(model.kind(ServerStatus)),
                "text/event-stream": Media(model.kind(StatusSample)),
            },
        ),
        **problems(*GUARDED),
    },
)

_METRICS = Operation(
    "metrics",
    "Read the metrics for Prometheus; 404 if the setting `metrics` is off",
    tags=["inspect"],
    responses={
        "200": Response(
            "The text format of Prometheus, or OpenMetrics if `Accept` asks for that.",
            content={
                kind: Media(model.TEXT_SCHEMA) for kind in ("text/plain", "application/openmetrics-text")
            },
        ),
        **problems(*GUARDED),
    },
)

INSPECT_PATHS = {
    "/status": read_operations(_STATUS),
    "/channels": read_operations(
        _ask(
            "channels", "List the channels that have history or subscribers", model.kind(ChannelPage), *_PAGES
        )
    ),
    "/channels/{channel}": read_operations(
        _ask("channel", "Read the subscribers and the history of a channel", model.kind(ChannelState)),
        _CHANNEL,
    ),
    "/subscribers": read_operations(
        _ask("subscribers", "List the connected subscribers", model.kind(SubscriberPage), *_SUBSCRIBERS)
    ),
    "/subscribers/{id}": read_operations(
        _ask("subscriber", "Read one connected subscriber", model.kind(SubscriberState)), model.STREAM
    ),
    "/metrics": read_operations(_METRICS),
    "/openapi.json": read_operations(_ask("contract", "Read this document", {"type": "object"})),
}
