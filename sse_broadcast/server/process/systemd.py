"""systemd: tell the service manager how the server is (sd_notify(3))."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Self

logger = logging.getLogger("sse_broadcast.process")

SEND_TIMEOUT = 0.5
"""Seconds that a supervisor has to take what it is told; but for that the loop turns, or it would not."""

MAX_MICROSECOND_DIGITS = 20
"""Digits, of which no number of microseconds has so many: a timer could not be set."""


class SystemdNotifier:
    """Who is told how we are. Without an address nobody is."""

    def __init__(self, address: str, *, watchdog: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._barking: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Return the supervisor that the environment names, and by when it must hear of us."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID") in {None, str(os.getpid())}
        told = (
            microseconds.isascii() and microseconds.isdecimal() and len(microseconds) < MAX_MICROSECOND_DIGITS
        )
        watchdog = int(microseconds) / 1e6 if told and ours else None
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog=watchdog or None)

    def ready(self, status: str) -> None:
        """Tell that we serve, in words too; from now on also that the loop turns, as often as is asked."""
        self._tell("READY=1", f"STATUS={status}")
        if self._barking is None:
            self._send_watchdog()

    def reloading(self) -> None:
        """Tell that the configuration is read again; `ready` ends that."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, *, within: float) -> None:
        """Tell that we stop, and within how many seconds."""
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def close(self) -> None:
        """Tell nothing more."""
        if self._barking is not None:
            self._barking.cancel()
            self._barking = None
        self._address = ""

    def _send_watchdog(self) -> None:
        """Tell that the loop turns, which this is called by, and be called again in time."""
        if self._watchdog is None or not self._address:
            return
        self._tell("WATCHDOG=1", patience=0.0)  # one that is not taken is followed by another
        self._barking = asyncio.get_running_loop().call_later(self._watchdog / 2, self._send_watchdog)

    def _tell(self, *states: str, patience: float = SEND_TIMEOUT) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience)
                sock.sendto("\n".join(states).encode(), self._address)
        except OSError as error:
            logger.warning("NOTIFY_SOCKET: %(fault)s", {"fault": str(error)})
