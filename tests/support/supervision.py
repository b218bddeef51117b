"""A supervisor such as systemd: it opens sockets, starts servers with them, and hears how they are."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.process import SCRIPT, Process, Programs
from tests.support.sockets import PATIENCE

HAND_DOWN = """\
import os, sys
count, names, *command = sys.argv[1:]
descriptors = [int(each) for each in count.split(",")]
# Away from where they are to go, and then there.
moved = [os.dup2(each, 100 + place) for place, each in enumerate(descriptors)]
for place, each in enumerate(moved):
    os.dup2(each, 3 + place)
    os.close(each)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""
"""What becomes the server, as sd_listen_fds(3) has it: the process that is named must be that one."""


class Notices:
    """What a server tells its supervisor (sd_notify(3)), as it comes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    async def next(self) -> list[str]:
        """Return what the next one says, a line each."""
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(self._sock, 4096)
        return data.decode().split("\n")

    async def but_watchdog(self) -> list[str]:
        """Return the next one that says more than that the loop turns."""
        while (said := await self.next()) == ["WATCHDOG=1"]:
            pass
        return said

    def waiting(self) -> list[str]:
        """Return what has come and was not asked for yet."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._sock.recv(4096).decode())
        return found


def tcp_socket(host: str = "127.0.0.1") -> socket.socket:
    """Open a socket that listens, as a supervisor does before anyone is there to accept."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, 0))
    sock.listen(4096)
    return sock


def unix_socket(path: Path) -> socket.socket:
    """Open a UNIX socket that listens."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(4096)
    return sock


class Supervisor:
    """Starts servers on sockets of its own, which stay open whatever becomes of them."""

    def __init__(self, programs: Programs, *sockets: socket.socket, names: Sequence[str] = ()) -> None:
        self._programs = programs
        self._sockets = sockets
        self._names = names

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()

    @property
    def port(self) -> int:
        """The port of its first socket."""
        return int(self._sockets[0].getsockname()[1])

    async def launch(self, *flags: str, env: dict[str, str] | None = None) -> Process:
        """Start a server with the sockets in its first descriptors, and wait for nothing."""
        descriptors = [sock.fileno() for sock in self._sockets]
        return await self._programs.start(
            sys.executable,
            *("-c", HAND_DOWN, ",".join(map(str, descriptors)), ":".join(self._names)),
            *(str(SCRIPT), "serve", *flags),
            env=env,
            descriptors=descriptors,
        )

    async def start(self, *flags: str, env: dict[str, str] | None = None) -> Process:
        """Start a server, and wait until it says that it listens."""
        process = await self.launch(*flags, env=env)
        await process.line()
        return process
