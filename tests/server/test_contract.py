"""The contract of the original design. None of it may ever change."""

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.conftest import Serve


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[aiohttp.ClientSession]:
    server = await serve()
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def send(client: aiohttp.ClientSession, content: object) -> tuple[int, str, bytes]:
    async with client.post("/send", json=content) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.read()


async def status(client: aiohttp.ClientSession) -> bytes:
    async with client.get("/status") as answer:
        return await answer.read()


async def blocks(response: aiohttp.ClientResponse, count: int) -> list[bytes]:
    """Return the next blocks without comments, times, ids and first frames: the original had none."""
    found: list[bytes] = []
    while len(found) < count:
        lines = []
        while (line := await response.content.readline()) != b"\n":
            if not line.startswith((b":", b"retry:", b"id:")):
                lines.append(line)
        if b"event: $open\n" not in lines:
            found.append(b"".join(lines))
    return found


async def test_events_is_an_event_stream(client: aiohttp.ClientSession) -> None:
    async with client.get("/events") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        await send(client, {"message": "hello"})
        assert await blocks(response, 1) == [b"data: hello\n"]


async def test_send_publishes_to_every_client_and_returns_their_number(client: aiohttp.ClientSession) -> None:
    """POST /send returns {"status": "sent", "clients": n, "message": ...}, and may return more keys."""
    async with client.get("/events") as one, client.get("/events") as two:
        code, kind, body = await send(client, {"message": "hello", "event": "greeting"})
        assert (code, kind) == (200, "application/json")
        said = list(json.loads(body).items())[:3]
        assert said == [("status", "sent"), ("clients", 2), ("message", "hello")]
        for response in (one, two):
            assert await blocks(response, 1) == [b"event: greeting\ndata: hello\n"]


@pytest.mark.parametrize("content", [{"message": "x"}, {"message": "x", "event": None}])
async def test_event_is_optional_and_may_be_null(
    client: aiohttp.ClientSession, content: dict[str, object]
) -> None:
    """Without a type, browsers dispatch a `message` event."""
    async with client.get("/events") as response:
        await send(client, content)
        assert await blocks(response, 1) == [b"data: x\n"]


async def test_unknown_keys_are_refused(client: aiohttp.ClientSession) -> None:
    """The original ignored them, but had no channels: a misspelt `channel` would publish to everyone."""
    assert (await send(client, {"message": "x", "priority": 3}))[0] == 422


@pytest.mark.parametrize(
    "content", [{}, {"message": 1}, {"message": None}, {"message": "x", "event": 1}, [], "x"]
)
async def test_json_of_the_wrong_shape_is_422(client: aiohttp.ClientSession, content: object) -> None:
    """The original design has this status."""
    assert (await send(client, content))[0] == 422


async def test_status_counts_the_clients(client: aiohttp.ClientSession) -> None:
    assert json.loads(await status(client))["connected_clients"] == 0
    async with client.get("/events"):
        content = json.loads(await status(client))
        assert next(iter(content.items())) == ("connected_clients", 1)
