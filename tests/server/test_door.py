"""More connections than there is room for."""

import asyncio
import re

import pytest

from sse_broadcast.server.door import LOBBY, OWN_DESCRIPTORS, refusal, room
from tests.conftest import Connect, Serve
from tests.support.sockets import RawClient, until


async def test_beyond_the_limit_a_program_gets_503(serve: Serve, connect: Connect) -> None:
    """Accepted, told when to come back, and closed."""
    server = await serve(max_connections=2)
    readers = [await connect(server) for _ in range(2)]
    for reader in readers:
        await reader.subscribe()
    late = await connect(server)
    await late.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    assert await late.rest() == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Content-Type: application/problem+json\r\n"
        b"Retry-After: 5\r\n"
        b"Content-Length: 102\r\n"
        b"Connection: close\r\n\r\n"
        b'{"title":"Service Unavailable","status":503,'
        b'"detail":"the server has as many connections as it takes"}'
    )
    await server.broadcaster.broadcast("still here")
    for reader in readers:
        assert (await reader.events(1))[0].data == "still here"
    assert server.broadcaster.client_count == 2


async def test_beyond_the_limit_a_browser_is_told_to_come_back(serve: Serve, connect: Connect) -> None:
    """With 200, since EventSource stops for good at anything else."""
    server = await serve(max_connections=1)
    await (await connect(server)).subscribe()
    late = await connect(server)
    head = await late.subscribe(headers="Accept: text/event-stream\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    assert re.fullmatch(rb":\nretry: \d{5}\n", await late.rest())


async def test_a_place_that_is_free_again_is_given_again(serve: Serve, connect: Connect) -> None:
    """The limit is of connections at one time."""
    server = await serve(max_connections=2)
    for _ in range(5):
        first, second = await connect(server), await connect(server)
        await first.subscribe()
        await second.subscribe()
        first.close()
        second.close()
        await until(lambda: server.connections == 0)


async def test_a_crowd_at_the_door_is_bounded(serve: Serve, connect: Connect) -> None:
    """Those who send nothing are closed unanswered once the lobby is full, and never kept."""
    server = await serve(max_connections=1)
    reader = await connect(server)
    await reader.subscribe()
    crowd = [await connect(server) for _ in range(LOBBY * 2)]
    ended = await asyncio.gather(*(client.rest() for client in crowd), return_exceptions=True)
    assert all(end == b"" or isinstance(end, ConnectionError) for end in ended)
    await server.broadcaster.broadcast("x")
    assert (await reader.events(1))[0].data == "x"


@pytest.mark.parametrize("piece", [b"G", b"GET /events HTTP/1.1\r\nAccept: text/ev"])
async def test_a_request_in_pieces_is_answered_when_it_is_whole(
    serve: Serve, connect: Connect, piece: bytes
) -> None:
    """However the head arrives."""
    server = await serve(max_connections=1)
    await (await connect(server)).subscribe()
    late = await connect(server)
    whole = b"GET /events HTTP/1.1\r\nAccept: text/event-stream\r\n\r\n"
    await late.send(piece)
    await asyncio.sleep(0)
    await late.send(whole[len(piece) :])
    assert (await late.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_endless_head_is_answered_and_not_kept(serve: Serve, connect: Connect) -> None:
    """Eight kilobytes are enough to know."""
    server = await serve(max_connections=1)
    await (await connect(server)).subscribe()
    late = await connect(server)
    await late.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000)
    assert (await late.head()).startswith(b"HTTP/1.1 503 ")


def test_room_is_left_for_everything_else() -> None:
    """Of 256 descriptors, what is not ours and not the lobby's is for connections."""
    assert room(256) == 256 - LOBBY - OWN_DESCRIPTORS
    assert room(10) == 1


def test_an_accept_header_is_found_in_any_case() -> None:
    """Header names have no case."""
    assert refusal(b"GET / HTTP/1.1\r\nACCEPT: Text/Event-Stream\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert refusal(b"\xff\0").startswith(b"HTTP/1.1 503")


async def test_rest_is_the_whole_answer(serve: Serve) -> None:
    """Closing waits for the client to have read: no reset takes the answer away."""
    server = await serve(max_connections=1)
    keeper = await RawClient.open(server.port)
    await keeper.subscribe()
    for _ in range(20):
        client = await RawClient.open(server.port)
        await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)
        assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
        client.close()
    keeper.close()
