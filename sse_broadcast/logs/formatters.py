"""Formatters: a log record as a line of text or of JSON."""

import itertools
import json
import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from typing_extensions import override

from sse_broadcast.clock import utc_milliseconds


class TextFormatter(logging.Formatter):
    """A line for people. A traceback follows on lines of its own.

    Control characters are escaped: a message stays one line, and cannot move a terminal's cursor.
    """

    @override
    def format(self, record: logging.LogRecord) -> str:
        message = _visible(record.getMessage())
        line = f"{utc_milliseconds(record.created)} {record.levelname} {record.name}: {message}"
        details = (text.split("\n") for text in _details(self, record).values())
        return "\n".join([line, *map(_visible, itertools.chain.from_iterable(details))])


class JsonFormatter(logging.Formatter):
    """A JSON object on a line: `time`, `level`, `logger`, `message`, and the facts of the message.

    The facts are the members of the mapping that is the message's only argument. A traceback becomes the
    member `exception`. The line is ASCII. A value that JSON has no form for becomes its `str`.
    """

    @override
    def format(self, record: logging.LogRecord) -> str:
        head = {
            "time": utc_milliseconds(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info or record.stack_info:
            head |= _details(self, record)
        return _encode({**head, **facts(record), **head})


def facts(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the named values of a message, or nothing if it has no named values."""
    return record.args if isinstance(record.args, Mapping) else {}


_any = json.JSONEncoder(separators=(",", ":"), skipkeys=True, default=str).encode


def _other(value: object) -> int | str:
    # `Quantity` is an int that prints as "3 events": in JSON it is the number.
    return int(value) if isinstance(value, int) else str(value)


_plain = msgspec.json.Encoder(enc_hook=_other).encode


def _encode(members: Mapping[str, object]) -> str:
    """Return members as JSON in ASCII."""
    # msgspec takes a sixth of the time of the standard encoder, and almost every line is plain enough for it.
    try:
        line = _plain(members)
    except (TypeError, ValueError):  # an unpaired surrogate, or a key that is not text
        return _any(members)
    return line.decode() if line.isascii() else _any(msgspec.json.decode(line))


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _details(format: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """Return the traceback and the stack of a record, as far as it has them."""
    details = {}
    if record.exc_info and record.exc_info[0]:
        details["exception"] = format.formatException(record.exc_info)
    if record.stack_info:
        details["stack"] = format.formatStack(record.stack_info)
    return details
