"""Publish requests: the JSON of events, and the drafts made of them."""

import json

import pytest

from sse_broadcast import Broadcaster, Config
from sse_broadcast.errors import BroadcastError, EventError, EventTooLargeError, ListenError
from sse_broadcast.event import Event
from sse_broadcast.publication import Draft
from sse_broadcast.server.endpoints.publish_request import DraftBuilder, at_line
from sse_broadcast.server.http.problem import Problem
from tests.support.problems import refused


def builder(*named: str, most: int = 1000) -> DraftBuilder:
    """Return the draft builder of a request whose URL names these channels."""
    broadcaster = Broadcaster(Config(max_event=1000, max_channels=3))
    return DraftBuilder(broadcaster, named, most=most, permit=lambda _: None)


@pytest.mark.parametrize(
    ("content", "event", "channels"),
    [
        ('{"message": "x"}', Event("x"), ("default",)),
        ('{"message": ""}', Event(""), ("default",)),
        ('{"message": "x", "event": "t"}', Event("x", "t"), ("default",)),
        ('{"message": "x", "event": null, "id": null, "key": null, "retry": null}', Event("x"), ("default",)),
        ('{"message": "x", "id": "order-7"}', Event("x", id="order-7"), ("default",)),
        ('{"message": "x", "key": "k k"}', Event("x", key="k k"), ("default",)),
        ('{"message": "x", "retry": 500}', Event("x", retry=500), ("default",)),
        ('{"message": "x", "retry": 3000.0}', Event("x", retry=3000), ("default",)),
        ('{"message": "x", "retry": 3600000}', Event("x", retry=3_600_000), ("default",)),
        ('{"message": "x", "channel": "a"}', Event("x"), ("a",)),
        ('{"message": "x", "channels": ["b", "a", "b"]}', Event("x"), ("b", "a")),
        ('{"message": "x", "channel": null, "channels": null}', Event("x"), ("default",)),
        ('{"message": "x", "channel": null, "channels": ["a"]}', Event("x"), ("a",)),
        ('{"data": "x"}', Event("x"), ("default",)),
        ('{"data": "\\u00e9\\n"}', Event("\u00e9\n"), ("default",)),
        ('{"data": 1.50}', Event("1.50", json=True), ("default",)),
        ('{"data": null}', Event("null", json=True), ("default",)),
        ('{"data": false}', Event("false", json=True), ("default",)),
        ('{"data": []}', Event("[]", json=True), ("default",)),
        ('{"data" : { "b" : [ 1 , "\\u00e9 " ] } }', Event('{"b":[1,"\\u00e9 "]}', json=True), ("default",)),
        (
            '{"data": 123456789012345678901234567890}',
            Event("123456789012345678901234567890", json=True),
            ("default",),
        ),
        ('\n\t {"message": "x"}\r\n ', Event("x"), ("default",)),
    ],
)
def test_a_json_object_becomes_a_draft(content: str, event: Event, channels: tuple[str, ...]) -> None:
    """`message` is text. `data` is text as it is, or other JSON in compact form."""
    assert builder().from_json(content.encode()) == Draft(channels, event)


def test_the_channels_of_the_url_apply_to_every_event() -> None:
    assert builder("b", "a", "b").from_event(Event("x")) == Draft(("b", "a"), Event("x"))
    assert builder("b", "a").from_json(b'{"message": "x", "channel": null}').channels == ("b", "a")
    assert builder().from_event(Event("x")) == Draft(("default",), Event("x"))


@pytest.mark.parametrize(
    ("named", "detail"),
    [
        (["a", "b b"], "channel: must not contain ' ': 'b b'"),
        ([""], "channel: must be 1 to 128 characters: ''"),
        (["orders.*"], "channel: must not contain '*': 'orders.*'"),
        (["a", "b", "c", "d"], "channels: 4 given, at most 3 allowed"),
    ],
)
def test_the_channels_of_the_url_are_checked_before_any_event(named: list[str], detail: str) -> None:
    """So the error names no item and no line."""
    with pytest.raises(EventError) as raised:
        builder(*named)
    assert str(raised.value) == detail


MISSING = "message: is missing; send text as message, or any JSON as data"

NO_TEXT = "message: must be text, not a number; JSON goes in data"

MALFORMED = "body: is not JSON: JSON is malformed"

ONE_OF_THEM = "only one of them may be given"

OF_EVENT_SOURCE = "is reserved: browsers fire EventSource events of this name"

RESERVED = "event: types that begin with $ are reserved for the server"

RETRY = "retry: must be whole milliseconds from 500 to 3600000"

KNOWN = "message, data, event, id, retry, key, channel, channels"

A = '{"message":"a"}'

