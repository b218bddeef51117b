"""GET /openapi.json: the OpenAPI 3.1 document of this server."""

import functools
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from sse_broadcast.auth.principal import Action
from sse_broadcast.broadcaster import ChannelState
from sse_broadcast.server.access.authorization import require_any_channel
from sse_broadcast.server.endpoints.publish_request import PublishBody
from sse_broadcast.server.endpoints.tokens import RevocationRequest, TokenRequest
from sse_broadcast.server.http import responses as answers
from sse_broadcast.server.http.problem import json_line
from sse_broadcast.server.openapi import admin, console, health, inspect, publish, subscribe
from sse_broadcast.server.openapi.model import Path, schema_name
from sse_broadcast.server.openapi.operations import merge_paths, responses, secured
from sse_broadcast.server.openapi.security import SecuritySchemes
from sse_broadcast.server.services import services_of

VERSION = "1"
"""The version of the HTTP interface, not of the server. It changes with the meaning of something existing."""

DESCRIPTION = """\
Publish and subscribe with plain HTTP and any client of `text/event-stream`. \
Every error is an `application/problem+json` that names the fault, its place and the value; nothing is \
published then. A method that a path does not support is answered with 405 and `Allow`. Unknown query \
parameters are ignored, unless they resemble a known one; a publish with any unknown parameter is refused."""

PATHS: Mapping[Action, Mapping[str, Path]] = {
    Action.SUBSCRIBE: subscribe.SUBSCRIBE_PATHS,
    Action.PUBLISH: publish.PUBLISH_PATHS,
    Action.INSPECT: inspect.INSPECT_PATHS,
    Action.ADMIN: admin.ADMIN_PATHS,
}

TYPES = (
    PublishBody,
    ChannelState,
    TokenRequest,
    RevocationRequest,
    answers.StreamEvent,
    answers.Envelope,
    answers.Sent,
    answers.SentBatch,
    answers.ServerStatus,
    answers.StatusSample,
    answers.ChannelPage,
    answers.SubscriberPage,
    answers.Disconnected,
    answers.Health,
    answers.MintedToken,
    answers.Revoked,
    answers.Reloaded,
    answers.ActiveConfig,
    answers.ProblemDetails,
)


async def get_openapi(request: web.Request) -> web.Response:
    """Answer with the OpenAPI document."""
    require_any_channel(request, Action.INSPECT)
    return web.Response(body=services_of(request).openapi, content_type="application/json")


def document(terms: SecuritySchemes) -> bytes:
    """Return the OpenAPI document of a server, as JSON."""
    return json_line(
        {
            "openapi": "3.1.0",
            "info": {"title": "sse-broadcast", "version": VERSION, "description": DESCRIPTION},
            "servers": [
                {"url": "."}
            ],  # relative to the document: an application may be mounted under a prefix
            "paths": _paths(terms),
            "components": {
                "schemas": _schemas(),
                "responses": responses(),
                "securitySchemes": terms.schemes(),
            },
        }
    )


def _paths(terms: SecuritySchemes) -> Mapping[str, Path]:
    paths: dict[str, Path] = {}
    for action, of_action in PATHS.items():
        for name, path in of_action.items():
            needing = secured(path, terms.security(action))
            paths[name] = merge_paths(paths[name], needing) if name in paths else needing
    return {**paths, **health.HEALTH_PATHS, **console.CONSOLE_PATHS}


@functools.cache
def _schemas() -> Mapping[str, Any]:
    _, schemas = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    named = {schema_name(kind): {**schemas.pop(kind.__name__), "title": schema_name(kind)} for kind in TYPES}
    return {
        **schemas,  # types that appear only inside the named ones
        **named,
        "Message": publish.message(named["Message"]),
        "TokenWish": admin.token_request_schema(named["TokenWish"]),
    }
