"""GET /events: the head, the first bytes, and every way a stream can end."""

import asyncio
import gc
import json
import re
import time
from collections.abc import Callable

import pytest
from aiohttp import web

from sse_broadcast import BROADCASTER, Config, create_app
from sse_broadcast.audience import Lane
from sse_broadcast.event import Event
from sse_broadcast.server.connection import Connection
from sse_broadcast.server.run import Server
from sse_broadcast.server.sink import TransportSink
from sse_broadcast.subscriber import Subscriber
from tests.conftest import Connect, Serve
from tests.support.memory import held, uncollected
from tests.support.sockets import RawClient, until

HEAD = re.compile(
    rb"HTTP/1\.1 200 OK\r\n"
    rb"Content-Type: text/event-stream\r\n"
    rb"Cache-Control: no-store, no-transform\r\n"
    rb"X-Accel-Buffering: no\r\n"
    rb"Server: sse-broadcast\r\n"
    rb"Transfer-Encoding: chunked\r\n"
    rb"Date: [^\r]+\r\n"
    rb"Connection: close\r\n\r\n"
)


NDJSON_HEAD = re.compile(
    HEAD.pattern.replace(b"text/event-stream", b"application/x-ndjson").replace(
        rb"Transfer-", rb"Last-Event-ID: [^\r]+\r\nTransfer-"
    )
)

OPENING = re.compile(rb":\nretry: (\d+)\nid: ([0-9a-f]{8}-\d+)\n\n")


async def test_the_head_is_these_bytes_and_the_first_bytes_come_at_once(
    serve: Serve, connect: Connect
) -> None:
    """No buffering, no caching, and a jittered time to reconnect before any event."""
    server = await serve(retry=2000)
    reader = await connect(server)
    assert HEAD.fullmatch(await reader.subscribe())
    opening = OPENING.fullmatch(await reader.chunk())
    assert opening
    assert 1000 <= int(opening[1]) <= 3000
    assert opening[2].decode() == server.broadcaster.cursor


async def test_events_are_these_bytes(serve: Serve, connect: Connect) -> None:
    """A chunk a frame, and an id in each."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe()
    await reader.chunk()
    receipt = await server.broadcaster.broadcast("a\nb", event="t")
    frame = f"29\r\nid: {receipt.id}\nevent: t\ndata: a\ndata: b\n\n\r\n".encode()
    assert await reader.take(len(frame)) == frame


async def test_http_1_0_gets_bare_frames_and_a_close(serve: Serve, connect: Connect) -> None:
    """Without chunks, and with keep-alive asked for too: the stream's end is the connection's."""
    server = await serve()
    reader = await connect(server)
    head = await reader.subscribe(version="1.0", headers="Connection: keep-alive\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"keep-alive" not in head
    assert OPENING.fullmatch(await reader.up_to(b"\n\n"))
    receipt = await server.broadcaster.broadcast("x")
    assert await reader.up_to(b"\n\n") == f"id: {receipt.id}\ndata: x\n\n".encode()
    await server.broadcaster.close(timeout=5)
    assert re.fullmatch(rb'event: \$close\nretry: \d+\ndata: {"reason": "drain"}\n\n', await reader.rest())


async def test_the_end_of_a_stream_is_clean(serve: Serve, connect: Connect) -> None:
    """`$close` with a reason and a time to come back, and the body's last chunk."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe()
    await reader.chunk()
    receipt = await server.broadcaster.broadcast("last words")
    await server.broadcaster.close(timeout=5)
    assert await reader.chunk() == f"id: {receipt.id}\ndata: last words\n\n".encode()
    assert re.fullmatch(rb'event: \$close\nretry: \d+\ndata: {"reason": "drain"}\n\n', await reader.chunk())
    assert await reader.chunk() == b""
    assert await reader.rest() == b""
    await until(lambda: server.connections == 0)


async def test_silence_is_broken_by_heartbeats(serve: Serve, connect: Connect) -> None:
    """A comment, which no client takes for an event."""
    server = await serve(heartbeat=0.05)
    reader = await connect(server)
    await reader.subscribe()
    await reader.chunk()
    assert [await reader.chunk() for _ in range(3)] == [b":\n"] * 3


