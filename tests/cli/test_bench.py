"""`sse-broadcast bench`."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import pytest

from sse_broadcast.cli.bench import SubscriberShare
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import faulty_server, process
from tests.support.faulty_server import FaultyServer
from tests.support.process import Ended, Programs
from tests.support.terminal import Terminal, terminals

programs = pytest.fixture(process.programs)
terminal = pytest.fixture(terminals)
faulty = pytest.fixture(faulty_server.faulty_servers)
Start = Callable[..., Awaitable[Terminal]]
StartFaulty = Callable[..., Awaitable[FaultyServer]]

SHORT = ("--subscribers", "5", "--rate", "20", "--duration", "0.5", "--drain", "2")

TOKEN = "a-token-that-is-random-0123456789"


async def test_it_starts_a_server_of_its_own(programs: Programs) -> None:
    ended = await programs.run("bench", *SHORT)
    lines = ended.out.decode().splitlines()
    assert (ended.code, ended.err) == (0, b"")
    assert lines[0].startswith("connected     5 of 5 subscribers on 1 channel in ")
    assert lines[4] == "order         0 lost, 0 repeated, 0 out of order, 0 $resets"


async def test_json_goes_to_a_file_and_to_a_pipe(server: Server, programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    ended = await programs.run("bench", server.url, *SHORT, "--json", str(file))
    assert ended.code == 0
    written = json.loads(file.read_text())
    assert written["deliveries"] == written["expected"] == 5 * written["published"]
    assert written["url"] == server.url
    ended = await programs.run("bench", server.url, *SHORT, "--json", "-")
    assert json.loads(ended.out)["connected"] == 5


async def test_a_picture_is_drawn(server: Server, programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "run.png"
    ended = await programs.run("bench", server.url, *SHORT, "--plot", str(file))
    assert ended.code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


async def test_another_server_is_measured_by_its_publish_form(
    faulty: StartFaulty, programs: Programs
) -> None:
    other = await faulty()
    ended = await programs.run(
        *("bench", f"{other.url}/sub/{{channel}}", "--publish-url", f"{other.url}/pub/{{channel}}", *SHORT),
        *("--publish-header", "X-Publish: yes", "--header", "X-Both: yes"),
    )
    assert ended.code == 0
    subscribes = [each for each in other.requests if each.startswith(b"GET /sub/bench-")]
    publishes = [each for each in other.requests if each.startswith(b"POST /pub/bench-")]
    assert len(subscribes) == 5
    assert len(publishes) == other.published
    assert all(b"X-Both: yes\r\n" in each for each in other.requests)
    assert [b"X-Publish: yes\r\n" in each for each in (subscribes[0], publishes[0])] == [False, True]


async def test_a_loss_has_an_exit_code(faulty: StartFaulty, programs: Programs) -> None:
    other = await faulty(plan=lambda number, message: [] if number == 3 else [message])
    ended = await programs.run("bench", other.url, *SHORT)
    assert ended.code == 8
    assert ended.out.decode().splitlines()[-1] == "Faults: 5 events lost."


async def test_the_token_of_the_environment_is_shown(serve: Serve, programs: Programs) -> None:
    server = await serve(token=TOKEN)
    refused = await programs.run("bench", server.url, *SHORT)
    assert refused == Ended(1, b"", f"sse-broadcast: cannot subscribe at {server.url}: status 401\n".encode())
    assert (await programs.run("bench", server.url, *SHORT, env={"SSE_BROADCAST_TOKEN": TOKEN})).code == 0


async def test_a_terminal_has_a_bar(server: Server, terminal: Start) -> None:
    shown = await terminal("bench", server.url, *SHORT)
    assert await shown.ended() == 0
    assert b"connecting" in shown.raw
    assert b"publishing" in shown.raw


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--frozen", "6", "--subscribers", "5"), "--frozen: more than --subscribers"),
        (("--frozen", "x"), "'x' is neither a number of subscribers nor a percentage such as 1%"),
        (("--publish-url", "http://x"), "--publish-url: needs the URL that subscribers ask for"),
        (("--header", "x"), "'x' is no header: write 'Name: value'"),
        (("--rate", "0"), "0.0 is not in the range 0<x<="),
    ],
)
async def test_usage_is_checked(programs: Programs, arguments: tuple[str, ...], message: str) -> None:
    ended = await programs.run("bench", *arguments, env={"COLUMNS": "200"})
    assert ended.code == 2
    assert message in " ".join(ended.err.decode().split())


def test_a_share_is_a_number_or_a_percentage() -> None:
    share = SubscriberShare()
    assert [share.convert(text, None, None) for text in ("7", "1%", "2.5%")] == [
        (7, False),
        (1, True),
        (2.5, True),
    ]
    for text in ("-1", "101%", "nan%", "%"):
        with pytest.raises(click.BadParameter):
            share.convert(text, None, None)


async def test_a_file_that_cannot_be_written_is_a_bad_setting(
    server: Server, programs: Programs, tmp_path: Path
) -> None:
    """One in no folder before the run, so that its time is not wasted."""
    ended = await programs.run("bench", "http://127.0.0.1:1", "--json", "/nowhere/at/all.json")
    assert ended == Ended(2, b"", b"sse-broadcast: /nowhere/at/all.json: /nowhere/at is no folder\n")
    ended = await programs.run("bench", server.url, *SHORT, "--json", str(tmp_path))
    assert ended.code == 2
    assert ended.err == f"sse-broadcast: --json: {tmp_path}: cannot be written: Is a directory\n".encode()


async def test_ctrl_c_ends_the_run_and_its_server(terminal: Start) -> None:
    shown = await terminal("bench", "--duration", "60")
    await shown.shows(lambda lines: any(line.startswith("publishing") for line in lines))
    shown.type(b"\x03")
    assert await shown.ended() == 130
    assert not any("Traceback" in line for line in shown.lines)
