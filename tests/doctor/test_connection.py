"""Requests of the doctor."""

import pytest

from sse_broadcast.doctor.connection import ProbeConnection
from sse_broadcast.doctor.proxy_marks import Proxy
from sse_broadcast.errors import ClientError
from sse_broadcast.server.runner import Server
from tests.support import scripted
from tests.support.scripted import OPENED, STREAM, Held, Speak, chunk, plain
from tests.support.sockets import PATIENCE

speak = pytest.fixture(scripted.speak)


async def test_events_come_with_their_types(server: Server) -> None:
    async with ProbeConnection(server.url) as connection, connection.stream("/events/a") as stream:
        assert stream is not None
        assert stream.is_stream
        assert await stream.event("$open", PATIENCE) is not None
        answer = await connection.publish("a", "hello")
        assert answer is not None
        assert answer.json["clients"] == 1
        event = await stream.event(None, PATIENCE)
        assert event is not None
        assert (event.data, event.id) == ("hello", answer.json["id"])
        assert await stream.event(None, 0.01) is None


async def test_an_answer_that_does_not_begin_is_none(speak: Speak) -> None:
    script = await speak(Held(b""))
    async with ProbeConnection(script.url, patience=0.05) as connection:
        async with connection.stream("/events") as stream:
            assert stream is None
        assert await connection.ask("GET", "/") is None


async def test_the_end_of_a_stream_is_noted(speak: Speak) -> None:
    script = await speak(OPENED, OPENED)
    async with ProbeConnection(script.url) as connection, connection.stream("/events") as stream:
        assert stream is not None
        assert await stream.until_ended(PATIENCE)
        assert stream.ended is not None
    async with ProbeConnection(script.url) as connection, connection.stream("/events") as stream:
        assert stream is not None
        assert not await stream.until_ended(0.01)


async def test_a_compressed_stream_is_not_decoded(speak: Speak) -> None:
    zipped = STREAM.replace(b"Transfer", b"Content-Encoding: gzip\r\nTransfer") + chunk(b"\x1f\x8b")
    script = await speak(Held(zipped))
    async with ProbeConnection(script.url) as connection, connection.stream("/events") as stream:
        assert stream is not None
        assert await stream.more_than(0, PATIENCE)
        assert not await stream.more_than(2, 0.01)
        assert stream.raw == b"\x1f\x8b"
        assert stream.events.empty()


async def test_marks_are_collected(speak: Speak) -> None:
    script = await speak(plain("404 Not Found", "text/html", "<center>nginx</center>"))
    async with ProbeConnection(script.url) as connection:
        await connection.provoke()
        assert connection.proxies == (Proxy.NGINX,)
    assert len(script.heads) == 1


async def test_who_leaves_no_mark_is_provoked(speak: Speak) -> None:
    """By a header whose name has a space in it."""
    page = "<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n</body></html>\n"
    script = await speak(
        plain("404 Not Found", "application/json", "{}"), plain("400 Bad request", "text/html", page), b""
    )
    async with ProbeConnection(script.url) as connection:
        await connection.provoke()
        assert connection.proxies == (Proxy.HAPROXY,)
    assert script.heads[1][-2] == "bad header: x"


async def test_headers_are_those_of_every_request(speak: Speak) -> None:
    script = await speak(plain("404 Not Found", "text/plain", ""), b"")
    async with ProbeConnection(script.url, headers={"Authorization": "Bearer x"}) as connection:
        await connection.ask("GET", "/", Origin="https://a.example")
    assert "Authorization: Bearer x" in script.heads[0]
    assert "Origin: https://a.example" in script.heads[0]
    assert not any(line.startswith("Accept-Encoding") for line in script.heads[0])


async def test_nobody_listens_or_nobody_speaks_http(speak: Speak) -> None:
    for url, reason in (
        ("http://user:secret@127.0.0.1:1", "cannot reach http://127.0.0.1:1: refused"),
        ("http://no.invalid", "cannot reach http://no.invalid: no such host"),
    ):
        async with ProbeConnection(url) as connection:
            with pytest.raises(ClientError, match=reason):
                async with connection.stream("/events"):
                    pass
    script = await speak(b"SSH-2.0-x\r\n\r\n", b"")
    async with ProbeConnection(script.url) as connection:
        with pytest.raises(ClientError, match="it does not speak HTTP"):
            async with connection.stream("/events"):
                pass
