"""What crosses between the threads."""

import pytest

from sse_broadcast.backends.sqlite.operations import (
    Append,
    Appended,
    Clear,
    CommitResult,
    Expire,
    Forget,
    Remove,
    Trim,
)
from sse_broadcast.config.policy import HistoryLimits

LIMITS = HistoryLimits(1, 1, 1.0)


@pytest.mark.parametrize(
    "value",
    [
        Append((), {}, 0.0, ""),
        Trim("a", LIMITS, 0.0),
        Forget("a"),
        Remove(1),
        Clear("a"),
        Expire(0.0),
        Appended((), 1, 1),
        CommitResult(1, (), (), 0, 0, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_crosses_never_changes(value: object) -> None:
    """Two threads have it at one time."""
    with pytest.raises(AttributeError, match="immutable"):
        value.anything = 1  # type: ignore[attr-defined]
