"""The event loop: its choice, its lag, the garbage collector, and threads for blocking calls."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from typing_extensions import override

from sse_broadcast.config.schema import EventLoop
from sse_broadcast.errors import ConfigError
from sse_broadcast.metrics import Metrics

P = ParamSpec("P")
T = TypeVar("T")

EVERY = 0.1
"""Seconds between two measurements. Each takes a few microseconds."""

# With CPython's defaults, the objects of new connections start collections that scan thousands of older
# ones, and connecting costs twice as much. With these thresholds it costs a fifteenth more. A collection
# stops the server for 13 ms; with five times as many objects, for 80 ms. There is little to find: no stream
# leaves a reference cycle, and few hostile requests do.
COLLECTOR = (100_000, 50, 100)
"""GC thresholds: generation 0 runs after 100,000 net allocations; a stream is about 50 objects."""


class LoopLagMonitor:
    """Measures how late a timer of the event loop fires, every `EVERY` seconds.

    Anything that blocks the loop for longer than `EVERY` delays a measurement. Runs from `start` to `stop` on
    the loop of `start`.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Schedule the next measurement."""
        # Not loop.time(): uvloop's has a resolution of a millisecond.
        self._due = time.monotonic() + EVERY
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def stop(self) -> None:
        """Cancel the next measurement."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._metrics.lagged(max(0.0, time.monotonic() - self._due))
        self.start()


# The loop and the interpreter wait for the threads of an ordinary executor. A thread that reads a file of a
# disk that went away would outlast every deadline. Calls are rare (a reload, a JWKS), so a thread each is
# cheap.
class DaemonThreadExecutor(ThreadPoolExecutor):
    """An executor that runs each call in a daemon thread of its own."""

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the future raises it in the caller
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=call, name="call", daemon=True).start()
        return future


def new_loop(choice: EventLoop) -> asyncio.AbstractEventLoop:
    """Return a new event loop of the chosen kind. Raises `ConfigError` if uvloop is not installed."""
    if choice is not EventLoop.ASYNCIO:
        try:
            import uvloop  # noqa: PLC0415 - the extra `fast`
        except ImportError:
            if choice is EventLoop.UVLOOP:
                raise ConfigError("event_loop: uvloop is not installed: pip install uvloop") from None
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def tune_collector() -> None:
    """Exclude the objects that exist now from collections, and set the thresholds, for the whole process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR)