SHAPES = [
    (b'{"message":', 400, "body: is not JSON: Input data was truncated"),
    (b"", 400, "body: is not JSON: Input data was truncated"),
    (b'{"message": "x"} x', 400, f"{MALFORMED}: trailing characters (byte 18)"),
    (b'{"message": NaN}', 400, f"{MALFORMED}: invalid character (byte 12)"),
    (b'{"data": NaN}', 400, f"{MALFORMED}: invalid character (byte 9)"),
    (b'{"data": Infinity}', 400, f"{MALFORMED}: invalid character (byte 9)"),
    (b'\xef\xbb\xbf{"message": "x"}', 400, f"{MALFORMED}: invalid character (byte 0)"),
    (b'{"message": "\xff"}', 400, "body: is not UTF-8 at byte 13"),
    (b'{"message": "x", "event": "caf\xc3"}', 400, "body: is not UTF-8 at byte 30"),
    (b'{"message": "a\\ud800"}', 422, "body: has a lone surrogate, which no event can carry"),
    (b'{"data": "a\\udc00b"}', 422, "body: has a lone surrogate, which no event can carry"),
    (b'{"data": ["a\\udc00b"]}', 422, "body: has a lone surrogate, which no event can carry"),
    (b"[]", 422, "must be a JSON object, not a list"),
    (b"null", 422, "must be a JSON object, not null"),
    (b'"x"', 422, "must be a JSON object, not text"),
    (b"7", 422, "must be a JSON object, not a number"),
    (b"{}", 422, MISSING),
    (b'{"event": "t"}', 422, MISSING),
    (b'{"message": 1}', 422, NO_TEXT),
    (b'{"message": null}', 422, "message: must be text, not null; JSON goes in data"),
    (b'{"message": {"a": 1}}', 422, "message: must be text, not an object; JSON goes in data"),
    (b'{"message": ["a"]}', 422, "message: must be text, not a list; JSON goes in data"),
    (b'{"message": true}', 422, "message: must be text, not true or false; JSON goes in data"),
    (b'{"message": "x", "data": null}', 422, "message and data: only one of them may be given"),
    (b'{"message": "x", "event": 1}', 422, "event: must be text, not a number"),
    (b'{"message": "x", "id": 7}', 422, "id: must be text, not a number"),
    (b'{"message": "x", "key": 7}', 422, "key: must be text, not a number"),
    (b'{"message": "x", "retry": "7"}', 422, f"{RETRY}, not text"),
    (b'{"message": "x", "retry": 1.5}', 422, RETRY),
    (b'{"message": "x", "retry": 1000.5}', 422, RETRY),
    (b'{"message": "x", "retry": -1}', 422, RETRY),
    (b'{"message": "x", "retry": 0}', 422, RETRY),
    (b'{"message": "x", "retry": 499}', 422, RETRY),
    (b'{"message": "x", "retry": 3600001}', 422, RETRY),
    (
        b'{"message": "x", "channel": ["a"]}',
        422,
        "channel: must be text, not a list; use channels for several",
    ),
    (b'{"message": "x", "channels": "a"}', 422, "channels: must be a list of names, not text"),
    (b'{"message": "x", "chanel": "a"}', 422, "chanel: unknown member; did you mean channel?"),
    (b'{"message": "x", "topic": "a"}', 422, "topic: unknown member; did you mean channel?"),
    (b'{"message": "x", "Event": "t"}', 422, "Event: unknown member; did you mean event?"),
    (b'{"mesage": "x"}', 422, "mesage: unknown member; did you mean message?"),
    (b'{"text": "x"}', 422, "text: unknown member; did you mean message?"),
    (b'{"payload": {}}', 422, "payload: unknown member; did you mean data?"),
    (b'{"message": "x", "type": "t"}', 422, "type: unknown member; did you mean event?"),
    (b'{"message": "x", "unknown": [1]}', 422, f"unknown: unknown member; {KNOWN} are known"),
    (b'{"message": "x", "": 1}', 422, f": unknown member; {KNOWN} are known"),
    (b'{"message": "x", "channel": "a", "channels": ["a"]}', 422, f"channel and channels: {ONE_OF_THEM}"),
]


@pytest.mark.parametrize(("content", "status", "detail"), SHAPES)
def test_json_of_the_wrong_shape_is_a_problem(content: bytes, status: int, detail: str) -> None:
    with refused(status, detail):
        builder().from_json(content)


