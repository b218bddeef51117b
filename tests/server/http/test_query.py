"""Query strings: known, unknown and repeated parameters."""

from collections.abc import Sequence

import pytest
from aiohttp.test_utils import make_mocked_request

from sse_broadcast.errors import EventError
from sse_broadcast.server.endpoints.subscribe_request import SUBSCRIBE_PARAMETERS
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.query import DEFAULT_PAGE_SIZE, limit, only, refuse_misspelt, refuse_unknown
from sse_broadcast.server.http.request_head import channels_of_path
from tests.conftest import Patch
from tests.support.problems import refused


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("sinse=1", "sinse: unknown parameter; did you mean since?"),
        ("channels=a", "channels: unknown parameter; did you mean channel?"),
        ("events=a", "events: unknown parameter; did you mean event?"),
        ("Event=a", "Event: unknown parameter; did you mean event?"),
        ("last_event_is=1", "last_event_is: unknown parameter; did you mean last_event_id?"),
        ("hearbeat=event", "hearbeat: unknown parameter; did you mean heartbeat?"),
        ("since=1&format=json&fromat=json", "fromat: unknown parameter; did you mean format?"),
        ("%C3%A9vent=a", "\u00e9vent: unknown parameter; did you mean event?"),
    ],
)
def test_a_misspelt_parameter_is_refused(query: str, detail: str) -> None:
    """A typing error must not change a subscription."""
    with refused(400, detail):
        refuse_misspelt(make_mocked_request("GET", f"/events?{query}").query, SUBSCRIBE_PARAMETERS)


@pytest.mark.parametrize(
    "query", ["", "x=1", "cache=7&_=1", "lastEventId=1", "SINCE=1", "=", "&&", "e", "since=1&since=2"]
)
def test_known_and_unrelated_parameters_are_accepted(query: str) -> None:
    """Below a similarity of 0.8 a parameter is taken for one of a proxy or a cache."""
    refuse_misspelt(make_mocked_request("GET", f"/events?{query}").query, SUBSCRIBE_PARAMETERS)


def test_the_similarity_is_eight_tenths() -> None:
    """`ids` is just as similar to `id`, `idea` is not."""
    with pytest.raises(Problem, match=r"^ids: unknown parameter; did you mean id\?$"):
        refuse_misspelt(make_mocked_request("POST", "/send?ids=1").query, ("id",))
    refuse_misspelt(make_mocked_request("POST", "/send?idea=1").query, ("id",))


def test_a_parameter_known_elsewhere_is_not_compared() -> None:
    """`also` has such ones. Names longer than any misspelling are not compared either."""
    refuse_misspelt(
        make_mocked_request("GET", "/events?ids=1").query, ("id",), also=lambda name: name == "ids"
    )
    refuse_misspelt(make_mocked_request("GET", f"/events?{'id' * 100}=1").query, ("id" * 50,))


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("chanel=a", "chanel: unknown parameter; did you mean channel?"),
        ("topic=a", "topic: unknown parameter; did you mean channel?"),
        ("type=a", "type: unknown parameter; did you mean event?"),
        ("Type=a", "Type: unknown parameter; did you mean event?"),
        ("channel=a&_=1", "_: unknown parameter; channel, event, id are known"),
    ],
)
def test_an_unknown_parameter_of_a_publish_is_refused(query: str, detail: str) -> None:
    """Terms of other products are too: a publish cannot be undone."""
    with refused(400, detail):
        refuse_unknown(make_mocked_request("POST", f"/send?{query}").query, ("channel", "event", "id"))


@pytest.mark.parametrize(
    ("query", "value"), [("", None), ("since=", ""), ("since=1", "1"), ("since=a+b", "a b")]
)
def test_a_parameter_may_be_given_once(query: str, value: str | None) -> None:
    assert only(make_mocked_request("GET", f"/events?{query}").query, "since") == value


def test_a_repeated_parameter_is_refused() -> None:
    """One of its values would be ignored. This holds for equal values too."""
    with pytest.raises(Problem, match=r"^since: is given 3 times$"):
        only(make_mocked_request("GET", "/events?since=1&x=2&since=1&since=3").query, "since")


@pytest.mark.parametrize(
    ("path", "named"), [(None, []), ("a", ["a"]), ("a,b", ["a", "b"]), ("a,,b", ["a", "", "b"])]
)
def test_channels_in_a_path_are_split_at_its_commas(path: str | None, named: list[str]) -> None:
    match_info = {} if path is None else {"channels": path}
    request, counted = make_mocked_request("GET", "/events", match_info=match_info), list[int]()
    assert channels_of_path(request, counted.append) == named
    assert counted == ([len(named)] if len(named) > 1 else [])


def test_a_path_with_too_many_channels_is_not_split() -> None:
    def refuse(count: int) -> None:
        raise EventError("channels", str(count))

    request = make_mocked_request("GET", "/events", match_info={"channels": "aa," * 2699 + "aa"})
    with pytest.raises(EventError, match=r"^channels: 2700$"):
        channels_of_path(request, refuse)


def test_the_number_of_comparisons_is_limited(monkeypatch: Patch) -> None:
    """A request compares two names at most. Names too far from any known one do not count."""
    compared: list[str] = []

    def compare(name: str, known: Sequence[str]) -> None:
        compared.append(name)

    monkeypatch.setattr("sse_broadcast.server.http.query.nearest", compare)
    names = ["utm_source", "utm_medium", *(f"lennahc{number}" for number in range(200))]
    refuse_misspelt(make_mocked_request("GET", f"/events?{'&'.join(names)}").query, ("channel", "since"))
    assert compared == ["lennahc0", "lennahc1"]


@pytest.mark.parametrize(
    ("query", "most"), [("", DEFAULT_PAGE_SIZE), ("limit=1", 1), ("limit=1000", 1000), ("limit=007", 7)]
)
def test_a_limit_within_the_bounds_is_accepted(query: str, most: int) -> None:
    assert limit(make_mocked_request("GET", f"/channels?{query}")) == most


@pytest.mark.parametrize("text", ["0", "1001", "-1", "1.0", "", "x", "\u00b2", "10000", "0000000019"])
def test_a_limit_out_of_bounds_is_refused(text: str) -> None:
    with refused(400, f"limit: must be 1 to 1000, not {text!a}"):
        limit(make_mocked_request("GET", f"/channels?limit={text}"))
