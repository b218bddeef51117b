"""Client, with real and with scripted servers."""

import asyncio
import email.utils
import functools
import http
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from operator import methodcaller
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import aiohttp
import msgspec
import pytest
import trustme

from sse_broadcast import backoff, reconnection
from sse_broadcast import client as module
from sse_broadcast.client import Client, PublishResult, StreamChunk, encode_line
from sse_broadcast.config.schema import Config
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event
from sse_broadcast.publication import Received
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import scripted
from tests.support.acceptor import accepting
from tests.support.clock import Clock
from tests.support.raising import exactly
from tests.support.scripted import (
    BUSY,
    END,
    GONE,
    NO_CONTENT,
    OPEN,
    OPENED,
    STREAM,
    Cut,
    Held,
    Script,
    Speak,
    chunk,
    plain,
)
from tests.support.sockets import PATIENCE

speak = pytest.fixture(scripted.speak)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retry at once with the longest wait of each jitter, and record the waits."""
    waited: list[float] = []

    async def at_once(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(module, "_sleep", at_once)
    monkeypatch.setattr(backoff, "random", SimpleNamespace(uniform=lambda _, high: high))
    return waited


async def first(url: str, count: int) -> list[Event]:
    return [event for piece in await chunks(url, count) for event in piece.events]


async def chunks(url: str, count: int) -> list[StreamChunk]:
    """Return the chunks that a client gets, up to the one with this number of events."""
    found: list[StreamChunk] = []
    async with asyncio.timeout(PATIENCE), Client(url) as client:
        async for piece in client.subscribe():
            found.append(piece)
            count -= len(piece.events)
            if count <= 0:
                break
    return found


async def error_of(asked: Awaitable[object]) -> ClientError:
    """Return the error that ends a client's request or stream."""
    with pytest.raises(ClientError) as caught:
        await asked
    return caught.value


async def refusal(url: str) -> ClientError:
    return await error_of(chunks(url, 1))


async def test_publish_and_status_return_the_servers_responses(server: Server) -> None:
    async with server.broadcaster.subscribe() as stream, Client(server.url + "/") as client:
        answer = await client.publish('"a"\n\U0001f600', event="greeting")
        assert answer == {
            "status": "sent",
            "clients": 1,
            "message": '"a"\n\U0001f600',
            "id": server.broadcaster.cursor,
            "channel": "default",
            "channels": ["default"],
        }
        received = await anext(stream)
        assert (received.data, received.event) == ('"a"\n\U0001f600', "greeting")
        status = await client.status()
        assert (status["connected_clients"], status["published"]) == (1, 1)


async def test_subscribe_yields_bytes_and_events(serve: Serve) -> None:
    """A chunk is the received bytes, the events completed by them, and the cursor. `$open` is the first."""
    server = await serve(retry=1000)
    async with Client(server.url) as client:
        stream = aiter(client.subscribe())
        opening = await anext(stream)
        assert opening.raw.startswith(b": \nretry: ")
        assert [event.type for event in opening.events] == ["$open"]
        assert opening.last_event_id == opening.events[0].id == server.broadcaster.cursor
        for message in ("one", "two"):
            await client.publish(message, event="greeting")
            piece = await anext(stream)
            id = server.broadcaster.cursor
            assert piece.raw == f"event: greeting\ndata: {message}\nid: {id}\n\n".encode()
            assert piece.events == [Event(message, "greeting", id)]
            assert piece.last_event_id == id


async def test_an_event_is_published_with_all_fields(server: Server) -> None:
    async with server.broadcaster.subscribe("a", "b.c") as stream, Client(server.url) as client:
        answer = await client.publish("x", event="e", channels=("b.c", "a"), id="own", key="k", retry=700)
        assert (answer["id"], answer["channel"], answer["channels"]) == ("own", "b.c", ["b.c", "a"])
        assert await anext(stream) == Received("b.c", "x", "e", "own", 700)
        with pytest.raises(ClientError, match=r"key: must be 1 to 128 characters: ''"):
            await client.publish("x", key="")
        for retry in (0, 2_073_600_000):
            with pytest.raises(ClientError, match=r"retry: must be whole milliseconds from 500 to 3600000"):
                await client.publish("x", retry=retry)


