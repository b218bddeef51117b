"""Banner: the lines that `serve` prints once it listens."""

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest
import trustme

import sse_broadcast
from sse_broadcast.cli import banner
from sse_broadcast.cli.banner import FORCED, MADE, NEEDED, print_banner
from sse_broadcast.config.schema import Config, Endpoint, ListenerRule, Overflow
from sse_broadcast.server.runner import Server
from tests.cli.test_serve import has_ipv6
from tests.conftest import Program, Serve
from tests.support.certificates import LONG_AGO, write_certificate

TOKEN = "a token of twenty-two or more characters".replace(" ", "-")


def banner_lines(server: Server, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that it says: what it is in four, `Try:`, and what to try."""
    print_banner(server, server.config, shown=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == "Try:"
    assert all(line.startswith("  curl ") for line in lines[5:])
    return lines


def tries(server: Server, capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.removeprefix("  ") for line in banner_lines(server, capsys)[5:]]


def header(token: str | None) -> str:
    return f"-H 'Authorization: Bearer {token}'"


VARIABLE = '-H "Authorization: Bearer $TOKEN"'

VERSION = f"Version {sse_broadcast.__version__} on asyncio: "

LIMITS = "Limits: {} an event; {} waiting for a subscriber, then {}; {} connections an address."

EVERYTHING = "Open to programs on this machine: everything."


async def test_a_banner_has_five_lines_and_commands_to_try(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    room = f"room for {server.room} connections, and 24 more for callers with admin"
    assert banner_lines(server, capsys) == [
        f"sse-broadcast listens on {server.url}, with {room}.",
        VERSION + "a history of 1000 events and 3600 s a channel in memory, metrics, log level info.",
        LIMITS.format("1 MiB", "1000 events or 4 MiB", "disconnect", 1000),
        EVERYTHING,
        "Try:",
        f"  curl -N {server.url}/events",
        f"  curl -d hello {server.url}/send",
    ]


async def test_the_banner_has_the_configured_values(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = await serve(
        history_size=7,
        history_age=0.5,
        metrics=False,
        log_level="debug",
        max_event=5 * 1024,
        queue_size=3,
        queue_bytes=10_001,
        overflow=Overflow.CONFLATE,
        max_connections_per_address=0,
    )
    assert banner_lines(server, capsys)[1:3] == [
        VERSION + "a history of 7 events and 0.5 s a channel in memory, no metrics, log level debug.",
        LIMITS.format("5 KiB", "3 events or 10001 bytes", "conflate", "any number of"),
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "*"])
async def test_a_public_server_prints_its_generated_token(
    serve: Serve, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, host: str
) -> None:
    """It is printed once, in a command, and never logged. No client can connect to `0.0.0.0` or `*`."""
    caplog.set_level(logging.DEBUG)
    server = await serve(host=host)
    assert server.token is not None
    lines = banner_lines(server, capsys)
    assert lines[0].startswith(f"sse-broadcast listens on http://0.0.0.0:{server.port}, ")
    assert lines[3] == f"Open to everyone: subscribe to *. {MADE}"
    assert lines[5:] == [
        f"  curl -N http://localhost:{server.port}/events",
        f"  curl {header(server.token)} -d hello http://localhost:{server.port}/send",
    ]
    assert "\n".join(lines).count(server.token) == 1
    assert server.token not in caplog.text


@pytest.mark.parametrize(("host", "shown"), [("::", "[::]"), ("[::]", "[::]")])
async def test_all_addresses_of_both_families_are_one_line(
    serve: Serve, capsys: pytest.CaptureFixture[str], host: str, shown: str
) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    server = await serve(host=host)
    lines = banner_lines(server, capsys)
    assert lines[0].startswith(f"sse-broadcast listens on http://{shown}:{server.port}, ")
    assert lines[5] == f"  curl -N http://localhost:{server.port}/events"


async def test_the_printed_commands_work(
    serve: Serve, capsys: pytest.CaptureFixture[str], program: Program
) -> None:
    program("curl")
    server = await serve(host="0.0.0.0")
    publish = tries(server, capsys)[1]
    assert (await answer(publish))["status"] == "sent"
    assert server.token is not None
    assert (await answer(publish.replace(server.token, "x" * 43)))["status"] == 401


async def answer(line: str, **env: str) -> dict[str, object]:
    """Run a printed command in a shell, and return the JSON of its output."""
    process = await asyncio.create_subprocess_shell(
        f"{line} -sS", stdout=asyncio.subprocess.PIPE, env={**os.environ, **env}
    )
    out, _ = await process.communicate()
    found: dict[str, object] = json.loads(out)
    return found


async def test_a_server_with_credentials_prints_none(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await serve(token=TOKEN)
    lines = banner_lines(server, capsys)
    assert lines[3] == f"Open to everyone: nothing. {NEEDED}"
    assert lines[5:] == [
        f"  curl -N {VARIABLE} {server.url}/events",
        f"  curl {VARIABLE} -d hello {server.url}/send",
    ]
    assert TOKEN not in "\n".join(lines)


@pytest.mark.parametrize(("granted", "shown"), [("*", ""), ("news", f"{VARIABLE} ")])
async def test_a_command_with_an_anonymous_grant_has_no_token(
    serve: Serve, capsys: pytest.CaptureFixture[str], granted: str, shown: str
) -> None:
    """The grant must be for the channel of the command."""
    server = await serve(token=TOKEN, anonymous_subscribe=(granted,), anonymous_publish=("a", "b.*"))
    lines = banner_lines(server, capsys)
    assert lines[3] == f"Open to everyone: subscribe to {granted} and publish to a, b.*. {NEEDED}"
    assert lines[5] == f"  curl -N {shown}{server.url}/events"


async def test_insecure_publish_is_mentioned(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The token is printed where it is still needed."""
    server = await serve(host="0.0.0.0", insecure_publish=True)
    lines = banner_lines(server, capsys)
    assert lines[3] == f"Open to everyone: subscribe to * and publish to *. {FORCED} {MADE}"
    here = f"http://localhost:{server.port}"
    assert lines[5:] == [
        f"  curl -N {here}/events",
        f"  curl -d hello {here}/send",
        f"  curl {header(server.token)} {here}/status",
    ]


async def test_a_token_for_both_commands_is_printed_once(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await serve(host="0.0.0.0", anonymous_subscribe=("news",))
    assert tries(server, capsys) == [
        f"curl {header(server.token)} -d hello http://localhost:{server.port}/send"
    ]


async def test_every_listener_is_printed(
    serve: Serve, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It has its endpoints unless it has all. Each command uses a listener with its endpoint."""
    path = tmp_path / "a socket"
    server = await serve(
        listener=(
            ListenerRule(host="0.0.0.0", port=0, endpoints=(Endpoint.SUBSCRIBE,)),
            ListenerRule(host=f"unix:{path}"),
            ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.INSPECT, Endpoint.ADMIN)),
        )
    )
    world, _, private = server.urls
    assert server.token is None
    lines = banner_lines(server, capsys)
    assert lines[0] == (
        f"sse-broadcast listens on {world} (subscribe), unix:{path}, {private} (inspect, admin), "
        f"with room for {server.room} connections, {server.private_share} of them only for private"
        " listeners, and 24 more for callers with admin."
    )
    assert lines[3] == "Open to programs on this machine: everything; to everyone: subscribe to *."
    assert lines[5:] == [
        f"  curl -N http://localhost:{server.port}/events",
        f"  curl --unix-socket '{path}' -d hello http://localhost/send",
    ]


ASK = "curl {} http://localhost:{}/status"

MAKE = "curl {} -H 'Content-Type: application/json' -d '{}' http://localhost:{}/tokens"

WISH = '{"grants": {"subscribe": ["*"]}}'


@pytest.mark.parametrize("endpoints", [(Endpoint.INSPECT, Endpoint.ADMIN), (Endpoint.ADMIN,)])
async def test_a_generated_token_is_always_printed(
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    program: Program,
    tmp_path: Path,
    endpoints: tuple[Endpoint, ...],
) -> None:
    """This holds where nothing can be published, and where local clients need none. It works as printed."""
    program("curl")
    server = await serve(
        listener=(
            ListenerRule(host=f"unix:{tmp_path / 'x'}"),
            ListenerRule(host="0.0.0.0", port=0, endpoints=endpoints),
        )
    )
    assert server.token is not None
    lines = banner_lines(server, capsys)
    assert lines[3] == f"Open to programs on this machine: everything; to everyone: nothing. {MADE}"
    shown, port = header(server.token), server.port
    line = ASK.format(shown, port) if Endpoint.INSPECT in endpoints else MAKE.format(shown, WISH, port)
    assert lines[-1] == f"  {line}"
    assert "\n".join(lines).count(server.token) == 1
    assert {"connected_clients", "token"} & (await answer(lines[-1])).keys()


# Certificates, which curl must verify before it sends a token.


async def test_a_command_trusts_the_certificate_in_its_role(
    serve: Serve, capsys: pytest.CaptureFixture[str], program: Program, tmp_path: Path
) -> None:
    program("curl")
    certificate, key = write_certificate(trustme.CA(), tmp_path)
    server = await serve(certificate=certificate, key=key)
    trusting = f"--cacert {certificate}"
    subscribe, publish = tries(server, capsys)
    assert subscribe == f"curl -N {trusting} {server.url}/events"
    assert publish == f"curl {trusting} -d hello {server.url}/send"
    assert (await answer(publish))["status"] == "sent"


@pytest.mark.parametrize(("name", "called"), [("push.example.com", "push.example.com"), ("*.b.c", "www.b.c")])
async def test_a_command_uses_the_name_of_the_certificate(
    serve: Serve, capsys: pytest.CaptureFixture[str], program: Program, tmp_path: Path, name: str, called: str
) -> None:
    program("curl")
    certificate, key = write_certificate(trustme.CA(), tmp_path, name)
    server = await serve(host="0.0.0.0", certificate=certificate, key=key)
    _, publish = tries(server, capsys)
    port = server.port
    assert publish == (
        f"curl --cacert {certificate} --connect-to ::localhost:{port} {header(server.token)} -d hello "
        f"https://{called}:{port}/send"
    )
    assert (await answer(publish))["status"] == "sent"


async def test_a_unix_socket_may_have_a_certificate(
    serve: Serve, capsys: pytest.CaptureFixture[str], program: Program, tmp_path: Path
) -> None:
    """The command has the certificate's name, and needs no --resolve."""
    program("curl")
    certificate, key = write_certificate(trustme.CA(), tmp_path, "push.example.com")
    path = tmp_path / "x"
    server = await serve(listener=(ListenerRule(host=f"unix:{path}", certificate=certificate, key=key),))
    _, publish = tries(server, capsys)
    assert publish == (
        f"curl --cacert {certificate} --unix-socket {path} -d hello https://push.example.com/send"
    )
    assert (await answer(publish))["status"] == "sent"


async def test_a_certificate_that_no_client_trusts_is_warned_about(
    serve: Serve, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The server uses it, and the commands do not verify it."""
    certificate, key = write_certificate(trustme.CA(), tmp_path, expires=LONG_AGO)
    server = await serve(certificate=certificate, key=key)
    assert tries(server, capsys) == [f"curl -N -k {server.url}/events", f"curl -k -d hello {server.url}/send"]
    warned = f"certificate: {certificate}: certificate has expired"
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING] == [warned]


# Without a terminal.


async def test_a_start_is_logged_too(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The line has the version and the addresses as fields."""
    caplog.set_level(logging.INFO, banner.logger.name)
    print_banner(server, Config(), shown=True)
    (record,) = [record for record in caplog.records if record.name == banner.logger.name]
    assert record.getMessage() == f"started: version {sse_broadcast.__version__} listens on {server.url}"
    assert record.args == {"version": sse_broadcast.__version__, "urls": server.url}


async def test_without_the_banner_there_is_the_log_alone(
    server: Server, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, banner.logger.name)
    print_banner(server, server.config, shown=False)
    assert capsys.readouterr().out == ""
    started = f"started: version {sse_broadcast.__version__} listens on {server.url}"
    assert [each.getMessage() for each in caplog.records if each.name == banner.logger.name] == [started]


async def test_without_the_banner_a_token_that_was_made_is_logged_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """In a line of its own: nobody else ever knows it."""
    server = await serve(host="0.0.0.0", allowed_hosts=())
    assert server.token is not None
    caplog.set_level(logging.INFO, banner.logger.name)
    print_banner(server, server.config, shown=False)
    with_token = [each for each in caplog.records if server.token in each.getMessage()]
    (record,) = with_token
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"no token is configured: made one for this run; to keep one, set token_file: {server.token}"
    )
    caplog.clear()
    print_banner(server, server.config, shown=True)
    assert not [each for each in caplog.records if server.token in each.getMessage()]
