"""Notifications to systemd, received by a real datagram socket."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from sse_broadcast.server.process.systemd import SystemdNotifier
from tests.conftest import Caplog
from tests.support import process
from tests.support.process import Programs
from tests.support.sockets import PATIENCE
from tests.support.supervision import Notices

programs = pytest.fixture(process.programs)

PID = str(os.getpid())


@pytest.fixture(params=["file", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a socket address of each kind that systemd uses."""
    return str(tmp_path / "notify") if request.param == "file" else f"@sse-notify-{PID}"


def microseconds() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


async def test_each_state_is_sent(address: str) -> None:
    """The messages are those of sd_notify(3). The time of a reload is from CLOCK_MONOTONIC."""
    with Notices(address) as notices:
        supervisor = SystemdNotifier.of({"NOTIFY_SOCKET": address})
        supervisor.ready("listens on x")
        assert await notices.next() == ["READY=1", "STATUS=listens on x"]
        before = microseconds()
        supervisor.reloading()
        state, since = await notices.next()
        assert state == "RELOADING=1"
        assert before <= int(since.removeprefix("MONOTONIC_USEC="))
        assert int(since.removeprefix("MONOTONIC_USEC=")) <= microseconds()
        supervisor.stopping("letting go", within=8.5)
        assert await notices.next() == ["STOPPING=1", "STATUS=letting go", "EXTEND_TIMEOUT_USEC=8500000"]
        supervisor.close()
        supervisor.ready("no more")
        assert notices.waiting() == []


async def test_the_watchdog_is_sent_while_the_loop_runs(address: str) -> None:
    """It is sent from `ready` to `close`, by one timer, and not while the loop is blocked."""
    with Notices(address) as notices:
        supervisor = SystemdNotifier.of(
            {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": PID}
        )
        await asyncio.sleep(0.05)
        assert notices.waiting() == []
        supervisor.ready("x")
        supervisor.ready("x")
        for _ in range(3):
            assert await notices.next() in (["READY=1", "STATUS=x"], ["WATCHDOG=1"])
        for _ in range(5):
            assert await notices.next() == ["WATCHDOG=1"]
        notices.waiting()
        time.sleep(0.2)  # This must not block the loop.
        assert notices.waiting() == []
        assert await notices.next() == ["WATCHDOG=1"]
        supervisor.close()
        await asyncio.sleep(0.05)
        assert notices.waiting() == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "9" * 400},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": PID + "0"},
    ],
)
async def test_a_watchdog_of_another_process_is_ignored(address: str, environ: dict[str, str]) -> None:
    with Notices(address) as notices:
        supervisor = SystemdNotifier.of({"NOTIFY_SOCKET": address, **environ})
        supervisor.ready("x")
        await asyncio.sleep(0.02)
        assert notices.waiting() == ["READY=1\nSTATUS=x"]
        supervisor.close()


async def test_a_full_socket_does_not_block_the_loop(address: str, caplog: Caplog) -> None:
    """systemd reads nothing more."""
    with Notices(address) as notices, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        supervisor = SystemdNotifier.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"})
        supervisor.ready("x")
        notices.waiting()
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"full", f"\0{address[1:]}" if address.startswith("@") else address)
        async with asyncio.timeout(PATIENCE):
            while not caplog.records:
                await asyncio.sleep(0)
        supervisor.close()
    assert "NOTIFY_SOCKET: [Errno 11] Resource temporarily unavailable" in caplog.text


async def test_without_systemd_nothing_is_sent(caplog: Caplog) -> None:
    supervisor = SystemdNotifier.of({"WATCHDOG_USEC": "1000"})
    supervisor.ready("x")
    supervisor.reloading()
    supervisor.stopping("x", within=1)
    supervisor.close()
    assert not caplog.records


async def test_a_closed_socket_is_no_error(tmp_path: Path, caplog: Caplog) -> None:
    supervisor = SystemdNotifier.of({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    supervisor.ready("x")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "NOTIFY_SOCKET: [Errno 2] No such file or directory" in caplog.text


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_server_sends_the_states_of_its_life(programs: Programs, address: str, loop: str) -> None:
    """It sends READY when it listens, WATCHDOG twice per interval, and STOPPING."""
    with Notices(address) as notices:
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        times = ("--drain-delay", "0.3", "--drain-timeout", "2", "--shutdown-timeout", "1")
        serving = await programs.serve("--event-loop", loop, *times, env=env)
        assert await notices.next() == ["READY=1", f"STATUS=listens on {serving.url}"]
        for _ in range(3):
            assert await notices.next() == ["WATCHDOG=1"]
        serving.process.send_signal(signal.SIGTERM)
        assert await notices.but_watchdog() == [
            "STOPPING=1",
            "STATUS=disconnecting 0 subscribers",
            "EXTEND_TIMEOUT_USEC=3300000",
        ]
        # It is stopping, and still sends WATCHDOG.
        assert await notices.next() == ["WATCHDOG=1"]
        assert (await serving.process.ended()).code == 0
