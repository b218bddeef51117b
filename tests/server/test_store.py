"""A server whose history is in a file: what it tells over HTTP, also while the file is away."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sse_broadcast.backends.sqlite import maintenance
from sse_broadcast.backends.sqlite.store import SqliteStore
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import BackendUnavailableError, EventError, UncertainPublishError
from sse_broadcast.server.app import create_app
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import BROADCASTER
from tests.conftest import LiveServer, Serve
from tests.support.internals import instrumented_backend_of


def store_of(server: Server) -> SqliteStore:
    backend = instrumented_backend_of(server.broadcaster).inner
    assert isinstance(backend, TieredBackend)
    store = backend.store
    assert isinstance(store, SqliteStore)
    return store


@pytest.fixture
async def server(serve: Serve, tmp_path: Path) -> LiveServer:
    """Start a server with a file, and with room in memory for nothing."""
    return await serve(backend=f"sqlite://{tmp_path}/a.db", history_memory=0)


async def failing(*_: Any) -> Any:
    raise UncertainPublishError("a.db: cannot be written: disk I/O error")


async def test_nothing_else_changes_for_publishers_and_subscribers(server: LiveServer) -> None:
    """The same answers and frames as from memory; what is old comes from the file."""
    client = await server.connect()
    ids = []
    for number in range(3):
        status, body = await client.ask("POST", "/send/a", body=str(number).encode())
        answer = json.loads(body)
        assert (status, answer["status"], answer["clients"]) == (200, "sent", 0)
        ids.append(answer["id"])
    reader = await server.connect()
    await reader.subscribe(path="/events/a?since=earliest")
    assert [(each.id, each.data) for each in await reader.events(3)] == list(zip(ids, "012", strict=True))
    assert json.loads((await client.ask("POST", "/send/a", body=b"3"))[1])["clients"] == 1
    assert [each.data for each in await reader.events(1)] == ["3"]
    channel = json.loads((await client.ask("GET", "/channels/a"))[1])
    assert (channel["events"], channel["oldest"], channel["subscribers"]) == (4, ids[0], 1)


async def test_a_store_that_is_away_is_503_and_nothing_is_published(server: LiveServer) -> None:
    """It says so, to try again later; it is not ready; who follows stays and is served from memory."""
    store, client = store_of(server), await server.connect()
    reader = await server.connect()
    await reader.subscribe(path="/events/a")
    await client.ask("POST", "/send/a", body=b"x")
    await reader.events(1)
    store.outage = "a.db: the disk is full"
    status, body = await client.ask("POST", "/send/a", body=b"y")
    assert (status, json.loads(body)["detail"]) == (503, "a.db: the disk is full")
    status, body = await client.ask("GET", "/readyz")
    assert (status, json.loads(body)["detail"]) == (503, "backend: a.db: the disk is full")
    assert (await client.ask("GET", "/healthz"))[0] == 200
    store.outage = None
    assert (await client.ask("POST", "/send/a", body=b"z"))[0] == 200
    assert [each.data for each in await reader.events(1)] == ["z"]


async def test_a_publish_that_nobody_knows_of_is_503_and_says_what_to_do(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key it can be sent again, and is published once."""
    monkeypatch.setattr(store_of(server), "publish", failing)
    client = await server.connect()
    status, body = await client.ask("POST", "/send/a", body=b"x")
    assert (status, json.loads(body)["detail"]) == (
        503,
        (
            "a.db: cannot be written: disk I/O error; it may have been published: send it again with an"
            " Idempotency-Key, which publishes it once"
        ),
    )


async def test_a_browser_that_comes_while_the_store_cannot_be_read_comes_back(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a stream that says why, since after any other status it would stay away for good."""

    async def find(*_: Any) -> Any:
        raise BackendUnavailableError("a.db: cannot be read")

    monkeypatch.setattr(store_of(server), "find", find)
    client = await server.connect()
    head = await client.subscribe(path="/events?since=earliest", headers="Accept: text/event-stream\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b'{"reason": "backend"}' in await client.rest()
    other = await server.connect()
    await other.request("GET", "/events?since=earliest")
    assert (await other.refusal())[0] == 503


async def test_a_stream_in_this_process_reads_the_file_too(tmp_path: Path) -> None:
    """By what it asks for, and a `since` that means nothing is told when it is used."""
    config = Config(backend=f"sqlite://{tmp_path}/a.db", history_memory=0)
    broadcaster = Broadcaster(config)
    with pytest.raises(BackendUnavailableError, match="the store is not open"):
        await broadcaster.broadcast("early")
    await broadcaster.start()
    for number in range(3):
        await broadcaster.broadcast(str(number), id=f"own{number}")
    async with broadcaster.subscribe(since="own0") as stream:
        assert [(await anext(stream)).data for _ in range(2)] == ["1", "2"]
        await broadcaster.broadcast("3")
        assert (await anext(stream)).data == "3"
    async with broadcaster.subscribe(last_event_id="none") as stream:
        assert (await anext(stream)).event == "$reset"
    stream = broadcaster.subscribe(since="yesterday")
    with pytest.raises(EventError, match="since"):
        await anext(stream)
    assert broadcaster.client_count == 0
    waiting = asyncio.create_task(anext(broadcaster.subscribe(since="earliest", events=["none"])))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert broadcaster.client_count == 0
    await broadcaster.close(timeout=1.0)


async def test_metrics_tell_of_the_file(server: LiveServer) -> None:
    """How large it is, how long its commits take, and whether it is away; of memory there is none of it."""
    client = await server.connect()
    await client.ask("POST", "/send/a", body=b"x")
    said = (await client.ask("GET", "/metrics"))[1].decode()
    for name in ("bytes", "commit_seconds_count", "sync_seconds_count", "failures_total", "away"):
        assert f"\nsse_broadcast_store_{name} " in said, name
    assert "\nsse_broadcast_store_away 0.0" in said


async def test_memory_has_no_metrics_of_a_file(serve: Serve) -> None:
    """Nor a file."""
    client = await (await serve()).connect()
    assert b"sse_broadcast_store_" not in (await client.ask("GET", "/metrics"))[1]


async def test_an_application_opens_and_closes_its_file(tmp_path: Path) -> None:
    """Also where another runner serves it: what was published is there the next time."""
    path = tmp_path / "a.db"
    ids = []
    for number in range(2):
        app = create_app(Config(backend=f"sqlite://{path}"))
        runner = web.AppRunner(app)
        await runner.setup()
        broadcaster = app[BROADCASTER]
        assert broadcaster.channel("default").events == number
        ids.append((await broadcaster.broadcast("x")).id)
        await runner.cleanup()
    assert maintenance.check(path).events == 2