@pytest.mark.parametrize("content", [b'{"data": %s}', b'{"id": "x", "data": %s}'])
@pytest.mark.parametrize("depth", [65, 900, 2000, 100_000])
def test_json_that_is_nested_too_deeply_is_a_problem(content: bytes, depth: int) -> None:
    """The text is the same for every interpreter, although their decoders have different limits."""
    body = content % (b"[" * depth + b"]" * depth)
    for give, said, place in (
        (builder().from_json, body, ""),
        (builder().from_array, b'[{"message": "]["}, %s]' % body, "item 2: "),
        (builder().from_ndjson, b"\n%s" % body, "line 2: "),
    ):
        with refused(422, f"{place}body: is nested more than 64 deep"):
            give(said)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_json_of_the_maximum_depth_is_an_event(opening: bytes) -> None:
    """Brackets in its strings do not count."""
    closing = b"]" if opening == b"[" else b"}"
    data = opening * 63 + b'["' + b"[{" * 100 + b'"]' + closing * 63
    assert builder().from_json(b'{"data": %b}' % data).event.data == data.decode()


@pytest.mark.parametrize("member", ['"channel": "a"', '"channels": ["a"]', '"channels": []'])
def test_channels_in_the_url_and_in_the_json_are_refused(member: str) -> None:
    """Otherwise one of the two would be ignored."""
    with refused(422, "channel: the URL of the request already names the channels"):
        builder("a").from_json(f'{{"message": "x", {member}}}'.encode())


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ('{"message": "x", "event": ""}', "event: must not be empty"),
        ('{"message": "x", "event": "a\\nb"}', "event: must not contain LF: 'a\\nb'"),
        ('{"message": "x", "event": "a\\u0000"}', "event: must not contain NUL: 'a\\x00'"),
        ('{"message": "x", "event": "$close"}', f"{RESERVED}: '$close'"),
        ('{"message": "x", "event": "open"}', f"event: 'open' {OF_EVENT_SOURCE}"),
        ('{"message": "x", "event": "error"}', f"event: 'error' {OF_EVENT_SOURCE}"),
        ('{"message": "x", "id": ""}', "id: must be 1 to 128 characters: ''"),
        ('{"message": "x", "id": "a b"}', "id: must not contain ' ': 'a b'"),
        ('{"message": "x", "id": "a\\u0000"}', "id: must not contain NUL: 'a\\x00'"),
        ('{"message": "x", "id": "last"}', "id: 'last' has a meaning for `since`"),
        ('{"message": "x", "id": "5ms"}', "id: '5ms' has a meaning for `since`"),
        ('{"message": "x", "id": "0123abcd-7"}', "id: '0123abcd-7' has the form of the server's own ids"),
        ('{"message": "x", "key": ""}', "key: must be 1 to 128 characters: ''"),
        ('{"message": "x", "key": "a\\rb"}', "key: must not contain CR: 'a\\rb'"),
        ('{"message": "x", "channel": ""}', "channel: must be 1 to 128 characters: ''"),
        ('{"message": "x", "channel": "a,b"}', "channel: must not contain ',': 'a,b'"),
        ('{"message": "x", "channel": "orders.*"}', "channel: must not contain '*': 'orders.*'"),
        ('{"message": "x", "channels": []}', "channels: must name at least one"),
        ('{"message": "x", "channels": ["a", "b", "c", "d"]}', "channels: 4 given, at most 3 allowed"),
    ],
)
def test_an_invalid_field_of_an_event_is_an_error(content: str, detail: str) -> None:
    with pytest.raises(EventError) as raised:
        builder().from_json(content.encode())
    assert str(raised.value) == detail


def test_an_array_becomes_drafts_in_order() -> None:
    """Each event has its own channels, or those of the URL."""
    body = json.dumps(
        [{"message": "a"}, {"data": [1], "channel": "b"}, {"message": "c", "channels": ["c", "d"]}]
    )
    assert builder().from_array(body.encode()) == [
        Draft(("default",), Event("a")),
        Draft(("b",), Event("[1]", json=True)),
        Draft(("c", "d"), Event("c")),
    ]
    assert builder("x").from_array(b'[{"message":"a"}]') == [Draft(("x",), Event("a"))]


def test_ndjson_lines_become_drafts_without_the_empty_ones() -> None:
    body = b'\n{"message":"a"}\r\n\r\n  \n{"data":[1],"channel":"b"}'
    assert builder().from_ndjson(body) == [
        Draft(("default",), Event("a")),
        Draft(("b",), Event("[1]", json=True)),
    ]


@pytest.mark.parametrize("items", [1, 3])
def test_the_number_of_events_of_a_batch_is_limited(items: int) -> None:
    many = builder(most=items)
    objects = ['{"message":"x"}'] * (items + 1)
    for count in (0, items + 1):
        status, detail = (413, f"batch: more than {items} events") if count else (422, "batch: is empty")
        for give, body in (
            (many.from_array, f" [ {','.join(objects[:count])} ] "),
            (many.from_ndjson, "\n\r\n \n".join(["", *objects[:count], ""])),
        ):
            with refused(status, detail):
                give(body.encode())
    assert len(many.from_array(f"[{','.join(objects[:items])}]".encode())) == items
    assert len(many.from_ndjson("\n\r\n \n".join(["", *objects[:items], ""]).encode())) == items


