"""Log pipeline: the handler, the filters and the writer of a serving process's log."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from typing_extensions import override

from sse_broadcast.config.schema import LogFormat, LogLevel
from sse_broadcast.logs.formatters import JsonFormatter, TextFormatter
from sse_broadcast.logs.rate_limit import RateLimitFilter
from sse_broadcast.logs.writer import BackgroundWriter

logger = logging.getLogger("sse_broadcast.logs")

FLUSH = 0.5
"""Maximum seconds to write the last lines when the process ends."""

LIMITED = ("aiohttp.internal", "aiohttp.server", "aiohttp.web", "asyncio", "sse_broadcast.delivery")
"""Loggers, most of them of libraries, whose lines clients can cause in any number: they are rate-limited."""


class LogPipeline:
    """The log of the process, on standard error, between `start` and `close`.

    It configures the root logger, so it is for the server's own process: a program that embeds the server has
    its own logging.
    """

    def __init__(self, level: LogLevel, format: LogFormat) -> None:
        self._level = level
        self._debug = False
        self._flood = RateLimitFilter()
        self._descriptor = _standard_error()
        formatter = _formatter(format, self._descriptor)
        self._writer = BackgroundWriter(self._descriptor, notice=functools.partial(_notice, formatter))
        self._handler = PipelineHandler(self._writer.put)
        self._handler.setFormatter(formatter)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Handle the records of all loggers, and Python's warnings."""
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(self._level.upper())
        _skip_unused_record_fields()
        logging.captureWarnings(capture=True)
        for name in LIMITED:
            logging.getLogger(name).addFilter(self._flood)

    def close(self) -> None:
        """Stop handling records, and write what is queued within `FLUSH` seconds or drop it."""
        logging.captureWarnings(capture=False)
        for name in LIMITED:
            logging.getLogger(name).removeFilter(self._flood)
        logging.getLogger().removeHandler(self._handler)
        if self._writer.close(timeout=FLUSH):
            os.close(self._descriptor)

    def count_lost(self, count: Callable[[int], None]) -> None:
        """Call `count` with the number of lines each time lines are lost. It must not log."""
        self._writer.on_lost = count

    def set_level(self, level: LogLevel) -> None:
        """Set the lowest severity to log. While debug is on, it takes effect at the next `switch_debug`."""
        self._level = level
        if not self._debug:
            logging.getLogger().setLevel(level.upper())

    def switch_debug(self) -> None:
        """Switch between logging everything and the level that is set, and log the switch."""
        if self._debug:
            # Logged before the switch, while INFO is certainly enabled.
            logger.info("debug is off: the level is %(level)s", {"level": self._level.value})
        self._debug = not self._debug
        logging.getLogger().setLevel(logging.DEBUG if self._debug else self._level.upper())
        if self._debug:
            logger.info("debug is on: everything is logged until the next SIGUSR1")


def _skip_unused_record_fields() -> None:
    """Do not collect record fields that no line shows (Python's logging HOWTO, "Optimization")."""
    logging._srcfile = None  # noqa: SLF001 - otherwise each record walks the stack to find its caller
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.logAsyncioTasks = False  # type: ignore[attr-defined]  # since 3.12


class PipelineHandler(logging.Handler):
    """A handler that formats lines and passes them to a function that never waits."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        super().__init__()
        self._put = put

    @override
    def handle(self, record: logging.LogRecord) -> bool:
        # Without the handler's lock: a destructor may log while its own thread holds that lock.
        self.emit(record)
        return True

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - the __str__ of a logged value may raise anything
            self.handleError(record)
        else:
            self._put(encoded(line))

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        # The default prints to sys.stderr, which waits if its reader does nothing.
        args = {"template": str(record.msg), "of": record.name}
        fault = _record(logging.ERROR, "cannot format a line of the logger %(of)s: %(template)s", args)
        fault.exc_info = sys.exc_info()
        self._put(encoded(self.format(fault)))


def encoded(line: str) -> bytes:
    """Return the bytes of a line. An unpaired surrogate, which UTF-8 cannot encode, is escaped."""
    return f"{line}\n".encode(errors="backslashreplace")


def _record(level: int, message: str, facts: Mapping[str, object]) -> logging.LogRecord:
    return logger.makeRecord(logger.name, level, __file__, 0, message, (facts,), None)


def _notice(formatter: logging.Formatter, count: int, reason: str) -> bytes:
    args = {"lost": count, "reason": reason}
    lost = "%(lost)d line was lost" if count == 1 else "%(lost)d lines were lost"
    return encoded(formatter.format(_record(logging.WARNING, f"{lost}: %(reason)s", args)))


def _standard_error() -> int:
    """Return a duplicate of standard error's descriptor."""
    # A duplicate: if descriptor 2 is closed, the next file opened gets its number, and would get the log.
    try:
        return os.dup(sys.__stderr__.fileno())  # type: ignore[union-attr]
    except (AttributeError, OSError):  # the process was started without it, or it was closed
        return os.open(os.devnull, os.O_WRONLY)


def _formatter(format: LogFormat, descriptor: int) -> logging.Formatter:
    text = os.isatty(descriptor) if format is LogFormat.AUTO else format is LogFormat.TEXT
    return TextFormatter() if text else JsonFormatter()
