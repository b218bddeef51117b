"""`serve --check`: its checks and their results."""

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from tests.support import process
from tests.support.certificates import LONG_AGO, write_certificate
from tests.support.credentials import write_jwks
from tests.support.process import Ended, Programs

programs = pytest.fixture(process.programs)

BACKEND = "backend: good, memory, no server to reach\n"

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
"""The limit of file descriptors."""

LISTENERS = "listeners: not tried, a server may be running there: "


async def check(programs: Programs, *arguments: str, **options: Any) -> Ended:
    return await programs.run("serve", *arguments, "--check", **options)


async def test_a_good_configuration_is_reported(programs: Programs) -> None:
    room = f"room for {DESCRIPTORS - 112} connections, and 24 more for callers with admin"
    assert await check(programs) == Ended(
        0,
        f"settings: good, from defaults only\ncredentials: good, none are needed\n{BACKEND}"
        f"connections: {room}, with {DESCRIPTORS} descriptors\n{LISTENERS}127.0.0.1 port 8000\n".encode(),
    )


async def test_the_share_of_private_listeners_is_reported(programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("""
max_connections = 100

[[listener]]
host = "127.0.0.1"
endpoints = ["subscribe"]

[[listener]]
host = "unix:/run/x.sock"
endpoints = ["publish", "admin"]
""")
    room = (
        b"room for 100 connections, 6 of them only for private listeners, and 24 more for callers with admin"
    )
    assert b"\nconnections: " + room + b", with " in (await check(programs, "--config", str(file))).out


async def test_everything_that_a_start_needs_is_checked(programs: Programs, tmp_path: Path) -> None:
    certificate, key = write_certificate(trustme.CA(), tmp_path, "a.example.com", "b.example.com")
    (tmp_path / "token").write_text("a-token-of-somebody-else")
    file = tmp_path / "c.toml"
    file.write_text(f"""
token_file = "{tmp_path / "token"}"
jwt_jwks = "{write_jwks(tmp_path)}"

[[caller]]
name = "shop"
token_env = "SHOP"
publish = ["*"]

[[listener]]
host = "::"
port = 8443
certificate = "{certificate}"
key = "{key}"

[[listener]]
host = "unix:/run/x.sock"
""")
    env = {"SHOP": "a-token-of-the-shop-s", "SSE_BROADCAST_RETRY": "5"}
    ended = await check(programs, "--config", str(file), "--queue-size", "7", env=env)
    assert (ended.code, ended.err) == (0, b"")
    assert re.sub(r"until [\d:.TZ-]{24},", "until WHEN,", ended.out.decode()) == (
        f"settings: good, from {file}, --queue-size, SSE_BROADCAST_RETRY\n"
        "credentials: good, token_file, jwt_jwks, 1 of [[caller]]\n"
        f"certificate: good until WHEN, {certificate} for a.example.com, b.example.com\n"
        f"{BACKEND}connections: room for {DESCRIPTORS - 112 - 32} connections, and 24 more for callers with"
        f" admin, with {DESCRIPTORS} descriptors\n"
        f"{LISTENERS}:: port 8443, unix:/run/x.sock\n"
    )


async def test_a_check_runs_beside_a_server(programs: Programs) -> None:
    serving = await programs.serve()
    ended = await check(programs, "--port", str(serving.port))
    assert (ended.code, ended.err) == (0, b"")
    assert ended.out.decode().endswith(f"{LISTENERS}127.0.0.1 port {serving.port}\n")
    assert (await programs.run("status", "--url", serving.url)).code == 0


async def test_a_token_to_be_generated_is_mentioned(programs: Programs) -> None:
    ended = await check(programs, "--host", "0.0.0.0")
    assert b"credentials: good, none: each start makes a new token\n" in ended.out
    assert b"Bearer" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "code", "before", "reported"),
    [
        (
            ("--retry", "x"),
            2,
            0,
            "--retry: expected a whole number of milliseconds from 0 to 86400000, not 'x'",
        ),
        (("--token-file", "/none"), 2, 1, "token_file: '/none' cannot be read: No such file or directory"),
        (
            ("--jwt-key-file", "/none"),
            2,
            1,
            "jwt_key_file: '/none' cannot be read: No such file or directory",
        ),
        (("--certificate", "/none"), 4, 2, "certificate: cannot load /none: no such file or directory"),
    ],
)
async def test_an_error_has_the_exit_code_of_serve(
    programs: Programs, arguments: tuple[str, ...], code: int, before: int, reported: str
) -> None:
    ended = await check(programs, *arguments)
    assert (ended.code, ended.err) == (code, f"sse-broadcast: {reported}\n".encode())
    assert ended.out.count(b"\n") == before


async def test_a_certificate_that_no_client_accepts_is_4(programs: Programs, tmp_path: Path) -> None:
    """A server could start with it."""
    certificate, key = write_certificate(trustme.CA(), tmp_path, expires=LONG_AGO)
    ended = await check(programs, "--certificate", certificate, "--key", key)
    assert ended.code == 4
    assert ended.err == f"sse-broadcast: certificate: {certificate}: certificate has expired\n".encode()


async def test_remote_keys_are_fetched(programs: Programs, tmp_path: Path) -> None:
    """An unreachable URL is an error, where a server only warns."""
    keys = Path(write_jwks(tmp_path)).read_bytes()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=keys) if request.path == "/keys" else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{site.port}"
        good = await check(programs, "--jwt-jwks", f"{url}/keys")
        bad = await check(programs, "--jwt-jwks", f"{url}/none", "--log-level", "error")
    finally:
        await runner.cleanup()
    assert (good.code, good.err) == (0, b"")
    assert (bad.code, bad.err) == (2, f"sse-broadcast: jwt_jwks: '{url}/none' answered 404\n".encode())


async def test_an_unknown_variable_is_warned_about(programs: Programs) -> None:
    ended = await check(programs, env={"SSE_BROADCAST_LOOP": "uvloop"})
    assert ended.code == 0
    (line,) = ended.err.splitlines()
    assert json.loads(line)["message"] == "SSE_BROADCAST_LOOP: no such setting, ignored"
