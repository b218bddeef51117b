"""Encodings: an event in each format, as whole bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.encoding import (
    CHUNKED_JSON,
    CHUNKED_NDJSON,
    CHUNKED_TEXT,
    HEARTBEAT_EVENT,
    JSON,
    NDJSON,
    TEXT,
    Encoding,
    envelope,
    opening_event,
    own_block,
)
from sse_broadcast.event import Event
from sse_broadcast.wire import Decoder

BARE = [TEXT, JSON, NDJSON]
CHUNKED = [CHUNKED_TEXT, CHUNKED_JSON, CHUNKED_NDJSON]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LINES = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1)

RESET = Event('{"reason": "slow", "channels": ["a"], "missed": 2}', type="$reset", json=True)


def block(encoding: Encoding, event: Event, channel: str | None = "news") -> bytes:
    return encoding.format.block(event, id="0123abcd-7", channel=channel, time=1_700_000_000.1239)


@pytest.mark.parametrize(
    ("encoding", "frame"),
    [
        (TEXT, b"event: t\nretry: 5\ndata: hello\nid: 0123abcd-7\n\n"),
        (
            JSON,
            (
                b'event: t\nretry: 5\ndata: {"channel":"news","id":"0123abcd-7",'
                b'"event":"t","data":"hello","time":1700000000.124}\nid: 0123abcd-7\n\n'
            ),
        ),
        (NDJSON, b'{"channel":"news","id":"0123abcd-7","event":"t","data":"hello","time":1700000000.124}\n'),
    ],
)
def test_an_event_in_each_format(encoding: Encoding, frame: bytes) -> None:
    """It is the published text, or an envelope with its channel. Times are in milliseconds."""
    assert block(encoding, Event("hello", type="t", id="ignored", retry=5, key="k")) == frame


@pytest.mark.parametrize(
    ("encoding", "frame"),
    [
        (TEXT, b"data: hello\nid: 0123abcd-7\n\n"),
        (
            JSON,
            (
                b'data: {"channel":"news","id":"0123abcd-7",'
                b'"event":"message","data":"hello","time":1700000000.124}\nid: 0123abcd-7\n\n'
            ),
        ),
        (
            NDJSON,
            b'{"channel":"news","id":"0123abcd-7","event":"message","data":"hello","time":1700000000.124}\n',
        ),
    ],
)
def test_an_event_without_a_type_is_a_message(encoding: Encoding, frame: bytes) -> None:
    """It has no `event` line, and an envelope always has the type."""
    assert block(encoding, Event("hello")) == frame


@pytest.mark.parametrize(
    ("value", "embedded"),
    [
        ('{"a":[1,2.50,null],"b":"\\u00e9"}', b'{"a":[1,2.50,null],"b":"\\u00e9"}'),
        ("12345678901234567890123", b"12345678901234567890123"),
        ("null", b"null"),
        ('"é"', '"é"'.encode()),
    ],
)
def test_published_json_is_embedded_unchanged(value: str, embedded: bytes) -> None:
    """Numbers keep their digits and keys their order, and nothing is quoted twice."""
    event = Event(value, json=True)
    body = (
        b'{"channel":"news","id":"0123abcd-7","event":"message","data":'
        + embedded
        + b',"time":1700000000.124}'
    )
    assert block(NDJSON, event) == body + b"\n"
    assert block(JSON, event) == b"data: " + body + b"\nid: 0123abcd-7\n\n"
    assert block(TEXT, event) == b"data: " + embedded + b"\nid: 0123abcd-7\n\n"


def test_text_that_looks_like_json_stays_text() -> None:
    """The publisher sent text, so it is a string in the envelope."""
    assert json.loads(block(NDJSON, Event('{"a":1}')))["data"] == '{"a":1}'
    assert json.loads(block(NDJSON, Event('{"a":1}', json=True)))["data"] == {"a": 1}


def test_line_ends_are_kept_where_the_format_allows() -> None:
    """SSE has one kind, an envelope all of them."""
    event = Event("a\r\nb\rc\nd")
    assert block(TEXT, event) == b"data: a\ndata: b\ndata: c\ndata: d\nid: 0123abcd-7\n\n"
    body = (
        b'{"channel":"news","id":"0123abcd-7",'
        b'"event":"message","data":"a\\r\\nb\\rc\\nd","time":1700000000.124}'
    )
    assert block(JSON, event) == b"data: " + body + b"\nid: 0123abcd-7\n\n"
    assert block(NDJSON, event) == body + b"\n"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ('{\n "a": 1\n}', b'{  "a": 1 }'),
        ("[1,\r\n2]", b"[1,  2]"),
        ("[1,\r2]", b"[1, 2]"),
        ('["\\n\\r"]\n', b'["\\n\\r"] '),
    ],
)
def test_json_of_several_lines_is_one_line_of_ndjson(value: str, line: bytes) -> None:
    """A publisher may send indented JSON. A raw line end is never part of a JSON string."""
    event = Event(value, json=True)
    body = (
        b'{"channel":"news","id":"0123abcd-7","event":"message","data":' + line + b',"time":1700000000.124}'
    )
    assert block(NDJSON, event) == body + b"\n"
    assert block(JSON, event) == b"data: " + body + b"\nid: 0123abcd-7\n\n"
    assert json.loads(body)["data"] == json.loads(value)


def test_a_system_event_in_each_format() -> None:
    """It has no channel, which is `null`. Its data is JSON in NDJSON too."""
    frame = b'event: $reset\ndata: {"reason": "slow", "channels": ["a"], "missed": 2}\nid: 0123abcd-7\n\n'
    assert block(TEXT, RESET, None) == block(JSON, RESET, None) == frame
    assert block(NDJSON, RESET, None) == (
        b'{"channel":null,"id":"0123abcd-7","event":"$reset",'
        b'"data":{"reason": "slow", "channels": ["a"], "missed": 2},"time":1700000000.124}\n'
    )


@pytest.mark.parametrize(
    ("encoding", "frame"),
    [
        (TEXT, b'event: $close\ndata: {"reason": "drain"}\n\n'),
        (JSON, b'event: $close\ndata: {"reason": "drain"}\n\n'),
        (NDJSON, b'{"channel":null,"id":null,"event":"$close","data":{"reason": "drain"},"time":0.0}\n'),
    ],
)
def test_an_event_may_have_no_id(encoding: Encoding, frame: bytes) -> None:
    event = Event('{"reason": "drain"}', type="$close", json=True)
    assert encoding.format.block(event, id=None, channel=None, time=0.0) == frame


def test_a_heartbeat_is_a_comment_or_an_empty_line() -> None:
    """Clients take neither for an event."""
    assert [encoding.heartbeat for encoding in BARE] == [b": \n", b": \n", b"\n"]
    assert [encoding.heartbeat for encoding in CHUNKED] == [
        b"3\r\n: \n\r\n",
        b"3\r\n: \n\r\n",
        b"1\r\n\n\r\n",
    ]


def test_a_system_block_has_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a text block in both text formats, and an envelope with the current time in NDJSON."""
    monkeypatch.setattr("sse_broadcast.encoding.time.time", lambda: 7.0)
    block = b"event: $heartbeat\ndata: {}\nid: 0123abcd-7\n\n"
    line = b'{"channel":null,"id":"0123abcd-7","event":"$heartbeat","data":{},"time":7.0}\n'
    assert [own_block(encoding.format, HEARTBEAT_EVENT, "0123abcd-7") for encoding in BARE] == [
        block,
        block,
        line,
    ]
    bare = b"event: $heartbeat\ndata: {}\n\n"
    assert [own_block(encoding.format, HEARTBEAT_EVENT, None) for encoding in BARE] == [
        bare,
        bare,
        b'{"channel":null,"id":null,"event":"$heartbeat","data":{},"time":7.0}\n',
    ]


