"""Log pipeline: the handlers, filters and the writer of a serving process's log."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from sse_broadcast.config.schema import LogFormat, LogLevel
from sse_broadcast.logs.formatters import JsonFormatter, TextFormatter
from sse_broadcast.logs.rate_limit import RateLimitFilter
from sse_broadcast.logs.writer import BackgroundWriter

logger = logging.getLogger("sse_broadcast.logs")

FLUSH = 0.5
"""Seconds that what was logged last may take to be written, at the end."""

LIMITED = ("aiohttp.internal", "aiohttp.server", "aiohttp.web", "asyncio", "sse_broadcast.delivery")
"""Loggers, most of them others' own, of whose lines clients can cause any number."""


class LogPipeline:
    """What every logger of the process says, on standard error, between `start` and `close`.

    A thread writes it (see `BackgroundWriter`): whoever logs never waits. It is for a process that is the
    server's own; a program that has the server in it has a log of its own.
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
        """Take what is logged, and what Python warns of."""
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(self._level.upper())
        _skip_unused_record_fields()
        logging.captureWarnings(capture=True)
        for name in LIMITED:
            logging.getLogger(name).addFilter(self._flood)

    def close(self) -> None:
        """Take no more, and have what was logged written: in `FLUSH` seconds, or not at all."""
        logging.captureWarnings(capture=False)
        for name in LIMITED:
            logging.getLogger(name).removeFilter(self._flood)
        logging.getLogger().removeHandler(self._handler)
        if self._writer.close(timeout=FLUSH):
            os.close(self._descriptor)

    def count_lost(self, count: Callable[[int], None]) -> None:
        """Have lines that are lost counted, by a function that is given how many; it may not log."""
        self._writer.on_lost = count

    def set_level(self, level: LogLevel) -> None:
        """Log what is at least so severe; from the next `switch_debug` on, if debug is on."""
        self._level = level
        if not self._debug:
            logging.getLogger().setLevel(level.upper())

    def switch_debug(self) -> None:
        """Log everything, or again no more than the level that was set. It says so."""
        if self._debug:
            # While it is still logged, whatever the level is.
            logger.info("debug is off: the level is %(level)s", {"level": self._level.value})
        self._debug = not self._debug
        logging.getLogger().setLevel(logging.DEBUG if self._debug else self._level.upper())
        if self._debug:
            logger.info("debug is on, until it is switched off again")


def _skip_unused_record_fields() -> None:
    """Have records not know what no line tells, as logging's own HOWTO has it ("Optimization")."""
    logging._srcfile = None  # noqa: SLF001 - else the stack is searched for the caller
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.logAsyncioTasks = False  # type: ignore[attr-defined]  # since 3.12


class PipelineHandler(logging.Handler):
    """Hands lines on to a function that never waits."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        super().__init__()
        self._put = put

    def handle(self, record: logging.LogRecord) -> bool:
        """See `logging.Handler`. It takes no lock, which a thread could hold that is interrupted to log."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - whatever a value does when it is asked for its text
            self.handleError(record)
        else:
            self._put(encoded(line))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        """Tell of a record that cannot be told; not on `sys.stderr`, which waits."""
        args = {"template": str(record.msg), "of": record.name}
        fault = _record(logging.ERROR, "a line of %(of)s cannot be formatted: %(template)s", args)
        fault.exc_info = sys.exc_info()
        self._put(encoded(self.format(fault)))


def encoded(line: str) -> bytes:
    """Return the bytes of a line; half of a surrogate pair, which is no UTF-8, is escaped."""
    return f"{line}\n".encode(errors="backslashreplace")


def _record(level: int, message: str, facts: Mapping[str, object]) -> logging.LogRecord:
    return logger.makeRecord(logger.name, level, __file__, 0, message, (facts,), None)


def _notice(formatter: logging.Formatter, count: int, reason: str) -> bytes:
    args = {"lost": count, "reason": reason}
    lost = "%(lost)d line was lost" if count == 1 else "%(lost)d lines were lost"
    return encoded(formatter.format(_record(logging.WARNING, f"{lost}: %(reason)s", args)))


def _standard_error() -> int:
    """Return a descriptor of our own, since somebody else's may get the number of one that is closed."""
    try:
        return os.dup(sys.__stderr__.fileno())  # type: ignore[union-attr]
    except (AttributeError, OSError):  # there is none, or none any more
        return os.open(os.devnull, os.O_WRONLY)


def _formatter(format: LogFormat, descriptor: int) -> logging.Formatter:
    text = os.isatty(descriptor) if format is LogFormat.AUTO else format is LogFormat.TEXT
    return TextFormatter() if text else JsonFormatter()
