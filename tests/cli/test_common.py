"""Rules for all commands: help, exit codes and errors."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sse_broadcast.cli import main
from sse_broadcast.cli.common import Exit, default_url, exit_for, fail, given_token, hint_for, run_client
from sse_broadcast.config.schema import CallerRule, Endpoint
from sse_broadcast.config.sources import ENV_PREFIX, SETTINGS
from sse_broadcast.errors import (
    BroadcastError,
    CertificateError,
    ClientError,
    ClosedError,
    ConfigError,
    EventError,
    ListenError,
    OutputError,
)
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import process
from tests.support.acceptor import accepting
from tests.support.process import Ended, Programs
from tests.support.raising import exactly
from tests.support.terminal import Terminal, terminals

programs = pytest.fixture(process.programs)
terminal = pytest.fixture(terminals)

Start = Callable[..., Awaitable[Terminal]]

COMMANDS = sorted(main.commands)

USES = [("publish", "x"), ("subscribe",), ("status",), ("disconnect", "1"), ("reload",), ("health",)]
"""Arguments of each command that sends a request."""

TOKEN = "a-token-of-somebody"


def test_the_list_of_commands() -> None:
    """A new command needs tests, and its section in docs/command-line.md."""
    assert COMMANDS == [
        "bench",
        "completion",
        "disconnect",
        "doctor",
        "health",
        "publish",
        "reload",
        "serve",
        "status",
        "store",
        "subscribe",
        "token",
    ]


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [*COMMANDS, "token mint", "token check"])
async def test_every_command_has_help_with_examples_and_exit_codes(
    programs: Programs, command: str, flag: str
) -> None:
    """Help is no error: it is printed on standard output."""
    ended = await programs.run(*command.split(), flag)
    assert (ended.code, ended.err) == (0, b"")
    assert f"Usage: sse-broadcast {command} [OPTIONS]".encode() in ended.out
    assert re.search(rf"\n  Examples:\n    (\w+=\.\.\. )?sse-broadcast {command}".encode(), ended.out)
    assert b"\n  Exit codes: 0 " in ended.out
    assert b"; 2 bad usage" in b" ".join(ended.out.split())


async def test_the_main_help_has_examples_and_every_exit_code(programs: Programs) -> None:
    """The bare command prints three terminals to try, and the table of exit codes."""
    ended = await programs.run("--help")
    assert (ended.code, ended.err) == (0, b"")
    words = " ".join(ended.out.decode().split())
    for example in ("serve", "subscribe", "publish hello"):
        assert re.search(rf"^    sse-broadcast {example}(   .*)?$", ended.out.decode(), re.MULTILINE)
    codes = words.partition("Exit codes: ")[2]
    assert [int(code) for code in re.findall(r"\d+", codes)] == list(Exit)


async def test_the_help_of_serve_has_every_setting_with_its_declared_text(programs: Programs) -> None:
    """Abbreviations keep their capitals. Secrets have no flag."""
    words = " ".join((await programs.run("serve", "--help", env={"COLUMNS": "100"})).out.decode().split())
    for setting in SETTINGS.values():
        sentence = f"{setting.help[0].upper()}{setting.help[1:]}."
        if setting.secret:
            assert f" {setting.flag} " not in words
            assert f" {setting.variable} ({setting.name})" in words.partition(" Secrets have no flag")[2]
        elif setting.switch:
            assert f" {setting.flag} {sentence} " in words
        elif setting.several:
            assert re.search(rf" {setting.flag} [A-Z]+,\.\.\. {re.escape(sentence)} ", words), setting.flag
        else:
            shown = {"": "none", "True": "true"}.get(str(setting.default), setting.default)
            told = re.escape(f"{sentence} [default: {shown}] ")
            assert re.search(rf" {setting.flag} \S+ {told}", words), setting.flag


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
        (OutputError("x"), 6),
    ],
)
def test_the_exit_code_tells_the_kind_of_error(error: BroadcastError, code: int) -> None:
    """A script can tell a server that does not respond from a bad setting."""
    assert exit_for(error) == code


def test_an_error_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It begins with the program's name, for pipelines of several."""
    with pytest.raises(SystemExit) as caught:
        fail(ListenError("cannot listen"))
    assert caught.value.code == 3
    assert capsys.readouterr() == ("", "sse-broadcast: cannot listen\n")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            ClientError("cannot reach http://x: refused"),
            "hint: nothing listens there: run sse-broadcast serve",
        ),
        (
            ListenError("cannot listen on http://x: address already in use"),
            "hint: another program listens there",
        ),
        (ListenError("cannot listen on http://x: permission denied"), ""),
        (ClientError("http://x: 403 Forbidden: refused", status=403), ""),
    ],
)
def test_some_errors_have_a_hint(error: BroadcastError, hint: str) -> None:
    assert hint_for(error).startswith(hint)
    assert bool(hint_for(error)) is bool(hint)


