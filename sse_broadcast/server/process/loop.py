"""The event loop: which one, how late it is, its collector, and the threads beside it."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sse_broadcast.config.schema import EventLoop
from sse_broadcast.errors import ConfigError
from sse_broadcast.metrics import Metrics

P = ParamSpec("P")
T = TypeVar("T")

EVERY = 0.1
"""Seconds between two looks: ten wake-ups a second, of some microseconds each."""

COLLECTOR = (100_000, 50, 100)
"""Collector thresholds: it looks when so many objects more have come than gone, and a stream has fifty.

With CPython's defaults each new connection has it look at its thousands of neighbours, which doubles the
cost of connecting; so it is a part in fifteen. To look takes 13 ms, in which nobody is served: for five times
as many objects 80. It has little to find: no stream that ends leaves a cycle, and few hostile requests do."""


class LoopLagMonitor:
    """Sets itself a time, and counts how late it comes by.

    Whatever holds up the loop for longer than `EVERY` holds up a look as well. From `start` to `stop`, on
    the loop that `start` is called in.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        # By a clock of its own: uvloop's knows milliseconds only.
        self._due = time.monotonic() + EVERY
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._metrics.lagged(max(0.0, time.monotonic() - self._due))
        self.start()


class DaemonThreadExecutor(ThreadPoolExecutor):
    """Makes each call in a thread of its own, for which nobody waits at the end.

    An executor's threads are waited for, by the loop that closes and by the interpreter: one that reads a
    file of a disk that has gone away would outlast every deadline. Calls are few: a reload, a JWKS.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor`."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=call, name="call", daemon=True).start()
        return future


def new_loop(choice: EventLoop) -> asyncio.AbstractEventLoop:
    """Return an event loop of the kind that was chosen. Raises `ConfigError` without the extra."""
    if choice is not EventLoop.ASYNCIO:
        try:
            import uvloop  # noqa: PLC0415 - the extra `fast`
        except ImportError:
            if choice is EventLoop.UVLOOP:
                raise ConfigError(
                    "event_loop: uvloop is not installed; pip install 'sse-broadcast[fast]'"
                ) from None
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def tune_collector() -> None:
    """Spare what is here to stay, and look at new objects less often. It is the whole process's."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR)
