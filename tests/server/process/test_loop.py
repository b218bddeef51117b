"""Event loop: its lag, and the threads beside it."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from sse_broadcast.metrics import Metrics
from sse_broadcast.server.process.loop import EVERY, DaemonThreadExecutor, LoopLagMonitor
from sse_broadcast.server.runner import Server
from tests.support.sockets import until

pytestmark = pytest.mark.both_loops


async def test_a_blocked_loop_has_a_lag() -> None:
    metrics = Metrics()
    lag = LoopLagMonitor(metrics)
    lag.start()
    await until(lambda: metrics.loop_lag.count == 1)
    before = metrics.loop_lag.total
    time.sleep(EVERY + 0.3)
    await until(lambda: metrics.loop_lag.count == 2)
    lag.stop()
    assert metrics.loop_lag.total - before >= 0.3


async def test_a_server_measures_the_lag_until_it_stops(server: Server) -> None:
    """Afterwards nothing is scheduled on the loop."""
    metrics = server.broadcaster.metrics
    await until(lambda: metrics.loop_lag.count > 1)
    await server.stop()
    looks = metrics.loop_lag.count
    time.sleep(2 * EVERY)
    await until(lambda: True)
    assert metrics.loop_lag.count == looks


async def test_a_monitor_that_was_never_started_can_be_stopped() -> None:
    LoopLagMonitor(Metrics()).stop()


def call(do: Callable[[], object]) -> asyncio.Future[object]:
    """Run a call in a new executor."""
    return asyncio.get_running_loop().run_in_executor(DaemonThreadExecutor(), do)


async def test_the_result_of_a_call_is_returned() -> None:
    assert await call(threading.get_ident) != threading.get_ident()


async def test_an_exception_of_a_call_is_raised() -> None:
    """This holds for a BaseException too: otherwise the caller would wait for ever."""
    with pytest.raises(ZeroDivisionError):
        await call(lambda: 1 // 0)

    def leave() -> None:
        raise GeneratorExit

    with pytest.raises(GeneratorExit):
        await call(leave)


async def test_a_call_does_not_wait_for_others() -> None:
    """Any number of other calls may never end."""
    goes_on = threading.Event()
    stuck = [call(goes_on.wait) for _ in range(50)]
    assert await call(lambda: "done") == "done"
    goes_on.set()
    await asyncio.gather(*stuck)


async def test_a_call_that_does_not_end_is_abandoned_on_exit() -> None:
    """Neither the executor nor the interpreter waits for its thread."""
    goes_on, executor = threading.Event(), DaemonThreadExecutor()
    before = set(threading.enumerate())
    stuck = executor.submit(goes_on.wait)
    (thread,) = set(threading.enumerate()) - before
    executor.shutdown(wait=True)
    assert (stuck.running(), thread.daemon) == (True, True)
    goes_on.set()
    await until(lambda: not thread.is_alive())
