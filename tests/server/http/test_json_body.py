"""JSON bodies: decoding, and the errors for invalid JSON or another shape."""

import json
from typing import Annotated

import msgspec
import pytest

from sse_broadcast.server.http.json_body import (
    JsonShape,
    decode_anything,
    decode_json,
    has_more_items,
    require_utf8,
    unknown_member,
)
from sse_broadcast.server.http.problem import Problem
from tests.support.problems import refused


class Parcel(msgspec.Struct, forbid_unknown_fields=True):
    """A type with members of every kind."""

    name: str
    weight: Annotated[float, msgspec.Meta(ge=1)] | None = None
    sealed: bool = False
    items: list[str] | None = None
    contents: dict[str, list[int]] | None = None
    note: msgspec.Raw = msgspec.Raw(b"null")


SHAPE = JsonShape(
    Parcel,
    {
        "name": "must be text{not}",
        "weight": "must be kilograms, 1 or more{not}",
        "sealed": "must be true or false{not}; say it",
        "items": "must be a list of texts{not}",
        "contents": "must be an object of lists",
        "note": "must be JSON",
    },
)

KNOWN = "name, weight, sealed, items, contents, note"


def test_an_object_of_the_shape_is_decoded() -> None:
    body = b'{"name": "caf\xc3\xa9", "weight": 2}'
    parcel = Parcel("caf\u00e9", 2.0)
    assert SHAPE.decode(body) == parcel
    assert SHAPE.decode_quickly(body) == parcel
    assert SHAPE.decode_array(b" [%b, %b] " % (body, body)) == [parcel, parcel]
    assert SHAPE.decode_array(b"[]") == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("[]", "must be a JSON object, not a list"),
        ("null", "must be a JSON object, not null"),
        ("true", "must be a JSON object, not true or false"),
        ("1", "must be a JSON object, not a number"),
        ("1.5", "must be a JSON object, not a number"),
        ('"x"', "must be a JSON object, not text"),
        ("{}", "name: is missing"),
        ('{"name": 1}', "name: must be text, not a number"),
        ('{"name": {"a": 1}}', "name: must be text, not an object"),
        ('{"name": "x", "weight": "1"}', "weight: must be kilograms, 1 or more, not text"),
        ('{"name": "x", "weight": 0.5}', "weight: must be kilograms, 1 or more"),
        ('{"name": "x", "sealed": null}', "sealed: must be true or false, not null; say it"),
        ('{"name": "x", "items": {}}', "items: must be a list of texts, not an object"),
        ('{"name": "x", "items": ["a", 1]}', "items: must be a list of texts, not a number"),
        ('{"name": "x", "contents": {"a": 1}}', "contents: must be an object of lists"),
        ('{"name": "x", "contents": {"a": [1, "2"]}}', "contents: must be an object of lists"),
        ('{"name": "x", "wieght": 1}', "wieght: unknown member; did you mean weight?"),
        ('{"Name": "x"}', "Name: unknown member; did you mean name?"),
        ('{"name": "x", "colour": 1}', f"colour: unknown member; {KNOWN} are known"),
        ('{"a`b": 1}', f"a`b: unknown member; {KNOWN} are known"),
    ],
)
def test_an_error_of_shape_is_in_plain_words(body: str, detail: str) -> None:
    """The error has the member, its expected and its actual type, and in an array the item."""
    with refused(422, detail):
        SHAPE.decode(body.encode())
    with refused(422, f"item 2: {detail}"):
        SHAPE.decode_array(f'[{{"name": "x"}}, {body}, 7]'.encode())


@pytest.mark.parametrize("body", ["{}", "null", '"x"', "1"])
def test_an_error_of_a_body_that_is_no_array_names_no_item(body: str) -> None:
    with pytest.raises(Problem) as raised:
        SHAPE.decode_array(body.encode())
    assert raised.value.status == 422
    assert "item" not in raised.value.detail


@pytest.mark.parametrize(
    "name",
    [
        "x - at `$.no_such",
        "x - at `$.name",
        "x - at `$[" + "1" * 5000 + "]",
        "x - at `$." + "a" * 1_000_000 + "`b",
        "x` - at `$.name",
        "x` - at `$.no_such",
        "x` - at `$[3]",
        "x` - at `$[3].weight",
        "x` - at `$[" + "9" * 5000 + "]",
        "x\n` - at `$",
        "Expected `str`, got `int` - at `$.name",
    ],
)
def test_a_name_that_looks_like_an_item_is_a_name(name: str) -> None:
    """Clients choose names. No item is named that does not exist, and nothing fails."""
    with pytest.raises(Problem) as raised:
        SHAPE.decode(json.dumps({name: 1}).encode())
    assert raised.value.status == 422
    assert raised.value.detail.endswith(f"unknown member; {KNOWN} are known")
    assert not raised.value.detail.startswith("item")
    with pytest.raises(Problem) as raised:
        SHAPE.decode_array(json.dumps([{"name": "x"}, {name: 1}]).encode())
    assert (raised.value.status, raised.value.detail[:8]) == (422, "item 2: ")
    assert raised.value.detail.endswith(f"unknown member; {KNOWN} are known")


