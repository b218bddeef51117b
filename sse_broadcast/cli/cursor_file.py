"""Cursor file: the last id of a subscription, kept across runs of the command."""

import contextlib
import os
import re
from pathlib import Path
from typing import Self

from sse_broadcast.errors import ClientError, ConfigError

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""An event id: the server's own or a publisher's."""


class CursorFile:
    """The file of `--state`. `id` is "" until an id has been recorded.

    The file holds the id and a line end. One process may use it at a time.
    """

    def __init__(self, path: Path, id: str) -> None:
        self.id = id
        # Resolve links first: replacing the link itself would leave its target as it was.
        self._path = Path(os.path.realpath(path))
        self._next = self._path.with_name(self._path.name + ".next")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the file, or check that one can be created. Raises `ConfigError`."""
        try:
            state = cls(path, _read(path))
            _write_new(state._next, b"")
            state._next.unlink()
        except OSError as error:
            raise ConfigError(f"--state: {path}: {error.strerror}") from None
        return state

    def record(self, id: str) -> None:
        """Write an id to the file.

        Raises `ConfigError` if the file cannot be written, and `ClientError` if the id is not valid.
        """
        if id in {"", self.id}:
            return
        if not _ID.fullmatch(id):
            raise ClientError(f"--state: the server's id {id[:80]!a} cannot be sent back as Last-Event-ID")
        try:
            # Replaced as a whole: a command killed at any moment leaves the old id or the new one.
            _write_new(self._next, f"{id}\n".encode())
            os.replace(self._next, self._path)  # noqa: PTH105 - documented as atomic
        except OSError as error:
            raise ConfigError(f"--state: {self._path}: cannot be written: {error.strerror}") from None
        self.id = id


def _write_new(path: Path, data: bytes) -> None:
    """Create a file, replacing one that a killed run left behind. Raises `OSError`."""
    # O_EXCL: in a shared folder such as /tmp another user may put a link here, and its target would be
    # overwritten.
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
        file.write(data)


def _read(path: Path) -> str:
    if not path.exists():
        return ""
    if not path.is_file():
        raise ConfigError(f"--state: {path}: is not a file")
    with path.open("rb") as file:
        text = file.read(1000).decode("utf-8", "replace").removesuffix("\n")
    if not _ID.fullmatch(text):
        raise ConfigError(f"--state: {path}: does not hold an event id: {text[:80]!a}")
    return text
