"""Signal handlers of a running server."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger("sse_broadcast.process")

STOP = (signal.SIGTERM, signal.SIGINT)
"""The signals that stop the server: of a supervisor, and of Ctrl-C."""

Table = Mapping[signal.Signals, Callable[[], None]]
"""The handler of each signal. The event loop calls it, so it must neither wait nor raise."""


def install_handlers(table: Table) -> None:
    """Install the handlers on the running loop, until the loop is closed."""
    loop = asyncio.get_running_loop()
    for number, act in table.items():
        loop.add_signal_handler(number, act)


def hangup_handler(reload: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
    """Return the handler of SIGHUP: it calls `reload`, or `end` if the process's terminal was closed.

    A process started without a terminal, or by nohup or setsid, always reloads.
    """
    # A closed terminal window sends SIGHUP too. A reload would leave a server running that nobody sees.
    if not _has_terminal():
        return reload

    def act() -> None:
        if _has_terminal():
            reload()
        else:
            logger.info("SIGHUP: the terminal that the server was started in is closed")
            end()

    return act


def _has_terminal() -> bool:
    """Return whether standard input is the process's controlling terminal, and still open."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def ignore(numbers: Iterable[signal.Signals]) -> None:
    """Ignore these signals from now on."""
    # A closed loop restores the default action: a second signal would interrupt the last steps of a stop.
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
