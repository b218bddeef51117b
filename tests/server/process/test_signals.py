"""Signal handlers. Those of a running server are in test_serve."""

import asyncio
import os
import pty
import signal
from collections.abc import Iterator

import pytest

from sse_broadcast.server.process.signals import hangup_handler, ignore, install_handlers
from tests.support.sockets import until

pytestmark = pytest.mark.both_loops


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the signal handlers of the process."""
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


async def test_each_signal_has_its_own_handler() -> None:
    heard: list[str] = []
    install_handlers(
        {signal.SIGUSR1: lambda: heard.append("one"), signal.SIGUSR2: lambda: heard.append("two")}
    )

    async def after(count: int) -> None:
        await until(lambda: len(heard) == count)

    for count, number in enumerate((signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1), 1):
        os.kill(os.getpid(), number)
        await after(count)
    assert heard == ["one", "two", "one"]
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)


def test_a_hang_up_of_another_terminal_does_not_stop_the_server() -> None:
    ours, terminal = pty.openpty()
    before = os.dup(0)
    done: list[str] = []
    try:
        os.dup2(terminal, 0)
        act = hangup_handler(lambda: done.append("reload"), lambda: done.append("end"))
        os.close(ours)
        act()
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(terminal)
    assert done == ["reload"]


async def test_an_ignored_signal_does_not_stop_the_process() -> None:
    """Closing the loop had restored its default."""
    install_handlers({signal.SIGUSR2: lambda: None})
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    ignore([signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
