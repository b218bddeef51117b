"""Exceptions."""

import inspect

from sse_broadcast import errors


def test_every_exception_has_the_same_base() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert kinds
    assert all(issubclass(kind, errors.BroadcastError) for kind in kinds)


def test_an_event_error_has_its_field() -> None:
    """It is an attribute, and in the message."""
    error = errors.EventError("retry", "must be a number")
    assert error.field == "retry"
    assert str(error) == "retry: must be a number"


def test_an_event_error_is_a_value_error_too() -> None:
    """Programs can catch it without this package's names. EventTooLargeError is a subclass."""
    assert issubclass(errors.EventError, ValueError)
    assert issubclass(errors.EventTooLargeError, errors.EventError)


def test_an_idempotency_error_names_the_header() -> None:
    """It is a conflict with an earlier request, and no error of the event."""
    error = errors.IdempotencyError("it was used before")
    assert str(error) == "Idempotency-Key: it was used before"
    assert not isinstance(error, errors.EventError)


def test_a_client_error_has_the_status_of_the_response() -> None:
    assert errors.ClientError("refused", status=403).status == 403
    assert errors.ClientError("no answer").status is None


def test_an_output_error_has_the_error_of_the_system() -> None:
    """It has the error number, and a message of its own."""
    error = errors.OutputError("no space left on device")
    assert error.strerror == "no space left on device"
    assert str(error) == "standard output: cannot be written: no space left on device"
