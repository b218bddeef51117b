"""Routes: the methods of each path, and responses for unknown paths and methods."""

import json

import pytest

from tests.support.sockets import RawClient

READ = "GET, HEAD, OPTIONS"
PUBLISH = "POST, PUT, OPTIONS"
BOTH = "GET /events subscribes, POST /send publishes"
NO_CHANNEL = "the name of the channel is empty: /channels lists all, /channels/NAME is one by its name"
EMPTY = "the name of the channel is empty: {0} is the channel `default`, {0}/NAME is one by its name"


@pytest.mark.parametrize(
    ("method", "path", "status", "detail", "allow"),
    [
        ("GET", "/nope", 404, f"nothing is at /nope; {BOTH}", None),
        ("DELETE", "/", 405, "/ does not support DELETE, but GET, HEAD, OPTIONS", READ),
        ("GET", "/" + "x" * 100, 404, f"nothing is at /{'x' * 79}; {BOTH}", None),
        ("GET", "/send", 405, f"/send does not support GET, but {PUBLISH}; GET /events subscribes", PUBLISH),
        (
            "HEAD",
            "/send/a",
            405,
            f"/send/a does not support HEAD, but {PUBLISH}; GET /events/a subscribes",
            PUBLISH,
        ),
        (
            "PUT",
            "/events",
            405,
            "/events does not support PUT, but GET, HEAD, POST, OPTIONS; POST /send publishes",
            "GET, HEAD, POST, OPTIONS",
        ),
        ("PATCH", "/status", 405, "/status does not support PATCH, but GET, HEAD, OPTIONS", READ),
        (
            "POST",
            "/events/a,b",
            405,
            "/events/a,b does not support POST, but GET, HEAD, OPTIONS; POST /send/a,b publishes",
            READ,
        ),
        ("DELETE", "/send/a", 405, "/send/a does not support DELETE, but POST, PUT, OPTIONS", PUBLISH),
        ("POST", "/channels", 405, "/channels does not support POST, but GET, HEAD, OPTIONS", READ),
        ("DELETE", "/channels/a", 405, "/channels/a does not support DELETE, but GET, HEAD, OPTIONS", READ),
        ("PROPFIND", "/status", 405, "/status does not support PROPFIND, but GET, HEAD, OPTIONS", READ),
        ("GET", "/events/", 404, f"nothing is at /events/; {EMPTY.format('/events')}", None),
        ("GET", "//events", 404, "nothing is at //events; GET /events subscribes", None),
        ("POST", "/send/", 404, f"nothing is at /send/; {EMPTY.format('/send')}", None),
        ("POST", "//send/a", 404, "nothing is at //send/a; POST /send publishes", None),
        ("GET", "/channels/", 404, f"nothing is at /channels/; {NO_CHANNEL}", None),
        ("GET", "/channels/a/b", 404, "nothing is at /channels/a/b; GET /channels lists channels", None),
        ("GET", "/a%0Ab", 404, f"nothing is at /a\nb; {BOTH}", None),
        ("GET", "/{path}", 404, f"nothing is at /{{path}}; {BOTH}", None),
        ("GET", "/events/{channels}", 400, "channel: must not contain '{': '{channels}'", None),
        ("POST", "/send/a%7D", 400, "channel: must not contain '}': 'a}'", None),
        ("GET", "/channels/{", 400, "channel: must not contain '{': '{'", None),
        (
            "POST",
            "/events/{x}",
            405,
            "/events/{x} does not support POST, but GET, HEAD, OPTIONS; POST /send/{x} publishes",
            READ,
        ),
        ("GET", "/events/%ff", 400, "path: is not UTF-8: '/events/%ff'", None),
        ("POST", "/send/a%c3", 400, "path: is not UTF-8: '/send/a%c3'", None),
        ("GET", "/channels/%ed%a0%80", 400, "path: is not UTF-8: '/channels/%ed%a0%80'", None),
        ("GET", "/%ff", 400, "path: is not UTF-8: '/%ff'", None),
        ("GET", "/status?x=%c3%28", 400, "query: is not UTF-8 in 'x'", None),
    ],
)
async def test_an_unknown_path_or_method_is_a_problem(
    client: RawClient, method: str, path: str, status: int, detail: str, allow: str | None
) -> None:
    """The response has Allow and a hint, and ends with a newline."""
    await client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    head = (await client.head()).decode()
    assert int(head.split()[1]) == status
    assert "Content-Type: application/problem+json\r\n" in head
    assert "Server: sse-broadcast\r\n" in head
    assert ("Allow: " in head) == (allow is not None)
    assert allow is None or f"Allow: {allow}\r\n" in head
    if method != "HEAD":
        answer = await client.take(int(head.split("Content-Length: ")[1].split("\r\n")[0]))
        assert answer.endswith(b"}\n")
        said = json.loads(answer)
        assert (said["status"], said["detail"]) == (status, detail)


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/events", "GET, HEAD, POST, OPTIONS"),
        ("/events/a,orders.*", "GET, HEAD, OPTIONS"),
        ("/send", "POST, PUT, OPTIONS"),
        ("/send/a,b?stream=1", "POST, PUT, OPTIONS"),
        ("/send/{x}", "POST, PUT, OPTIONS"),
        ("/channels", "GET, HEAD, OPTIONS"),
        ("/channels/a", "GET, HEAD, OPTIONS"),
        ("/status", "GET, HEAD, OPTIONS"),
    ],
)
async def test_every_route_lists_its_methods(client: RawClient, path: str, allow: str) -> None:
    await client.send(f"OPTIONS {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert f"\r\nAllow: {allow}\r\n".encode() in head