async def test_head_says_what_get_would(serve: Serve, connect: Connect) -> None:
    """Without opening a stream, and the connection goes on."""
    server = await serve()
    client = await connect(server)
    await client.send(b"HEAD /events HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/event-stream\r\n" in head
    assert b"Cache-Control: no-store, no-transform\r\n" in head
    assert (await client.ask("GET", "/status"))[0] == 200
    assert server.broadcaster.counts.opened == 0


# Formats.

ENVELOPE = re.compile(
    rb'\{"channel":("[^"]+"|null),"id":("[^"]+"|null),"event":"[^"]+","data":.*,"time":\d+\.\d{1,3}\}'
)


def without_time(envelope: bytes) -> str:
    """Give an envelope without its last member, which is the time of day."""
    assert ENVELOPE.fullmatch(envelope), envelope
    return envelope.decode().rpartition(',"time":')[0] + "}"


async def test_json_format_is_these_bytes(serve: Serve, connect: Connect) -> None:
    """Frames as in text, and in each the data is an envelope that says where it came from."""
    server = await serve()
    reader = await connect(server)
    assert HEAD.fullmatch(await reader.subscribe(path="/events/a,b?format=json"))
    assert OPENING.fullmatch(await reader.chunk())
    before = time.time()
    receipt = await server.broadcaster.publish(Event("x\r\ny", "t", retry=9), ["b"])
    head, _, data = (await reader.chunk()).removesuffix(b"\n\n").partition(b"data: ")
    assert head.decode() == f"id: {receipt.id}\nevent: t\nretry: 9\n"
    assert without_time(data) == f'{{"channel":"b","id":"{receipt.id}","event":"t","data":"x\\r\\ny"}}'
    assert before - 1 <= json.loads(data)["time"] <= time.time() + 1


async def test_json_values_stay_values_in_an_envelope(serve: Serve, connect: Connect) -> None:
    """`data` is what was published: JSON as JSON, text as text, even text that looks like JSON."""
    server = await serve()
    reader, publisher = await connect(server), await connect(server)
    await reader.subscribe(path="/events?format=json")
    for body in (
        b'{"data": {"b" : [1.50, null]}}',
        b'{"data": "[1]"}',
        b'{"message": "{}"}',
        b'{"data": null}',
    ):
        await publisher.ask("POST", "/send", body=body, headers="Content-Type: application/json\r\n")
    found = [event.data.partition('"data":')[2].rpartition(',"time":')[0] for event in await reader.events(4)]
    assert found == ['{"b":[1.50,null]}', '"[1]"', '"{}"', "null"]


async def test_ndjson_is_these_bytes(serve: Serve, connect: Connect) -> None:
    """The cursor in the head, an empty line at once, then an envelope a line."""
    server = await serve()
    await server.broadcaster.broadcast("before")
    reader = await connect(server)
    head = await reader.subscribe(headers="Accept: application/x-ndjson\r\n")
    assert NDJSON_HEAD.fullmatch(head)
    assert f"\r\nLast-Event-ID: {server.broadcaster.cursor}\r\n".encode() in head
    assert await reader.chunk() == b"\n"
    receipt = await server.broadcaster.broadcast("a\r\nb", event="t")
    line = await reader.chunk()
    assert line.endswith(b"}\n")
    assert without_time(line[:-1]) == (
        f'{{"channel":"default","id":"{receipt.id}","event":"t","data":"a\\r\\nb"}}'
    )


async def test_the_servers_own_events_are_of_no_channel(serve: Serve, connect: Connect) -> None:
    """In NDJSON an envelope with null; a loss has the id to go on from, the end of the stream has none."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe(path="/events?since=nobody-knows", headers="Accept: application/x-ndjson\r\n")
    assert await reader.chunk() == b"\n"
    cursor = server.broadcaster.cursor
    assert without_time((await reader.chunk())[:-1]) == (
        f'{{"channel":null,"id":"{cursor}","event":"$reset",'
        '"data":{"reason": "unknown", "channels": ["default"], "missed": null}}'
    )
    await server.broadcaster.close(timeout=5)
    assert without_time((await reader.chunk())[:-1]) == (
        '{"channel":null,"id":null,"event":"$close","data":{"reason": "drain"}}'
    )
    assert await reader.chunk() == b""


async def test_the_servers_own_events_are_no_envelopes_in_json(serve: Serve, connect: Connect) -> None:
    """Their data is JSON already."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe(path="/events?since=nobody-knows&format=json")
    await reader.chunk()
    loss = '{"reason": "unknown", "channels": ["default"], "missed": null}'
    frame = f"id: {server.broadcaster.cursor}\nevent: $reset\ndata: {loss}\n\n"
    assert await reader.chunk() == frame.encode()


@pytest.mark.parametrize(
    ("path", "headers", "opening", "frame"),
    [
        ("/events/a", "", rb":\nretry: \d+\nid: \S+\n\n", rb"id: mine\ndata: x\n\n"),
        (
            "/events/a?format=json",
            "",
            rb":\nretry: \d+\nid: \S+\n\n",
            rb'id: mine\ndata: {"channel":"a","id":"mine","event":"message","data":"x","time":[\d.]+}\n\n',
        ),
        (
            "/events/a",
            "Accept: application/x-ndjson\r\n",
            rb"\n",
            rb'{"channel":"a","id":"mine","event":"message","data":"x","time":[\d.]+}\n',
        ),
    ],
    ids=["text", "json", "ndjson"],
)
async def test_each_format_is_bare_in_http_1_0(
    serve: Serve, connect: Connect, path: str, headers: str, opening: bytes, frame: bytes
) -> None:
    """Without a chunk's frame around anything."""
    server = await serve()
    reader = await connect(server)
    assert b"Transfer-Encoding" not in await reader.subscribe(version="1.0", path=path, headers=headers)
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.publish(Event("x", id="mine"), ["a"])
    await server.broadcaster.close(timeout=5)
    end = rb'(event: \$close\nretry: \d+\ndata: {"reason": "drain"}\n\n|{"channel":null.*}\n)'
    assert re.fullmatch(opening + frame + end, await reader.rest())


@pytest.mark.parametrize(
    ("path", "headers", "heartbeat"),
    [
        ("/events", "", b":\n"),
        ("/events?format=json", "", b":\n"),
        ("/events", "Accept: application/x-ndjson\r\n", b"\n"),
        ("/events?heartbeat=event", "", b"event: $heartbeat\ndata: {}\n\n"),
        ("/events?heartbeat=event&format=json", "", b"event: $heartbeat\ndata: {}\n\n"),
        ("/events?heartbeat=event", "Accept: application/x-ndjson\r\n", b"\n"),
    ],
)
async def test_each_format_has_its_heartbeat(
    serve: Serve, connect: Connect, path: str, headers: str, heartbeat: bytes
) -> None:
    """A comment, an empty line, or an event for pages that must notice silence."""
    server = await serve(heartbeat=0.05)
    reader = await connect(server)
    await reader.subscribe(path=path, headers=headers)
    await reader.chunk()
    assert [await reader.chunk() for _ in range(3)] == [heartbeat] * 3


@pytest.mark.parametrize(
    ("path", "headers", "content_type"),
    [
        ("/events/a,b", "", b"text/event-stream"),
        ("/events?format=json", "", b"text/event-stream"),
        ("/events/a", "Accept: application/x-ndjson\r\n", b"application/x-ndjson"),
    ],
)
async def test_head_knows_the_formats(
    serve: Serve, connect: Connect, path: str, headers: str, content_type: bytes
) -> None:
    """The content type that GET would have."""
    server = await serve()
    client = await connect(server)
    await client.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: " + content_type + b"\r\n" in head
    assert server.broadcaster.counts.opened == 0


@pytest.mark.parametrize("path", ["/events/a%20b", "/events?sinse=1", "/events?format=xml", "/events/%ff"])
async def test_head_refuses_what_get_would(serve: Serve, connect: Connect, path: str) -> None:
    """With the same status, and without a body."""
    server = await serve()
    client = await connect(server)
    await client.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await client.head()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert (await client.ask("GET", "/status"))[0] == 200


# Channels and filters.


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/events", ["d"]),
        ("/events/a", ["a", "ab", "ax"]),
        ("/events/b,a", ["a", "b", "ab", "ax"]),
        ("/events?channel=b&channel=a", ["a", "b", "ab", "ax"]),
        ("/events/b?channel=a", ["a", "b", "ab", "ax"]),
        ("/events/orders.*", ["o1", "o2"]),
        ("/events/orders.*,b", ["b", "o1", "ab", "o2"]),
        ("/events/*", ["d", "a", "b", "o1", "ab", "o2", "ax"]),
        ("/events/*,a,b,orders.*", ["d", "a", "b", "o1", "ab", "o2", "ax"]),
        ("/events/orders", []),
        ("/events/a?event=x", ["ax"]),
        ("/events/a?event=x&event=message", ["a", "ab", "ax"]),
        ("/events/*?event=x", ["o2", "ax"]),
        ("/events/%61", ["a", "ab", "ax"]),
        ("/events/a%2Cb", ["a", "b", "ab", "ax"]),
    ],
)
async def test_a_reader_gets_its_channels_and_no_others(
    serve: Serve, connect: Connect, path: str, seen: list[str]
) -> None:
    """Each event once, in the one order of all of them, live and from the history alike."""
    server = await serve()
    live = await connect(server)
    await live.subscribe(path=path)
    for data, channels, kind in [
        ("d", ["default"], "message"),
        ("a", ["a"], "message"),
        ("b", ["b"], "message"),
        ("o1", ["orders.1"], "message"),
        ("ab", ["b", "a"], "message"),
        ("o2", ["orders.2", "orders.x"], "x"),
        ("ax", ["a"], "x"),
    ]:
        await server.broadcaster.publish(Event(data, kind), channels)
    late = await connect(server)
    await late.subscribe(path=path + ("&" if "?" in path else "?") + "since=earliest")
    await until(lambda: server.broadcaster.client_count == 2)
    await server.broadcaster.close(timeout=5)
    for reader in (live, late):
        events = await reader.events(len(seen) + 1)
        assert [event.data for event in events] == [*seen, '{"reason": "drain"}']


