"""A server on this machine: start one, find the process of one, and read what it uses (Linux, /proc)."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from sse_broadcast.errors import ClientError

START_TIMEOUT = 30.0
"""Seconds that a server may take to listen."""

STOP_TIMEOUT = 10.0
"""Seconds that it may take to end."""

_LISTENING = "0A"
"""TCP_LISTEN, as /proc/net/tcp has it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used: seconds of CPU, and bytes of resident memory."""

    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A process to be measured."""

    id: int

    def usage(self) -> Usage | None:
        """Return what it has used, or None where that cannot be read."""
        try:
            # After the name, which may have spaces and parentheses in it (proc(5)).
            fields = Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{self.id}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return None
        ticks = int(fields[11]) + int(fields[12])
        return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def find_listener(port: int) -> ServerProcess | None:
    """Return the process that listens at a TCP port, if there is one that we may look at."""
    inodes = set(_listening_inodes(port))
    for folder in Path("/proc").glob("[0-9]*/fd") if inodes else ():
        with contextlib.suppress(OSError):
            for link in folder.iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()) in inodes:
                        return ServerProcess(int(folder.parent.name))
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"


class _Started(msgspec.Struct):
    message: str


class OwnServer:
    """A server of our own, in a process of its own, at a free port. An async context manager."""

    def __init__(self) -> None:
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def process(self) -> ServerProcess:
        """Its process."""
        assert self._process is not None
        return ServerProcess(self._process.pid)

    async def __aenter__(self) -> Self:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SSE_BROADCAST_")}
        options = ("--port", "0", "--log-format", "json", "--log-level", "info")
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sse_broadcast", "serve", *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C is ours: the server ends when the run has been told about.
            start_new_session=True,
            env=environ,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                self.url = await self._listens()
        except BaseException as error:
            await self._stop()
            if isinstance(error, TimeoutError):
                raise ClientError("the server of its own does not start") from None
            raise
        self._reading = asyncio.create_task(self._read_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _listens(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        line = b""
        while said := await self._process.stderr.readline():
            line = said
            with contextlib.suppress(msgspec.DecodeError):
                message = msgspec.json.decode(line, type=_Started).message
                before, listens, url = message.partition(" listens on ")
                if listens and before.startswith("started"):
                    return url
        raise ClientError(f"the server of its own does not start: {line.decode(errors='replace').strip()}")

    async def _read_on(self) -> None:
        """Take its log, or it would stop at a full pipe."""
        assert self._process is not None
        assert self._process.stderr is not None
        while await self._process.stderr.read(1 << 16):
            pass

    async def _stop(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading
