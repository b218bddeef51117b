"""Programs as anyone runs them: the real command line, started, read, signalled, and always ended."""

import asyncio
import contextlib
import os
import re
import signal
import sysconfig
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sse_broadcast.config.sources import ENV_PREFIX
from tests.support.forking import RESOURCE_WARNINGS, ForkedProcess, can_fork, fork
from tests.support.sockets import PATIENCE

SCRIPT = Path(sysconfig.get_path("scripts"), "sse-broadcast")
"""The command as pip installed it beside the interpreter that runs the tests."""

AT_MOST = 1 << 24
"""Bytes of output kept until a test reads them; nothing under test says nearly so much."""

LISTENS = re.compile(
    rb"sse-broadcast listens on (https?://\S+:(\d+)), with room for (\d+) connections?,"
    rb" and 24 more for callers with admin\.\n"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code, and what it said that was not read before."""

    code: int
    out: bytes = b""
    err: bytes = b""


class Process:
    """A program that was started. Everything that waits for it has a deadline."""

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._in, self._out, self._err = process.stdin, process.stdout, process.stderr

    @property
    def id(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def line(self) -> bytes:
        """Return the next line of its output."""
        async with asyncio.timeout(PATIENCE):
            line = await self._out.readline()
        if not line:
            raise AssertionError(f"no more output: {await self.ended()}")
        return line

    async def any_line(self) -> bytes:
        """Return the next line of its output, however long that takes, or b"" at its end."""
        return await self._out.readline()

    async def error_line(self) -> bytes:
        """Return the next line of its standard error."""
        async with asyncio.timeout(PATIENCE):
            return await self._err.readline()

    async def feed(self, data: bytes) -> None:
        """Write to its standard input."""
        self._in.write(data)
        async with asyncio.timeout(PATIENCE):
            await self._in.drain()

    def end_input(self) -> None:
        """Let it see the end of its standard input."""
        self._in.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone, not to its children."""
        self._process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to it and its children, as a terminal does."""
        os.killpg(self._process.pid, number)

    async def ended(self) -> Ended:
        """Wait until it has ended and all that writes to its output is gone."""
        async with asyncio.timeout(PATIENCE):
            out, err, code = await asyncio.gather(self._out.read(), self._err.read(), self._process.wait())
        return Ended(code, out, err)

    async def kill(self) -> None:
        """End it and its children now, if it has not ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        self._in.close()
        # A child of its own that outlived it would keep the pipes, and their transports, open.
        if isinstance(self._process, ForkedProcess):
            self._process.close()
        else:
            self._process._transport.close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Serving:
    """A server in a process of its own, and what it said of itself."""

    process: Process
    url: str
    port: int
    room: int
    tries: tuple[str, str]

    async def stop(self) -> Ended:
        """Tell it to stop, and return how it ended."""
        self.process.send_signal(signal.SIGTERM)
        return await self.process.ended()


async def announced(process: Process) -> Serving:
    """Wait until a server says where it listens."""
    first = await process.line()
    said = LISTENS.fullmatch(first)
    assert said is not None, first
    while await process.line() != b"Try:\n":
        pass
    tries = ((await process.line()).decode().strip(), (await process.line()).decode().strip())
    return Serving(process, said[1].decode(), int(said[2]), int(said[3]), tries)


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    # Programs under test have no terminal, and say where they listen all the same.
    return {**environ, "COLUMNS": "80", ENV_PREFIX + "BANNER": "true", **(env or {})}


class Programs:
    """Starts programs for one test."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    async def start(
        self,
        program: str | Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> Process:
        """Start a program in a group of its own, with none of our variables but those of `env`.

        It has these descriptors too, by the numbers that they have here.
        """
        process = Process(
            await asyncio.create_subprocess_exec(
                program,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=AT_MOST,
                start_new_session=True,
                pass_fds=descriptors,
                env=_environment(env),
            )
        )
        self._started.append(process)
        return process

    async def cli(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start `sse-broadcast`; what it forgets to close is told on its standard error."""
        return await self._command(arguments, {"PYTHONWARNINGS": RESOURCE_WARNINGS, **(env or {})})

    async def _command(self, arguments: Sequence[str], env: Mapping[str, str]) -> Process:
        if not can_fork(env):
            return await self.start(SCRIPT, *arguments, env=env)
        process = Process(await fork(arguments, _environment(env), limit=AT_MOST))
        self._started.append(process)
        return process

    async def run(self, *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Ended:
        """Run `sse-broadcast` to its end."""
        process = await self.cli(*arguments, env=env)
        with contextlib.suppress(ConnectionError):
            await process.feed(stdin)
        process.end_input()
        return await process.ended()

    async def serve(
        self, *arguments: str, env: Mapping[str, str] | None = None, descriptors: int | None = None
    ) -> Serving:
        """Start `sse-broadcast serve` on a free port, and wait until it says where it listens."""
        command = ["serve", "--port", "0", *arguments]
        if descriptors is None:
            return await announced(await self._command(command, env or {}))
        shell = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", str(SCRIPT)]
        return await announced(await self.start(*shell, *command, env=env))

    async def end(self) -> None:
        """End whatever still runs."""
        for process in self._started:
            await process.kill()


async def programs() -> AsyncIterator[Programs]:
    """Start programs, and end them when the test ends. A fixture once `pytest.fixture` has seen it."""
    started = Programs()
    try:
        yield started
    finally:
        await started.end()
