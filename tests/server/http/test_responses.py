"""Responses as types."""

import json

import msgspec
import pytest

from sse_broadcast.server.http import responses
from sse_broadcast.server.http.problem import body
from tests.conftest import LiveServer, Serve
from tests.support.asking import ask
from tests.support.sockets import RawClient

JSON = "Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("kind", "method", "path", "content"),
    [
        (responses.Sent, "POST", "/send/a,b", b'{"message": "x"}'),
        (responses.Sent, "POST", "/send/a", b'{"message": "%b"}' % (b"x" * 70_000)),
        (responses.SentBatch, "POST", "/send/a", b'[{"message": "x"}]'),
        (responses.SentBatch, "POST", "/send/a?stream=1", b""),
        (responses.ServerStatus, "GET", "/status", b""),
        (responses.ChannelPage, "GET", "/channels", b""),
        (responses.Health, "GET", "/healthz", b""),
        (responses.Health, "GET", "/readyz", b""),
        (responses.MintedToken, "POST", "/tokens", b'{"grants": {"subscribe": ["a"]}}'),
        (responses.Revoked, "POST", "/revoke", b'{"subject": "a"}'),
    ],
)
async def test_a_response_has_exactly_these_members(
    client: RawClient, kind: type, method: str, path: str, content: bytes
) -> None:
    """The order is fixed. Decoded as its type and encoded again it is the same bytes."""
    await client.ask("POST", "/send/news", body=b"x")
    status, answer = await client.ask(method, path, body=content, headers=JSON)
    assert status == 200, answer
    assert msgspec.json.encode(msgspec.json.decode(answer, type=kind)) + b"\n" == answer


@pytest.mark.parametrize("more", [{}, {"published": 3}])
def test_a_problem_has_exactly_these_members(more: dict[str, int]) -> None:
    problem = body(400, "x", **more)
    assert msgspec.json.encode(msgspec.json.decode(problem, type=responses.ProblemDetails)) + b"\n" == problem


SNIFF = "x-content-type-options"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/send/a", 200),
        ("GET", "/status", 200),
        ("HEAD", "/channels", 200),
        ("GET", "/channels/a", 200),
        ("GET", "/subscribers", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/healthz", 200),
        ("GET", "/status?x=" + "x" * 20_000, 414),
        ("OPTIONS", "/send", 204),
        ("GET", "/%3Cscript%3E", 404),
        ("PUT", "/status", 405),
        ("CONNECT", "nowhere:80", 404),
        ("BAD METHOD", "/", 400),
    ],
)
async def test_a_response_is_never_sniffed_as_another_type(
    serve: Serve, method: str, path: str, status: int
) -> None:
    """Browsers keep its type whatever a publisher sent. aiohttp's own errors are the same."""
    answer = await ask(await serve(), method, path, body=b"<script>" * (method == "POST"))
    assert (answer.status, answer.headers[SNIFF]) == (status, "nosniff")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text/event-stream", "text/event-stream; charset=utf-8"),
        ("application/x-ndjson", "application/x-ndjson"),
    ],
)
async def test_the_type_of_a_stream_is_never_sniffed(server: LiveServer, kind: str, said: str) -> None:
    """By WHATWG MIME Sniffing, 7, the head needs no nosniff. HEAD has the headers of GET."""
    for method in ("GET", "HEAD"):
        answer = await ask(server, method, "/events", headers=f"Accept: {kind}\r\n")
        assert (answer.status, answer.headers["content-type"]) == (200, said)
        assert SNIFF not in answer.headers


async def test_a_line_of_a_stream_is_an_envelope(serve: Serve) -> None:
    server = await serve(lifetime=0.1)
    await server.broadcaster.broadcast("x", channels=["news"])
    subscriber = await server.connect()
    await subscriber.subscribe(path="/events/news?since=earliest", headers="Accept: application/x-ndjson\r\n")
    lines = []
    while chunk := await subscriber.chunk():
        lines += [line for line in chunk.splitlines() if line]
    read = [msgspec.json.decode(line, type=responses.Envelope) for line in lines]
    assert [(line.channel, line.event, line.data) for line in read] == [
        (None, "$open", {"heartbeat": 4}),
        ("news", "message", "x"),
        (None, "$close", {"reason": "lifetime"}),
    ]
    assert [json.loads(msgspec.json.encode(line)) for line in read] == [json.loads(line) for line in lines]
