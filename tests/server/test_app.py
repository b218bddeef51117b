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
        ("POST", "/events/a,b", 405, "/events/a,b does not take POST", "GET, HEAD, OPTIONS"),
        ("DELETE", "/send/a", 405, "/send/a does not take DELETE", "POST, PUT, OPTIONS"),
        ("POST", "/channels", 405, "/channels does not take POST", "GET, HEAD, OPTIONS"),
        ("DELETE", "/channels/a", 405, "/channels/a does not take DELETE", "GET, HEAD, OPTIONS"),
        ("GET", "/events/", 404, "nothing is at /events/", None),
        ("POST", "/send/", 404, "nothing is at /send/", None),
        ("GET", "/channels/", 404, "nothing is at /channels/", None),
        ("GET", "/channels/a/b", 404, "nothing is at /channels/a/b", None),
        ("GET", "/{path}", 404, "nothing is at /{path}", None),
        ("GET", "/events/{channels}", 400, "channel: must not contain '{': '{channels}'", None),
        ("POST", "/send/a%7D", 400, "channel: must not contain '}': 'a}'", None),
        ("GET", "/channels/{", 400, "channel: must not contain '{': '{'", None),
        ("POST", "/events/{x}", 405, "/events/{x} does not take POST", "GET, HEAD, OPTIONS"),
        ("GET", "/events/%ff", 400, "path: is not UTF-8: '/events/%ff'", None),
        ("POST", "/send/a%c3", 400, "path: is not UTF-8: '/send/a%c3'", None),
        ("GET", "/channels/%ed%a0%80", 400, "path: is not UTF-8: '/channels/%ed%a0%80'", None),
        ("GET", "/%ff", 400, "path: is not UTF-8: '/%ff'", None),
        ("GET", "/status?x=%c3%28", 400, "query: is not UTF-8 in 'x'", None),
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


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/events", "GET, HEAD, OPTIONS"),
        ("/events/a,orders.*", "GET, HEAD, OPTIONS"),
        ("/send", "POST, PUT, OPTIONS"),
        ("/send/a,b?stream=1", "POST, PUT, OPTIONS"),
        ("/send/{x}", "POST, PUT, OPTIONS"),
        ("/channels", "GET, HEAD, OPTIONS"),
        ("/channels/a", "GET, HEAD, OPTIONS"),
        ("/status", "GET, HEAD, OPTIONS"),
    ],
)
async def test_every_route_says_what_it_takes(serve: Serve, connect: Connect, path: str, allow: str) -> None:
    """204 with Allow, under a name and without."""
    server = await serve()
    client = await connect(server)
    await client.send(f"OPTIONS {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert f"\r\nAllow: {allow}\r\n".encode() in head


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/send"), ("POST", "/send/a"), ("GET", "/status"), ("GET", "/send"), ("GET", "/nope")],
)
async def test_an_expectation_that_is_not_known_is_a_problem(
    serve: Serve, connect: Connect, method: str, path: str
) -> None:
    """417, whatever is at the path or is not; `100-continue` in any case is known everywhere."""
    server = await serve()
    client = await connect(server)
    body = b'{"title":"Expectation Failed","status":417,"detail":"Expect: \'a-miracle\' is not taken"}'
    await client.request(method, path, headers="Expect: a-miracle\r\n")
    head = (await client.head()).decode()
    assert head.startswith("HTTP/1.1 417 Expectation Failed\r\n")
    assert "\r\nContent-Type: application/problem+json\r\n" in head
    assert "\r\nServer: sse-broadcast\r\n" in head
    assert await client.take(len(body)) == body
    await client.request(method, path, headers="Expect: 100-Continue\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.answer())[0] in {200, 404, 405}
    assert server.broadcaster.counts.published == (method == "POST")


async def test_a_browsers_methods_on_one_connection(serve: Serve, connect: Connect) -> None:
    """A refusal in between costs nobody the connection."""
    server = await serve()
    client = await connect(server)
    statuses = [
        (await client.ask(method, path))[0]
        for method, path in (
            ("GET", "/channels"),
            ("GET", "/channels/a%20b"),
            ("POST", "/send/a"),
            ("GET", "/events?sinse=1"),
            ("POST", "/send/a*"),
            ("GET", "/channels/a"),
        )
    ]
    assert statuses == [200, 400, 200, 400, 400, 200]
