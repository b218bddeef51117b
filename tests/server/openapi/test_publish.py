"""The OpenAPI operation POST /send."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.errors import BroadcastError
from sse_broadcast.server.endpoints import publish
from sse_broadcast.server.endpoints.publish_request import DraftBuilder
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.openapi.document import document
from sse_broadcast.server.openapi.publish import PUBLISH_PATHS
from sse_broadcast.server.openapi.security import SecuritySchemes
from tests.support.contract import operations

DOCUMENT = json.loads(document(SecuritySchemes()))
ANYWHERE, THERE = (
    next(each for each in operations(DOCUMENT) if each.said["operationId"] == name)
    for name in ("publish", "publishTo")
)
BROADCASTER = Broadcaster()

TEXTS = st.sampled_from(
    [
        "", "a", "a-1", "$a", "a\nb", "*", ".", "10m", "last", "0a1b2c3d-4", "x" * 129, "ü", "open", "error",
        "opened",
    ]
)  # fmt: skip
NUMBERS = st.sampled_from([0, -1, 499, 500, 700.0, 700.5, 3_600_000, 3_600_001, 2**31, 1e300])
VALUES = st.one_of(st.none(), st.booleans(), TEXTS, NUMBERS, st.lists(TEXTS, max_size=2), st.just({}))
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "message": st.one_of(TEXTS, VALUES),
        "data": VALUES,
        "event": st.one_of(TEXTS, VALUES),
        "id": st.one_of(TEXTS, VALUES),
        "retry": st.one_of(NUMBERS, VALUES),
        "key": st.one_of(TEXTS, VALUES),
        "channel": st.one_of(st.none(), TEXTS, VALUES),
        "channels": st.one_of(st.none(), st.lists(TEXTS, max_size=2), VALUES),
        "whatever": VALUES,
    },
)
"""Objects, most of which are no events."""

GOOD = st.fixed_dictionaries(
    {"message": TEXTS},
    optional={
        "event": st.sampled_from([None, "a", "ü", "error."]),
        "id": st.sampled_from([None, "a", "a-1", "x" * 128]),
        "retry": st.sampled_from([None, 500, 700.0]),
        "channel": st.sampled_from([None, "a"]),
        "channels": st.sampled_from([None, ["a", "b"]]),
    },
)
"""Objects, most of which are events."""


def is_taken(value: Any, *named: str) -> bool:
    builder = DraftBuilder(BROADCASTER, named, most=10, permit=lambda channels: None)
    try:
        builder.from_json(json.dumps(value).encode())
    except (Problem, BroadcastError):
        return False
    return True


@given(st.one_of(EVENTS, GOOD))
def test_the_schema_of_an_event_accepts_what_the_server_accepts(value: dict[str, Any]) -> None:
    """It accepts neither more nor less, with channels in the path and without."""
    for operation, named in ((ANYWHERE, ()), (THERE, ("news",))):
        schema = operation.said["requestBody"]["content"]["application/x-ndjson"]["schema"]
        assert operation.validator(schema).is_valid(value) == is_taken(value, *named)


def test_the_parameters_are_those_of_the_parser() -> None:
    """This holds for both methods, and with channels in the path."""
    for path in PUBLISH_PATHS.values():
        for operation in (path.post, path.put):
            assert operation is not None
            documented = {parameter.name for parameter in operation.parameters if parameter.place == "query"}
            assert documented == set(publish.PUBLISH_PARAMETERS)


def test_a_text_body_may_have_any_type() -> None:
    """curl's default type counts as text as well."""
    assert ANYWHERE.said["requestBody"]["content"]["text/plain"]["schema"] == {"type": "string"}
