"""`sse-broadcast reload`."""

import re
from collections.abc import Awaitable, Callable

import pytest

from tests.support import process, reloading
from tests.support.credentials import STATIC
from tests.support.process import Ended, Programs
from tests.support.reloading import Reloadable

programs = pytest.fixture(process.programs)
reloadable = pytest.fixture(reloading.reloadables)

Start = Callable[..., Awaitable[Reloadable]]

ENV = {"SSE_BROADCAST_TOKEN": STATIC}


async def test_a_reload_prints_the_changed_settings(reloadable: Start, programs: Programs) -> None:
    running = await reloadable(token=STATIC)
    command = ("reload", "--url", running.server.url)
    assert await programs.run(*command, env=ENV) == Ended(0, b"changed: nothing\n")
    running.settings |= {"queue_size": 5, "retry": 7, "heartbeat": 9.0}
    assert await programs.run(*command, env=ENV) == Ended(
        0, b"changed: queue_size, retry\nneeds a restart: heartbeat\n"
    )
    assert running.config.queue_size == 5


async def test_a_failed_reload_prints_its_reason(reloadable: Start, programs: Programs) -> None:
    running = await reloadable(token=STATIC)
    running.settings |= {"token": "short"}
    command = ("reload", "--url", running.server.url)
    ended = await programs.run(*command, env=ENV)
    # The text depends on the server's Python.
    reason = "422 Unprocessable (Entity|Content): token: must have 16 to 8192 characters, not 5"
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(f"sse-broadcast: {running.server.url}/reload: {reason}\n".encode(), ended.err)
    refused = await programs.run(*command)
    assert (refused.code, b"401 Unauthorized: admin '*': needs a token" in refused.err) == (1, True)
