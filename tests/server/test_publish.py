"""POST /send: what becomes an event, and what is refused."""

import asyncio
import json
from typing import Any

import pytest

from sse_broadcast.event import Event
from tests.conftest import Connect, Serve

JSON = "Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("path", "headers", "body", "event"),
    [
        ("/send", "", b"hello", Event("hello")),
        ("/send", "Content-Type: application/x-www-form-urlencoded\r\n", b"a=1&b=2", Event("a=1&b=2")),
        ("/send", "", b"", Event("")),
        ("/send", "", b"a\r\nb\rc\nd\n", Event("a\nb\nc\nd\n")),
        ("/send", "", b"\0", Event("\0")),
        ("/send", "", "\ufeffmark and \U0001f600".encode(), Event("\ufeffmark and \U0001f600")),
        ("/send", "", b'{"message": "x"}', Event('{"message": "x"}')),
        ("/send?event=price&retry=500", "", b"x", Event("x", "price", retry=500)),
        ("/send?event=%C3%A9t%C3%A9", "", b"x", Event("x", "\u00e9t\u00e9")),
        ("/send", JSON, b'{"message": "a\\nb", "event": "t"}', Event("a\nb", "t")),
        ("/send", JSON, b'{"message": "x", "retry": 7}', Event("x", retry=7)),
        ("/send", JSON, b'{"data": "text"}', Event("text")),
        (
            "/send",
            JSON,
            b'{"data": {"b" : [1.50, null,  "\\u00e9"], "a": 1}}',
            Event('{"b":[1.50,null,"\\u00e9"],"a":1}'),
        ),
        ("/send", JSON, b'{"data": null}', Event("null")),
        ("/send", "Content-Type: application/json; charset=utf-8\r\n", b'{"message": "x"}', Event("x")),
    ],
)
async def test_a_body_becomes_this_event(
    serve: Serve, connect: Connect, path: str, headers: str, body: bytes, event: Event
) -> None:
    """As it was sent, with line ends as LF."""
    server = await serve()
    reader, publisher = await connect(server), await connect(server)
    await reader.subscribe()
    status, answer = await publisher.ask("POST", path, body=body, headers=headers)
    assert status == 200, answer
    (received,) = await reader.events(1)
    assert (received.data, received.type) == (event.data, event.type)
    assert event.retry is None or received.retry == event.retry


