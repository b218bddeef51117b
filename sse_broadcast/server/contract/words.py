"""The words of the contract: OpenAPI 3.1's own objects, as far as they are needed here.

Each is written as JSON as it stands; what is left at its default is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

Schema = Mapping[str, object]
"""A JSON schema, draft 2020-12."""

Requirement = Mapping[str, Sequence[str]]
"""Security schemes that are needed together; an empty one is no credential at all."""


class Word(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An object of the document."""


class Ref(Word, frozen=True):
    """What stands elsewhere in the document, under `components`."""

    to: str = msgspec.field(name="$ref")


class Example(Word, frozen=True):
    """A value that works."""

    value: object
    summary: str = ""


class Media(Word, frozen=True):
    """A body in one media type."""

    schema: Schema
    examples: Mapping[str, Example] = {}


class Header(Word, frozen=True):
    """A header of an answer."""

    description: str
    schema: Schema
    required: bool = False


class Answer(Word, frozen=True):
    """An answer, which OpenAPI calls a response."""

    description: str
    headers: Mapping[str, Header] = {}
    content: Mapping[str, Media] = {}


class Body(Word, frozen=True):
    """The body of a request."""

    content: Mapping[str, Media]
    description: str = ""
    required: bool = False


class Parameter(Word, frozen=True):
    """What a request says beside its body. A path's list has commas, a query's is repeated."""

    name: str
    place: Literal["path", "query", "header"] = msgspec.field(name="in")
    description: str
    schema: Schema
    required: bool = False
    examples: Mapping[str, Example] = {}


class Operation(Word, frozen=True):
    """What one method does at one path. `security` is None where no credential is asked for."""

    operation_id: str
    summary: str
    description: str = ""
    tags: Sequence[str] = ()
    parameters: Sequence[Parameter] = ()
    request_body: Body | None = None
    responses: Mapping[str, Answer | Ref] = {}
    security: Sequence[Requirement] | None = None


class Path(Word, frozen=True):
    """What can be done at one path."""

    parameters: Sequence[Parameter] = ()
    get: Operation | None = None
    head: Operation | None = None
    put: Operation | None = None
    post: Operation | None = None
    delete: Operation | None = None
    options: Operation | None = None
