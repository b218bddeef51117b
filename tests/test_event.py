"""Events: valid and invalid values."""

import re

import pytest

from sse_broadcast.errors import EventError
from sse_broadcast.event import LONGEST_RETRY, MAX_KEY, MAX_RETRY, OF_EVENT_SOURCE, SHORTEST_RETRY, Event


@pytest.mark.parametrize("field", ["type", "id", "key"])
@pytest.mark.parametrize(("name", "character"), [("NUL", "\0"), ("CR", "\r"), ("LF", "\n")])
def test_a_line_has_no_line_end_and_no_nul(field: str, name: str, character: str) -> None:
    """The error of a type, id or key names the field and the character."""
    said = {"type": "event"}.get(field, field)
    with pytest.raises(EventError, match=f"^{said}: must not contain {name}: ") as raised:
        Event("x", **{field: f"a{character}b"})  # type: ignore[arg-type]
    assert raised.value.field == said


@pytest.mark.parametrize("field", ["data", "type", "id", "key"])
def test_a_lone_surrogate_is_refused_in_every_field(field: str) -> None:
    """It has no UTF-8 form, and is refused before any event is sent."""
    with pytest.raises(EventError, match=r"has a lone surrogate, '\\ud800', at character 2$"):
        Event(**{"data": "x", field: "ab\ud800"})  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", [-1, MAX_RETRY + 1])
def test_retry_has_the_limits_of_browsers(retry: int) -> None:
    """A browser could not keep another reconnection time."""
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
def test_a_value_that_is_no_text_is_refused(field: str, value: object, said: str) -> None:
    """The error has its type, how to make text of it if possible, and the publisher's name of the field."""
    name = {"data": "message", "type": "event"}.get(field, field)
    with pytest.raises(TypeError, match=f"^{name}: must be text, not {re.escape(said)}$"):
        Event(**{"data": "x", field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "name"), [("data", "message"), ("type", "event")])
def test_none_is_no_text(field: str, name: str) -> None:
    """Only an id, a key and a retry may be None."""
    with pytest.raises(TypeError, match=f"^{name}: must be text, not NoneType; json.dumps makes text of it$"):
        Event(**{"data": "x", field: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["data", "type", "id", "key"])
def test_a_subclass_of_str_is_text(field: str) -> None:
    """Template engines have them (SafeString of Django, Markup of Jinja), and so do enumerations."""

    class Markup(str):
        __slots__ = ()

    assert getattr(Event(**{"data": "x", field: Markup("m")}), field) == "m"  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", ["5", 5.0, True, b"5"], ids=repr)
def test_a_retry_is_a_whole_number(retry: object) -> None:
    problem = f"^retry: must be a whole number of milliseconds, not {re.escape(repr(retry))}$"
    with pytest.raises(TypeError, match=problem):
        Event("x", retry=retry)  # type: ignore[arg-type]


def test_an_event_may_have_reserved_values() -> None:
    """System events have such types and retries, and so have events of other servers."""
    assert Event("x", "open", retry=0).type == "open"
    assert sorted(OF_EVENT_SOURCE) == ["error", "open"]
    assert (SHORTEST_RETRY, LONGEST_RETRY) == (500, 3_600_000)


@pytest.mark.parametrize("retry", [0, MAX_RETRY])
def test_retry_accepts_the_values_that_browsers_keep(retry: int) -> None:
    assert Event("x", retry=retry).retry == retry


def test_an_empty_type_is_refused() -> None:
    """Browsers would dispatch it as `message`."""
    with pytest.raises(EventError, match=r"^event: must not be empty$"):
        Event("x", type="")


@pytest.mark.parametrize("key", ["", "k" * (MAX_KEY + 1)])
def test_a_key_is_1_to_128_characters(key: str) -> None:
    with pytest.raises(EventError, match=r"^key: must be 1 to 128 characters: ") as raised:
        Event("x", key=key)
    assert len(str(raised.value)) < 130


@pytest.mark.parametrize("key", ["k", "k" * MAX_KEY, "\u20ac / \U0001f600"])
def test_a_key_may_be_any_line(key: str) -> None:
    """Spaces, slashes and emoji are valid: clients never receive it."""
    assert Event("x", key=key).key == key


def test_data_may_be_any_other_text() -> None:
    """It may have NUL, line ends, a byte order mark and emoji."""
    assert Event("\0\r\n\ufeff\U0001f600").data == "\0\r\n\ufeff\U0001f600"


def test_an_event_has_only_its_given_fields() -> None:
    """Without an id, a key and a retry it is a message whose data is text."""
    event = Event("x")
    assert (event.type, event.id, event.retry, event.key, event.json) == ("message", None, None, None, False)


def test_an_event_is_an_immutable_value() -> None:
    """Equal fields make equal events, and validated ones cannot change."""
    event = Event("x", key="k")
    assert event == Event("x", key="k")
    assert event != Event("x", key="l")
    assert len({event, Event("x", key="k"), Event("x", key="k", json=True)}) == 2
    with pytest.raises(AttributeError):
        event.data = "y"  # type: ignore[misc]


def test_types_beginning_with_a_dollar_are_reserved() -> None:
    """A publisher cannot forge `$reset` and `$close`."""
    assert Event("x", type="$reset").reserved
    assert not Event("x", type="us$").reserved
