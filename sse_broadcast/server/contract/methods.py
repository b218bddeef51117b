"""Paths by what can be done there: HEAD follows from GET, PUT from POST, OPTIONS from all of them."""

from collections.abc import Sequence

import msgspec

from sse_broadcast.server.contract.fields import TEXT
from sse_broadcast.server.contract.problems import ANYWHERE, problems
from sse_broadcast.server.contract.words import Answer, Header, Operation, Parameter, Path, Requirement

METHODS = ("get", "head", "put", "post", "delete")
"""The methods that may need a credential: a browser that asks beforehand, by OPTIONS, sends none."""


def read(get: Operation, *parameters: Parameter) -> Path:
    """Give a path that is read."""
    head = _like(get, "Head", "The same, without its body")
    return Path(parameters=parameters, get=get, head=head, options=_options(get, parameters))


def write(post: Operation) -> Path:
    """Give a path that is written to."""
    return Path(post=post, options=_options(post))


def write_or_put(post: Operation, *parameters: Parameter) -> Path:
    """Give a path that is written to, in one way by either method."""
    put = _like(post, "Put", "The same, by the method that `curl -T` sends")
    return Path(parameters=parameters, put=put, post=post, options=_options(post, parameters))


def end(delete: Operation, *parameters: Parameter) -> Path:
    """Give a path at which something is ended."""
    return Path(parameters=parameters, delete=delete, options=_options(delete, parameters))


def joined(one: Path, other: Path) -> Path:
    """Give a path at which two endpoints do something, by methods of their own."""
    assert one.options is not None
    assert other.options is not None
    tags = [*one.options.tags, *other.options.tags]
    added = {method: getattr(other, method) for method in METHODS if getattr(other, method) is not None}
    return msgspec.structs.replace(one, **added, options=msgspec.structs.replace(one.options, tags=tags))


def guarded(path: Path, security: Sequence[Requirement] | None) -> Path:
    """Give a path whose methods need a credential."""
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
        parameters=[msgspec.structs.replace(each, schema=TEXT) for each in parameters],
        responses={"204": _ALLOWED, **problems(*ANYWHERE, *elsewhere)},
    )


_ALLOWED = Answer(
    "In `Allow`.",
    headers={
        "Allow": Header("The methods that are taken.", TEXT, required=True),
        "Access-Control-Allow-Origin": Header("The origin that asks, if its pages may use the server.", TEXT),
        "Access-Control-Allow-Methods": Header("To a preflight, the methods that are taken.", TEXT),
        "Access-Control-Allow-Headers": Header("To a preflight, the headers that may be sent.", TEXT),
    },
)
