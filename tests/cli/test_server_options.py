"""Options of commands that talk to a server."""

import asyncio
from pathlib import Path

import click
import pytest
import trustme

from sse_broadcast.cli.server_options import ServerOptions, parse_headers, proxy_for
from sse_broadcast.config.schema import Config
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import process, scripted
from tests.support.certificates import write_certificate
from tests.support.fronts import free_port
from tests.support.process import Ended, Programs
from tests.support.scripted import Speak, plain

programs = pytest.fixture(process.programs)
speak = pytest.fixture(scripted.speak)

PUBLISHED = plain("200 OK", "application/json", '{"status": "sent", "clients": 0, "id": "a-1"}')


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_a_command_waits_for_a_server_that_is_not_up_yet(serve: Serve, programs: Programs) -> None:
    port = free_port()
    waiting = await programs.cli("publish", "hello", "--url", f"http://127.0.0.1:{port}", "--wait", "30")
    # It has asked once at least when this has run to its end.
    refused = await programs.run("publish", "hello", "--url", f"http://127.0.0.1:{port}")
    assert refused.code == 1
    assert waiting.is_running
    server = Server(Config(port=port))
    await server.start()
    try:
        assert await waiting.ended() == Ended(0, b"sent to 0 clients\n")
    finally:
        await server.stop()


async def test_the_wait_has_an_end(programs: Programs) -> None:
    ended = await programs.run("status", "--url", "http://127.0.0.1:1", "--wait", "0.3")
    assert ended == Ended(1, b"", b"sse-broadcast: cannot reach http://127.0.0.1:1: refused\n")


async def test_any_answer_ends_the_wait(speak: Speak, programs: Programs) -> None:
    script = await speak(plain("503 Busy", "text/plain", "x"), PUBLISHED, b"")
    ended = await programs.run("publish", "hello", "--url", script.url, "--wait", "30")
    assert ended == Ended(0, b"sent to 0 clients\n")


async def test_headers_are_sent(speak: Speak, programs: Programs) -> None:
    script = await speak(PUBLISHED, b"")
    ended = await programs.run(
        *("publish", "hello", "--url", script.url, "--header", "X-Key: 7", "--header", "X-Other:a:b")
    )
    assert ended.code == 0
    assert {"X-Key: 7", "X-Other: a:b"} <= set(script.heads[0])


@pytest.mark.parametrize("text", ["x", ": x", "a b: c", "X: a\r\nY: b"])
def test_what_is_no_header_is_bad_usage(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no header: write 'Name: value'"):
        parse_headers(click.Context(click.Command("x")), click.Option(["--header"]), [text])


def test_headers_are_read() -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--header"])
    assert parse_headers(context, option, ["A: b: c", "D:"]) == {"A": "b: c", "D": ""}


async def test_a_certificate_is_trusted_that_the_system_does_not_know(
    serve: Serve, programs: Programs, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate, key = write_certificate(authority, tmp_path)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = await serve(certificate=certificate, key=key)
    refused = await programs.run("publish", "x", "--url", server.url)
    assert refused.code == 1
    assert b"certificate verify failed" in refused.err
    ended = await programs.run("publish", "x", "--url", server.url, "--ca", str(tmp_path / "ca.pem"))
    assert ended == Ended(0, b"sent to 0 clients\n")


async def test_a_file_without_a_certificate_is_a_bad_setting(programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    ended = await programs.run("status", "--ca", str(file))
    assert ended == Ended(2, b"", f"sse-broadcast: --ca: {file}: No such file or directory\n".encode())
    file.write_text("x")
    ended = await programs.run("status", "--ca", str(file))
    assert ended == Ended(2, b"", f"sse-broadcast: --ca: {file}: holds no certificate in PEM\n".encode())


async def test_a_proxy_of_the_environment_is_asked(speak: Speak, programs: Programs) -> None:
    script = await speak(PUBLISHED, b"")
    env = {"http_proxy": script.url, "no_proxy": "", "NO_PROXY": ""}
    ended = await programs.run("publish", "hello", "--url", "http://push.example.com", env=env)
    assert ended == Ended(0, b"sent to 0 clients\n")
    assert script.heads[0][0] == "POST http://push.example.com/send HTTP/1.1"


@pytest.mark.usefixtures("no_proxy")
def test_which_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """None for this machine, which a proxy elsewhere cannot reach, nor for what `no_proxy` names."""
    assert proxy_for("http://push.example.com") is None
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("https_proxy", "http://proxy:3129")
    monkeypatch.setenv("no_proxy", "inside.example.com,10.0.0.7")
    assert proxy_for("http://push.example.com:8000") == "http://proxy:3128"
    assert proxy_for("https://user:x@push.example.com") == "http://proxy:3129"
    for url in (
        *("http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "unix:/run/x"),
        *("http://inside.example.com:8000", "http://user@10.0.0.7"),
    ):
        assert proxy_for(url) is None, url


@pytest.mark.usefixtures("no_proxy")
async def test_the_client_has_all_of_it(server: Server) -> None:
    async with asyncio.timeout(30), ServerOptions(server.url, headers={"X-A": "b"}).client() as client:
        assert (await client.publish("x"))["clients"] == 0
