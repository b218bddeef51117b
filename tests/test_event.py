"""What an event may say."""

import re

import pytest

from sse_broadcast.errors import EventError
from sse_broadcast.event import LONGEST_RETRY, MAX_KEY, MAX_RETRY, OF_EVENT_SOURCE, SHORTEST_RETRY, Event


@pytest.mark.parametrize("field", ["type", "id", "key"])
@pytest.mark.parametrize(("name", "character"), [("NUL", "\0"), ("CR", "\r"), ("LF", "\n")])
def test_a_line_takes_no_line_end_and_no_nul(field: str, name: str, character: str) -> None:
    """A type, id or key that would break out of its line is refused, naming field and character."""
    said = {"type": "event"}.get(field, field)
    with pytest.raises(EventError, match=f"^{said}: must not contain {name}: ") as raised:
        Event("x", **{field: f"a{character}b"})  # type: ignore[arg-type]
    assert raised.value.field == said


@pytest.mark.parametrize("field", ["data", "type", "id", "key"])
def test_a_lone_surrogate_is_refused_wherever_it_stands(field: str) -> None:
    """Text without a UTF-8 form cannot be sent, and is refused before anyone is sent anything."""
    with pytest.raises(EventError, match=r"has a lone surrogate, '\\ud800', at character 2$"):
        Event(**{"data": "x", field: "ab\ud800"})  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", [-1, MAX_RETRY + 1])
def test_retry_is_bounded_as_browsers_bound_it(retry: int) -> None:
    """A reconnection time that a browser could not keep is refused."""
    with pytest.raises(EventError, match=f"^retry: must be 0 to 2147483647 milliseconds, not {retry}$"):
        Event("x", retry=retry)


@pytest.mark.parametrize("field", ["data", "type", "id", "key"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"x", "bytes; decode it first: .decode()"),
        (bytearray(b"x"), "bytearray; decode it first: .decode()"),
        (memoryview(b"x"), "memoryview; decode it first: .decode()"),
        ({"a": 1}, "dict; json.dumps makes text of it"),
        (["a"], "list; json.dumps makes text of it"),
        (("a",), "tuple; json.dumps makes text of it"),
        (5, "int; json.dumps makes text of it"),
        (0.5, "float; json.dumps makes text of it"),
        (True, "bool; json.dumps makes text of it"),
        ({"a"}, "set"),
        (Exception("x"), "Exception"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_text_is_refused(field: str, value: object, said: str) -> None:
    """With its type, and what makes text of it if there is one way; the field is named as publishers do."""
    name = {"data": "message", "type": "event"}.get(field, field)
    with pytest.raises(TypeError, match=f"^{name}: must be text, not {re.escape(said)}$"):
        Event(**{"data": "x", field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "name"), [("data", "message"), ("type", "event")])
def test_nothing_is_no_text_either(field: str, name: str) -> None:
    """Only an id, a key and a time may be left out by None."""
    with pytest.raises(TypeError, match=f"^{name}: must be text, not NoneType; json.dumps makes text of it$"):
        Event(**{"data": "x", field: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["data", "type", "id", "key"])
def test_text_of_a_class_of_its_own_is_text(field: str) -> None:
    """As templates make it (Django's SafeString, Jinja's Markup), and as enumerations have it."""

    class Markup(str):
        __slots__ = ()

    assert getattr(Event(**{"data": "x", field: Markup("m")}), field) == "m"  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", ["5", 5.0, True, b"5"], ids=repr)
def test_a_retry_is_a_whole_number(retry: object) -> None:
    problem = f"^retry: must be a whole number of milliseconds, not {re.escape(repr(retry))}$"
    with pytest.raises(TypeError, match=problem):
        Event("x", retry=retry)  # type: ignore[arg-type]


def test_what_a_publisher_may_not_say_is_an_event_all_the_same() -> None:
    """The server's own events, and a client's of another server, have such types and times."""
    assert Event("x", "open", retry=0).type == "open"
    assert sorted(OF_EVENT_SOURCE) == ["error", "open"]
    assert (SHORTEST_RETRY, LONGEST_RETRY) == (500, 3_600_000)


@pytest.mark.parametrize("retry", [0, MAX_RETRY])
def test_retry_takes_what_a_browser_keeps(retry: int) -> None:
    assert Event("x", retry=retry).retry == retry


def test_an_empty_type_is_refused() -> None:
    """An empty type means `message` to a browser, so it would not arrive as it was sent."""
    with pytest.raises(EventError, match=r"^event: must not be empty$"):
        Event("x", type="")


@pytest.mark.parametrize("key", ["", "k" * (MAX_KEY + 1)])
def test_a_key_is_1_to_128_characters(key: str) -> None:
    """What is longer, or nothing at all, names no event to replace."""
    with pytest.raises(EventError, match=r"^key: must be 1 to 128 characters: ") as raised:
        Event("x", key=key)
    assert len(str(raised.value)) < 130


@pytest.mark.parametrize("key", ["k", "k" * MAX_KEY, "\u20ac / \U0001f600"])
def test_a_key_may_be_any_line(key: str) -> None:
    """Spaces, slashes and emoji too: no client ever sees it."""
    assert Event("x", key=key).key == key


def test_data_takes_any_other_text() -> None:
    """NUL, line ends, a byte order mark and emoji are data like any other."""
    assert Event("\0\r\n\ufeff\U0001f600").data == "\0\r\n\ufeff\U0001f600"


def test_an_event_says_no_more_than_it_was_given() -> None:
    """A message without an id, a key or a time to reconnect after, whose data is text."""
    event = Event("x")
    assert (event.type, event.id, event.retry, event.key, event.json) == ("message", None, None, None, False)


def test_an_event_is_a_value() -> None:
    """What says the same is the same, and what was checked cannot be changed behind its back."""
    event = Event("x", key="k")
    assert event == Event("x", key="k")
    assert event != Event("x", key="l")
    assert len({event, Event("x", key="k"), Event("x", key="k", json=True)}) == 2
    with pytest.raises(AttributeError):
        event.data = "y"  # type: ignore[misc]


def test_types_beginning_with_a_dollar_are_reserved() -> None:
    """`$reset` and `$close` cannot be forged by a publisher."""
    assert Event("x", type="$reset").reserved
    assert not Event("x", type="us$").reserved
