"""GET /openapi.json: the contract of this server, as OpenAPI 3.1."""

import functools
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from sse_broadcast.auth.principal import Action
from sse_broadcast.broadcaster import ChannelState
from sse_broadcast.server.access.authorization import require_some
from sse_broadcast.server.endpoints.publish_request import Message
from sse_broadcast.server.endpoints.tokens import RevocationWish, TokenWish
from sse_broadcast.server.http import responses as answers
from sse_broadcast.server.http.problem import json_line
from sse_broadcast.server.openapi import admin, health, inspect, publish, subscribe
from sse_broadcast.server.openapi.model import Path
from sse_broadcast.server.openapi.operations import guarded, joined, responses
from sse_broadcast.server.openapi.security import Terms
from sse_broadcast.server.services import setup_of

VERSION = "1"
"""Of the contract, not of the server: another one would be another meaning of what is there."""

DESCRIPTION = """\
Publish and subscribe with plain HTTP, read with any client of `text/event-stream`. \
Every error is an `application/problem+json` that says what is wrong, where, and which value; nothing is \
published then. A method that a path does not take is answered with 405 and `Allow`. Parameters that are \
not known are ignored, unless they are nearly one of those that are; to publish with \
one is refused."""

PATHS: Mapping[Action, Mapping[str, Path]] = {
    Action.SUBSCRIBE: subscribe.PATHS,
    Action.PUBLISH: publish.PATHS,
    Action.INSPECT: inspect.PATHS,
    Action.ADMIN: admin.PATHS,
}

TYPES = (
    Message,
    ChannelState,
    TokenWish,
    RevocationWish,
    answers.StreamEvent,
    answers.Envelope,
    answers.Sent,
    answers.SentBatch,
    answers.ServerStatus,
    answers.ChannelPage,
    answers.SubscriberPage,
    answers.Dismissed,
    answers.Health,
    answers.MintedToken,
    answers.Revoked,
    answers.Reloaded,
    answers.ProblemDetails,
)


async def openapi(request: web.Request) -> web.Response:
    """Answer with the contract."""
    require_some(request, Action.INSPECT)
    return web.Response(body=setup_of(request).contract, content_type="application/json")


def document(terms: Terms) -> bytes:
    """Give the contract of a server, as JSON."""
    return json_line(
        {
            "openapi": "3.1.0",
            "info": {"title": "sse-broadcast", "version": VERSION, "description": DESCRIPTION},
            "servers": [{"url": "."}],  # wherever the application is mounted
            "paths": _paths(terms),
            "components": {
                "schemas": _schemas(),
                "responses": responses(),
                "securitySchemes": terms.schemes(),
            },
        }
    )


def _paths(terms: Terms) -> Mapping[str, Path]:
    paths: dict[str, Path] = {}
    for action, of_action in PATHS.items():
        for name, path in of_action.items():
            needing = guarded(path, terms.security(action))
            paths[name] = joined(paths[name], needing) if name in paths else needing
    return {**paths, **health.PATHS}


@functools.cache
def _schemas() -> Mapping[str, Any]:
    _, schemas = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    return {
        **schemas,
        "Message": publish.message(schemas["Message"]),
        "TokenWish": admin.wish(schemas["TokenWish"]),
    }
