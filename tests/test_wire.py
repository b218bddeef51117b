"""Wire format: the codec, as whole bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.event import MAX_RETRY, Event
from sse_broadcast.wire import (
    CONTENT_TYPE,
    CONTENT_TYPE_HEADER,
    HEARTBEAT_COMMENT,
    Decoder,
    chunk,
    encode,
    preamble,
    size,
)

LINE = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1)
EVENTS = st.builds(
    Event,
    data=st.text(st.characters(exclude_categories=["Cs"])),
    type=LINE,
    id=st.none() | LINE,
    retry=st.none() | st.integers(0, MAX_RETRY),
)


@pytest.mark.parametrize(
    ("event", "frame"),
    [
        (Event("hello"), b"data: hello\n\n"),
        (Event(""), b"data: \n\n"),
        (Event("\n"), b"data: \ndata: \n\n"),
        (Event("a\r\nb\rc\nd"), b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (Event(" leading"), b"data:  leading\n\n"),
        (Event("a: b"), b"data: a: b\n\n"),
        (Event("x\u2028y\u0085z"), "data: x\u2028y\u0085z\n\n".encode()),
        (Event("x", id="7"), b"data: x\nid: 7\n\n"),
        (Event("x", type="t"), b"event: t\ndata: x\n\n"),
        (Event("x", retry=0), b"retry: 0\ndata: x\n\n"),
        (Event("a\nb", type="t", id="7"), b"event: t\ndata: a\ndata: b\nid: 7\n\n"),
        (Event("x", type="t", id="7", retry=5), b"event: t\nretry: 5\ndata: x\nid: 7\n\n"),
    ],
)
def test_an_event_has_these_bytes(event: Event, frame: bytes) -> None:
    """Line ends are LF, a space follows the colon, and a blank line is at the end."""
    assert encode(event) == frame


def test_the_given_id_is_used_unless_the_event_has_one() -> None:
    """The given id is that of the position. A publisher's own id is kept."""
    assert encode(Event("x", id="7"), "0123abcd-8") == b"data: x\nid: 0123abcd-8\n\n"
    assert encode(Event("x"), "0123abcd-8") == b"data: x\nid: 0123abcd-8\n\n"
    assert encode(Event("x", key="k", json=True)) == b"data: x\n\n"


@given(EVENTS, st.none() | LINE)
def test_the_size_is_the_length_of_the_frame(event: Event, id: str | None) -> None:
    """It is exact, and mostly computed without encoding."""
    assert size(event, id) == len(encode(event, id))


def test_a_chunk_is_its_length_in_hexadecimal_and_its_bytes() -> None:
    """RFC 9112, 7.1."""
    assert chunk(b"data: 0123456789\n\n") == b"12\r\ndata: 0123456789\n\n\r\n"


def test_a_comment_is_one_line_with_a_space() -> None:
    """Some clients join an empty comment with the next line, others dispatch an event at a blank line."""
    assert HEARTBEAT_COMMENT == b": \n"
    decoder = Decoder()
    assert decoder.feed(HEARTBEAT_COMMENT + encode(Event("x"), "7") + HEARTBEAT_COMMENT) == [
        Event("x", id="7")
    ]


def test_the_preamble_is_no_block_of_its_own() -> None:
    """It is part of the next block, and its `retry` applies before that."""
    assert preamble(2500) == b": \nretry: 2500\n"
    decoder = Decoder()
    assert decoder.feed(preamble(2500)) == []
    assert decoder.retry == 2500
    assert decoder.feed(HEARTBEAT_COMMENT + encode(Event("x"))) == [Event("x", retry=2500)]


def test_a_stream_declares_its_charset() -> None:
    """Clients with `requests` decode a text type without one as Latin-1."""
    assert (CONTENT_TYPE, CONTENT_TYPE_HEADER) == ("text/event-stream", "text/event-stream; charset=utf-8")


@given(EVENTS, LINE)
def test_the_id_is_the_last_line_of_a_block(event: Event, id: str) -> None:
    """A client that takes an id at once has the whole event by then."""
    block = encode(event, id)
    assert block.endswith(f"\nid: {id}\n\n".encode())
    assert block.count(b"\nid: ") == 1
    assert not block.startswith(b"id: ")


def as_received(event: Event) -> Event:
    return Event(event.data.replace("\r\n", "\n").replace("\r", "\n"), event.type, event.id, event.retry)


@given(st.lists(EVENTS, max_size=4), st.data())
def test_decoding_an_encoded_event_returns_it(events: list[Event], data: st.DataObject) -> None:
    """decode(encode(e)) == e with line ends as LF, in any chunks."""
    stream = b"".join(map(encode, events))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    decoder, received = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == [as_received(event) for event in events]


@given(EVENTS)
def test_no_event_ends_its_block_early(event: Event) -> None:
    """An encoded event has one blank line, at its end, and every other line is a field."""
    *lines, last, after = encode(event).split(b"\n")
    assert (last, after) == (b"", b"")
    assert all(line.startswith((b"data: ", b"event: ", b"id: ", b"retry: ")) for line in lines)
    assert b"\r" not in encode(event)


@given(st.binary())
def test_the_decoder_accepts_any_bytes(data: bytes) -> None:
    Decoder().feed(data + b"\n\n")


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # The examples of WHATWG HTML 9.2.6.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
            [Event("first event", id="1"), Event("second event", id="")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")]),
        (b"data:test\n\ndata: test\n\n", [Event("test"), Event("test")]),
        # Other input.
        (b"\xef\xbb\xbfdata: after a mark\n\n", [Event("after a mark")]),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [Event("a"), Event("b"), Event("c")]),
        (b"id: a\0b\ndata: x\n\n", [Event("x")]),
        (b"retry: 1x\ndata: x\n\n", [Event("x")]),
        (b"retry: 99999999999999999999999\ndata: x\n\n", [Event("x", retry=MAX_RETRY)]),
        (b"event: t\n\ndata: x\n\n", [Event("x")]),
        (b"data: \xff\n\n", [Event("\ufffd")]),
        (b"unknown: x\ndata: y\n\n", [Event("y")]),
    ],
)
def test_the_decoder_agrees_with_the_standard(stream: bytes, events: list[Event]) -> None:
    """Its examples are decoded whole and byte by byte."""
    assert Decoder().feed(stream) == events
    decoder = Decoder()
    assert [event for byte in stream for event in decoder.feed(bytes([byte]))] == events


def test_the_last_event_id_is_kept_over_events_without_one() -> None:
    """A client resumes with the last id, also one in a block of its own, as other servers send it."""
    decoder = Decoder()
    assert decoder.feed(b"id: 7\n\ndata: x\n\n") == [Event("x")]
    assert decoder.last_event_id == "7"


def test_a_long_line_in_many_pieces_is_decoded() -> None:
    """A megabyte in small chunks is one event."""
    decoder, data = Decoder(), "x" * 1_000_000
    frame = encode(Event(data))
    pieces = (frame[start : start + 1000] for start in range(0, len(frame), 1000))
    assert [event for piece in pieces for event in decoder.feed(piece)] == [Event(data)]
