"""What a reader asks for, as its request says it."""

from collections.abc import Mapping

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from sse_broadcast import Config, create_app
from sse_broadcast.cursor import Age, Cursor, Named, Place, Word
from sse_broadcast.encoding import (
    CHUNKED_JSON,
    CHUNKED_NDJSON,
    CHUNKED_TEXT,
    JSON,
    NDJSON,
    TEXT,
    Encoding,
)
from sse_broadcast.errors import EventError
from sse_broadcast.interest import Interest
from sse_broadcast.server.problem import Problem
from sse_broadcast.server.wish import Wish, read_wish

ANYTHING = {"Accept": "*/*"}
LINES = {"Accept": "application/x-ndjson"}


def request(
    target: str = "/events",
    headers: Mapping[str, str] = ANYTHING,
    *,
    version: HttpVersion = HttpVersion11,
    max_channels: int = 100,
) -> web.Request:
    """Give a request as the router would hand it on: what is behind `/events/` names channels."""
    named = target.partition("?")[0].removeprefix("/events").removeprefix("/")
    return make_mocked_request(
        "GET",
        target,
        headers,
        version=version,
        app=create_app(Config(max_channels=max_channels)),
        match_info={"channels": named} if named else {},
    )


@pytest.mark.parametrize(
    ("target", "interest"),
    [
        ("/events", Interest.of("default")),
        ("/events?x=1", Interest.of("default")),
        ("/events/a", Interest.of("a")),
        ("/events/b,a", Interest.of("a", "b")),
        ("/events/orders.*,a", Interest(("a",), ("orders.*",))),
        ("/events/*", Interest((), ("*",))),
        ("/events?channel=a&channel=b", Interest.of("a", "b")),
        ("/events?channel=orders.*", Interest((), ("orders.*",))),
        ("/events/a?channel=b&channel=a", Interest.of("a", "b")),
        ("/events/a,a", Interest.of("a")),
        ("/events/a?event=x&event=y", Interest.of("a", types=["x", "y"])),
        ("/events?event=message", Interest.of("default", types=["message"])),
        ("/events?event=%C3%A9t%C3%A9", Interest.of("default", types=["\u00e9t\u00e9"])),
    ],
)
def test_channels_patterns_and_types_are_the_interest(target: str, interest: Interest) -> None:
    """Of the path's list and of `channel=` together, each once; `default` if none is named."""
    assert read_wish(request(target)).interest == interest


def test_max_channels_may_be_named_and_no_more() -> None:
    """In the path and the query together."""
    assert read_wish(request("/events/a,b?channel=c", max_channels=3)).interest.names == ("a", "b", "c")
    with pytest.raises(EventError, match=r"^channels: 4 are too many, 3 may be named$"):
        read_wish(request("/events/a,b?channel=c&channel=d", max_channels=3))


FORMATS: list[tuple[str, Mapping[str, str], Encoding, Encoding]] = [
    ("/events", ANYTHING, CHUNKED_TEXT, TEXT),
    ("/events/a", ANYTHING, CHUNKED_TEXT, TEXT),
    ("/events", {}, CHUNKED_TEXT, TEXT),
    ("/events", {"Accept": "text/event-stream"}, CHUNKED_TEXT, TEXT),
    ("/events?format=text", ANYTHING, CHUNKED_TEXT, TEXT),
    ("/events?format=json", ANYTHING, CHUNKED_JSON, JSON),
    ("/events/a?format=json", {"Accept": "text/event-stream"}, CHUNKED_JSON, JSON),
    ("/events", LINES, CHUNKED_NDJSON, NDJSON),
    ("/events", {"Accept": "application/x-ndjson;q=0.9, */*;q=0.1"}, CHUNKED_NDJSON, NDJSON),
    ("/events/a?format=json", LINES, CHUNKED_NDJSON, NDJSON),
    ("/events/a?format=text", LINES, CHUNKED_NDJSON, NDJSON),
    ("/events", {"Accept": "Application/X-NDJSON"}, CHUNKED_NDJSON, NDJSON),
    (
        "/events",
        CIMultiDict([("Accept", "*/*"), ("Accept", "application/x-ndjson")]),
        CHUNKED_NDJSON,
        NDJSON,
    ),
    ("/events", CIMultiDict([("Accept", "application/x-"), ("Accept", "ndjson")]), CHUNKED_TEXT, TEXT),
]


@pytest.mark.parametrize(("target", "headers", "chunked", "bare"), FORMATS)
def test_accept_and_format_choose_the_encoding(
    target: str, headers: Mapping[str, str], chunked: Encoding, bare: Encoding
) -> None:
    """In chunks for HTTP/1.1, bare for HTTP/1.0, which knows none."""
    assert read_wish(request(target, headers)).encoding is chunked
    assert read_wish(request(target, headers, version=HttpVersion10)).encoding is bare


