"""The routes, and what holds for every request."""

import json

import pytest

from tests.conftest import Connect, Serve


@pytest.mark.parametrize(
    ("method", "path", "status", "detail", "allow"),
    [
        ("GET", "/nope", 404, "nothing is at /nope", None),
        ("DELETE", "/", 404, "nothing is at /", None),
        ("GET", "/send", 405, "/send does not take GET", "POST, PUT, OPTIONS"),
        ("POST", "/events", 405, "/events does not take POST", "GET, HEAD, OPTIONS"),
        ("PATCH", "/status", 405, "/status does not take PATCH", "GET, HEAD, OPTIONS"),
        ("GET", "/%ff", 400, "request target: is not UTF-8: '/%ff'", None),
        ("GET", "/status?x=%c3%28", 400, "request target: is not UTF-8: '/status?x=%c3%28'", None),
    ],
)
async def test_what_is_not_there_is_a_problem(
    serve: Serve, connect: Connect, method: str, path: str, status: int, detail: str, allow: str | None
) -> None:
    """application/problem+json, with Allow where that helps."""
    server = await serve()
    client = await connect(server)
    await client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    head = (await client.head()).decode()
    body = json.loads(await client.take(int(head.split("Content-Length: ")[1].split("\r\n")[0])))
    assert int(head.split()[1]) == status
    assert "Content-Type: application/problem+json\r\n" in head
    assert "Server: sse-broadcast\r\n" in head
    assert ("Allow: " in head) == (allow is not None)
    assert allow is None or f"Allow: {allow}\r\n" in head
    assert (body["status"], body["detail"]) == (status, detail)


async def test_raw_bytes_in_a_target_are_refused(serve: Serve, connect: Connect) -> None:
    """A byte that is not UTF-8 never reaches a handler, whoever refuses it."""
    server = await serve()
    client = await connect(server)
    await client.send(b"POST /send?event=\xff HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    assert (await client.answer())[0] == 400
    assert server.broadcaster.counts.published == 0


async def test_a_target_of_utf8_is_taken(serve: Serve, connect: Connect) -> None:
    """Percent-encoded or bare."""
    server = await serve()
    client = await connect(server)
    assert (await client.ask("GET", "/status?x=%C3%A9"))[0] == 200
