"""What channels, ids, types and the like may be, as JSON schemas. What decides is the nouns' own check."""

from sse_broadcast.cursor import MAX_ID
from sse_broadcast.event import LONGEST_RETRY, MAX_KEY, SHORTEST_RETRY
from sse_broadcast.interest import MAX_NAME
from sse_broadcast.server.contract.words import Example, Parameter, Schema


def text(pattern: str) -> Schema:
    """Give the schema of texts that a pattern matches as a whole."""
    return {"type": "string", "pattern": f"^{pattern}$"}


def choice(*values: str) -> Schema:
    """Give the schema of one of a few words."""
    return {"type": "string", "enum": list(values)}


def several(items: Schema) -> Schema:
    """Give the schema of one or more of these."""
    return {"type": "array", "items": items, "minItems": 1}


TEXT: Schema = {"type": "string"}

CHANNEL = text(rf"(?!\.{{1,2}}$)[A-Za-z0-9._:@~\-]{{1,{MAX_NAME}}}")

PATTERN = text(rf"(?!\.{{1,2}}$)[A-Za-z0-9._:@~*\-]{{1,{MAX_NAME}}}")

TYPE = text(r"(?!\$|open$|error$)[^\u0000\r\n]+")
"""The type of an event that anyone may publish: neither the server's own nor EventSource's."""

KEY = text(rf"[^\u0000\r\n]{{1,{MAX_KEY}}}")

_MEANT = "earliest|last|[0-9]{1,9}(ms|s|m|h|d)|[0-9a-f]{8}-[0-9]{1,19}"

ID = text(rf"(?!({_MEANT})$)[A-Za-z0-9._\-]{{1,{MAX_ID}}}")
"""An id of a publisher's own: neither of the form of ours nor a meaning of `since`."""

RETRY: Schema = {"type": "integer", "minimum": SHORTEST_RETRY, "maximum": LONGEST_RETRY}
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
    """Give the reference to the schema of a type that is in the document."""
    return {"$ref": f"#/components/schemas/{of.__name__}"}


def or_null(schema: Schema) -> Schema:
    """Give a schema that takes null as well."""
    return {"anyOf": [schema, {"type": "null"}]}