def test_a_heartbeat_event_moves_the_cursor() -> None:
    """It has data: Firefox and others ignore the id of a block without."""
    decoder = Decoder()
    assert decoder.feed(own_block(TEXT.format, HEARTBEAT_EVENT, "0123abcd-7")) == [
        Event("{}", type="$heartbeat", id="0123abcd-7")
    ]
    assert decoder.last_event_id == "0123abcd-7"


def test_a_stream_begins_with_a_comment_and_retry() -> None:
    """`$open` completes that block. NDJSON has no retry, since its clients do not reconnect by themselves."""
    assert [encoding.format.preamble(2500) for encoding in BARE] == [
        b": \nretry: 2500\n",
        b": \nretry: 2500\n",
        b"",
    ]


@pytest.mark.parametrize(
    ("heartbeat", "data"),
    [
        (4, b'{"heartbeat": 4}'),
        (4.0, b'{"heartbeat": 4}'),
        (0.05, b'{"heartbeat": 0.05}'),
        (2.5, b'{"heartbeat": 2.5}'),
        (86_400.0, b'{"heartbeat": 86400}'),
    ],
)
def test_the_open_event_has_the_interval_of_heartbeats(
    monkeypatch: pytest.MonkeyPatch, heartbeat: float, data: bytes
) -> None:
    monkeypatch.setattr("sse_broadcast.encoding.time.time", lambda: 7.0)
    opening = opening_event(heartbeat)
    block = b"event: $open\ndata: " + data + b"\nid: 0123abcd-7\n\n"
    line = b'{"channel":null,"id":"0123abcd-7","event":"$open","data":' + data + b',"time":7.0}\n'
    assert [own_block(encoding.format, opening, "0123abcd-7") for encoding in BARE] == [block, block, line]
    assert opening.reserved