async def test_a_hint_is_for_people(terminal: Start, programs: Programs) -> None:
    """A second line on a terminal; what a program reads stays one line."""
    shown = await terminal("status", "--url", "http://127.0.0.1:1")
    assert await shown.ended() == 1
    assert shown.lines[:2] == [
        "sse-broadcast: cannot reach http://127.0.0.1:1: refused",
        f"sse-broadcast: {hint_for(ClientError('cannot reach http://x: refused'))}"[:100],
    ]
    read = await programs.run("status", "--url", "http://127.0.0.1:1")
    assert read.err == b"sse-broadcast: cannot reach http://127.0.0.1:1: refused\n"


def test_run_returns_the_result_of_the_coroutine() -> None:
    async def answer() -> int:
        return 42

    assert run_client(answer) == 42


def test_run_reports_an_error_of_this_package(capsys: pytest.CaptureFixture[str]) -> None:
    async def refused() -> None:
        raise ClientError("refused", status=403)

    with pytest.raises(SystemExit) as caught:
        run_client(refused)
    assert caught.value.code == 1
    assert capsys.readouterr() == ("", "sse-broadcast: refused\n")


def test_run_does_not_catch_other_errors() -> None:
    """A bug must not look like a mistake of the user."""

    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_client(broken)


def settled(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], endpoint: Endpoint | None = None
) -> str:
    """Return the default URL of commands with this environment."""
    for name in ("config", *SETTINGS):
        monkeypatch.delenv(f"{ENV_PREFIX}{name.upper()}", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{name}", value)
    return default_url(endpoint)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"PORT": "tcp://10.0.0.1:80"}, "http://127.0.0.1:8000"),
        ({"PORT": ""}, "http://127.0.0.1:8000"),
        ({"HOST": "0.0.0.0", "PORT": "80"}, "http://127.0.0.1:80"),
        ({"HOST": "::"}, "http://127.0.0.1:8000"),
        ({"HOST": "*", "PORT": "80"}, "http://127.0.0.1:80"),
        ({"HOST": "[::]"}, "http://127.0.0.1:8000"),
        ({"HOST": "[::1]"}, "http://[::1]:8000"),
        ({"HOST": "::1"}, "http://[::1]:8000"),
        ({"HOST": "fd00::1"}, "http://[fd00::1]:8000"),
        ({"HOST": "push.example.com"}, "http://push.example.com:8000"),
        ({"HOST": "unix:/run/sse.sock", "PORT": "9000"}, "unix:/run/sse.sock"),
        ({"CERTIFICATE": "server.pem"}, "https://127.0.0.1:8000"),
        ({"TOKEN": TOKEN, "TOKEN_FILE": "f", "PORT": "9000"}, "http://127.0.0.1:8000"),
        ({"CONFIG": "/nowhere", "PORT": "9000"}, "http://127.0.0.1:8000"),
    ],
)
def test_the_default_url_is_that_of_a_server_with_this_environment(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str
) -> None:
    """A command so finds the server beside it. An unusable configuration gives the usual URL."""
    assert settled(monkeypatch, environ) == url


