"""The file of a UNIX socket: made with its mode and owner, and removed if it is still ours."""

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from pathlib import Path


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
        `user`, `user:group` or `:group`. Raises `OSError` and `ValueError`.
        """
        self._clear()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(str(self._path))
            self._ours = self._id()
            if owner is not None:
                _give(self._path, owner)
            if mode is not None:
                self._path.chmod(int(mode, 8))
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


def _give(path: Path, owner: str) -> None:
    user, _, group = owner.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ValueError(f"owner: {owner!r}: {error.args[0]}") from None
    os.chown(path, uid, gid)