@pytest.mark.parametrize(
    ("path", "channel"),
    [
        ("/events/a", "a"),
        ("/events/a,b", "b"),
        ("/events/c,a", "a"),
        ("/events/c", "c"),
        ("/events/*", "b"),
        ("/events/a*", "a"),
        ("/events/c,a*", "a"),
    ],
)
@pytest.mark.parametrize("headers", ["", "Accept: application/x-ndjson\r\n"], ids=["json", "ndjson"])
async def test_the_envelope_names_the_first_of_the_publishers_channels_that_was_asked_for(
    serve: Serve, connect: Connect, path: str, channel: str, headers: str
) -> None:
    """Published to b, a, c: in the publisher's order, whatever the reader's."""
    server = await serve()
    live, late = await connect(server), await connect(server)
    await live.subscribe(path=f"{path}?format=json", headers=headers)
    await server.broadcaster.publish(Event("x"), ["b", "a", "c"])
    await late.subscribe(path=f"{path}?format=json&since=earliest", headers=headers)
    for reader in (live, late):
        await reader.chunk()
        envelope = (
            (await reader.chunk()).strip().rpartition(b"data: ")[2] if not headers else await reader.chunk()
        )
        assert json.loads(envelope)["channel"] == channel


async def test_types_that_are_the_servers_own_pass_every_filter(serve: Serve, connect: Connect) -> None:
    """A reader of one type is told of a loss, and of the end."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe(path="/events?event=x&since=nobody-knows")
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("not wanted")
    await server.broadcaster.close(timeout=5)
    assert [event.type for event in await reader.events(2)] == ["$reset", "$close"]


# Cursors.


async def test_a_reader_with_an_id_is_given_none_in_the_opening(serve: Serve, connect: Connect) -> None:
    """It has one to come back with; an id that it did not ask for would move its cursor."""
    server = await serve()
    first = await server.broadcaster.broadcast("1")
    second = await server.broadcaster.broadcast("2")
    for path, headers in (
        ("/events", f"Last-Event-ID: {first.id}\r\n"),
        (f"/events?since={first.id}", ""),
        (f"/events?last_event_id={first.id}", ""),
        ("/events?since=earliest&last_event_id=&event=message", f"Last-Event-ID: {first.id}\r\n"),
    ):
        reader = await connect(server)
        await reader.subscribe(path=path, headers=headers)
        assert re.fullmatch(rb":\nretry: \d+\n", await reader.chunk())
        assert await reader.chunk() == f"id: {second.id}\ndata: 2\n\n".encode()


async def test_the_header_wins_over_the_query(serve: Serve, connect: Connect) -> None:
    """An EventSource that reconnects repeats its URL, and has seen more since."""
    server = await serve()
    ids = [(await server.broadcaster.broadcast(str(number))).id for number in range(4)]
    for query in ("since=earliest", f"since={ids[0]}", f"last_event_id={ids[0]}", "since=last", "since=1h"):
        reader = await connect(server)
        await reader.subscribe(path=f"/events?{query}", headers=f"Last-Event-ID: {ids[1]}\r\n")
        assert [event.data for event in await reader.events(2)] == ["2", "3"]


@pytest.mark.parametrize(
    ("since", "opening", "seen"),
    [
        ("earliest", 0, ["a1", "b1", "a2", "live"]),
        ("1h", 0, ["a1", "b1", "a2", "live"]),
        ("last", 1, ["b1", "a2", "live"]),
        ("0s", 4, ["live"]),
        ("", 4, ["live"]),
    ],
)
async def test_words_and_ages_begin_where_they_say(
    serve: Serve, connect: Connect, since: str, opening: int, seen: list[str]
) -> None:
    """And the opening's id stands just before the first event that comes."""
    server = await serve()
    epoch = server.broadcaster.cursor.partition("-")[0]
    for data, channel in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c")):
        await server.broadcaster.broadcast(data, channels=[channel])
    reader = await connect(server)
    await reader.subscribe(path=f"/events/a,b?since={since}")
    given = OPENING.fullmatch(await reader.chunk())
    assert given
    assert given[2].decode() == f"{epoch}-{opening}"
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("live", channels=["a"])
    assert [event.data for event in await reader.events(len(seen))] == seen


