"""Rate limit for log lines that clients can cause."""

import asyncio
import functools
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

MAX_LINES_A_SECOND = 5
"""Maximum lines of one kind in a second."""

SECOND = 1.0

MOST_KINDS = 100
"""Maximum number of kinds in a second. The code has few, but some libraries put values into the message."""

LONGEST_KIND = 200
"""Characters of a message that identify its kind: some libraries put a whole request into it."""

OTHERS = "of other kinds"

Later = Callable[[float, Callable[[], None]], None]
"""Schedules a call after some seconds, or does nothing where no event loop runs."""


LEFT_OUT = "left out %(left_out)d more lines in a second: %(kind)s"

VALUE = re.compile(r"%(\(\w+\))?[a-z]")
"""A placeholder in a message."""

LineKind = tuple[str, int, str]
"""The logger, the level, and the message with its placeholders."""


@dataclass(slots=True)
class _Second:
    """The lines of a kind since `begun`."""

    begun: float
    count: int = 0
    left_out: int = 0


class RateLimitFilter(logging.Filter):
    """Passes `MAX_LINES_A_SECOND` records of a kind in a second, then logs how many were left out.

    Add it to loggers, not to handlers: the count is logged by the same logger at the same level. `clock`
    gives seconds. `later` schedules the count for the end of the second; without a running loop the next
    record of the kind triggers it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, later: Later | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._later = later or _later
        self._seconds: dict[LineKind, _Second] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg is LEFT_OUT:
            return True
        now = self._clock()
        kind = self._kind(record, now)
        second = self._seconds.get(kind)
        if second is None or now - second.begun >= SECOND:
            self._tell(kind, second)
            second = self._seconds[kind] = _Second(now)
        second.count += 1
        if second.count <= MAX_LINES_A_SECOND:
            return True
        if not second.left_out:
            self._later(second.begun + SECOND - now, functools.partial(self._tell, kind, second))
        second.left_out += 1
        return False

    def _kind(self, record: logging.LogRecord, now: float) -> LineKind:
        said = str(record.msg).partition("\n")[0][:LONGEST_KIND]
        kind = record.name, record.levelno, said
        if kind in self._seconds or len(self._seconds) < MOST_KINDS:
            return kind
        for known, second in tuple(self._seconds.items()):
            if now - second.begun >= SECOND:
                self._tell(known, self._seconds.pop(known))
        return kind if len(self._seconds) < MOST_KINDS else (record.name, record.levelno, OTHERS)

    def _tell(self, kind: LineKind, second: _Second | None) -> None:
        if second is not None and second.left_out:
            left_out, second.left_out = second.left_out, 0
            name, level, said = kind
            logging.getLogger(name).log(
                level, LEFT_OUT, {"left_out": left_out, "kind": VALUE.sub("...", said)}
            )


def _later(seconds: float, call: Callable[[], None]) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    loop.call_later(seconds, call)
