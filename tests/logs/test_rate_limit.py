"""Flood: how many lines of a kind get through."""

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
class Flooded:
    """A logger with a flood's filter, whose clock and callbacks go by the test."""

    logger: logging.Logger
    clock: Clock
    said: pytest.LogCaptureFixture
    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def log(self, times: int, message: str = TEMPLATE, *, level: int = logging.INFO) -> None:
        for number in range(times):
            self.logger.log(level, message, {"address": number})

    def take(self) -> list[str]:
        """Return what was logged since it was asked last."""
        messages = self.said.messages.copy()
        self.said.clear()
        return messages


@pytest.fixture
def flooded(caplog: pytest.LogCaptureFixture) -> Iterator[Flooded]:
    caplog.set_level(logging.DEBUG)
    made = Flooded(logging.getLogger("tests.flooded"), Clock(), caplog)
    flood = RateLimitFilter(clock=made.clock, later=lambda seconds, call: made.due.append((seconds, call)))
    made.logger.addFilter(flood)
    yield made
    made.logger.removeFilter(flood)


def told(count: int, kind: str = "...: refused") -> str:
    return f"left out {count} more lines in a second: {kind}"


def lines(*numbers: int) -> list[str]:
    return [f"{number}: refused" for number in numbers]


def test_few_lines_pass(flooded: Flooded) -> None:
    flooded.log(MAX_LINES_A_SECOND)
    assert flooded.take() == lines(*range(MAX_LINES_A_SECOND))
    assert flooded.due == []


def test_more_than_that_in_a_second_are_counted(flooded: Flooded) -> None:
    flooded.clock.forward(0.25)
    flooded.log(1)
    flooded.clock.forward(0.5)
    flooded.log(MAX_LINES_A_SECOND + 2)
    assert flooded.take() == lines(0, *range(MAX_LINES_A_SECOND - 1))
    ((seconds, call),) = flooded.due
    assert seconds == 0.5
    flooded.clock.forward(seconds)
    call()
    assert flooded.take() == [told(3)]
    flooded.log(1)
    assert flooded.take() == lines(0)


def test_what_is_told_is_a_line_of_the_kind(flooded: Flooded) -> None:
    """By its logger, at its level, with the facts by name."""
    flooded.log(MAX_LINES_A_SECOND + 1, level=logging.ERROR)
    flooded.said.clear()
    flooded.due[0][1]()
    (record,) = flooded.said.records
    assert (record.name, record.levelno, record.msg) == ("tests.flooded", logging.ERROR, LEFT_OUT)
    assert record.args == {"left_out": 1, "kind": "...: refused"}


def test_the_next_second_is_another(flooded: Flooded) -> None:
    """A flood that lasts is a few lines a second and a count."""
    for _ in range(3):
        flooded.log(MAX_LINES_A_SECOND + 10)
        assert flooded.take()[-MAX_LINES_A_SECOND:] == lines(*range(MAX_LINES_A_SECOND))
        flooded.clock.forward(1.0)
    assert len(flooded.due) == 3


def test_a_call_that_comes_late_tells_nothing_twice(flooded: Flooded) -> None:
    """The next of the kind has told already; and what came since is counted for itself."""
    flooded.log(MAX_LINES_A_SECOND + 7)
    flooded.take()
    flooded.clock.forward(1.5)
    flooded.log(MAX_LINES_A_SECOND + 1)
    assert flooded.take() == [told(7), *lines(*range(MAX_LINES_A_SECOND))]
    flooded.due[0][1]()
    assert flooded.take() == []
    flooded.due[1][1]()
    assert flooded.take() == [told(1)]


def test_each_kind_has_its_own_number(flooded: Flooded) -> None:
    """By what is said, and how bad it is; not by the values in it, nor by what follows the first line."""
    flooded.log(MAX_LINES_A_SECOND + 1)
    flooded.log(1, level=logging.WARNING)
    flooded.log(1, "other %(address)s")
    assert flooded.take()[MAX_LINES_A_SECOND:] == ["0: refused", "other 0"]
    for number in range(MAX_LINES_A_SECOND + 1):
        flooded.log(1, f"one fault\nof object {number}", level=logging.ERROR)
    assert len(flooded.take()) == MAX_LINES_A_SECOND


def test_kinds_without_number_are_one(flooded: Flooded) -> None:
    """A logger that makes its messages up cannot have any number of them, or have them all remembered."""
    for number in range(MOST_KINDS + MAX_LINES_A_SECOND + 4):
        flooded.log(1, f"kind {number}")
    assert len(flooded.take()) == MOST_KINDS + MAX_LINES_A_SECOND
    flooded.clock.forward(1.0)
    flooded.logger.info("kind of a second later")
    assert flooded.take() == [told(4, OTHERS), "kind of a second later"]
    assert entries(flooded.logger.filters) == len(["the filter", "the new kind"])


async def test_the_end_of_a_flood_is_told_by_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger, clock = logging.getLogger("tests.looped"), Clock()
    logger.addFilter(RateLimitFilter(clock=clock))
    for _ in range(MAX_LINES_A_SECOND):
        logger.info(TEMPLATE, {"address": 1})
    clock.forward(0.99)
    logger.info(TEMPLATE, {"address": 1})
    await until(lambda: caplog.messages[-1] == told(1))
    assert len(asyncio.all_tasks()) == 1


def test_without_a_loop_the_next_line_tells_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger, clock = logging.getLogger("tests.loopless"), Clock()
    logger.addFilter(RateLimitFilter(clock=clock))
    for _ in range(MAX_LINES_A_SECOND + 1):
        logger.info(TEMPLATE, {"address": 1})
    clock.forward(1.0)
    logger.info(TEMPLATE, {"address": 2})
    assert caplog.messages[MAX_LINES_A_SECOND:] == [told(1), "2: refused"]
