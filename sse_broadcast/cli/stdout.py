"""Checked standard output: errors in writing to it are told apart from all other errors."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, TextIO, cast

from sse_broadcast.errors import OutputError
from sse_broadcast.server.transport.tls import tls_fault


class CheckedStdout:
    """A wrapper of standard output that raises `OutputError` where the stream raises `OSError`.

    A closed pipe still raises `BrokenPipeError`.
    """

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    @property
    def buffer(self) -> "CheckedStdout":
        """The stream of bytes below, checked in the same way."""
        return CheckedStdout(cast("TextIO", self._stream).buffer)

    def write(self, data: str | bytes) -> int:
        """Write to the stream. Raises `OutputError`."""
        with _told():
            return self._stream.write(data)

    def flush(self) -> None:
        """Flush the stream. Raises `OutputError`."""
        with _told():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # `| head -1`: its reader has all it wants, which is no fault
    except OSError as error:
        raise OutputError(tls_fault(error)) from None


def install() -> None:
    """Replace `sys.stdout` by a `CheckedStdout`, and open descriptors 0 to 2 if they are closed."""
    # With standard streams closed (`>&-`), the next file or socket would get their numbers: prints would go
    # into it, and libuv, below uvloop, aborts the process when it closes such a descriptor.
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(descriptor)
    # Python sets sys.stdout to None for a closed stream. The placeholder is read-only, so writes still fail.
    stream = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    sys.stdout = cast("TextIO", CheckedStdout(stream))


def close_quietly() -> None:
    """Point standard output at the null device, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