LISTENERS = """
[[listener]]
host = "0.0.0.0"
port = 443
certificate = "server.pem"
endpoints = ["subscribe"]

[[listener]]
host = "unix:/run/sse.sock"
endpoints = ["publish", "inspect"]
"""


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (None, "https://127.0.0.1:443"),
        (Endpoint.SUBSCRIBE, "https://127.0.0.1:443"),
        (Endpoint.PUBLISH, "unix:/run/sse.sock"),
        (Endpoint.INSPECT, "unix:/run/sse.sock"),
        (Endpoint.ADMIN, "https://127.0.0.1:443"),
    ],
)
def test_the_default_url_is_that_of_a_listener_with_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: Endpoint | None, url: str
) -> None:
    """It is the first one in the configuration file that has it, or else the first of all."""
    file = tmp_path / "config.toml"
    file.write_text(LISTENERS)
    assert settled(monkeypatch, {"CONFIG": str(file)}, endpoint) == url
    file.write_text("port = 7000\n")
    assert settled(monkeypatch, {"CONFIG": str(file)}, endpoint) == "http://127.0.0.1:7000"
    assert settled(monkeypatch, {"CONFIG": str(file), "PORT": "7001"}, endpoint) == "http://127.0.0.1:7001"


async def test_a_variable_can_name_the_server(server: Server, programs: Programs) -> None:
    """SSE_BROADCAST_URL is its URL, unless there is --url."""
    elsewhere = {"SSE_BROADCAST_URL": "http://not.used.invalid"}
    for arguments, env in (((), {"SSE_BROADCAST_URL": server.url}), (("--url", server.url), elsewhere)):
        ended = await programs.run("publish", "x", *arguments, env=env)
        assert ended == Ended(0, b"sent to 0 clients\n")
        assert (await programs.run("status", *arguments, env=env)).code == 0
        ended = await programs.run("subscribe", "--since", "last", "--count", "1", *arguments, env=env)
        assert ended == Ended(0, b"x\n")
    assert server.broadcaster.counts.published == 2


async def test_the_servers_own_variable_gives_the_port(server: Server, programs: Programs) -> None:
    """Commands use SSE_BROADCAST_PORT too. SSE_BROADCAST_URL comes first."""
    env = {"SSE_BROADCAST_PORT": str(server.port)}
    assert (await programs.run("status", env=env)).code == 0
    env = {"SSE_BROADCAST_PORT": "1", "SSE_BROADCAST_URL": server.url}
    assert (await programs.run("status", env=env)).code == 0


async def test_a_unix_socket_works_as_a_url(serve: Serve, programs: Programs, tmp_path: Path) -> None:
    """This holds for every command, with the socket given or found as the server's own."""
    server = await serve(host=f"unix:{tmp_path}/sse.sock")
    for arguments, env in (
        (("--url", server.url), {}),
        ((), {"SSE_BROADCAST_URL": server.url}),
        ((), {"SSE_BROADCAST_HOST": server.url}),
    ):
        ended = await programs.run("publish", "hello", *arguments, env=env)
        assert ended == Ended(0, b"sent to 0 clients\n")
        ended = await programs.run("subscribe", "--since", "last", "--count", "1", *arguments, env=env)
        assert ended == Ended(0, b"hello\n")
        assert (await programs.run("status", *arguments, env=env)).out.startswith(b"connected clients: ")
        assert await programs.run("health", *arguments, env=env) == Ended(0)


