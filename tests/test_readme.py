"""Every block of code in the README is run."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sse_broadcast.config.sources import load
from sse_broadcast.event import Event
from sse_broadcast.server.runner import Server
from sse_broadcast.wire import Decoder
from tests.conftest import Connect, Program, Serve
from tests.support.browser import chromium, shown
from tests.support.process import LISTENS, SCRIPT, Process, Programs, programs
from tests.support.sockets import RawClient, until

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

BLOCK = re.compile(r"(?:<!-- run: (?P<name>\w+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)

started = pytest.fixture(programs)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, and its language."""

    language: str
    code: str

    def at(self, port: int) -> str:
        """Return the code with the port of a server that runs here."""
        return self.code.replace("localhost:8000", f"127.0.0.1:{port}")


BLOCKS = {found["name"]: Block(found["language"], found["code"]) for found in BLOCK.finditer(README)}


def test_no_block_is_left_out() -> None:
    """A block that nothing runs is a promise that nothing keeps."""
    here = Path(__file__).read_text()
    run_elsewhere = {"test"}  # by .ci/run, which is made of it: see test_documents
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in here} == run_elsewhere


async def bash(started: Programs, code: str, port: int) -> Process:
    """Run a block as a reader would, `sse-broadcast` on the path and its server where it runs."""
    env = {"PATH": f"{SCRIPT.parent}:{os.environ['PATH']}", "SSE_BROADCAST_URL": f"http://127.0.0.1:{port}"}
    return await started.start("bash", "-euc", f"cd {ROOT}\n{code}", env=env)


def copy_of_the_repository(folder: Path) -> Path:
    """Return what a clone would have: the files git knows, or would take, as they are now."""
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
async def test_the_first_command_sets_up_and_serves(started: Programs, tmp_path: Path) -> None:
    """On a machine that has Python and nothing else: a fresh copy, the command, a server."""
    clone = copy_of_the_repository(tmp_path)
    python3 = tmp_path / "path" / "python3"
    python3.parent.mkdir()
    python3.symlink_to(Path(sys.executable).resolve())
    command = BLOCKS["serve"].code
    env = {"PATH": f"{python3.parent}:{os.environ['PATH']}", "SSE_BROADCAST_PORT": "0"}
    process = await started.start("bash", "-euc", f"cd {clone}\nexec 2>&1\n{command}", env=env)
    async with asyncio.timeout(280):
        while not (said := LISTENS.fullmatch(await process.any_line())):
            pass
    asked = await started.run("status", "--url", said[1].decode())
    assert asked.code == 0
    process.signal_all(signal.SIGTERM)
    assert (await process.ended()).code == 0


async def published(reader: Process, count: int) -> list[Event]:
    """Return the first events on a stream that are not the server's own."""
    decoder = Decoder()
    events: list[Event] = []
    while len(events) < count:
        events += [event for event in decoder.feed(await reader.line()) if not event.reserved]
    return events


async def test_curl_subscribes_and_publishes(server: Server, started: Programs, program: Program) -> None:
    """What the one terminal sends the other shows, in order."""
    program("curl")
    reader = await bash(started, BLOCKS["subscribe"].at(server.port), server.port)
    await until(lambda: server.broadcaster.client_count == 1)
    publisher = await bash(started, BLOCKS["publish"].at(server.port), server.port)
    answers = (await publisher.ended()).out
    assert answers.count(b'{"status":"sent","clients":1,') == 4
    (answer,) = re.findall(r"\n`(\{\"status.*\})`\.\n", README)
    epoch = server.broadcaster.cursor.partition("-")[0]
    assert answers.startswith(answer.replace("0a1b2c3d", epoch).encode())
    events = await published(reader, 4)
    assert [(event.type, event.data) for event in events] == [
        ("message", "hello"),
        ("price", "EUR 1.08"),
        ("greeting", "hello"),
        ("message", (ROOT / "LICENSE").read_text()),
    ]


async def test_curl_asks_for_the_status(server: Server, started: Programs, program: Program) -> None:
    program("curl")
    asking = await bash(started, BLOCKS["status"].at(server.port), server.port)
    assert (await asking.ended()).out.startswith(b'{"connected_clients":0,"published":0,')


