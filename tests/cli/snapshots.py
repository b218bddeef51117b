"""A snapshot to show, and a server with scripted responses, for tests of the live status."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from sse_broadcast.cli.live_status import Snapshot

STATUS = {"connected_clients": 3, "published": 1200, "closed": {"left": 4, "slow": 1}, "dropped": {}}

SLOWEST = [
    {
        "id": "17",
        "address": "2001:db8::7",
        "channels": ["orders.*", "news"],
        "state": "full",
        "age": 100_000.0,
        "drops": 123_456_789,
        "behind": 1024,
        "queued_bytes": 1_048_576,
        "lag": 83.26,
    },
    {
        "id": "4",
        "address": "unix",
        "channels": ["default"],
        "state": "catching-up",
        "age": 0.04,
        "drops": 0,
        "behind": 1,
        "queued_bytes": 0,
        "lag": 0.99,
    },
]

SEEN = Snapshot(at=100.0, time=1_700_000_000.0, status=STATUS, slowest=SLOWEST)


def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


StartScripted = Callable[..., Awaitable[str]]


async def scripted_server() -> AsyncIterator[StartScripted]:
    """Yield a function that starts a server with the given responses and returns its URL."""
    runners: list[web.AppRunner] = []

    async def start(**answers: Any) -> str:
        app = web.Application()
        for name, answer in answers.items():
            app.router.add_get(f"/{name}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{site.port}"

    yield start
    for runner in runners:
        await runner.cleanup()


def json_handler(content: object, status: int = 200) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that always responds with this JSON."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(content, status=status)

    return answer
