"""docs/publish.md: each example publishes to a real server, and fails when the server refuses it."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from sse_broadcast.event import Event
from sse_broadcast.server.runner import Server
from tests.conftest import Connect, Program, Serve
from tests.support import process
from tests.support.pages import page
from tests.support.process import Ended, Programs
from tests.support.shell import bash
from tests.support.sockets import RawClient

PAGE = page("docs/publish.md")
BLOCKS = PAGE.blocks
README = page("README.md")

TOKEN = "a-token-of-the-back-end"

PAID = Event('{"order":17}', "paid")

programs = pytest.fixture(process.programs)

DJANGO = """
import django, logging
from django.conf import settings
settings.configure(
    DEBUG=True,
    ALLOWED_HOSTS=["*"], DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
)
django.setup()
"""
"""A project of Django's in one file, before the view."""

ASKS_DJANGO = """
from django.test import RequestFactory
with transaction.atomic():
    response = pay(RequestFactory().post("/orders/17/pay"), 17)
    print(response.content.decode(), flush=True)
    assert input() == "commit"
"""
"""The request, in a transaction that the test commits."""

ASKS_FASTAPI = """
import asyncio

async def ask():
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as customer:
        print((await customer.post("/orders/17/pay")).json())
    await push.aclose()

asyncio.run(ask())
"""


def test_every_block_has_a_test() -> None:
    here = Path(__file__).read_text()
    assert all(block.name for block in PAGE.every_block)
    assert {name for name in BLOCKS if f'"{name}"' not in here} == set()


def test_every_language_is_in_the_contents() -> None:
    """Each has an example."""
    languages = [title for level, title in PAGE.headings if level == 2]
    assert [f"[{each}](#{each.lower()})" in PAGE.text for each in languages] == [True] * len(languages)
    assert all("<!-- run: " in PAGE.section(each) for each in languages)


Run = Callable[[str, Path, int], Awaitable[Ended]]
"""Runs an example, kept in a folder, against the server at a port."""


@pytest.fixture
def run(programs: Programs, program: Program, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run an example as its user would, with the interpreter of its language and a token of the server."""

    async def with_token(name: str, folder: Path, port: int, token: str = TOKEN) -> Ended:
        code = BLOCKS[name].at(port)
        if name in {"curl", "shell"}:
            program("curl")
            env = {"SSE_BROADCAST_TOKEN": token}
            return await (await bash(programs, code, port, env=env)).ended()
        command, file, around = COMMANDS[name]
        (folder / file).write_text(code)
        path = sys.executable if name == "requests" else str(program(command))
        env = {**around, "SSE_BROADCAST_TOKEN": token, "HOME": str(folder)}
        if name == "go":  # Several seconds of starting are no part of the publish.
            binary = folder / "publish"
            env["GOCACHE"] = str(tmp_path_factory.getbasetemp() / "go")
            subprocess.run(
                [path, "build", "-o", binary, folder / file], check=True, env={**os.environ, **env}
            )
            return await (await programs.start(binary, env=env)).ended()
        return await (await programs.start(path, str(folder / file), env=env)).ended()

    return with_token


COMMANDS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "php": ("php", "publish.php", {}),
    "requests": ("python3", "publish.py", {}),
    "node": ("node", "publish.mjs", {}),
    "ruby": ("ruby", "publish.rb", {}),
    "go": ("go", "publish.go", {"GOFLAGS": "-mod=mod", "GO111MODULE": "off"}),
}
"""By the name of the example: its program, its file, and its environment besides the token."""

EXAMPLES = [*COMMANDS, "curl", "shell"]


@pytest.mark.timeout(300)  # Go compiles its standard library once.
@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_publishes(
    name: str, run: Run, serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """It publishes the event of the page, and writes nothing to standard error."""
    server = await serve(token=TOKEN, anonymous_subscribe=("orders.*",))
    subscriber = await connect(server)
    await subscriber.subscribe(path="/events/orders.17")
    ended = await run(name, tmp_path, server.port)
    assert (ended.code, ended.err) == (0, b"")
    await received(subscriber, server)


async def received(subscriber: RawClient, server: Server) -> None:
    """Return the one event that each example publishes."""
    (event,) = await subscriber.events(1)
    assert (event.type, event.data) == (PAID.type, PAID.data)
    assert server.broadcaster.counts.published == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", EXAMPLES)
async def test_a_refused_example_fails(name: str, run: Run, serve: Serve, tmp_path: Path) -> None:
    """A back end must not take a refusal for a success."""
    server = await serve(token="another-token-entirely")
    ended = await run(name, tmp_path, server.port)
    assert ended.code != 0
    assert server.broadcaster.counts.published == 0


async def test_django_publishes_once_the_transaction_is_committed(
    programs: Programs, serve: Serve, connect: Connect
) -> None:
    """The session is that of the example before. Nothing is published before the commit."""
    server = await serve(token=TOKEN, anonymous_subscribe=("orders.*",))
    subscriber = await connect(server)
    await subscriber.subscribe(path="/events/orders.17")
    session = BLOCKS["requests"].code.partition("event = ")[0]
    code = DJANGO + session + BLOCKS["django"].at(server.port) + ASKS_DJANGO
    env = {"SSE_BROADCAST_TOKEN": TOKEN}
    view = await programs.start(sys.executable, "-c", code, env=env)
    assert await view.line() == b"thank you\n"
    assert server.broadcaster.counts.published == 0
    await view.feed(b"commit\n")
    assert await view.ended() == Ended(0)
    await received(subscriber, server)


async def test_django_survives_a_refusal(programs: Programs, serve: Serve) -> None:
    """The order is paid, and the error is logged."""
    server = await serve(token="another-token-entirely")
    session = BLOCKS["requests"].code.partition("event = ")[0]
    code = DJANGO + session + BLOCKS["django"].at(server.port) + ASKS_DJANGO
    view = await programs.start(sys.executable, "-c", code, env={"SSE_BROADCAST_TOKEN": TOKEN})
    await view.feed(b"commit\n")
    ended = await view.ended()
    assert (ended.code, ended.out) == (0, b"thank you\n")
    assert b"401 Client Error: Unauthorized" in ended.err


async def test_fastapi_publishes_after_its_response(
    programs: Programs, serve: Serve, connect: Connect
) -> None:
    """A background task publishes."""
    server = await serve(token=TOKEN, anonymous_subscribe=("orders.*",))
    subscriber = await connect(server)
    await subscriber.subscribe(path="/events/orders.17")
    code = BLOCKS["fastapi"].at(server.port) + ASKS_FASTAPI
    env = {"SSE_BROADCAST_TOKEN": TOKEN}
    ended = await (await programs.start(sys.executable, "-c", code, env=env)).ended()
    assert ended == Ended(0, b"thank you\n")
    await received(subscriber, server)


def test_the_readme_has_the_first_three_examples() -> None:
    """The code is the same except empty lines. tests/test_readme.py runs the way to a token."""
    exports = BLOCKS["environment"].code.strip()
    assert f"`{exports}`" in README.text
    for name in ("php", "requests", "django", "token"):
        assert README.blocks[name].code.split() == BLOCKS[name].code.split()
