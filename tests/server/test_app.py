"""Application: rules for every request, and the limits of a request line and of a head."""

import asyncio

import pytest

from sse_broadcast.server.services import BATCH_LOCK
from tests.conftest import LiveServer, Serve
from tests.support.asking import ask
from tests.support.internals import pipelined_of, web_server_of
from tests.support.sockets import RawClient, until


async def test_raw_bytes_in_a_target_are_refused(server: LiveServer, client: RawClient) -> None:
    """A byte that is not UTF-8 never reaches a handler: either the parser or the application refuses it."""
    await client.send(b"POST /send?event=\xff HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    assert (await client.answer())[0] == 400
    assert server.broadcaster.counts.published == 0


async def test_a_target_of_utf8_is_accepted(client: RawClient) -> None:
    assert (await client.ask("GET", "/status?x=%C3%A9"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/send"), ("POST", "/send/a"), ("GET", "/status"), ("GET", "/send"), ("GET", "/nope")],
)
async def test_an_unknown_expectation_is_refused(
    server: LiveServer, client: RawClient, method: str, path: str
) -> None:
    """It is a 417 on every path. `100-continue` is accepted on every path, in any case."""
    body = b'{"title":"Expectation Failed","status":417,"detail":"Expect: \'a-miracle\' is not supported"}\n'
    await client.request(method, path, headers="Expect: a-miracle\r\n")
    head = (await client.head()).decode()
    assert head.startswith("HTTP/1.1 417 Expectation Failed\r\n")
    assert "\r\nContent-Type: application/problem+json\r\n" in head
    assert "\r\nServer: sse-broadcast\r\n" in head
    assert await client.take(len(body)) == body
    await client.request(method, path, headers="Expect: 100-Continue\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.answer())[0] in {200, 404, 405, 422}
    await client.request(method, path, body=b"x" if method == "POST" else b"")
    assert (await client.answer())[0] in {200, 404, 405}
    assert server.broadcaster.counts.published == (method == "POST")


async def test_a_browsers_methods_on_one_connection(client: RawClient) -> None:
    statuses = [
        (await client.ask(method, path))[0]
        for method, path in (
            ("GET", "/channels"),
            ("GET", "/channels/a%20b"),
            ("POST", "/send/a?event=t"),
            ("GET", "/events?sinse=1"),
            ("POST", "/send/a*"),
            ("GET", "/channels/a"),
        )
    ]
    assert statuses == [200, 400, 200, 400, 400, 200]


# Limits of a request line and of a head.

PAGE = "https://a.example"

FOREIGN = f"Origin: {PAGE}\r\n"


def padded(start: str, *, to: int) -> str:
    """Return a target that begins with `path` and is this many bytes long."""
    return start.ljust(to, "x")


@pytest.mark.parametrize("start", ["/status?x=", "/events?x=", "/nope", "/events/"])
async def test_a_target_is_limited_to_16_kibibytes(serve: Serve, start: str) -> None:
    """A longer path or query is a 414, readable for pages of an allowed origin."""
    server = await serve(cors_origins=(PAGE,))
    longest = await ask(server, "HEAD", padded(start, to=16_384), headers=FOREIGN)
    assert longest.status == {"/status?x=": 200, "/events?x=": 200, "/nope": 404, "/events/": 400}[start]
    answer = await ask(server, "GET", padded(start, to=16_385), headers=FOREIGN)
    assert (answer.status, answer.headers["content-type"]) == (414, "application/problem+json")
    assert answer.body == (
        b'{"title":"URI Too Long","status":414,"detail":"request line: has 16385 bytes, more than 16384;'
        b' send a long list of channels in the body of POST /events"}\n'
    )
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-credentials"] == "true"


async def test_a_target_that_is_too_long_is_counted_and_keeps_its_connection(
    server: LiveServer, client: RawClient
) -> None:
    assert (await client.ask("GET", padded("/events?x=", to=20_000)))[0] == 414
    assert (await client.ask("POST", padded("/send?x=", to=20_000), body=b"x"))[0] == 414
    assert (await client.ask("GET", "/status"))[0] == 200
    assert server.broadcaster.counts.published == 0
    assert server.broadcaster.counts.refused == {"414": 2}


def head_of(size: int, *, more: str = "") -> bytes:
    """Return a request whose head has this size: its target, its headers and their line ends."""
    said = f"Host: localhost\r\n{more}"
    padding = size - len("/status") - len(said) - 4 * len("X: \r\n")
    fields = [f"X: {'x' * length}\r\n" for length in (8_000, 8_000, 8_000, padding - 24_000)]
    return f"GET /status HTTP/1.1\r\n{said}{''.join(fields)}\r\n".encode()


async def test_a_head_is_limited_to_32_kibibytes(serve: Serve) -> None:
    """Beyond is a 431 problem, readable for pages of an allowed origin. The connection stays open."""
    _, client = await serve.connected(cors_origins=(PAGE,))
    await client.send(head_of(32_768, more=FOREIGN))
    assert (await client.answer())[0] == 200
    await client.send(head_of(32_769, more=FOREIGN))
    head = (await client.head()).decode()
    body = (
        b'{"title":"Request Header Fields Too Large","status":431,'
        b'"detail":"head: has 32769 bytes, more than 32768"}\n'
    )
    assert head.startswith("HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert "\r\nContent-Type: application/problem+json\r\n" in head
    assert f"\r\nAccess-Control-Allow-Origin: {PAGE}\r\n" in head
    assert await client.take(len(body)) == body
    assert (await client.ask("GET", "/status"))[0] == 200


async def test_a_head_in_pieces_is_measured_as_a_whole(client: RawClient) -> None:
    """The number of pieces does not matter, nor do earlier requests on the connection."""
    for _ in range(3):
        assert (await client.ask("POST", "/send", body=b"x" * 30_000))[0] == 200
    for size, status in ((32_768, 200), (32_769, 431), (40_000, 431), (30_000, 200)):
        whole = head_of(size)
        for start in range(0, len(whole), 5000):
            await client.send(whole[start : start + 5000])
            await asyncio.sleep(0)
        assert (await client.answer())[0] == status


async def test_a_body_does_not_count_as_head(client: RawClient) -> None:
    assert (await client.ask("POST", "/send", body=b"x" * 60_000))[0] == 200
    ask_twice = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    await client.send(ask_twice)
    for _ in range(1000):
        assert (await client.answer())[0] == 200


async def test_a_pipelined_long_head_is_measured_too(server: LiveServer, client: RawClient) -> None:
    await server.app[BATCH_LOCK].acquire()
    body = b'[{"message":"x"}]'
    await client.request("POST", "/send", body=body, headers="Content-Type: application/json\r\n")
    await until(lambda: len(server.app[BATCH_LOCK]) == 1)
    (found,) = web_server_of(server).connections
    for waiting, size in enumerate((40_000, 30_000), 1):
        await client.send(head_of(size))
        await until(lambda waiting=waiting: len(pipelined_of(found)) == waiting)  # type: ignore[misc]
    server.app[BATCH_LOCK].release()
    assert [(await client.answer())[0] for _ in range(3)] == [200, 431, 200]
