"""systemd: notify the service manager of the server's state (sd_notify(3))."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Self

logger = logging.getLogger("sse_broadcast.process")

SEND_TIMEOUT = 0.5
"""Seconds that a send to the service manager may block, except for the watchdog's."""

MAX_MICROSECOND_DIGITS = 20
"""Numbers of microseconds with this many digits are ignored: no timer can be set so far ahead."""


class SystemdNotifier:
    """Sends states to the service manager at `address`, or nothing if it is empty.

    `watchdog` is the number of seconds within which the service manager expects a sign of life.
    """

    def __init__(self, address: str, *, watchdog: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._watchdog_timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Return a notifier for `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` of the environment."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID") in {None, str(os.getpid())}
        told = (
            microseconds.isascii() and microseconds.isdecimal() and len(microseconds) < MAX_MICROSECOND_DIGITS
        )
        watchdog = int(microseconds) / 1e6 if told and ours else None
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog=watchdog or None)

    def ready(self, status: str) -> None:
        """Notify that the server serves. From the first call on, also keep the watchdog informed."""
        self._tell("READY=1", f"STATUS={status}")
        if self._watchdog_timer is None:
            self._send_watchdog()

    def reloading(self) -> None:
        """Notify that a reload has started. `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, *, within: float) -> None:
        """Notify that the server stops, and within how many seconds."""
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def close(self) -> None:
        """Send no more notifications."""
        if self._watchdog_timer is not None:
            self._watchdog_timer.cancel()
            self._watchdog_timer = None
        self._address = ""

    def _send_watchdog(self) -> None:
        """Notify that the event loop runs, and schedule the next call."""
        if self._watchdog is None or not self._address:
            return
        self._tell("WATCHDOG=1", timeout=0.0)  # never block the loop: the next one follows soon
        self._watchdog_timer = asyncio.get_running_loop().call_later(self._watchdog / 2, self._send_watchdog)

    def _tell(self, *states: str, timeout: float = SEND_TIMEOUT) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(timeout)
                sock.sendto("\n".join(states).encode(), self._address)
        except OSError as error:
            logger.warning("NOTIFY_SOCKET: %(fault)s", {"fault": str(error)})
