"""Batched log lines: none is lost, and each has its order and time."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

import pytest

from sse_broadcast.logs.batching import BATCH_INTERVAL, BatchedLogger
from tests.support.sockets import until

logger = logging.getLogger("sse_broadcast.test")

FACTS = {"n": 1}.copy


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger.name)
    return caplog


async def test_lines_are_logged_together_in_order(log: pytest.LogCaptureFixture) -> None:
    gathered = BatchedLogger(logger)
    for number in range(3):
        gathered.info("line %(n)d", {"n": number}.copy)
    assert log.messages == []
    await until(lambda: bool(log.messages))
    assert log.messages == ["line 0", "line 1", "line 2"]
    assert [record.args for record in log.records] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {(record.name, record.levelname) for record in log.records} == {(logger.name, "INFO")}


async def test_a_line_has_the_time_of_its_call(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered, clock = BatchedLogger(logger), [1_700_000_000.25]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    gathered.info("x", FACTS)
    clock[0] += 60
    gathered.close()
    (record,) = log.records
    assert (record.created, record.msecs) == (1_700_000_000.25, 250)


async def test_each_line_is_a_log_record(log: pytest.LogCaptureFixture) -> None:
    """The log record factory makes it, with its message."""
    made: list[tuple[object, object]] = []

    class Known(logging.LogRecord):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append((self.msg, self.args))

    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(Known)
    try:
        gathered = BatchedLogger(logger)
        gathered.info("%(n)d first", FACTS)
        gathered.info("second", {"n": 2}.copy)
        gathered.close()
    finally:
        logging.setLogRecordFactory(before)
    assert made == [("%(n)d first", {"n": 1}), ("second", {"n": 2})]
    assert [type(record) for record in log.records] == [Known, Known]


async def test_later_lines_are_logged_by_the_next_timer(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one timer for all waiting lines, and none without any."""
    later = Mock()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", later)
    gathered = BatchedLogger(logger)
    for number in range(1, 4):
        gathered.info("x", FACTS)
        gathered.info("y", FACTS)
        seconds, call = later.call_args.args
        assert (later.call_count, seconds) == (number, BATCH_INTERVAL)
        call()
        assert log.messages == ["x", "y"] * number


async def test_fields_are_not_computed_for_a_disabled_level(log: pytest.LogCaptureFixture) -> None:
    gathered = BatchedLogger(logger)

    def facts() -> Mapping[str, object]:
        pytest.fail("were asked for")

    gathered.info("x", facts)
    log.set_level(logging.WARNING, logger.name)
    gathered.close()
    assert log.messages == []


async def test_closing_logs_the_waiting_lines(log: pytest.LogCaptureFixture) -> None:
    """Later lines are logged at once, and the timer is cancelled."""
    gathered = BatchedLogger(logger)
    gathered.info("before", FACTS)
    gathered.close()
    assert log.messages == ["before"]
    gathered.info("behind", FACTS)
    assert log.messages == ["before", "behind"]
    await asyncio.sleep(2 * BATCH_INTERVAL)
    assert log.messages == ["before", "behind"]
