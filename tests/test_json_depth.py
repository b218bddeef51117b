"""The nesting depth of JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast import json_depth
from sse_broadcast.json_depth import MAX_DEPTH, first_deep_item, is_too_deep

TEXTS = st.text(st.sampled_from('[]{}",\\\\a\u00e9\\n'), max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@given(value=VALUES, plain=st.booleans())
def test_the_depth_is_that_of_the_value(*, value: Any, plain: bool) -> None:
    data = json.dumps(value, ensure_ascii=plain).encode()
    with pytest.MonkeyPatch.context() as patch:
        for most in range(6):
            patch.setattr(json_depth, "MAX_DEPTH", most)
            assert is_too_deep(data) == (depth_of(value) > most)


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH])
def test_the_maximum_depth_is_accepted(depth: int) -> None:
    assert not is_too_deep(nested(depth))
    assert not is_too_deep(b"[" + b",".join([nested(max(depth - 1, 0))] * 50) + b"]")


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 2000, 100_000])
def test_one_more_level_is_too_deep(depth: int) -> None:
    assert is_too_deep(nested(depth))
    assert is_too_deep(b'{"a":"' + b"]" * depth + b'","b":' + nested(depth) + b"}")
    assert is_too_deep(b'["]",' * depth + b"1" + b"]" * depth)


@pytest.mark.parametrize("data", [b"", b'"', b"]" * 100, b"[" * 64, b"\\", b'"\\', b"\xff" * 100])
def test_malformed_json_has_some_depth(data: bytes) -> None:
    assert not is_too_deep(data)


def test_the_item_beyond_the_depth_is_found() -> None:
    deep = b'{"data":%b}' % nested(MAX_DEPTH + 1)
    others = [b'{"message":"]}["}', b'{"data":{"a":[[]]}}']
    assert first_deep_item(b"[%b]" % b",".join([deep, *others])) == 1
    assert first_deep_item(b"[%b]" % b",".join([*others, deep, deep])) == 3
