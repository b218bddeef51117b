"""Operations: the forms that paths share, and the error responses."""

import http
from collections.abc import Mapping, Sequence

import msgspec

from sse_broadcast.server.http.problem import PROBLEM_TYPE, TITLES
from sse_broadcast.server.http.responses import ProblemDetails
from sse_broadcast.server.openapi.model import (
    TEXT_SCHEMA,
    Header,
    Media,
    Operation,
    Parameter,
    Path,
    Ref,
    Requirement,
    Response,
    kind,
)

WHEN: Mapping[int, str] = {
    400: "The channel, a parameter or the body is invalid, or not UTF-8. Malformed HTTP is answered as text.",
    401: "A credential is needed and missing, or the credential is not valid.",
    403: "The credential does not allow the request, or the page's origin is not allowed.",
    404: "The path does not exist, or this listener does not serve it.",
    405: "The path does not support the method.",
    408: "The body did not arrive in time.",
    413: "The body, one event or the batch is too large.",
    414: "The request line is too long. Send a long list of channels in the body of `POST /events`.",
    415: "The coding, the type or the charset of the body is not supported.",
    417: "The expectation is not `100-continue`.",
    421: "The Host is not one of this server's names (DNS rebinding).",
    422: "The JSON has the wrong shape, the event is invalid, or the Idempotency-Key published another body.",
    429: "A rate limit or a limit of connections is reached.",
    431: "The head of the request is too large.",
    501: "The server was installed without an extra that this needs.",
    503: "The server is shutting down, or full.",
}

_CHALLENGE = "The kind of credential needed, and the fault of the one that was sent (RFC 6750)."
_COME_BACK = Header(
    "Seconds to wait before the next attempt.", {"type": "integer", "minimum": 0}, required=True
)
_ALLOW = Header("The supported methods.", TEXT_SCHEMA, required=True)

PROBLEM_HEADERS: Mapping[int, Mapping[str, Header]] = {
    401: {"WWW-Authenticate": Header(_CHALLENGE, TEXT_SCHEMA, required=True)},
    403: {"WWW-Authenticate": Header(_CHALLENGE, TEXT_SCHEMA)},
    405: {"Allow": _ALLOW},
    429: {"Retry-After": _COME_BACK},
    503: {"Retry-After": _COME_BACK},
}

ANYWHERE = (400, 414, 417, 429, 431, 503)
"""Statuses that any request may get: it cannot be parsed, or a limit is reached."""

GUARDED = (*ANYWHERE, 401, 403, 404, 421)
"""Statuses of operations that may need a credential."""


def problems(*statuses: int) -> Mapping[str, Ref]:
    """Return references to the error responses of these statuses."""
    return {str(status): Ref(f"#/components/responses/{_name(status)}") for status in sorted(statuses)}


def responses() -> Mapping[str, Response]:
    """Return the error responses, by their names."""
    return {_name(status): _answer(status) for status in WHEN}


def _answer(status: int) -> Response:
    content = {PROBLEM_TYPE: Media(kind(ProblemDetails))}
    if status == 400:
        content["text/plain"] = Media(TEXT_SCHEMA)
    return Response(WHEN[status], PROBLEM_HEADERS.get(status, {}), content)


def _name(status: int) -> str:
    return (TITLES.get(status) or http.HTTPStatus(status).phrase).replace(" ", "")


METHODS = ("get", "head", "put", "post", "delete")
"""The methods that may need a credential. OPTIONS is not one: a browser's preflight sends no credential."""


def read_operations(get: Operation, *parameters: Parameter) -> Path:
    """Return a path with GET, HEAD and OPTIONS."""
    head = _like(get, "Head", "The same as GET, without the body")
    return Path(parameters=parameters, get=get, head=head, options=_options(get, parameters))


def write(post: Operation) -> Path:
    """Return a path with POST and OPTIONS."""
    return Path(post=post, options=_options(post))


def post_or_put(post: Operation, *parameters: Parameter) -> Path:
    """Return a path with POST, PUT and OPTIONS, where PUT does the same as POST."""
    put = _like(post, "Put", "The same as POST, for `curl -T`")
    return Path(parameters=parameters, put=put, post=post, options=_options(post, parameters))


def end(delete: Operation, *parameters: Parameter) -> Path:
    """Return a path with DELETE and OPTIONS."""
    return Path(parameters=parameters, delete=delete, options=_options(delete, parameters))


def merge_paths(one: Path, other: Path) -> Path:
    """Return a path with the methods of both. Both must have OPTIONS, and no other method in common."""
    assert one.options is not None
    assert other.options is not None
    tags = [*one.options.tags, *other.options.tags]
    added = {method: getattr(other, method) for method in METHODS if getattr(other, method) is not None}
    return msgspec.structs.replace(one, **added, options=msgspec.structs.replace(one.options, tags=tags))


def secured(path: Path, security: Sequence[Requirement] | None) -> Path:
    """Return a path whose methods have these security requirements."""
    operations = {method: getattr(path, method) for method in METHODS}
    needing = {
        method: msgspec.structs.replace(operation, security=security)
        for method, operation in operations.items()
        if operation is not None
    }
    return msgspec.structs.replace(path, **needing)


def _like(operation: Operation, suffix: str, summary: str) -> Operation:
    return msgspec.structs.replace(
        operation, operation_id=operation.operation_id + suffix, summary=summary, description=""
    )


def _options(operation: Operation, parameters: Sequence[Parameter] = ()) -> Operation:
    elsewhere = (404,) if "404" in operation.responses else ()
    return Operation(
        f"{operation.operation_id}Options",
        "Read which methods are supported",
        description="The setting `cors_origins` decides the answer to a browser's preflight.",
        tags=operation.tags,
        # OPTIONS answers without validating the parameters.
        parameters=[msgspec.structs.replace(each, schema=TEXT_SCHEMA) for each in parameters],
        responses={"204": _ALLOWED, **problems(*ANYWHERE, *elsewhere)},
    )


_ALLOWED = Response(
    "The methods, in `Allow`.",
    headers={
        "Allow": _ALLOW,
        "Access-Control-Allow-Origin": Header(
            "The origin of the request, if its pages may use the server.", TEXT_SCHEMA
        ),
        "Access-Control-Allow-Methods": Header("For a preflight: the supported methods.", TEXT_SCHEMA),
        "Access-Control-Allow-Headers": Header("For a preflight: the headers that may be sent.", TEXT_SCHEMA),
    },
)