@pytest.mark.parametrize(
    ("items", "status", "detail"),
    [
        (['{"message":"a"}', '{"message":1}'], 422, f"2: {NO_TEXT}"),
        (['{"message":"a"}', "1"], 422, "2: must be a JSON object, not a number"),
        (["[]"], 422, "1: must be a JSON object, not a list"),
        (['{"message":"a"}', "{}"], 422, f"2: {MISSING}"),
        (['{"message":"a","chanel":"b"}'], 422, "1: chanel: unknown member; did you mean channel?"),
        (['{"message":"a"}', '{"message":"b","x":1}'], 422, f"2: x: unknown member; {KNOWN} are known"),
        (['{"message":"a"}', '{"message":"b","retry":9}'], 422, f"2: {RETRY}"),
        (['{"message":"a","event":"error"}'], 422, f"1: event: 'error' {OF_EVENT_SOURCE}"),
        (['{"message":"a"}', '{"message":"b","event":"$x"}'], 422, f"2: {RESERVED}: '$x'"),
        (['{"message":"b","channel":"b b"}', "1"], 422, "2: must be a JSON object, not a number"),
        ([A, '{"message":"b","channel":"b b"}'], 400, "2: channel: must not contain ' ': 'b b'"),
        ([A, '{"message":"a","id":"earliest"}'], 422, "2: id: 'earliest' has a meaning for `since`"),
        (['{"message":"a"}', '{"message":"b","channels":[]}'], 400, "2: channels: must name at least one"),
        (['{"channels":["a","b","c","d"],"message":""}'], 400, "1: channels: 4 given, at most 3 allowed"),
        (['{"message":"b","channel":"a","channels":["a"]}'], 422, f"1: channel and channels: {ONE_OF_THEM}"),
        (['{"message":"a"}', '{"message":"b","data":1}'], 422, f"2: message and data: {ONE_OF_THEM}"),
        (
            ['{"message":"' + "x" * 1001 + '"}'],
            413,
            "1: data: is 1001 bytes, more than the 1000 that max_event allows",
        ),
    ],
)
def test_a_bad_event_fails_its_whole_batch(items: list[str], status: int, detail: str) -> None:
    """The error names the item or the line. Empty lines count as lines."""
    with refused(status, f"item {detail}"):
        builder().from_array(f"[{','.join(items)}]".encode())
    number, _, said = detail.partition(":")
    with refused(status, f"line {2 * int(number) + 1}:{said}"):
        builder().from_ndjson("\n\r\n".join(["", *items]).encode())


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'[{"message":"a"}', "body: is not JSON: Input data was truncated"),
        (b'[{"message":"a"}]]', f"{MALFORMED}: trailing characters (byte 18)"),
        (b'[{"message":"a"},{"message":"\xff"}]', "body: is not UTF-8 at byte 29"),
        (b'[{"message":"a"},{"data":NaN}]', f"{MALFORMED}: invalid character (byte 25)"),
        (b'[{"message":"a"},]', f"{MALFORMED}: trailing comma in array (byte 17)"),
    ],
)
def test_an_invalid_json_array_names_no_item(body: bytes, detail: str) -> None:
    with refused(400, detail):
        builder().from_array(body)


def test_a_line_that_is_not_json_is_named() -> None:
    for line, status, detail in (
        (b'{"message":', 400, "body: is not JSON: Input data was truncated"),
        (b'{"message":"a\\ud800"}', 422, "body: has a lone surrogate, which no event can carry"),
        (b'{"message":"\xff"}', 400, "body: is not UTF-8 at byte 12"),
        (b'{"message":\n"a"}', 400, "body: is not JSON: Input data was truncated"),
        (b'{"message":"a"}{"message":"b","event":"$x"}', 400, f"{MALFORMED}: trailing characters (byte 16)"),
    ):
        with refused(status, f"line 3: {detail}"):
            builder().from_ndjson(b'{"message":"a"}\n\n' + line + b"\n")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Problem(413, "x"), 413),
        (EventError("id", "x"), 422),
        (EventError("channel", "x"), 400),
        (EventTooLargeError("data", "x"), 413),
    ],
)
def test_an_error_keeps_its_status_with_a_location(error: Problem | BroadcastError, status: int) -> None:
    problem = at_line(error, "line 7")
    assert (problem.status, problem.detail) == (status, f"line 7: {error}")


def test_an_error_without_a_status_gets_no_location() -> None:
    with pytest.raises(ListenError):
        at_line(ListenError("x"), "line 7")
