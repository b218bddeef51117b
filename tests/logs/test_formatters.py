"""Log formatters: a record as text or JSON."""

import json
import logging
import sys
from typing import Any

import pytest

from sse_broadcast.clock import utc_milliseconds
from sse_broadcast.config.schema import Overflow
from sse_broadcast.logs.formatters import JsonFormatter, TextFormatter, facts
from sse_broadcast.quantity import Quantity

WHEN = 1_795_381_966.0429
"""In UTC, 2026-11-22T21:12:46.042Z."""


def record(
    message: str, *args: object, level: int = logging.INFO, fault: BaseException | None = None
) -> logging.LogRecord:
    exc_info = None if fault is None else (type(fault), fault, fault.__traceback__)
    made = logging.LogRecord("sse_broadcast.x", level, "x.py", 1, message, args, exc_info)
    made.created = WHEN
    return made


def fail() -> None:
    raise ValueError("two\nlines")


def raised() -> BaseException:
    with pytest.raises(ValueError) as raised:
        fail()
    return raised.value


def test_the_text_format() -> None:
    """It has the time, level, logger and message."""
    line = TextFormatter().format(
        record("%(count)d of %(what)s", {"count": 3, "what": "x"}, level=logging.ERROR)
    )
    assert line == "2026-11-22T21:12:46.042Z ERROR sse_broadcast.x: 3 of x"


def test_a_traceback_follows_its_line() -> None:
    lines = TextFormatter().format(record("broken", fault=raised())).split("\n")
    assert lines[:2] == [
        "2026-11-22T21:12:46.042Z INFO sse_broadcast.x: broken",
        "Traceback (most recent call last):",
    ]
    assert lines[-2:] == ["ValueError: two", "lines"]


def test_a_traceback_has_no_control_characters() -> None:
    """An exception may quote the bytes of a client."""
    text = TextFormatter().format(record("broken", fault=ValueError("\x1b[2J\r\u202e")))
    assert text.endswith("\nValueError: \\x1b[2J\\r\\u202e")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("é € \U0001f600", "é € \U0001f600"),
        ("one\nINFO another", "one\\nINFO another"),
        ("\r\x1b[2Jgone\x00", "\\r\\x1b[2Jgone\\x00"),
        ("\u2028\udcff'\"\\", "\\u2028\\udcff'\"\\"),
    ],
)
def test_a_message_stays_on_its_line(said: str, shown: str) -> None:
    """Quoted text can neither add a line nor send control characters to the terminal."""
    assert TextFormatter().format(record("%(said)s", {"said": said})).endswith(f": {shown}")


def test_json_has_the_fields_as_members() -> None:
    """They follow those of every line, each as JSON."""
    line = JsonFormatter().format(
        record(
            "%(id)s of %(channels)s",
            {"id": "a-1", "channels": ("b", "c"), "lag": None, "seconds": 0.5, "overflow": Overflow.CONFLATE},
        )
    )
    assert line == (
        '{"time":"2026-11-22T21:12:46.042Z","level":"info","logger":"sse_broadcast.x",'
        '"message":"a-1 of (\'b\', \'c\')","id":"a-1","channels":["b","c"],"lag":null,"seconds":0.5,'
        '"overflow":"conflate"}'
    )


def test_a_traceback_is_one_json_member() -> None:
    line = JsonFormatter().format(record("broken", fault=raised()))
    assert "\n" not in line
    said = json.loads(line)
    assert list(said) == ["time", "level", "logger", "message", "exception"]
    assert said["exception"].startswith("Traceback (most recent call last):\n")
    assert said["exception"].endswith("ValueError: two\nlines")


def test_a_stack_is_one_json_member() -> None:
    made = record("here")
    made.stack_info = "Stack (most recent call last):\n  x"
    assert json.loads(JsonFormatter().format(made))["stack"] == made.stack_info
    assert TextFormatter().format(made).endswith(f": here\n{made.stack_info}")


def test_a_field_cannot_replace_a_standard_member() -> None:
    said = json.loads(JsonFormatter().format(record("a %(level)s", {"level": "spirit", "time": 1, "x": 2})))
    assert (said["level"], said["time"], said["message"], said["x"]) == (
        "info",
        utc_milliseconds(WHEN),
        "a spirit",
        2,
    )


@pytest.mark.parametrize(
    ("fact", "shown"),
    [
        ("\udcff\u2028é", "\udcff\u2028é"),
        ("\u2028é", "\u2028é"),
        (ValueError("why"), "why"),
        (float("nan"), None),
        (Quantity(1, "reader"), 1),
        ({("a",): 1, "b": 2}, {"('a',)": 1, "b": 2}),
    ],
)
def test_json_accepts_any_field(fact: Any, shown: Any) -> None:
    """The line is ASCII, which every transport keeps. A value without a JSON form becomes its text."""
    line = JsonFormatter().format(record("%(x)s", {"x": fact}))
    assert line.isascii()
    assert json.loads(line)["x"] == shown


@pytest.mark.parametrize("args", [(), ("x",), (1, 2)])
def test_a_message_of_another_library_has_no_fields(args: tuple[object, ...]) -> None:
    made = record("%s " * len(args), *args)
    assert facts(made) == {}
    assert len(json.loads(JsonFormatter().format(made))) == 4


def test_exc_info_without_an_exception_is_left_out() -> None:
    """The record has `exc_info=True`, and nothing was raised."""
    made = record("x")
    made.exc_info = sys.exc_info()
    assert TextFormatter().format(made).endswith(": x")
