"""Rejected connections and their responses."""

import asyncio
import json

import pytest

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.server.http.cors import Cors
from sse_broadcast.server.http.health import DRAINING_FAULT, READINESS, Readiness
from sse_broadcast.server.transport import rejection
from sse_broadcast.server.transport.counts import RejectReason
from sse_broadcast.server.transport.rejection import rejection_response
from sse_broadcast.server.transport.reserve import MAX_REJECTING
from tests.conftest import Patch, Serve
from tests.server.blocks import close_block
from tests.server.transport.conftest import ASK, health, refused
from tests.support.sockets import RawClient


async def test_a_program_beyond_the_limit_gets_a_503(serve: Serve) -> None:
    server = await serve(max_connections=2)
    subscribers = [await server.connect() for _ in range(2)]
    for subscriber in subscribers:
        await subscriber.subscribe()
    late = await server.connect()
    await late.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    assert await late.rest() == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Content-Type: application/problem+json\r\n"
        b"Retry-After: 5\r\n"
        b"X-Content-Type-Options: nosniff\r\n"
        b"Content-Length: 99\r\n"
        b"Connection: close\r\n\r\n"
        b'{"title":"Service Unavailable","status":503,'
        b'"detail":"connection limit reached (max_connections)"}\n'
    )
    await server.broadcaster.broadcast("still here")
    for subscriber in subscribers:
        assert (await subscriber.events(1))[0].data == "still here"
    assert server.broadcaster.client_count == 2


async def test_a_browser_beyond_the_limit_reconnects(serve: Serve) -> None:
    """It gets a 200, since EventSource stops for good at any other status."""
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    late = await server.connect()
    head = await late.subscribe(headers="Accept: text/event-stream\r\n")
    block = await late.rest()
    refusal_block = close_block("full", None).fullmatch(block)
    assert refusal_block
    wait = int(refusal_block[1])
    assert 10_000 <= wait <= 30_000
    assert head.decode() == (
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: text/event-stream; charset=utf-8\r\n"
        "Cache-Control: no-store\r\n"
        f"Retry-After: {-(-wait // 1000)}\r\n"
        f"Content-Length: {len(block)}\r\n"
        "Connection: close\r\n\r\n"
    )


async def test_rejected_connections_are_limited(serve: Serve) -> None:
    """Beyond the maximum the oldest is closed for each new one. The others are answered."""
    server, subscriber = await serve.connected(max_connections=1)
    await subscriber.subscribe()
    beyond = [await server.connect() for _ in range(MAX_REJECTING)]
    waiting = [await server.connect() for _ in range(MAX_REJECTING)]
    ended = await asyncio.gather(*(client.rest() for client in beyond), return_exceptions=True)
    assert all(end == b"" or isinstance(end, ConnectionError) for end in ended)
    for client in waiting:
        assert await refused(client)
    await server.broadcaster.broadcast("x")
    assert (await subscriber.events(1))[0].data == "x"


async def test_a_rejected_client_that_sends_nothing_is_closed(serve: Serve, monkeypatch: Patch) -> None:
    """`REJECTION_TIMEOUT` is over."""
    monkeypatch.setattr(rejection, "REJECTION_TIMEOUT", 0.05)
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    for _ in range(3):
        crowd = [await server.connect() for _ in range(MAX_REJECTING)]
        ended = await asyncio.gather(*(client.rest() for client in crowd), return_exceptions=True)
        assert all(end == b"" or isinstance(end, ConnectionError) for end in ended)


