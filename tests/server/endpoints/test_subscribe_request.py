"""Subscribe requests: the parameters of the URL and of a JSON body."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, MultiDict, MultiMapping

from sse_broadcast import Config, create_app
from sse_broadcast.channels import Selector
from sse_broadcast.cursor import Age, Cursor, CustomId, EventId, Keyword
from sse_broadcast.encoding import CHUNKED_JSON, CHUNKED_NDJSON, CHUNKED_TEXT, JSON, NDJSON, TEXT, Encoding
from sse_broadcast.errors import EventError
from sse_broadcast.server.endpoints import subscribe_request as reading
from sse_broadcast.server.endpoints.subscribe_request import SUBSCRIBE_MEMBERS, SubscribeRequest
from tests.support.problems import refused

ANYTHING = {"Accept": "*/*"}
LINES = {"Accept": "application/x-ndjson"}


def read_asked(request: web.Request) -> SubscribeRequest:
    """Parse the request of a caller that may subscribe to any channel."""
    return reading.read_subscribe(request, lambda _: None)


def parse_asked(request: web.Request, said: MultiMapping[str]) -> SubscribeRequest:
    """Parse the JSON body of such a caller."""
    return reading.parse_subscribe(request, said, lambda _: None)


def read_body(data: bytes) -> MultiMapping[str]:
    """Parse a body with a maximum of three channels."""
    return reading.read_body(data, most=3)


def request(
    target: str = "/events",
    headers: Mapping[str, str] = ANYTHING,
    *,
    version: HttpVersion = HttpVersion11,
    max_channels: int = 100,
) -> web.Request:
    """Return a request as the router passes it: the path after `/events/` names channels."""
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
    ("target", "selector"),
    [
        ("/events", Selector.parse("default")),
        ("/events?x=1", Selector.parse("default")),
        ("/events/a", Selector.parse("a")),
        ("/events/b,a", Selector.parse("a", "b")),
        ("/events/orders.*,a", Selector(("a",), ("orders.*",))),
        ("/events/*", Selector((), ("*",))),
        ("/events?channel=a&channel=b", Selector.parse("a", "b")),
        ("/events?channel=orders.*", Selector((), ("orders.*",))),
        ("/events/a?channel=b&channel=a", Selector.parse("a", "b")),
        ("/events/a,a", Selector.parse("a")),
        ("/events/a?event=x&event=y", Selector.parse("a", types=["x", "y"])),
        ("/events?event=message", Selector.parse("default", types=["message"])),
        ("/events?event=%C3%A9t%C3%A9", Selector.parse("default", types=["\u00e9t\u00e9"])),
        ("/events?stream=a", Selector.parse("a")),
        ("/events?topic=b&stream=a&channel=c&topic=d", Selector.parse("b", "a", "c", "d")),
        ("/events/a?topic=orders.*", Selector(("a",), ("orders.*",))),
    ],
)
def test_channels_patterns_and_types_form_the_selector(target: str, selector: Selector) -> None:
    """Path and `channel=` are merged without duplicates. Without channels it is `default`."""
    assert read_asked(request(target)).selector == selector


def test_max_channels_limits_the_channels_of_path_and_query() -> None:
    assert read_asked(request("/events/a,b?channel=c", max_channels=3)).selector.names == ("a", "b", "c")
    with pytest.raises(EventError, match=r"^channels: 4 given, at most 3 allowed$"):
        read_asked(request("/events/a,b?channel=c&channel=d", max_channels=3))


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
    ("/events", CIMultiDict([("Accept", "*/*"), ("Accept", "application/x-ndjson")]), CHUNKED_NDJSON, NDJSON),
    ("/events", CIMultiDict([("Accept", "application/x-"), ("Accept", "ndjson")]), CHUNKED_TEXT, TEXT),
]


@pytest.mark.parametrize(("target", "headers", "chunked", "bare"), FORMATS)
def test_accept_and_format_choose_the_encoding(
    target: str, headers: Mapping[str, str], chunked: Encoding, bare: Encoding
) -> None:
    """HTTP/1.1 gets chunks. HTTP/1.0 has no chunked transfer coding."""
    assert read_asked(request(target, headers)).encoding is chunked
    assert read_asked(request(target, headers, version=HttpVersion10)).encoding is bare


@pytest.mark.parametrize(
    ("target", "headers", "cursor"),
    [
        ("/events", {}, None),
        ("/events?since=", {}, None),
        ("/events?last_event_id=&since=", {"Last-Event-ID": " , "}, None),
        ("/events", {"Last-Event-ID": ""}, None),
        ("/events?since=earliest", {}, Keyword.EARLIEST),
        ("/events?since=last", {}, Keyword.LAST),
        ("/events?since=10m", {}, Age(600.0)),
        ("/events?since=0123abcd-7", {}, EventId("0123abcd", 7)),
        ("/events?since=order-7", {}, CustomId("order-7", said_in_since=True)),
        ("/events?since=yesterday", {}, CustomId("yesterday", said_in_since=True)),
        ("/events?last_event_id=0123abcd-7", {}, EventId("0123abcd", 7)),
        ("/events?last_event_id=earliest", {}, CustomId("earliest")),
        ("/events?last_event_id=10m", {}, CustomId("10m")),
        ("/events?last_event_id=a&lastEventId=b", {}, CustomId("b")),
        ("/events?last_event_id=a&last_event_id=", {}, CustomId("a")),
        ("/events", {"Last-Event-ID": "0123abcd-7"}, EventId("0123abcd", 7)),
        ("/events", {"Last-Event-ID": "last"}, CustomId("last")),
        ("/events", {"Last-Event-ID": "a,b"}, CustomId("b")),
        ("/events", CIMultiDict([("Last-Event-ID", "a"), ("Last-Event-ID", "b")]), CustomId("b")),
        ("/events", CIMultiDict([("Last-Event-ID", "a"), ("Last-Event-ID", "")]), CustomId("a")),
        ("/events?since=earliest", {"Last-Event-ID": "0123abcd-7"}, EventId("0123abcd", 7)),
        ("/events?since=0123abcd-1", {"Last-Event-ID": "0123abcd-7"}, EventId("0123abcd", 7)),
        ("/events?since=1&last_event_id=2", {}, CustomId("2")),
        ("/events?last_event_id=0123abcd-1", {"Last-Event-ID": "0123abcd-7"}, EventId("0123abcd", 7)),
        ("/events?last_event_id=0123abcd-1", {"Last-Event-ID": ""}, EventId("0123abcd", 1)),
        ("/events?since=earliest", {"Last-Event-ID": ""}, Keyword.EARLIEST),
        ("/events", {"Last-Event-ID": "0123ABCD-7"}, CustomId("0123ABCD-7")),
        ("/events", {"Last-Event-ID": "0123abcd-" + "9" * 20}, CustomId("0123abcd-" + "9" * 20)),
    ],
)
def test_the_header_takes_precedence_for_the_cursor(
    target: str, headers: Mapping[str, str], cursor: Cursor | None
) -> None:
    """A reconnecting client repeats its URL.

    An id takes precedence over `since`, which has keywords and ages.
    """
    assert read_asked(request(target, headers)).cursor == cursor


@pytest.mark.parametrize(
    ("target", "headers", "silence", "as_events"),
    [
        ("/events", ANYTHING, None, False),
        ("/events?heartbeat=event", ANYTHING, None, True),
        ("/events?heartbeat=event&format=json", ANYTHING, None, True),
        ("/events?heartbeat=event", LINES, None, True),
        ("/events?heartbeat=3", ANYTHING, 3, False),
        ("/events?heartbeat=60", LINES, 60, False),
        ("/events?heartbeat=05", ANYTHING, 5, False),
        ("/events?heartbeat=event,4", ANYTHING, 4, True),
        ("/events?heartbeat=4,event", ANYTHING, 4, True),
        ("/events?heartbeat=event%2C30", ANYTHING, 30, True),
    ],
)
def test_heartbeat_sets_the_interval_and_the_form(
    target: str, headers: Mapping[str, str], silence: int | None, *, as_events: bool
) -> None:
    """Events are for pages, which cannot see comments. The default interval is the configured one."""
    parsed = read_asked(request(target, headers))
    assert (parsed.silence, parsed.heartbeat_events) == (silence, as_events)


@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
def test_the_fast_path_returns_the_same_request(version: HttpVersion) -> None:
    """A request without parameters is parsed without looking at the query."""
    short, long = request(version=version), request("/events?x=1", version=version)
    assert read_asked(short) == read_asked(long)
    assert isinstance(read_asked(short), SubscribeRequest)


HEARTBEATS = "event, whole seconds from 3 to 60, or both as in event,4"

NO_HEARTBEATS = (
    "",
    "comment",
    "Event",
    "0",
    "2",
    "61",
    "100",
    "4.5",
    "4s",
    "-4",
    ",",
    "4,",
    ",event",
    "event,event",
    "4,4",
    "event,4,4",
    "event,61",
    "event, 4",
)


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/events?sinse=1", "sinse: unknown parameter; did you mean since?"),
        ("/events?event=", "event: must not be empty"),
        ("/events?event=a&event=", "event: must not be empty"),
        ("/events?format=", "format: must be one of text, json, not ''"),
        ("/events?format=xml", "format: must be one of text, json, not 'xml'"),
        (
            "/events?format=ndjson",
            "format: must be one of text, json, not 'ndjson'; for NDJSON send Accept: application/x-ndjson",
        ),
        (
            "/events?format=X-NDJSON",
            "format: must be one of text, json, not 'X-NDJSON'; for NDJSON send Accept: application/x-ndjson",
        ),
        ("/events?format=json&format=text", "format: is given 2 times"),
        *[
            (f"/events?heartbeat={heartbeat}", f"heartbeat: must be {HEARTBEATS}, not '{heartbeat}'")
            for heartbeat in NO_HEARTBEATS
        ],
        ("/events?heartbeat=+4", f"heartbeat: must be {HEARTBEATS}, not ' 4'"),
        ("/events?heartbeat=%2B4", f"heartbeat: must be {HEARTBEATS}, not '+4'"),
        ("/events?heartbeat=%C2%B2", f"heartbeat: must be {HEARTBEATS}, not '\\xb2'"),
        ("/events?heartbeat=" + "9" * 1000, f"heartbeat: must be {HEARTBEATS}, not '{'9' * 80}'"),
        ("/events?heartbeat=event&heartbeat=event", "heartbeat: is given 2 times"),
        ("/events?since=1&since=2", "since: is given 2 times"),
        ("/events?stram=a", "stram: unknown parameter; did you mean stream?"),
        ("/events?topics=a", "topics: unknown parameter; did you mean topic?"),
        ("/events?format=" + "x" * 1000, f"format: must be one of text, json, not '{'x' * 80}'"),
    ],
)
def test_an_invalid_parameter_is_refused(target: str, detail: str) -> None:
    with refused(400, detail):
        read_asked(request(target))


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
        ("/events/..", "channel: must not be '..', which clients resolve as a folder in a path"),
        ("/events/a,.", "channel: must not be '.', which clients resolve as a folder in a path"),
        ("/events/,", "channel: must be 1 to 128 characters: ''"),
        ("/events/a,", "channel: must be 1 to 128 characters: ''"),
        ("/events?channel=", "channel: must be 1 to 128 characters: ''"),
        ("/events/" + "x" * 129, f"channel: must be 1 to 128 characters: '{'x' * 80}'"),
    ],
)
def test_an_invalid_channel_name_is_refused(target: str, detail: str) -> None:
    with pytest.raises(EventError) as raised:
        read_asked(request(target))
    assert str(raised.value) == detail


# JSON bodies.

UNKNOWN = f"unknown member; {', '.join(SUBSCRIBE_MEMBERS)} are known"


def said(*members: tuple[str, str]) -> MultiDict[str]:
    return MultiDict(members)


@pytest.mark.parametrize(
    ("data", "members"),
    [
        (b"{}", said()),
        (b' {"channel": "a"}\r\n', said(("channel", "a"))),
        (
            b'{"channels": ["b", "a"], "event": "t", "channel": "c"}',
            said(("channel", "b"), ("channel", "a"), ("event", "t"), ("channel", "c")),
        ),
        (b'{"heartbeat": 4, "since": "1h"}', said(("heartbeat", "4"), ("since", "1h"))),
        (b'{"heartbeat": 4.0}', said(("heartbeat", "4"))),
        (b'{"channel": [7, "\\u00e9"]}', said(("channel", "7"), ("channel", "\u00e9"))),
        (b'{"stream": "a", "topic": "b"}', said(("stream", "a"), ("topic", "b"))),
        (b'{"lastEventId": "x", "format": ""}', said(("lastEventId", "x"), ("format", ""))),
        (b'{"heartbeat": 123456789012345678901}', said(("heartbeat", "123456789012345678901"))),
    ],
)
def test_the_members_of_a_body_become_parameters(data: bytes, members: MultiDict[str]) -> None:
    """A list becomes a repeated parameter, and a whole number its digits."""
    assert read_body(data) == members


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"", 400, "body: is not JSON: Input data was truncated"),
        (b"\xff", 400, "body: is not UTF-8 at byte 0"),
        (b"[]", 422, f"body: must be a JSON object with some of {', '.join(SUBSCRIBE_MEMBERS)}"),
        (b"1", 422, f"body: must be a JSON object with some of {', '.join(SUBSCRIBE_MEMBERS)}"),
        (b'{"Channel": "a"}', 422, "Channel: unknown member; did you mean channel?"),
        (b'{"room": "a"}', 422, "room: unknown member; did you mean channel?"),
        (b'{"type": "t"}', 422, "type: unknown member; did you mean event?"),
        (b'{"access_token": "t"}', 422, f"access_token: {UNKNOWN}"),
        (b'{"%b": 1}' % (b"x" * 100), 422, f"{'x' * 80}: {UNKNOWN}"),
        (b'{"channel": %b}' % (b"1" * 5000), 422, "body: has a number that is too large"),
        (b'{"since": null}', 422, "since: must be text or a list of text"),
        (b'{"heartbeat": 4.5}', 422, "heartbeat: must be text or a list of text"),
        (b'{"heartbeat": false}', 422, "heartbeat: must be text or a list of text"),
        (b'{"channels": [["a"]]}', 422, "channels: must be text or a list of text"),
        (b'{"channels": {"a": 1}}', 422, "channels: must be text or a list of text"),
    ],
)
def test_a_body_of_another_shape_is_refused(data: bytes, status: int, detail: str) -> None:
    with refused(status, detail):
        read_body(data)


@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
def test_query_body_and_path_give_the_same_request(version: HttpVersion) -> None:
    query = "channel=b&event=t&event=u&format=json&heartbeat=event,9&since=10m"
    asked = request(f"/events?channel=a&{query}", version=version)
    posted = request(version=version)
    body = b'{"channels":["a","b"],"event":["t","u"],"format":"json","heartbeat":"event,9","since":"10m"}'
    parsed = SubscribeRequest(
        Selector.parse("a", "b", types=["t", "u"]),
        CHUNKED_JSON if version == HttpVersion11 else JSON,
        Age(600.0),
        9,
        heartbeat_events=True,
    )
    assert read_asked(asked) == parsed
    assert parse_asked(posted, read_body(body)) == parsed
    assert read_asked(request(f"/events/a?{query}", version=version)) == parsed
    assert parse_asked(posted, MultiDict(parse_qsl(f"channel=a&{query}"))) == parsed


def test_a_request_without_channels_is_for_default() -> None:
    assert parse_asked(request(), said()) == read_asked(request())
