"""Suggestions for unknown names."""

import pytest

from sse_broadcast.config.suggestions import MAX_COMPARED, SYNONYMS, meant, nearest
from sse_broadcast.server.endpoints.publish_request import EVENT_MEMBERS

KNOWN = ("channel", "event", "id", "retry", "since")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("chanel", "channel"),
        ("channels", "channel"),
        ("Channel", "channel"),
        ("evnt", "event"),
        ("ids", "id"),
        ("sicne", "since"),
    ],
)
def test_a_misspelt_name_suggests_the_nearest(name: str, known: str) -> None:
    assert nearest(name, KNOWN) == known


@pytest.mark.parametrize("name", ["", "x", "_", "topic", "RETRY", "idea", "retries", "channel" * 10])
def test_a_dissimilar_name_has_no_suggestion(name: str) -> None:
    assert nearest(name, KNOWN) is None


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("chanel", "channel"),
        ("RETRY", "retry"),
        ("ID", "id"),
        ("topic", "channel"),
        ("Topics", "channel"),
        ("event-type", "event"),
        ("EventType", "event"),
        ("lastEventId", "id"),
        ("last-event-id", "id"),
    ],
)
def test_a_suggestion_corrects_a_typing_error_the_case_or_a_foreign_term(name: str, known: str) -> None:
    assert meant(name, KNOWN) == known


@pytest.mark.parametrize("name", ["", "x", "payload", "message", "topic" * 10])
def test_a_foreign_term_for_an_unknown_name_has_no_suggestion(name: str) -> None:
    """`payload` means `data`, which is not among these names."""
    assert meant(name, KNOWN) is None


@pytest.mark.parametrize(("word", "known"), SYNONYMS.items())
def test_each_foreign_term_means_a_member_of_an_event(word: str, known: str) -> None:
    assert known in EVENT_MEMBERS
    assert word not in EVENT_MEMBERS
    assert meant(word, EVENT_MEMBERS) == known


def test_long_names_are_not_compared() -> None:
    """They cannot be misspellings of a known name."""
    known = "k" * MAX_COMPARED
    assert nearest(known[1:] + "x", [known]) == known
    assert meant(known + "x", [known]) is None
    assert nearest(known + "x", [known]) is None