async def test_a_string_instead_of_a_list_of_channels_is_refused(serve: Serve) -> None:
    """Otherwise each letter would be a channel."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(TypeError, match="not the string 'news'"):
            await client.publish("x", channels="news")
        with pytest.raises(TypeError, match="not the string 'news'"):
            await anext(client.subscribe("news"))


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        (["a/b"], "channel: must not contain '/': 'a/b'"),
        (["a,b"], "channel: must not contain ',': 'a,b'"),
        (["a&since=x"], "channel: must not contain '&': 'a&since=x'"),
        (["a%2Fb"], "channel: must not contain '%': 'a%2Fb'"),
        (["a?b#c"], "channel: must not contain '?': 'a?b#c'"),
        (["a", ".."], "channel: must not be '..', which clients resolve as a folder in a path"),
        ([""], "channel: must be 1 to 128 characters: ''"),
        (["é"], "channel: must not contain '\\xe9': '\\xe9'"),
        (["\n"], "channel: must not contain '\\n': '\\n'"),
        (["\ud83d"], "is not UTF-8"),
    ],
)
async def test_a_bad_channel_is_refused_by_the_server(
    server: Server, channels: list[str], reason: str
) -> None:
    """It gets the name unchanged, whatever it would mean in a URL. Nothing is published elsewhere."""
    async with Client(server.url) as client:
        for refused in (client.publish("x", channels=channels), anext(client.subscribe(channels))):
            error = await error_of(refused)
            assert error.status == 400
            assert reason in str(error)
    assert server.broadcaster.counts.published == 0


async def test_any_valid_channel_can_be_used(server: Server) -> None:
    """The path has the name unchanged."""
    names = ["a", "A.b_c:d@e~f-g", "...", "x" * 128, ".a", "~"]
    async with Client(server.url) as client:
        stream = client.subscribe(names, format="json")
        await anext(stream)
        for name in names:
            await client.publish("x", channels=[name])
            (event,) = (await anext(stream)).events
            assert msgspec.json.decode(event.data)["channel"] == name


async def test_a_refusal_is_a_client_error_with_its_status(server: Server) -> None:
    async with Client(server.url) as client:
        error = await error_of(client.publish("x", event="$x"))
    assert error.status == 422
    reason = f"422 {http.HTTPStatus(422).phrase}"
    assert (
        str(error)
        == f"{server.url}/send: {reason}: event: types that begin with $ are reserved for the server: '$x'"
    )


async def test_an_unknown_path_is_a_client_error(server: Server) -> None:
    """A 404 is not retried."""
    error = await refusal(server.url + "/nope")
    assert error.status == 404
    assert str(error) == (
        f"{server.url}/nope/events: 404 Not Found: nothing is at /nope/events;"
        " GET /events subscribes, POST /send publishes"
    )


async def test_a_refusal_by_another_program_is_one_line(speak: Speak) -> None:
    script = await speak(plain("403 Forbidden", "text/html", "<html>\r\n\t<b>no\x1b[2J</b>\n</html>"))
    error = await refusal(script.url)
    assert (error.status, str(error)) == (
        403,
        f"{script.url}/events: 403 Forbidden: <html> <b>no [2J</b> </html>",
    )


@pytest.mark.parametrize("body", ["[1]", "{", '{"detail": '])
async def test_a_malformed_problem_is_shown_unchanged(speak: Speak, body: str) -> None:
    """The status is shown too."""
    script = await speak(plain("400 Bad Request", "application/problem+json", body))
    assert str(await refusal(script.url)) == f"{script.url}/events: 400 Bad Request: {body.strip()}"


@pytest.mark.parametrize(
    ("status", "body", "reported"),
    [("401 Unauthorized", "", "401 Unauthorized"), ("401 ", "no", "401: no"), ("401 ", "", "401")],
)
async def test_a_refusal_without_text_is_its_status(
    speak: Speak, status: str, body: str, reported: str
) -> None:
    """The line ends with the phrase or the number."""
    script = await speak(plain(status, "text/plain", body))
    assert str(await refusal(script.url)) == f"{script.url}/events: {reported}"


async def test_another_content_type_is_a_client_error(speak: Speak) -> None:
    """It is an HTML page, which is not retried."""
    script = await speak(plain("200 OK", "text/html", "<html>"))
    error = await refusal(script.url)
    assert (error.status, str(error)) == (200, f"{script.url}/events: is text/html, not text/event-stream")


@pytest.mark.parametrize("body", ["[]", "<html>", ""])
async def test_a_response_that_is_no_json_object_is_a_client_error(speak: Speak, body: str) -> None:
    script = await speak(plain("200 OK", "application/json", body))
    async with Client(script.url) as client:
        with pytest.raises(ClientError, match="/status: the answer is not a JSON object"):
            await client.status()


@pytest.mark.parametrize(
    ("path", "ask", "body"),
    [
        ("send", methodcaller("publish", "x"), '{"ok": true}'),
        ("subscribers", methodcaller("subscribers"), '{"subscribers": 7}'),
        ("reload", methodcaller("reload"), "{}"),
        ("reload", methodcaller("reload"), '{"changed": []}'),
        ("reload", methodcaller("reload"), '{"changed": 7, "restart": []}'),
    ],
)
async def test_a_response_of_another_program_is_a_client_error(
    speak: Speak, path: str, ask: Callable[[Client], Awaitable[object]], body: str
) -> None:
    """A program that accepts any request has published nothing."""
    script = await speak(plain("200 OK", "application/json", body))
    async with Client(script.url) as client:
        error = await error_of(ask(client))
    assert str(error) == f"{script.url}/{path}: does not answer as this server does"


@pytest.mark.parametrize("text", ["\udcff", "ab\ud83d"])
async def test_a_lone_surrogate_cannot_be_published(server: Server, text: str) -> None:
    """Python decodes a byte that is not UTF-8 to one. It is refused and not replaced."""
    async with Client(server.url) as client:
        with pytest.raises(ClientError, match="lone surrogate"):
            await client.publish(text)
    assert server.broadcaster.counts.published == 0


async def test_a_stream_cut_within_an_event_is_resumed_before_it(speak: Speak, waits: list[float]) -> None:
    """The partial event is not yielded, and its id not used."""
    script = await speak(
        STREAM + chunk(b"retry: 700\n\nid: 7\ndata: one\n\nid: 8\ndata: tw"),
        STREAM + chunk(b"id: 8\ndata: two\n\n"),
    )
    assert await first(script.url, 2) == [Event("one", id="7"), Event("two", id="8")]
    assert script.resumed_from() == [None, "7"]
    assert waits == [0.7]


async def test_a_stream_that_ends_is_opened_again(speak: Speak, waits: list[float]) -> None:
    """The client waits for `retry`, without an error. Its id is kept if the next stream has none."""
    script = await speak(
        STREAM + chunk(b"retry: 700\nid: 7\ndata: one\n\n") + END,
        STREAM + chunk(b"data: two\n\n") + END,
        STREAM + chunk(b"data: three\n\n"),
    )
    assert [event.data for event in await first(script.url, 3)] == ["one", "two", "three"]
    assert script.resumed_from() == [None, "7", "7"]
    assert waits == [0.7, 0.7]


async def test_an_empty_id_clears_the_cursor(speak: Speak, waits: list[float]) -> None:
    """By the standard `id:` alone resets the last event id, and no header is sent."""
    script = await speak(
        STREAM + chunk(b"id: 7\ndata: one\n\nid\ndata: two\n\n") + END, STREAM + chunk(b"data: three\n\n")
    )
    await first(script.url, 3)
    assert script.resumed_from() == [None, None]


async def test_waits_grow_until_an_event_arrives(speak: Speak, waits: list[float]) -> None:
    """Then they start again with the shortest."""
    script = await speak(
        STREAM + chunk(b"retry: 1000\ndata: one\n\n"),
        *GONE,
        b"not HTTP\r\n\r\n",
        b"not HTTP\r\n\r\n",
        STREAM + chunk(b"data: two\n\n") + END,
        STREAM + chunk(b"data: three\n\n"),
    )
    assert [event.data for event in await first(script.url, 3)] == ["one", "two", "three"]
    assert waits == [1.0, 2.0, 4.0, 8.0, 1.0]


async def test_a_stream_without_an_event_is_no_success(speak: Speak, waits: list[float]) -> None:
    """The server accepts, sends `retry: 0` and ends: waits grow."""
    empty = STREAM + chunk(b": \nretry: 0\n") + END
    script = await speak(empty, empty, STREAM + chunk(b": \n") + END, STREAM + chunk(b"data: one\n\n"))
    assert await first(script.url, 1) == [Event("one")]
    assert waits == [1.0, 2.0, 4.0]


async def test_retry_0_is_no_busy_loop(speak: Speak, waits: list[float]) -> None:
    """Two good connections are half a second apart at least."""
    script = await speak(*[STREAM + chunk(b"retry: 0\ndata: x\n\n") + END] * 3, STREAM)
    await first(script.url, 3)
    assert waits == [0.5, 0.5]


PASSING = [408, 425, 429, 500, 502, 503, 504, 507, 511, *range(520, 531), 561, 598, 599]
LASTING = [201, 202, 206, 300, 304, *range(400, 408), 409, 410, 414, 415, 421, 422, 431, 451, 494]
LASTING += [501, 505, 506, 508, 510]


@pytest.mark.parametrize("status", PASSING)
async def test_a_temporary_status_ends_nothing(speak: Speak, waits: list[float], status: int) -> None:
    """It may be an invented one, without a reason phrase. The stream resumes at its cursor."""
    bare = f"HTTP/1.1 {status} \r\nContent-Length: 0\r\n\r\n".encode()
    script = await speak(
        STREAM + chunk(b"retry: 1000\nid: 7\ndata: one\n\n") + END,
        plain(f"{status} Some Words", "text/html", "<html>"),
        bare,
        STREAM + chunk(b"data: two\n\n"),
    )
    assert [event.data for event in await first(script.url, 2)] == ["one", "two"]
    assert script.resumed_from() == [None, "7", "7", "7"]
    assert waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("status", LASTING)
async def test_a_permanent_status_ends_the_stream(speak: Speak, waits: list[float], status: int) -> None:
    refused = f"HTTP/1.1 {status} Some Words\r\nConnection: close\r\n\r\n".encode()
    for before in ([], [STREAM + chunk(b"data: one\n\n") + END]):
        script = await speak(*before, refused, STREAM)
        error = await error_of(chunks(script.url, 2))
        assert (error.status, str(error)) == (status, f"{script.url}/events: {status} Some Words")


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "521 Down"])
async def test_a_temporary_first_status_is_reported_and_retried(
    speak: Speak, waits: list[float], status: str
) -> None:
    """A proxy is up, and its server is not. The user may know more."""
    script = await speak(*[plain(status, "text/plain", "")] * 2, *GONE, STREAM + chunk(b"data: one\n\n"))
    reported: list[str] = []
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        piece = await anext(client.subscribe(on_retry=lambda error: reported.append(str(error))))
    assert piece.events == [Event("one")]
    away = f"cannot reach {script.url}: it closed the connection"
    assert reported == [f"{script.url}/events: {status}", f"{script.url}/events: {status}", away]
    assert waits == [6.0, 12.0, 24.0]


async def test_a_stream_that_is_cut_is_not_reported(speak: Speak, waits: list[float]) -> None:
    """Only a failure to reconnect is."""
    script = await speak(STREAM + chunk(b"data: one\n\n"), STREAM + chunk(b"data: two\n\n"))
    reported: list[ClientError] = []
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        stream = client.subscribe(on_retry=reported.append)
        assert [(await anext(stream)).events[0].data for _ in range(2)] == ["one", "two"]
    assert reported == []


@pytest.mark.parametrize(("after", "wait"), [("50", 62.5), ("4", 6.0), ("0", 6.0), ("86400", 375.0)])
async def test_retry_after_is_respected_within_reason(
    speak: Speak, waits: list[float], after: str, wait: float
) -> None:
    """The wait is not shorter unless it is hours, nor shorter than the backoff. It applies once."""
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: %b\r\n\r\n" % after.encode()
    script = await speak(busy, BUSY, STREAM + chunk(b"data: one\n\n"))
    assert await first(script.url, 1) == [Event("one")]
    assert waits == [wait, 12.0]


async def test_retry_after_may_be_a_date(speak: Speak, waits: list[float]) -> None:
    """RFC 9110 allows it."""
    date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: %b\r\n\r\n" % date.encode()
    script = await speak(busy, STREAM + chunk(b"data: one\n\n"))
    assert await first(script.url, 1) == [Event("one")]
    assert 1.25 * (100 - PATIENCE) < waits[0] <= 125


@pytest.mark.parametrize("after", ["soon", "Wed, 21 Oct 2015 07:28:00 GMT", "-1", "²", "9" * 5000])
async def test_a_useless_retry_after_is_ignored(speak: Speak, waits: list[float], after: str) -> None:
    busy = BUSY[:-2] + f"Retry-After: {after}\r\n\r\n".encode()
    script = await speak(busy, STREAM + chunk(b"data: one\n\n"))
    assert await first(script.url, 1) == [Event("one")]
    assert waits == [375.0 if after.isdigit() and after.isascii() else 6.0]


@pytest.mark.parametrize("reason", ["full", "address", "rate", "drain", "backend"])
async def test_a_refusal_as_a_stream_is_no_success(speak: Speak, waits: list[float], reason: str) -> None:
    """It has only `$close`: its wait applies and grows, and the cursor stays."""
    block = f'event: $close\nretry: 20000\ndata: {{"reason": "{reason}"}}\n'
    script = await speak(
        OPENED + chunk(b"data: one\nid: k3f9-7\n\n") + END,
        STREAM + chunk(f"{block}id: k3f9-7\n\n".encode()) + END,
        STREAM + chunk(f"{block}\n".encode()) + END,
        OPENED,
    )
    found = await chunks(script.url, 5)
    closed = Event(f'{{"reason": "{reason}"}}', "$close", "k3f9-7", 20000)
    assert [event for piece in found for event in piece.events] == [
        OPEN,
        Event("one", id="k3f9-7"),
        closed,
        Event(closed.data, "$close", None, 20000),
        OPEN,
    ]
    assert script.resumed_from() == [None, "k3f9-7", "k3f9-7", "k3f9-7"]
    assert waits == [3.127, 40.0, 60.0]


async def test_an_open_event_is_a_success(speak: Speak, waits: list[float]) -> None:
    script = await speak(BUSY, OPENED + END, OPENED, OPENED)
    await chunks(script.url, 3)
    assert script.resumed_from() == [None, None, "k3f9-1041", "k3f9-1041"]
    assert waits == [6.0, 3.127, 3.127]


async def test_a_connection_that_lasted_is_a_success(
    monkeypatch: pytest.MonkeyPatch, speak: Speak, waits: list[float]
) -> None:
    monkeypatch.setattr(reconnection, "STEADY", 0.0)
    script = await speak(*[STREAM + chunk(b": \n") + END] * 3, STREAM + chunk(b"data: one\n\n"))
    await first(script.url, 1)
    assert waits == [3.0, 3.0, 3.0]


async def test_204_is_the_end(speak: Speak, waits: list[float]) -> None:
    """It ends the iteration without an error (WHATWG HTML 9.2.2), at once or after events."""
    for before, count in ([], 0), ([STREAM + chunk(b"data: one\n\n") + END], 1):
        script = await speak(*before, NO_CONTENT, STREAM + chunk(b"data: late\n\n"))
        async with asyncio.timeout(PATIENCE), Client(script.url) as client:
            assert len([piece async for piece in client.subscribe()]) == count
        assert len(script.heads) == count + 1


async def test_finished_channels_are_requested_again_soon(speak: Speak, waits: list[float]) -> None:
    """Their long `retry` is for clients that ignore 204. If the server has no 204, it applies."""
    close = chunk(b'event: $close\nretry: 70000\ndata: {"reason": "finished"}\nid: k3f9-1041\n\n') + END
    script = await speak(OPENED + close, OPENED + close, OPENED + close, NO_CONTENT)
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        found = [event.type async for piece in client.subscribe() for event in piece.events]
    assert found == ["$open", "$close"] * 3
    assert waits == [3.0, 70.0, 70.0]


async def test_a_failed_first_connection_is_a_client_error(speak: Speak) -> None:
    """The URL is probably wrong."""
    script = await speak(*GONE, b"")
    error = await refusal(script.url)
    assert error.status is None
    assert str(error).startswith(f"cannot reach {script.url}: ")


async def test_a_later_refusal_is_a_client_error(speak: Speak, waits: list[float]) -> None:
    """A permission revoked meanwhile is not requested for ever."""
    script = await speak(
        STREAM + chunk(b"data: one\n\n") + END,
        plain("403 Forbidden", "application/problem+json", '{"detail": "gone"}'),
    )
    error = await error_of(chunks(script.url, 2))
    assert (error.status, str(error)) == (403, f"{script.url}/events: 403 Forbidden: gone")


async def test_a_silent_stream_is_reconnected(
    monkeypatch: pytest.MonkeyPatch, speak: Speak, waits: list[float]
) -> None:
    """Without heartbeats the connection counts as lost."""
    monkeypatch.setattr(reconnection, "SILENCE", 0.5)
    script = await speak(
        Held(STREAM + chunk(b"retry: 700\nid: 7\ndata: one\n\n")), STREAM + chunk(b"data: two\n\n")
    )
    assert [event.data for event in await first(script.url, 2)] == ["one", "two"]
    assert script.resumed_from() == [None, "7"]
    assert waits == [0.7]


async def test_silence_is_measured_in_the_servers_heartbeats(
    monkeypatch: pytest.MonkeyPatch, speak: Speak, waits: list[float]
) -> None:
    """`$open` has their interval. Without it the limit is a minute."""
    allowed: list[float] = []
    timeout = asyncio.timeout

    def noted(seconds: float | None) -> asyncio.Timeout:
        if seconds is not None:  # aiohttp's default, if no server has sent an interval
            allowed.append(seconds)
        return timeout(seconds)

    slow = STREAM + chunk(b'event: $open\ndata: {"heartbeat": 90}\nid: k3f9-1042\n\n')
    script = await speak(OPENED + END, slow + END, STREAM + chunk(b"data: one\n\n"))
    monkeypatch.setattr(asyncio, "timeout", noted)
    await chunks(script.url, 3)
    head, first_read = 60.0, 60.0
    assert allowed == [PATIENCE, head, first_read, 20.0, head, first_read, 360.0, head, first_read]


async def test_an_id_that_no_header_can_have_is_a_client_error(speak: Speak, waits: list[float]) -> None:
    """The stream could only resume with a loss."""
    script = await speak(STREAM + chunk(b"id: a\x01b\ndata: one\n\n") + END, STREAM)
    with pytest.raises(ClientError, match=r"the id 'a\\x01b' cannot be sent back"):
        await chunks(script.url, 2)


async def test_an_id_is_sent_back_as_utf8(speak: Speak, waits: list[float]) -> None:
    """The header has the bytes of the id (WHATWG HTML 9.2.4)."""
    script = await speak(
        STREAM + chunk("id: é\t😀\ndata: one\n\n".encode()) + END, STREAM + chunk(b"data: two\n\n")
    )
    await first(script.url, 2)
    assert script.resumed_from() == [None, "é\t😀"]


async def test_a_client_sends_user_agent_accept_and_cache_control(speak: Speak) -> None:
    """Logs so have its name, and no cache responds."""
    script = await speak(STREAM + chunk(b"data: one\n\n"))
    await first(script.url, 1)
    (head,) = script.heads
    assert head[0] == "GET /events HTTP/1.1"
    assert {"Accept: text/event-stream", "Cache-Control: no-store", "User-Agent: sse-broadcast"} <= set(head)


async def test_a_client_closes_its_connections(server: Server) -> None:
    await chunks(server.url, 0)
    async with asyncio.timeout(PATIENCE):
        while server.connections:
            await asyncio.sleep(0.002)


async def test_a_certificate_is_verified_with_the_given_context(serve: Serve, tmp_path: Path) -> None:
    authenticator = trustme.CA()
    file = tmp_path / "server.pem"
    authenticator.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    server = await serve(certificate=str(file))
    context = ssl.create_default_context()
    authenticator.configure_trust(context)
    async with Client(server.url, tls=context) as client:
        assert (await client.status())["connected_clients"] == 0
    async with Client(server.url) as client:
        with pytest.raises(ClientError, match=r"cannot reach https://.*certificate verify failed"):
            await client.status()


async def test_https_never_falls_back_to_http(server: Server) -> None:
    async with Client(server.url.replace("http", "https")) as client:
        with pytest.raises(
            ClientError, match=f"cannot reach https://127.0.0.1:{server.port}: no agreement on TLS: "
        ):
            await client.publish("secret")
    assert server.broadcaster.counts.published == 0


# Many events.


async def in_pieces(*chunks: Sequence[str]) -> AsyncIterator[list[bytes]]:
    for piece in chunks:
        yield [encode_line(message) for message in piece]


async def raw(*lines: bytes) -> AsyncIterator[list[bytes]]:
    yield list(lines)


async def sent(stream: AsyncIterator[PublishResult]) -> tuple[list[int], str | None]:
    """Return the number published by each request, and the final error."""
    found: list[PublishResult] = []
    error: str | None = None
    try:
        while True:
            found.append(await anext(stream))
    except StopAsyncIteration:
        pass
    except ClientError as caught:
        error = str(caught)
    return [each.count for each in found], error


async def publish_lines(url: str, *chunks: Sequence[str], **options: Any) -> tuple[list[int], str | None]:
    """Publish messages as lines, in the given chunks, and return what `sent` does."""
    async with asyncio.timeout(PATIENCE), Client(url) as client:
        return await sent(client.publish_lines(in_pieces(*chunks), **options))


async def held(server: Server) -> list[str]:
    count = server.broadcaster.counts.published
    async with asyncio.timeout(PATIENCE), server.broadcaster.subscribe("*", since="earliest") as stream:
        return [(await anext(stream)).data for _ in range(count)]


def test_a_line_has_the_form_that_the_server_accepts() -> None:
    assert encode_line("a\n") == b'{"message":"a\\n"}'
    assert encode_line("a", event="e", id="i", key="k", retry=0) == (
        b'{"message":"a","event":"e","id":"i","key":"k","retry":0}'
    )
    with pytest.raises(ClientError, match="lone surrogate"):
        encode_line("a", event="\udcff")


async def test_lines_of_a_chunk_are_one_request(server: Server) -> None:
    """The limits may split them. Later lines are another request, and no chunk is read ahead."""
    async with server.broadcaster.subscribe("c"), Client(server.url) as client:
        stream = client.publish_lines(in_pieces(["a", "b"], [], ["c"]), channels=["c"])
        epoch = server.broadcaster.cursor.partition("-")[0]
        assert await anext(stream) == PublishResult(2, 1, f"{epoch}-2")
        assert server.broadcaster.counts.published == 2
        assert await anext(stream) == PublishResult(1, 1, f"{epoch}-3")
        assert [each async for each in stream] == []
    assert await held(server) == ["a", "b", "c"]


async def test_a_request_is_limited_in_events_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    """A line beyond the limit is alone in its request."""
    monkeypatch.setattr(module, "BATCH", 3)
    async with Client(server.url) as client:
        assert await sent(client.publish_lines(in_pieces("abcdefgh"))) == ([3, 3, 2], None)
        monkeypatch.setattr(module, "BATCH_BYTES", 2 * len(encode_line("a")) + 1)
        lines = in_pieces(["a", "b", "c", "x" * 100, "d", "e"])
        assert await sent(client.publish_lines(lines)) == ([2, 1, 1, 2], None)
    assert await held(server) == [*"abcdefgh", "a", "b", "c", "x" * 100, "d", "e"]


async def test_a_request_fits_the_servers_default_limits() -> None:
    assert Config().max_batch >= module.BATCH
    assert Config().max_body >= module.BATCH_BYTES


async def test_blank_lines_are_skipped_and_counted(server: Server) -> None:
    """A chunk of them is no request. The number of a line is that in its file."""
    async with Client(server.url) as client:
        assert await sent(client.publish_lines(raw(b"", b" \t\r"))) == ([], None)
        lines = raw(b"", encode_line("a"), b"\r", encode_line("b"), b"{}", encode_line("c"))
        counts, error = await sent(client.publish_lines(lines))
    assert (counts, await held(server)) == ([2], ["a", "b"])
    assert error is not None
    assert error.startswith(
        f"{server.url}/send: 422 {http.HTTPStatus(422).phrase}: line 5: message: is missing"
    )


@pytest.mark.parametrize("bad", range(7))
async def test_lines_before_a_bad_one_are_published(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, bad: int
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    server = await serve(max_event=100)
    messages = [*"abcdefg"]
    messages[bad] = "x" * 101
    counts, error = await publish_lines(server.url, messages[:4], messages[4:])
    assert sum(counts) == bad
    assert error is not None
    assert error.endswith(f": line {bad + 1}: data: is 101 bytes, more than the 100 that max_event allows")
    assert await held(server) == messages[:bad]


async def test_requests_shrink_to_a_servers_lower_limits(serve: Serve) -> None:
    messages = [str(number) for number in range(100)]
    for settings in ({"max_batch": 3}, {"max_body": 100, "max_event": 50}):
        server = await serve(**settings)
        counts, error = await publish_lines(server.url, messages)
        assert (sum(counts), error) == (100, None)
        assert await held(server) == messages


async def test_a_refusal_of_the_first_line_is_reported_unchanged(server: Server) -> None:
    """No part of the lines is sent again: its first one would be refused too."""
    counts, error = await publish_lines(server.url, ["a", "b"], channels=["a/b"])
    assert (counts, error) == (
        [],
        f"{server.url}/send?channel=a/b: 400 Bad Request: channel: must not contain '/': 'a/b'",
    )
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (b"", ": it closed the connection, with lines 1 to 2 under way"),
        (plain("502 Bad Gateway", "text/plain", ""), "/send: 502 Bad Gateway, with lines 1 to 2 under way"),
        (plain("200 OK", "application/json", "{}"), " as this server does, with lines 1 to 2 under way"),
        (
            plain("413 Too Large\r\nConnection: close", "text/plain", "line 9: x"),
            "/send: 413 Too Large: line 1: line 9: x",
        ),
        (plain("400 Bad Request", "text/plain", "line 9: x"), "/send: 400 Bad Request: line 9: x"),
        (plain("400 Bad Request", "text/plain", "line 0: x"), "/send: 400 Bad Request: line 0: x"),
    ],
)
async def test_any_other_response_is_an_error(speak: Speak, answer: bytes, reported: str) -> None:
    """If the lines may have been published, the error has their numbers."""
    script = await speak(answer, answer, answer)
    counts, error = await publish_lines(script.url, ["a", "b"])
    assert counts == []
    assert error is not None
    assert error.endswith(reported)


async def test_a_json_array_is_one_batch(server: Server) -> None:
    async with Client(server.url) as client:
        answer = await client.publish_json(b'[{"message": "a"}, {"data": [1, 2]}]', channels=["c"])
        assert (answer["count"], answer["id"]) == (2, server.broadcaster.cursor)
        with pytest.raises(ClientError, match=r"/send: 422 .+: item 2: message: is missing"):
            await client.publish_json(b'[{"message": "a"}, {}]')
    assert await held(server) == ["a", "[1,2]"]


# The cursor of a stream.


async def test_an_id_without_an_event_moves_the_cursor(speak: Speak, waits: list[float]) -> None:
    """`$open` and heartbeats have one. It counts once the block is complete."""
    script = await speak(
        STREAM + chunk(b":\nretry: 700\nid: 7\n\n") + END,
        STREAM + chunk(b":\nid: 9\n\nid: 11\n"),
        STREAM + chunk(b"data: one\n\n"),
    )
    found = await chunks(script.url, 1)
    assert script.resumed_from() == [None, "7", "9"]
    assert [piece.last_event_id for piece in found] == ["7", "9", "9"]


async def test_a_chunk_has_the_cursor_of_its_last_event(speak: Speak) -> None:
    script = await speak(STREAM + chunk(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: c\n\nid: 3\ndata: half"))
    (piece,) = await chunks(script.url, 3)
    assert [event.id for event in piece.events] == ["1", "2", None]
    assert piece.last_event_id == "2"


def asked(script: Script) -> list[str]:
    return [head[0].split()[1] for head in script.heads]


async def test_since_is_sent_until_an_id_is_known(speak: Speak, waits: list[float]) -> None:
    """The id is more exact, and `since` would start again."""
    script = await speak(
        STREAM + chunk(b"retry: 700\n") + END,
        STREAM + chunk(b"id: 7\n\n") + END,
        STREAM + chunk(b"data: one\n\n"),
    )
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        async for piece in client.subscribe(["a", "b.*"], since="10m", events=["x y", "é"], format="json"):
            if piece.events:
                break
    query = "event=x+y&event=%C3%A9&format=json"
    path = "/events/a,b.*?" + query
    assert asked(script) == [path + "&since=10m", path + "&since=10m", path]
    assert script.resumed_from() == [None, None, "7"]


async def test_a_stream_may_begin_after_an_id(speak: Speak, waits: list[float]) -> None:
    script = await speak(STREAM + chunk(b"retry: 700\n") + END, STREAM + chunk(b"data: one\n\n"))
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        async for piece in client.subscribe(since="earliest", last_event_id="7"):
            assert piece.last_event_id == "7"
            if piece.events:
                break
    assert asked(script) == ["/events", "/events"]
    assert script.resumed_from() == ["7", "7"]


async def test_events_published_between_connections_are_yielded(server: Server) -> None:
    first_one = await server.broadcaster.broadcast("one", channels=("a",))
    for channel, event_type in (("a", "x"), ("b.c", "x"), ("b.c", "y"), ("other", "x")):
        await server.broadcaster.broadcast(channel + event_type, channels=(channel,), event=event_type)
    found: list[str] = []
    async with asyncio.timeout(PATIENCE), Client(server.url) as client:
        async for piece in client.subscribe(["a", "b.*"], last_event_id=first_one.id, events=["x"]):
            found += [event.data for event in piece.events if not event.reserved]
            if len(found) == 2:
                break
    assert found == ["ax", "b.cx"]


# Credentials.

TOKEN = "a-token-of-somebody.~+/=="


def redirect(url: str, status: str = "307 Temporary Redirect") -> bytes:
    head = f"HTTP/1.1 {status}\r\nLocation: {url}\r\n"
    return f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()


def shown_tokens(script: Script) -> list[list[str]]:
    """Return every token in the head of each request."""
    return [
        [line for line in head if "authorization" in line.lower() or TOKEN in line] for head in script.heads
    ]


RECEIPT = plain("200 OK", "application/json", '{"clients": 0, "count": 1, "id": "1"}')
STATUS = plain("200 OK", "application/json", '{"connected_clients": 0}')


@pytest.mark.parametrize("token", [TOKEN, None])
async def test_every_request_has_the_token(speak: Speak, token: str | None) -> None:
    """It is a bearer token in one header (RFC 6750, 2.1). Without a token there is no such header."""
    script = await speak(RECEIPT, RECEIPT, STATUS, STREAM + chunk(b"data: one\n\n"))
    async with asyncio.timeout(PATIENCE), Client(script.url, token=token) as client:
        await client.publish("x")
        await sent(client.publish_lines(in_pieces(["x"])))
        await client.status()
        await anext(client.subscribe())
    assert [head[0].split()[1] for head in script.heads] == ["/send", "/send", "/status", "/events"]
    assert shown_tokens(script) == [[] if token is None else [f"Authorization: Bearer {token}"]] * 4


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_no_other_origin_gets_the_token(speak: Speak, status: str) -> None:
    """A redirect may lead to another port. The token is not sent again on the way back."""
    back = await speak(STATUS)
    other = await speak(redirect(back.url, status))
    script = await speak(redirect(other.url, status))
    async with asyncio.timeout(PATIENCE), Client(script.url, token=TOKEN) as client:
        await client.status()
    assert shown_tokens(script) == [[f"Authorization: Bearer {TOKEN}"]]
    assert (shown_tokens(other), shown_tokens(back)) == ([[]], [[]])


async def test_redirected_streams_and_publishes_carry_no_token_to_another_origin(speak: Speak) -> None:
    """The client follows the redirect without a credential."""
    other = await speak(STREAM + chunk(b"data: one\n\n") + END, RECEIPT)
    script = await speak(redirect(f"{other.url}/events"), redirect(f"{other.url}/send"))
    async with asyncio.timeout(PATIENCE), Client(script.url, token=TOKEN) as client:
        assert (await anext(client.subscribe())).events == [Event("one")]
        await client.publish("x")
    assert shown_tokens(script) == [[f"Authorization: Bearer {TOKEN}"]] * 2
    assert shown_tokens(other) == [[], []]


async def test_a_redirect_within_the_origin_keeps_the_token(speak: Speak) -> None:
    """A server may redirect from one path to another."""
    script = await speak(redirect("/elsewhere/status"), STATUS)
    async with asyncio.timeout(PATIENCE), Client(script.url, token=TOKEN) as client:
        await client.status()
    assert shown_tokens(script) == [[f"Authorization: Bearer {TOKEN}"]] * 2
    assert script.heads[1][0].split()[1] == "/elsewhere/status"


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Header: y", "a\n", "é", "=a", '"a"'])
def test_a_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(
        ClientError, match=exactly("token: has characters that a token cannot have (RFC 6750)")
    ):
        Client(token=token)


async def test_the_password_of_a_url_is_sent_to_its_server_only(speak: Speak) -> None:
    """A proxy may ask for it. Errors name the server without it."""
    script = await speak(plain("403 Forbidden", "text/plain", "no"))
    host = script.url.removeprefix("http://")
    error = await refusal(f"http://me:password@{host}")
    assert str(error) == f"http://{host}/events: 403 Forbidden: no"
    assert "Authorization: Basic bWU6cGFzc3dvcmQ=" in script.heads[0]
    async with Client("http://me:password@127.0.0.1:1") as client:
        reported = str(await error_of(client.status()))
    assert reported.startswith("cannot reach http://127.0.0.1:1: ")
    assert "password" not in reported


def test_a_user_and_a_token_exclude_each_other() -> None:
    """A request has one Authorization header."""
    with pytest.raises(ClientError) as caught:
        Client("http://me:password@127.0.0.1", token=TOKEN)
    assert str(caught.value) == ("http://127.0.0.1: a user in the URL and a token: set only one of them")


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        ("401 Unauthorized", "token: expired at 2026-01-01 00:00:00 UTC"),
        ("403 Forbidden", "publish 'orders': the token does not allow it"),
    ],
)
async def test_a_refused_credential_is_one_line(speak: Speak, status: str, detail: str) -> None:
    answer = plain(status, "application/problem+json", f'{{"detail": "{detail}"}}')
    script = await speak(answer, answer)
    async with asyncio.timeout(PATIENCE), Client(script.url, token=TOKEN) as client:
        for path, refused in (("events", anext(client.subscribe())), ("send", client.publish("x"))):
            error = await error_of(refused)
            assert str(error) == f"{script.url}/{path}: {status}: {detail}"
            assert error.status == int(status.split(maxsplit=1)[0])


# Rate limits and full servers.


def later(after: str | None) -> bytes:
    header = "" if after is None else f"Retry-After: {after}\r\n"
    return (
        f"HTTP/1.1 429 Too Many Requests\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )


def problem(status: str, detail: str, headers: str = "") -> bytes:
    body = f'{{"title": "x", "status": 0, "detail": "{detail}"}}'
    return plain(f"{status}\r\n{headers}X-Header: x", "application/problem+json", body)


DRAINING = problem("503 Service Unavailable", "the server is shutting down", "Retry-After: 5\r\n")


async def test_lines_wait_for_a_rate_limit(speak: Speak, waits: list[float]) -> None:
    """The refused request published nothing: it is sent again before later lines."""
    script = await speak(later("2"), later("0"), RECEIPT, RECEIPT)
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        assert await sent(client.publish_lines(in_pieces(["a"], ["b"]))) == ([1, 1], None)
    assert waits == [2.0, 0.5]


async def test_lines_have_a_limited_wait(
    monkeypatch: pytest.MonkeyPatch, speak: Speak, waits: list[float]
) -> None:
    monkeypatch.setattr(backoff, "PACED", 3)
    script = await speak(later("1"), later("1"), later("1"), RECEIPT)
    counts, error = await publish_lines(script.url, ["a"])
    assert (counts, error) == (
        [],
        f"{script.url}/send: 429 Too Many Requests; line 1 and all after it were not published",
    )
    assert (len(script.heads), waits) == (3, [1.0, 1.0])


@pytest.mark.parametrize("after", [None, "soon"])
async def test_a_429_without_a_wait_is_a_refusal(speak: Speak, waits: list[float], after: str | None) -> None:
    """With a retry time it is retried."""
    script = await speak(later(after))
    counts, error = await publish_lines(script.url, ["a"])
    reported = f"{script.url}/send: 429 Too Many Requests; line 1 and all after it were not published"
    assert (counts, error, waits) == ([], reported, [])


async def test_one_message_does_not_wait(speak: Speak) -> None:
    script = await speak(later("1"))
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        with pytest.raises(ClientError, match=r"/send: 429 Too Many Requests$"):
            await client.publish("x")


async def test_one_message_waits_if_asked(speak: Speak, waits: list[float]) -> None:
    script = await speak(later("1"), RECEIPT, DRAINING, RECEIPT)
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        assert (await client.publish("x", retry_for=60))["id"] == "1"
        assert (await client.publish_json(b"[]", retry_for=60))["id"] == "1"
    assert waits == [1.25, 6.25]


SURELY_NOT_PUBLISHED = {
    "draining": (DRAINING, 6.25, 6.25),
    "full": (problem("503 Service Unavailable", "the server has as many connections as it takes"), 1.0, 2.0),
    "over a rate": (later(None), 1.0, 2.0),
    "too early": (plain("425 Too Early", "text/plain", ""), 1.0, 2.0),
    "too slow": (plain("408 Request Timeout", "text/plain", ""), 1.0, 2.0),
}


@pytest.mark.parametrize(
    ("answer", "wait", "longer"), SURELY_NOT_PUBLISHED.values(), ids=list(SURELY_NOT_PUBLISHED)
)
async def test_unpublished_lines_are_sent_again(
    speak: Speak, waits: list[float], answer: bytes, wait: float, longer: float
) -> None:
    """The same bytes are sent again, before later lines. Each outage is reported once."""
    script = await speak(answer, answer, RECEIPT, answer, RECEIPT)
    reported: list[str] = []
    async with asyncio.timeout(PATIENCE), Client(script.url) as client:
        lines = client.publish_lines(
            in_pieces(["a"], ["b"]), retry_for=60, on_retry=lambda error: reported.append(str(error))
        )
        assert await sent(lines) == ([1, 1], None)
    assert script.bodies == [encode_line("a")] * 3 + [encode_line("b")] * 2
    assert len(reported) == 2
    assert waits == [wait, longer, wait]


UNSURE = {
    "no answer": b"",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    "another's answer": plain("200 OK", "application/json", "{}"),
    "taken on": plain("202 Accepted", "application/json", "{}"),
    "a fault": problem("500 Internal Server Error", "x"),
    "a proxy's 503": plain("503 Busy\r\nRetry-After: 5", "text/plain", "reset before headers"),
    "a store that does not answer": problem(
        "503 Busy", "may have been published: send it again with an Idempotency-Key"
    ),
    "an unreadable 503": problem("503 Service Unavailable", "x").partition(b"{")[0],
    **{status: plain(status, "text/html", "") for status in ("502 Bad", "504 Late", "520 Odd", "524 Late")},
}


@pytest.mark.parametrize("answer", UNSURE.values(), ids=list(UNSURE))
async def test_lines_that_may_have_been_published_are_not_sent_again(
    speak: Speak, waits: list[float], answer: bytes
) -> None:
    script = await speak(RECEIPT, answer, RECEIPT)
    counts, error = await publish_lines(script.url, ["a"], ["b", "c"], ["d"], retry_for=60)
    assert (counts, waits, len(script.heads)) == ([1], [], 2)
    assert error is not None
    assert error.endswith(", with lines 2 to 3 under way")


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "403 No", "404 No", "409 Over", "501 No", "505 No"])
async def test_refused_lines_are_not_sent_again(speak: Speak, waits: list[float], status: str) -> None:
    """The refusal is permanent."""
    script = await speak(plain(status, "text/plain", ""), RECEIPT)
    counts, error = await publish_lines(script.url, ["a"], retry_for=60)
    assert (counts, error, waits) == ([], f"{script.url}/send: {status}", [])


async def test_lines_wait_for_an_unreachable_server(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    server = Server(Config(port=unused_tcp_port))
    waited: list[float] = []

    async def until_it_is_there(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            await server.start()

    monkeypatch.setattr(module, "_sleep", until_it_is_there)
    reported: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE), Client(url) as client:
            lines = client.publish_lines(
                in_pieces(["a", "b"], ["c"]), retry_for=60, on_retry=lambda error: reported.append(str(error))
            )
            assert await sent(lines) == ([2, 1], None)
        assert (await held(server), reported) == (["a", "b", "c"], [f"cannot reach {url}: refused"])
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "refused"),
        ("http://nowhere.invalid", "no such host"),
        ("unix:/nowhere", "no such file or directory"),
    ],
)
async def test_lines_wait_no_longer_than_the_given_time(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    """The last attempt is at its end. The error has the first line that was not published."""
    clock = Clock()
    waited: list[float] = []

    async def pass_time(seconds: float) -> None:
        waited.append(seconds)
        clock.forward(seconds)

    monkeypatch.setattr(module, "_sleep", pass_time)
    monkeypatch.setattr(module, "RetryBudget", functools.partial(backoff.RetryBudget, now=clock))
    counts, error = await publish_lines(url, ["a", "b"], retry_for=30)
    assert sum(waited) == pytest.approx(30)
    reported = f"cannot reach {url}: {reason}; line 1 and all after it were not published"
    assert (counts, error) == ([], reported)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://a..b"])
async def test_a_permanent_connection_error_is_not_retried(waits: list[float], url: str) -> None:
    """Examples are an impossible address and an untrusted certificate."""
    counts, error = await publish_lines(url, ["a"], retry_for=60)
    assert (counts, waits) == ([], [])
    assert error is not None
    assert error.startswith(f"cannot reach {url}: no such ")


async def test_a_refusal_may_come_in_pieces(speak: Speak) -> None:
    """The number of its line is read from the complete response."""
    whole = problem("422 No", "line 2: message: missing")
    script = await speak(Cut(whole), RECEIPT)
    counts, error = await publish_lines(script.url, ["a", "b"])
    assert (counts, error) == ([1], f"{script.url}/send: 422 No: line 2: message: missing")


async def test_a_stream_over_a_limit_is_opened_again(speak: Speak, waits: list[float]) -> None:
    script = await speak(later("7"), STREAM + chunk(b"data: one\n\n"))
    assert await first(script.url, 1) == [Event("one")]
    assert waits == [8.75]


# UNIX sockets.


async def test_a_unix_socket_works_as_a_url(speak: Speak, tmp_path: Path) -> None:
    script = await speak(RECEIPT, STATUS, STREAM + chunk(b"data: one\n\n"), socket=tmp_path / "sse.sock")
    async with asyncio.timeout(PATIENCE), Client(script.url, token=TOKEN) as client:
        await client.publish("x", channels=["news"])
        await client.status()
        assert (await anext(client.subscribe(["news"]))).events == [Event("one")]
    assert [head[0].split()[1] for head in script.heads] == ["/send/news", "/status", "/events/news"]
    assert shown_tokens(script) == [[f"Authorization: Bearer {TOKEN}"]] * 3
    assert all("Host: localhost" in head for head in script.heads)


async def why(url: str) -> str:
    """Return the error for an unreachable server, after its name."""
    async with Client(url) as client:
        error = await error_of(client.status())
    name, _, reason = str(error).partition(f"cannot reach {url}: ")
    assert name == ""
    return reason


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "refused"),
        ("http://nowhere.invalid", "no such host"),
        ("http://a..b", "no such host"),
        ("http://127.0.0.1:99999", "no such address"),
        ("unix:/nowhere", "no such file or directory"),
        (f"unix:/{'x' * 200}", "AF_UNIX path too long"),
    ],
)
async def test_the_reason_of_an_unreachable_server_is_short(url: str, reason: str) -> None:
    assert await why(url) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "it closed the connection"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\x1b[2Jlook\r\n\r\n", "it does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "it broke off its answer"),
    ],
)
async def test_the_reason_of_a_malformed_response_is_short(answer: bytes, reason: str) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with accepting(say) as server:
        assert await why(f"http://127.0.0.1:{server.port}") == reason


async def test_the_reason_of_an_unsent_body_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text has neither the address, which aiohttp's has, nor a missing error number."""
    broken = aiohttp.ClientOSError(None, "Can not write request body for http://127.0.0.1:8000/send")
    monkeypatch.setattr(aiohttp.ClientSession, "request", Mock(side_effect=broken))
    assert await why("http://127.0.0.1:8000") == "it closed the connection"


