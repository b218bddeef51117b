"""Quantities: numbers with their noun."""

import json
import logging

import pytest

from sse_broadcast.quantity import Quantity


def logged(message: str, count: Quantity) -> str:
    return logging.LogRecord("", 0, "", 0, message, ({"count": count},), None).getMessage()


@pytest.mark.parametrize(("number", "text"), [(0, "0 events"), (1, "1 event"), (2, "2 events")])
def test_only_one_is_singular(number: int, text: str) -> None:
    count = Quantity(number, "event")
    assert (str(count), f"{count}", logged("%(count)s", count)) == (text, text, text)


def test_a_quantity_is_a_number() -> None:
    """It is one as a field of a log line too."""
    count = Quantity(3, "event")
    assert (count, count + 1, f"{count:d}", logged("%(count)d", count)) == (3, 4, "3", "3")
    assert json.dumps({"count": count}) == '{"count": 3}'
