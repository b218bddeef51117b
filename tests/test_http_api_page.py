"""docs/http-api.md: its blocks run, and its tables agree with the code."""

import json
import re
from pathlib import Path

import pytest

from sse_broadcast.backends.base import ResetReason
from sse_broadcast.config.sources import load
from sse_broadcast.fanout.subscriber import ANNOUNCED
from sse_broadcast.server.http.refused_stream import RefusalReason
from sse_broadcast.server.runner import Server
from tests.conftest import Connect, Program, Serve
from tests.support import process
from tests.support.pages import page
from tests.support.process import Programs
from tests.support.shell import bash, published
from tests.support.sockets import until

PAGE = page("docs/http-api.md")
BLOCKS = PAGE.blocks

programs = pytest.fixture(process.programs)


def test_every_block_has_a_test() -> None:
    here = Path(__file__).read_text()
    assert all(block.name for block in PAGE.every_block)
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in here} == set()


async def test_curl_gets_the_status(serve: Serve, programs: Programs, program: Program) -> None:
    program("curl")
    server = await serve()
    asking = await bash(programs, BLOCKS["status"].at(server.port), server.port)
    assert (await asking.ended()).out.startswith(b'{"connected_clients":0,"published":0,')


async def test_channels_are_subscribed_by_name_and_pattern(
    serve: Serve, programs: Programs, program: Program
) -> None:
    """The envelope has the channel. An event in two channels comes once."""
    program("curl")
    server = await serve()
    subscriber = await bash(programs, BLOCKS["follow"].at(server.port), server.port)
    await until(lambda: server.broadcaster.client_count == 1)
    publisher = await bash(programs, BLOCKS["channels"].at(server.port), server.port)
    answers = (await publisher.ended()).out
    events = await published(subscriber, 3)
    shown = [json.loads(event.data) for event in events]
    assert [(event["channel"], event["event"], event["data"]) for event in shown] == [
        ("news", "message", "it rains"),
        ("news", "message", "take a coat"),
        ("orders.17", "paid", {"total": 12}),
    ]
    cursor = server.broadcaster.cursor
    state = f'{{"channel":"orders.17","subscribers":1,"cursor":"{cursor}","events":1,"oldest":"{cursor}"}}'
    assert answers.endswith(f'{state}\n{{"channels":[{state}],"next":null}}\n'.encode())


async def test_a_subscription_begins_at_a_cursor(serve: Serve, programs: Programs, program: Program) -> None:
    """It begins right after it, or at the newest event."""
    program("curl")
    server = await serve()
    ended = await (await bash(programs, BLOCKS["resume"].at(server.port), server.port)).ended()
    assert ended.code == 0
    assert ended.out.count(b"\n\ndata: published meanwhile\nid: ") == 2


async def test_many_events_are_published(serve: Serve, programs: Programs, program: Program) -> None:
    """The examples are a batch, a stream of lines, and one sent twice and published once."""
    program("curl")
    server = await serve()
    answers = (await (await bash(programs, BLOCKS["many"].at(server.port), server.port)).ended()).out
    assert server.broadcaster.counts.published == 5
    batch, stream, first, again = (answers.replace(b"}{", b"}\n{")).splitlines()
    assert (json.loads(batch)["count"], json.loads(stream)["count"]) == (2, 2)
    assert first == again


async def test_callers_have_their_grants(
    serve: Serve, programs: Programs, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The back end publishes, and issues a token for one channel that works until it is revoked."""
    program("curl")
    secret = "a-token-of-the-shop-s-own"
    monkeypatch.setenv("SHOP_TOKEN", secret)
    (tmp_path / "config.toml").write_text(page("docs/configuration.md").blocks["callers"].code)
    config = load({}, environ={}, file=tmp_path / "config.toml").config
    assert (config.host, config.caller[0].name) == ("0.0.0.0", "shop")
    named = ("host", "anonymous_subscribe", "cors_origins", "caller")
    server = await serve(**{name: getattr(config, name) for name in named})
    shown = await (await bash(programs, BLOCKS["credentials"].at(server.port), server.port)).ended()
    assert shown.code == 0
    published, rest = shown.out.split(b"}", 1)
    assert published.startswith(b'{"status":"sent","clients":0,"message":"paid"')
    stream, revoked, refused = re.split(rb"(\{\"status\":\"revoked\",\"streams\":\d+\})", rest)
    assert b"\n\ndata: paid\nid: " in stream
    assert revoked == b'{"status":"revoked","streams":0}'
    assert json.loads(refused) == {"title": "Unauthorized", "status": 401, "detail": "token: was revoked"}


async def test_a_reset_has_the_shown_form(serve: Serve, connect: Connect) -> None:
    """The epoch and the position differ."""
    server = await serve(history_size=1)
    before = server.broadcaster.cursor
    for number in range(3):
        await server.broadcaster.broadcast(str(number), channels=["orders"])
    subscriber = await connect(server)
    await subscriber.subscribe(path=f"/events/orders?since={before}")
    epoch = server.broadcaster.cursor.partition("-")[0]
    shown = BLOCKS["reset"].code.replace("0a1b2c3d-1042", f"{epoch}-2")
    assert f"\n{shown}\nevent: $open\n".encode() in await subscriber.chunk()


async def test_a_stream_has_the_shown_form(server: Server, connect: Connect) -> None:
    """The epoch, the positions and the reconnection time differ."""
    for _ in range(1041):
        await server.broadcaster.broadcast("before")
    subscriber = await connect(server)
    await subscriber.subscribe()
    opening = await subscriber.chunk()
    await server.broadcaster.broadcast("EUR 1.08", event="price")
    epoch = server.broadcaster.cursor.partition("-")[0]
    said = re.sub(rb"retry: \d+", b"retry: 3127", opening + await subscriber.chunk())
    assert said.decode().replace(epoch, "0a1b2c3d") == BLOCKS["stream"].code


def rows(section: str) -> list[str]:
    """Return the first column of the tables of a section."""
    return re.findall(r"^\| (`.*?) \|", PAGE.section(section), re.MULTILINE)


async def test_every_path_and_method_is_in_the_table(server: Server, connect: Connect) -> None:
    """The OpenAPI document has the same, apart from HEAD and OPTIONS."""
    _, body = await (await connect(server)).ask("GET", "/openapi.json")
    document = json.loads(body)
    described = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if method in {"get", "post", "put", "delete"}
    }
    listed = set()
    for row in rows("Endpoints"):
        listed |= {tuple(each.split(" ")) for each in re.findall(r"`([A-Z]+ [^`]+)`", row)}
        if "`PUT`" in row:
            listed |= {("PUT", path) for path in re.findall(r"`POST ([^`]+)`", row)}
    assert listed == described


def test_every_reason_is_in_its_table() -> None:
    """The tables are those of `$reset`, of `$close` and of refusals."""
    tables = PAGE.section("What a stream contains")
    losses, _, ends = tables.partition("| reason of a `$close` |")
    reasons = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|", re.MULTILINE)
    lost = re.findall(r"`(\w+)`", " ".join(reasons.findall(losses.partition("| reason of a `$reset` |")[2])))
    ended = re.findall(r"`(\w+)`", " ".join(reasons.findall(ends)))
    assert sorted(lost) == sorted(ResetReason)
    assert sorted(ended) == sorted(set(map(str, ANNOUNCED)) | set(map(str, RefusalReason)))
