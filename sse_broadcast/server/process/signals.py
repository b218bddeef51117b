"""Signal handlers of a running server."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger("sse_broadcast.process")

STOP = (signal.SIGTERM, signal.SIGINT)
"""What a supervisor sends, and what a terminal does at Ctrl-C."""

Table = Mapping[signal.Signals, Callable[[], None]]
"""What is called for a signal: between two turns of the loop, so it may neither wait nor raise."""


def install_handlers(table: Table) -> None:
    """Have the running loop call what the table says, until it is closed."""
    loop = asyncio.get_running_loop()
    for number, act in table.items():
        loop.add_signal_handler(number, act)


def hangup_handler(reload: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
    """Return what SIGHUP does: `reload`, or `end` once the terminal is closed that the process began in.

    A window that is closed would leave a server behind that nobody sees. One that began without a terminal,
    or by nohup or setsid, is never ended by it.
    """
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
    """Whether standard input is the process's own terminal, and still open."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def ignore(numbers: Iterable[signal.Signals]) -> None:
    """Do nothing at these signals from now on. A loop that closes leaves them to end the process."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
