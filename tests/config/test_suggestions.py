"""What was meant by a name that is not known."""

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
def test_a_typing_error_is_of_the_nearest_name(name: str, known: str) -> None:
    assert nearest(name, KNOWN) == known


@pytest.mark.parametrize("name", ["", "x", "_", "topic", "RETRY", "idea", "retries", "channel" * 10])
def test_a_name_that_is_near_to_none_is_no_typing_error(name: str) -> None:
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
def test_what_was_meant_is_a_typing_error_another_case_or_a_word_of_others(name: str, known: str) -> None:
    assert meant(name, KNOWN) == known


@pytest.mark.parametrize("name", ["", "x", "payload", "message", "topic" * 10])
def test_a_word_for_what_is_not_known_here_was_not_meant(name: str) -> None:
    """`payload` means `data`, and there is none among these."""
    assert meant(name, KNOWN) is None


@pytest.mark.parametrize(("word", "known"), SYNONYMS.items())
def test_each_word_of_others_means_a_member_of_an_event(word: str, known: str) -> None:
    assert known in EVENT_MEMBERS
    assert word not in EVENT_MEMBERS
    assert meant(word, EVENT_MEMBERS) == known


def test_the_longest_name_that_is_compared() -> None:
    """A longer one is none that is known, however near."""
    known = "k" * MAX_COMPARED
    assert nearest(known[1:] + "x", [known]) == known
    assert meant(known + "x", [known]) is None
    assert nearest(known + "x", [known]) is None
