"""Cursors, and the ids that a publisher may choose."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.cursor import (
    LONGEST_OWN,
    MAX_ID,
    Age,
    Cursor,
    CustomId,
    EventId,
    Keyword,
    format_id,
    new_epoch,
    parse_id,
    parse_since,
    validate_custom_id,
)
from sse_broadcast.errors import EventError


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1))
def test_a_server_id_is_parsed_back(position: int, epoch: int) -> None:
    """parse_id(format_id(e, p)) == EventId(e, p), and so does `since`. No id is too long."""
    place = EventId(f"{epoch:08x}", position)
    text = format_id(place.epoch, position)
    assert parse_id(text) == parse_since(text) == place
    assert len(text) <= LONGEST_OWN


def test_the_longest_server_id_has_the_stated_length() -> None:
    """The newest possible position fills the reserved length."""
    assert len(format_id("0123abcd", 2**63 - 1)) == LONGEST_OWN == 28


def test_an_epoch_is_eight_random_hexadecimal_digits() -> None:
    """Two lives of a history have different ones."""
    epochs = {new_epoch() for _ in range(100)}
    assert len(epochs) == 100
    assert all(re.fullmatch("[0-9a-f]{8}", epoch) for epoch in epochs)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0123abcd-0", EventId("0123abcd", 0)),
        ("ffffffff-42", EventId("ffffffff", 42)),
        ("00000000-9999999999999999999", EventId("00000000", 9_999_999_999_999_999_999)),
        ("0123abcd-007", EventId("0123abcd", 7)),
    ],
)
def test_an_id_of_the_servers_form_is_an_event_id(text: str, place: EventId) -> None:
    assert parse_id(text) == place


OTHER_FORMS = ["", "7", "0123abcd", "0123abcd-", "-5", "0123abc-5", "0123abcde-5", "0123ABCD-5"]
OTHER_FORMS += ["0123abcg-5", "0123abcd--5", "0123abcd-+5", "0123abcd-5 ", "0123abcd-5\n", " 0123abcd-5"]
OTHER_FORMS += ["0123abcd-12345678901234567890", "0123abcd-\u0663", "\u0660123abcd-5", "0123abcd_5"]


@pytest.mark.parametrize("text", OTHER_FORMS)
def test_an_id_of_any_other_form_is_a_custom_id(text: str) -> None:
    """A partly similar form is one too. `since` marks it as its own."""
    assert parse_id(text) == CustomId(text)
    assert parse_since(text) == CustomId(text, said_in_since=True)


@pytest.mark.parametrize("text", ["earliest", "last", "10m", "5ms"])
def test_last_event_id_is_always_an_id(text: str) -> None:
    """A browser sends back ids only: keywords of `since` mean nothing there."""
    assert parse_id(text) == CustomId(text)


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("earliest", Keyword.EARLIEST),
        ("last", Keyword.LAST),
        ("250ms", Age(0.25)),
        ("0s", Age(0.0)),
        ("5s", Age(5.0)),
        ("10m", Age(600.0)),
        ("2h", Age(7200.0)),
        ("1d", Age(86_400.0)),
        ("007s", Age(7.0)),
        ("999999999d", Age(999_999_999 * 86_400.0)),
    ],
)
def test_since_accepts_keywords_and_ages(text: str, cursor: Cursor) -> None:
    """An age is a whole number and its unit."""
    assert parse_since(text) == cursor


NEARLY = ["Earliest", "LAST", "last ", "10", "m", "10 m", "1.5h", "-5s", "10M", "10min", "1h30m"]
NEARLY += ["1234567890s", "\u0663s"]


@pytest.mark.parametrize("text", NEARLY)
def test_a_misspelt_keyword_or_age_is_a_custom_id(text: str) -> None:
    """It is not guessed, and refused if no event has that id."""
    assert parse_since(text) == CustomId(text, said_in_since=True)


MAY_BE_CHOSEN = ["a", "7", "-", "_", ".", "A-Z.a_z-0.9", "x" * MAX_ID, "0123ABCD-5", "0123abcd-", "lasting"]
MAY_BE_CHOSEN += ["10", "1234567890s"]


@pytest.mark.parametrize("text", MAY_BE_CHOSEN)
def test_a_publisher_may_choose_this_id(text: str) -> None:
    """It has 1 to 128 letters, digits, dots, underscores and dashes, and no other meaning."""
    validate_custom_id(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be 1 to 128 characters: ''"),
        ("x" * 129, f"must be 1 to 128 characters: '{'x' * 80}'"),
        ("a b", "must not contain ' ': 'a b'"),
        ("a/b", "must not contain '/': 'a/b'"),
        ("a\n", "must not contain '\\n': 'a\\n'"),
        ("a\0", "must not contain '\\x00': 'a\\x00'"),
        ("é", "must not contain '\\xe9': '\\xe9'"),
        ("\ud800", "must not contain '\\ud800': '\\ud800'"),
        ("\u0663", "must not contain '\\u0663': '\\u0663'"),
        ("0123abcd-5", "'0123abcd-5' has the form of the server's own ids"),
        ("last", "'last' has a meaning for `since`"),
        ("earliest", "'earliest' has a meaning for `since`"),
        ("10m", "'10m' has a meaning for `since`"),
        ("0ms", "'0ms' has a meaning for `since`"),
    ],
)
def test_a_publisher_may_not_choose_this_id(text: str, problem: str) -> None:
    with pytest.raises(EventError) as caught:
        validate_custom_id(text)
    assert str(caught.value) == f"id: {problem}"
    assert caught.value.field == "id"


@given(st.text(max_size=140))
def test_a_valid_custom_id_is_parsed_as_one(text: str) -> None:
    """Last-Event-ID and `since` both accept it, and `since` marks it."""
    try:
        validate_custom_id(text)
    except EventError:
        return
    assert parse_id(text) == CustomId(text)
    assert parse_since(text) == CustomId(text, said_in_since=True)
