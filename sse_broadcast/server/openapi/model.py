"""The OpenAPI document's own types, and the schemas of channels, ids and the like."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from sse_broadcast.channels import MAX_NAME_LENGTH, NAME_CHARACTERS, NO_FOLDER, PATTERN_CHARACTERS
from sse_broadcast.cursor import MAX_ID
from sse_broadcast.event import LONGEST_RETRY, MAX_KEY, SHORTEST_RETRY

Schema = Mapping[str, object]
"""A JSON schema, draft 2020-12."""

Requirement = Mapping[str, Sequence[str]]
"""Security schemes that are needed together; an empty one is no credential at all."""


class OpenApiObject(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An object of the document."""


class Ref(OpenApiObject, frozen=True):
    """What stands elsewhere in the document, under `components`."""

    to: str = msgspec.field(name="$ref")


class Example(OpenApiObject, frozen=True):
    """A value that works."""

    value: object
    summary: str = ""


class Media(OpenApiObject, frozen=True):
    """A body in one media type."""

    schema: Schema
    examples: Mapping[str, Example] = {}


class Header(OpenApiObject, frozen=True):
    """A header of an answer."""

    description: str
    schema: Schema
    required: bool = False


class Response(OpenApiObject, frozen=True):
    """An answer, which OpenAPI calls a response."""

    description: str
    headers: Mapping[str, Header] = {}
    content: Mapping[str, Media] = {}


class Body(OpenApiObject, frozen=True):
    """The body of a request."""

    content: Mapping[str, Media]
    description: str = ""
    required: bool = False


class Parameter(OpenApiObject, frozen=True):
    """What a request says beside its body. A path's list has commas, a query's is repeated."""

    name: str
    place: Literal["path", "query", "header"] = msgspec.field(name="in")
    description: str
    schema: Schema
    required: bool = False
    examples: Mapping[str, Example] = {}


class Operation(OpenApiObject, frozen=True):
    """What one method does at one path. `security` is None where no credential is asked for."""

    operation_id: str
    summary: str
    description: str = ""
    tags: Sequence[str] = ()
    parameters: Sequence[Parameter] = ()
    request_body: Body | None = None
    responses: Mapping[str, Response | Ref] = {}
    security: Sequence[Requirement] | None = None


class Path(OpenApiObject, frozen=True):
    """What can be done at one path."""

    parameters: Sequence[Parameter] = ()
    get: Operation | None = None
    head: Operation | None = None
    put: Operation | None = None
    post: Operation | None = None
    delete: Operation | None = None
    options: Operation | None = None


def text(pattern: str) -> Schema:
    """Return the schema of texts that a pattern matches as a whole."""
    return {"type": "string", "pattern": f"^{pattern}$"}


def choice(*values: str) -> Schema:
    """Return the schema of one of a few words."""
    return {"type": "string", "enum": list(values)}


def several(items: Schema) -> Schema:
    """Return the schema of one or more of these."""
    return {"type": "array", "items": items, "minItems": 1}


TEXT_SCHEMA: Schema = {"type": "string"}


def _channel(characters: str) -> Schema:
    # The hyphen is escaped: JavaScript compiles patterns with the flag `v`, which takes no bare one.
    return text(rf"{NO_FOLDER}[{characters.removesuffix('-')}\-]{{1,{MAX_NAME_LENGTH}}}")


CHANNEL_SCHEMA = _channel(NAME_CHARACTERS)

PATTERN_SCHEMA = _channel(PATTERN_CHARACTERS)

TYPE_SCHEMA = text(r"(?!\$|open$|error$)[^\u0000\r\n]+")
"""The type of an event that anyone may publish: neither the server's own nor EventSource's."""

KEY_SCHEMA = text(rf"[^\u0000\r\n]{{1,{MAX_KEY}}}")

_MEANT = "earliest|last|[0-9]{1,9}(ms|s|m|h|d)|[0-9a-f]{8}-[0-9]{1,19}"

ID_SCHEMA = text(rf"(?!({_MEANT})$)[A-Za-z0-9._\-]{{1,{MAX_ID}}}")
"""An id of a publisher's own: neither of the form of ours nor a meaning of `since`."""

RETRY_SCHEMA: Schema = {"type": "integer", "minimum": SHORTEST_RETRY, "maximum": LONGEST_RETRY}
"""Milliseconds."""


STREAM = Parameter(
    "id",
    "path",
    "The stream, by the id that `GET /subscribers` and the log give it.",
    text("[0-9]{1,19}"),
    required=True,
    examples={"first": Example("1")},
)


def kind(of: type) -> Schema:
    """Return the reference to the schema of a type that is in the document."""
    return {"$ref": f"#/components/schemas/{schema_name(of)}"}


def schema_name(of: type) -> str:
    """Return the name of a type's schema. It is part of the interface: clients are generated from it."""
    return getattr(of, "schema_name", of.__name__)


def or_null(schema: Schema) -> Schema:
    """Return a schema that takes null as well."""
    return {"anyOf": [schema, {"type": "null"}]}
