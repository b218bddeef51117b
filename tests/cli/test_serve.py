"""`sse-broadcast serve`: the real command, its signals and its output."""

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
"""The format of a terminal."""

QUIET = ("--log-level", "warning", *TEXT)
"""Standard error is then empty unless there is a problem."""

LINE = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
"""The time at the beginning of a log line."""

CUT = rb"WARNING sse_broadcast\.process: stopped by a second signal: open streams were aborted\n"
"""The last log line after a second signal."""

OPENING = rb': \nretry: \d+\nevent: \$open\ndata: \{"heartbeat": 4\}\nid: [0-9a-f]{8}-\d+\n\n'
"""The first bytes of a stream: the reconnection time and the cursor."""

DRAIN = '{"reason": "drain"}'

Open = Callable[..., Awaitable[RawClient]]
Start = Callable[..., Awaitable[Terminal]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


@pytest.fixture
async def open_raw() -> AsyncIterator[Open]:
    """Open raw sockets to a server in its own process, and close them when the test ends."""
    with ExitStack() as stack:

        async def open_one(serving: Serving, *, receive_buffer: int = 0) -> RawClient:
            client = await RawClient.open(serving.port, receive_buffer=receive_buffer)
            stack.callback(client.close)
            return client

        yield open_one


async def open_stream(open_raw: Open, serving: Serving, *, receive_buffer: int = 0) -> RawClient:
    """Return a subscriber that has its first frames."""
    client = await open_raw(serving, receive_buffer=receive_buffer)
    head = await client.subscribe()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.fullmatch(OPENING, await client.chunk())
    return client


async def frozen_subscriber(open_raw: Open, serving: Serving) -> RawClient:
    """Return a subscriber that reads no more and whose socket is full."""
    client = await open_stream(open_raw, serving, receive_buffer=4096)
    publisher = await open_raw(serving)
    for _ in range(24):
        status, _ = await publisher.ask("POST", "/send", body=b"x" * 65_536)
        assert status == 200
    # The rest waits in the server, which has not disconnected it yet.
    _, body = await publisher.ask("GET", "/status")
    assert json.loads(body)["connected_clients"] == 1
    return client


def refused(reason: str) -> bytes:
    """Return the pattern of a refusal as a stream, up to the subscriber's last id."""
    return rb'event: \$close\nretry: \d{5}\ndata: \{"reason": "%b"\}\n' % reason.encode()


FREEZING = ("--send-buffer", "16384", "--write-timeout", "600")
"""A socket is then soon full, and only the shutdown ends its stream."""


# Output.


async def test_serve_prints_its_address_and_commands_to_try(programs: Programs, program: Program) -> None:
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


async def test_an_ipv6_address_is_printed_as_a_url(programs: Programs, program: Program) -> None:
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


async def test_show_config_has_the_source_of_each_setting(programs: Programs, file: Path) -> None:
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
    """Return the output of --show-config for a valid configuration."""
    shown = await programs.run("serve", *arguments, "--show-config", env=env)
    assert (shown.code, shown.err) == (0, b"")
    return shown


def as_toml(config: Config) -> dict[str, object]:
    """Return the plain settings of a configuration in TOML."""
    values = {name: getattr(config, name) for name in SETTINGS}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return values | {name: str(value) for name, value in values.items() if isinstance(value, str)} | lists


async def test_the_output_of_show_config_is_a_configuration_file(programs: Programs, file: Path) -> None:
    odd = 'a "quoted" \\ \U0001f600 é \t\x7f path'
    first = await programs.run("serve", "--certificate", odd, "--heartbeat", "0.01", "--show-config")
    file.write_bytes(first.out)
    second = await programs.run("serve", "--show-config", env={"SSE_BROADCAST_CONFIG": str(file)})
    assert (second.code, second.err) == (0, b"")
    assert tomllib.loads(second.out.decode()) == tomllib.loads(first.out.decode())
    assert tomllib.loads(first.out.decode())["certificate"] == odd
    assert second.out.count(f"# {file}\n".encode()) == len(SETTINGS)


async def test_shown_rules_can_be_loaded(programs: Programs, file: Path) -> None:
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


async def test_tables_are_shown_without_secrets(programs: Programs, file: Path) -> None:
    file.write_text(TABLES.replace("(not shown)", "a-token-of-the-shop"))
    shown = await show_config(programs, "--config", str(file))
    text = shown.out.decode()
    assert text.endswith("\n\n" + re.sub(r"(?m)^(\[\[.*)$", rf"\1  # {file}", TABLES))
    places = ["host", "port", "certificate", "key"]
    assert list(tomllib.loads(text)) == [*(each for each in SETTINGS if each not in places), *RULES]


async def test_no_secret_in_a_url_is_shown(programs: Programs) -> None:
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


async def test_a_placeholder_of_a_secret_does_not_start_a_server(programs: Programs, file: Path) -> None:
    """Everyone who can read the output would know the secret."""
    shown = await programs.run("serve", "--show-config", env={"SSE_BROADCAST_TOKEN": "a-token-of-somebody"})
    file.write_bytes(shown.out)
    assert await programs.run("serve", "--config", str(file)) == Ended(
        2, err=b"sse-broadcast: token: '(not shown)' stands for a secret, and is not one\n"
    )


async def test_a_switch_has_no_value(programs: Programs) -> None:
    """The flag switches it on. The variable is true or false."""
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


async def test_an_unknown_variable_is_warned_about(programs: Programs) -> None:
    """The warning has the probable name. The server starts."""
    env = {"SSE_BROADCAST_QUEUESIZE": "5", "SSE_BROADCAST_SERVICE_HOST": "10.0.0.1", "SSE_BROADCAST_URL": "x"}
    serving = await programs.serve(*QUIET, env=env)
    ended = await serving.stop()
    assert (ended.code, ended.out) == (0, b"")
    assert re.fullmatch(LINE + MISSPELT, ended.err)


async def test_show_config_warns_about_an_unknown_variable(
    programs: Programs,
) -> None:
    """Standard output stays a configuration file."""
    shown = await programs.run("serve", *TEXT, "--show-config", env={"SSE_BROADCAST_QUEUESIZE": "5"})
    assert (shown.code, set(tomllib.loads(shown.out.decode()))) == (0, set(SETTINGS))
    assert re.fullmatch(LINE + MISSPELT, shown.err)


async def test_service_links_of_kubernetes_are_ignored(programs: Programs) -> None:
    """A service named sse-broadcast gives every pod variables with the prefix of this program."""
    env = {"SSE_BROADCAST_PORT": "tcp://10.0.0.1:80", "SSE_BROADCAST_SERVICE_PORT": "80"}
    shown = await show_config(programs, env=env)
    assert re.search(rb"^port = 8000 +# default$", shown.out, re.MULTILINE)


# Ending.


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
async def test_a_signal_ends_every_stream_cleanly(
    programs: Programs, open_raw: Open, number: signal.Signals, loop: str
) -> None:
    """Each subscriber gets the reason, a reconnection time and its id, then the end of the body.

    The exit code is 0.
    """
    serving = await programs.serve("--event-loop", loop, "--retry", "1000", *QUIET)
    subscribers = [await open_stream(open_raw, serving) for _ in range(3)]
    idle = await open_raw(serving)
    await idle.ask("GET", "/status")
    serving.process.send_signal(number)
    for client in subscribers:
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


async def test_published_events_come_before_the_close(programs: Programs, open_raw: Open) -> None:
    serving = await programs.serve(*QUIET)
    client, publisher = await open_stream(open_raw, serving), await open_raw(serving)
    for _ in range(50):
        await publisher.ask("POST", "/send", body=b"x" * 50_000)
    serving.process.send_signal(signal.SIGTERM)
    *found, end = await client.events(51)
    assert [len(event.data) for event in found] == [50_000] * 50
    assert (end.type, end.data, end.id) == ("$close", DRAIN, found[-1].id)
    assert await client.chunk() == b""
    assert await serving.process.ended() == Ended(0)


async def test_start_and_stop_are_logged(programs: Programs) -> None:
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
async def test_a_frozen_subscriber_does_not_delay_the_exit(
    programs: Programs, open_raw: Open, loop: str
) -> None:
    serving = await programs.serve("--event-loop", loop, "--shutdown-timeout", "2", *FREEZING, *QUIET)
    frozen = await frozen_subscriber(open_raw, serving)
    clock = asyncio.get_running_loop().time
    reported = clock()
    assert await serving.stop() == Ended(0)
    # and the time in which a busy machine ends a process
    assert clock() - reported < 2 + PATIENCE / 10
    with pytest.raises(ConnectionResetError):
        await frozen.rest()


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
async def test_a_second_signal_exits_at_once(
    programs: Programs, open_raw: Open, number: signal.Signals
) -> None:
    """A frozen subscriber keeps the server draining. The exit code is a special one."""
    serving = await programs.serve("--shutdown-timeout", "3600", *FREEZING, *TEXT)
    await frozen_subscriber(open_raw, serving)
    other = await open_stream(open_raw, serving)
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
async def test_a_drain_makes_the_server_not_ready_before_it_ends_streams(
    programs: Programs, open_raw: Open, loop: str
) -> None:
    """For `drain_delay` new clients are served, and load balancers get the reason."""
    serving = await programs.serve("--event-loop", loop, "--drain-delay", "1.5", *QUIET)
    client, publisher, probe = [await open_raw(serving) for _ in range(3)]
    await client.subscribe()
    serving.process.send_signal(signal.SIGTERM)
    while (answer := await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    assert (answer[0], json.loads(answer[1])["detail"]) == (503, "draining: the server is shutting down")
    assert (await publisher.ask("POST", "/send", body=b"still"))[0] == 200
    late = await open_stream(open_raw, serving)
    (still,) = await client.events(1)
    assert still.data == "still"
    for each in (client, late):
        (event,) = await each.events(1)
        assert (event.type, event.data) == ("$close", DRAIN)
        assert await each.chunk() == b""
    assert await serving.process.ended() == Ended(0)


async def test_a_second_signal_ends_the_drain_delay(programs: Programs, open_raw: Open) -> None:
    serving = await programs.serve("--drain-delay", "3600", *QUIET)
    client, probe = await open_stream(open_raw, serving), await open_raw(serving)
    serving.process.send_signal(signal.SIGTERM)
    while (await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    ended = await serving.stop()
    assert ended.code == 5
    assert re.fullmatch(LINE + CUT, ended.err)
    assert b"$close" not in await client.rest()


async def test_a_second_signal_loses_no_log_line_of_streams(programs: Programs, open_raw: Open) -> None:
    serving = await programs.serve("--drain-delay", "3600", *TEXT)
    probe = await open_raw(serving)
    serving.process.send_signal(signal.SIGTERM)
    while (await probe.ask("GET", "/readyz"))[0] == 200:
        pass
    await open_stream(open_raw, serving)
    ended = await serving.stop()
    assert re.search(rb"stream 1 opened by 127\.0\.0\.1: default\n" + LINE + CUT + rb"\Z", ended.err)


SLOWLY = """\
import sys
from sse_broadcast import broadcaster
from sse_broadcast.cli import main
broadcaster.DRAIN_BATCH, broadcaster.DRAIN_INTERVAL = 1, 600.0
sys.exit(main())
"""
"""The command, with a slow drain that closes one stream at a time."""


async def test_a_second_signal_ends_the_waves(programs: Programs, open_raw: Open) -> None:
    """Streams of later waves are cut off."""
    flags = ("--port", "0", "--drain-timeout", "3600", *QUIET)
    command = await programs.start(sys.executable, "-c", SLOWLY, "serve", *flags)
    said = LISTENS.fullmatch(await command.line())
    assert said is not None
    serving = Serving(command, said[1].decode(), int(said[2]), int(said[3]), ("", ""))
    first, second = await open_stream(open_raw, serving), await open_stream(open_raw, serving)
    command.send_signal(signal.SIGTERM)
    assert (await first.events(1))[0].type == "$close"
    command.send_signal(signal.SIGTERM)
    ended = await command.ended()
    assert ended.code == 5
    assert re.fullmatch(LINE + CUT, ended.err)
    assert b"$close" not in await second.rest()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_requests_during_the_stop_are_answered(programs: Programs, open_raw: Open, loop: str) -> None:
    """Publishers and subscribers on open connections get a 503, browsers a reconnection time."""
    serving = await programs.serve("--event-loop", loop, "--shutdown-timeout", "4", *FREEZING)
    await frozen_subscriber(open_raw, serving)
    other = await open_stream(open_raw, serving)
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
    # Their responses closed these connections, before the end of the server.
    assert await connected(witness) == 0
    serving.process.send_signal(signal.SIGTERM)
    assert (await serving.process.ended()).code == 5


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_closing_a_terminal_ends_its_server(
    terminal: Callable[..., Awaitable[Terminal]], loop: str
) -> None:
    """While it is open SIGHUP is a reload. The second signal, sent by a shell, does not force the exit."""
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


# The log.


async def test_a_log_on_no_terminal_is_json(programs: Programs) -> None:
    """Each line is an object, and standard error has nothing else. The banner stays text."""
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


# Errors at the start.


async def test_a_port_in_use_is_3(programs: Programs) -> None:
    """The error is one line with the port, without a traceback."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert await programs.run("serve", "--port", str(port)) == Ended(
            3, err=f"sse-broadcast: cannot listen on 127.0.0.1 port {port}: address already in use\n".encode()
        )


async def test_an_address_of_another_machine_is_3(programs: Programs) -> None:
    """192.0.2.1 is assigned to no machine (RFC 5737)."""
    assert await programs.run("serve", "--host", "192.0.2.1", "--port", "9") == Ended(
        3, err=b"sse-broadcast: cannot listen on 192.0.2.1 port 9: cannot assign requested address\n"
    )


async def test_a_certificate_that_cannot_be_read_is_4(programs: Programs, tmp_path: Path) -> None:
    """The error is one line with the files."""
    certificate, key = tmp_path / "none.pem", tmp_path / "key.pem"
    ended = await programs.run("serve", "--port", "0", "--certificate", str(certificate), "--key", str(key))
    assert ended == Ended(
        4,
        err=f"sse-broadcast: certificate: cannot load {certificate}, {key}: "
        "no such file or directory\n".encode(),
    )


async def test_a_malformed_certificate_is_4(programs: Programs, tmp_path: Path) -> None:
    """Files of other kinds are refused too. The reason is OpenSSL's."""
    file = tmp_path / "server.pem"
    file.write_text("not a certificate\n")
    ended = await programs.run("serve", "--port", "0", "--certificate", str(file))
    assert (ended.code, ended.out) == (4, b"")
    assert re.fullmatch(f"sse-broadcast: certificate: cannot load {file}: .+\n".encode(), ended.err)


async def test_a_key_of_another_certificate_is_4(programs: Programs, tmp_path: Path) -> None:
    """It is found at the start, and not by the first client."""
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
    """The server does not prompt for it."""
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
    reported = f"sse-broadcast: certificate: cannot load {certificate}, {key}: .+\n"
    assert re.fullmatch(reported.encode(), ended.err)


@pytest.mark.parametrize(
    ("line", "code", "reported"),
    [
        ('host = "a..b"', 3, r"cannot listen on a\.\.b port 0: .+"),
        (f'host = "{"x" * 64}"', 3, "cannot listen on x{64} port 0: .+"),
        ('certificate = "\\u0000"', 4, "certificate: cannot load .+"),
    ],
    ids=["empty label", "long label", "NUL"],
)
async def test_an_impossible_name_is_one_line(
    programs: Programs, file: Path, line: str, code: int, reported: str
) -> None:
    """A host has an empty label or one of more than 63 letters, or a file name has a NUL."""
    file.write_text(f"port = 0\n{line}\n")
    ended = await programs.run("serve", "--config", str(file))
    assert (ended.code, ended.out) == (code, b"")
    assert re.fullmatch(f"sse-broadcast: {reported}\n".encode(), ended.err)


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
    """The error is one line with the setting and its value."""
    assert await programs.run("serve", *arguments) == Ended(2, err=f"sse-broadcast: {reason}\n".encode())


async def test_a_bad_variable_is_2(programs: Programs) -> None:
    """The error has the name of the variable, and not of the flag."""
    assert await programs.run("serve", env={"SSE_BROADCAST_PORT": "99999"}) == Ended(
        2, err=b"sse-broadcast: SSE_BROADCAST_PORT: expected a whole number from 0 to 65535, not '99999'\n"
    )


# TLS.


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_certificate_serves_https(
    programs: Programs, program: Program, tmp_path: Path, loop: str
) -> None:
    """curl accepts it by its authority, and with the printed command."""
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


# More connections than descriptors.

CROWD = 400

FULL = rb"WARNING sse_broadcast\.connections: full: 144 connections \(max_connections\), rejecting more\n"

BROWSER = "Accept: text/event-stream\r\n"


async def connect_and_subscribe(client: RawClient, *, headers: str = "") -> str:
    """Request a stream, and return the kind of response.

    A refusal must be complete and close its connection.
    """
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
    """Return the number of subscribers."""
    _, body = await publisher.ask("GET", "/status")
    return int(json.loads(body)["connected_clients"])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_more_clients_than_descriptors_do_not_break_the_server(
    programs: Programs, open_raw: Open, loop: str
) -> None:
    """With 256 descriptors it accepts 144 connections and logs it. More are refused or cut off."""
    serving = await programs.serve("--event-loop", loop, *QUIET, descriptors=256)
    assert serving.room == 144
    before = [await open_stream(open_raw, serving) for _ in range(5)]
    publisher = await open_raw(serving)

    async def come(number: int) -> tuple[str, RawClient]:
        client = await open_raw(serving)
        word = await connect_and_subscribe(client, headers=BROWSER if number % 2 else "")
        if word != "stream":
            client.close()
        return word, client

    crowd = await asyncio.gather(*map(come, range(CROWD)))
    words = Counter(word for word, _ in crowd)
    # Several accepted in one turn of the loop may get in before they are counted.
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
    late = await open_stream(open_raw, serving)
    await publisher.ask("POST", "/send", body=b"again")
    for client in [*before, late]:
        assert await next_data(client) == "again"
    ended = await serving.stop()
    assert (ended.code, ended.out) == (0, b"")
    assert re.fullmatch(rb"(" + LINE + FULL + rb")+", ended.err)


async def refused_in_turn(open_raw: Open, serving: Serving) -> None:
    """Assert that a full server refuses a program and a browser in the form of each."""
    for headers, word in (("", "503"), (BROWSER, "later")):
        async with asyncio.timeout(PATIENCE):
            # It is cut off while other rejected connections are still being closed.
            while (heard := await connect_and_subscribe(await open_raw(serving), headers=headers)) == "cut":
                pass
        assert heard == word


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_silent_connections_do_not_break_the_server(
    programs: Programs, open_raw: Open, loop: str
) -> None:
    """They may fill it. Its subscribers still get events, and there is room again after they leave."""
    serving = await programs.serve("--event-loop", loop, *QUIET, descriptors=256)
    client, publisher = await open_stream(open_raw, serving), await open_raw(serving)
    await connected(publisher)
    crowd = [await open_raw(serving) for _ in range(CROWD)]
    # A connected socket is not yet accepted: one closed before that would not fill the server.
    assert re.fullmatch(LINE + FULL, await serving.process.error_line())
    await publisher.ask("POST", "/send", body=b"hello")
    assert await next_data(client) == "hello"
    for silent in crowd:
        silent.close()
    async with asyncio.timeout(PATIENCE):
        while (await connect_and_subscribe(late := await open_raw(serving))) != "stream":
            await asyncio.sleep(0.01)
    assert re.fullmatch(OPENING, await late.chunk())
    await publisher.ask("POST", "/send", body=b"again")
    for reading in (client, late):
        assert await next_data(reading) == "again"
    ended = await serving.stop()
    assert (ended.code, ended.out) == (0, b"")
    assert re.fullmatch(rb"(" + LINE + FULL + rb")*", ended.err)


async def test_max_connections_is_logged_and_applied(programs: Programs, open_raw: Open) -> None:
    serving = await programs.serve("--max-connections", "2", *QUIET)
    assert serving.room == 2
    for _ in range(2):
        await open_stream(open_raw, serving)
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
    """Return the message of the next warning or error in a JSON log."""
    return str(json.loads(await process.error_line())["message"])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_sighup_reloads_the_file(programs: Programs, open_raw: Open, file: Path, loop: str) -> None:
    """The new token is accepted and the old one is not. Streams stay, and a flag still precedes the file."""
    file.write_text(f'token = "{FIRST}"\nlog_level = "warning"\nretry = 1000\n')
    serving = await programs.serve("--config", str(file), "--event-loop", loop, "--retry", "5")
    reading, asking = await open_raw(serving), await open_raw(serving)
    await reading.subscribe(headers=with_token(FIRST))
    assert b"retry: 1000" not in await reading.chunk()
    file.write_text(f'token = "{SECOND}"\nlog_level = "info"\nretry = 2000\nheartbeat = 9.0\n')
    serving.process.send_signal(signal.SIGHUP)
    # This line has the earlier level.
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
    """One line has the error, the place and the value. Streams stay, and a good file is loaded afterwards."""
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
async def test_a_file_that_cannot_be_read_does_not_delay_the_exit(
    programs: Programs, tmp_path: Path, loop: str
) -> None:
    """A disk that does not respond may block a reload for ever."""
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


async def test_systemd_is_notified_of_a_reload_and_its_end(programs: Programs, tmp_path: Path) -> None:
    """A failed one is reported too, each with the time of its start (Type=notify-reload)."""
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
