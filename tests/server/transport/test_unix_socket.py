"""The file of a UNIX socket."""

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.server.transport.unix_socket import UnixFile
from tests.conftest import Caplog, Patch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sse.sock"


def bind(path: Path, *, mode: str | None = None, owner: str | None = None) -> tuple[UnixFile, socket.socket]:
    file = UnixFile(path)
    return file, file.bind(mode=mode, owner=owner)


@pytest.mark.parametrize("mode", ["600", "0660", "666"])
def test_the_file_has_the_configured_mode(path: Path, mode: str) -> None:
    """The mode is set before a client can connect."""
    file, sock = bind(path, mode=mode)
    assert path.stat().st_mode & 0o777 == int(mode, 8)
    with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
        early.connect(str(path))
    file.remove()
    sock.close()
    assert not path.exists()


def test_the_file_has_the_configured_owner(path: Path) -> None:
    """The owner is a name or a number, or only the group is set."""
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    for owner, expected in (
        ("12345:54321", (12345, 54321)),
        ("12345", (12345, os.getegid())),
        (":54321", (os.geteuid(), 54321)),
        ("root:root", (0, 0)),
    ):
        file, sock = bind(path, owner=owner)
        found = path.stat()
        assert (found.st_uid, found.st_gid) == expected
        file.remove()
        sock.close()


@pytest.mark.parametrize("owner", ["no-such-user-here", ":no-such-group-here"])
def test_an_unknown_owner_leaves_no_file(path: Path, owner: str) -> None:
    with pytest.raises(ValueError, match=rf"owner: '{owner}': "):
        bind(path, owner=owner)
    assert not path.exists()


def test_an_unused_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    file, sock = bind(path)
    sock.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    file.remove()
    sock.close()


@pytest.mark.parametrize("busy", [False, True])
def test_a_socket_in_use_is_left_alone(path: Path, *, busy: bool) -> None:
    """Its owner may be too busy to accept."""
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen(0)
        waiting = socket.socket(socket.AF_UNIX)
        if busy:
            waiting.connect(str(path))
        with pytest.raises(OSError, match="address already in use"):
            bind(path)
        waiting.close()
        live.accept()[0].close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """It is a file, a directory or a link to anything."""
    file, link, directory = tmp_path / "file", tmp_path / "link", tmp_path / "directory"
    file.write_text("precious")
    link.symlink_to(file)
    directory.mkdir()
    for path in (file, link, directory):
        with pytest.raises(OSError, match="the file exists and is not a socket"):
            bind(path)
    assert file.read_text() == "precious"
    assert link.is_symlink()


def test_the_socket_of_another_process_is_not_removed(path: Path) -> None:
    """It has replaced the server's own."""
    file, sock = bind(path)
    path.unlink()
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(path))
    file.remove()
    assert path.is_socket()
    other.close()
    sock.close()


def test_removing_twice_removes_once(path: Path) -> None:
    file, sock = bind(path)
    path.unlink()
    file.remove()
    file.remove()
    sock.close()


def swap_after_bind(monkeypatch: Patch, swap: Callable[[], object]) -> None:
    """Run a function right after the file is made."""
    bind = socket.socket.bind

    def bind_and_swap(self: socket.socket, address: Any) -> None:
        bind(self, address)
        swap()

    monkeypatch.setattr(socket.socket, "bind", bind_and_swap)


@pytest.mark.parametrize("how", ["link", "file"])
@pytest.mark.parametrize("owner", [None, f"{os.getuid()}:{os.getgid()}"])
def test_a_file_that_replaces_a_new_socket_is_left_alone(
    path: Path, tmp_path: Path, monkeypatch: Patch, how: str, owner: str | None
) -> None:
    """Its mode and owner do not change, and it is not removed."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    precious.chmod(0o600)

    def swap() -> None:
        path.unlink()
        if how == "link":
            path.symlink_to(precious)
        else:
            path.hardlink_to(precious)

    before = precious.stat().st_ctime_ns if how == "link" else None
    swap_after_bind(monkeypatch, swap)
    with pytest.raises(OSError, match="another file replaced the socket"):
        bind(path, mode="0666", owner=owner)
    found = precious.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert before is None or found.st_ctime_ns == before
    assert path.samefile(precious)


def test_the_mode_applies_to_the_socket_only(path: Path, tmp_path: Path) -> None:
    """Files made later have the usual mode."""
    (tmp_path / "before").touch()
    _, sock = bind(path, mode="0600")
    (tmp_path / "after").touch()
    sock.close()
    assert (tmp_path / "after").stat().st_mode == (tmp_path / "before").stat().st_mode


@pytest.mark.parametrize(("mode", "warned"), [(0o755, False), (0o1777, False), (0o775, True), (0o777, True)])
def test_a_directory_writable_by_others_is_warned_of(
    tmp_path: Path, caplog: Caplog, mode: int, *, warned: bool
) -> None:
    """A sticky bit, as on /tmp, makes it safe."""
    directory = tmp_path / "directory"
    directory.mkdir()
    directory.chmod(mode)
    with caplog.at_level(logging.WARNING):
        file, sock = bind(directory / "sse.sock")
    with contextlib.closing(sock):
        file.remove()
    expected = f"{directory}: other users may write to this folder, and replace"
    assert caplog.messages == ([f"{expected} the UNIX socket in it"] if warned else [])