async def test_the_answer_says_who_got_it(serve: Serve, connect: Connect) -> None:
    """With PUT too, which `curl -T` sends."""
    server = await serve()
    client = await connect(server)
    assert await client.ask("PUT", "/send", body=b"hello\n") == (
        200,
        b'{"status":"sent","clients":0,"message":"hello\\n","channel":"default","channels":["default"]}',
    )


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "detail"),
    [
        ("/send", "", b"\xff", 400, "body: is not UTF-8 at byte 0"),
        ("/send", JSON, b'{"message": "\xff"}', 400, "body: is not UTF-8 at byte 0"),
        ("/send", JSON, b'{"message":', 400, "body: is not JSON: Input data was truncated"),
        ("/send", JSON, b"", 400, "body: is not JSON: Input data was truncated"),
        (
            "/send",
            JSON,
            b'{"message": "a\\ud800"}',
            422,
            "body: has a lone surrogate, which no event can carry",
        ),
        (
            "/send",
            JSON,
            b'{"data": "a\\udc00b"}',
            422,
            "body: has a lone surrogate, which no event can carry",
        ),
        ("/send", JSON, b"[]", 422, "Expected `object`, got `array`"),
        ("/send", JSON, b'{"message": 1}', 422, "Expected `str`, got `int` - at `$.message`"),
        ("/send", JSON, b"{}", 422, "message: missing"),
        (
            "/send",
            JSON,
            b'{"message": "x", "data": 1}',
            422,
            "message and data: only one of them may be given",
        ),
        ("/send", JSON, b'{"message": "x", "retry": -1}', 422, "Expected `int` >= 0 - at `$.retry`"),
        ("/send", JSON, b'{"message": "x", "event": ""}', 422, "event: must not be empty"),
        ("/send", JSON, b'{"message": "x", "event": "a\\nb"}', 422, "event: must not contain LF: 'a\\nb'"),
        (
            "/send",
            JSON,
            b'{"message": "x", "event": "a\\u0000"}',
            422,
            "event: must not contain NUL: 'a\\x00'",
        ),
        ("/send", JSON, b'{"message": "x", "channel": "news"}', 422, "channel: not taken by this server"),
        ("/send", JSON, b'{"message": "x", "id": 7}', 422, "id: not taken by this server"),
        ("/send?event=a%0Db", "", b"x", 422, "event: must not contain CR: 'a\\rb'"),
        ("/send?event=", "", b"x", 422, "event: must not be empty"),
        (
            "/send?event=%24close",
            "",
            b"x",
            422,
            "event: types beginning with $ are the server's own: '$close'",
        ),
        ("/send?event=%ff", "", b"x", 400, "request target: is not UTF-8: '/send?event=%ff'"),
        ("/send?retry=soon", "", b"x", 400, "retry: must be a number of milliseconds, not 'soon'"),
        (
            "/send?retry=9999999999999",
            "",
            b"x",
            422,
            "retry: must be 0 to 2147483647 milliseconds, not 2147483648",
        ),
        ("/send?evnt=price", "", b"x", 400, "evnt: unknown parameter; event was meant?"),
        ("/send?id=7", "", b"x", 422, "id: not taken by this server"),
        ("/send", "Content-Encoding: gzip\r\n", b"x", 415, "Content-Encoding: 'gzip' is not taken"),
        ("/send", "Expect: a-miracle\r\n", b"x", 417, "Expect: 'a-miracle' is not taken"),
    ],
)
async def test_what_cannot_be_an_event_is_refused(
    serve: Serve, connect: Connect, path: str, headers: str, body: bytes, status: int, detail: str
) -> None:
    """Saying what is wrong, where, and which value; and nothing is published."""
    server = await serve()
    client = await connect(server)
    answered, answer = await client.ask("POST", path, body=body, headers=headers)
    assert (answered, json.loads(answer)["detail"]) == (status, detail)
    assert json.loads(answer)["status"] == status
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"x" * 992, 200), (b"x" * 1001, 413), (b"\n" * 142, 413), (b"x" * 20_000, 413)],
)
async def test_an_event_is_bounded(serve: Serve, connect: Connect, body: bytes, status: int) -> None:
    """As data, as a frame, and as a body, each on its own."""
    server = await serve(max_event=1000)
    client = await connect(server)
    assert (await client.ask("POST", "/send", body=body))[0] == status
    assert server.broadcaster.counts.published == (status == 200)


async def test_a_body_of_unknown_length_is_bounded_as_it_comes(serve: Serve, connect: Connect) -> None:
    """A chunked body is refused once it is too long, and not read to its end."""
    server = await serve(max_event=1000)
    client = await connect(server)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    status, answer = await client.answer()
    assert (status, json.loads(answer)["detail"]) == (413, "body: more than 10096 bytes")


async def test_json_escapes_do_not_make_an_event_too_large(serve: Serve, connect: Connect) -> None:
    """A body may be six times its event."""
    server = await serve(max_event=1000)
    client = await connect(server)
    body = b'{"message": "' + b"\\u0041" * 990 + b'"}'
    assert (await client.ask("POST", "/send", body=body, headers=JSON))[0] == 200


async def test_a_body_that_stalls_is_answered_408(serve: Serve, connect: Connect) -> None:
    """aiohttp has no deadline for bodies; this server has."""
    server = await serve(body_timeout=0.1)
    client = await connect(server)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    status, answer = await client.answer()
    assert (status, json.loads(answer)["detail"]) == (408, "body: did not arrive within 0.1 s")
    assert server.broadcaster.counts.published == 0


async def test_a_publisher_that_hangs_up_halfway_publishes_nothing(serve: Serve, connect: Connect) -> None:
    """Half a body is no event."""
    server = await serve()
    client = await connect(server)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    client.close()
    async with asyncio.timeout(30):
        while server.connections:
            await asyncio.sleep(0.002)
    assert server.broadcaster.counts.published == 0


async def test_expect_100_continue_is_answered(serve: Serve, connect: Connect) -> None:
    """curl asks before it sends a large body."""
    server = await serve()
    client = await connect(server)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hello")
    assert (await client.answer())[0] == 200


async def test_a_connection_publishes_again_and_again(serve: Serve, connect: Connect) -> None:
    """Keep-alive, an error in between included."""
    server = await serve()
    client = await connect(server)
    statuses: list[Any] = [
        (await client.ask("POST", "/send", body=body))[0] for body in (b"a", b"\xff", b"b")
    ]
    assert statuses == [200, 400, 200]
