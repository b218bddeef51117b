"""Stream head: prepared once, with the bytes that aiohttp makes for each response."""

import re
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from sse_broadcast import Config, create_app
from sse_broadcast.server.streams.head import ALREADY_SENT, chunked_response_head
from tests.conftest import Patch, Serve
from tests.support.sockets import RawClient

ORIGIN = "https://example.org"

OWN = re.compile(rb"(Date): [^\r]+")
"""The part that differs between two heads."""


@pytest.fixture
async def aiohttps() -> AsyncIterator[int]:
    """Yield the port of an application that another server runs, where aiohttp sends each head."""
    runner = web.AppRunner(create_app(Config(cors_origins=(ORIGIN,))))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
@pytest.mark.parametrize("origin", ["", f"Origin: {ORIGIN}\r\n"])
async def test_the_head_is_aiohttps_own_byte_for_byte(
    serve: Serve, aiohttps: int, accept: str, origin: str
) -> None:
    """This holds in each format, for a page of an origin and for other clients."""
    server = await serve(cors_origins=(ORIGIN,))
    ours, theirs = await server.connect(), await RawClient.open(aiohttps)
    headers = f"Accept: {accept}\r\n{origin}"
    made = [await client.subscribe(headers=headers) for client in (ours, theirs)]
    theirs.close()
    assert OWN.sub(rb"\1", made[0]) == OWN.sub(rb"\1", made[1])
    assert made[0].startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_date_is_that_of_its_second(monkeypatch: Patch) -> None:
    """It is formatted once a second."""
    clock = [784_111_777.9]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    assert b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n" in chunked_response_head("text/event-stream", {})
    clock[0] += 0.2
    assert b"\r\nDate: Sun, 06 Nov 1994 08:49:38 GMT\r\n" in chunked_response_head("text/event-stream", {})


def test_the_response_for_aiohttp_has_ended() -> None:
    """One object serves all streams. It sends nothing, and makes aiohttp close the connection."""
    assert ALREADY_SENT.prepared
    assert ALREADY_SENT.keep_alive is False