async def test_the_page_shows_events(server: Server, program: Program) -> None:
    async with chromium(program) as browser:
        page = await shown(browser, server.url, BLOCKS["browser"].code)
        await until(lambda: server.broadcaster.client_count == 1)
        await server.broadcaster.broadcast("hello")
        await server.broadcaster.broadcast("EUR 1.08", event="price")
        await page.wait_for_function("document.querySelectorAll('li').length === 2")
        assert await page.locator("li").all_inner_texts() == ["message: hello", "price: EUR 1.08"]


async def test_the_commands_run(server: Server, started: Programs) -> None:
    shown = []
    for line in BLOCKS["commands"].code.splitlines():
        joined = server.broadcaster.counts.opened
        command = await bash(started, line, server.port)
        if " subscribe " in line:
            await until(lambda joined=joined: server.broadcaster.counts.opened > joined)  # type: ignore[misc]
            await server.broadcaster.broadcast("one")
            await server.broadcaster.broadcast("two")
        ended = await command.ended()
        assert (ended.code, ended.err) == (0, b""), line
        shown.append(ended.out)
    assert [line["data"] for line in map(json.loads, shown[2].splitlines())] == ["one", "two"]
    assert shown[3] == b"got one\n"
    assert shown[4].startswith(b"connected clients: ")


async def test_channels_are_followed_by_name_and_pattern(
    server: Server, started: Programs, program: Program
) -> None:
    """The envelope says where each event came from; one for two channels comes once."""
    program("curl")
    reader = await bash(started, BLOCKS["follow"].at(server.port), server.port)
    await until(lambda: server.broadcaster.client_count == 1)
    publisher = await bash(started, BLOCKS["channels"].at(server.port), server.port)
    answers = (await publisher.ended()).out
    events = await published(reader, 3)
    shown = [json.loads(event.data) for event in events]
    assert [(event["channel"], event["event"], event["data"]) for event in shown] == [
        ("news", "message", "it rains"),
        ("news", "message", "take a coat"),
        ("orders.17", "paid", {"total": 12}),
    ]
    cursor = server.broadcaster.cursor
    state = f'{{"channel":"orders.17","subscribers":1,"cursor":"{cursor}","events":1,"oldest":"{cursor}"}}'
    assert answers.endswith(f'{state}\n{{"channels":[{state}],"next":null}}\n'.encode())


async def test_a_reader_begins_at_a_cursor(server: Server, started: Programs, program: Program) -> None:
    program("curl")
    ended = await (await bash(started, BLOCKS["resume"].at(server.port), server.port)).ended()
    assert ended.code == 0
    assert ended.out.count(b"\n\ndata: published meanwhile\nid: ") == 2


async def test_many_are_published(server: Server, started: Programs, program: Program) -> None:
    program("curl")
    answers = (await (await bash(started, BLOCKS["many"].at(server.port), server.port)).ended()).out
    assert server.broadcaster.counts.published == 5
    batch, stream, first, again = (answers.replace(b"}{", b"}\n{")).splitlines()
    assert (json.loads(batch)["count"], json.loads(stream)["count"]) == (2, 2)
    assert first == again


