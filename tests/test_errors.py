"""The exceptions."""

import inspect

from sse_broadcast import errors


def test_every_exception_is_of_one_tree() -> None:
    """Whoever catches BroadcastError catches everything this package raises."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert kinds
    assert all(issubclass(kind, errors.BroadcastError) for kind in kinds)


def test_event_error_names_its_field() -> None:
    """The field is there for programs, and in the message for people."""
    error = errors.EventError("retry", "must be a number")
    assert error.field == "retry"
    assert str(error) == "retry: must be a number"
