"""Refusal of a stream: an event stream for who names its media type, an error for others."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import MultiDict

from sse_broadcast.server.endpoints.refusal import turn_away
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.refused_stream import RefusalReason


@pytest.mark.parametrize(
    ("accept", "reason", "stream"),
    [
        ("text/event-stream", RefusalReason.FULL, True),
        ("*/*", RefusalReason.FULL, False),
        ("text/event-stream", None, False),
    ],
)
def test_a_refusal_is_a_stream_for_who_comes_back(
    accept: str,
    reason: RefusalReason | None,
    stream: bool,  # noqa: FBT001
) -> None:
    request = make_mocked_request("GET", "/events", headers={"Accept": accept, "Last-Event-ID": "a-1"})
    problem = turn_away(request, Problem(503, "full", reason=reason), MultiDict())
    assert problem.closes
    assert (problem.instead is not None) is stream
    if problem.instead is not None:
        assert b'data: {"reason": "full"}\nid: a-1\n\n' in bytes(problem.instead.body or b"")  # type: ignore[arg-type]
