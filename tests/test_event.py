"""What an event may say."""

import pytest

from sse_broadcast.errors import EventError
from sse_broadcast.event import MAX_RETRY, Event


@pytest.mark.parametrize("field", ["type", "id"])
@pytest.mark.parametrize(("name", "character"), [("NUL", "\0"), ("CR", "\r"), ("LF", "\n")])
def test_a_line_takes_no_line_end_and_no_nul(field: str, name: str, character: str) -> None:
    """A type or id that would break out of its line is refused, naming the character."""
    with pytest.raises(EventError, match=f"must not contain {name}"):
        Event("x", **{field: f"a{character}b"})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["data", "type", "id"])
def test_a_lone_surrogate_is_refused_wherever_it_stands(field: str) -> None:
    """Text without a UTF-8 form cannot be sent, and is refused before anyone is sent anything."""
    with pytest.raises(EventError, match="lone surrogate"):
        Event(**{"data": "x", field: "ab\ud800"})  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", [-1, MAX_RETRY + 1])
def test_retry_is_bounded_as_browsers_bound_it(retry: int) -> None:
    """A reconnection time that a browser could not keep is refused."""
    with pytest.raises(EventError, match="retry: must be 0 to 2147483647 milliseconds"):
        Event("x", retry=retry)


def test_an_empty_type_is_refused() -> None:
    """An empty type means `message` to a browser, so it would not arrive as it was sent."""
    with pytest.raises(EventError, match="event: must not be empty"):
        Event("x", type="")


def test_data_takes_any_other_text() -> None:
    """NUL, line ends, a byte order mark and emoji are data like any other."""
    assert Event("\0\r\n\ufeff\U0001f600").data == "\0\r\n\ufeff\U0001f600"


def test_types_beginning_with_a_dollar_are_reserved() -> None:
    """`$reset` and `$close` cannot be forged by a publisher."""
    assert Event("x", type="$reset").reserved
    assert not Event("x", type="us$").reserved
