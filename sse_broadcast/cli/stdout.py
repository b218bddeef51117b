"""Checked standard output: an error in writing to it is told apart from all others."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, TextIO, cast

from sse_broadcast.errors import OutputError
from sse_broadcast.server.transport.tls import tls_fault


class CheckedStdout:
    """A stream whose faults are raised as `OutputError`: anybody else's of the system are no such thing.

    But for a closed pipe, which is a `BrokenPipeError` still: its reader has had enough, which is no fault.
    """

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    @property
    def buffer(self) -> "CheckedStdout":
        """What takes bytes."""
        return CheckedStdout(cast("TextIO", self._stream).buffer)

    def write(self, data: str | bytes) -> int:
        """Write, as a file does. Raises `OutputError`."""
        with _told():
            return self._stream.write(data)

    def flush(self) -> None:
        """Write what waits to be written. Raises `OutputError`."""
        with _told():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(tls_fault(error)) from None


def install() -> None:
    """Have all that is printed from now on raise `OutputError` where it cannot be written.

    Standard streams that are closed have their places taken: what is opened next would get their numbers,
    and be printed into, or abort the process when it is closed (by libuv, uvloop's).
    """
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(descriptor)
    # One that is closed cannot be written to, and neither can what has its place.
    stream = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    sys.stdout = cast("TextIO", CheckedStdout(stream))


def close_quietly() -> None:
    """Let the interpreter's last flush of standard output go nowhere: it cannot be written to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