def test_a_quick_decode_does_not_explain_its_error() -> None:
    """The caller names the item in its own way."""
    with pytest.raises(msgspec.ValidationError):
        SHAPE.decode_quickly(b"[]")
    with pytest.raises(msgspec.DecodeError):
        SHAPE.decode_quickly(b"{")


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("chanel", ("channel", "event"), "chanel: unknown member; did you mean channel?"),
        ("topic", ("channel", "event"), "topic: unknown member; did you mean channel?"),
        ("topic", ("event",), "topic: unknown member; event are known"),
        ("x", ("channel", "event"), "x: unknown member; channel, event are known"),
        ("y" * 100, ("channel",), f"{'y' * 80}: unknown member; channel are known"),
    ],
)
def test_an_unknown_member_is_named_with_a_suggestion(name: str, known: tuple[str, ...], said: str) -> None:
    assert unknown_member(name, known) == said


MALFORMED = "body: is not JSON: JSON is malformed"
DEEP = "body: is nested more than 64 deep"

NOT_JSON = [
    (b"", 400, "body: is not JSON: Input data was truncated"),
    (b"{", 400, "body: is not JSON: Input data was truncated"),
    (b'{"name": "x", "items": nul', 400, "body: is not JSON: Input data was truncated"),
    (b'{"name": NaN}', 400, "body: is not JSON: JSON is malformed: invalid character (byte 9)"),
    (b'{"name": "x", "weight": -Infinity}', 400, f"{MALFORMED}: invalid character (byte 25)"),
    (b'{"name": "x"} x', 400, "body: is not JSON: JSON is malformed: trailing characters (byte 15)"),
    (b"\xef\xbb\xbf{}", 400, "body: is not JSON: JSON is malformed: invalid character (byte 0)"),
    (b'{"name": "\xff"}', 400, "body: is not UTF-8 at byte 10"),
    (b'{"name": "x", "other": "\xc3"}', 400, "body: is not UTF-8 at byte 24"),
    (b'{"name": "\xed\xa0\x80"}', 400, "body: is not UTF-8 at byte 10"),
    (b'{"name": "\\ud800"}', 422, "body: has a lone surrogate, which no event can carry"),
    (b'{"\\udc00": 1}', 422, "body: has a lone surrogate, which no event can carry"),
    (
        b'{"name": "\\ud800", "n": NaN}',
        400,
        "body: is not JSON: JSON is malformed: unexpected end of escaped utf-16 surrogate pair (byte 16)",
    ),
    (b'{"name": "x", "note": %b}' % (b"[" * 100_000 + b"]" * 100_000), 422, DEEP),
    (b'{"name": "x", "note": %b' % (b"[" * 800), 422, DEEP),
]


@pytest.mark.parametrize(
    ("body", "status", "detail"), NOT_JSON, ids=[str(number) for number in range(len(NOT_JSON))]
)
def test_a_body_that_is_not_json_is_refused(body: bytes, status: int, detail: str) -> None:
    for decode in (SHAPE.decode, decode_anything):
        with refused(status, detail):
            decode(body)
    with pytest.raises(Problem) as raised:
        SHAPE.decode_array(b'[{"name": "y"},%b]' % body)
    assert raised.value.status == status


@pytest.mark.parametrize("body", [b"1e400", b'{"a": [-1e400]}'])
def test_a_number_beyond_all_types_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        decode_anything(body)
    assert raised.value.status == 422
    assert raised.value.detail.startswith("body: has a ")


def test_any_json_is_decoded() -> None:
    body = b' {"a": [1, 2.5, null, true, "\xc3\xa9", {}], "big": 123456789012345678901234567890} '
    assert decode_anything(body) == json.loads(body)


def test_the_shape_is_optional() -> None:
    """Without one, errors have msgspec's own text."""
    with pytest.raises(msgspec.ValidationError):
        decode_json(msgspec.json.Decoder(int).decode, b'"x"')


@pytest.mark.parametrize(
    ("body", "byte"), [(b"\xff", 0), (b"abc\xc3", 3), (b"\xc3\xa9\xc3(", 2), (b"ok \xed\xb0\x80", 3)]
)
def test_the_error_names_the_byte_that_is_not_utf8(body: bytes, byte: int) -> None:
    with refused(400, f"body: is not UTF-8 at byte {byte}"):
        require_utf8(body)


@pytest.mark.parametrize("body", [b"", b"abc", b"\0", "caf\u00e9 \U0001f600 \ufeff".encode()])
def test_utf8_is_accepted(body: bytes) -> None:
    require_utf8(body)


@pytest.mark.parametrize(
    ("array", "most", "more"),
    [
        (b"[]", 1, False),
        (b"[{}]", 1, False),
        (b" [ {} , {} ] ", 1, True),
        (b'[{"a":[1,2,{}]},{"b":"},{"}]', 2, False),
        (b'[{"a":[1,2,{}]},{"b":"},{"},{', 2, True),
        (b"[{},{},{}", 2, True),
        (b"[{},{},x", 2, True),
        (b"[{},x", 2, False),
        (b"[%s,{},{}]" % (b"1" * 5000), 2, True),
        (b'[1.5e400,-0,"\\ud800",{}]', 3, True),
        (b"[NaN,{}]", 1, False),
        (b"[,", 1, False),
        (b"[", 1, False),
    ],
)
def test_items_are_counted_without_decoding_them(array: bytes, most: int, *, more: bool) -> None:
    """The count ends at the first byte that is not JSON, where decoding would end too."""
    assert has_more_items(array, most) is more


def test_an_array_too_deep_to_count_is_refused() -> None:
    """Otherwise the items after it would be decoded uncounted."""
    with pytest.raises(Problem, match=r"^body: is nested more than 64 deep$"):
        has_more_items(b"[" * 100_000 + b"{}", 1)
