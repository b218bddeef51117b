"""Log pipeline: from loggers to standard error, and what it restores."""

import contextlib
import json
import logging
import os
import pty
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.config.schema import LogFormat, LogLevel
from sse_broadcast.logs.formatters import JsonFormatter
from sse_broadcast.logs.pipeline import LIMITED, LogPipeline, PipelineHandler
from sse_broadcast.logs.rate_limit import MAX_LINES_A_SECOND
from tests.support.sockets import PATIENCE

logger = logging.getLogger("tests.logs")


KNOWN = ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks")
"""The variables of `logging` that decide which fields a record has."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore pytest's configuration of logging."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers.copy()
    known = {name: getattr(logging, name) for name in KNOWN if hasattr(logging, name)}
    yield
    assert root.handlers == handlers
    root.setLevel(level)
    for name, value in known.items():
        setattr(logging, name, value)


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines on standard error, all of them JSON."""
    out, err = capfd.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def messages(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line["message"] for line in lines(capfd)]


def test_lines_of_every_logger_are_written(capfd: pytest.CaptureFixture[str]) -> None:
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        for number in range(1000):
            logger.info("line %(number)d", {"number": number})
            logger.debug("less")
        logging.getLogger("another").error("worse")
    said = lines(capfd)
    assert [line["number"] for line in said[:-1]] == list(range(1000))
    assert (said[-1]["logger"], said[-1]["level"], said[-1]["message"]) == ("another", "error", "worse")


def test_the_text_format_is_text(capfd: pytest.CaptureFixture[str]) -> None:
    with LogPipeline(LogLevel.WARNING, LogFormat.TEXT):
        logger.info("less")
        logger.warning("half of a pair: %(it)s", {"it": "\ud800"})
    _, err = capfd.readouterr()
    assert err.partition(" ")[2] == "WARNING tests.logs: half of a pair: \\ud800\n"


@pytest.mark.parametrize(
    ("format", "terminal", "json"),
    [
        (LogFormat.AUTO, True, False),
        (LogFormat.AUTO, False, True),
        (LogFormat.TEXT, False, False),
        (LogFormat.JSON, True, True),
    ],
)
def test_text_is_the_format_on_a_terminal(
    format: LogFormat, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, json: bool
) -> None:
    reading, writing = pty.openpty() if terminal else os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as read, os.fdopen(writing, "w") as stderr:
        monkeypatch.setattr(sys, "__stderr__", stderr)
        with LogPipeline(LogLevel.INFO, format):
            logger.info("a line")
        assert read.read(4096).startswith(b"{") == json


def test_debug_is_switched_on_and_off(capfd: pytest.CaptureFixture[str]) -> None:
    with LogPipeline(LogLevel.ERROR, LogFormat.JSON) as log:
        for _ in range(2):
            logger.debug("hidden")
            log.switch_debug()
            logger.debug("shown")
            log.switch_debug()
        logger.warning("hidden")
        logger.error("shown")
    on, off = "debug is on: everything is logged until the next SIGUSR1", "debug is off: the level is error"
    assert messages(capfd) == [on, "shown", off, on, "shown", off, "shown"]


def test_another_level_applies_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with LogPipeline(LogLevel.ERROR, LogFormat.JSON) as log:
        log.set_level(LogLevel.INFO)
        logger.info("shown")
        log.switch_debug()
        log.set_level(LogLevel.WARNING)
        logger.debug("shown")
        log.switch_debug()
        logger.info("hidden")
        logger.warning("shown")
    said = messages(capfd)
    assert [message for message in said if "debug" not in message] == ["shown"] * 3
    assert said[-2] == "debug is off: the level is warning"