def test_the_properties_of_each_format() -> None:
    """These are its media type, its content type, and whether a block depends on the channel."""
    assert [
        (format.content_type, format.content_type_header, format.names_channel)
        for format in (encoding.format for encoding in BARE)
    ] == [
        ("text/event-stream", "text/event-stream; charset=utf-8", False),
        ("text/event-stream", "text/event-stream; charset=utf-8", True),
        ("application/x-ndjson", "application/x-ndjson", True),
    ]


def test_chunks_are_the_format_in_the_framing_of_http_1_1() -> None:
    for bare, chunked in zip(BARE, CHUNKED, strict=True):
        assert bare.format is chunked.format
        assert (bare.chunked, chunked.chunked) == (False, True)
        assert bare.frame(b"0123456789abcdef\n") == b"0123456789abcdef\n"
        assert chunked.frame(b"0123456789abcdef\n") == b"11\r\n0123456789abcdef\n\r\n"


def test_an_envelope_names_several_channels() -> None:
    """`channel` has the first one, as with one channel, and `channels` has all of them."""
    assert envelope(Event("x"), id="i", channel="b,a", time=1.0) == (
        b'{"channel":"b","id":"i","event":"message","data":"x","time":1.0,"channels":["b","a"]}'
    )


def test_a_time_has_milliseconds() -> None:
    """The unit is seconds since 1970, with three decimal places."""
    for time, shown in [(0.0, 0.0), (1.0004, 1.0), (1.0006, 1.001), (1_700_000_000.9999, 1_700_000_001.0)]:
        assert json.loads(envelope(Event(""), id="i", channel="c", time=time))["time"] == shown


@given(st.builds(Event, data=TEXTS, type=LINES), LINES.filter(lambda name: "," not in name))
def test_an_envelope_has_exactly_the_published_event(event: Event, channel: str) -> None:
    """Any text is one line of NDJSON, and decodes to itself."""
    line = block(NDJSON, event, channel)
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    assert json.loads(line) == {
        "channel": channel,
        "id": "0123abcd-7",
        "event": event.type,
        "data": event.data,
        "time": 1_700_000_000.124,
    }
    (decoded,) = Decoder().feed(block(JSON, event, channel))
    assert (decoded.type, decoded.id) == (event.type, "0123abcd-7")
    assert decoded.data.encode() + b"\n" == line


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXTS,
        lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    )
)
def test_any_json_value_is_embedded_as_that_value(value: object) -> None:
    """A client decodes the envelope once."""
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    line = block(NDJSON, Event(compact, json=True))
    assert line.count(b"\n") == 1
    assert json.loads(line)["data"] == value
