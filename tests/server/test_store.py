"""A server with its history in a file: its responses, also during an outage of the store."""

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
    """Start a server with a file, and without room in memory."""
    return await serve(backend=f"sqlite://{tmp_path}/a.db", history_memory=0)


async def failing(*_: Any) -> Any:
    raise UncertainPublishError("a.db: cannot be written: disk I/O error")


async def test_publishers_and_subscribers_see_no_difference(server: LiveServer) -> None:
    """Responses and frames are those of a history in memory. Old events come from the file."""
    client = await server.connect()
    ids = []
    for number in range(3):
        status, body = await client.ask("POST", "/send/a", body=str(number).encode())
        answer = json.loads(body)
        assert (status, answer["status"], answer["clients"]) == (200, "sent", 0)
        ids.append(answer["id"])
    subscriber = await server.connect()
    await subscriber.subscribe(path="/events/a?since=earliest")
    assert [(each.id, each.data) for each in await subscriber.events(3)] == list(zip(ids, "012", strict=True))
    assert json.loads((await client.ask("POST", "/send/a", body=b"3"))[1])["clients"] == 1
    assert [each.data for each in await subscriber.events(1)] == ["3"]
    channel = json.loads((await client.ask("GET", "/channels/a"))[1])
    assert (channel["events"], channel["oldest"], channel["subscribers"]) == (4, ids[0], 1)


async def test_a_store_outage_is_a_503_and_publishes_nothing(server: LiveServer) -> None:
    """The 503 has a time to retry. The server is not ready, and open streams are served from memory."""
    store, client = store_of(server), await server.connect()
    subscriber = await server.connect()
    await subscriber.subscribe(path="/events/a")
    await client.ask("POST", "/send/a", body=b"x")
    await subscriber.events(1)
    store.outage = "a.db: the disk is full"
    status, body = await client.ask("POST", "/send/a", body=b"y")
    assert (status, json.loads(body)["detail"]) == (503, "a.db: the disk is full")
    status, body = await client.ask("GET", "/readyz")
    assert (status, json.loads(body)["detail"]) == (503, "backend: a.db: the disk is full")
    assert (await client.ask("GET", "/healthz"))[0] == 200
    store.outage = None
    assert (await client.ask("POST", "/send/a", body=b"z"))[0] == 200
    assert [each.data for each in await subscriber.events(1)] == ["z"]


async def test_a_publish_with_unknown_outcome_is_a_503_with_advice(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an idempotency key it can be sent again, and is published once."""
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


async def test_a_browser_that_connects_during_a_store_outage_reconnects(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a stream with the reason: after any other status it would stop for good."""

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


async def test_a_stream_in_the_process_reads_the_file_too(tmp_path: Path) -> None:
    """Its cursor may be in the file, and an invalid one is an error at its first use."""
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


async def test_metrics_have_the_state_of_the_file(server: LiveServer) -> None:
    """These are its size, the time of its commits and its outages."""
    client = await server.connect()
    await client.ask("POST", "/send/a", body=b"x")
    said = (await client.ask("GET", "/metrics"))[1].decode()
    for name in ("bytes", "commit_seconds_count", "sync_seconds_count", "failures_total", "away"):
        assert f"\nsse_broadcast_store_{name} " in said, name
    assert "\nsse_broadcast_store_away 0.0" in said


async def test_memory_has_no_metrics_of_a_file(serve: Serve) -> None:
    client = await (await serve()).connect()
    assert b"sse_broadcast_store_" not in (await client.ask("GET", "/metrics"))[1]


async def test_an_application_opens_and_closes_its_file(tmp_path: Path) -> None:
    """It may run in another server. Published events are in the history after a restart."""
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
    assert maintenance.check_file(path).events == 2
