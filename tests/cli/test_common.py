"""What every command does: its help, its exit codes, and how it tells an error."""

import asyncio
import re
import socket

import pytest

from sse_broadcast.cli import main
from sse_broadcast.cli.common import Exit, default_url, exit_for, fail, run
from sse_broadcast.config import SETTINGS
from sse_broadcast.errors import (
    BroadcastError,
    CertificateError,
    ClientError,
    ClosedError,
    ConfigError,
    EventError,
    ListenError,
)
from tests.conftest import Serve
from tests.support import process
from tests.support.process import Ended, Programs

programs = pytest.fixture(process.programs)

COMMANDS = sorted(main.commands)

USES = [("publish", "x"), ("subscribe",), ("status",)]
"""Of each command that talks to a server."""


def test_the_commands_are_these() -> None:
    """A new command needs its tests, and its place in the README."""
    assert COMMANDS == ["publish", "serve", "status", "subscribe"]


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_has_help_with_examples_and_exit_codes(
    programs: Programs, command: str, flag: str
) -> None:
    """Help is not an error: it is said on standard output."""
    ended = await programs.run(command, flag)
    assert (ended.code, ended.err) == (0, b"")
    assert f"Usage: sse-broadcast {command} [OPTIONS]".encode() in ended.out
    assert f"\n  Examples:\n    sse-broadcast {command}".encode() in ended.out
    assert b"\n  Exit codes: 0 " in ended.out
    assert b"; 2 bad usage" in b" ".join(ended.out.split())


async def test_the_help_of_all_has_examples_and_every_exit_code(programs: Programs) -> None:
    """Whoever types the bare command is shown three terminals to try, and the table of exit codes."""
    ended = await programs.run("--help")
    assert (ended.code, ended.err) == (0, b"")
    words = " ".join(ended.out.decode().split())
    for example in ("serve", "subscribe", "publish hello"):
        assert re.search(rf"^    sse-broadcast {example}(   .*)?$", ended.out.decode(), re.MULTILINE)
    codes = words.partition("Exit codes: ")[2]
    assert [int(code) for code in re.findall(r"\d+", codes)] == list(Exit)


async def test_the_help_of_serve_has_every_setting_as_it_was_declared(programs: Programs) -> None:
    """Abbreviations keep their capitals."""
    words = " ".join((await programs.run("serve", "--help", env={"COLUMNS": "100"})).out.decode().split())
    for setting in SETTINGS.values():
        assert f"{setting.flag} VALUE {setting.help[0].upper()}{setting.help[1:]}. [default: " in words


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BroadcastError("x"), 1),
        (ClientError("x"), 1),
        (ClosedError("x"), 1),
        (EventError("event", "x"), 1),
        (ConfigError("x"), 2),
        (ListenError("x"), 3),
        (CertificateError("x"), 4),
    ],
)
def test_the_exit_code_says_which_kind_of_error_it_was(error: BroadcastError, code: int) -> None:
    """A script can tell a server that is not there from a setting that is wrong."""
    assert exit_for(error) == code


def test_an_error_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It begins with the program's name, as in any shell's pipeline."""
    with pytest.raises(SystemExit) as caught:
        fail(ListenError("cannot listen"))
    assert caught.value.code == 3
    assert capsys.readouterr() == ("", "sse-broadcast: cannot listen\n")


def test_run_gives_what_the_coroutine_gives() -> None:
    """A command that went well goes on."""

    async def answer() -> int:
        return 42

    assert run(answer) == 42


def test_run_tells_an_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback for what has a name."""

    async def refused() -> None:
        raise ClientError("refused", status=403)

    with pytest.raises(SystemExit) as caught:
        run(refused)
    assert caught.value.code == 1
    assert capsys.readouterr() == ("", "sse-broadcast: refused\n")


def test_run_hides_nobody_else_s_error() -> None:
    """A fault of the program is not dressed up as an error of its user."""

    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(broken)


@pytest.mark.parametrize(
    ("port", "url"),
    [
        ("9000", "http://127.0.0.1:9000"),
        ("tcp://10.0.0.1:80", "http://127.0.0.1:8000"),
        ("", "http://127.0.0.1:8000"),
    ],
)
def test_the_default_url_is_of_a_server_with_this_environment(
    monkeypatch: pytest.MonkeyPatch, port: str, url: str
) -> None:
    """Inside a container every command finds the server beside it; a Kubernetes service link is no port."""
    monkeypatch.setenv("SSE_BROADCAST_PORT", port)
    assert default_url() == url
    monkeypatch.delenv("SSE_BROADCAST_PORT")
    assert default_url() == "http://127.0.0.1:8000"


async def test_the_server_s_port_may_be_its_own_variable(serve: Serve, programs: Programs) -> None:
    """SSE_BROADCAST_PORT is the server's setting, and where commands look for it; SSE_BROADCAST_URL wins."""
    server = await serve()
    env = {"SSE_BROADCAST_PORT": str(server.port)}
    assert (await programs.run("status", env=env)).code == 0
    env = {"SSE_BROADCAST_PORT": "1", "SSE_BROADCAST_URL": server.url}
    assert (await programs.run("status", env=env)).code == 0


@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_no_server_is_one_line(programs: Programs, use: tuple[str, ...]) -> None:
    """A command whose server is not there says so and exits with 1."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        ended = await programs.run(*use, "--url", url)
    assert (ended.code, ended.out) == (1, b"")
    # The reason is in aiohttp's words.
    assert re.fullmatch(f"sse-broadcast: cannot reach {url}: .+\n".encode(), ended.err)


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1", "http://[::bad"])
@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_a_url_that_is_none_is_said_so(programs: Programs, use: tuple[str, ...], url: str) -> None:
    """A URL that leads nowhere is bad usage, and is not tried."""
    ended = await programs.run(*use, "--url", url)
    assert (ended.code, ended.out) == (2, b"")
    # click says where the value may have come from.
    *_, told = ended.err.decode().splitlines()
    assert told.startswith("Error: Invalid value for '--url'")
    assert told.endswith(f": {url!r} is no http:// or https:// address")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://a..b", f"http://{'x' * 64}.invalid"])
@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_a_url_that_nobody_can_have_is_one_line(
    programs: Programs, use: tuple[str, ...], url: str
) -> None:
    """No port is that high, and no host has an empty label or one of more than 63 letters."""
    ended = await programs.run(*use, "--url", url)
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(f"sse-broadcast: cannot reach {url}: .+\n".encode(), ended.err)


@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_a_server_of_another_protocol_is_one_line(programs: Programs, use: tuple[str, ...]) -> None:
    """What does not speak HTTP is told without a traceback, however it answers."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\x1b[2Jlook\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ended = await programs.run(*use, "--url", url)
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(f"sse-broadcast: cannot reach {url}: [ -~]+\n".encode(), ended.err)


@pytest.mark.parametrize("command", COMMANDS)
async def test_bad_usage_is_2(programs: Programs, command: str) -> None:
    """An option that is none is told with the usage."""
    assert await programs.run(command, "--unheard-of") == Ended(
        2,
        err=f"Usage: sse-broadcast {command} [OPTIONS]{' [MESSAGE]' if command == 'publish' else ''}\n"
        f"Try 'sse-broadcast {command} --help' for help.\n\n"
        "Error: No such option '--unheard-of'.\n".encode(),
    )
