"""Services: what handlers find in the application, and the second check of a credential."""

import json
import time
from typing import Any

import pytest
from aiohttp import web

from sse_broadcast import BROADCASTER, Broadcaster, Config, create_app
from sse_broadcast.server.services import ACTIVE_SERVICES, BATCH_LOCK, LINE_STREAMS, OWN_LISTENER
from sse_broadcast.server.streams.registry import STREAM_REGISTRY
from tests.conftest import LiveServer, Patch, Serve
from tests.support.asking import ask, bearer
from tests.support.credentials import OWN_SECRET, STATIC, caller, own, static
from tests.support.sockets import RawClient

JSON = "Content-Type: application/json\r\n"
NDJSON = "Content-Type: application/x-ndjson\r\n"

GRANTS: dict[str, Any] = {"publish": ("a",), "subscribe": ("a",), "inspect": ("*",), "admin": ("*",)}
SETTINGS: dict[str, Any] = {
    "token": STATIC,
    "token_secret": OWN_SECRET,
    "caller": (caller("narrow", **GRANTS),),
}

WAYS: list[tuple[str, str, str, bytes]] = [
    ("POST", "/send/a", "", b"text"),
    ("POST", "/send/a", "Idempotency-Key: k\r\n", b"text"),
    ("POST", "/send", JSON, b'{"message":"x","channel":"a"}'),
    ("POST", "/send/a", JSON, b'[{"message":"x"}]'),
    ("PUT", "/send/a", NDJSON, b'{"message":"x"}\n'),
    ("POST", "/send/a?stream=1", "", b"text\n"),
    ("POST", "/send/a?stream=1", NDJSON, b'{"message":"x"}\n'),
    ("GET", "/events/a", "", b""),
    ("POST", "/events", JSON, b'{"channel":"a"}'),
    ("POST", "/tokens", JSON, b'{"grants":{"publish":["a"]}}'),
    ("POST", "/revoke", JSON, b'{"subject":"someone"}'),
]
"""Requests with a body, which act once it has arrived."""


async def begin(
    server: LiveServer, way: tuple[str, str, str, bytes], token: str = static("narrow")
) -> RawClient:
    """Send a head, and wait until its handler waits for the body."""
    method, path, headers, _ = way
    client = await server.connect()
    reported = f"{headers}{bearer(token)}Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"
    await client.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{reported}\r\n".encode())
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    return client


async def finish(client: RawClient, way: tuple[str, str, str, bytes]) -> tuple[int, str]:
    """Send the body, and return the status and the detail of the response."""
    if body := way[-1]:
        await client.send_chunk(body)
    await client.send_chunk()
    status, answer = await client.answer()
    return status, json.loads(answer).get("detail", "").partition(";")[0]


def state_of(server: LiveServer) -> tuple[int, int, int]:
    """Return the state that each of the requests would change."""
    counts, revoked = server.broadcaster.counts, server.services.authenticator.revocations
    return counts.published, counts.opened, len(revoked)


@pytest.mark.parametrize("way", WAYS, ids=[f"{method} {path}" for method, path, _, _ in WAYS])
async def test_a_request_does_nothing_after_its_token_is_revoked(
    serve: Serve, way: tuple[str, str, str, bytes]
) -> None:
    """The credential is checked again right before the change, after all waiting."""
    server = await serve(**SETTINGS)
    client = await begin(server, way)
    answer = await ask(server, "POST", "/revoke", headers=bearer(STATIC) + JSON, body=b'{"caller":"narrow"}')
    assert answer.status == 200
    before = state_of(server)
    assert await finish(client, way) == (401, "token: was revoked")
    assert state_of(server) == before


@pytest.mark.parametrize("way", WAYS, ids=[f"{method} {path}" for method, path, _, _ in WAYS])
async def test_a_request_does_nothing_after_its_token_expires(
    serve: Serve, way: tuple[str, str, str, bytes]
) -> None:
    server = await serve(**SETTINGS)
    end = int(time.time()) + 1000
    grants = {name: list(channels) for name, channels in GRANTS.items()}
    client = await begin(server, way, own(grants=grants, exp=end))
    before = state_of(server)
    server.app[ACTIVE_SERVICES].services.authenticator.clock = lambda: end + 1.0
    status, detail = await finish(client, way)
    assert (status, detail.partition(" at ")[0]) == (401, "token: expired")
    assert state_of(server) == before


@pytest.mark.parametrize(("change", "status"), [("revoke", 401), ("nothing", 200)])
async def test_a_listing_for_a_token_revoked_meanwhile_is_not_sent(
    serve: Serve, monkeypatch: Patch, change: str, status: int
) -> None:
    """The listing yields to other tasks while it is built."""
    server = await serve(**SETTINGS)
    registry, page = server.app[STREAM_REGISTRY], server.app[STREAM_REGISTRY].page

    async def slow_page(**options: Any) -> Any:
        if change == "revoke":
            server.app[ACTIVE_SERVICES].services.authenticator.revoke("caller", "narrow")
        return await page(**options)

    monkeypatch.setattr(registry, "page", slow_page)
    assert (await ask(server, "GET", "/subscribers", headers=bearer(static("narrow")))).status == status


async def test_each_application_has_its_own_broadcaster() -> None:
    config = Config(queue_size=5)
    one, two = create_app(config), create_app()
    assert isinstance(one, web.Application)
    assert isinstance(one[BROADCASTER], Broadcaster)
    assert one[BROADCASTER] is not two[BROADCASTER]
    assert (one[ACTIVE_SERVICES].services.config, two[ACTIVE_SERVICES].services.config) == (config, Config())
    assert not one[OWN_LISTENER]
    assert one[LINE_STREAMS] == set()
    assert one[LINE_STREAMS] is not two[LINE_STREAMS]
    assert one[BATCH_LOCK] is not two[BATCH_LOCK]
    assert not one[BATCH_LOCK].locked()
