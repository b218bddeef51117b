"""`sse-broadcast serve`: the real command, its signals, and what it says."""

import asyncio
import io
import json
import os
import pty
import re
import shlex
import signal
import socket
import sys
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast import __version__
from sse_broadcast.cli.serve import shown_config, shows_banner
from sse_broadcast.config.schema import Config
from sse_broadcast.config.sources import RULES, SETTINGS, load
from sse_broadcast.event import Event
from sse_broadcast.server.transport.admission import ACCEPTS
from tests.conftest import Program
from tests.support import process
from tests.support.process import LISTENS, SCRIPT, Ended, Process, Programs, Serving
from tests.support.sockets import PATIENCE, RawClient
from tests.support.terminal import Terminal, terminals

programs = pytest.fixture(process.programs)
terminal = pytest.fixture(terminals)

STOPS = [signal.SIGTERM, signal.SIGINT]

TEXT = ("--log-format", "text")
"""As on a terminal."""

QUIET = ("--log-level", "warning", *TEXT)
"""So that standard error is empty unless something is wrong."""

LINE = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
"""What a logged line begins with."""

CUT = rb"WARNING sse_broadcast\.process: stopped by a second signal: open streams were aborted\n"
"""What a server says last that was told twice to stop."""

OPENING = rb': \nretry: \d+\nevent: \$open\ndata: \{"heartbeat": 4\}\nid: [0-9a-f]{8}-\d+\n\n'
"""The first bytes of a stream: when to come back, and where it begins."""

DRAIN = '{"reason": "drain"}'

