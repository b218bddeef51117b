"""Operations and their problems: what the endpoints have in common."""

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
    400: "A channel, a parameter or a body that cannot be; bytes that are not UTF-8 or (told as text) HTTP.",
    401: "No credential where one is needed, or one that is not good.",
    403: "The credential does not allow it, or the page that asks is a foreign one.",
    404: "Nothing is there, or nothing that this listener serves.",
    405: "Another method is taken there.",
    408: "The body did not arrive in time.",
    413: "The body, one event or the batch is too large.",
    414: "The request line is too long; `POST /events` takes a long list of channels in its body.",
    415: "A coding, a type or a charset of the body that is not taken.",
    417: "An expectation other than `100-continue`.",
    421: "The Host is not this server's (DNS rebinding).",
    422: "JSON of the wrong shape, an event that cannot be, or a key that published something else.",
    429: "Over a rate, or over a limit of connections.",
    431: "The head of the request is too large.",
    501: "The server was installed without what this needs.",
    503: "Shutting down, or full.",
}

_CHALLENGE = "The credential that is asked for, and what is wrong with the one that came (RFC 6750)."
_COME_BACK = Header("Seconds after which to come back.", {"type": "integer", "minimum": 0}, required=True)
_ALLOW = Header("The methods that are taken.", TEXT_SCHEMA, required=True)

PROBLEM_HEADERS: Mapping[int, Mapping[str, Header]] = {
    401: {"WWW-Authenticate": Header(_CHALLENGE, TEXT_SCHEMA, required=True)},
    403: {"WWW-Authenticate": Header(_CHALLENGE, TEXT_SCHEMA)},
    405: {"Allow": _ALLOW},
    429: {"Retry-After": _COME_BACK},
    503: {"Retry-After": _COME_BACK},
}

ANYWHERE = (400, 414, 417, 429, 431, 503)
"""What a request may be answered with whatever it asks for: it cannot be read, or is one too many."""

GUARDED = (*ANYWHERE, 401, 403, 404, 421)
"""And where not everyone may come in."""


def problems(*statuses: int) -> Mapping[str, Ref]:
    """Return the answers of these statuses, as what points to them."""
    return {str(status): Ref(f"#/components/responses/{_name(status)}") for status in sorted(statuses)}


def responses() -> Mapping[str, Response]:
    """Return the answers that are pointed to, by their names."""
    return {_name(status): _answer(status) for status in WHEN}


def _answer(status: int) -> Response:
    content = {PROBLEM_TYPE: Media(kind(ProblemDetails))}
    if status == 400:
        content["text/plain"] = Media(TEXT_SCHEMA)
    return Response(WHEN[status], PROBLEM_HEADERS.get(status, {}), content)


def _name(status: int) -> str:
    return (TITLES.get(status) or http.HTTPStatus(status).phrase).replace(" ", "")


METHODS = ("get", "head", "put", "post", "delete")
"""The methods that may need a credential: a browser that asks beforehand, by OPTIONS, sends none."""


def read_operations(get: Operation, *parameters: Parameter) -> Path:
    """Return a path that is read."""
    head = _like(get, "Head", "The same, without its body")
    return Path(parameters=parameters, get=get, head=head, options=_options(get, parameters))


def write(post: Operation) -> Path:
    """Return a path that is written to."""
    return Path(post=post, options=_options(post))


def post_or_put(post: Operation, *parameters: Parameter) -> Path:
    """Return a path that is written to, in one way by either method."""
    put = _like(post, "Put", "The same, by the method that `curl -T` sends")
    return Path(parameters=parameters, put=put, post=post, options=_options(post, parameters))


def end(delete: Operation, *parameters: Parameter) -> Path:
    """Return a path at which something is ended."""
    return Path(parameters=parameters, delete=delete, options=_options(delete, parameters))


def merge_paths(one: Path, other: Path) -> Path:
    """Return a path at which two endpoints do something, by methods of their own."""
    assert one.options is not None
    assert other.options is not None
    tags = [*one.options.tags, *other.options.tags]
    added = {method: getattr(other, method) for method in METHODS if getattr(other, method) is not None}
    return msgspec.structs.replace(one, **added, options=msgspec.structs.replace(one.options, tags=tags))


def secured(path: Path, security: Sequence[Requirement] | None) -> Path:
    """Return a path whose methods need a credential."""
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
        "Ask which methods are taken",
        description="A browser's preflight is answered as `cors_origins` allows.",
        tags=operation.tags,
        # Whether there can be such a name is not looked at.
        parameters=[msgspec.structs.replace(each, schema=TEXT_SCHEMA) for each in parameters],
        responses={"204": _ALLOWED, **problems(*ANYWHERE, *elsewhere)},
    )


_ALLOWED = Response(
    "In `Allow`.",
    headers={
        "Allow": Header("The methods that are taken.", TEXT_SCHEMA, required=True),
        "Access-Control-Allow-Origin": Header(
            "The origin that asks, if its pages may use the server.", TEXT_SCHEMA
        ),
        "Access-Control-Allow-Methods": Header("To a preflight, the methods that are taken.", TEXT_SCHEMA),
        "Access-Control-Allow-Headers": Header("To a preflight, the headers that may be sent.", TEXT_SCHEMA),
    },
)
