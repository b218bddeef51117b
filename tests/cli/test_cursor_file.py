"""Cursor file: where a subscription keeps its last id."""

import os
from pathlib import Path

import pytest

from sse_broadcast.cli.cursor_file import CursorFile
from sse_broadcast.errors import ClientError, ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_an_id_is_read_when_the_file_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "state"
    state = CursorFile.open(file)
    assert state.id == ""
    assert list(tmp_path.iterdir()) == []
    state.record("0a1b2c3d-1")
    state.record("order-17")
    assert file.read_bytes() == b"order-17\n"
    assert CursorFile.open(file).id == "order-17"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["x", "x\n", "A.b_c-9\n", "x" * 128])
def test_an_id_may_be_written_by_hand(file: Path, text: str) -> None:
    file.write_text(text)
    assert CursorFile.open(file).id == text.removesuffix("\n")


@pytest.mark.parametrize("text", ["", "\n", "a b", " a", "a\n\n", "a\nb", "x" * 129, "é", '{"a": 1}', "a\0"])
def test_a_file_without_an_id_is_refused_and_kept(file: Path, text: str) -> None:
    """Most likely the path is wrong. An empty file has no cursor."""
    file.write_bytes(text.encode())
    with pytest.raises(ConfigError, match=r"^--state: .*/state: does not hold an event id: '"):
        CursorFile.open(file)
    assert file.read_bytes() == text.encode()


def test_bytes_that_are_not_utf8_are_refused(file: Path) -> None:
    file.write_bytes(b"\x1b[2J\xff")
    with pytest.raises(ConfigError, match=r": does not hold an event id: '\\x1b\[2J\\ufffd'$"):
        CursorFile.open(file)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ConfigError, match=f"^--state: {path}: is not a file$"):
            CursorFile.open(path)


def test_a_file_that_cannot_be_written_is_refused_on_opening(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match=r"^--state: .*/none/state: No such file or directory$"):
        CursorFile.open(tmp_path / "none" / "state")
    with pytest.raises(ConfigError, match=r"^--state: .*/file/state: Not a directory$"):
        CursorFile.open(file / "state")


def test_a_failing_write_is_an_error(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    state = CursorFile.open(place / "state")
    state.record("one")
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"/state: cannot be written: No such file or directory$"):
        state.record("two")
    assert (tmp_path / "elsewhere" / "state").read_text() == "one\n"


def test_an_unchanged_id_is_not_written_again(file: Path) -> None:
    state = CursorFile.open(file)
    state.record("")
    assert not file.exists()
    state.record("one")
    file.unlink()
    state.record("one")
    state.record("")
    assert not file.exists()


@pytest.mark.parametrize("id", ["a b", "é", "a\nb", "x" * 129])
def test_an_id_that_could_not_be_read_back_is_not_written(tmp_path: Path, id: str) -> None:
    state = CursorFile.open(tmp_path / "state")
    with pytest.raises(ClientError, match="cannot be sent back as Last-Event-ID"):
        state.record(id)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_replaced_as_a_whole(file: Path) -> None:
    """A process that has it open still reads the old id."""
    state = CursorFile.open(file)
    state.record("one")
    with file.open() as before:
        state.record("a-longer-one")
        assert before.read() == "one\n"


def test_files_left_by_a_killed_process_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("one\n")
    (tmp_path / "state.next").write_text("tw")
    state = CursorFile.open(tmp_path / "state")
    assert state.id == "one"
    state.record("two")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("state", "two\n")]


def test_a_symbolic_link_is_kept(tmp_path: Path) -> None:
    """The file it points to is replaced, or created."""
    target, link = tmp_path / "there", tmp_path / "link"
    link.symlink_to(target)
    for id in ("one", "two"):
        CursorFile.open(link).record(id)
        assert link.is_symlink()
        assert target.read_text() == f"{id}\n"


def test_a_symbolic_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    """Another user may have put it into /tmp, to have another file overwritten."""
    precious, link = tmp_path / "precious", tmp_path / "state.next"
    precious.write_text("precious")
    link.symlink_to(precious)
    state = CursorFile.open(tmp_path / "state")
    assert precious.read_text() == "precious"
    link.symlink_to(precious)
    state.record("a-1")
    assert precious.read_text() == "precious"
    assert (tmp_path / "state").read_text() == "a-1\n"
    assert not (tmp_path / "state").is_symlink()