@pytest.mark.parametrize("piece", [b"G", b"GET /events HTTP/1.1\r\nAccept: text/ev"])
async def test_a_request_in_pieces_is_answered_when_it_is_complete(serve: Serve, piece: bytes) -> None:
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    late = await server.connect()
    whole = b"GET /events HTTP/1.1\r\nAccept: text/event-stream\r\n\r\n"
    await late.send(piece)
    await asyncio.sleep(0)
    await late.send(whole[len(piece) :])
    assert (await late.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_endless_head_is_answered_and_not_kept(serve: Serve) -> None:
    """Its first bytes up to the limit are enough."""
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    late = await server.connect()
    await late.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 6000)
    assert (await late.head()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("reason", ["full", "address"])
@pytest.mark.usefixtures("no_loopback")
async def test_a_health_check_beyond_the_limit_gets_the_real_state(serve: Serve, reason: str) -> None:
    """A full server is healthy. A path may be part of an absolute URL."""
    limits = {"max_connections": 1} if reason == "full" else {"max_connections_per_address": 1}
    server = await serve(**limits)
    await (await server.connect(source="127.0.0.2")).subscribe()

    async def response_to(request: str) -> bytes:
        client = await server.connect(source="127.0.0.2")
        await client.send(f"{request} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await client.rest()

    for path, body in (("/healthz", b'{"status":"alive"}\n'), ("/readyz?x=1", b'{"status":"ready"}\n')):
        head = HEALTHY % len(body)
        assert await response_to(f"GET {path}") == head + body
        assert await response_to(f"HEAD {path}") == head
        assert await response_to(f"GET http://any.example:80{path}") == head + body
        assert b"Retry-After" in await response_to(f"POST {path}")
    assert b"Retry-After" in await response_to("GET http://[/healthz")
    assert b"Retry-After" in await response_to("GET http://healthz")
    server.app[READINESS].drain()
    head, _, said = (await response_to("GET /readyz")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert json.loads(said)["detail"] == DRAINING_FAULT
    assert (await response_to("GET /healthz")).startswith(b"HTTP/1.1 200 OK\r\n")


HEALTHY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: sse-broadcast\r\n"
    b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n"
)


async def test_a_health_check_is_answered_among_many_connections(serve: Serve) -> None:
    """Connections without a request, or with an unread response, are closed for it."""
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    for saying in (b"", ASK):
        for _ in range(MAX_REJECTING + 5):
            await (await server.connect()).send(saying)
        assert await health(server) == 200


async def test_the_response_of_a_rejected_client_is_not_discarded(serve: Serve) -> None:
    """Answered connections are closed first, and the client still gets its response."""
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    silent = await server.connect()
    answered = [await server.connect() for _ in range(MAX_REJECTING - 1)]
    for client in answered:
        await client.send(ASK)
    heads = [await client.head() for client in answered]
    for _ in answered:
        await health(server)
    assert all(head.startswith(b"HTTP/1.1 503 ") for head in heads)
    for client in answered:
        assert b"connection limit reached" in await client.rest()
    await silent.send(ASK)
    assert b"connection limit reached" in await silent.rest()


def refused_as(head: bytes, reason: RejectReason = RejectReason.FULL, *, cors: Cors | None = None) -> bytes:
    return rejection_response(head, reason=reason, cors=cors or Cors(()), readiness=Readiness(Broadcaster()))


def test_an_accept_header_is_found_in_any_case() -> None:
    head = b"GET / HTTP/1.1\r\nACCEPT: Text/Event-Stream\r\n\r\n"
    assert refused_as(head).startswith(b"HTTP/1.1 200")
    assert refused_as(b"\xff\0").startswith(b"HTTP/1.1 503")


def test_all_lines_of_an_accept_header_are_read() -> None:
    head = b"GET / HTTP/1.1\r\nAccept: text/html\r\nAccept: text/event-stream\r\n\r\n"
    assert refused_as(head, RejectReason.ADDRESS).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("target", "headers", "id"),
    [
        ("/events", "", None),
        ("/events", "LAST-event-ID: order-7\r\n", "order-7"),
        ("/events", "Last-Event-ID: a\r\nX: y\r\nLast-Event-ID: b, c\r\n", "c"),
        ("/events?last_event_id=a", "Last-Event-ID: b\r\n", "b"),
        ("/events?last_event_id=a", "Last-Event-ID: \r\n", "a"),
        ("/events/a?x=1&lastEventId=0123abcd-7", "", "0123abcd-7"),
        ("/events?last%5Fevent%5Fid=order%2D7", "", "order-7"),
        ("http://any.example/events?last_event_id=a", "", "a"),
        ("/events?last_event_id=" + "x" * 129, "", None),
        ("/events?last_event_id=a%0Ab", "", None),
        ("/events?last_event_id=%ff", "", None),
        ("/events?&&=&last_event_id", "", None),
        ("/events", "Last-Event-ID: a b\r\n", None),
    ],
)
def test_a_rejection_repeats_the_last_event_id(target: str, headers: str, id: str | None) -> None:
    """It is parsed as in an accepted request, so the client keeps its id."""
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{headers}\r\n".encode()
    for reason, said in ((RejectReason.FULL, "full"), (RejectReason.ADDRESS, "address")):
        answer, _, block = refused_as(head, reason).partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert close_block(said, id).fullmatch(block)


@pytest.mark.parametrize("accept", [b"", b"Accept: text/event-stream\r\n"])
def test_a_page_of_an_allowed_origin_can_read_its_rejection(accept: bytes) -> None:
    """Otherwise its browser reports an error of CORS and does not reconnect."""
    cors = Cors(("https://a.example",))
    head = b"GET /events HTTP/1.1\r\n%bOrigin: https://a.example\r\n\r\n" % accept
    answer = refused_as(head, cors=cors).split(b"\r\n\r\n")[0].split(b"\r\n")
    assert b"Access-Control-Allow-Origin: https://a.example" in answer
    assert b"Access-Control-Allow-Credentials: true" in answer
    assert b"Vary: Origin" in answer
    foreign = refused_as(head.replace(b"a.example", b"b.example"), cors=cors)
    assert b"\r\nAccess-Control" not in foreign
    assert b"\r\nVary: Origin\r\n" in foreign


async def test_the_whole_response_is_read(serve: Serve) -> None:
    """The server closes after the client has read, so that no TCP reset discards the response."""
    server = await serve(max_connections=1)
    keeper = await RawClient.open(server.port)
    await keeper.subscribe()
    for _ in range(20):
        client = await RawClient.open(server.port)
        await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)
        assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
        client.close()
    keeper.close()