Open = Callable[..., Awaitable[RawClient]]
Start = Callable[..., Awaitable[Terminal]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


@pytest.fixture
async def open_raw() -> AsyncIterator[Open]:
    """Open raw sockets to a server in a process of its own, and close them when the test ends."""
    with ExitStack() as stack:

        async def open_one(serving: Serving, *, receive_buffer: int = 0) -> RawClient:
            client = await RawClient.open(serving.port, receive_buffer=receive_buffer)
            stack.callback(client.close)
            return client

        yield open_one


async def reader(open_raw: Open, serving: Serving, *, receive_buffer: int = 0) -> RawClient:
    """Return a reader that has its opening."""
    client = await open_raw(serving, receive_buffer=receive_buffer)
    head = await client.subscribe()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.fullmatch(OPENING, await client.chunk())
    return client


async def frozen_reader(open_raw: Open, serving: Serving) -> RawClient:
    """Return a reader that will never read again, and is as full as it gets."""
    client = await reader(open_raw, serving, receive_buffer=4096)
    publisher = await open_raw(serving)
    for _ in range(24):
        status, _ = await publisher.ask("POST", "/send", body=b"x" * 65_536)
        assert status == 200
    # What does not fit waits for it in the server, which has not given it up.
    _, body = await publisher.ask("GET", "/status")
    assert json.loads(body)["connected_clients"] == 1
    return client


def refused(reason: str) -> bytes:
    """Return the pattern of a refusal as a stream, up to the id that its reader brought."""
    return rb'event: \$close\nretry: \d{5}\ndata: \{"reason": "%b"\}\n' % reason.encode()


FREEZING = ("--send-buffer", "16384", "--write-timeout", "600")
"""So that little is needed to fill a reader, and nothing but the shutdown ends its stream."""


# What it says.


async def test_it_says_where_it_listens_and_what_to_try(programs: Programs, program: Program) -> None:
    serving = await programs.serve(*QUIET)
    assert serving.url == f"http://127.0.0.1:{serving.port}"
    assert serving.tries == (f"curl -N {serving.url}/events", f"curl -d hello {serving.url}/send")
    await try_out(serving, programs, program)


async def try_out(serving: Serving, programs: Programs, program: Program, *options: str) -> None:
    curl = str(program("curl"))
    subscribe, publish = ([curl, "-sS", *options, *shlex.split(line)[1:]] for line in serving.tries)
    reading = await programs.start(*subscribe)
    opening = b"".join([await reading.line() for _ in range(6)])
    assert re.fullmatch(OPENING, opening)
    assert opening.endswith(b"-0\n\n")
    answer = await (await programs.start(*publish)).ended()
    assert (answer.code, answer.err) == (0, b"")
    assert json.loads(answer.out)["clients"] == 1
    id = json.loads(answer.out)["id"].encode()
    assert [await reading.line() for _ in range(3)] == [b"data: hello\n", b"id: %b\n" % id, b"\n"]


async def test_an_address_of_ipv6_is_said_as_a_url(programs: Programs, program: Program) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    serving = await programs.serve("--host", "::1", *QUIET)
    assert serving.url == f"http://[::1]:{serving.port}"
    await try_out(serving, programs, program)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_the_configuration_is_shown_with_its_sources(programs: Programs, file: Path) -> None:
    file.write_text('overflow = "drop-oldest"\nretry = 1\n')
    flags = ("--retry", "5", "--cors-origins", "https://a.b, http://c:1")
    shown = await show_config(programs, "--config", str(file), *flags, env={"SSE_BROADCAST_PORT": "9000"})
    lines = shown.out.decode().splitlines()
    assert 'cors_origins = ["https://a.b", "http://c:1"]  # --cors-origins' in lines
    assert {line[44:48] for line in lines} == {"  # "}
    sources = {"port": "SSE_BROADCAST_PORT", "cors_origins": "--cors-origins", "retry": "--retry"}
    sources["overflow"] = str(file)
    assert [line[48:] for line in lines] == [sources.get(name, "default") for name in SETTINGS]
    said = {
        "port": 9000,
        "cors_origins": ["https://a.b", "http://c:1"],
        "overflow": "drop-oldest",
        "retry": 5,
    }
    assert repr(tomllib.loads(shown.out.decode())) == repr({**as_toml(Config()), **said})


async def show_config(programs: Programs, *arguments: str, env: dict[str, str] | None = None) -> Ended:
    """Return what is shown of a configuration that can be used."""
    shown = await programs.run("serve", *arguments, "--show-config", env=env)
    assert (shown.code, shown.err) == (0, b"")
    return shown


def as_toml(config: Config) -> dict[str, object]:
    """Return the plain settings of a configuration, as TOML has them."""
    values = {name: getattr(config, name) for name in SETTINGS}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return values | {name: str(value) for name, value in values.items() if isinstance(value, str)} | lists


async def test_the_shown_configuration_is_a_configuration_file(programs: Programs, file: Path) -> None:
    odd = 'a "quoted" \\ \U0001f600 é \t\x7f path'
    first = await programs.run("serve", "--certificate", odd, "--heartbeat", "0.01", "--show-config")
    file.write_bytes(first.out)
    second = await programs.run("serve", "--show-config", env={"SSE_BROADCAST_CONFIG": str(file)})
    assert (second.code, second.err) == (0, b"")
    assert tomllib.loads(second.out.decode()) == tomllib.loads(first.out.decode())
    assert tomllib.loads(first.out.decode())["certificate"] == odd
    assert second.out.count(f"# {file}\n".encode()) == len(SETTINGS)


async def test_the_shown_rules_can_be_loaded(programs: Programs, file: Path) -> None:
    first, second = 'match = "a.*"\noverflow = "conflate"\n', 'match = "*"\nhistory_age = 60.0\n'
    rules = f"[[channel]]\n{first}\n[[channel]]\n{second}"
    file.write_text(rules)
    shown = await show_config(programs, "--config", str(file))
    assert shown.out.decode().endswith("\n" + rules.replace("[[channel]]", f"[[channel]]  # {file}"))
    assert tomllib.loads(shown.out.decode())["channel"] == tomllib.loads(rules)["channel"]


@given(text=st.text(min_size=1), seconds=st.floats(0.01, 86_400, exclude_min=False))
def test_any_value_is_shown_as_toml(text: str, seconds: float) -> None:
    loaded = load({"certificate": text, "key": text, "heartbeat": repr(seconds)}, environ={})
    values = tomllib.loads(shown_config(loaded))
    assert list(values) == list(SETTINGS)
    assert values == as_toml(loaded.config)


TABLES = """\
[[channel]]
match = "a.*"
retry = 0

[[caller]]
name = "shop"
token = "(not shown)"
publish = ["orders.*", "news"]

[[caller]]
name = "robot"
token_env = "ROBOT_TOKEN"
admin = ["*"]

[[listener]]
host = "::"
port = 443
certificate = "c.pem"
key = "k.pem"
endpoints = ["subscribe"]

[[listener]]
host = "unix:/run/sse.sock"
port = 8000
mode = "0660"
owner = ":www-data"
endpoints = ["subscribe", "publish", "inspect", "admin"]
"""


async def test_tables_are_shown_without_their_secrets(programs: Programs, file: Path) -> None:
    file.write_text(TABLES.replace("(not shown)", "a-token-of-the-shop"))
    shown = await show_config(programs, "--config", str(file))
    text = shown.out.decode()
    assert text.endswith("\n\n" + re.sub(r"(?m)^(\[\[.*)$", rf"\1  # {file}", TABLES))
    places = ["host", "port", "certificate", "key"]
    assert list(tomllib.loads(text)) == [*(each for each in SETTINGS if each not in places), *RULES]


async def test_no_secret_of_a_url_is_shown(programs: Programs) -> None:
    env = {"SSE_BROADCAST_JWT_JWKS": "https://ann:s3cret@[/jwks?key=s3cret"}
    shown = await show_config(programs, env=env)
    assert b'jwt_jwks = "https://(not shown)@[/jwks?(not shown)"' in shown.out
    checked = await programs.run("serve", "--check", env=env)
    assert checked.code == 2
    assert b"s3cret" not in shown.out + checked.out + checked.err


async def test_no_secret_is_shown(programs: Programs) -> None:
    env = {"SSE_BROADCAST_TOKEN": "a-token-of-somebody", "SSE_BROADCAST_TOKEN_SECRET": "a-secret-of-ours" * 2}
    shown = await show_config(programs, env=env)
    assert re.search(rb'^token = "\(not shown\)" +# SSE_BROADCAST_TOKEN$', shown.out, re.MULTILINE)
    assert re.search(
        rb'^token_secret = "\(not shown\)" +# SSE_BROADCAST_TOKEN_SECRET$', shown.out, re.MULTILINE
    )
    for secret in env.values():
        assert secret.encode() not in shown.out


async def test_what_is_shown_of_a_secret_starts_no_server(programs: Programs, file: Path) -> None:
    """Its secret would be known to everyone who can read this."""
    shown = await programs.run("serve", "--show-config", env={"SSE_BROADCAST_TOKEN": "a-token-of-somebody"})
    file.write_bytes(shown.out)
    assert await programs.run("serve", "--config", str(file)) == Ended(
        2, err=b"sse-broadcast: token: '(not shown)' stands for a secret, and is not one\n"
    )


async def test_a_switch_has_no_value(programs: Programs) -> None:
    """Named, it is on; a variable says true or false."""
    flag, variable = "--insecure-publish", "SSE_BROADCAST_INSECURE_PUBLISH"
    for arguments, said, line in (
        ([flag], None, f"true +# {flag}"),
        ([], "1", f"true +# {variable}"),
        ([], "0", f"false +# {variable}"),
        ([flag], "false", f"true +# {flag}"),
    ):
        env = {} if said is None else {variable: said}
        shown = await show_config(programs, *arguments, env=env)
        assert re.search(f"^insecure_publish = {line}$", shown.out.decode(), re.MULTILINE), line
    assert await programs.run("serve", env={variable: "yes"}) == Ended(
        2, err=f"sse-broadcast: {variable}: expected true or false, not 'yes'\n".encode()
    )


MISSPELT = (
    rb"WARNING sse_broadcast\.process: SSE_BROADCAST_QUEUESIZE: no such setting, ignored;"
    rb" did you mean SSE_BROADCAST_QUEUE_SIZE\?\n"
)


async def test_a_variable_that_is_no_setting_is_warned_about(programs: Programs) -> None:
    """With what was meant: a typing error is not silent. The server starts all the same."""
    env = {"SSE_BROADCAST_QUEUESIZE": "5", "SSE_BROADCAST_SERVICE_HOST": "10.0.0.1", "SSE_BROADCAST_URL": "x"}
    serving = await programs.serve(*QUIET, env=env)
    ended = await serving.stop()
    assert (ended.code, ended.out) == (0, b"")
    assert re.fullmatch(LINE + MISSPELT, ended.err)


async def test_a_variable_that_is_no_setting_is_warned_about_where_settings_are_shown(
    programs: Programs,
) -> None:
    """Whoever asks what is set is told as well; standard output stays a configuration file."""
    shown = await programs.run("serve", *TEXT, "--show-config", env={"SSE_BROADCAST_QUEUESIZE": "5"})
    assert (shown.code, set(tomllib.loads(shown.out.decode()))) == (0, set(SETTINGS))
    assert re.fullmatch(LINE + MISSPELT, shown.err)


async def test_the_links_of_a_kubernetes_service_are_no_settings(programs: Programs) -> None:
    """A service named sse-broadcast gives every pod beside it variables that look like ours."""
    env = {"SSE_BROADCAST_PORT": "tcp://10.0.0.1:80", "SSE_BROADCAST_SERVICE_PORT": "80"}
    shown = await show_config(programs, env=env)
    assert re.search(rb"^port = 8000 +# default$", shown.out, re.MULTILINE)


# How it ends.


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
async def test_a_signal_ends_every_stream_cleanly(
    programs: Programs, open_raw: Open, number: signal.Signals, loop: str
) -> None:
    """Each reader is told why, when to come back and with which id; its body ends as it should; exit is 0."""
    serving = await programs.serve("--event-loop", loop, "--retry", "1000", *QUIET)
    readers = [await reader(open_raw, serving) for _ in range(3)]
    idle = await open_raw(serving)
    await idle.ask("GET", "/status")
    serving.process.send_signal(number)
    for client in readers:
        (event,) = await client.events(1)
        assert event.retry is not None
        assert event.id is not None
        assert re.fullmatch(r"[0-9a-f]{8}-0", event.id)
        assert event == Event(DRAIN, "$close", id=event.id, retry=event.retry)
        assert 500 <= event.retry <= 1500
        assert await client.chunk() == b""
        assert await client.rest() == b""
    assert await idle.rest() == b""
    assert await serving.process.ended() == Ended(0)


async def test_what_was_published_comes_before_the_end(programs: Programs, open_raw: Open) -> None:
    serving = await programs.serve(*QUIET)
    client, publisher = await reader(open_raw, serving), await open_raw(serving)
    for _ in range(50):
        await publisher.ask("POST", "/send", body=b"x" * 50_000)
    serving.process.send_signal(signal.SIGTERM)
    *found, end = await client.events(51)
    assert [len(event.data) for event in found] == [50_000] * 50
    assert (end.type, end.data, end.id) == ("$close", DRAIN, found[-1].id)
    assert await client.chunk() == b""
    assert await serving.process.ended() == Ended(0)


async def test_a_server_says_when_it_starts_and_stops(programs: Programs) -> None:
    serving = await programs.serve(*TEXT)
    ended = await serving.stop()
    assert (ended.code, ended.out) == (0, b"")
    started = f"started: version {__version__} listens on {serving.url}\n"
    stopping = "stopping: ending the streams of 0 subscribers; a second signal exits at once\n"
    lines = ended.err.splitlines(keepends=True)
    assert [re.sub(rb"^" + LINE, b"", line).decode() for line in lines] == [
        f"INFO sse_broadcast.process: {started}",
        f"INFO sse_broadcast.process: {stopping}",
    ]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_frozen_reader_does_not_keep_it(programs: Programs, open_raw: Open, loop: str) -> None:
    serving = await programs.serve("--event-loop", loop, "--shutdown-timeout", "2", *FREEZING, *QUIET)
    frozen = await frozen_reader(open_raw, serving)
    clock = asyncio.get_running_loop().time
    told = clock()
    assert await serving.stop() == Ended(0)
    # And what a busy machine takes to end a process.
    assert clock() - told < 2 + PATIENCE / 10
    with pytest.raises(ConnectionResetError):
        await frozen.rest()


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
async def test_a_second_signal_exits_at_once(
    programs: Programs, open_raw: Open, number: signal.Signals
) -> None:
    """While a frozen reader keeps the drain busy, a second signal ends it, with a code of its own."""
    serving = await programs.serve("--shutdown-timeout", "3600", *FREEZING, *TEXT)
    await frozen_reader(open_raw, serving)
    other = await reader(open_raw, serving)
    serving.process.send_signal(number)
    assert (await other.events(1))[0].type == "$close"
    stopping = b"stopping: ending the streams of 2 subscribers; a second signal exits at once\n"
    while not (line := await serving.process.error_line()).endswith(stopping):
        assert line
    assert re.fullmatch(LINE + rb"INFO sse_broadcast\.process: " + stopping, line)
    serving.process.send_signal(number)
    ended = await serving.process.ended()
    assert (ended.code, ended.out) == (5, b"")
    assert re.search(LINE + CUT + rb"\Z", ended.err)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_it_says_that_it_is_not_ready_before_it_ends_anything(
    programs: Programs, open_raw: Open, loop: str
) -> None:
    """For `drain_delay` whoever comes is served, and whoever balances load is told why not to send more."""
    serving = await programs.serve("--event-loop", loop, "--drain-delay", "1.5", *QUIET)
    client, publisher, probe = [await open_raw(serving) for _ in range(3)]
    await client.subscribe()
    serving.process.send_signal(signal.SIGTERM)
    while (answer := await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    assert (answer[0], json.loads(answer[1])["detail"]) == (503, "draining: the server is shutting down")
    assert (await publisher.ask("POST", "/send", body=b"still"))[0] == 200
    late = await reader(open_raw, serving)
    (still,) = await client.events(1)
    assert still.data == "still"
    for each in (client, late):
        (event,) = await each.events(1)
        assert (event.type, event.data) == ("$close", DRAIN)
        assert await each.chunk() == b""
    assert await serving.process.ended() == Ended(0)


async def test_a_second_signal_does_not_wait_for_a_delay(programs: Programs, open_raw: Open) -> None:
    serving = await programs.serve("--drain-delay", "3600", *QUIET)
    client, probe = await reader(open_raw, serving), await open_raw(serving)
    serving.process.send_signal(signal.SIGTERM)
    while (await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    ended = await serving.stop()
    assert ended.code == 5
    assert re.fullmatch(LINE + CUT, ended.err)
    assert b"$close" not in await client.rest()


async def test_a_second_signal_finds_all_that_was_logged_of_streams(
    programs: Programs, open_raw: Open
) -> None:
    serving = await programs.serve("--drain-delay", "3600", *TEXT)
    probe = await open_raw(serving)
    serving.process.send_signal(signal.SIGTERM)
    while (await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    await reader(open_raw, serving)
    ended = await serving.stop()
    assert re.search(rb"stream 1 opened by 127\.0\.0\.1: default\n" + LINE + CUT + rb"\Z", ended.err)


SLOWLY = """\
import sys
from sse_broadcast import broadcaster
from sse_broadcast.cli import main
broadcaster.DRAIN_BATCH, broadcaster.DRAIN_INTERVAL = 1, 600.0
sys.exit(main())
"""
"""The command, which lets readers go one by one, and takes its time."""


async def test_a_second_signal_does_not_wait_for_the_waves(programs: Programs, open_raw: Open) -> None:
    """Those who have not been let go are cut with it."""
    flags = ("--port", "0", "--drain-timeout", "3600", *QUIET)
    command = await programs.start(sys.executable, "-c", SLOWLY, "serve", *flags)
    said = LISTENS.fullmatch(await command.line())
    assert said is not None
    serving = Serving(command, said[1].decode(), int(said[2]), int(said[3]), ("", ""))
    first, second = await reader(open_raw, serving), await reader(open_raw, serving)
    command.send_signal(signal.SIGTERM)
    assert (await first.events(1))[0].type == "$close"
    command.send_signal(signal.SIGTERM)
    ended = await command.ended()
    assert ended.code == 5
    assert re.fullmatch(LINE + CUT, ended.err)
    assert b"$close" not in await second.rest()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_whoever_asks_while_it_ends_is_answered(programs: Programs, open_raw: Open, loop: str) -> None:
    """On a connection from before, a publisher and a reader get 503; a browser is told when to come."""
    serving = await programs.serve("--event-loop", loop, "--shutdown-timeout", "4", *FREEZING)
    await frozen_reader(open_raw, serving)
    other = await reader(open_raw, serving)
    publisher, program, browser, witness = [await open_raw(serving) for _ in range(4)]
    for client in (publisher, program, browser, witness):
        await connected(client)
    serving.process.send_signal(signal.SIGTERM)
    assert (await other.events(1))[0].type == "$close"
    assert (await publisher.ask("POST", "/send", body=b"x"))[0] == 503
    status, body = await program.ask("GET", "/events")
    assert (status, json.loads(body)["detail"]) == (503, "the server is shutting down")
    status, body = await browser.ask("GET", "/events", headers=f"{BROWSER}Last-Event-ID: its-own.7\r\n")
    assert status == 200
    assert re.fullmatch(refused("drain") + rb"id: its-own\.7\n\n", body)
    for client in (program, browser):
        assert await client.rest() == b""
    # Those connections were closed by their answers, and not by the server's end.
    assert await connected(witness) == 0
    serving.process.send_signal(signal.SIGTERM)
    assert (await serving.process.ended()).code == 5


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_closed_terminal_ends_what_was_started_in_it(
    terminal: Callable[..., Awaitable[Terminal]], loop: str
) -> None:
    """While it is open SIGHUP is a reload, then a SIGTERM; the second one, of a shell, forces nothing."""
    shown = await terminal("serve", "--port", "0", "--drain-delay", "0.5", "--event-loop", loop)
    lines = await shown.shows(lambda lines: any("started: version" in line for line in lines))
    port = int(re.findall(r"listens on http://127\.0\.0\.1:(\d+)", lines[0])[0])
    with closing(await RawClient.open(port)) as reading, closing(await RawClient.open(port)) as asking:
        await reading.subscribe()
        await reading.chunk()
        shown.send_signal(signal.SIGHUP)
        await shown.shows(lambda lines: any("reload: changed: nothing" in line for line in lines))
        shown.hang_up()
        async with asyncio.timeout(PATIENCE):
            while (await asking.ask("GET", "/readyz"))[0] == 200:
                pass
        shown.send_signal(signal.SIGHUP)
        (event,) = await reading.events(1)
        assert (event.type, event.data) == ("$close", DRAIN)
        assert await shown.ended() == 0


# What it logs.


async def test_a_log_that_no_terminal_shows_is_json(programs: Programs) -> None:
    """An object on each line, and nothing else on standard error; what is announced stays text."""
    serving = await programs.serve("--log-level", "debug", env={"SSE_BROADCAST_QUEUESIZE": "5"})
    assert serving.tries[0].startswith("curl -N ")
    ended = await serving.stop()
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert all(list(line)[:4] == ["time", "level", "logger", "message"] for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert (lines[0]["message"], lines[0]["name"]) == (
        "SSE_BROADCAST_QUEUESIZE: no such setting, ignored; did you mean SSE_BROADCAST_QUEUE_SIZE?",
        "SSE_BROADCAST_QUEUESIZE",
    )
    assert (lines[-1]["logger"], lines[-1]["readers"]) == ("sse_broadcast.process", 0)


async def test_a_log_on_a_terminal_is_text(programs: Programs) -> None:
    ours, terminal = pty.openpty()
    try:
        command = ("bash", "-c", f'exec "$@" 2>&{terminal}', "bash", str(process.SCRIPT), "serve")
        started = await programs.start(*command, "--port", "0", descriptors=[terminal])
        serving = await process.announced(started)
        assert await serving.stop() == Ended(0)
        shown = os.read(ours, 65_536)
    finally:
        os.close(ours)
        os.close(terminal)
    said = b"INFO sse_broadcast.process: started: version "
    assert re.match(LINE + re.escape(said), shown)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_sigusr1_switches_debug_on_and_off(programs: Programs, open_raw: Open, loop: str) -> None:
    serving = await programs.serve("--event-loop", loop, *QUIET)
    publisher = await open_raw(serving)
    published = rb"DEBUG sse_broadcast\.published: published \S+ in default, by anyone: .*\n"
    on = rb"INFO sse_broadcast\.logs: debug is on: everything is logged until the next SIGUSR1\n"
    off = rb"INFO sse_broadcast\.logs: debug is off: the level is warning\n"
    for _ in range(2):
        await publisher.ask("POST", "/send", body=b"quietly")
        serving.process.send_signal(signal.SIGUSR1)
        assert re.fullmatch(LINE + on, await serving.process.error_line())
        await publisher.ask("POST", "/send", body=b"aloud")
        while not re.fullmatch(LINE + published, line := await serving.process.error_line()):
            assert re.match(LINE + rb"DEBUG ", line)
        serving.process.send_signal(signal.SIGUSR1)
        while not re.fullmatch(LINE + off, line := await serving.process.error_line()):
            assert re.match(LINE + rb"DEBUG ", line)
    assert await serving.stop() == Ended(0)


# What it refuses.


async def test_a_port_in_use_is_3(programs: Programs) -> None:
    """One line that names the port, and no traceback."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert await programs.run("serve", "--port", str(port)) == Ended(
            3, err=f"sse-broadcast: cannot listen on 127.0.0.1 port {port}: address already in use\n".encode()
        )


async def test_an_address_not_here_is_3(programs: Programs) -> None:
    """192.0.2.1 is nobody's (RFC 5737)."""
    assert await programs.run("serve", "--host", "192.0.2.1", "--port", "9") == Ended(
        3, err=b"sse-broadcast: cannot listen on 192.0.2.1 port 9: cannot assign requested address\n"
    )


async def test_a_certificate_that_cannot_be_read_is_4(programs: Programs, tmp_path: Path) -> None:
    """One line that names the files."""
    certificate, key = tmp_path / "none.pem", tmp_path / "key.pem"
    ended = await programs.run("serve", "--port", "0", "--certificate", str(certificate), "--key", str(key))
    assert ended == Ended(
        4,
        err=f"sse-broadcast: certificate: cannot load {certificate}, {key}: "
        "no such file or directory\n".encode(),
    )


async def test_a_certificate_that_is_none_is_4(programs: Programs, tmp_path: Path) -> None:
    """Nor is a file taken that holds something else; the reason is in OpenSSL's words."""
    file = tmp_path / "server.pem"
    file.write_text("not a certificate\n")
    ended = await programs.run("serve", "--port", "0", "--certificate", str(file))
    assert (ended.code, ended.out) == (4, b"")
    assert re.fullmatch(f"sse-broadcast: certificate: cannot load {file}: .+\n".encode(), ended.err)


async def test_a_key_of_another_certificate_is_4(programs: Programs, tmp_path: Path) -> None:
    """Found out at the start, and not by the first browser."""
    certificate, key = tmp_path / "server.pem", tmp_path / "key.pem"
    authenticator = trustme.CA()
    authenticator.issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(certificate)
    authenticator.issue_cert("127.0.0.1").private_key_pem.write_to_path(key)
    ended = await programs.run("serve", "--port", "0", "--certificate", str(certificate), "--key", str(key))
    assert (ended.code, ended.out) == (4, b"")
    assert re.fullmatch(
        f"sse-broadcast: certificate: cannot load {certificate}, {key}: .+\n".encode(), ended.err
    )


async def test_a_key_with_a_pass_phrase_is_4(programs: Programs, tmp_path: Path) -> None:
    """There is nobody to ask for it: the server refuses the key, and does not wait at a prompt."""
    certificate, key = tmp_path / "server.pem", tmp_path / "key.pem"
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(certificate)
    plain = serialization.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
    key.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    ended = await programs.run("serve", "--port", "0", "--certificate", str(certificate), "--key", str(key))
    assert (ended.code, ended.out) == (4, b"")
    told = f"sse-broadcast: certificate: cannot load {certificate}, {key}: .+\n"
    assert re.fullmatch(told.encode(), ended.err)


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ('host = "a..b"', 3, r"cannot listen on a\.\.b port 0: .+"),
        (f'host = "{"x" * 64}"', 3, "cannot listen on x{64} port 0: .+"),
        ('certificate = "\\u0000"', 4, "certificate: cannot load .+"),
    ],
    ids=["empty label", "long label", "NUL"],
)
async def test_a_name_that_cannot_be_is_one_line(
    programs: Programs, file: Path, line: str, code: int, told: str
) -> None:
    """No host has an empty label or one of more than 63 letters, and no file a NUL in its name."""
    file.write_text(f"port = 0\n{line}\n")
    ended = await programs.run("serve", "--config", str(file))
    assert (ended.code, ended.out) == (code, b"")
    assert re.fullmatch(f"sse-broadcast: {told}\n".encode(), ended.err)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--port", "x"), "--port: expected a whole number from 0 to 65535, not 'x'"),
        (
            ("--overflow", "drop"),
            "--overflow: expected one of disconnect, drop-oldest, drop-newest, conflate, not 'drop'",
        ),
        (("--key", "key.pem"), "key: 'key.pem' is set without certificate"),
        (("--queue-bytes", "9"), "queue_bytes: 9 cannot hold one event of max_event, 1048576 bytes"),
        (("--config", "/none.toml"), "/none.toml: cannot be read: No such file or directory"),
    ],
)
async def test_a_bad_setting_is_2(programs: Programs, arguments: tuple[str, ...], reason: str) -> None:
    """One line that names the setting and its value."""
    assert await programs.run("serve", *arguments) == Ended(2, err=f"sse-broadcast: {reason}\n".encode())


async def test_a_bad_variable_is_2(programs: Programs) -> None:
    """The line names the variable, since a flag would be looked for in the wrong place."""
    assert await programs.run("serve", env={"SSE_BROADCAST_PORT": "99999"}) == Ended(
        2, err=b"sse-broadcast: SSE_BROADCAST_PORT: expected a whole number from 0 to 65535, not '99999'\n"
    )


# TLS.


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_certificate_serves_https(
    programs: Programs, program: Program, tmp_path: Path, loop: str
) -> None:
    """Curl takes it from the authority it knows and, as printed, as it is."""
    authenticator = trustme.CA()
    certificate, key, ca = tmp_path / "server.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    issued = authenticator.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    authenticator.cert_pem.write_to_path(ca)
    serving = await programs.serve(
        "--certificate", str(certificate), "--key", str(key), "--event-loop", loop, *QUIET
    )
    assert serving.url == f"https://127.0.0.1:{serving.port}"
    trusting = f"--cacert {certificate}"
    assert serving.tries == (
        f"curl -N {trusting} {serving.url}/events",
        f"curl {trusting} -d hello {serving.url}/send",
    )
    await try_out(serving, programs, program)

    known = (str(program("curl")), "-sS", "--cacert", str(ca))
    reading = await programs.start(*known, "-N", f"{serving.url}/events")
    assert re.fullmatch(OPENING, b"".join([await reading.line() for _ in range(6)]))
    assert (await (await programs.start(*known, "-d", "x", f"{serving.url}/send")).ended()).code == 0
    published = [await reading.line() for _ in range(3)]
    assert (published[0], published[2]) == (b"data: x\n", b"\n")
    unknown = await programs.start(known[0], "-sS", f"{serving.url}/status")
    assert (await unknown.ended()).code == 60

    serving.process.send_signal(signal.SIGTERM)
    ended = await reading.ended()
    assert (ended.code, ended.err) == (0, b"")
    closed = rb'event: \$close\nretry: \d+\ndata: \{"reason": "drain"\}\n' + published[1] + b"\n"
    assert re.fullmatch(closed, ended.out)
    assert await serving.process.ended() == Ended(0)


# More connections than it can hold.

CROWD = 400

FULL = rb"WARNING sse_broadcast\.connections: full: 144 connections \(max_connections\), rejecting more\n"

BROWSER = "Accept: text/event-stream\r\n"


async def knock(client: RawClient, *, headers: str = "") -> str:
    """Ask for the stream, and say in a word what came; a refusal is whole, and the end of its connection."""
    try:
        head = await client.subscribe(headers=headers)
        if b"Transfer-Encoding: chunked\r\n" in head:
            return "stream"
        body = await client.rest()
    except ConnectionError:
        return "cut"
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    if head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"):
        assert re.fullmatch(refused("full") + b"\n", body)
        assert re.search(rb"\r\nRetry-After: \d\d\r\n", head)
        return "later"
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n")
    assert b"\r\nRetry-After: 5\r\n" in head
    assert json.loads(body) == {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "connection limit reached (max_connections)",
    }
    return "503"


async def next_data(client: RawClient) -> str:
    (event,) = await client.events(1)
    return event.data


async def connected(publisher: RawClient) -> int:
    """Return how many readers the server has."""
    _, body = await publisher.ask("GET", "/status")
    return int(json.loads(body)["connected_clients"])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_more_readers_than_descriptors_do_not_make_it_fail(
    programs: Programs, open_raw: Open, loop: str
) -> None:
    """With 256 descriptors it holds 144 connections and says so; more are told to come later, or cut."""
    serving = await programs.serve("--event-loop", loop, *QUIET, descriptors=256)
    assert serving.room == 144
    before = [await reader(open_raw, serving) for _ in range(5)]
    publisher = await open_raw(serving)

    async def come(number: int) -> tuple[str, RawClient]:
        client = await open_raw(serving)
        word = await knock(client, headers=BROWSER if number % 2 else "")
        if word != "stream":
            client.close()
        return word, client

    crowd = await asyncio.gather(*map(come, range(CROWD)))
    words = Counter(word for word, _ in crowd)
    # Accepted in one turn of the loop, some may get in before they are counted.
    assert serving.room - 6 <= words["stream"] <= serving.room - 6 + ACCEPTS
    assert words["503"] > 0
    assert words["later"] > 0
    assert words.total() == CROWD

    _, answer = await publisher.ask("POST", "/send", body=b"hello")
    assert json.loads(answer)["clients"] == 5 + words["stream"]
    inside = [client for word, client in crowd if word == "stream"]
    for client in inside:
        assert re.fullmatch(OPENING, await client.chunk())
    for client in [*before, *inside]:
        assert await next_data(client) == "hello"
    await refused_in_turn(open_raw, serving)

    for client in inside:
        client.close()
    async with asyncio.timeout(PATIENCE):
        while await connected(publisher) > 5:
            await asyncio.sleep(0.01)
    late = await reader(open_raw, serving)
    await publisher.ask("POST", "/send", body=b"again")
    for client in [*before, late]:
        assert await next_data(client) == "again"
    ended = await serving.stop()
    assert (ended.code, ended.out) == (0, b"")
    assert re.fullmatch(rb"(" + LINE + FULL + rb")+", ended.err)


async def refused_in_turn(open_raw: Open, serving: Serving) -> None:
    """See that a full server tells a program and a browser, each as it can understand."""
    for headers, word in (("", "503"), (BROWSER, "later")):
        async with asyncio.timeout(PATIENCE):
            # Cut while the others that were refused are still on their way out.
            while (heard := await knock(await open_raw(serving), headers=headers)) == "cut":
                pass
        assert heard == word


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_connections_that_say_nothing_do_not_make_it_fail(
    programs: Programs, open_raw: Open, loop: str
) -> None:
    """They may fill the server; its readers still get their events, and when they leave there is room."""
    serving = await programs.serve("--event-loop", loop, *QUIET, descriptors=256)
    client, publisher = await reader(open_raw, serving), await open_raw(serving)
    await connected(publisher)
    crowd = [await open_raw(serving) for _ in range(CROWD)]
    # Connected is not yet accepted: those that left before that would have filled nothing.
    assert re.fullmatch(LINE + FULL, await serving.process.error_line())
    await publisher.ask("POST", "/send", body=b"hello")
    assert await next_data(client) == "hello"
    for silent in crowd:
        silent.close()
    async with asyncio.timeout(PATIENCE):
        while (await knock(late := await open_raw(serving))) != "stream":
            await asyncio.sleep(0.01)
    assert re.fullmatch(OPENING, await late.chunk())
    await publisher.ask("POST", "/send", body=b"again")
    for reading in (client, late):
        assert await next_data(reading) == "again"
    ended = await serving.stop()
    assert (ended.code, ended.out) == (0, b"")
    assert re.fullmatch(rb"(" + LINE + FULL + rb")*", ended.err)


async def test_max_connections_is_said_and_kept(programs: Programs, open_raw: Open) -> None:
    serving = await programs.serve("--max-connections", "2", *QUIET)
    assert serving.room == 2
    for _ in range(2):
        await reader(open_raw, serving)
    await refused_in_turn(open_raw, serving)


async def test_max_connections_beyond_the_descriptors_is_warned_about(programs: Programs) -> None:
    serving = await programs.serve("--max-connections", "1000", *QUIET, descriptors=256)
    assert serving.room == 144
    ended = await serving.stop()
    warning = (
        rb"WARNING sse_broadcast\.process:"
        rb" max_connections: 1000 needs more file descriptors than allowed, using 144\n"
    )
    assert re.fullmatch(LINE + warning, ended.err)


# Reload.

FIRST, SECOND = "the-first-token.0123456789", "the-second-token.0123456789"


def with_token(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


async def next_message(process: Process) -> str:
    """Return the message of the next line of a log that has warnings and errors, as JSON."""
    return str(json.loads(await process.error_line())["message"])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_sighup_has_the_file_read_again(
    programs: Programs, open_raw: Open, file: Path, loop: str
) -> None:
    """A new token is good and the old is not; a stream goes on; a flag still beats the file."""
    file.write_text(f'token = "{FIRST}"\nlog_level = "warning"\nretry = 1000\n')
    serving = await programs.serve("--config", str(file), "--event-loop", loop, "--retry", "5")
    reading, asking = await open_raw(serving), await open_raw(serving)
    await reading.subscribe(headers=with_token(FIRST))
    assert b"retry: 1000" not in await reading.chunk()
    file.write_text(f'token = "{SECOND}"\nlog_level = "info"\nretry = 2000\nheartbeat = 9.0\n')
    serving.process.send_signal(signal.SIGHUP)
    # The level was another when this was said.
    assert await next_message(serving.process) == "reload: changed: token, log_level"
    assert await next_message(serving.process) == "reload: unchanged until a restart: heartbeat"
    assert (await asking.ask("POST", "/send", body=b"x", headers=with_token(FIRST)))[0] == 401
    assert (await asking.ask("POST", "/send", body=b"still here", headers=with_token(SECOND)))[0] == 200
    assert await next_data(reading) == "still here"
    file.write_text(f'token = "{SECOND}"\nlog_level = "error"\n')
    serving.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        while (await asking.ask("POST", "/reload", headers=with_token(SECOND)))[1] != UNCHANGED:
            pass
    ended = await serving.stop()
    assert (ended.code, b"stopping" in ended.err) == (0, False)


UNCHANGED = b'{"status":"reloaded","changed":[],"restart":[]}\n'


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("queue_size = ", "{file}: is not TOML: Invalid value (at end of document)"),
        ("queue_sise = 5\n", "{file}: queue_sise: no such setting; did you mean queue_size?"),
        ('queue_size = "5"\n', "{file}: queue_size: expected a whole number, at least 1, not '5'"),
        ('token = "short"\n', "token: must have 16 to 8192 characters, not 5"),
        (
            '[[caller]]\nname = "a"\ntoken_env = "NONE"\n',
            "[[caller]] 'a': token_env: the environment variable 'NONE' is not set",
        ),
        ('token_file = "/none"\n', "token_file: '/none' cannot be read: No such file or directory"),
        ("", "token: no credential or grant is left, and only a restart may remove the last one"),
        (b"\xff", "{file}: is not UTF-8 at byte 0"),
        (None, "{file}: cannot be read: No such file or directory"),
        ("pipe", "{file}: is not a file that can be read again"),
    ],
    ids=["TOML", "key", "type", "token", "variable", "token file", "empty", "bytes", "gone", "pipe"],
)  # fmt: skip
async def test_sighup_with_a_bad_file_changes_nothing(
    programs: Programs, open_raw: Open, file: Path, loop: str, content: str | bytes | None, reason: str
) -> None:
    """One line says what is wrong, where, and which value; streams stay, and a good file is taken again."""
    good = f'token = "{FIRST}"\nlog_level = "warning"\n'
    file.write_text(good)
    serving = await programs.serve("--config", str(file), "--event-loop", loop)
    reading, asking = await open_raw(serving), await open_raw(serving)
    await reading.subscribe(headers=with_token(FIRST))
    await reading.chunk()
    file.unlink()
    if content == "pipe":
        os.mkfifo(file)
    elif content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    serving.process.send_signal(signal.SIGHUP)
    assert await next_message(serving.process) == f"reload: nothing changed: {reason.format(file=file)}"
    status, body = await asking.ask("POST", "/reload", headers=with_token(FIRST))
    assert (status, json.loads(body)["detail"]) == (422, reason.format(file=file))
    assert await next_message(serving.process) == f"reload: nothing changed: {reason.format(file=file)}"
    assert (await asking.ask("POST", "/send", body=b"still here", headers=with_token(FIRST)))[0] == 200
    assert await next_data(reading) == "still here"
    file.unlink(missing_ok=True)
    file.write_text(good)
    assert await asking.ask("POST", "/reload", headers=with_token(FIRST)) == (200, UNCHANGED)
    assert await serving.stop() == Ended(0)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_file_that_cannot_be_read_to_its_end_does_not_put_off_the_exit(
    programs: Programs, tmp_path: Path, loop: str
) -> None:
    """A disk that has gone away may keep a reload for ever."""
    file = tmp_path / "token"
    file.write_text(FIRST)
    serving = await programs.serve("--token-file", str(file), "--event-loop", loop, *QUIET)
    file.unlink()
    os.mkfifo(file)
    serving.process.send_signal(signal.SIGHUP)
    pipe = await opened_for_writing(file)
    try:
        assert await serving.stop() == Ended(0)
    finally:
        os.close(pipe)