@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_an_unreachable_server_is_one_line(programs: Programs, use: tuple[str, ...]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # never listens
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        ended = await programs.run(*use, "--url", url)
    assert ended == Ended(1, err=f"sse-broadcast: cannot reach {url}: refused\n".encode())


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1", "http://[::bad", "unix:", ""])
@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_a_malformed_url_is_reported(programs: Programs, use: tuple[str, ...], url: str) -> None:
    ended = await programs.run(*use, "--url", url)
    assert (ended.code, ended.out) == (2, b"")
    # click names the possible sources of the value.
    *_, reported = ended.err.decode().splitlines()
    assert reported.startswith("Error: Invalid value for '--url'")
    assert reported.endswith(f": {url!r} is neither an http:// or https:// address nor unix:/path")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://a..b", f"http://{'x' * 64}.invalid"])
@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_an_impossible_url_is_one_line(programs: Programs, use: tuple[str, ...], url: str) -> None:
    """Such a port is too high, and such a host has an empty label or one of more than 63 letters."""
    ended = await programs.run(*use, "--url", url)
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(f"sse-broadcast: cannot reach {url}: no such (host|address)\n".encode(), ended.err)


@pytest.mark.parametrize("use", USES, ids=lambda use: use[0])
async def test_a_server_of_another_protocol_is_one_line(programs: Programs, use: tuple[str, ...]) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\x1b[2Jlook\r\n\r\n")

    async with accepting(greet) as server:
        url = f"http://127.0.0.1:{server.port}"
        ended = await programs.run(*use, "--url", url)
    assert ended == Ended(1, err=f"sse-broadcast: cannot reach {url}: it does not speak HTTP\n".encode())


ARGUMENTS = {
    "bench": " [URL]",
    "completion": " {bash|zsh|fish}",
    "disconnect": " ID",
    "doctor": " URL",
    "publish": " [CHANNEL] [MESSAGE]",
    "store": " COMMAND [ARGS]...",
    "subscribe": " [CHANNEL]...",
    "token": " COMMAND [ARGS]...",
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_bad_usage_is_2(programs: Programs, command: str) -> None:
    assert await programs.run(command, "--xyzzy") == Ended(
        2,
        err=f"Usage: sse-broadcast {command} [OPTIONS]{ARGUMENTS.get(command, '')}\n"
        f"Try 'sse-broadcast {command} --help' for help.\n\n"
        "Error: No such option '--xyzzy'.\n".encode(),
    )


# Tokens.

ASKING = [("publish", "x"), ("subscribe",), ("status",), ("disconnect", "1"), ("reload",)]
"""Arguments of each command that sends a token."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a file with a token."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


def test_a_token_comes_from_a_file_or_the_environment(file: Path, tmp_path: Path) -> None:
    """The most specific source counts. The variables are the server's own settings."""
    other = tmp_path / "other"
    other.write_text("another-token")
    in_file = {"SSE_BROADCAST_TOKEN_FILE": str(other)}
    assert given_token(None, {}) is None
    assert given_token(None, {"SSE_BROADCAST_TOKEN": "", "SSE_BROADCAST_TOKEN_FILE": ""}) is None
    assert given_token(None, {"SSE_BROADCAST_TOKEN": TOKEN}) == TOKEN
    assert given_token(None, in_file) == "another-token"
    assert given_token(str(file), {"SSE_BROADCAST_TOKEN": "not-this-one", **in_file}) == TOKEN


def test_a_token_comes_from_one_variable_only() -> None:
    with pytest.raises(ConfigError) as caught:
        given_token(None, {"SSE_BROADCAST_TOKEN": TOKEN, "SSE_BROADCAST_TOKEN_FILE": "f"})
    assert str(caught.value) == ("SSE_BROADCAST_TOKEN and SSE_BROADCAST_TOKEN_FILE: set only one of them")


@pytest.mark.parametrize("content", ["", "\n", "two tokens", f"{TOKEN}\n{TOKEN}\n", "tokén", f" {TOKEN}"])
def test_a_malformed_token_is_refused_without_showing_it(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(
        ConfigError, match=exactly(f"--token-file: {str(file)!r}: does not hold a token (RFC 6750)")
    ):
        given_token(str(file), {})
    with pytest.raises(ConfigError) as caught:
        given_token(None, {"SSE_BROADCAST_TOKEN_FILE": str(file)})
    assert str(caught.value) == f"SSE_BROADCAST_TOKEN_FILE: {str(file)!r}: does not hold a token (RFC 6750)"
    if content:
        with pytest.raises(
            ConfigError, match=exactly("SSE_BROADCAST_TOKEN: does not hold a token (RFC 6750)")
        ):
            given_token(None, {"SSE_BROADCAST_TOKEN": content})


@pytest.mark.parametrize("use", ASKING, ids=lambda use: use[0])
async def test_a_missing_token_file_is_2(programs: Programs, use: tuple[str, ...]) -> None:
    ended = await programs.run(*use, "--token-file", "/nowhere", "--url", "http://not.used.invalid")
    assert ended == Ended(
        2, err=b"sse-broadcast: --token-file: '/nowhere' cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize("use", [*ASKING, ("health",), ("serve",)], ids=lambda use: use[0])
async def test_a_token_cannot_be_an_argument(programs: Programs, use: tuple[str, ...]) -> None:
    """Every user of the machine could read it. The error does not repeat it."""
    for typed in (("--token", TOKEN), (f"--token={TOKEN}",)):
        ended = await programs.run(*use, *typed)
        assert (ended.code, ended.out) == (2, b"")
        assert b"\nError: No such option '--token'." in ended.err
        assert TOKEN.encode() not in ended.err


@pytest.mark.parametrize("use", ASKING, ids=lambda use: use[0])
async def test_a_missing_or_bad_token_is_one_line(
    serve: Serve, programs: Programs, file: Path, use: tuple[str, ...]
) -> None:
    """A missing one is reported with the way to give it, a bad one as bad."""
    server = await serve(token=TOKEN)
    ended = await programs.run(*use, "--url", server.url)
    assert (ended.code, ended.out) == (1, b"")
    advice = "; set SSE_BROADCAST_TOKEN or --token-file"
    assert re.fullmatch(
        f"sse-broadcast: {server.url}/[a-z/1]+: 401 Unauthorized: [^;\n]+{advice}\n".encode(), ended.err
    )
    file.write_text("another-token-of-somebody")
    ended = await programs.run(*use, "--url", server.url, "--token-file", str(file))
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(
        f"sse-broadcast: {server.url}/[a-z/1]+: 401 Unauthorized: [^;\n]+\n".encode(), ended.err
    )
    assert b"another-token" not in ended.err


NEWS = CallerRule(name="news", token="the-token-for-news", publish=("news",), subscribe=("news",))


@pytest.mark.parametrize("use", ASKING, ids=lambda use: use[0])
async def test_a_missing_permission_is_one_line(
    serve: Serve, programs: Programs, use: tuple[str, ...]
) -> None:
    server = await serve(caller=(NEWS,))
    env = {"SSE_BROADCAST_TOKEN": "the-token-for-news"}
    ended = await programs.run(*use, "--url", server.url, env=env)
    assert (ended.code, ended.out) == (1, b"")
    assert re.fullmatch(f"sse-broadcast: {server.url}/[a-z/1]+: 403 Forbidden: [^;\n]+\n".encode(), ended.err)


async def test_a_permitted_command_succeeds(serve: Serve, programs: Programs, file: Path) -> None:
    server = await serve(token=TOKEN)
    given = ("--url", server.url, "--token-file", str(file))
    for env, arguments in (
        ({}, given),
        ({"SSE_BROADCAST_TOKEN": "not-this-one-but-the-file"}, given),
        ({"SSE_BROADCAST_TOKEN": TOKEN, "SSE_BROADCAST_URL": server.url}, ()),
        ({"SSE_BROADCAST_TOKEN_FILE": str(file), "SSE_BROADCAST_PORT": str(server.port)}, ()),
    ):
        ended = await programs.run("publish", "hello", *arguments, env=env)
        assert ended == Ended(0, b"sent to 0 clients\n")
        ended = await programs.run("subscribe", "--since", "last", "--count", "1", *arguments, env=env)
        assert ended == Ended(0, b"hello\n")
        assert (await programs.run("status", *arguments, env=env)).out.startswith(b"connected clients: ")