async def test_callers_have_what_they_were_given(
    serve: Serve, started: Programs, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The back end publishes and makes a token, which is good for its one channel until it is revoked."""
    program("curl")
    secret = "a-token-of-the-shop-s-own"
    monkeypatch.setenv("SHOP_TOKEN", secret)
    (tmp_path / "config.toml").write_text(BLOCKS["callers"].code)
    config = load({}, environ={}, file=tmp_path / "config.toml").config
    assert (config.host, config.caller[0].name) == ("0.0.0.0", "shop")
    named = ("host", "anonymous_subscribe", "cors_origins", "caller")
    server = await serve(**{name: getattr(config, name) for name in named})
    shown = await (await bash(started, BLOCKS["credentials"].at(server.port), server.port)).ended()
    assert shown.code == 0
    published, rest = shown.out.split(b"}", 1)
    assert published.startswith(b'{"status":"sent","clients":0,"message":"paid"')
    stream, revoked, refused = re.split(rb"(\{\"status\":\"revoked\",\"streams\":\d+\})", rest)
    assert b"\n\ndata: paid\nid: " in stream
    assert revoked == b'{"status":"revoked","streams":0}'
    assert json.loads(refused) == {"title": "Unauthorized", "status": 401, "detail": "token: was revoked"}


async def test_publishing_has_a_socket_of_its_own(
    serve: Serve, started: Programs, program: Program, tmp_path: Path
) -> None:
    """The port has nothing but streams, the socket has everything."""
    program("curl")
    path = tmp_path / "socket"
    code = BLOCKS["listeners"].code.replace("/tmp/sse-broadcast.sock", str(path)).replace("8000", "0")
    (tmp_path / "config.toml").write_text(code)
    server = await serve(listener=load({}, environ={}, file=tmp_path / "config.toml").config.listener)
    private = BLOCKS["private"].code.replace("/tmp/sse-broadcast.sock", str(path))
    published = await (await bash(started, private, server.port)).ended()
    assert published.out.startswith(b'{"status":"sent"')
    public = await bash(started, f"curl -s -d x 127.0.0.1:{server.port}/send", server.port)
    assert json.loads((await public.ended()).out)["status"] == 404


async def test_the_news_of_a_loss_is_as_shown(serve: Serve, connect: Connect) -> None:
    server = await serve(history_size=1)
    before = server.broadcaster.cursor
    for number in range(3):
        await server.broadcaster.broadcast(str(number), channels=["orders"])
    reader = await connect(server)
    await reader.subscribe(path=f"/events/orders?since={before}")
    epoch = server.broadcaster.cursor.partition("-")[0]
    shown = BLOCKS["reset"].code.replace("0a1b2c3d-1042", f"{epoch}-2")
    assert f"\n{shown}\nevent: $open\n".encode() in await reader.chunk()


async def test_a_stream_is_as_shown(server: Server, connect: Connect) -> None:
    """But for the epoch, the positions and the time to reconnect."""
    for _ in range(1041):
        await server.broadcaster.broadcast("before")
    reader = await connect(server)
    await reader.subscribe()
    opening = await reader.chunk()
    await server.broadcaster.broadcast("EUR 1.08", event="price")
    epoch = server.broadcaster.cursor.partition("-")[0]
    said = re.sub(rb"retry: \d+", b"retry: 3127", opening + await reader.chunk())
    assert said.decode().replace(epoch, "0a1b2c3d") == BLOCKS["stream"].code


async def test_the_library_program_runs(started: Programs) -> None:
    program = await started.start(sys.executable, "-c", BLOCKS["library"].code)
    ended = await program.ended()
    assert (ended.code, ended.err) == (0, b"")
    assert ended.out == b"0 news hello\n0 orders.17 twelve\n"


async def test_the_mounted_application_serves(started: Programs) -> None:
    """The other half of that program: its application, under a runner of aiohttp's."""
    names: dict[str, Any] = {}
    exec(BLOCKS["library"].code.replace("asyncio.run(in_process())", ""), names)
    runner = web.AppRunner(names["application"]())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        reader, customer = await RawClient.open(port), await RawClient.open(port)
        await reader.subscribe(path="/push/events")
        assert (await customer.ask("POST", "/order"))[1] == b"thank you\n"
        (event,) = await reader.events(1)
        assert (event.type, event.data) == ("order", "a new order")
        reader.close()
        customer.close()
    finally:
        await runner.cleanup()


def test_the_configuration_loads(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(BLOCKS["configuration"].code)
    config = load({}, environ={}, file=file).config
    assert (config.port, config.queue_size, config.overflow) == (9000, 200, "drop-oldest")


def test_the_rules_load(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(BLOCKS["rules"].code)
    (rule,) = load({}, environ={}, file=file).config.channel
    assert (rule.match, rule.history_size, rule.overflow) == ("prices.*", 1, "conflate")
