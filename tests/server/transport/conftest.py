"""Fixtures: clients of several addresses."""

import pytest

from sse_broadcast.server.http import client_address
from tests.conftest import LiveServer, Patch
from tests.support.sockets import RawClient


@pytest.fixture
def no_loopback(monkeypatch: Patch) -> None:
    """Count loopback addresses like any other, so that a client can have several."""
    monkeypatch.setattr(client_address, "key", lambda host: host)
    monkeypatch.setattr(client_address, "is_loopback", lambda _: False)


ASK = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def refused(client: RawClient) -> bool:
    await client.send(ASK)
    return b"Retry-After" in await client.rest()


async def health(server: LiveServer) -> int:
    return (await (await server.connect()).ask("GET", "/healthz"))[0]
