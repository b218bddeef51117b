"""docs/cli.md: its commands run, and what it shows is what the commands say."""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest

from sse_broadcast.doctor.cures import cure_for
from sse_broadcast.doctor.examination import ExaminationRequest, examine
from sse_broadcast.doctor.findings import Fault
from sse_broadcast.doctor.proxy_marks import Proxy
from sse_broadcast.server.runner import Server
from tests.support import faulty_server, process
from tests.support.faulty_server import FaultyServer
from tests.support.pages import page
from tests.support.process import Programs
from tests.support.shell import bash

PAGE = page("docs/cli.md")

BLOCKS = PAGE.blocks

programs = pytest.fixture(process.programs)
faulty = pytest.fixture(faulty_server.faulty_servers)
StartFaulty = Callable[..., Awaitable[FaultyServer]]


def test_no_block_is_left_out() -> None:
    """Each is run below, or compared with what the commands say."""
    here = Path(__file__).read_text()
    assert all(block.name for block in PAGE.every_block)
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in here} == set()


async def test_a_server_is_measured(server: Server, programs: Programs, tmp_path: Path) -> None:
    code = BLOCKS["bench"].code.replace("http://127.0.0.1:8000", server.url)
    measuring = await bash(programs, code, server.port, folder=tmp_path)
    ended = await measuring.ended()
    assert (ended.code, ended.err) == (0, b"")
    assert json.loads((tmp_path / "result.json").read_text())["connected"] == 20
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


async def test_a_server_is_examined(server: Server, programs: Programs) -> None:
    code = BLOCKS["doctor"].code.replace("http://127.0.0.1:8000", server.url)
    ended = await (await bash(programs, code, server.port)).ended()
    assert (ended.code, ended.err) == (0, b"")
    assert ended.out.endswith(f"1 fault found at {server.url}\na fault: exit code 8\n".encode())


async def test_completion_is_installed(server: Server, programs: Programs, tmp_path: Path) -> None:
    installing = await bash(programs, BLOCKS["completion"].code, server.port, env={"HOME": str(tmp_path)})
    assert (await installing.ended()).code == 0
    installed = tmp_path / ".local/share/bash-completion/completions/sse-broadcast"
    assert b"_SSE_BROADCAST_COMPLETE=bash_complete" in installed.read_bytes()


async def test_every_probe_is_in_the_table(server: Server) -> None:
    """And those that only some addresses have."""
    report = await examine(ExaminationRequest(server.url, silence=0.1))
    found = {finding.probe for finding in report.findings} - {"proxies"}
    table = set(
        re.findall(r"^\| ([\w -]+) \| ", PAGE.section("Find what is wrong: doctor"), re.MULTILINE)
    ) - {"probe"}
    assert table == found | {"certificate"}


def test_the_faults_that_are_shown_have_their_cures() -> None:
    """Those that the command gives for nginx."""
    shown = " ".join(BLOCKS["faults"].code.split())
    for fault in (Fault.COMPRESSION, Fault.IDLE):
        assert f"cure: {cure_for(fault, (Proxy.NGINX,))}" in shown
    assert shown.endswith("2 faults found at https://push.example.com")


def test_the_recording_shows_each_command_and_its_mistakes() -> None:
    recording = BLOCKS["recording"].code
    for shown in (
        "hint: nothing listens there",
        "hint: another program listens there",
        "Did you mean 'publish'?",
        "Put quotes around the message",
        "waiting for events on news, orders.*",
        "0 faults found at http://127.0.0.1:8000",
        "(exit code 130)",
    ):
        assert shown in recording, shown


async def test_other_servers_are_measured(faulty: StartFaulty, programs: Programs) -> None:
    """Ones that are published to as Mercure and nchan are."""

    def plan(_: int, body: bytes) -> Sequence[bytes]:
        return [unquote(body.rpartition(b"data=")[2].decode()).encode()]

    other = await faulty(plan=plan)
    code = BLOCKS["mercure"].code.replace("http://localhost", other.url)
    code = code.replace("sse-broadcast bench", "sse-broadcast bench --duration 0.5 --subscribers 5")
    ended = await (await bash(programs, code, 1, env={"JWT": "x.y.z"})).ended()
    assert (ended.code, ended.err) == (0, b"")
    assert ended.out.count(b"0 lost, 0 repeated, 0 out of order") == 2
    assert any(b"Authorization: Bearer x.y.z\r\n" in request for request in other.requests)
