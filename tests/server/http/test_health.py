"""GET /healthz and /readyz: the reasons for not being ready."""

import asyncio
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from sse_broadcast.backends.instrumented import InstrumentedBackend
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.config.schema import Endpoint, ListenerRule
from sse_broadcast.server.http.health import DRAINING_FAULT, Readiness
from sse_broadcast.server.runner import Server
from tests.conftest import Patch, Serve
from tests.support import load, process
from tests.support.asking import ask, bearer
from tests.support.credentials import STATIC
from tests.support.process import Ended, Programs, Serving
from tests.support.sockets import PATIENCE, RawClient


async def test_a_server_is_ready_until_it_drains() -> None:
    readiness = Readiness(Broadcaster())
    assert (readiness.fault, readiness.draining) == (None, False)
    readiness.drain()
    assert (readiness.fault, readiness.draining) == (DRAINING_FAULT, True)


async def test_a_closed_broadcaster_is_not_ready() -> None:
    broadcaster = Broadcaster()
    readiness = Readiness(broadcaster)
    await broadcaster.close(timeout=1)
    assert readiness.fault == DRAINING_FAULT


async def test_a_backend_outage_makes_the_server_not_ready_until_it_ends(monkeypatch: Patch) -> None:
    broadcaster = Broadcaster()
    readiness = Readiness(broadcaster)
    away: list[str | None] = ["connection refused"]
    monkeypatch.setattr(InstrumentedBackend, "outage", property(lambda _: away[0]))
    assert (readiness.fault, readiness.draining) == ("backend: connection refused", False)
    away[0] = None
    assert readiness.fault is None


programs = pytest.fixture(process.programs)


@pytest.mark.parametrize(
    ("path", "body"), [("/healthz", b'{"status":"alive"}\n'), ("/readyz", b'{"status":"ready"}\n')]
)
async def test_health_is_json_that_is_not_cached(server: Server, path: str, body: bytes) -> None:
    """HEAD has the same response without its body."""
    answer = await ask(server, "GET", path)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    head = await ask(server, "HEAD", path)
    assert (head.status, head.headers["content-length"]) == (200, str(len(body)))


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize(
    "headers",
    ["", bearer("not-good-0123456789"), bearer("a") + bearer("b"), "Origin: https://evil.example\r\n"],
)
async def test_health_needs_no_credential(serve: Serve, path: str, headers: str) -> None:
    """This holds for every configuration, host name and listener."""
    listeners = [ListenerRule(host="0.0.0.0", port=0, endpoints=(endpoint,)) for endpoint in Endpoint]
    for listener in listeners:
        server = await serve(token=STATIC, listener=(listener,))
        answer = await ask(server, "GET", f"{path}?access_token=x", headers=headers, host="evil.example")
        assert answer.status == 200


@pytest.mark.both_loops
async def test_a_draining_server_is_alive_and_not_ready(server: Server, client: RawClient) -> None:
    """It answers on open connections, so that load balancers send no more requests."""
    assert (await client.ask("GET", "/readyz"))[0] == 200
    await server.broadcaster.close(timeout=1)
    assert (await client.ask("GET", "/healthz"))[0] == 200
    answer = await ask(server, "GET", "/readyz")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.detail == "draining: the server is shutting down"


async def test_a_backend_outage_is_reported(server: Server, monkeypatch: Patch) -> None:
    """The server is not ready, with the reason. It is alive, since a restart would not help."""
    monkeypatch.setattr(InstrumentedBackend, "outage", property(lambda _: "no answer in 5 s"))
    answer = await ask(server, "GET", "/readyz")
    assert (answer.status, answer.detail) == (503, "backend: no answer in 5 s")
    assert "connection" not in answer.headers
    assert (await ask(server, "GET", "/healthz")).status == 200


# Under load.

READERS = 300
PUBLISHERS = 4

IMAGE = Path(__file__).parents[3] / "Dockerfile"

LOAD = str(Path(load.__file__))


def probe_timeout() -> float:
    """Return the time-out of the image's health check in seconds."""
    found = re.search(r"^HEALTHCHECK .*--timeout=(\d+)s ", IMAGE.read_text(), re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.both_loops
async def test_health_checks_are_answered_in_time_under_full_load(programs: Programs) -> None:
    """More is published than can be written. Each probe has its response before its time-out."""
    flags = ("--publish-rate", "0", "--overflow", "drop-oldest", "--log-level", "warning")
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    serving = await programs.serve(*flags, "--event-loop", loop)
    loading = await programs.start(sys.executable, LOAD, *map(str, (serving.port, READERS, PUBLISHERS)))
    assert await loading.line() == b"%d\n" % READERS
    published = await counted(serving, more_than=0)
    patience = probe_timeout()
    for _ in range(3):
        for path in ("/healthz", "/readyz"):
            async with asyncio.timeout(patience), aiohttp.request("GET", serving.url + path) as answer:
                assert answer.status == 200
        # The command's own deadline begins once Python has started.
        assert await (await programs.cli("health", "--url", serving.url)).ended() == Ended(0)
        published = await counted(serving, more_than=published)


async def counted(serving: Serving, *, more_than: int) -> int:
    """Return the number of published events once it has grown: the load is running."""
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(serving.url) as session:
        while True:
            async with session.get("/status") as answer:
                published = int((await answer.json())["published"])
            if published > more_than:
                return published
