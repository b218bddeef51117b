"""What the HTTP layer logs, fit for a server that the world talks to."""

import logging
import re

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError

logger = logging.getLogger(__name__)

QUOTE = re.compile(r"(?<!\w)(b|bytearray\(b)?[\"'].*", re.DOTALL)
"""Where a message of aiohttp's parser begins to quote the request, which may have a token in it."""

HEADER = re.compile(r"(Missing|Duplicate) '[A-Za-z-]{1,40}' header [a-z ]+\.")
"""What it says of a header that it knows by name."""


class OneLine(logging.Filter):
    """Tells of a request that aiohttp's parser refused in one line: a client's fault is no traceback.

    Nothing of the request is in it but the address it came from.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            _tell(record, f"{record.msg}: %s", *_args(record), reason(error))
        elif isinstance(error, web.RequestPayloadError):
            _tell(record, "Error reading a body: %s", _unquoted(str(error)))
        return True


def _tell(record: logging.LogRecord, message: str, *args: object) -> None:
    record.levelno, record.levelname = logging.INFO, "INFO"
    record.msg, record.args = message, args
    record.exc_info = record.exc_text = None


def reason(error: HttpProcessingError) -> str:
    """Give what the parser found wrong with a request, without a word of the request."""
    kind = type(error).__name__
    if isinstance(error, InvalidURLError):
        return kind  # its message is the URL
    said = error.message
    return f"{kind}: {said if HEADER.fullmatch(said) else _unquoted(said)}"


def _unquoted(said: str) -> str:
    return " ".join(QUOTE.sub("", said).split()).rstrip(":")[:100]


def _args(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()


def http_logger() -> logging.Logger:
    """Give the logger for aiohttp's request handlers."""
    if not logger.filters:
        logger.addFilter(OneLine())
    return logger