@pytest.mark.parametrize("since", ["earliest", "last", "1h"])
async def test_words_and_ages_are_no_loss_where_there_is_nothing(
    serve: Serve, connect: Connect, since: str
) -> None:
    """A channel nobody ever published to, and one whose history is evicted already."""
    server = await serve(history_size=1)
    for number in range(5):
        await server.broadcaster.broadcast(str(number))
    for path, seen in ((f"/events/quiet?since={since}", []), (f"/events?since={since}", ["4"])):
        reader = await connect(server)
        await reader.subscribe(path=path)
        await server.broadcaster.broadcast("live", channels=["quiet", "other"])
        events = await reader.events(len(seen) + ("quiet" in path))
        assert [event.data for event in events] == [*seen, *(["live"] if "quiet" in path else [])]


async def test_a_reader_of_a_quiet_channel_comes_back_to_what_it_missed(
    serve: Serve, connect: Connect
) -> None:
    """The opening's id is enough, though no event ever came."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe(path="/events/quiet")
    given = OPENING.fullmatch(await reader.chunk())
    assert given
    reader.reset()
    await server.broadcaster.broadcast("elsewhere")
    await server.broadcaster.broadcast("missed", channels=["quiet"])
    again = await connect(server)
    await again.subscribe(path="/events/quiet", headers=f"Last-Event-ID: {given[2].decode()}\r\n")
    assert [event.data for event in await again.events(1)] == ["missed"]


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        (b"deadbeef-1", "epoch"),
        (b"nobody-knows", "unknown"),
        (b"earliest", "unknown"),
        (b"10m", "unknown"),
        (b"caf\xe9", "unknown"),
        (b"\xff\xfe", "unknown"),
        ("caf\u00e9".encode(), "unknown"),
        (b'"quoted"', "unknown"),
        (b"x" * 4000, "unknown"),
        (b"12345678-" + b"9" * 30, "unknown"),
    ],
)
async def test_an_id_that_is_not_ours_is_told_of(
    serve: Serve, connect: Connect, id: bytes, reason: str
) -> None:
    """One `$reset` with the position at which the reader joined, nothing replayed, and then live."""
    server = await serve()
    await server.broadcaster.broadcast("before")
    cursor = server.broadcaster.cursor
    reader = await connect(server)
    await reader.send(b"GET /events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: " + id + b"\r\n\r\n")
    assert (await reader.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.fullmatch(rb":\nretry: \d+\n", await reader.chunk())
    loss = f'{{"reason": "{reason}", "channels": ["default"], "missed": null}}'
    assert await reader.chunk() == f"id: {cursor}\nevent: $reset\ndata: {loss}\n\n".encode()
    receipt = await server.broadcaster.broadcast("after")
    assert await reader.chunk() == f"id: {receipt.id}\ndata: after\n\n".encode()


async def test_an_id_of_the_future_is_unknown(serve: Serve, connect: Connect) -> None:
    """A position that was never given, though the epoch is right."""
    server = await serve()
    epoch = server.broadcaster.cursor.partition("-")[0]
    for position in ("1", "9" * 19):
        reader = await connect(server)
        await reader.subscribe(headers=f"Last-Event-ID: {epoch}-{position}\r\n")
        (event,) = await reader.events(1)
        assert (event.type, json.loads(event.data)["reason"]) == ("$reset", "unknown")
        assert reader.last_event_id == f"{epoch}-0"


async def test_what_was_evicted_is_told_before_what_is_held(serve: Serve, connect: Connect) -> None:
    """One `$reset`, with the position just before the first event still held; a cut there resumes there."""
    server = await serve(history_size=2)
    epoch = server.broadcaster.cursor.partition("-")[0]
    for number in range(1, 6):
        await server.broadcaster.broadcast(str(number), channels=["a"])
    reader = await connect(server)
    await reader.subscribe(path="/events/a,b", headers=f"Last-Event-ID: {epoch}-1\r\n")
    await reader.chunk()
    loss = '{"reason": "evicted", "channels": ["a"], "missed": null}'
    assert await reader.chunk() == f"id: {epoch}-3\nevent: $reset\ndata: {loss}\n\n".encode()
    assert [event.data for event in await reader.events(2)] == ["4", "5"]
    again = await connect(server)
    await again.subscribe(path="/events/a,b", headers=f"Last-Event-ID: {epoch}-3\r\n")
    assert [event.data for event in await again.events(2)] == ["4", "5"]


async def test_a_cursor_far_behind_is_brought_up_by_a_heartbeat(serve: Serve, connect: Connect) -> None:
    """An id alone, and in NDJSON an event of the server's own."""
    server = await serve(heartbeat=0.05)
    readers = [await connect(server) for _ in range(3)]
    await readers[0].subscribe(path="/events/quiet")
    await readers[1].subscribe(path="/events/quiet", headers="Accept: application/x-ndjson\r\n")
    await readers[2].subscribe(path="/events/quiet?heartbeat=event")
    # At once, so that no heartbeat can say a position in the middle.
    await server.broadcaster.publish_all([server.broadcaster.draft(Event("x"))] * 100)
    here = f"id: {server.broadcaster.cursor}\n\n".encode()
    heartbeat = b":\n"
    await readers[0].chunk()
    while (data := await readers[0].chunk()) == heartbeat:
        pass
    assert data == here
    assert await readers[0].chunk() == heartbeat
    while (line := await readers[1].chunk()) == b"\n":
        pass
    said = json.loads(line)
    assert (said["channel"], said["event"], said["id"]) == (None, "$heartbeat", server.broadcaster.cursor)
    assert await readers[1].chunk() == b"\n"
    await readers[2].chunk()
    event = b"event: $heartbeat\ndata: {}\n\n"
    while (data := await readers[2].up_to(here.removesuffix(b"\n"))) == event:
        pass
    assert data.endswith(here.removesuffix(b"\n"))


