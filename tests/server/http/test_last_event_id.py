"""Last-Event-ID: the names that clients use, which of several counts, and which may be repeated."""

from collections.abc import Sequence
from urllib.parse import urlencode

import pytest
from multidict import CIMultiDict, MultiDict

from sse_broadcast.server.http.last_event_id import (
    PARAMETER,
    brought,
    brought_in_head,
    fit_to_repeat,
    is_name,
    last_of,
)


@pytest.mark.parametrize(
    "name",
    [
        PARAMETER,
        "lastEventId",  # event-source-polyfill, reconnecting-eventsource
        "lastEventID",  # clients of Mercure
        "Last-Event-ID",  # older clients of Mercure
        "last-event-id",
        "LAST_EVENT_ID",
        "lasteventid",
        "evs_last_event_id",  # amvtek's EventSource
        "evsLastEventId",
    ],
)
def test_each_name_used_by_clients_is_known(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "id",
        "event_id",
        "last_event",
        "last event id",
        "last.event.id",
        "lastEventIds",
        "xlast_event_id",
        "last_event_id[]",
        "last\u00adeventid",
        "_" * 10_000 + PARAMETER,
    ],
)
def test_another_name_is_ignored(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize(
    ("values", "last"),
    [
        ([], ""),
        ([""], ""),
        ([" , ,"], ""),
        (["a"], "a"),
        (["  a\t"], "a"),
        (["a", "b"], "b"),
        (["a,b"], "b"),
        (["a, b", "c,d , "], "d"),
        (["a", ""], "a"),
        (["a", " ", ","], "a"),
    ],
)
def test_the_last_nonempty_id_counts(values: Sequence[str], last: str) -> None:
    """The ids are in several headers, or in a list that a proxy joined with commas."""
    assert last_of(values) == last


@pytest.mark.parametrize(
    ("headers", "query", "id"),
    [
        ([], [], ""),
        (["a"], [], "a"),
        ([], [("last_event_id", "b")], "b"),
        ([], [("lastEventId", "b"), ("last_event_id", "c")], "c"),
        ([], [("last_event_id", "c"), ("lastEventId", "")], "c"),
        ([], [("since", "b"), ("id", "c")], ""),
        (["a"], [("last_event_id", "b")], "a"),
        (["a", "b, c"], [("last_event_id", "d")], "c"),
        ([""], [("last_event_id", "b")], "b"),
        ([" ", ","], [("x", "y"), ("evs_last_event_id", "b")], "b"),
    ],
)
def test_an_id_in_a_header_precedes_one_in_the_query(
    headers: Sequence[str], query: Sequence[tuple[str, str]], id: str
) -> None:
    """It does in a parsed request, and in the head of one rejected before parsing."""
    fields = CIMultiDict(("Last-Event-ID", value) for value in headers)
    assert brought(fields, MultiDict(query)) == id
    joined = {"last-event-id": ",".join(headers)} if headers else {}
    assert brought_in_head(joined, urlencode(query)) == id


@pytest.mark.parametrize(
    ("query", "id"),
    [
        ("last_event_id=a%2Eb", "a.b"),
        ("last_event_id=a&last_event_id=%2C+", "a"),
        ("last_event_id=%FF", "\ufffd"),
        ("last_event_id", ""),
        ("=a&&x&lastEventId=b&", "b"),
    ],
)
def test_a_percent_encoded_id_in_a_raw_query_is_decoded(query: str, id: str) -> None:
    assert brought_in_head({}, query) == id


@pytest.mark.parametrize("id", ["0", "0123abcd-7", "order-7", "A.b_c-9", "x" * 128])
def test_a_well_formed_id_may_be_repeated(id: str) -> None:
    assert fit_to_repeat(id) == id


@pytest.mark.parametrize(
    "id", ["", "x" * 129, "a b", "a\n", "a\ndata: x", "caf\u00e9", "a/b", '"a"', "\u0660"]
)
def test_a_malformed_id_is_not_repeated(id: str) -> None:
    """It could end its line or its block."""
    assert fit_to_repeat(id) is None
