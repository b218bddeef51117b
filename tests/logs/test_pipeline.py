"""Log: from a logger's words to standard error, and what it leaves as it was."""

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
"""What says how much a record knows of where it was made."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as pytest has it."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers.copy()
    known = {name: getattr(logging, name) for name in KNOWN if hasattr(logging, name)}
    yield
    assert root.handlers == handlers
    root.setLevel(level)
    for name, value in known.items():
        setattr(logging, name, value)


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what is on standard error, which is all JSON."""
    out, err = capfd.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def messages(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line["message"] for line in lines(capfd)]


def test_what_any_logger_says_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        for number in range(1000):
            logger.info("line %(number)d", {"number": number})
            logger.debug("less")
        logging.getLogger("another").error("worse")
    said = lines(capfd)
    assert [line["number"] for line in said[:-1]] == list(range(1000))
    assert (said[-1]["logger"], said[-1]["level"], said[-1]["message"]) == ("another", "error", "worse")


def test_text_is_text(capfd: pytest.CaptureFixture[str]) -> None:
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
def test_text_is_for_a_terminal(
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


def test_another_level_holds_at_once(capfd: pytest.CaptureFixture[str]) -> None:
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


def test_a_line_that_cannot_be_formatted_is_told() -> None:
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


def test_what_python_warns_of_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """While the log is open; before and behind, Python prints it as ever."""
    before = warnings.showwarning
    with warnings.catch_warnings(), LogPipeline(LogLevel.INFO, LogFormat.JSON):
        warnings.simplefilter("default")
        warnings.warn("mind the gap", RuntimeWarning, stacklevel=1)
    (line,) = lines(capfd)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "RuntimeWarning: mind the gap" in line["message"]
    assert warnings.showwarning is before


def test_lines_that_clients_cause_are_limited(capfd: pytest.CaptureFixture[str]) -> None:
    """Also those of the loop and of aiohttp; without the log they are as they were."""
    loggers = [logging.getLogger(name) for name in LIMITED]
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        for each in loggers:
            for _ in range(MAX_LINES_A_SECOND + 1):
                each.error("SSL handshake failed")
    assert len(messages(capfd)) == MAX_LINES_A_SECOND * len(LIMITED)
    assert [each.filters for each in loggers] == [[]] * len(LIMITED)


def descriptors() -> Counter[str]:
    """Return what files of this process are open, each as often as it is."""
    found = Counter[str]()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder itself
            found[str(link.readlink())] += 1
    return found


def test_where_there_is_no_standard_error_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing fails: the number 2 may be another file's by then."""
    monkeypatch.setattr(sys, "__stderr__", None)
    before = descriptors()
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        assert descriptors() - before == {os.devnull: 1}
        logger.info("nowhere")


def test_it_keeps_no_descriptor(capfd: pytest.CaptureFixture[str]) -> None:
    before = descriptors()
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        assert (descriptors() - before).total() == 1
    assert descriptors() == before


def test_a_record_may_be_logged_while_another_is() -> None:
    """As a destructor does: there is no lock that its thread could be holding, or another's."""
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


def test_the_library_configures_no_logging() -> None:
    """A program that has it has a log of its own."""
    subprocess.run([sys.executable, "-c", LIBRARY], check=True, timeout=60)


def test_a_record_knows_no_more_than_lines_tell(caplog: pytest.LogCaptureFixture) -> None:
    """To find out who calls, in which thread, costs more than to write it would."""
    with LogPipeline(LogLevel.INFO, LogFormat.JSON):
        logging.getLogger("x").info("y")
    (record,) = caplog.records
    assert (record.thread, record.process, record.lineno) == (None, None, 0)
