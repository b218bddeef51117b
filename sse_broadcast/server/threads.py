"""Threads: calls that may wait for a disk, and must not keep the process from its end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
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
