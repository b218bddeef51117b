"""The words of the contract; what a backend does with them is in `contract.py`."""

from dataclasses import FrozenInstanceError, fields

import pytest

from sse_broadcast.backends.base import ChannelUsage, Gap, IdempotencyKey, ReplayPage, ResetReason, StartPoint
from tests.support.memory_sinks import publication


def test_the_reasons_for_a_reset_are_the_words_readers_see() -> None:
    """They are text, and go into JSON as they are."""
    assert [str(reason) for reason in ResetReason] == ["slow", "evicted", "epoch", "unknown", "backend"]


def test_a_reader_that_says_nothing_more_begins_after_a_position() -> None:
    """Nothing comes first, nothing was lost, and every eviction is news."""
    assert StartPoint(5) == StartPoint(
        after=5, evictions_seen=0, preloaded=(), reset_reason=None, channels=()
    )


def test_a_cursor_is_just_before_the_first_event() -> None:
    """Of those that come first, if there are any; else of the rest."""
    first = tuple(publication("x", "a", position=position) for position in (3, 7))
    assert StartPoint(5).cursor == 5
    assert StartPoint(9, preloaded=first).cursor == 2
    assert StartPoint(4, reset_reason=ResetReason.EVICTED, channels=("a",)).cursor == 4


def test_a_page_has_no_gap_unless_it_says_so() -> None:
    """The ordinary answer is publications alone."""
    assert ReplayPage((), 5).gap is None


@pytest.mark.parametrize(
    "value",
    [StartPoint(1), Gap(("a",), 1), ReplayPage((), 1), IdempotencyKey(("k",), b"d"), ChannelUsage(0, None)],
    ids=lambda value: type(value).__name__,
)
def test_what_crosses_the_seam_never_changes(value: object) -> None:
    """Every value is frozen: who is given one may keep it."""
    for field in fields(value):  # type: ignore[arg-type]
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)


def test_a_token_is_known_by_its_scope_and_digest() -> None:
    """Equal parts make an equal token, and one that can be a key."""
    assert IdempotencyKey(("a", "b"), b"d") == IdempotencyKey(("a", "b"), b"d")
    assert (
        len(
            {
                IdempotencyKey(("a",), b"d"),
                IdempotencyKey(("a",), b"d"),
                IdempotencyKey(("a",), b"e"),
                IdempotencyKey(("b",), b"d"),
            }
        )
        == 3
    )