async def opened_for_writing(pipe: Path) -> int:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                await asyncio.sleep(0.01)


async def test_a_supervisor_is_told_of_a_reload_and_its_end(programs: Programs, tmp_path: Path) -> None:
    """Whether it has changed something or not, with the time of its beginning (systemd's notify-reload)."""
    path, file = tmp_path / "notify", tmp_path / "c.toml"
    file.write_text("queue_size = 5\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
        supervisor.setblocking(False)
        loop = asyncio.get_running_loop()
        serving = await programs.serve("--config", str(file), *QUIET, env={"NOTIFY_SOCKET": str(path)})
        ready = f"READY=1\nSTATUS=listens on {serving.url}".encode()
        async with asyncio.timeout(PATIENCE):
            assert await loop.sock_recv(supervisor, 4096) == ready
            for content in ("queue_size = 6\n", "queue_size = \n"):
                file.write_text(content)
                serving.process.send_signal(signal.SIGHUP)
                said = await loop.sock_recv(supervisor, 4096)
                assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", said)
                assert await loop.sock_recv(supervisor, 4096) == ready


# On a terminal, and elsewhere.


async def test_a_pipe_has_json_logs_alone(programs: Programs) -> None:
    """Whatever reads them, a container's log for one, gets an object a line and nothing else."""
    serving = await programs.start(SCRIPT, "serve", "--port", "0", env={"SSE_BROADCAST_BANNER": "false"})
    first = json.loads(await serving.error_line())
    assert re.fullmatch(r"started: version \S+ listens on http://127\.0\.0\.1:\d+", first["message"])
    serving.send_signal(signal.SIGTERM)
    ended = await serving.ended()
    assert (ended.code, ended.out) == (0, b"")
    assert all(json.loads(line) for line in ended.err.splitlines())


@pytest.mark.parametrize(("banner", "shown"), [(None, False), (True, True), (False, False)])
def test_the_banner_is_for_a_terminal_unless_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
    banner: bool | None,  # noqa: FBT001
    shown: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert shows_banner(banner) is shown


async def test_a_terminal_has_the_banner(terminal: Start) -> None:
    started = await terminal("serve", "--port", "0")
    await started.shows(
        lambda lines: any(line.startswith("sse-broadcast listens on http://") for line in lines)
    )
    started.type(b"\x03")
    assert await started.ended() == 0
