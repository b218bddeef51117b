"""Formatters: a log record as a line of text or of JSON."""

import itertools
import json
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from sse_broadcast.clock import utc_milliseconds


class TextFormatter(logging.Formatter):
    """A line for people; a traceback follows on lines of its own.

    Whatever a message quotes, it stays one line; it moves no terminal's cursor, nor does a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        message = _visible(record.getMessage())
        line = f"{utc_milliseconds(record.created)} {record.levelname} {record.name}: {message}"
        details = (text.split("\n") for text in _details(self, record).values())
        return "\n".join([line, *map(_visible, itertools.chain.from_iterable(details))])


class JsonFormatter(logging.Formatter):
    """A JSON object on a line: `time`, `level`, `logger`, `message`, and the facts of the message.

    The facts are the members of the one mapping that a message may have as its argument. A traceback is the
    text of the member `exception`. It is ASCII, and JSON also where a value is none: that is its `str`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
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
    """Return what a message tells, by name; nothing if it was not told so."""
    return record.args if isinstance(record.args, Mapping) else {}


_any = json.JSONEncoder(separators=(",", ":"), skipkeys=True, default=str).encode


def _other(value: object) -> int | str:
    # A number that has words of its own for people is a number here.
    return int(value) if isinstance(value, int) else str(value)


_plain = msgspec.json.Encoder(enc_hook=_other).encode


def _encode(members: Mapping[str, object]) -> str:
    """Return members as JSON in ASCII. Most are plain, and take a sixth of the time that any would."""
    try:
        line = _plain(members)
    except (TypeError, ValueError):  # half of a surrogate pair, or a key that is no name
        return _any(members)
    return line.decode() if line.isascii() else _any(msgspec.json.decode(line))


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _details(format: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """Return what the interpreter knows of where a record comes from, if the record has any of it."""
    details = {}
    if record.exc_info and record.exc_info[0]:
        details["exception"] = format.formatException(record.exc_info)
    if record.stack_info:
        details["stack"] = format.formatStack(record.stack_info)
    return details
