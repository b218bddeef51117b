"""GET /healthz and GET /readyz."""

import pytest

from sse_broadcast.config import Endpoint, ListenerRule
from tests.conftest import Connect, Serve
from tests.support.asking import ask, bearer
from tests.support.credentials import STATIC


@pytest.mark.parametrize(
    ("path", "body"), [("/healthz", b'{"status":"alive"}'), ("/readyz", b'{"status":"ready"}')]
)
async def test_it_says_so(serve: Serve, path: str, body: bytes) -> None:
    """As JSON that no cache keeps; HEAD says the same without it."""
    server = await serve()
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
async def test_it_is_open_to_everyone(serve: Serve, path: str, headers: str) -> None:
    """Whatever is configured, whoever asks under whatever name, at every listener."""
    listeners = [ListenerRule(host="0.0.0.0", port=0, endpoints=(endpoint,)) for endpoint in Endpoint]
    for listener in listeners:
        server = await serve(token=STATIC, listener=(listener,))
        answer = await ask(server, "GET", f"{path}?access_token=x", headers=headers, host="evil.example")
        assert answer.status == 200


async def test_a_server_that_stops_is_alive_and_not_ready(serve: Serve, connect: Connect) -> None:
    """On connections that are still there; whoever balances load looks elsewhere from then on."""
    server = await serve()
    client = await connect(server)
    assert (await client.ask("GET", "/readyz"))[0] == 200
    await server.broadcaster.close(timeout=1)
    assert (await client.ask("GET", "/healthz"))[0] == 200
    answer = await ask(server, "GET", "/readyz")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.detail == "draining: the server is shutting down"
