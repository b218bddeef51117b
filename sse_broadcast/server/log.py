"""What the HTTP layer logs, fit for a server that the world talks to."""

import logging

from aiohttp.http_exceptions import HttpProcessingError

logger = logging.getLogger(__name__)


class OneLine(logging.Filter):
    """Tells of a request that aiohttp's parser refused in one line: a client's fault is no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg = f"{record.msg}: {type(error).__name__}: %s"
            record.args = (*_args(record), " ".join(error.message.split())[:200])
            record.exc_info = record.exc_text = None
        return True


def _args(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()


def http_logger() -> logging.Logger:
    """Give the logger for aiohttp's request handlers."""
    if not logger.filters:
        logger.addFilter(OneLine())
    return logger
