"""Held bodies: bytes count for their caller's share from the first byte to the end of the request."""

import json

import pytest

from sse_broadcast.metrics import Share
from sse_broadcast.server.access.shares import UNCOUNTED
from sse_broadcast.server.services import SHARES
from tests.conftest import Serve
from tests.support.internals import held_bytes_of
from tests.support.sockets import RawClient, until

pytestmark = pytest.mark.both_loops

NDJSON = "Content-Type: application/x-ndjson\r\n"
SETTINGS = {"trusted_proxies": ("127.0.0.1",), "insecure_publish": True, "allowed_hosts": ("x",)}
HOST = "X-Forwarded-For: 192.0.2.1\r\n"


@pytest.mark.parametrize("path", ["/send", "/send?stream=1"])
async def test_the_bytes_received_of_a_body_count_for_its_caller(serve: Serve, path: str) -> None:
    """They count until the body is published or broken off. A short body does not count."""
    server = await serve(**SETTINGS)
    shares = server.app[SHARES]
    client = await server.connect()
    await client.begin(path, headers=HOST + NDJSON)
    await client.send_chunk(b'{"message":"' + b"x" * 100_000)
    await until(lambda: shares.body_bytes == 100_012 - UNCOUNTED)
    assert held_bytes_of(shares) == {"192.0.2.1": 100_012 - UNCOUNTED}
    await client.send_chunk(b'"}\n')
    await client.send_chunk()
    assert (await client.answer())[0] == 200
    await until(lambda: shares.body_bytes == 0)
    client = await server.connect()
    await client.begin(path, headers=HOST + NDJSON)
    await client.send_chunk(b"x" * 50_000)
    await until(lambda: shares.body_bytes == 50_000 - UNCOUNTED)
    client.close()
    await until(lambda: shares.body_bytes == 0)


async def test_unfinished_lines_of_one_caller_are_limited(serve: Serve) -> None:
    """The line stream beyond the share is ended. Its response has the number of published events."""
    server = await serve(**SETTINGS, max_event=20_000, max_body=20_000, queue_bytes=20_000)
    shares = server.app[SHARES]
    most = shares.max_body_bytes
    refused = 0
    clients: list[RawClient] = []
    while not refused:
        assert len(clients) < most // (80_000 - UNCOUNTED)
        clients.append(await server.connect())
        await clients[-1].begin("/send?stream=1", headers=HOST + NDJSON)
        before = shares.body_bytes
        await clients[-1].send_chunk(b'{"message":"' + b"x" * 79_988)
        await until(
            lambda held=before: (
                shares.body_bytes == held + 80_000 - UNCOUNTED  # type: ignore[misc]
                or bool(server.broadcaster.metrics.shares_reached)
            )
        )
        refused = server.broadcaster.metrics.shares_reached[Share.BODY_BYTES]
    assert shares.body_bytes <= most // 2
    status, answer = await clients[-1].answer()
    assert (status, json.loads(answer)["published"]) == (429, 0)
    other = await server.connect()
    body = b'{"message":"' + b"x" * 10_000 + b'"}\n'
    assert (await other.ask("POST", "/send", body=body, headers="X-Forwarded-For: 192.0.2.2\r\n"))[0] == 200
