"""Input source: what is published, from an argument, a file or standard input."""

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
"""Bytes read at once: twice what a pipe holds."""

MAX_LINE = 1 << 26
"""Bytes of a line, or of a document, beyond which it is not read: far more than a server takes."""


class InputSource:
    """Bytes on their way in. `size` says how many they are, or None where nobody knows."""

    def __init__(self, file: BinaryIO, *, name: str, size: int | None) -> None:
        self._file = file
        self._name = name
        self.size = size
        self.on_taken: Callable[[int], object] = lambda _: None
        """Told how many bytes have been dealt with, each time more are asked for."""

    async def document(self) -> bytes:
        """Return all of it. Raises `ClientError`."""
        whole = bytearray()
        async for piece in self._pieces():
            whole += piece
            if len(whole) > MAX_LINE:
                raise ClientError(f"{self._name}: more than {MAX_LINE} bytes")
        return bytes(whole)

    async def lines(self) -> AsyncIterator[list[bytes]]:
        """Yield its lines without their ends, those together that have come together.

        A last line that has no end is one at the end. Raises `ClientError`.
        """
        tail: list[bytes] = []  # joined once, so that a long line costs its length
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
                raise ClientError(f"line {number}: more than {MAX_LINE} bytes")
        if size:
            yield [b"".join(tail)]

    def close(self) -> None:
        """Let go of a file."""
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

        # What has a size is there, and no event loop can wait for it. Of all else a thread reads.
        return read() if self.size is not None else await _in_thread(wait_and_read)


async def open_source(path: str | None) -> InputSource:
    """Open a file, or standard input for None and `-`. Raises `ConfigError`."""
    if path is None or path == "-":
        file = _stdin()
        if file is None:
            raise ConfigError("standard input is closed")
        return InputSource(file, name="standard input", size=_size_of(file))
    try:
        # In a thread, since a named pipe opens when somebody writes to it.
        file = await _in_thread(lambda: Path(path).open("rb"))  # noqa: SIM115 - the source closes it
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--file: {path}: cannot be read: {reason}") from None
    return InputSource(file, name=path, size=_size_of(file))


def source_of(text: str) -> InputSource:
    """Return what was typed; bytes that are not UTF-8 are as they were typed."""
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
        # Ctrl-C. The thread waits for what may never come, and asyncio would wait for it.
        os._exit(Exit.INTERRUPTED)
