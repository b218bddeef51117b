"""GET /status, /channels and /openapi.json: what can be asked about the server."""

from sse_broadcast.broadcaster import ChannelState
from sse_broadcast.server.answers import ChannelPage, ServerStatus
from sse_broadcast.server.channels import MAX_PAGE, PAGE
from sse_broadcast.server.contract import fields
from sse_broadcast.server.contract.methods import read
from sse_broadcast.server.contract.problems import GUARDED, problems
from sse_broadcast.server.contract.words import Answer, Example, Media, Operation, Parameter, Schema

_PAGES = [
    Parameter(
        "prefix",
        "query",
        "Only those whose names begin so.",
        fields.TEXT,
        examples={"orders": Example("orders.")},
    ),
    Parameter(
        "after", "query", "Only those whose names come after this one: the `next` of a page.", fields.TEXT
    ),
    Parameter(
        "limit",
        "query",
        f"At most so many; {PAGE} if it is not said.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
        examples={"ten": Example(10)},
    ),
]

_CHANNEL = Parameter(
    "channel",
    "path",
    "The channel, whether anything was ever published there or not.",
    fields.CHANNEL,
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
            "200": Answer("As it is now.", content={"application/json": Media(schema)}),
            **problems(*GUARDED),
        },
    )


PATHS = {
    "/status": read(_ask("status", "Who listens, and what was counted", fields.kind(ServerStatus))),
    "/channels": read(
        _ask("channels", "Channels with history or readers", fields.kind(ChannelPage), *_PAGES)
    ),
    "/channels/{channel}": read(
        _ask("channel", "Who listens to a channel, and what is held", fields.kind(ChannelState)), _CHANNEL
    ),
    "/openapi.json": read(_ask("contract", "This document", {"type": "object"})),
}