# What is refused.


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/events/a%20b", "channel: must not contain ' ': 'a b'"),
        ("/events/a%2Fb", "channel: must not contain '/': 'a/b'"),
        ("/events/caf%C3%A9", "channel: must not contain '\\xe9': 'caf\\xe9'"),
        ("/events/a+b", "channel: must not contain '+': 'a+b'"),
        ("/events/a,b%0A", "channel: must not contain '\\n': 'b\\n'"),
        ("/events/%2E%2E", "channel: must not be '..', which clients take for a folder"),
        ("/events/..", "channel: must not be '..', which clients take for a folder"),
        ("/events/,", "channel: must be 1 to 128 characters: ''"),
        ("/events/a,,b", "channel: must be 1 to 128 characters: ''"),
        ("/events?channel=", "channel: must be 1 to 128 characters: ''"),
        ("/events?channel=a,b", "channel: must not contain ',': 'a,b'"),
        ("/events/" + "x" * 129, f"channel: must be 1 to 128 characters: '{'x' * 80}'"),
        ("/events/" + ",".join("abcd"), "channels: 4 are too many, 3 may be named"),
        ("/events/a,b?channel=c&channel=d", "channels: 4 are too many, 3 may be named"),
        ("/events/a*,b*?channel=c*", "channels: 3 patterns are too many, 2 may be named"),
        ("/events?sinse=1", "sinse: unknown parameter; since was meant?"),
        ("/events?channels=a", "channels: unknown parameter; channel was meant?"),
        ("/events?event=", "event: must not be empty"),
        ("/events?format=xml", "format: must be one of text, json, not 'xml'"),
        ("/events?heartbeat=1", "heartbeat: must be event, not '1'"),
        ("/events?since=1&last_event_id=1", "since and last_event_id: only one of them may be given"),
        ("/events/%ff", "path: is not UTF-8: '/events/%ff'"),
        ("/events?since=%c3%28", "query: is not UTF-8 in 'since'"),
        ("/events?channel=a%ed%a0%80", "query: is not UTF-8 in 'channel'"),
    ],
)
async def test_what_cannot_be_subscribed_to_is_refused(
    serve: Serve, connect: Connect, path: str, detail: str
) -> None:
    """400, naming the parameter, the value and the character; nobody is counted as a reader."""
    server = await serve(max_channels=3, max_patterns=2)
    client = await connect(server)
    body = json.dumps({"title": "Bad Request", "status": 400, "detail": detail}, separators=(",", ":"))
    assert await client.ask("GET", path) == (400, body.encode())
    assert server.broadcaster.counts.opened == 0


