"""The exceptions."""

import inspect

from sse_broadcast import errors


def test_every_exception_is_of_one_tree() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert kinds
    assert all(issubclass(kind, errors.BroadcastError) for kind in kinds)


def test_event_error_names_its_field() -> None:
    """The field is there for programs, and in the message for people."""
    error = errors.EventError("retry", "must be a number")
    assert error.field == "retry"
    assert str(error) == "retry: must be a number"


def test_what_may_not_be_said_is_a_value_error_too() -> None:
    """Programs that know nothing of this tree catch it as what it is; too large is one kind of it."""
    assert issubclass(errors.EventError, ValueError)
    assert issubclass(errors.EventTooLargeError, errors.EventError)


def test_idempotency_error_names_the_header() -> None:
    """It is a conflict with what was sent before, and no fault of the event."""
    error = errors.IdempotencyError("it was used before")
    assert str(error) == "Idempotency-Key: it was used before"
    assert not isinstance(error, errors.EventError)


def test_client_error_has_the_status_of_the_answer() -> None:
    assert errors.ClientError("refused", status=403).status == 403
    assert errors.ClientError("no answer").status is None


def test_output_error_says_what_the_system_does() -> None:
    """As an error of the system has it, and in a message of its own."""
    error = errors.OutputError("no space left on device")
    assert error.strerror == "no space left on device"
    assert str(error) == "standard output: cannot be written: no space left on device"
