"""Clients that come from several addresses."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from sse_broadcast.server.http import client_address
from sse_broadcast.server.runner import Server
from tests.conftest import Connect
from tests.support.sockets import RawClient


@pytest.fixture
def no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the loopback's addresses counted as any other's, so that clients can have several."""
    monkeypatch.setattr(client_address, "key", lambda host: host)
    monkeypatch.setattr(client_address, "is_loopback", lambda _: False)


Come = Callable[[Server, str], Awaitable[RawClient]]


@pytest.fixture
async def come() -> AsyncIterator[Come]:
    """Connect from an address, and close what was opened when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_socket(server: Server, source: str) -> RawClient:
            client = await RawClient.open(server.port, source=source)
            stack.callback(client.close)
            return client

        yield open_socket


ASK = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def refused(client: RawClient) -> bool:
    await client.send(ASK)
    return b"Retry-After" in await client.rest()


async def health(connect: Connect, server: Server) -> int:
    return (await (await connect(server)).ask("GET", "/healthz"))[0]