async def test_errors_name_the_socket(speak: Speak, tmp_path: Path) -> None:
    script = await speak(plain("403 Forbidden", "text/plain", "no"), socket=tmp_path / "sse.sock")
    assert str(await refusal(script.url)) == f"unix:{tmp_path}/sse.sock/events: 403 Forbidden: no"
    nowhere = f"unix:{tmp_path}/nowhere"
    assert str(await refusal(nowhere)).startswith(f"cannot reach {nowhere}: ")
    assert str(await refusal("unix:" + "x" * 200)).startswith("cannot reach unix:xxx")


async def test_a_healthy_server(server: Server) -> None:
    async with Client(server.url) as client:
        await client.health()


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (plain("503 Service Unavailable", "text/plain", "no"), "{}/healthz: 503 Service Unavailable: no"),
        (plain("404 Not Found", "text/plain", ""), "{}/healthz: 404 Not Found"),
        (plain("200 OK", "text/html", "<html>"), "{}/healthz: the answer is not a JSON object"),
    ],
)
async def test_a_server_with_any_other_response_is_not_healthy(
    speak: Speak, answer: bytes, reported: str
) -> None:
    """Another program may listen there."""
    script = await speak(answer)
    async with Client(script.url) as client:
        assert str(await error_of(client.health())) == reported.format(script.url)


