"""docs/backends.md: what it shows can be run."""

import sqlite3
from pathlib import Path

import pytest

from tests.support import process
from tests.support.pages import page
from tests.support.process import Programs

BLOCKS = page("docs/backends.md").blocks

FOLDER = "/var/lib/sse-broadcast"

programs = pytest.fixture(process.programs)


def lines(name: str, folder: Path) -> list[str]:
    """Return the lines of a block, about a folder of the test's own."""
    text = BLOCKS[name].code.replace(FOLDER, str(folder)).replace("/backup", str(folder))
    return [line.partition("#")[0].strip() for line in text.splitlines()]


async def test_a_server_with_a_file_starts(programs: Programs, tmp_path: Path) -> None:
    """As the page has it."""
    (line,) = lines("serve", tmp_path)
    program, command, *flags = line.split()
    assert (program, command) == ("sse-broadcast", "serve")
    serving = await programs.serve(*flags, "--log-level", "warning")
    assert (tmp_path / "history.db").exists()
    assert (await serving.stop()).code == 0


async def test_a_file_is_looked_after(programs: Programs, tmp_path: Path) -> None:
    """Line by line: what is exported is imported."""
    first = b'{"channels":["a"],"data":"x","time":1.0}\n'
    assert (await programs.run("store", "import", str(tmp_path / "history.db"), stdin=first)).code == 0
    exported = b""
    for line in lines("lookafter", tmp_path):
        _, *words = line.partition(" > ")[0].partition(" < ")[0].split()
        ended = await programs.run(*words, stdin=exported)
        assert (ended.code, ended.err) == (0, b""), line
        exported = ended.out if " > " in line else exported
    assert (await programs.run("store", "export", str(tmp_path / "new.db"))).out == exported == first


async def test_a_backup_is_made(programs: Programs, tmp_path: Path) -> None:
    """Of a file that a server has, and it is good."""
    (flags,) = lines("serve", tmp_path)
    serving = await programs.serve(*flags.split()[2:], "--log-level", "warning")
    (tmp_path / "backup").mkdir()
    (statement,) = BLOCKS["backup"].code.replace("/backup", str(tmp_path / "backup")).splitlines()
    db = sqlite3.connect(tmp_path / "history.db")
    db.execute(statement)
    db.close()
    assert (await serving.stop()).code == 0
    assert (await programs.run("store", "check", str(tmp_path / "backup" / "history.db"))).code == 0