@pytest.mark.parametrize("path", ["/events/", "/events/a/b", "/events//a", "//events"])
async def test_a_path_that_names_no_channels_is_none_of_ours(
    serve: Serve, connect: Connect, path: str
) -> None:
    """404: an empty list is no list."""
    server = await serve()
    client = await connect(server)
    assert (await client.ask("GET", path))[0] == 404


async def test_a_name_of_every_character_is_one(serve: Serve, connect: Connect) -> None:
    """128 of them, as they are or percent-encoded."""
    name = "AZaz09._:@~-".ljust(128, "x")
    server = await serve()
    for path in (f"/events/{name}", "/events/" + "".join(f"%{ord(letter):02X}" for letter in name)):
        reader = await connect(server)
        assert HEAD.fullmatch(await reader.subscribe(path=path))
        await until(lambda: server.broadcaster.channel(name).subscribers == 1)
        reader.close()
        await until(lambda: server.broadcaster.client_count == 0)


# Methods, and every way a stream can end.


async def test_options_names_the_methods(serve: Serve, connect: Connect) -> None:
    """204 with Allow."""
    server = await serve()
    client = await connect(server)
    await client.send(b"OPTIONS /events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Allow: GET, HEAD, OPTIONS\r\n" in await client.head()


async def test_a_get_with_a_body_is_refused(serve: Serve, connect: Connect) -> None:
    """A body where none belongs is how requests are smuggled."""
    server = await serve()
    client = await connect(server)
    status, answer = await client.ask("GET", "/events", body=b"x")
    assert (status, answer) == (
        400,
        b'{"title":"Bad Request","status":400,"detail":"GET /events takes no body"}',
    )
    assert server.broadcaster.client_count == 0


async def test_what_is_pipelined_behind_a_stream_is_never_served(serve: Serve, connect: Connect) -> None:
    """The stream goes on undisturbed, and the connection ends with it, as its head said."""
    server = await serve()
    reader = await connect(server)
    await reader.send(
        b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    )
    await reader.head()
    await reader.chunk()
    await reader.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" * 100)
    await server.broadcaster.broadcast("y")
    assert [event.data for event in await reader.events(1)] == ["y"]
    await server.broadcaster.close(timeout=5)
    assert b"$close" in await reader.chunk()
    assert await reader.chunk() == b""
    assert server.broadcaster.counts.published == 1


async def test_rubbish_behind_a_stream_harms_nothing(serve: Serve, connect: Connect) -> None:
    """Bytes that are no request wait until the stream is over, and are thrown away."""
    server = await serve()
    reader = await connect(server)
    await reader.subscribe()
    await reader.send(b"\0\xff rubbish\r\n\r\n" * 10)
    await server.broadcaster.broadcast("y")
    assert [event.data for event in await reader.events(1)] == ["y"]


LEAVING: dict[str, Callable[[RawClient], None]] = {
    "FIN": RawClient.close,
    "RST": RawClient.reset,
    "half-close": RawClient.half_close,
}


@pytest.mark.parametrize("how", LEAVING)
async def test_a_reader_that_leaves_is_out_at_once(serve: Serve, connect: Connect, how: str) -> None:
    """By FIN, RST or half-close, without any event or heartbeat; its socket and tasks go too."""
    server = await serve(heartbeat=3600, write_timeout=3600)
    tasks = len(asyncio.all_tasks())
    reader = await connect(server)
    await reader.subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    LEAVING[how](reader)
    await until(lambda: server.broadcaster.client_count == 0)
    await until(lambda: server.connections == 0)
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert server.broadcaster.counts.closed == {"left": 1}


async def test_a_reader_that_leaves_before_its_head_is_written_leaves_nothing(serve: Serve) -> None:
    """A connection that is reset right behind its request is no error."""
    server = await serve()
    for _ in range(50):
        client = await RawClient.open(server.port)
        await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        client.reset()
    await until(lambda: server.connections == 0)
    assert server.broadcaster.client_count == 0


async def test_a_draining_server_turns_readers_away(serve: Serve, connect: Connect) -> None:
    """A browser is told when to come back, in the only way that does not stop it for good; others get 503."""
    server = await serve()
    browser, program = await connect(server), await connect(server)
    await browser.send(b"")
    await server.broadcaster.close(timeout=1)
    head = await browser.subscribe(headers="Accept: text/event-stream\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    wait = re.fullmatch(rb":\nretry: (\d+)\n", await browser.rest())
    assert wait
    assert 10_000 <= int(wait[1]) <= 30_000
    status, answer = await program.ask("GET", "/events", headers="Accept: */*\r\n")
    assert (status, answer) == (
        503,
        b'{"title":"Service Unavailable","status":503,"detail":"the server is shutting down"}',
    )
    publisher = await connect(server)
    assert (await publisher.ask("POST", "/send", body=b"x"))[0] == 503


class Mounted:
    """Our application inside somebody's, under aiohttp's default runner."""

    def __init__(self, runner: web.AppRunner, inner: web.Application) -> None:
        self.runner = runner
        self.broadcaster = inner[BROADCASTER]

    @property
    def port(self) -> int:
        return int(self.runner.addresses[0][1])

    @property
    def connections(self) -> int:
        assert self.runner.server is not None
        return len(self.runner.server.connections)


@pytest.fixture
async def mounted() -> Mounted:  # type: ignore[misc]
    inner = create_app(Config(heartbeat=0.1, shutdown_timeout=4, send_buffer=16_384))
    outer = web.Application()
    outer.add_subapp("/push/", inner)
    runner = web.AppRunner(outer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Mounted(runner, inner)
    await runner.cleanup()


async def open_mounted(mounted: Mounted) -> RawClient:
    client = await RawClient.open(mounted.port)
    await client.subscribe(path="/push/events")
    return client


async def test_a_mounted_application_serves(mounted: Mounted) -> None:
    """Streams, publishes, errors: under a prefix, with the runner's defaults."""
    reader, publisher = await open_mounted(mounted), await RawClient.open(mounted.port)
    assert (await publisher.ask("POST", "/push/send", body=b"x"))[0] == 200
    assert (await reader.events(1))[0].data == "x"
    assert (await publisher.ask("GET", "/push/nope"))[0] == 404
    await mounted.broadcaster.broadcast("from the program")
    assert (await reader.events(1))[0].data == "from the program"
    reader.close()
    publisher.close()


@pytest.mark.parametrize("how", LEAVING)
async def test_a_mounted_application_lets_go_of_who_left_with_the_next_heartbeat(
    mounted: Mounted, how: str
) -> None:
    """Though aiohttp by default tells no handler that its client is gone."""
    reader = await open_mounted(mounted)
    await until(lambda: mounted.broadcaster.client_count == 1)
    LEAVING[how](reader)
    await until(lambda: mounted.broadcaster.client_count == 0)
    await until(lambda: mounted.connections == 0)
    reader.close()


@pytest.mark.parametrize("how", LEAVING)
async def test_a_mounted_application_finds_no_fault_in_who_left_in_http_1_0(
    mounted: Mounted, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the end of a stream has no bytes, and so does not show that nobody is there to take it."""
    reader = await RawClient.open(mounted.port)
    await reader.subscribe(version="1.0", path="/push/events")
    await until(lambda: mounted.broadcaster.client_count == 1)
    LEAVING[how](reader)
    await until(lambda: mounted.connections == 0)
    await until(lambda: mounted.broadcaster.client_count == 0)
    reader.close()
    assert "Unhandled exception" not in caplog.text


async def test_a_mounted_application_ends_its_streams_when_the_runner_stops(mounted: Mounted) -> None:
    """With `$close`, like the server itself."""
    reader = await open_mounted(mounted)
    await reader.chunk()
    stopping = asyncio.ensure_future(mounted.runner.cleanup())
    assert b"$close" in await reader.chunk()
    assert await reader.chunk() == b""
    reader.close()
    await stopping


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
async def test_a_stream_that_is_over_leaves_no_cycle(
    serve: Serve, connect: Connect, leave: Callable[[RawClient], None]
) -> None:
    """What it was made of goes at once: the collector looks seldom."""
    server = await serve()
    reader = await connect(server)
    with uncollected():
        await reader.subscribe()
        await until(lambda: server.broadcaster.client_count == 1)
        leave(reader)
        reader.close()
        await until(lambda: server.connections == 0)
        await until(lambda: not held(Connection, Lane, Subscriber, TransportSink))


@pytest.mark.parametrize(
    "settings", [{"subscribe_rate": 1, "subscribe_burst": 1}, {"subscribed_channels": 1}]
)
async def test_a_stream_that_is_refused_leaves_no_cycle(
    serve: Serve, connect: Connect, settings: dict[str, int]
) -> None:
    """Though it is refused by what is raised."""
    server = await serve(**settings)
    first = await connect(server)
    await first.subscribe()
    with uncollected():
        reader = await connect(server)
        await reader.subscribe(path="/events/other")
        reader.close()
        await until(lambda: len(held(Connection)) == 1)


async def test_many_come_and_go_and_nothing_is_left(serve: Serve) -> None:
    """A thousand readers leaving in every way: the count is exact, no task or socket stays."""
    server: Server = await serve()
    tasks = len(asyncio.all_tasks())

    async def come_and_go(number: int) -> None:
        reader = await RawClient.open(server.port)
        await reader.subscribe()
        list(LEAVING.values())[number % 3](reader)
        await asyncio.sleep(0)
        reader.close()

    for start in range(0, 1000, 50):
        await asyncio.gather(*(come_and_go(number) for number in range(start, start + 50)))
        await server.broadcaster.broadcast("x")
    await until(lambda: server.connections == 0)
    await until(lambda: server.broadcaster.client_count == 0)
    counts = server.broadcaster.counts
    assert (counts.opened, counts.closed) == (1000, {"left": 1000})
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert not server.broadcaster._delivery._lanes
    gc.collect()
