"""The file of a UNIX socket: created with its mode and owner, and removed if it is still ours."""

import contextlib
import errno
import grp
import logging
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("sse_broadcast.connections")

PERMISSIONS = 0o777
"""All permission bits of a socket's file. The kernel removes those of the umask when it creates the file."""


class UnixFile:
    """The file of a listening UNIX socket.

    Remove it before the socket is closed: until then no other file can get its inode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ours: tuple[int, int] | None = None

    def bind(self, *, mode: str | None, owner: str | None) -> socket.socket:
        """Create the file, and return its socket. Clients cannot connect before the socket listens.

        A socket without a listener is replaced. `mode` is in octal digits, `owner` as `user`, `user:group` or
        `:group`. Only the new file is changed, even if another takes its place meanwhile. Raises `OSError`
        and `ValueError`.
        """
        ids = None if owner is None else _ids(owner)
        self._clear()
        _warn_of_other_writers(self._path.parent)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            with _umask(mode):
                sock.bind(str(self._path))
            self._take_over(ids)
        except BaseException:
            sock.close()
            self.remove()
            raise
        return sock

    def remove(self) -> None:
        """Remove the file, unless another has taken its place."""
        if self._ours is not None and self._id() == self._ours:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        self._ours = None

    def _take_over(self, ids: tuple[int, int] | None) -> None:
        """Remember which file was created, and set its owner. Raises `OSError` if another is there now."""
        with _held(self._path) as held:
            found = held.stat(follow_symlinks=held != self._path)
            # Another user may have put a socket there in between. Its owner must not be changed.
            strange = ids is not None and found.st_uid != os.geteuid()
            if strange or not stat.S_ISSOCK(found.st_mode):
                raise OSError(errno.EEXIST, "another file replaced the socket")
            self._ours = found.st_dev, found.st_ino
            if ids is not None:
                os.chown(held, *ids, follow_symlinks=held != self._path)

    def _clear(self) -> None:
        """Remove a socket that is no longer used. Raises `OSError` if the file is in use or not a socket."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(errno.EEXIST, "the file exists and is not a socket")
        if _answers(self._path):
            raise OSError(errno.EADDRINUSE, "address already in use")
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _id(self) -> tuple[int, int] | None:
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _answers(path: Path) -> bool:
    """Return whether a process listens on a socket."""
    # Non-blocking: a dead socket refuses at once, and a listener with a full backlog would block.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


@contextlib.contextmanager
def _umask(mode: str | None) -> Iterator[None]:
    """Create files with a mode inside the `with`. It affects the whole process: do not await inside."""
    # Not chmod afterwards: it follows links. A user who can write to the directory could replace the socket
    # by a link, and so change the mode of another file.
    if mode is None:
        yield
        return
    before = os.umask(PERMISSIONS & ~int(mode, 8))
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[Path]:
    """Yield a path that keeps naming the file that is now at `path`; without O_PATH the path itself."""
    # Not the socket's own descriptor: fstat and fchown on it concern the socket, not its file.
    if not hasattr(os, "O_PATH"):  # macOS
        yield path
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _ids(owner: str) -> tuple[int, int]:
    user, _, group = owner.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ValueError(f"owner: {owner!r}: {error.args[0]}") from None
    return uid, gid


def _warn_of_other_writers(directory: Path) -> None:
    """Log a warning if other users may replace a directory's files. Raises `OSError` if it is missing."""
    # A warning, not an error: an emptyDir of Kubernetes is like that, and only one pod can reach it.
    found = directory.stat()
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if others or found.st_uid not in {0, os.geteuid()}:
        logger.warning(
            "%(directory)s: other users may write to this folder, and replace the UNIX socket in it",
            {"directory": str(directory)},
        )
