"""Cursor file: the last id of a subscription, kept over restarts of the command."""

import contextlib
import os
import re
from pathlib import Path
from typing import Self

from sse_broadcast.errors import ClientError, ConfigError

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""What an id of the server is, its own or a publisher's."""


class CursorFile:
    """Where a reader was. `id` is "" until something has been recorded.

    The file has the id and a line end, and is replaced as a whole: whoever reads it, whenever the
    one who writes it is killed, finds the old id or the new one. One process may use it at a time.
    """

    def __init__(self, path: Path, id: str) -> None:
        self.id = id
        # A link stays one; and to replace a file takes another one beside it.
        self._path = Path(os.path.realpath(path))
        self._next = self._path.with_name(self._path.name + ".next")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the id of a file, or make ready to write one. Raises `ConfigError`."""
        try:
            state = cls(path, _read(path))
            _write_new(state._next, b"")
            state._next.unlink()
        except OSError as error:
            raise ConfigError(f"--state: {path}: {error.strerror}") from None
        return state

    def record(self, id: str) -> None:
        """Keep an id. Raises `ConfigError` if it cannot be written, `ClientError` if it is none."""
        if id in {"", self.id}:
            return
        if not _ID.fullmatch(id):
            raise ClientError(f"--state: the server's id {id[:80]!a} is none that could be sent back")
        try:
            _write_new(self._next, f"{id}\n".encode())
            os.replace(self._next, self._path)  # noqa: PTH105 - known by this name to be atomic
        except OSError as error:
            raise ConfigError(f"--state: {self._path}: cannot be written: {error.strerror}") from None
        self.id = id


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that nobody else has made: one of a run that was killed is replaced.

    Raises `OSError`.
    """
    # Without O_EXCL a link that somebody put here, in /tmp, would have the file that it leads to emptied.
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
        file.write(data)


def _read(path: Path) -> str:
    if not path.exists():
        return ""
    if not path.is_file():
        raise ConfigError(f"--state: {path}: is no file")
    with path.open("rb") as file:
        text = file.read(1000).decode("utf-8", "replace").removesuffix("\n")
    if not _ID.fullmatch(text):
        raise ConfigError(f"--state: {path}: holds no id: {text[:80]!a}")
    return text
