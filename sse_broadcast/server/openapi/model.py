"""Types of the OpenAPI document, and the schemas of channels, ids and other common values."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from sse_broadcast.channels import MAX_NAME_LENGTH, NAME_CHARACTERS, NO_FOLDER, PATTERN_CHARACTERS
from sse_broadcast.cursor import MAX_ID
from sse_broadcast.event import LONGEST_RETRY, MAX_KEY, SHORTEST_RETRY

Schema = Mapping[str, object]
"""A JSON schema, draft 2020-12."""

Requirement = Mapping[str, Sequence[str]]
"""Security schemes that are needed together. An empty mapping means that none is needed."""


class OpenApiObject(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Base of the objects of the document."""


class Ref(OpenApiObject, frozen=True):
    """A reference to an object under `components`."""

    to: str = msgspec.field(name="$ref")


class Example(OpenApiObject, frozen=True):
    """A valid value."""

    value: object
    summary: str = ""


class Media(OpenApiObject, frozen=True):
    """A body of one media type."""

    schema: Schema
    examples: Mapping[str, Example] = {}


class Header(OpenApiObject, frozen=True):
    """A header of a response."""

    description: str
    schema: Schema
    required: bool = False


class Response(OpenApiObject, frozen=True):
    """A response."""

    description: str
    headers: Mapping[str, Header] = {}
    content: Mapping[str, Media] = {}


class Body(OpenApiObject, frozen=True):
    """The body of a request."""

    content: Mapping[str, Media]
    description: str = ""
    required: bool = False


class Parameter(OpenApiObject, frozen=True):
    """A parameter in the path, the query or a header.

    A list in the path is separated by commas; in the query the parameter is repeated.
    """

    name: str
    place: Literal["path", "query", "header"] = msgspec.field(name="in")
    description: str
    schema: Schema
    required: bool = False
    examples: Mapping[str, Example] = {}


class Operation(OpenApiObject, frozen=True):
    """One method of one path. `security` is None if no credential is needed."""

    operation_id: str
    summary: str
    description: str = ""
    tags: Sequence[str] = ()
    parameters: Sequence[Parameter] = ()
    request_body: Body | None = None
    responses: Mapping[str, Response | Ref] = {}
    security: Sequence[Requirement] | None = None


class Path(OpenApiObject, frozen=True):
    """The methods of one path."""

    parameters: Sequence[Parameter] = ()
    get: Operation | None = None
    head: Operation | None = None
    put: Operation | None = None
    post: Operation | None = None
    delete: Operation | None = None
    options: Operation | None = None


def text(pattern: str) -> Schema:
    """Return the schema of a string that matches a pattern as a whole."""
    return {"type": "string", "pattern": f"^{pattern}$"}


def choice(*values: str) -> Schema:
    """Return the schema of one of some strings."""
    return {"type": "string", "enum": list(values)}


def several(items: Schema) -> Schema:
    """Return the schema of a list with at least one item."""
    return {"type": "array", "items": items, "minItems": 1}


TEXT_SCHEMA: Schema = {"type": "string"}


def _channel(characters: str) -> Schema:
    # The hyphen is escaped: with the flag `v`, JavaScript refuses a bare one in a character class.
    return text(rf"{NO_FOLDER}[{characters.removesuffix('-')}\-]{{1,{MAX_NAME_LENGTH}}}")


CHANNEL_SCHEMA = _channel(NAME_CHARACTERS)

PATTERN_SCHEMA = _channel(PATTERN_CHARACTERS)

TYPE_SCHEMA = text(r"(?!\$|open$|error$)[^\u0000\r\n]+")
"""An event type for publishers. Types with `$` are the server's, `open` and `error` are EventSource's."""

KEY_SCHEMA = text(rf"[^\u0000\r\n]{{1,{MAX_KEY}}}")

_MEANT = "earliest|last|[0-9]{1,9}(ms|s|m|h|d)|[0-9a-f]{8}-[0-9]{1,19}"

ID_SCHEMA = text(rf"(?!({_MEANT})$)[A-Za-z0-9._\-]{{1,{MAX_ID}}}")
"""An event id that a publisher may choose: not in the server's own form, and not a value of `since`."""

RETRY_SCHEMA: Schema = {"type": "integer", "minimum": SHORTEST_RETRY, "maximum": LONGEST_RETRY}
"""Milliseconds."""


STREAM = Parameter(
    "id",
    "path",
    "The id of the stream, as in `GET /subscribers` and in the log.",
    text("[0-9]{1,19}"),
    required=True,
    examples={"first": Example("1")},
)


def kind(of: type) -> Schema:
    """Return a reference to the schema of a type that the document contains."""
    return {"$ref": f"#/components/schemas/{schema_name(of)}"}


def schema_name(of: type) -> str:
    """Return the name of a type's schema."""
    # Part of the interface: generated clients name their classes so. Renaming a class of ours must not
    # rename its schema.
    return getattr(of, "schema_name", of.__name__)


def or_null(schema: Schema) -> Schema:
    """Return a schema that also allows null."""
    return {"anyOf": [schema, {"type": "null"}]}
