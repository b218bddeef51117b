"""README.md: every block of code runs as a user would run it."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page

from sse_broadcast.server.runner import Server
from tests.conftest import Program, Serve
from tests.support import process
from tests.support.browser import chromium
from tests.support.fronts import free_port, is_listening, replaced
from tests.support.pages import ROOT, page
from tests.support.process import Process, Programs
from tests.support.shell import bash, published, serving_at
from tests.support.sockets import until

README = page("README.md")
BLOCKS = README.blocks

programs = pytest.fixture(process.programs)


def test_every_block_has_a_test() -> None:
    here = Path(__file__).read_text()
    run_elsewhere = {
        *("php", "requests", "django"),  # test_publish_page runs it: both have the same.
    }
    assert all(block.name for block in README.every_block)
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in here} == run_elsewhere


def copy_of_the_repository(folder: Path) -> Path:
    """Return a copy as a clone would be: the files that git tracks or would add."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, names):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.mark.timeout(300)
async def test_the_first_command_installs_and_serves(programs: Programs, tmp_path: Path) -> None:
    """Only Python is installed: a fresh copy, the command, a server."""
    clone = copy_of_the_repository(tmp_path)
    python3 = tmp_path / "path" / "python3"
    python3.parent.mkdir()
    python3.symlink_to(Path(sys.executable).resolve())
    command = BLOCKS["serve"].code
    env = {"PATH": f"{python3.parent}:{os.environ['PATH']}", "SSE_BROADCAST_PORT": "0"}
    process = await programs.start("bash", "-euc", f"cd {clone}\nexec 2>&1\n{command}", env=env)
    url = await serving_at(process, patience=280)
    assert (await programs.run("status", "--url", url)).code == 0
    assert description(clone) == readable_anywhere(README.text)
    process.signal_all(signal.SIGTERM)
    assert (await process.ended()).code == 0


async def test_curl_subscribes_and_publishes(serve: Serve, programs: Programs, program: Program) -> None:
    """The first terminal shows in order what the second sends."""
    program("curl")
    server = await serve()
    subscriber = await bash(programs, BLOCKS["subscribe"].at(server.port), server.port)
    await until(lambda: server.broadcaster.client_count == 1)
    publisher = await bash(programs, BLOCKS["publish"].at(server.port), server.port)
    answers = (await publisher.ended()).out
    assert answers.count(b'{"status":"sent","clients":1,') == 4
    (answer,) = re.findall(r"\n`(\{\"status.*\})`\.?\n", README.text)
    epoch = server.broadcaster.cursor.partition("-")[0]
    assert answers.startswith(answer.replace("0a1b2c3d", epoch).encode())
    events = await published(subscriber, 4)
    assert [(event.type, event.data) for event in events] == [
        ("message", "hello"),
        ("price", "EUR 1.08"),
        ("greeting", "hello"),
        ("message", (ROOT / "LICENSE").read_text()),
    ]


def description(clone: Path) -> str:
    """Return the description that a package index would show, from the package installed in a clone."""
    said = "from importlib.metadata import metadata; print(metadata('sse-broadcast').get_payload(), end='')"
    shown = subprocess.run(
        [clone / ".venv/bin/python", "-c", said], check=True, capture_output=True, text=True, cwd=clone
    )
    return shown.stdout


def test_links_into_the_repository_have_their_paths_as_text() -> None:
    """They are readable where they cannot be followed."""
    links = re.findall(r"\[([^\]]+)\]\((?!https?://)([^)]+)\)", README.text)
    assert links
    assert [(text, target) for text, target in links if text != target] == []


def readable_anywhere(text: str) -> str:
    """Return the README with the path in place of each link into the repository."""
    return re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]+\)", r"`\1`", text)


async def starts(programs: Programs, code: str, folder: Path = ROOT) -> tuple[Process, int]:
    """Run a block that starts the server in a folder, at a free port, and return the port."""
    command = replaced(code, {".venv/bin/sse-broadcast serve": "exec sse-broadcast serve --port 0"})
    process = await bash(programs, f"exec 2>&1\n{command}", 0, folder=folder)
    url = await serving_at(process)
    return process, int(url.rpartition(":")[2])


