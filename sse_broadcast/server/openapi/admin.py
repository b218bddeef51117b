"""OpenAPI operations on tokens, on the configuration, and to disconnect a subscriber."""

from collections.abc import Mapping
from typing import Any

from sse_broadcast.auth.principal import Action
from sse_broadcast.server.endpoints.tokens import RevocationRequest, TokenRequest
from sse_broadcast.server.http.responses import ActiveConfig, Disconnected, MintedToken, Reloaded, Revoked
from sse_broadcast.server.openapi import model
from sse_broadcast.server.openapi.model import Body, Example, Media, Operation, Response, Schema
from sse_broadcast.server.openapi.operations import GUARDED, end, problems, read_operations, write
from sse_broadcast.wire import JSON_TYPE

_WISH = {"grants": {"subscribe": ["orders.17"]}, "subject": "visitor-1", "lifetime": 600}
_KINDS = ("subject", "id", "caller")
_EITHER = [{"properties": {name: {"type": "string"}}, "required": [name]} for name in _KINDS]
_REFUSED = problems(*GUARDED, 408, 413, 415, 422)


def token_request_schema(schema: Mapping[str, Any]) -> Schema:
    """Return the schema of a token request, narrowed by the rules that its types do not express."""
    patterns = {"type": "array", "items": model.PATTERN_SCHEMA}
    names = [action.value for action in Action if action is not Action.ADMIN]
    grants = {"type": "object", "propertyNames": {"enum": names}, "additionalProperties": patterns}
    return {**schema, "properties": {**schema["properties"], "grants": grants}}


def _json(schema: Schema, example: object) -> Body:
    return Body({JSON_TYPE: Media(schema, {"visitor": Example(example)})}, required=True)


def _done(kind: type) -> Response:
    return Response("Done.", content={JSON_TYPE: Media(model.kind(kind))})


_MINT = Operation(
    "mint",
    "Issue a token with a subset of the caller's grants",
    tags=["admin"],
    request_body=_json(model.kind(TokenRequest), _WISH),
    responses={"200": _done(MintedToken), **_REFUSED, **problems(501)},
)

_REVOKE = Operation(
    "revoke",
    "Revoke the tokens of a subject, one token or a caller, and close its streams",
    tags=["admin"],
    request_body=_json({**model.kind(RevocationRequest), "oneOf": _EITHER}, {"subject": "visitor-1"}),
    responses={"200": _done(Revoked), **_REFUSED},
)

_DISCONNECT = Operation(
    "disconnect",
    "Close the stream of a subscriber; the subscriber may reconnect",
    tags=["admin"],
    responses={"200": _done(Disconnected), **problems(*GUARDED)},
)

_RELOAD = Operation(
    "reload",
    "Reload the configuration",
    description="The whole configuration is applied, or none of it. Streams stay open. `restart` lists"
    " changed settings that need a restart.",
    tags=["admin"],
    responses={"200": _done(Reloaded), **problems(*GUARDED, 422)},
)

_CONFIG = Operation(
    "config",
    "The active configuration, and where each value came from",
    description="Secrets are not shown.",
    tags=["admin"],
    responses={
        "200": Response("As it is now.", content={JSON_TYPE: Media(model.kind(ActiveConfig))}),
        **problems(*GUARDED),
    },
)

ADMIN_PATHS = {
    "/config": read_operations(_CONFIG),
    "/tokens": write(_MINT),
    "/revoke": write(_REVOKE),
    "/reload": write(_RELOAD),
    "/subscribers/{id}": end(_DISCONNECT, model.STREAM),
}