@pytest.mark.parametrize(
    ("target", "headers", "cursor", "needs_id"),
    [
        ("/events", {}, None, True),
        ("/events?since=", {}, None, True),
        ("/events", {"Last-Event-ID": ""}, None, True),
        ("/events?since=earliest", {}, Word.EARLIEST, True),
        ("/events?since=last", {}, Word.LAST, True),
        ("/events?since=10m", {}, Age(600.0), True),
        ("/events?since=0123abcd-7", {}, Place("0123abcd", 7), False),
        ("/events?since=order-7", {}, Named("order-7"), False),
        ("/events?last_event_id=0123abcd-7", {}, Place("0123abcd", 7), False),
        ("/events?last_event_id=earliest", {}, Named("earliest"), False),
        ("/events?last_event_id=10m", {}, Named("10m"), False),
        ("/events", {"Last-Event-ID": "0123abcd-7"}, Place("0123abcd", 7), False),
        ("/events", {"Last-Event-ID": "last"}, Named("last"), False),
        ("/events?since=earliest", {"Last-Event-ID": "0123abcd-7"}, Place("0123abcd", 7), False),
        ("/events?since=0123abcd-1", {"Last-Event-ID": "0123abcd-7"}, Place("0123abcd", 7), False),
        ("/events?last_event_id=0123abcd-1", {"Last-Event-ID": "0123abcd-7"}, Place("0123abcd", 7), False),
        ("/events?since=earliest", {"Last-Event-ID": ""}, Word.EARLIEST, True),
        ("/events", {"Last-Event-ID": "0123ABCD-7"}, Named("0123ABCD-7"), False),
        ("/events", {"Last-Event-ID": "0123abcd-" + "9" * 20}, Named("0123abcd-" + "9" * 20), False),
    ],
)
def test_the_cursor_is_the_headers_before_the_querys(
    target: str, headers: Mapping[str, str], cursor: Cursor | None, *, needs_id: bool
) -> None:
    """A reconnecting EventSource repeats its URL; words and ages are words and ages in `since` alone."""
    wish = read_wish(request(target, headers))
    assert (wish.cursor, wish.needs_id) == (cursor, needs_id)


@pytest.mark.parametrize(
    ("target", "headers", "heartbeat"),
    [
        ("/events", ANYTHING, None),
        ("/events?heartbeat=event", ANYTHING, b"event: $heartbeat\ndata: {}\n\n"),
        ("/events?heartbeat=event&format=json", ANYTHING, b"event: $heartbeat\ndata: {}\n\n"),
        ("/events?heartbeat=event", LINES, None),
    ],
)
def test_heartbeats_may_be_events(target: str, headers: Mapping[str, str], heartbeat: bytes | None) -> None:
    """For pages, which see no comment; NDJSON has its empty line anyway."""
    assert read_wish(request(target, headers)).heartbeat == heartbeat


@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
def test_the_commonest_wish_is_the_same_however_it_is_read(version: HttpVersion) -> None:
    """What is read without looking at the query is what would have been found there."""
    short, long = request(version=version), request("/events?x=1", version=version)
    assert read_wish(short) == read_wish(long)
    assert isinstance(read_wish(short), Wish)


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/events?sinse=1", "sinse: unknown parameter; since was meant?"),
        ("/events?event=", "event: must not be empty"),
        ("/events?event=a&event=", "event: must not be empty"),
        ("/events?format=", "format: must be one of text, json, not ''"),
        ("/events?format=xml", "format: must be one of text, json, not 'xml'"),
        ("/events?format=ndjson", "format: must be one of text, json, not 'ndjson'"),
        ("/events?format=json&format=text", "format: is given 2 times"),
        ("/events?heartbeat=comment", "heartbeat: must be event, not 'comment'"),
        ("/events?heartbeat=", "heartbeat: must be event, not ''"),
        ("/events?heartbeat=event&heartbeat=event", "heartbeat: is given 2 times"),
        ("/events?since=1&since=2", "since: is given 2 times"),
        ("/events?last_event_id=1&last_event_id=2", "last_event_id: is given 2 times"),
        ("/events?since=1&last_event_id=1", "since and last_event_id: only one of them may be given"),
        ("/events?format=" + "x" * 1000, f"format: must be one of text, json, not '{'x' * 80}'"),
    ],
)
def test_what_cannot_be_wished_for_is_refused(target: str, detail: str) -> None:
    """400, naming the parameter and the value."""
    with pytest.raises(Problem) as raised:
        read_wish(request(target))
    assert (raised.value.status, raised.value.detail) == (400, detail)


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/events/a b", "channel: must not contain ' ': 'a b'"),
        ("/events/a,b!", "channel: must not contain '!': 'b!'"),
        ("/events/caf\u00e9", "channel: must not contain '\\xe9': 'caf\\xe9'"),
        ("/events?channel=a,b", "channel: must not contain ',': 'a,b'"),
        ("/events/{a}", "channel: must not contain '{': '{a}'"),
        ("/events?channel=a}", "channel: must not contain '}': 'a}'"),
        ("/events?channel=a%00", "channel: must not contain '\\x00': 'a\\x00'"),
        ("/events/..", "channel: must not be '..', which clients take for a folder"),
        ("/events/a,.", "channel: must not be '.', which clients take for a folder"),
        ("/events/,", "channel: must be 1 to 128 characters: ''"),
        ("/events/a,", "channel: must be 1 to 128 characters: ''"),
        ("/events?channel=", "channel: must be 1 to 128 characters: ''"),
        ("/events/" + "x" * 129, f"channel: must be 1 to 128 characters: '{'x' * 80}'"),
    ],
)
def test_a_name_that_is_none_is_refused(target: str, detail: str) -> None:
    """Naming the character."""
    with pytest.raises(EventError) as raised:
        read_wish(request(target))
    assert str(raised.value) == detail
