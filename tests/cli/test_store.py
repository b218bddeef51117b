"""`sse-broadcast store`, and the messages of `serve` about a store's file."""

import json
import re
from pathlib import Path

import pytest

from tests.support import process
from tests.support.process import Ended, Programs
from tests.support.sockets import RawClient

programs = pytest.fixture(process.programs)

LINES = b"".join(b'{"channels":["a"],"data":"%d","time":%d.0}\n' % (number, number) for number in range(5))


async def test_a_history_is_exported_and_imported(programs: Programs, tmp_path: Path) -> None:
    """Standard output has its lines and nothing else."""
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    ended = await programs.run("store", "import", str(first), stdin=LINES)
    assert ended == Ended(0, f"{first}: 5 events imported\n".encode())
    exported = await programs.run("store", "export", str(first))
    assert exported == Ended(0, LINES)
    assert (await programs.run("store", "import", str(second), stdin=exported.out)).code == 0
    assert (await programs.run("store", "export", str(second))).out == LINES
    checked = await programs.run("store", "check", str(second))
    assert re.fullmatch(
        rf"{second}: good: 5 events in 1 channel, [\d,]+ bytes, newest position 5\n".encode(), checked.out
    ), checked
    compacted = await programs.run("store", "compact", str(second))
    assert re.fullmatch(rf"{second}: [\d,]+ bytes before, [\d,]+ after\n".encode(), compacted.out), compacted


async def test_a_file_may_be_named_as_in_the_setting(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    ended = await programs.run("store", "import", f"sqlite://{path}", stdin=LINES)
    assert ended == Ended(0, f"{path}: 5 events imported\n".encode())


@pytest.mark.parametrize("command", ["check", "compact", "export"])
async def test_a_missing_file_is_one_line(programs: Programs, tmp_path: Path, command: str) -> None:
    """It has an exit code of its own."""
    path = tmp_path / "none.db"
    ended = await programs.run("store", command, str(path))
    assert ended == Ended(7, b"", f"sse-broadcast: {path}: there is no such file\n".encode())


async def test_a_bad_line_is_one_line(programs: Programs, tmp_path: Path) -> None:
    """Nothing is imported."""
    path = tmp_path / "a.db"
    ended = await programs.run("store", "import", str(path), stdin=LINES + b"x\n")
    assert (ended.code, ended.out) == (7, b"")
    assert ended.err.startswith(f"sse-broadcast: {path}: nothing was imported: line 6: ".encode())


async def test_a_server_with_a_bad_file_does_not_start(programs: Programs, tmp_path: Path) -> None:
    """One line has the file, the reason and the remedy. Nothing listens."""
    path = tmp_path / "a.db"
    path.write_text("notes\n")
    ended = await programs.run(
        "serve", "--port", "0", "--backend", f"sqlite://{path}", "--log-level", "error"
    )
    said = (
        f"sse-broadcast: {path}: is no SQLite file, or its head is damaged; restore a backup, or move it away"
        " to begin anew\n"
    )
    assert ended == Ended(7, b"", said.encode())


async def test_check_reads_the_file(programs: Programs, tmp_path: Path) -> None:
    """It does not create one. A bad file has its exit code."""
    path = tmp_path / "a.db"
    flags = ("serve", "--check", "--backend", f"sqlite://{path}", "--log-level", "error")
    ended = await programs.run(*flags)
    assert (ended.code, f"backend: good, {path}, which will be made\n".encode() in ended.out) == (0, True)
    assert not path.exists()
    await programs.run("store", "import", str(path), stdin=LINES)
    assert f"backend: good, {path}\n".encode() in (await programs.run(*flags)).out
    path.write_text("notes\n")
    assert (await programs.run(*flags)).code == 7


async def test_a_relative_path_is_refused(programs: Programs) -> None:
    """It would be another file in another folder."""
    ended = await programs.run("serve", "--backend", "sqlite://history.db")
    said = (
        "sse-broadcast: --backend: 'sqlite://history.db' is not memory, or sqlite:// and an absolute path,"
        " such as sqlite:///var/lib/history.db\n"
    )
    assert ended == Ended(2, b"", said.encode())


@pytest.mark.parametrize("killed", [True, False])
async def test_published_events_are_in_the_history_after_a_restart(
    programs: Programs, tmp_path: Path, *, killed: bool
) -> None:
    """They have the acknowledged ids, and there is no `$reset`, before the next publish and after it."""
    flags = ("--backend", f"sqlite://{tmp_path / 'a.db'}", "--log-level", "warning")
    ids: list[str] = []
    for number in range(3):
        serving = await programs.serve(*flags)
        client = await RawClient.open(serving.port)
        if ids:
            await client.subscribe(path="/events/a", headers=f"Last-Event-ID: {ids[0]}\r\n")
            assert [(event.type, event.id) for event in await client.events(number - 1)] == [
                ("message", id) for id in ids[1:]
            ]
            client.close()
            client = await RawClient.open(serving.port)
        status, body = await client.ask("POST", "/send/a", body=str(number).encode())
        assert status == 200
        ids.append(json.loads(body)["id"])
        client.close()
        if killed:
            await serving.process.kill()
        else:
            assert (await serving.stop()).code == 0
    assert len({id.partition("-")[0] for id in ids}) == 3


async def test_a_second_server_on_a_file_is_refused_by_name(programs: Programs, tmp_path: Path) -> None:
    """The first keeps running."""
    path = tmp_path / "a.db"
    flags = ("--backend", f"sqlite://{path}", "--log-level", "error")
    first = await programs.serve(*flags)
    second = await programs.run("serve", "--port", "0", *flags)
    assert second.code == 7
    assert f"{path}: is in use by process {first.process.id};".encode() in second.err
    assert b"not tried, since a server has it" in (await programs.run("serve", "--check", *flags)).out
    client = await RawClient.open(first.port)
    assert (await client.ask("POST", "/send", body=b"x"))[0] == 200
    client.close()


async def test_the_banner_has_the_file_and_the_maximum_age(programs: Programs, tmp_path: Path) -> None:
    """It is an hour by default, with a file too."""
    process_ = await programs.cli("serve", "--port", "0", "--backend", f"sqlite://{tmp_path}/a.db")
    await process_.line()
    said = await process_.line()
    assert f"a history of 1000 events and 3600 s a channel in {tmp_path}/a.db, full".encode() in said