@asynccontextmanager
async def page_of_the_readme(
    programs: Programs, program: Program, folder: Path, port: int, own_port: int
) -> AsyncIterator[Page]:
    """Serve the page in a folder by the README's own command, and open it in Chromium."""
    (command,) = re.findall(r"`(python3 -m http\.server 3000)`", README.text)
    (folder / "index.html").write_text(BLOCKS["page"].at(port))
    await bash(programs, f"exec {command.replace('3000', str(own_port))} 2>&1", 0, folder=folder)
    await until(lambda: is_listening(own_port))
    async with chromium(program) as browser:
        tab = await browser.new_page()
        await tab.goto(f"http://localhost:{own_port}")
        yield tab


async def test_a_page_on_another_port_shows_events(
    programs: Programs, program: Program, tmp_path: Path
) -> None:
    """It is the README's page with its commands, in Chromium."""
    own_port = free_port()
    code = BLOCKS["origin"].code.replace("localhost:3000", f"localhost:{own_port}")
    server, port = await starts(programs, code)
    url = f"http://127.0.0.1:{port}"
    async with page_of_the_readme(programs, program, tmp_path, port, own_port) as tab:
        await tab.wait_for_function("source.readyState === EventSource.OPEN")
        assert (await programs.run("publish", "--url", url, "hello")).code == 0
        assert (await programs.run("publish", "--url", url, "--event", "price", "EUR 1.08")).code == 0
        await tab.wait_for_function("document.querySelectorAll('li').length === 2")
        assert await tab.locator("li").all_inner_texts() == ["message: hello", "price: EUR 1.08"]
    server.send_signal(signal.SIGTERM)
    assert (await server.ended()).code == 0


async def test_the_page_needs_its_origin_in_cors_origins(
    server: Server, programs: Programs, program: Program, tmp_path: Path
) -> None:
    """Otherwise its browser shows nothing, and the EventSource stops."""
    async with page_of_the_readme(programs, program, tmp_path, server.port, free_port()) as tab:
        await tab.wait_for_function("source.readyState === EventSource.CLOSED")
    assert server.broadcaster.counts.opened == 0


async def test_the_token_may_publish(programs: Programs, program: Program, tmp_path: Path) -> None:
    """Others may only subscribe to orders. No other user of the machine can read the token."""
    program("openssl")
    server, port = await starts(programs, BLOCKS["token"].code, tmp_path)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    (exports,) = re.findall(r"`(export SSE_BROADCAST_TOKEN=.*?)`", README.text)
    publishes = "sse-broadcast publish --channel orders.17 paid"
    assert (await (await bash(programs, publishes, port, folder=tmp_path)).ended()).code == 1
    with_token = await bash(programs, f"{exports}\n{publishes}", port, folder=tmp_path)
    assert (await with_token.ended()).code == 0
    (follows,) = re.findall(r"`(curl -N localhost:8000/events/orders.17)`", README.text)
    follows = f"{follows}?since=last".replace("8000", str(port))
    assert [event.data for event in await published(await bash(programs, follows, port), 1)] == ["paid"]
    refused = await bash(programs, "sse-broadcast subscribe --channel secrets", port)
    assert (await refused.ended()).code == 1
    server.send_signal(signal.SIGTERM)
    assert (await server.ended()).code == 0


def test_ci_runs_the_test_command() -> None:
    """The README shows the same command."""
    script = f"source <(sed -n '/^readme()/,/^}}/p' {shlex.quote(str(ROOT / '.ci/run'))}); readme test"
    shown = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.strip().endswith("-m pytest")
    assert shown.stdout == BLOCKS["test"].code


def test_the_readme_is_short() -> None:
    """Details belong on pages of their own."""
    assert README.text.count("\n") <= 185
