"""A terminal: a program of ours on a pty of a given size, and what its screen shows."""

import asyncio
import contextlib
import os
import pty
import signal
import sys
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Self

import pyte

from sse_broadcast.cli.screen import CLEAR_REST
from sse_broadcast.config.sources import ENV_PREFIX
from tests.support.process import SCRIPT
from tests.support.sockets import PATIENCE

SECOND_SCREEN = 1049 << 5
"""As pyte keeps the private modes."""


class Terminal:
    """`sse-broadcast` on a pty, drawn by an emulator; what scrolls off its screen is kept."""

    def __init__(self, process: asyncio.subprocess.Process, control: int, size: tuple[int, int]) -> None:
        self._process = process
        self._control = control
        self.drawn = pyte.HistoryScreen(*size, history=1000)
        self._stream = pyte.ByteStream(self.drawn)
        asyncio.get_running_loop().add_reader(control, self._read)
        self.raw = b""
        self._open = True

    @classmethod
    async def start(
        cls, *arguments: str, size: tuple[int, int] = (100, 24), env: Mapping[str, str] | None = None
    ) -> Self:
        """Start the command on a terminal of so many columns and lines, of which it is the foreground."""
        control, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (size[1], size[0]))
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                # In the new process: its terminal is the one that Ctrl-C is typed at.
                "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
                " os.execv(sys.argv[1], sys.argv[1:])",
                str(SCRIPT),
                *arguments,
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
                env={**environ, "TERM": "xterm", **(env or {})},
            )
        finally:
            os.close(terminal)
        os.set_blocking(control, False)
        return cls(process, control, size)

    def _read(self) -> None:
        try:
            data = os.read(self._control, 1 << 16)
        except BlockingIOError:
            return
        except OSError:  # the program has ended, and with it the other side of the pty
            data = b""
        if not data:
            self._hang_up()
        self.raw += data
        self._stream.feed(data)

    def _hang_up(self) -> None:
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._control)

    @property
    def lines(self) -> list[str]:
        """What the screen shows, without the blanks at the end of lines."""
        return [line.rstrip() for line in self.drawn.display]

    @property
    def scrolled(self) -> list[object]:
        """What is not on the screen any more."""
        return list(self.drawn.history.top)

    @property
    def cursor_is_hidden(self) -> bool:
        """Whether the program has hidden it."""
        return bool(self.drawn.cursor.hidden)

    @property
    def is_second_screen(self) -> bool:
        """Whether the program draws on a screen of its own."""
        return SECOND_SCREEN in self.drawn.mode

    async def shows(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the screen is like this, and give its lines; one that is half drawn is not looked at."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (self._is_drawn() and condition(self.lines)):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError("the screen stays:\n" + "\n".join(self.lines)) from None
        return self.lines

    def _is_drawn(self) -> bool:
        return not self.is_second_screen or self.raw.endswith(CLEAR_REST.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Make it another size, and have the program know."""
        self.drawn.resize(lines, columns)
        termios.tcsetwinsize(self._control, (lines, columns))

    def type(self, keys: bytes) -> None:
        """Press keys; Ctrl-C is the byte 3."""
        os.write(self._control, keys)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end, and for all that was written before it; give the exit code."""
        async with asyncio.timeout(PATIENCE):
            code = await self._process.wait()
            while self._open:
                await asyncio.sleep(0.01)
        return code

    def hang_up(self) -> None:
        """Close it, as its user does the window; the program has a SIGHUP from that."""
        self._hang_up()
        os.close(self._control)
        self._control = -1

    async def close(self) -> None:
        """End the program, if it has not ended, and let go of the pty."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._hang_up()
        if self._control != -1:
            os.close(self._control)


Terminals = Callable[..., "asyncio.Future[Terminal]"]


async def terminals() -> AsyncIterator[Callable[..., object]]:
    """Open terminals, and close them when the test ends. A fixture once `pytest.fixture` has seen it."""
    opened: list[Terminal] = []

    async def start(*arguments: str, **options: object) -> Terminal:
        terminal = await Terminal.start(*arguments, **options)  # type: ignore[arg-type]
        opened.append(terminal)
        return terminal

    try:
        yield start
    finally:
        for terminal in opened:
            await terminal.close()
