"""Errors as problems."""

import pytest

from sse_broadcast.errors import ClosedError, EventError, EventTooLargeError, ListenError
from sse_broadcast.server.problem import Problem, answer, problem_of


@pytest.mark.parametrize(
    ("error", "status"),
    [(EventTooLargeError("data", "x"), 413), (EventError("id", "x"), 422), (ClosedError("x"), 503)],
)
def test_each_error_has_its_status(error: EventError | ClosedError, status: int) -> None:
    """The narrower kind before the wider one."""
    assert problem_of(error).status == status


def test_an_error_no_client_can_cause_is_not_told_to_one() -> None:
    """It is a fault of ours, and goes the way of those."""
    with pytest.raises(ListenError):
        problem_of(ListenError("x"))


def test_a_problem_is_these_bytes() -> None:
    """RFC 9457, with a time to come back at a 503."""
    response = answer(Problem(503, "full"))
    assert response.body == b'{"title":"Service Unavailable","status":503,"detail":"full"}'
    assert response.headers["Retry-After"] == "5"
    assert response.content_type == "application/problem+json"


def test_titles_do_not_depend_on_the_python() -> None:
    """Those of RFC 9110."""
    assert b'"title":"Unprocessable Content"' in bytes(answer(Problem(422, "x")).body)  # type: ignore[arg-type]
    assert b'"title":"Content Too Large"' in bytes(answer(Problem(413, "x")).body)  # type: ignore[arg-type]
