"""docs/command-line.md: its commands run, and its tables agree with the code."""

import json
import re
from pathlib import Path

import pytest

from sse_broadcast.cli import main
from sse_broadcast.cli.common import Exit
from sse_broadcast.server.runner import Server
from tests.support import process
from tests.support.pages import page
from tests.support.process import Programs
from tests.support.shell import bash
from tests.support.sockets import until

PAGE = page("docs/command-line.md")
BLOCKS = PAGE.blocks

programs = pytest.fixture(process.programs)


def test_every_block_has_a_test() -> None:
    here = Path(__file__).read_text()
    assert all(block.name for block in PAGE.every_block)
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in here} == set()


async def test_the_commands_run(server: Server, programs: Programs) -> None:
    """They run line by line. Those that wait for events get some."""
    shown = []
    for line in BLOCKS["commands"].code.splitlines():
        joined = server.broadcaster.counts.opened
        command = await bash(programs, line, server.port)
        if " subscribe " in line:
            await until(lambda joined=joined: server.broadcaster.counts.opened > joined)  # type: ignore[misc]
            await server.broadcaster.broadcast("one")
            await server.broadcaster.broadcast("two")
        ended = await command.ended()
        assert (ended.code, ended.err) == (0, b""), line
        shown.append(ended.out)
    assert [line["data"] for line in map(json.loads, shown[2].splitlines())] == ["one", "two"]
    assert shown[3] == b"got one\n"
    assert shown[4].startswith(b"connected clients: ")


def test_the_table_has_exactly_the_commands() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE.text, re.MULTILINE)) == sorted(main.commands)


def test_every_exit_code_is_in_the_table() -> None:
    codes = re.findall(r"^\| (\d+) \|", PAGE.section("Exit codes"), re.MULTILINE)
    assert [int(code) for code in codes] == [code.value for code in Exit]
