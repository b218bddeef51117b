"""The types of the OpenAPI document, and its schemas."""

from collections.abc import Callable

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.channels import Selector, validate_channels
from sse_broadcast.errors import EventError
from sse_broadcast.event import Event
from sse_broadcast.server.openapi import model
from sse_broadcast.server.openapi.model import Schema

BROADCASTER = Broadcaster()

TAKEN: dict[str, tuple[Schema, Callable[[str], object]]] = {
    "channel": (model.CHANNEL_SCHEMA, lambda text: validate_channels([text])),
    "pattern": (model.PATTERN_SCHEMA, Selector.parse),
    "type": (model.TYPE_SCHEMA, lambda text: BROADCASTER.draft(Event("x", text))),
    "id": (model.ID_SCHEMA, lambda text: BROADCASTER.draft(Event("x", id=text))),
    "key": (model.KEY_SCHEMA, lambda text: Event("x", key=text)),
}

TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=200),
    st.text("abc019.-_:@~*$ /\n\r\0", max_size=130),
    st.from_regex("[0-9a-f]{8}-[0-9]{1,20}", fullmatch=True),
    st.from_regex("[0-9]{1,10}(ms|s|m|h|d|w)", fullmatch=True),
    st.sampled_from(["earliest", "last", "lastly", ".", "..", "...", "a\n", "a\r", "$a", "a$", "", "*"]),
    st.integers(127, 129).map("a".__mul__),
)


def takes(check: Callable[[str], object], text: str) -> bool:
    try:
        check(text)
    except EventError:
        return False
    return True


@pytest.mark.parametrize("name", TAKEN)
@given(text=TEXTS)
def test_a_pattern_accepts_what_its_parser_accepts(name: str, text: str) -> None:
    """It accepts neither more nor less: a request that fits the document is never refused."""
    schema, check = TAKEN[name]
    assert jsonschema_rs.is_valid(dict(schema), text) == takes(check, text)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (model.choice("a", "b"), ["a", "b"], ["", "A", 1, None]),
        (model.several(model.CHANNEL_SCHEMA), [["a"], ["a", "b"]], [[], ["a", "*"], "a"]),
        (model.or_null(model.KEY_SCHEMA), [None, "k"], ["", 1]),
        (model.RETRY_SCHEMA, [500, 3_600_000, 3000.0], [499, 0, -1, 3_600_001, 1000.5, "1000"]),
    ],
)
def test_a_schema_accepts_and_refuses(schema: Schema, good: list[object], bad: list[object]) -> None:
    assert [value for value in good if not jsonschema_rs.is_valid(dict(schema), value)] == []
    assert [value for value in bad if jsonschema_rs.is_valid(dict(schema), value)] == []
