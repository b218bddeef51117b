"""docs/configuration.md: its files load with the described meaning."""

import json
from pathlib import Path

import pytest

from sse_broadcast.config.sources import load
from tests.conftest import Program, Serve
from tests.support import process
from tests.support.pages import page
from tests.support.process import Programs
from tests.support.shell import bash

PAGE = page("docs/configuration.md")
BLOCKS = PAGE.blocks

programs = pytest.fixture(process.programs)


def test_every_block_has_a_test() -> None:
    here = Path(__file__).read_text()
    run_elsewhere = {"callers"}  # test_http_api_page runs it with the requests that it permits.
    assert all(block.name for block in PAGE.every_block)
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in here} == run_elsewhere


def test_the_configuration_loads(tmp_path: Path) -> None:
    """The settings are those described."""
    file = tmp_path / "config.toml"
    file.write_text(BLOCKS["configuration"].code)
    config = load({}, environ={}, file=file).config
    assert (config.port, config.queue_size, config.overflow) == (9000, 200, "drop-oldest")


def test_the_rules_load(tmp_path: Path) -> None:
    """The settings are those described."""
    file = tmp_path / "config.toml"
    file.write_text(BLOCKS["rules"].code)
    (rule,) = load({}, environ={}, file=file).config.channel
    assert (rule.match, rule.history_size, rule.overflow) == ("prices.*", 1, "conflate")


async def test_publishing_has_its_own_unix_socket(
    serve: Serve, programs: Programs, program: Program, tmp_path: Path
) -> None:
    """The port has streams only, the socket all endpoints."""
    program("curl")
    path = tmp_path / "socket"
    code = BLOCKS["listeners"].code.replace("/tmp/sse-broadcast.sock", str(path)).replace("8000", "0")
    (tmp_path / "config.toml").write_text(code)
    server = await serve(listener=load({}, environ={}, file=tmp_path / "config.toml").config.listener)
    private = BLOCKS["private"].code.replace("/tmp/sse-broadcast.sock", str(path))
    published = await (await bash(programs, private, server.port)).ended()
    assert published.out.startswith(b'{"status":"sent"')
    public = await bash(programs, f"curl -s -d x 127.0.0.1:{server.port}/send", server.port)
    assert json.loads((await public.ended()).out)["status"] == 404
