"""GET /status as an event stream: a sample each second, until something ends it."""

import asyncio
import json
import time
from typing import Any

from sse_broadcast.config.schema import CallerRule
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import STATUS_STREAMS
from tests.conftest import Connect, Serve
from tests.support.sockets import PATIENCE, RawClient, until

TOKEN = "a-token-of-forty-characters-at-the-least"
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
STREAM = "Accept: text/event-stream\r\n"


async def begin(client: RawClient, headers: str = "") -> bytes:
    """Ask for the stream, and return its head."""
    return await client.subscribe(path="/status", headers=STREAM + headers)


async def sample(client: RawClient) -> dict[str, Any]:
    (event,) = await client.events(1)
    assert event.type == "message"
    told: dict[str, Any] = json.loads(event.data)
    return told


async def test_a_sample_comes_each_second(server: Server, connect: Connect) -> None:
    """The status as JSON has it, the moment, and what was delivered."""
    client, other = await connect(server), await connect(server)
    head = await begin(client)
    assert b"Content-Type: text/event-stream" in head
    await other.ask("POST", "/send", body=b"x")
    seen = [await sample(client)]
    while not seen[-1]["published"]:
        seen.append(await sample(client))
    status = json.loads((await other.ask("GET", "/status"))[1])
    assert {name: seen[-1][name] for name in status} == status
    assert abs(seen[-1]["time"] - time.time()) < PATIENCE
    assert seen[-1]["history_channels"] == 1
    assert seen[-1]["delivered"] == 0


async def test_a_status_stream_is_no_subscriber(server: Server, connect: Connect) -> None:
    """It is not counted among them, nor listed."""
    client, other = await connect(server), await connect(server)
    await begin(client)
    assert (await sample(client))["connected_clients"] == 0
    assert json.loads((await other.ask("GET", "/subscribers"))[1])["total"] == 0


async def test_the_json_stays_for_who_asks_for_no_stream(client: RawClient) -> None:
    for headers in ("", "Accept: */*\r\n", "Accept: application/json\r\n"):
        status, body = await client.ask("GET", "/status", headers=headers)
        assert (status, body[:21]) == (200, b'{"connected_clients":')


async def test_head_asks_for_no_stream(client: RawClient) -> None:
    """What follows on the connection is answered."""
    await client.request("HEAD", "/status", headers=STREAM)
    assert b" 200 " in await client.head()
    assert (await client.ask("GET", "/healthz"))[0] == 200


async def test_who_may_not_inspect_gets_no_stream(serve: Serve, connect: Connect) -> None:
    server = await serve(token=TOKEN)
    status, _ = await (await connect(server)).ask("GET", "/status", headers=STREAM)
    assert status == 401
    assert b" 200 " in await begin(await connect(server), BEARER)


async def ended(client: RawClient) -> str:
    """Return the reason with which the stream ends."""
    while (event := (await client.events(1))[0]).type != "$close":
        pass
    reason: str = json.loads(event.data)["reason"]
    return reason


async def test_it_ends_when_the_server_drains(serve: Serve, connect: Connect) -> None:
    server = await serve(token=TOKEN)
    client = await connect(server)
    await begin(client, BEARER)
    await until(lambda: len(server.app[STATUS_STREAMS]) == 1)
    stopping = asyncio.create_task(server.stop())
    assert await ended(client) == "drain"
    await stopping


async def test_it_ends_with_its_credential(serve: Serve, connect: Connect) -> None:
    """When that is revoked, as a subscriber's stream does; and it ends, with no other answer behind."""
    server = await serve(token=TOKEN, caller=(CallerRule(name="watcher", token="w" * 40, inspect=("*",)),))
    client, admin = await connect(server), await connect(server)
    await begin(client, f"Authorization: Bearer {'w' * 40}\r\n")
    await until(lambda: len(server.app[STATUS_STREAMS]) == 1)
    headers = f"{BEARER}Content-Type: application/json\r\n"
    status, body = await admin.ask("POST", "/revoke", body=b'{"caller": "watcher"}', headers=headers)
    assert (status, json.loads(body)["streams"]) == (200, 1)
    assert await ended(client) == "revoked"
    assert await client.rest() == b"0\r\n\r\n"
    assert not server.app[STATUS_STREAMS]


async def test_it_counts_for_the_limit_of_its_token(serve: Serve, connect: Connect) -> None:
    """Whoever names event streams is told in one when to come back, as an EventSource needs."""
    caller = CallerRule(name="watcher", token="w" * 40, inspect=("*",))
    server = await serve(token=TOKEN, caller=(caller,), max_connections_per_token=1)
    bearer = f"Authorization: Bearer {'w' * 40}\r\n"
    await begin(await connect(server), bearer)
    status, body = await (await connect(server)).ask("GET", "/status", headers=STREAM + bearer)
    assert status == 200
    assert body.startswith(b"event: $close\nretry: ")
    assert body.endswith(b'data: {"reason": "token"}\n\n')


async def test_a_client_that_leaves_is_forgotten(server: Server, connect: Connect) -> None:
    client = await connect(server)
    await begin(client)
    await until(lambda: len(server.app[STATUS_STREAMS]) == 1)
    client.close()
    await until(lambda: not server.app[STATUS_STREAMS])


async def test_http_1_0_is_given_the_stream_too(server: Server, connect: Connect) -> None:
    client = await connect(server)
    await client.send(b"GET /status HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    assert b" 200 " in await client.head()
    assert (await client.up_to(b"data: {")).endswith(b"data: {")