async def test_a_server_without_a_response_is_not_healthy(
    monkeypatch: pytest.MonkeyPatch, speak: Speak
) -> None:
    monkeypatch.setattr(module, "ALIVE", 0.05)
    script = await speak(Held(b""))
    async with Client(script.url) as client:
        assert str(await error_of(client.health())) == f"cannot reach {script.url}: timed out"


# Subscribers.


async def test_subscribers_are_listed_and_disconnected(server: Server) -> None:
    """The list is a page, the top ones, or those of a channel."""
    async with Client(server.url) as client, Client(server.url) as subscriber:
        streams = [subscriber.subscribe([name]) for name in ("a", "b", "c")]
        for stream in streams:
            await anext(stream)
        page = await client.subscribers(limit=2)
        assert ([each["id"] for each in page["subscribers"]], page["next"]) == (["1", "2"], "2")
        page = await client.subscribers(after="2")
        assert [each["channels"] for each in page["subscribers"]] == [["c"]]
        page = await client.subscribers(sort="age", channel="b", limit=1)
        assert [each["channels"] for each in page["subscribers"]] == [["b"]]
        assert await client.disconnect("2") == {"status": "disconnected", "id": "2"}
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("id", ["", "x", "-1", "..", "1?x", "\u0661"])
async def test_a_malformed_id_sends_no_request(id: str) -> None:
    """It could be another URL."""
    async with Client("http://not.used.invalid") as client:
        assert str(await error_of(client.disconnect(id))) == f"id: must be digits, not {id!a}"


async def test_reload_returns_the_changed_settings(server: Server) -> None:
    async with Client(server.url) as client:
        assert await client.reload() == {"status": "reloaded", "changed": [], "restart": []}


async def test_the_name_of_a_server_has_no_password() -> None:
    assert Client("http://ada:secret@push.example/").name == "http://push.example"
    assert Client("unix:/run/sse.sock").name == "unix:/run/sse.sock"
