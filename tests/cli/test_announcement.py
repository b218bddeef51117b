"""What `serve` says once it listens."""

import asyncio
import logging
import shlex
from pathlib import Path

import pytest
import trustme

from sse_broadcast.cli.announcement import FORCED, MADE, announce
from sse_broadcast.config import Endpoint, ListenerRule
from sse_broadcast.server.run import Server
from tests.conftest import Program, Serve
from tests.support.certificates import write_certificate

TOKEN = "a token of twenty-two or more characters".replace(" ", "-")


def said(server: Server, capsys: pytest.CaptureFixture[str]) -> list[str]:
    announce(server)
    return capsys.readouterr().out.splitlines()


def header(token: str) -> str:
    return f"-H 'Authorization: Bearer {token}'"


VARIABLE = '-H "Authorization: Bearer $TOKEN"'


async def test_an_open_server_says_two_lines_to_try(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """On this machine nothing is needed."""
    server = await serve()
    assert said(server, capsys) == [
        f"sse-broadcast listens on {server.url}, with room for {server.room} connections. Try:",
        f"  curl -N {server.url}/events",
        f"  curl -d hello {server.url}/send",
    ]


async def test_an_exposed_server_shows_the_token_it_made(
    serve: Serve, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Once, where it is used, and in no log."""
    caplog.set_level(logging.DEBUG)
    server = await serve(host="0.0.0.0")
    assert server.token is not None
    lines = said(server, capsys)
    assert lines == [
        f"sse-broadcast listens on {server.url}, with room for {server.room} connections. Try:",
        f"  curl -N {server.url}/events",
        f"  curl {header(server.token)} -d hello {server.url}/send",
        MADE,
    ]
    assert "\n".join(lines).count(server.token) == 1
    assert server.token not in caplog.text


async def test_what_is_shown_works(
    serve: Serve, capsys: pytest.CaptureFixture[str], program: Program
) -> None:
    """As it is printed, and not without its token."""
    curl = str(program("curl"))
    server = await serve(host="0.0.0.0")
    publish = shlex.split(said(server, capsys)[2])[1:]
    assert await run(curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", *publish) == b"200"
    bare = [word for word in publish if "Bearer" not in word and word != "-H"]
    assert await run(curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", *bare) == b"401"


async def run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out


async def test_a_server_with_credentials_shows_none(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Where one is needed there is a variable."""
    server = await serve(token=TOKEN)
    lines = said(server, capsys)
    assert lines[1:] == [
        f"  curl -N {VARIABLE} {server.url}/events",
        f"  curl {VARIABLE} -d hello {server.url}/send",
    ]
    assert TOKEN not in "\n".join(lines)


@pytest.mark.parametrize(("granted", "shown"), [("*", ""), ("news", f"{VARIABLE} ")])
async def test_what_anyone_may_do_needs_no_token(
    serve: Serve, capsys: pytest.CaptureFixture[str], granted: str, shown: str
) -> None:
    """If it is granted for the channel that is tried."""
    server = await serve(token=TOKEN, anonymous_subscribe=(granted,))
    assert said(server, capsys)[1] == f"  curl -N {shown}{server.url}/events"


async def test_publishing_that_was_forced_open_is_said_so(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the token is shown where it is still needed."""
    server = await serve(host="0.0.0.0", insecure_publish=True)
    assert said(server, capsys)[1:] == [
        f"  curl -N {server.url}/events",
        f"  curl -d hello {server.url}/send",
        f"  curl {header(server.token or '')} {server.url}/status",
        MADE,
        FORCED,
    ]


async def test_a_token_that_is_also_for_subscribing_is_shown_once(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what only it can do."""
    server = await serve(host="0.0.0.0", anonymous_subscribe=("news",))
    assert said(server, capsys)[1:] == [
        f"  curl {header(server.token or '')} -d hello {server.url}/send",
        MADE,
    ]


async def test_every_listener_is_named(
    serve: Serve, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With what it serves, if that is not all; what is tried is tried where it is served."""
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
    assert said(server, capsys) == [
        f"sse-broadcast listens, with room for {server.room} connections, on",
        f"  {world} (subscribe)",
        f"  unix:{path}",
        f"  {private} (inspect, admin)",
        "Try:",
        f"  curl -N {world}/events",
        f"  curl --unix-socket '{path}' -d hello http://localhost/send",
    ]


@pytest.mark.parametrize(
    ("endpoints", "line"),
    [
        ((Endpoint.INSPECT, Endpoint.ADMIN), "curl {header} {url}/status"),
        ((Endpoint.ADMIN,), """curl {header} -d '{{"grants": {{"subscribe": ["*"]}}}}' {url}/tokens"""),
    ],
)
async def test_a_token_that_was_made_is_always_shown(
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    endpoints: tuple[Endpoint, ...],
    line: str,
) -> None:
    """Also where nothing can be published, and though what is local needs none."""
    server = await serve(
        listener=(
            ListenerRule(host=f"unix:{tmp_path / 'x'}"),
            ListenerRule(host="0.0.0.0", port=0, endpoints=endpoints),
        )
    )
    assert server.token is not None
    lines = said(server, capsys)
    assert lines[-2:] == ["  " + line.format(header=header(server.token), url=server.url), MADE]
    assert "\n".join(lines).count(server.token) == 1


async def test_a_private_certificate_is_taken_as_it_is(
    serve: Serve, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By what is tried."""
    certificate, key = write_certificate(trustme.CA(), tmp_path)
    server = await serve(certificate=certificate, key=key)
    assert said(server, capsys)[1:] == [
        f"  curl -kN {server.url}/events",
        f"  curl -k -d hello {server.url}/send",
    ]
    rule = ListenerRule(host=f"unix:{tmp_path / 'x'}", certificate=certificate, key=key)
    server = await serve(listener=(rule,))
    assert said(server, capsys)[1:] == [
        f"  curl -kN --unix-socket {tmp_path / 'x'} https://localhost/events",
        f"  curl -k --unix-socket {tmp_path / 'x'} -d hello https://localhost/send",
    ]
