"""What a query may say."""

import pytest
from aiohttp.test_utils import make_mocked_request

from sse_broadcast.server.problem import Problem
from sse_broadcast.server.query import PAGE, channels, limit, only, require_known
from sse_broadcast.server.wish import PARAMETERS


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("sinse=1", "sinse: unknown parameter; since was meant?"),
        ("channels=a", "channels: unknown parameter; channel was meant?"),
        ("events=a", "events: unknown parameter; event was meant?"),
        ("Event=a", "Event: unknown parameter; event was meant?"),
        ("last-event-id=1", "last-event-id: unknown parameter; last_event_id was meant?"),
        ("hearbeat=event", "hearbeat: unknown parameter; heartbeat was meant?"),
        ("since=1&format=json&fromat=json", "fromat: unknown parameter; format was meant?"),
        ("%C3%A9vent=a", "\u00e9vent: unknown parameter; event was meant?"),
    ],
)
def test_a_parameter_that_is_nearly_known_is_refused(query: str, detail: str) -> None:
    """A typing error must not subscribe to something else than was meant."""
    with pytest.raises(Problem) as raised:
        require_known(make_mocked_request("GET", f"/events?{query}"), PARAMETERS)
    assert (raised.value.status, raised.value.detail) == (400, detail)


@pytest.mark.parametrize(
    "query", ["", "x=1", "cache=7&_=1", "lastEventId=1", "SINCE=1", "=", "&&", "e", "since=1&since=2"]
)
def test_what_is_known_or_nobodys_business_passes(query: str) -> None:
    """Below a ratio of 0.8 a parameter is somebody else's, a proxy's or a cache's."""
    require_known(make_mocked_request("GET", f"/events?{query}"), PARAMETERS)


def test_the_ratio_is_eight_tenths() -> None:
    """`ids` is as near to `id` as that, and no nearer; `idea` is not."""
    with pytest.raises(Problem, match=r"^ids: unknown parameter; id was meant\?$"):
        require_known(make_mocked_request("POST", "/send?ids=1"), ("id",))
    require_known(make_mocked_request("POST", "/send?idea=1"), ("id",))


@pytest.mark.parametrize(
    ("query", "value"), [("", None), ("since=", ""), ("since=1", "1"), ("since=a+b", "a b")]
)
def test_a_parameter_may_be_there_once(query: str, value: str | None) -> None:
    """Not there is None, and empty is empty."""
    assert only(make_mocked_request("GET", f"/events?{query}"), "since") == value


def test_a_parameter_that_is_given_twice_is_refused() -> None:
    """Whichever was meant, the other would be ignored; the same value twice is no better."""
    with pytest.raises(Problem, match=r"^since: is given 3 times$"):
        only(make_mocked_request("GET", "/events?since=1&x=2&since=1&since=3"), "since")


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        (None, "", []),
        ("a", "", ["a"]),
        ("a,b", "", ["a", "b"]),
        ("a,,b", "", ["a", "", "b"]),
        (None, "?channel=b&channel=a", ["b", "a"]),
        ("c,a", "?channel=b&x=1&channel=a", ["c", "a", "b", "a"]),
        (None, "?channel=a,b", ["a,b"]),
        (None, "?channel=", [""]),
    ],
)
def test_channels_are_those_of_the_path_and_then_of_the_query(
    path: str | None, query: str, named: list[str]
) -> None:
    """Nothing is split, cleaned or left out but what the path's commas part."""
    match_info = {} if path is None else {"channels": path}
    assert channels(make_mocked_request("GET", f"/events{query}", match_info=match_info)) == named


@pytest.mark.parametrize(
    ("query", "most"), [("", PAGE), ("limit=1", 1), ("limit=1000", 1000), ("limit=007", 7)]
)
def test_an_answer_lists_so_many(query: str, most: int) -> None:
    """As many as are asked for, or a usual number."""
    assert limit(make_mocked_request("GET", f"/channels?{query}")) == most


@pytest.mark.parametrize("text", ["0", "1001", "-1", "1.0", "", "x", "\u00b2", "10000"])
def test_an_answer_lists_no_other_number(text: str) -> None:
    """With the value that it was."""
    with pytest.raises(Problem) as raised:
        limit(make_mocked_request("GET", f"/channels?limit={text}"))
    assert (raised.value.status, raised.value.detail) == (400, f"limit: must be 1 to 1000, not {text!a}")
