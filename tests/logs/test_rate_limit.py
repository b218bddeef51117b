"""Rate limit of log lines: how many of a kind pass."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from sse_broadcast.logs.rate_limit import LEFT_OUT, MAX_LINES_A_SECOND, MOST_KINDS, OTHERS, RateLimitFilter
from tests.support.clock import Clock
from tests.support.memory import entries
from tests.support.sockets import until

TEMPLATE = "%(address)s: refused"


@dataclass
class LimitedLogger:
    """A logger with the filter, whose clock and callbacks a test controls."""

    logger: logging.Logger
    clock: Clock
    said: pytest.LogCaptureFixture
    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def log(self, times: int, message: str = TEMPLATE, *, level: int = logging.INFO) -> None:
        for number in range(times):
            self.logger.log(level, message, {"address": number})

    def take(self) -> list[str]:
        """Return the lines logged since the last call."""
        messages = self.said.messages.copy()
        self.said.clear()
        return messages


@pytest.fixture
def flooded(caplog: pytest.LogCaptureFixture) -> Iterator[LimitedLogger]:
    caplog.set_level(logging.DEBUG)
    made = LimitedLogger(logging.getLogger("tests.flooded"), Clock(), caplog)
    flood = RateLimitFilter(clock=made.clock, later=lambda seconds, call: made.due.append((seconds, call)))
    made.logger.addFilter(flood)
    yield made
    made.logger.removeFilter(flood)


def count_line(count: int, kind: str = "...: refused") -> str:
    return f"left out {count} more lines in a second: {kind}"


def lines(*numbers: int) -> list[str]:
    return [f"{number}: refused" for number in numbers]


def test_a_few_lines_pass(flooded: LimitedLogger) -> None:
    flooded.log(MAX_LINES_A_SECOND)
    assert flooded.take() == lines(*range(MAX_LINES_A_SECOND))
    assert flooded.due == []


def test_more_lines_in_a_second_are_counted(flooded: LimitedLogger) -> None:
    flooded.clock.forward(0.25)
    flooded.log(1)
    flooded.clock.forward(0.5)
    flooded.log(MAX_LINES_A_SECOND + 2)
    assert flooded.take() == lines(0, *range(MAX_LINES_A_SECOND - 1))
    ((seconds, call),) = flooded.due
    assert seconds == 0.5
    flooded.clock.forward(seconds)
    call()
    assert flooded.take() == [count_line(3)]
    flooded.log(1)
    assert flooded.take() == lines(0)


def test_the_count_is_a_line_of_the_same_kind(flooded: LimitedLogger) -> None:
    """It has the same logger and level, and its values as fields."""
    flooded.log(MAX_LINES_A_SECOND + 1, level=logging.ERROR)
    flooded.said.clear()
    flooded.due[0][1]()
    (record,) = flooded.said.records
    assert (record.name, record.levelno, record.msg) == ("tests.flooded", logging.ERROR, LEFT_OUT)
    assert record.args == {"left_out": 1, "kind": "...: refused"}


def test_each_second_has_its_own_limit(flooded: LimitedLogger) -> None:
    """Lasting repetition is a few lines a second and a count."""
    for _ in range(3):
        flooded.log(MAX_LINES_A_SECOND + 10)
        assert flooded.take()[-MAX_LINES_A_SECOND:] == lines(*range(MAX_LINES_A_SECOND))
        flooded.clock.forward(1.0)
    assert len(flooded.due) == 3


def test_a_late_callback_reports_nothing_twice(flooded: LimitedLogger) -> None:
    """The next line of the kind has reported the count. Later drops are counted anew."""
    flooded.log(MAX_LINES_A_SECOND + 7)
    flooded.take()
    flooded.clock.forward(1.5)
    flooded.log(MAX_LINES_A_SECOND + 1)
    assert flooded.take() == [count_line(7), *lines(*range(MAX_LINES_A_SECOND))]
    flooded.due[0][1]()
    assert flooded.take() == []
    flooded.due[1][1]()
    assert flooded.take() == [count_line(1)]


def test_each_kind_has_its_own_count(flooded: LimitedLogger) -> None:
    """A kind is a message and a level, without its values and without all after its first line."""
    flooded.log(MAX_LINES_A_SECOND + 1)
    flooded.log(1, level=logging.WARNING)
    flooded.log(1, "other %(address)s")
    assert flooded.take()[MAX_LINES_A_SECOND:] == ["0: refused", "other 0"]
    for number in range(MAX_LINES_A_SECOND + 1):
        flooded.log(1, f"one fault\nof object {number}", level=logging.ERROR)
    assert len(flooded.take()) == MAX_LINES_A_SECOND


def test_the_number_of_kinds_is_limited(flooded: LimitedLogger) -> None:
    """A logger with made-up messages can neither pass any number nor fill the memory."""
    for number in range(MOST_KINDS + MAX_LINES_A_SECOND + 4):
        flooded.log(1, f"kind {number}")
    assert len(flooded.take()) == MOST_KINDS + MAX_LINES_A_SECOND
    flooded.clock.forward(1.0)
    flooded.logger.info("kind of a second later")
    assert flooded.take() == [count_line(4, OTHERS), "kind of a second later"]
    assert entries(flooded.logger.filters) == len(["the filter", "the new kind"])


async def test_the_loop_reports_the_count_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger, clock = logging.getLogger("tests.looped"), Clock()
    logger.addFilter(RateLimitFilter(clock=clock))
    for _ in range(MAX_LINES_A_SECOND):
        logger.info(TEMPLATE, {"address": 1})
    clock.forward(0.99)
    logger.info(TEMPLATE, {"address": 1})
    await until(lambda: caplog.messages[-1] == count_line(1))
    assert len(asyncio.all_tasks()) == 1


def test_without_a_loop_the_next_line_reports_the_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger, clock = logging.getLogger("tests.loopless"), Clock()
    logger.addFilter(RateLimitFilter(clock=clock))
    for _ in range(MAX_LINES_A_SECOND + 1):
        logger.info(TEMPLATE, {"address": 1})
    clock.forward(1.0)
    logger.info(TEMPLATE, {"address": 2})
    assert caplog.messages[MAX_LINES_A_SECOND:] == [count_line(1), "2: refused"]
