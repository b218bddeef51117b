"""Publications: events with a position, and their shared encodings."""

import pytest

from sse_broadcast.encoding import CHUNKED_TEXT, JSON, NDJSON, TEXT, Encoding, TextFormat
from sse_broadcast.event import Event
from sse_broadcast.publication import KEPT_BYTES, MAX_FRAMES, Publication, cut, place
from tests.support.memory_sinks import data_of, publication


def placed(event: Event, *channels: str) -> Publication:
    return place(channels or ("default",), event, epoch="0123abcd", position=42, time=1700.25)


def is_kept(one: Publication, encoding: Encoding, channel: str | None = None) -> bool:
    """Return whether a requested frame is cached, so that the next request returns the same object."""
    return one.frame(encoding, channel) is one.frame(encoding, channel)


class CountedFormat(TextFormat):
    """The text format, with a count of its encodings."""

    def __init__(self) -> None:
        self.made = 0

    def block(self, event: Event, *, id: str | None, channel: str | None, time: float) -> bytes:
        self.made += 1
        return super().block(event, id=id, channel=channel, time=time)


def test_the_id_has_the_epoch_and_the_position() -> None:
    """A Last-Event-ID with it names a place in one life of the history."""
    assert placed(Event("hello")).id == "0123abcd-42"
    assert placed(Event("hello")).frame(TEXT) == b"data: hello\nid: 0123abcd-42\n\n"


def test_a_publishers_own_id_replaces_the_servers() -> None:
    """The event has one id."""
    named = placed(Event("hello", id="mine"))
    assert (named.id, named.position) == ("mine", 42)
    assert named.frame(TEXT) == b"data: hello\nid: mine\n\n"


def test_an_event_is_encoded_once_per_format() -> None:
    """All requests get the same object."""
    hello = placed(Event("hello"))
    assert hello.frame(CHUNKED_TEXT) == b"1d\r\ndata: hello\nid: 0123abcd-42\n\n\r\n"
    assert hello.frame(TEXT) is hello.frame(TEXT)
    assert hello.frame(CHUNKED_TEXT) is hello.frame(CHUNKED_TEXT)


def test_an_event_is_encoded_on_request() -> None:
    """Most events in the history are never read again."""
    format = CountedFormat()
    bare, chunked = Encoding(format, chunked=False), Encoding(format, chunked=True)
    hello = placed(Event("hello"))
    assert format.made == 0
    for encoding in (bare, chunked, bare, chunked):
        hello.frame(encoding)
    assert format.made == 2


def test_an_envelope_is_encoded_once_per_channel() -> None:
    """Subscribers of one channel share it."""
    hello = placed(Event("hello"), "a", "b")
    line = '{"channel":"%s","id":"0123abcd-42","event":"message","data":"hello","time":1700.25}\n'
    assert hello.frame(NDJSON, "a") == (line % "a").encode()
    assert hello.frame(NDJSON, "b") == (line % "b").encode()
    assert hello.frame(NDJSON, "a") is hello.frame(NDJSON, "a")
    assert hello.frame(JSON, "a") == f"data: {line % 'a'}id: 0123abcd-42\n\n".encode()


def test_text_and_one_other_format_are_cached() -> None:
    """Requests for more formats encode anew, and leave these in the cache."""
    hello = placed(Event("hello"), *(f"channel.{number:03}" for number in range(100)))
    text, envelope = hello.frame(CHUNKED_TEXT), hello.frame(JSON, "channel.000")
    for channel in hello.channels:
        assert hello.frame(NDJSON, channel) == hello.frame(NDJSON, channel)
    assert hello.frame(CHUNKED_TEXT) is text
    assert hello.frame(JSON, "channel.000") is envelope
    assert not any(is_kept(hello, NDJSON, channel) for channel in hello.channels)


def test_the_cache_is_limited_in_number() -> None:
    """Frames may be small."""
    hello = placed(Event(""))
    encodings = [Encoding(CountedFormat(), chunked=False) for _ in range(MAX_FRAMES + 1)]
    assert [is_kept(hello, encoding) for encoding in encodings] == [True] * MAX_FRAMES + [False]


@pytest.mark.parametrize("data", ["", "x" * 5000, "\x01" * 5000, "\n" * 500])
def test_the_cache_is_limited_in_bytes(data: str) -> None:
    """A frame that is too large is encoded for each request, and displaces no other."""
    one = placed(Event(data), "a")
    asked: list[tuple[Encoding, str | None]] = [(TEXT, None), (JSON, "a"), (NDJSON, "a")]
    frames = [one.frame(*each) for each in asked]
    kept = sum(len(one.frame(*each)) for each in asked if is_kept(one, *each))
    assert kept <= 2 * one.size + KEPT_BYTES + 1
    assert one.frame(TEXT) is frames[0]
    assert one.frame(JSON, "a") == frames[1]


@pytest.mark.parametrize(
    "event", [Event("hello"), Event("a\r\nb\rc\n"), Event("\u20ac", "t\u00e9", "mine", 5, "k")]
)
def test_the_size_is_that_of_the_text_frame(event: Event) -> None:
    """An event counts the same in every queue, whatever its format."""
    assert placed(event).size == len(placed(event).frame(TEXT))


@pytest.mark.parametrize(
    ("limit", "taken"),
    [(0, ["a"]), (28, ["a"]), (57, ["a"]), (58, ["a", "b"]), (86, ["a", "b"]), (87, ["a", "b", "c"])],
)
def test_a_cut_has_what_its_limit_allows_and_one_at_least(limit: int, taken: list[str]) -> None:
    """Frames are 29 bytes each. One event is cut off even by the smallest limit."""
    publications = [publication(data) for data in "abc"]
    assert {each.size for each in publications} == {29}
    assert data_of(cut(publications, limit)) == taken


def test_a_cut_of_nothing_is_empty() -> None:
    """A cut is a copy, so that the original may change."""
    publications = [publication("a")]
    assert cut([], 100) == []
    assert cut(publications, 100) is not publications
