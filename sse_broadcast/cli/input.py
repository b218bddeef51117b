"""Input source: the bytes to publish, from an argument, a file or standard input."""

import asyncio
import io
import os
import select
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from sse_broadcast.cli.common import Exit
from sse_broadcast.errors import ClientError, ConfigError

T = TypeVar("T")

READ = 1 << 17
"""Bytes per read: twice the size of a Linux pipe's buffer."""

MAX_LINE = 1 << 26
"""Maximum bytes of a line or a document. A server's own limits are far lower."""


class InputSource:
    """A source of bytes. `size` is their number, or None for a pipe or a terminal."""

    def __init__(self, file: BinaryIO, *, name: str, size: int | None) -> None:
        self._file = file
        self._name = name
        self.size = size
        self.on_taken: Callable[[int], object] = lambda _: None
        """Called with the number of bytes that have been handled, each time more are read."""

    async def document(self) -> bytes:
        """Return all bytes. Raises `ClientError` above `MAX_LINE`."""
        whole = bytearray()
        async for piece in self._pieces():
            whole += piece
            if len(whole) > MAX_LINE:
                raise ClientError(f"{self._name}: has more than {MAX_LINE} bytes")
        return bytes(whole)

    async def lines(self) -> AsyncIterator[list[bytes]]:
        """Yield the lines, without line ends, in lists: each list holds the lines of one read.

        The last line needs no line end. Raises `ClientError` for a line above `MAX_LINE`.
        """
        tail: list[bytes] = []  # joined once: joining at every read would make a long line quadratic
        number, size = 1, 0
        async for piece in self._pieces():
            first, *rest = piece.split(b"\n")
            tail.append(first)
            size += len(first)
            if rest:
                whole = [b"".join(tail), *rest[:-1]]
                tail, size = [rest[-1]], len(rest[-1])
                number += len(whole)
                yield whole
            if size > MAX_LINE:
                raise ClientError(f"line {number}: has more than {MAX_LINE} bytes")
        if size:
            yield [b"".join(tail)]

    def close(self) -> None:
        """Close the file, unless it is standard input."""
        if self._file is not _stdin():
            self._file.close()

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._read():
                yield piece
                self.on_taken(len(piece))
        except OSError as error:
            raise ClientError(f"{self._name}: cannot be read: {error.strerror}") from None

    async def _read(self) -> bytes:
        def read() -> bytes:
            return self._file.read1(READ)  # type: ignore[attr-defined, no-any-return]

        def wait_and_read() -> bytes:
            # A pipe that another process made non-blocking reads as b"" while it is empty, as at its end.
            select.select([self._file], [], [])
            return read()

        # A regular file is read here: reads do not wait, and event loops cannot poll it. Anything else may
        # wait for its writer, so a thread reads it.
        return read() if self.size is not None else await _in_thread(wait_and_read)


async def open_source(path: str | None) -> InputSource:
    """Open a file, or standard input for None and `-`. Raises `ConfigError`."""
    if path is None or path == "-":
        file = _stdin()
        if file is None:
            raise ConfigError("standard input is closed")
        return InputSource(file, name="standard input", size=_size_of(file))
    try:
        # In a thread: opening a named pipe waits for its writer.
        file = await _in_thread(lambda: Path(path).open("rb"))  # noqa: SIM115 - the source closes it
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--file: {path}: cannot be read: {reason}") from None
    return InputSource(file, name=path, size=_size_of(file))


def source_of(text: str) -> InputSource:
    """Return a source with the bytes of an argument, also those that are not UTF-8."""
    data = text.encode("utf-8", "surrogateescape")
    return InputSource(io.BytesIO(data), name="MESSAGE", size=len(data))


def _stdin() -> BinaryIO | None:
    return None if sys.stdin is None else sys.stdin.buffer


def _size_of(file: BinaryIO) -> int | None:
    status = os.fstat(file.fileno())
    return max(status.st_size - file.tell(), 0) if stat.S_ISREG(status.st_mode) else None


async def _in_thread(do: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(do)
    except asyncio.CancelledError:
        # Ctrl-C. asyncio joins its threads at exit, and this one may wait for input that never comes.
        os._exit(Exit.INTERRUPTED)
