"""Threads: calls that nobody waits for at the end."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from sse_broadcast.server.threads import Threads
from tests.support.sockets import until


def call(do: Callable[[], object]) -> asyncio.Future[object]:
    """Have a new executor make a call."""
    return asyncio.get_running_loop().run_in_executor(Threads(), do)


async def test_what_a_call_gives_is_given() -> None:
    """By another thread than the loop's."""
    assert await call(threading.get_ident) != threading.get_ident()


async def test_what_a_call_raises_is_raised() -> None:
    """Also what is no Exception: whoever waits would wait for ever."""
    with pytest.raises(ZeroDivisionError):
        await call(lambda: 1 // 0)

    def leave() -> None:
        raise GeneratorExit

    with pytest.raises(GeneratorExit):
        await call(leave)


async def test_a_call_waits_for_no_other() -> None:
    """However many of them there are that do not end."""
    goes_on = threading.Event()
    stuck = [call(goes_on.wait) for _ in range(50)]
    assert await call(lambda: "done") == "done"
    goes_on.set()
    await asyncio.gather(*stuck)


async def test_a_call_that_does_not_end_is_left_at_the_end() -> None:
    """Neither the executor nor the interpreter waits for its thread."""
    goes_on, executor = threading.Event(), Threads()
    before = set(threading.enumerate())
    stuck = executor.submit(goes_on.wait)
    (thread,) = set(threading.enumerate()) - before
    executor.shutdown(wait=True)
    assert (stuck.running(), thread.daemon) == (True, True)
    goes_on.set()
    await until(lambda: not thread.is_alive())
