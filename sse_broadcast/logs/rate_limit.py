"""Rate limit of log lines that clients can cause."""

import asyncio
import functools
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

MAX_LINES_A_SECOND = 5
"""Lines of a kind in a second."""

SECOND = 1.0

MOST_KINDS = 100
"""Kinds that are told apart in a second. There are a few in the code, but some loggers make theirs up."""

LONGEST_KIND = 200
"""Characters by which a kind is told: some loggers put a whole request into what they say."""

OTHERS = "of other kinds"

Later = Callable[[float, Callable[[], None]], None]
"""Has something called after so many seconds, if it can."""


LEFT_OUT = "%(left_out)d more lines in a second were left out: %(kind)s"

VALUE = re.compile(r"%(\(\w+\))?[a-z]")
"""Where a value is put into what is said."""

LineKind = tuple[str, int, str]
"""A logger, a level, and what is said before the values are in it."""


@dataclass(slots=True)
class _Second:
    """What came of a kind since `begun`."""

    begun: float
    count: int = 0
    left_out: int = 0


class RateLimitFilter(logging.Filter):
    """Lets `MAX_LINES_A_SECOND` records of a kind through in a second, and tells how many more there were.

    It is for loggers, and not for handlers: what was left out is told by the logger, and at the level, of
    the kind. `clock` gives seconds; `later` has the running loop call back, so that the end of a flood is
    told as well. Where no loop runs, the next record of the kind has it told.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, later: Later | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._later = later or _later
        self._seconds: dict[LineKind, _Second] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
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
