"""Problems: errors as HTTP responses."""

import http
import json

import pytest

from sse_broadcast.errors import (
    BroadcastError,
    ClosedError,
    EventError,
    EventTooLargeError,
    FullError,
    IdempotencyError,
    ListenError,
)
from sse_broadcast.server.http.problem import (
    Problem,
    answer,
    body,
    given_several_times,
    json_line,
    problem_of,
    status_of,
)
from sse_broadcast.server.http.refused_stream import RefusalReason


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (EventTooLargeError("data", "is too long"), 413, "data: is too long"),
        (EventError("id", "is not one"), 422, "id: is not one"),
        (EventError("event", "must not be empty"), 422, "event: must not be empty"),
        (EventError("channel", "must not contain '/'"), 400, "channel: must not contain '/'"),
        (EventError("channels", "must name at least one"), 400, "channels: must name at least one"),
        (EventError("since", "means nothing"), 400, "since: means nothing"),
        (IdempotencyError("it was used before"), 422, "Idempotency-Key: it was used before"),
        (ClosedError("the broadcaster is closed"), 503, "the broadcaster is closed"),
    ],
)
def test_each_error_has_its_status(error: BroadcastError, status: int, detail: str) -> None:
    """A subclass comes before its base. Errors in a channel or cursor are those of the URL: 400, not 422."""
    problem = problem_of(error)
    assert (problem.status, problem.detail) == (status_of(error), detail) == (status, detail)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ClosedError("x"), RefusalReason.DRAIN),
        (FullError("x"), RefusalReason.FULL),
        (EventError("since", "x"), None),
        (IdempotencyError("x"), None),
    ],
)
def test_a_temporary_error_has_a_close_reason(error: BroadcastError, reason: RefusalReason | None) -> None:
    """Subscribers reconnect after it. Other errors have none, since reconnecting would not help."""
    assert problem_of(error).reason == reason
    assert (problem_of(error).status == 503) == (reason is not None)


def test_an_internal_error_is_not_shown_to_clients() -> None:
    with pytest.raises(ListenError):
        problem_of(ListenError("x"))


def test_a_problem_is_these_bytes() -> None:
    response = answer(Problem(503, "full"))
    assert response.body == b'{"title":"Service Unavailable","status":503,"detail":"full"}\n'
    assert response.headers["Retry-After"] == "5"
    assert response.content_type == "application/problem+json"


def test_only_a_503_has_retry_after() -> None:
    assert "Retry-After" not in answer(Problem(400, "x")).headers
    assert answer(Problem(503, "x", headers={"Retry-After": "60"})).headers["Retry-After"] == "60"


def test_extensions_follow_the_members_of_rfc_9457() -> None:
    response = answer(Problem(400, "x", more={"published": 3, "line": 4}))
    assert response.body == b'{"title":"Bad Request","status":400,"detail":"x","published":3,"line":4}\n'


def test_a_problem_may_close_the_connection() -> None:
    """The bytes after such a request cannot be parsed reliably. Other problems keep it open."""
    assert answer(Problem(400, "x", closes=True)).keep_alive is False
    assert answer(Problem(400, "x")).keep_alive is None


@pytest.mark.parametrize("status", [400, 403, 404, 405, 408, 413, 414, 415, 417, 421, 422, 429, 431, 503])
def test_every_status_has_a_title(status: int) -> None:
    """The title is that of RFC 9110, whatever Python's is."""
    title = json.loads(body(status, "x"))["title"]
    renamed = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
    assert title == renamed.get(status, http.HTTPStatus(status).phrase)


def test_json_ends_with_a_newline() -> None:
    """A shell's prompt then begins on a line of its own."""
    assert json_line({"a": [1, "\n"]}) == b'{"a":[1,"\\n"]}\n'


def test_a_quoted_value_in_a_detail_is_escaped() -> None:
    assert json.loads(body(400, 'a "b"\n\u2028\x00'))["detail"] == 'a "b"\n\u2028\x00'


def test_a_repeated_parameter_is_named_with_its_count() -> None:
    """A cookie is named after its header's name."""
    assert given_several_times("since", 2).detail == "since: is given 2 times"
    assert given_several_times("Cookie", 3, name="token").detail == "Cookie: token is given 3 times"
    assert given_several_times("Cookie", 3).status == 400
