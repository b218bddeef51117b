"""`sse-broadcast doctor`."""

import json
from collections.abc import Awaitable, Callable

import pytest

from sse_broadcast.cli.doctor import report_lines
from sse_broadcast.doctor.examination import Report
from sse_broadcast.doctor.findings import Fault, Finding, Level, ok
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import process
from tests.support.process import Ended, Programs
from tests.support.terminal import Terminal, terminals

programs = pytest.fixture(process.programs)
terminal = pytest.fixture(terminals)
Start = Callable[..., Awaitable[Terminal]]

TOKEN = "a-token-that-is-random-0123456789"

REPORT = Report(
    "http://x",
    (),
    (
        ok("clock", "within 1 s of this one"),
        Finding("cache", Level.FAULT, "age: 7", "a cache answers", "leave /events out of it", Fault.CACHE),
    ),
)


def test_people_get_a_line_each_and_the_cure() -> None:
    assert list(report_lines(REPORT)) == [
        "ok       clock  within 1 s of this one",
        "fault    cache  age: 7",
        "         means: a cache answers",
        "         cure: leave /events out of it",
        "1 fault found at http://x",
    ]


async def test_a_healthy_server_has_exit_code_0(server: Server, programs: Programs) -> None:
    ended = await programs.run("doctor", server.url)
    lines = ended.out.decode().splitlines()
    assert (ended.code, ended.err) == (0, b"")
    assert lines[-1] == f"0 faults found at {server.url}"
    assert sum(not line.startswith(" ") for line in lines) == 17


async def test_a_fault_has_exit_code_8_and_programs_its_name(serve: Serve, programs: Programs) -> None:
    server = await serve(token=TOKEN)
    ended = await programs.run("doctor", server.url, "--json")
    report = json.loads(ended.out)
    assert ended.code == 8
    assert report["faults"] == ["refused"]
    (fault,) = [each for each in report["findings"] if each["level"] == "fault"]
    assert (fault["probe"], fault["seen"]) == ("answer", "status 401")
    assert fault["cure"].startswith("a token that may subscribe and publish")


async def test_the_token_of_the_environment_is_shown(serve: Serve, programs: Programs) -> None:
    server = await serve(token=TOKEN, history_size=0)
    ended = await programs.run("doctor", server.url, "--json", env={"SSE_BROADCAST_TOKEN": TOKEN})
    assert json.loads(ended.out)["faults"] == ["no history"]


async def test_a_terminal_is_told_how_far_it_is(serve: Serve, terminal: Start) -> None:
    server = await serve(token=TOKEN)
    shown = await terminal("doctor", server.url)
    assert await shown.ended() == 8
    assert b"examined: redirect" in shown.raw
    assert shown.lines[0].startswith("note     HTTP version  HTTP/1.1: ")


async def test_nothing_answers(programs: Programs) -> None:
    ended = await programs.run("doctor", "http://127.0.0.1:1")
    assert ended == Ended(1, b"", b"sse-broadcast: cannot reach http://127.0.0.1:1: refused\n")


@pytest.mark.parametrize("url", ["push.example.com", "unix:/run/x", "ftp://x"])
async def test_an_address_is_needed(programs: Programs, url: str) -> None:
    ended = await programs.run("doctor", url)
    assert ended.code == 2
    assert f"'{url}' is no http:// or https:// address" in " ".join(ended.err.decode().split())


async def test_ctrl_c_ends_the_examination(server: Server, terminal: Start) -> None:
    shown = await terminal("doctor", server.url)
    await shown.shows(lambda lines: any("examined: " in line for line in lines))
    shown.type(b"\x03")
    assert await shown.ended() == 130
    assert not any("Traceback" in line for line in shown.lines)