def test_a_line_that_cannot_be_formatted_is_reported() -> None:
    put: list[bytes] = []
    handler = PipelineHandler(put.append)
    handler.setFormatter(JsonFormatter())
    for message, facts in (("%(missing)d", {"other": 1}), ("%(lines)d", {"lines": "many"}), ("after", {})):
        handler.handle(logging.makeLogRecord({"name": "tests.logs", "msg": message, "args": facts}))
    first, second, after = map(json.loads, put)
    assert first["message"] == "cannot format a line of the logger tests.logs: %(missing)d"
    assert (first["level"], first["logger"]) == ("error", "sse_broadcast.logs")
    assert first["exception"].endswith("KeyError: 'missing'")
    assert "TypeError" in second["exception"]
    assert after["message"] == "after"


def test_warnings_of_python_are_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """Before the log opens and after it closes, Python prints them."""
    before = warnings.showwarning
    with warnings.catch_warnings(), LogPipeline(LogLevel.INFO, LogFormat.JSON):
        warnings.simplefilter("default")
        warnings.warn("mind the gap", RuntimeWarning, stacklevel=1)
    (line,) = lines(capfd)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "RuntimeWarning: mind the gap" in line["message"]
    assert warnings.showwarning is before


def test_lines_caused_by_clients_are_limited(capfd: pytest.CaptureFixture[str]) -> None:
    """Those of asyncio and aiohttp are too. Closing the log removes the limits."""
    loggers = [logging.getLogger(name) for name in LIMITED]
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        for each in loggers:
            for _ in range(MAX_LINES_A_SECOND + 1):
                each.error("SSL handshake failed")
    assert len(messages(capfd)) == MAX_LINES_A_SECOND * len(LIMITED)
    assert [each.filters for each in loggers] == [[]] * len(LIMITED)


def descriptors() -> Counter[str]:
    """Return the open file descriptors of this process with their files."""
    found = Counter[str]()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the directory being listed
            found[str(link.readlink())] += 1
    return found


def test_without_standard_error_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fails either: descriptor 2 may be another file by then."""
    monkeypatch.setattr(sys, "__stderr__", None)
    before = descriptors()
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        assert descriptors() - before == {os.devnull: 1}
        logger.info("nowhere")


def test_the_pipeline_leaves_no_descriptor_open(capfd: pytest.CaptureFixture[str]) -> None:
    before = descriptors()
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        assert (descriptors() - before).total() == 1
    assert descriptors() == before


def test_a_record_may_be_logged_during_another() -> None:
    """A destructor may do so: there is no lock that its own or another thread could hold."""
    put: list[bytes] = []
    handler = PipelineHandler(put.append)

    class Fact:
        def __str__(self) -> str:
            handler.handle(logging.makeLogRecord({"msg": "inner"}))
            return "outer"

    record = logging.makeLogRecord({"msg": "%(it)s", "args": {"it": Fact()}})
    thread = threading.Thread(target=handler.handle, args=[record], daemon=True)
    with handler.lock:  # type: ignore[union-attr]
        thread.start()
        thread.join(PATIENCE)
    assert put == [b"inner\n", b"outer\n"]


LIBRARY = """
import asyncio, logging, threading
root = logging.getLogger()
async def main():
    from sse_broadcast import Broadcaster, Config, create_app
    create_app(Config(log_level="debug", log_format="json"))
    broadcaster = Broadcaster()
    await broadcaster.broadcast("x")
    await broadcaster.close(timeout=1)
asyncio.run(main())
assert (root.handlers, root.level) == ([], logging.WARNING)
assert threading.active_count() == 1
assert all(logging.getLogger(name).filters == [] for name in ("asyncio", "aiohttp.server", "aiohttp.web"))
"""


def test_the_library_does_not_configure_logging() -> None:
    """The program that uses it does."""
    subprocess.run([sys.executable, "-c", LIBRARY], check=True, timeout=60)


def test_a_record_has_only_the_used_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Finding the caller and thread costs more than writing the line."""
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        logging.getLogger("x").info("y")
    (record,) = caplog.records
    assert (record.thread, record.process, record.lineno) == (None, None, 0)
