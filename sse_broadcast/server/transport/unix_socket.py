"""The file of a UNIX socket: made with its mode and owner, and removed if it is still ours."""

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
"""All that a mode of a socket may have; the kernel takes the umask off it when the file is made."""


class UnixFile:
    """The file through which a UNIX socket is reached.

    It must be removed before the socket is closed: until then no other file can have its inode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ours: tuple[int, int] | None = None

    def bind(self, *, mode: str | None, owner: str | None) -> socket.socket:
        """Make the file, and give the socket behind it, to which nobody can connect before it listens.

        A socket that nobody listens on any more is replaced. `mode` is in octal digits, `owner` as
        `user`, `user:group` or `:group`. Nothing but the new file is changed, whatever takes its place
        meanwhile. Raises `OSError` and `ValueError`.
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
        """Note which file was made, and give it to its owner. Raises `OSError` if another is there now."""
        with _held(self._path) as held:
            found = held.stat(follow_symlinks=held != self._path)
            # Another user's socket may stand there as well, and must not be given away.
            strange = ids is not None and found.st_uid != os.geteuid()
            if strange or not stat.S_ISSOCK(found.st_mode):
                raise OSError(errno.EEXIST, "another file has taken the place of the socket")
            self._ours = found.st_dev, found.st_ino
            if ids is not None:
                os.chown(held, *ids, follow_symlinks=held != self._path)

    def _clear(self) -> None:
        """Make way for a new socket. Raises `OSError` if something is there that is needed."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(errno.EEXIST, "a file is there that is no socket")
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
    """Whether somebody listens on a socket: a dead one refuses, a busy one would have us wait."""
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
    """Create files with a mode inside the `with`. It holds for the whole process: await nothing there."""
    # And not chmod behind it, which follows a link: whoever can write to the directory could put one in
    # the place of the socket, and have the mode of another file changed.
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
    """Yield a path that keeps naming the file that is at a path now; the path itself without O_PATH.

    A descriptor of the socket will not do: what it tells, and what fchown changes, is not the file.
    """
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
    """Log that others may replace the files of a directory. Raises `OSError` if there is none.

    A warning and no refusal: an emptyDir of Kubernetes is like that, and shared by one pod alone.
    """
    found = directory.stat()
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if others or found.st_uid not in {0, os.geteuid()}:
        logger.warning(
            "%(directory)s: others than the server's user may write to it, and replace the UNIX socket there",
            {"directory": str(directory)},
        )
