"""docs/backends.md: its examples run."""

import asyncio
import contextlib
import signal
import sqlite3
import sysconfig
from pathlib import Path

import pytest

from tests.support import process
from tests.support.pages import page
from tests.support.process import Programs
from tests.support.sockets import PATIENCE, RawClient

BLOCKS = page("docs/backends.md").blocks

FOLDER = "/var/lib/sse-broadcast"

programs = pytest.fixture(process.programs)


def lines(name: str, folder: Path) -> list[str]:
    """Return the lines of a block, with the test's own folder."""
    text = BLOCKS[name].code.replace(FOLDER, str(folder)).replace("/backup", str(folder))
    return [line.partition("#")[0].strip() for line in text.splitlines()]


async def test_a_server_with_a_file_starts(programs: Programs, tmp_path: Path) -> None:
    (line,) = lines("serve", tmp_path)
    program, command, *flags = line.split()
    assert (program, command) == ("sse-broadcast", "serve")
    serving = await programs.serve(*flags, "--log-level", "warning")
    assert (tmp_path / "history.db").exists()
    assert (await serving.stop()).code == 0


async def test_a_file_is_maintained(programs: Programs, tmp_path: Path) -> None:
    """The lines run one by one: an exported history is imported."""
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
    """A server has the file open. The backup is complete."""
    (flags,) = lines("serve", tmp_path)
    serving = await programs.serve(*flags.split()[2:], "--log-level", "warning")
    (tmp_path / "backup").mkdir()
    (statement,) = BLOCKS["backup"].code.replace("/backup", str(tmp_path / "backup")).splitlines()
    db = sqlite3.connect(tmp_path / "history.db")
    db.execute(statement)
    db.close()
    assert (await serving.stop()).code == 0
    assert (await programs.run("store", "check", str(tmp_path / "backup" / "history.db"))).code == 0


LITESTREAM = Path(sysconfig.get_path("scripts")) / "litestream"


async def test_litestream_copies_and_restores_the_file(programs: Programs, tmp_path: Path) -> None:
    """The server is killed, and another one serves the restored history."""
    file, copy, config = tmp_path / "history.db", tmp_path / "history", tmp_path / "litestream.yml"
    config.write_text(
        BLOCKS["litestream"].code.replace(FOLDER, str(tmp_path)).replace("/backup", str(tmp_path))
    )
    serving = await programs.serve("--backend", f"sqlite://{file}", "--log-level", "warning")
    publisher = await RawClient.open(serving.port)
    for number in range(20):
        assert (await publisher.ask("POST", "/send", body=b"%d" % number))[0] == 200
    publisher.close()
    await run_litestream("replicate", "-config", str(config), "-once")
    serving.process.send_signal(signal.SIGKILL)
    await serving.process.ended()
    assert copy.is_dir()
    restored = tmp_path / "restored.db"
    await run_litestream("restore", "-config", str(config), "-o", str(restored), str(file))
    exported = await programs.run("store", "export", str(restored))
    assert [line.partition(b'"data":"')[2].partition(b'"')[0] for line in exported.out.splitlines()] == [
        b"%d" % number for number in range(20)
    ]


async def run_litestream(*arguments: str) -> None:
    """Run Litestream to its end, and fail if it does."""
    running = await asyncio.create_subprocess_exec(LITESTREAM, *arguments)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await running.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()
