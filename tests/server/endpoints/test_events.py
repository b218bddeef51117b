"""GET /events: the head, the first bytes, and every way a stream can end."""

import asyncio
import gc
import json
import re
import time
from collections.abc import AsyncIterator, Callable

import pytest

from sse_broadcast.backends.memory import channel_index, custom_ids, watermarks
from sse_broadcast.event import Event
from sse_broadcast.fanout.idle import FAR_BEHIND
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.fanout.subscriber import Heartbeat, Subscriber
from sse_broadcast.server.streams.sink import TransportSink
from sse_broadcast.server.transport.connection import Connection
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.server.blocks import close_block, opening, opening_after_loss
from tests.support import mounting
from tests.support.internals import outboxes_of
from tests.support.memory import held, uncollected
from tests.support.mounting import Mounted
from tests.support.sockets import LEAVING, RawClient, until
from tests.support.work import held_up

HEAD = re.compile(
    rb"HTTP/1\.1 200 OK\r\n"
    rb"Content-Type: text/event-stream; charset=utf-8\r\n"
    rb"Cache-Control: no-store, no-transform\r\n"
    rb"X-Accel-Buffering: no\r\n"
    rb"Server: sse-broadcast\r\n"
    rb"Transfer-Encoding: chunked\r\n"
    rb"Date: [^\r]+\r\n"
    rb"Connection: close\r\n\r\n"
)


NDJSON_HEAD = re.compile(HEAD.pattern.replace(b"text/event-stream; charset=utf-8", b"application/x-ndjson"))

OPENING = opening()

HEARTBEAT = r"event: \$heartbeat\ndata: {{}}\nid: {id}\n\n"

LINES = "Accept: application/x-ndjson\r\n"


@pytest.mark.both_loops
async def test_a_stream_sends_its_head_and_first_frames_at_once(serve: Serve) -> None:
    """The head forbids buffering and caching. A jittered `retry` comes before any event."""
    server, subscriber = await serve.connected(retry=2000)
    assert HEAD.fullmatch(await subscriber.subscribe())
    given = OPENING.fullmatch(await subscriber.chunk())
    assert given
    assert 1000 <= int(given[1]) <= 3000
    assert given[2].decode() == server.broadcaster.cursor


async def test_an_event_is_one_chunk_that_ends_with_its_id(server: LiveServer) -> None:
    subscriber = await server.live()
    receipt = await server.broadcaster.publish(Event("a\nb", "t", retry=700))
    frame = f"34\r\nevent: t\nretry: 700\ndata: a\ndata: b\nid: {receipt.id}\n\n\r\n".encode()
    assert await subscriber.take(len(frame)) == frame


@pytest.mark.both_loops
async def test_http_1_0_gets_frames_without_chunks(server: LiveServer, client: RawClient) -> None:
    """The end of the connection is the end of the stream, even if the client asks for keep-alive."""
    head = await client.subscribe(version="1.0", headers="Connection: keep-alive\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"keep-alive" not in head
    assert b"\r\nSSE-Broadcast-Request: HTTP/1.0\r\n" in head  # for who sees it behind a proxy
    assert OPENING.fullmatch(await client.up_to(b"\n\n"))
    receipt = await server.broadcaster.broadcast("x")
    assert await client.up_to(b"\n\n") == f"data: x\nid: {receipt.id}\n\n".encode()
    await server.broadcaster.close(timeout=5)
    assert close_block("drain", receipt.id).fullmatch(await client.rest())


@pytest.mark.both_loops
async def test_a_stream_ends_with_a_close_event_and_the_last_chunk(server: LiveServer) -> None:
    """`$close` has the reason, a `retry` and the last id."""
    subscriber = await server.live()
    receipt = await server.broadcaster.broadcast("last words")
    await server.broadcaster.close(timeout=5)
    assert await subscriber.chunk() == f"data: last words\nid: {receipt.id}\n\n".encode()
    assert close_block("drain", receipt.id).fullmatch(await subscriber.chunk())
    assert await subscriber.chunk() == b""
    assert await subscriber.rest() == b""
    await until(lambda: server.connections == 0)


@pytest.mark.both_loops
async def test_a_silent_stream_gets_heartbeats(serve: Serve) -> None:
    """A heartbeat is a comment, which no client takes for an event."""
    _, subscriber = await serve.connected(heartbeat=0.05)
    await subscriber.subscribe()
    await subscriber.chunk()
    assert [await subscriber.chunk() for _ in range(3)] == [b": \n"] * 3


async def test_head_returns_the_headers_of_get(server: LiveServer, client: RawClient) -> None:
    await client.send(b"HEAD /events HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/event-stream; charset=utf-8\r\n" in head
    assert b"Cache-Control: no-store, no-transform\r\n" in head
    assert b"X-Accel-Buffering: no\r\n" in head
    assert (await client.ask("GET", "/status"))[0] == 200
    assert server.broadcaster.counts.opened == 0


# Formats.

ENVELOPE = re.compile(
    rb'\{"channel":("[^"]+"|null),"id":("[^"]+"|null),"event":"[^"]+","data":.*,"time":\d+\.\d{1,3}\}'
)


def without_time(envelope: bytes) -> str:
    """Return an envelope without its last member, `time`."""
    assert ENVELOPE.fullmatch(envelope), envelope
    return envelope.decode().rpartition(',"time":')[0] + "}"


async def test_json_format_wraps_the_data_in_an_envelope(server: LiveServer, client: RawClient) -> None:
    """The envelope has channel, id, event and time. The rest of the frame is as in text format."""
    assert HEAD.fullmatch(await client.subscribe(path="/events/a,b?format=json"))
    assert OPENING.fullmatch(await client.chunk())
    before = time.time()
    receipt = await server.broadcaster.publish(Event("x\r\ny", "t", retry=900), ["b"])
    head, _, rest = (await client.chunk()).partition(b"data: ")
    data, _, last = rest.partition(b"\n")
    assert (head, last) == (b"event: t\nretry: 900\n", f"id: {receipt.id}\n\n".encode())
    assert without_time(data) == f'{{"channel":"b","id":"{receipt.id}","event":"t","data":"x\\r\\ny"}}'
    assert before - 1 <= json.loads(data)["time"] <= time.time() + 1


async def test_json_data_stays_json_in_an_envelope(server: LiveServer) -> None:
    """Text stays text, even if it looks like JSON."""
    subscriber, publisher = await server.subscriber("/events?format=json"), await server.connect()
    for body in (b'"data": {"b" : [1.50, null]}', b'"data": "[1]"', b'"message": "{}"', b'"data": null'):
        await publisher.ask("POST", "/send", body=b"{%b}" % body, headers=JSON)
    found = [
        event.data.partition('"data":')[2].rpartition(',"time":')[0] for event in await subscriber.events(4)
    ]
    assert found == ['{"b":[1.50,null]}', '"[1]"', '"{}"', "null"]


def open_line(cursor: str) -> str:
    """Return the envelope that opens a stream, without its time."""
    return f'{{"channel":null,"id":"{cursor}","event":"$open","data":{{"heartbeat": 4}}}}'


async def test_ndjson_is_one_envelope_per_line(server: LiveServer, client: RawClient) -> None:
    """The first is the opening, whose channel is null."""
    await server.broadcaster.broadcast("before")
    assert NDJSON_HEAD.fullmatch(await client.subscribe(headers=LINES))
    assert without_time((await client.chunk())[:-1]) == open_line(server.broadcaster.cursor)
    receipt = await server.broadcaster.broadcast("a\r\nb", event="t")
    line = await client.chunk()
    assert line.endswith(b"}\n")
    assert without_time(line[:-1]) == (
        f'{{"channel":"default","id":"{receipt.id}","event":"t","data":"a\\r\\nb"}}'
    )


async def test_ndjson_system_events_have_a_null_channel(server: LiveServer) -> None:
    """A `$reset` comes first, in one chunk with the opening."""
    subscriber = await server.subscriber("/events?last_event_id=nobody-knows", headers=LINES)
    cursor = server.broadcaster.cursor
    loss, start = (await subscriber.chunk()).splitlines()
    assert without_time(loss) == (
        f'{{"channel":null,"id":"{cursor}","event":"$reset",'
        '"data":{"reason": "unknown", "channels": ["default"], "missed": null}}'
    )
    assert without_time(start) == open_line(cursor)
    await server.broadcaster.close(timeout=5)
    assert without_time((await subscriber.chunk())[:-1]) == (
        f'{{"channel":null,"id":"{cursor}","event":"$close","data":{{"reason": "drain"}}}}'
    )
    assert await subscriber.chunk() == b""


async def test_json_system_events_have_no_envelope(server: LiveServer) -> None:
    """Their data is JSON already."""
    subscriber = await server.subscriber("/events?last_event_id=nobody-knows&format=json")
    loss = '{"reason": "unknown", "channels": ["default"], "missed": null}'
    assert opening_after_loss(loss, server.broadcaster.cursor).fullmatch(await subscriber.chunk())


@pytest.mark.parametrize(
    ("path", "headers", "first", "frame"),
    [
        ("/events/a", "", OPENING.pattern, rb"data: x\nid: mine\n\n"),
        (
            "/events/a?format=json",
            "",
            OPENING.pattern,
            rb'data: {"channel":"a","id":"mine","event":"message","data":"x","time":[\d.]+}\nid: mine\n\n',
        ),
        (
            "/events/a",
            LINES,
            rb'{"channel":null,"id":"\S+-0","event":"\$open","data":{"heartbeat": 4},"time":[\d.]+}\n',
            rb'{"channel":"a","id":"mine","event":"message","data":"x","time":[\d.]+}\n',
        ),
    ],
    ids=["text", "json", "ndjson"],
)
async def test_http_1_0_has_no_chunks_in_any_format(
    server: LiveServer, client: RawClient, path: str, headers: str, first: bytes, frame: bytes
) -> None:
    assert b"Transfer-Encoding" not in await client.subscribe(version="1.0", path=path, headers=headers)
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.publish(Event("x", id="mine"), ["a"])
    await server.broadcaster.close(timeout=5)
    cursor = server.broadcaster.cursor
    end = close_block("drain", cursor).pattern
    if headers:
        end = rb'{"channel":null,"id":"%b","event":"\$close","data":{"reason": "drain"},"time":[\d.]+}\n'
        end = end % cursor.encode()
    assert re.fullmatch(first + frame + end, await client.rest())


@pytest.mark.parametrize(
    ("path", "headers", "heartbeat"),
    [
        ("/events", "", r": \n"),
        ("/events?format=json", "", r": \n"),
        ("/events", LINES, r"\n"),
        ("/events?heartbeat=event", "", HEARTBEAT),
        ("/events?heartbeat=event&format=json", "", HEARTBEAT),
        (
            "/events?heartbeat=event",
            LINES,
            r'{{"channel":null,"id":"{id}","event":"\$heartbeat","data":{{}},"time":[\d.]+}}\n',
        ),
    ],
)
async def test_each_format_has_its_heartbeat(serve: Serve, path: str, headers: str, heartbeat: str) -> None:
    """It is a comment, an empty line, or an event with the cursor for pages that must notice silence."""
    server = await serve(heartbeat=0.05)
    await server.broadcaster.broadcast("before")
    subscriber = await server.live(path, headers=headers)
    pattern = heartbeat.format(id=server.broadcaster.cursor).encode()
    for _ in range(3):
        assert re.fullmatch(pattern, await subscriber.chunk())


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("", "4"), ("?heartbeat=event", "4"), ("?heartbeat=3", "3"), ("?heartbeat=60,event", "60")],
)
async def test_the_opening_has_the_heartbeat_interval(server: LiveServer, asked: str, seconds: str) -> None:
    """It is in seconds: the configured interval, or the one that the subscriber asked for."""
    subscriber = await server.subscriber(f"/events{asked}")
    assert opening(heartbeat=seconds).fullmatch(await subscriber.chunk())


@pytest.mark.parametrize(
    ("asked", "heartbeat"),
    [
        ("", Heartbeat(7.5)),
        ("?heartbeat=event", Heartbeat(7.5, as_event=True)),
        ("?heartbeat=3", Heartbeat(3)),
        ("?heartbeat=event,60", Heartbeat(60, as_event=True)),
    ],
)
async def test_a_subscriber_has_the_heartbeat_that_it_asked_for(
    serve: Serve, asked: str, heartbeat: Heartbeat
) -> None:
    """Without a request it gets comments at the configured interval."""
    server = await serve(heartbeat=7.5)
    await (await server.connect()).subscribe(path=f"/events{asked}")
    (outbox,) = outboxes_of(server.broadcaster)
    assert outbox.subscriber.options.heartbeat == heartbeat


@pytest.mark.parametrize(
    ("path", "headers", "content_type"),
    [
        ("/events/a,b", "", b"text/event-stream; charset=utf-8"),
        ("/events?format=json", "", b"text/event-stream; charset=utf-8"),
        ("/events/a", LINES, b"application/x-ndjson"),
    ],
)
async def test_head_returns_the_content_type_of_each_format(
    server: LiveServer, client: RawClient, path: str, headers: str, content_type: bytes
) -> None:
    await client.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: " + content_type + b"\r\n" in head
    assert server.broadcaster.counts.opened == 0


@pytest.mark.parametrize("path", ["/events/a%20b", "/events?sinse=1", "/events?format=xml", "/events/%ff"])
async def test_head_refuses_the_requests_that_get_refuses(client: RawClient, path: str) -> None:
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
        ("/events?stream=a", ["a", "ab", "ax"]),
        ("/events?topic=b&topic=a", ["a", "b", "ab", "ax"]),
        ("/events/b?stream=orders.*&channel=a&topic=default", ["d", "a", "b", "o1", "ab", "o2", "ax"]),
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
async def test_a_subscriber_gets_the_events_of_its_channels_only(
    server: LiveServer, path: str, seen: list[str]
) -> None:
    """Each event comes once, in the common order of all channels, live and replayed alike."""
    live = await server.subscriber(path)
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
    late = await server.subscriber(path + ("&" if "?" in path else "?") + "since=earliest")
    await until(lambda: server.broadcaster.client_count == 2)
    await server.broadcaster.close(timeout=5)
    for subscriber in (live, late):
        events = await subscriber.events(len(seen) + 1)
        assert [event.data for event in events] == [*seen, '{"reason": "drain"}']


@pytest.mark.parametrize(
    ("path", "channels"),
    [
        ("/events/a", ["a"]),
        ("/events/a,b", ["b", "a"]),
        ("/events/c,a", ["a", "c"]),
        ("/events/c", ["c"]),
        ("/events/*", ["b", "a", "c"]),
        ("/events/a*", ["a"]),
        ("/events/c,a*", ["a", "c"]),
    ],
)
@pytest.mark.parametrize("headers", ["", LINES], ids=["json", "ndjson"])
async def test_the_envelope_names_the_matching_channels_of_the_publisher(
    server: LiveServer, path: str, channels: list[str], headers: str
) -> None:
    """The first, and all where there are several. The order is the publisher's, not the subscriber's."""
    live, late = await server.connect(), await server.connect()
    await live.subscribe(path=f"{path}?format=json", headers=headers)
    await server.broadcaster.publish(Event("x"), ["b", "a", "c"])
    await late.subscribe(path=f"{path}?format=json&since=earliest", headers=headers)
    for subscriber in (live, late):
        await subscriber.chunk()
        said = await subscriber.chunk()
        envelope = said if headers else said.removeprefix(b"data: ").partition(b"\n")[0]
        named = json.loads(envelope)
        assert named["channel"] == channels[0]
        assert named.get("channels") == (channels if len(channels) > 1 else None)


async def test_system_events_pass_every_type_filter(server: LiveServer) -> None:
    subscriber = await server.subscriber("/events?event=x&last_event_id=nobody-knows")
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("not wanted")
    await server.broadcaster.close(timeout=5)
    assert [event.type for event in await subscriber.events(1)] == ["$reset"]
    assert [event.type for event in await subscriber.events(1)] == ["$close"]


# Cursors.


async def test_the_opening_repeats_the_last_event_id(server: LiveServer) -> None:
    """Delivery begins with the event after it."""
    first = await server.broadcaster.broadcast("1")
    second = await server.broadcaster.broadcast("2")
    for path, headers in (
        ("/events", f"Last-Event-ID: {first.id}\r\n"),
        (f"/events?since={first.id}", ""),
        (f"/events?last_event_id={first.id}", ""),
        ("/events?since=earliest&last_event_id=&event=message", f"Last-Event-ID: {first.id}\r\n"),
    ):
        subscriber = await server.subscriber(path, headers=headers)
        assert opening(id=first.id).fullmatch(await subscriber.chunk())
        assert await subscriber.chunk() == f"data: 2\nid: {second.id}\n\n".encode()


async def test_the_opening_replaces_a_publishers_id_by_a_server_id(server: LiveServer) -> None:
    """A later event with the same publisher's id cannot move that position."""
    await server.broadcaster.publish(Event("1", id="mine"))
    position = server.broadcaster.cursor
    await server.broadcaster.publish(Event("2", id="theirs"))
    subscriber = await server.subscriber("/events?since=mine")
    assert opening(id=position).fullmatch(await subscriber.chunk())
    assert await subscriber.chunk() == b"data: 2\nid: theirs\n\n"


async def test_the_last_event_id_header_takes_precedence_over_the_query(server: LiveServer) -> None:
    """An EventSource that reconnects repeats its URL, so the header is newer."""
    ids = [(await server.broadcaster.broadcast(str(number))).id for number in range(4)]
    for query in ("since=earliest", f"since={ids[0]}", f"last_event_id={ids[0]}", "since=last", "since=1h"):
        subscriber = await server.subscriber(f"/events?{query}", headers=f"Last-Event-ID: {ids[1]}\r\n")
        assert [event.data for event in await subscriber.events(2)] == ["2", "3"]


@pytest.mark.parametrize(
    ("since", "first", "seen"),
    [
        ("earliest", 0, ["a1", "b1", "a2", "live"]),
        ("1h", 0, ["a1", "b1", "a2", "live"]),
        ("last", 1, ["b1", "a2", "live"]),
        ("0s", 4, ["live"]),
        ("", 4, ["live"]),
    ],
)
async def test_since_takes_keywords_and_ages(
    server: LiveServer, since: str, first: int, seen: list[str]
) -> None:
    """The opening's id stands just before the first event that follows."""
    epoch = server.broadcaster.cursor.partition("-")[0]
    for data, channel in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c")):
        await server.broadcaster.broadcast(data, channels=[channel])
    subscriber = await server.subscriber(f"/events/a,b?since={since}")
    given = OPENING.fullmatch(await subscriber.chunk())
    assert given
    assert given[2].decode() == f"{epoch}-{first}"
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("live", channels=["a"])
    assert [event.data for event in await subscriber.events(len(seen))] == seen


HELD = ["13", "14", "23", "24", "33", "34", "43", "44"]


@pytest.mark.parametrize(
    ("since", "seen"), [("earliest", HELD), ("1h", HELD), ("last", HELD[4:]), ("id", HELD[2:])]
)
async def test_a_start_is_searched_for_in_slices(
    serve: Serve, monkeypatch: Patch, since: str, seen: list[str]
) -> None:
    """Events published meanwhile are delivered once and in order. A client that leaves ends the search."""
    for module in (channel_index, custom_ids, watermarks):
        monkeypatch.setattr(module, "SEARCH_SLICE", 1)
    monkeypatch.setattr(channel_index, "RECENT_CHANNELS", 0)
    monkeypatch.setattr(watermarks, "MAX_RECENT_EVICTIONS", 1)
    server = await serve(history_size=3)
    for number in range(50):
        await server.broadcaster.broadcast(f"{number}", channels=[f"c{number % 20}"])
    for _ in range(10):
        await server.broadcaster.broadcast("x", channels=["busy"])
    epoch = server.broadcaster.cursor.partition("-")[0]
    path = f"/events/*x,c*3,c*4?since={f'{epoch}-20' if since == 'id' else since}"
    leaving, subscriber = await server.connect(), await server.connect()
    with held_up(monkeypatch):
        await leaving.request("GET", path)
        await until(lambda: len(server.broadcaster.work) == 1)
        leaving.reset()
        await until(lambda: len(server.broadcaster.work) == 0)
        await subscriber.request("GET", path)
        await until(lambda: len(server.broadcaster.work) == 1)
        for channel in ("c3", "c19", "new.x", "c4"):
            await server.broadcaster.broadcast(f"live {channel}", channels=[channel])
    assert b" 200 " in (await subscriber.head()).partition(b"\r\n")[0]
    await until(lambda: server.broadcaster.client_count == 1)
    await server.broadcaster.broadcast("last", channels=["c13"])
    expected = [*seen, "live c3", "live new.x", "live c4", "last"]
    assert [event.data for event in await subscriber.events(len(expected))] == expected


@pytest.mark.parametrize("since", ["earliest", "last", "1h"])
async def test_keywords_and_ages_are_no_loss_without_history(serve: Serve, since: str) -> None:
    """This holds for a channel never used, and for one whose history is evicted."""
    server = await serve(history_size=1)
    for number in range(5):
        await server.broadcaster.broadcast(str(number))
    for path, seen in ((f"/events/quiet?since={since}", []), (f"/events?since={since}", ["4"])):
        subscriber = await server.subscriber(path)
        await server.broadcaster.broadcast("live", channels=["quiet", "other"])
        events = await subscriber.events(len(seen) + ("quiet" in path))
        assert [event.data for event in events] == [*seen, *(["live"] if "quiet" in path else [])]


async def test_a_client_of_a_quiet_channel_resumes_from_the_opening(server: LiveServer) -> None:
    subscriber = await server.subscriber("/events/quiet")
    given = OPENING.fullmatch(await subscriber.chunk())
    assert given
    subscriber.reset()
    await server.broadcaster.broadcast("elsewhere")
    await server.broadcaster.broadcast("missed", channels=["quiet"])
    again = await server.connect()
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
async def test_an_unknown_id_gets_a_reset(
    server: LiveServer, client: RawClient, id: bytes, reason: str
) -> None:
    """One `$reset` comes before the opening, with the newest position. Later events are live."""
    await server.broadcaster.broadcast("before")
    cursor = server.broadcaster.cursor
    await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: " + id + b"\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    loss = f'{{"reason": "{reason}", "channels": ["default"], "missed": null}}'
    assert opening_after_loss(loss, cursor).fullmatch(await client.chunk())
    receipt = await server.broadcaster.broadcast("after")
    assert await client.chunk() == f"data: after\nid: {receipt.id}\n\n".encode()


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ("Last-Event-ID: {0}\r\nLast-Event-ID: {1}\r\n", ["2", "3"]),
        ("Last-Event-ID: {0}, {1}\r\n", ["2", "3"]),
        ("Last-Event-ID: {0},{1} , \r\nlast-event-id: \r\n", ["2", "3"]),
        ("Last-Event-ID: {1}\r\nLast-Event-ID: {0}\r\n", ["1", "2", "3"]),
        ("Last-Event-ID: nobody-knows\r\nLAST-EVENT-ID: {2}\r\n", ["3"]),
    ],
)
async def test_the_last_of_several_last_event_ids_counts(
    server: LiveServer, headers: str, seen: list[str]
) -> None:
    """They come in several headers, or joined by a proxy with commas."""
    ids = [(await server.broadcaster.broadcast(str(number))).id for number in range(4)]
    subscriber = await server.subscriber(headers=headers.format(*ids))
    assert [event.data for event in await subscriber.events(len(seen))] == seen


@pytest.mark.parametrize(
    "name",
    [
        "last_event_id",
        "lastEventId",
        "lastEventID",
        "last-event-id",
        "Last-Event-ID",
        "LAST_EVENT_ID",
        "lasteventid",
        "evs_last_event_id",
    ],
)
async def test_the_last_event_id_has_several_parameter_names(server: LiveServer, name: str) -> None:
    """These are the names that real clients send. `since` gives way to each."""
    ids = [(await server.broadcaster.broadcast(str(number))).id for number in range(3)]
    for query in (f"{name}={ids[1]}", f"since=earliest&{name}={ids[1]}", f"{name}=&{name}={ids[1]}"):
        subscriber = await server.subscriber(f"/events?{query}")
        assert opening(id=ids[1]).fullmatch(await subscriber.chunk())
        assert await subscriber.chunk() == f"data: 2\nid: {ids[2]}\n\n".encode()


async def test_an_id_of_the_future_is_unknown(server: LiveServer) -> None:
    """The epoch is right, but no event has had that position."""
    epoch = server.broadcaster.cursor.partition("-")[0]
    for position in ("1", "9" * 19):
        subscriber = await server.subscriber(headers=f"Last-Event-ID: {epoch}-{position}\r\n")
        (event,) = await subscriber.events(1)
        assert (event.type, json.loads(event.data)["reason"]) == ("$reset", "unknown")
        assert subscriber.last_event_id == f"{epoch}-0"


async def test_a_reset_for_evicted_events_comes_before_the_replay(serve: Serve) -> None:
    """Its id is just before the oldest event held. A client cut off there resumes there."""
    server = await serve(history_size=2)
    epoch = server.broadcaster.cursor.partition("-")[0]
    for number in range(1, 6):
        await server.broadcaster.broadcast(str(number), channels=["a"])
    subscriber = await server.subscriber("/events/a,b", headers=f"Last-Event-ID: {epoch}-1\r\n")
    loss = '{"reason": "evicted", "channels": ["a"], "missed": null}'
    assert opening_after_loss(loss, f"{epoch}-3").fullmatch(await subscriber.chunk())
    assert [event.data for event in await subscriber.events(2)] == ["4", "5"]
    again = await server.subscriber("/events/a,b", headers=f"Last-Event-ID: {epoch}-3\r\n")
    assert [event.data for event in await again.events(2)] == ["4", "5"]


async def test_a_heartbeat_updates_a_cursor_far_behind(serve: Serve) -> None:
    """It is one event with the newest id. A nearer cursor gets the usual comment."""
    server = await serve(heartbeat=0.05)
    text, lines, events = [await server.connect() for _ in range(3)]
    await text.subscribe(path="/events/quiet")
    await lines.subscribe(path="/events/quiet", headers=LINES)
    await events.subscribe(path="/events/quiet?heartbeat=event")
    for subscriber in (text, lines, events):
        await subscriber.chunk()
    draft = server.broadcaster.draft(Event("x"))
    await server.broadcaster.publish_all([draft] * (FAR_BEHIND - 1))
    assert [await text.chunk() for _ in range(3)] == [b": \n"] * 3
    await server.broadcaster.publish_all([draft])
    cursor = server.broadcaster.cursor
    assert await behind(text, b": \n") == f"event: $heartbeat\ndata: {{}}\nid: {cursor}\n\n".encode()
    assert [await text.chunk() for _ in range(3)] == [b": \n"] * 3
    line = await behind(lines, b"\n")
    assert without_time(line[:-1]) == f'{{"channel":null,"id":"{cursor}","event":"$heartbeat","data":{{}}}}'
    assert await lines.chunk() == b"\n"
    while (block := await events.chunk()) != f"event: $heartbeat\ndata: {{}}\nid: {cursor}\n\n".encode():
        assert re.fullmatch(rb"event: \$heartbeat\ndata: {}\nid: \S+\n\n", block)


async def behind(subscriber: RawClient, heartbeat: bytes) -> bytes:
    """Return the first chunk that differs from this heartbeat."""
    while (data := await subscriber.chunk()) == heartbeat:
        pass
    return data


async def test_a_heartbeat_updates_a_cursor_about_to_be_evicted(serve: Serve) -> None:
    """The events in between are filtered out for this subscriber. It reconnects without a loss."""
    server, subscriber = await serve.connected(heartbeat=0.05, history_size=2)
    await subscriber.subscribe(path="/events/a?event=wanted")
    await subscriber.chunk()
    draft = server.broadcaster.draft(Event("x"), ["a"])
    await server.broadcaster.publish_all([draft] * 3)
    cursor = server.broadcaster.cursor
    assert await behind(subscriber, b": \n") == f"event: $heartbeat\ndata: {{}}\nid: {cursor}\n\n".encode()
    again = await server.subscriber("/events/a?event=wanted", headers=f"Last-Event-ID: {cursor}\r\n")
    assert opening(heartbeat="0.05", id=cursor).fullmatch(await again.chunk())


# Refusals.

HEARTBEATS = "event, whole seconds from 3 to 60, or both as in event,4"

NO_SINCES = ("yesterday", "10min", "now", "-1", "1.5h", "10M", "10 m", "LAST", "0", "2026-01-01")

NO_SINCE = (
    "neither an age (500ms, 30s, 10m, 2h, 7d), nor earliest or last, nor the id of an event that is held"
)


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/events/a%20b", "channel: must not contain ' ': 'a b'"),
        ("/events/a%2Fb", "channel: must not contain '/': 'a/b'"),
        ("/events/a,b%0A", "channel: must not contain '\\n': 'b\\n'"),
        ("/events/%2E%2E", "channel: must not be '..', which clients resolve as a folder in a path"),
        ("/events/a,,b", "channel: must be 1 to 128 characters: ''"),
        ("/events/" + "x" * 129, f"channel: must be 1 to 128 characters: '{'x' * 80}'"),
        ("/events/" + ",".join("abcd"), "channels: 4 given, at most 3 allowed"),
        ("/events/a*,b*?channel=c*", "channels: 3 patterns given, at most 2 allowed"),
        ("/events?sinse=1", "sinse: unknown parameter; did you mean since?"),
        ("/events?heartbeat=1", f"heartbeat: must be {HEARTBEATS}, not '1'"),
        *[(f"/events?since={since}", f"since: '{since}' is {NO_SINCE}") for since in NO_SINCES],
        (f"/events?since={'x' * 1000}", f"since: '{'x' * 80}' is {NO_SINCE}"),
        ("/events/%ff", "path: is not UTF-8: '/events/%ff'"),
        ("/events?since=%c3%28", "query: is not UTF-8 in 'since'"),
        ("/events?channel=a%ed%a0%80", "query: is not UTF-8 in 'channel'"),
    ],
)
async def test_an_invalid_subscription_is_refused(serve: Serve, path: str, detail: str) -> None:
    """The 400 names the parameter, the value and the character. Nobody is counted as a subscriber."""
    server, client = await serve.connected(max_channels=3, max_patterns=2)
    path = path.replace(" ", "%20")
    body = json.dumps({"title": "Bad Request", "status": 400, "detail": detail}, separators=(",", ":"))
    assert await client.ask("GET", path) == (400, body.encode() + b"\n")
    assert server.broadcaster.counts.opened == 0


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/events?since=yesterday", b""),
        ("GET", "/events?format=xml", b""),
        ("GET", "/events/a%20b", b""),
        ("HEAD", "/events?since=yesterday", b""),
        ("POST", "/events", b'{"since": "yesterday"}'),
        ("POST", "/events", b'{"format": "xml"}'),
        ("POST", "/events", b"[]"),
    ],
)
async def test_a_connection_stays_open_after_a_refused_subscription(
    client: RawClient, method: str, path: str, body: bytes
) -> None:
    """The response does not announce a close, whatever the reason of the refusal."""
    headers = "Content-Type: application/json\r\n" if body else ""
    await client.request(method, path, body=body, headers=headers)
    head = await client.head()
    assert b"\r\nConnection: close\r\n" not in head
    size = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
    await client.take(int(size[1]) if size and method != "HEAD" else 0)
    async with asyncio.timeout(5):
        assert (await client.ask("GET", "/status"))[0] == 200


@pytest.mark.parametrize("path", ["/events/", "/events/a/b", "/events//a", "//events"])
async def test_a_path_without_channels_is_not_found(client: RawClient, path: str) -> None:
    assert (await client.ask("GET", path))[0] == 404


async def test_every_allowed_character_may_be_in_a_channel_name(serve: Serve) -> None:
    name = "AZaz09._:@~-".ljust(128, "x")
    server = await serve()
    for path in (f"/events/{name}", "/events/" + "".join(f"%{ord(letter):02X}" for letter in name)):
        subscriber = await server.connect()
        assert HEAD.fullmatch(await subscriber.subscribe(path=path))
        await until(lambda: server.broadcaster.channel(name).subscribers == 1)
        subscriber.close()
        await until(lambda: server.broadcaster.client_count == 0)


# Methods, and the ends of streams.


async def test_options_names_the_methods(client: RawClient) -> None:
    await client.send(b"OPTIONS /events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Allow: GET, HEAD, POST, OPTIONS\r\n" in await client.head()


CHUNKED = "Transfer-Encoding: chunked\r\n"

NO_BODY = b'{"title":"Bad Request","status":400,"detail":"GET /events takes no body"}\n'


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: 1\r\n", b"x"),
        ("Content-Length: 1\r\n", b""),
        (CHUNKED, b"1\r\nx\r\n0\r\n\r\n"),
        (CHUNKED, b"1\r\nx\r\n"),
    ],
    ids=["with a length", "with a length alone", "in chunks", "in chunks without an end"],
)
async def test_a_get_with_a_body_is_refused(
    server: LiveServer, client: RawClient, headers: str, body: bytes
) -> None:
    """It is refused at its first byte: unexpected bodies are used for request smuggling."""
    await client.send(f"GET /events HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert await client.take(len(NO_BODY)) == NO_BODY
    assert server.broadcaster.counts.opened == 0


@pytest.mark.parametrize("headers", [CHUNKED, "Content-Length: 0\r\n"])
async def test_a_get_with_an_empty_body_is_served(
    server: LiveServer, client: RawClient, headers: str
) -> None:
    """Some proxies send an empty chunked body where the client sent none."""
    await client.send(f"GET /events HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    if headers is CHUNKED:
        await client.send(b"0\r\n\r\n")
    assert HEAD.fullmatch(await client.head())
    assert OPENING.fullmatch(await client.chunk())
    receipt = await server.broadcaster.broadcast("x")
    assert await client.chunk() == f"data: x\nid: {receipt.id}\n\n".encode()


@pytest.mark.both_loops
async def test_a_get_whose_body_does_not_arrive_is_refused(serve: Serve) -> None:
    """Neither a byte nor the end of the body has arrived within `body_timeout`."""
    server, client = await serve.connected(body_timeout=0.05)
    await client.send(f"GET /events HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n".encode())
    assert await client.refusal() == (408, "body: did not arrive within 0.05 s")
    assert server.broadcaster.counts.opened == 0


@pytest.mark.both_loops
async def test_a_request_pipelined_after_a_stream_is_not_served(
    server: LiveServer, client: RawClient
) -> None:
    """The stream is undisturbed, and the connection ends with it as its head announced."""
    await client.send(
        b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    )
    await client.head()
    await client.chunk()
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" * 100)
    await server.broadcaster.broadcast("y")
    assert [event.data for event in await client.events(1)] == ["y"]
    await server.broadcaster.close(timeout=5)
    assert b"$close" in await client.chunk()
    assert await client.chunk() == b""
    assert server.broadcaster.counts.published == 1


@pytest.mark.both_loops
async def test_invalid_bytes_after_a_stream_request_are_discarded(server: LiveServer) -> None:
    """They wait until the stream has ended."""
    subscriber = await server.subscriber()
    await subscriber.send(b"\0\xff rubbish\r\n\r\n" * 10)
    await server.broadcaster.broadcast("y")
    assert [event.data for event in await subscriber.events(1)] == ["y"]


@pytest.mark.both_loops
@pytest.mark.parametrize("how", LEAVING)
async def test_a_subscriber_that_disconnects_is_removed_at_once(serve: Serve, how: str) -> None:
    """FIN, RST and half-close are noticed without an event or heartbeat.

    Its socket and tasks are gone too.
    """
    server = await serve(heartbeat=3600, write_timeout=3600)
    tasks = len(asyncio.all_tasks())
    subscriber = await server.subscriber()
    await until(lambda: server.broadcaster.client_count == 1)
    LEAVING[how](subscriber)
    await until(lambda: server.broadcaster.client_count == 0)
    await until(lambda: server.connections == 0)
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert server.broadcaster.counts.closed == {"left": 1}


@pytest.mark.both_loops
async def test_a_subscriber_that_disconnects_before_its_head_leaves_nothing(server: LiveServer) -> None:
    """A connection reset right after its request is not an error."""
    for _ in range(50):
        client = await RawClient.open(server.port)
        await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        client.reset()
    await until(lambda: server.connections == 0)
    assert server.broadcaster.client_count == 0


@pytest.mark.both_loops
async def test_a_draining_server_refuses_subscribers(server: LiveServer) -> None:
    """A browser gets a stream with `$close` and `retry`, since other statuses stop EventSource.

    Others get 503.
    """
    browser, program = await server.connect(), await server.connect()
    await browser.send(b"")
    await server.broadcaster.close(timeout=1)
    head = await browser.subscribe(headers="Accept: text/event-stream\r\n")
    refused = close_block("drain", None).fullmatch(await browser.rest())
    assert refused
    assert 10_000 <= int(refused[1]) <= 30_000
    seconds = -(-int(refused[1]) // 1000)
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
    assert f"\r\nCache-Control: no-store\r\nRetry-After: {seconds}\r\n".encode() in head
    assert b"\r\nConnection: close\r\n" in head
    for accept in ("*/*", "application/x-ndjson", "application/json"):
        program = await server.connect()
        assert await program.ask("GET", "/events", headers=f"Accept: {accept}\r\n") == (
            503,
            b'{"title":"Service Unavailable","status":503,"detail":"the server is shutting down"}\n',
        )
    publisher = await server.connect()
    assert (await publisher.ask("POST", "/send", body=b"x"))[0] == 503


EVENT_STREAM = "Accept: text/event-stream\r\n"


@pytest.mark.parametrize(
    ("path", "headers", "id"),
    [
        ("/events", "Last-Event-ID: 0123abcd-7\r\n", "0123abcd-7"),
        ("/events?lastEventId=order-7", "", "order-7"),
        ("/events?last_event_id=old", "Last-Event-ID: first\r\nLast-Event-ID: new\r\n", "new"),
        ("/events/a?last_event_id=" + "x" * 128, "", "x" * 128),
        ("/events", f"Last-Event-ID: {'x' * 129}\r\n", None),
        ("/events", "Last-Event-ID: caf\u00e9\r\n", None),
        ("/events", "Last-Event-ID: a b\r\n", None),
        ("/events?last_event_id=a%0Adata:%20b", "", None),
        ("/events?last_event_id=", "Last-Event-ID: \r\n", None),
        ("/events?since=0123abcd-7", "", None),
    ],
)
async def test_a_refusal_repeats_the_last_event_id(
    server: LiveServer, client: RawClient, path: str, headers: str, id: str | None
) -> None:
    """It is unchanged if it is well-formed. Without a well-formed id the refusal has none."""
    await server.broadcaster.close(timeout=1)
    await client.subscribe(path=path, headers=EVENT_STREAM + headers)
    assert close_block("drain", id).fullmatch(await client.rest())


async def test_the_close_event_has_the_position_of_its_subscriber(server: LiveServer) -> None:
    """With the newest position, a client cut off before its replay would lose events."""
    quiet, busy = await server.subscriber("/events/quiet"), await server.connect()
    await busy.subscribe(path="/events/a,b")
    start = server.broadcaster.cursor
    for subscriber in (quiet, busy):
        await subscriber.chunk()
    seen = await server.broadcaster.broadcast("x", channels=["a"])
    await server.broadcaster.broadcast("elsewhere")
    await server.broadcaster.close(timeout=5)
    assert close_block("drain", start).fullmatch(await quiet.chunk())
    assert (await busy.chunk()).startswith(b"data: x\n")
    assert close_block("drain", seen.id).fullmatch(await busy.chunk())


# POST /events.

JSON = "Content-Type: application/json\r\n"


async def test_post_subscribes_as_get_does(server: LiveServer, client: RawClient) -> None:
    """Head and opening are the same, and the connection ends with the stream."""
    for number in range(3):
        await server.broadcaster.broadcast(str(number), channels=["a"])
    cursor = server.broadcaster.cursor
    await client.request("POST", "/events", body=b'{"channel": "a"}', headers=JSON)
    assert HEAD.fullmatch(await client.head())
    assert opening(id=cursor).fullmatch(await client.chunk())
    receipt = await server.broadcaster.broadcast("x", channels=["a"])
    assert await client.chunk() == f"data: x\nid: {receipt.id}\n\n".encode()
    await server.broadcaster.close(timeout=5)
    assert close_block("drain", receipt.id).fullmatch(await client.chunk())
    assert await client.chunk() == b""
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({}, "/events"),
        ({"channel": "a"}, "/events/a"),
        ({"channels": ["b", "a"]}, "/events/b,a"),
        ({"channel": ["b", "a"]}, "/events/b,a"),
        ({"channel": 7}, "/events/7"),
        ({"channel": "b", "channels": ["a"], "stream": "c", "topic": ["d"]}, "/events/a,b,c,d"),
        ({"channels": ["orders.*"]}, "/events/orders.*"),
        ({"channel": "a", "event": ["x", "y"]}, "/events/a?event=x&event=y"),
        ({"channel": "a", "since": "earliest"}, "/events/a?since=earliest"),
        ({"channel": "a", "last_event_id": "order-1"}, "/events/a?last_event_id=order-1"),
        ({"channel": "a", "lastEventId": "order-1", "since": "last"}, "/events/a?lastEventId=order-1"),
        ({"channel": "a", "format": "json", "since": "1h"}, "/events/a?format=json&since=1h"),
    ],
)
async def test_each_member_of_a_body_equals_a_query_parameter(
    server: LiveServer, members: dict[str, object], path: str
) -> None:
    """Two subscribers, one by each way, get the same bytes."""
    for number, channel in enumerate(("a", "b", "c", "d", "7", "orders.1", "default"), 1):
        await server.broadcaster.publish(Event(channel, id=f"order-{number}"), [channel])
    posting, getting = await server.connect(), await server.connect()
    await posting.request("POST", "/events", body=json.dumps(members).encode(), headers=JSON)
    assert await posting.head() == await getting.subscribe(path=path)
    await until(lambda: server.broadcaster.client_count == 2)
    for kind in ("x", "z"):
        await server.broadcaster.publish(
            Event("live", kind), ["a", "b", "c", "d", "7", "orders.1", "default"]
        )
    await server.broadcaster.close(timeout=5)
    retry = re.compile(rb"retry: \d+")
    assert retry.sub(b"", await posting.rest()) == retry.sub(b"", await getting.rest())


@pytest.mark.parametrize(("heartbeat", "seconds"), [(5, "5"), ("5", "5"), ("event", "4"), ("event,6", "6")])
async def test_a_body_may_ask_for_a_heartbeat(client: RawClient, heartbeat: object, seconds: str) -> None:
    body = json.dumps({"heartbeat": heartbeat}).encode()
    await client.request("POST", "/events", body=body, headers=JSON)
    await client.head()
    assert opening(heartbeat=seconds).fullmatch(await client.chunk())


async def test_accept_and_last_event_id_apply_to_post(server: LiveServer, client: RawClient) -> None:
    """The header takes precedence: a client that reconnects sends the same body again."""
    ids = [(await server.broadcaster.broadcast(str(number))).id for number in range(3)]
    body = json.dumps({"last_event_id": ids[0]}).encode()
    headers = f"{JSON}{LINES}Last-Event-ID: {ids[1]}\r\n"
    await client.request("POST", "/events", body=body, headers=headers)
    assert NDJSON_HEAD.fullmatch(await client.head())
    assert without_time((await client.chunk())[:-1]) == open_line(ids[1])
    assert json.loads(await client.chunk())["id"] == ids[2]


async def test_a_body_may_name_more_channels_than_a_url(server: LiveServer) -> None:
    """It may have `max_channels` names of full length. One byte more is a 413."""
    names = [f"{number:03}".ljust(128, "x") for number in range(100)]
    body = json.dumps({"channels": names}, separators=(",", ":")).encode()
    most = 16_384 + (128 + 4) * 100
    subscriber = await server.connect()
    await subscriber.request("POST", "/events", body=body.ljust(most), headers=JSON)
    assert HEAD.fullmatch(await subscriber.head())
    await until(lambda: server.broadcaster.channel(names[-1]).subscribers == 1)
    too_long = await server.connect()
    found = await too_long.refused("POST", "/events", body=body.ljust(most + 1), headers=JSON)
    assert found == (413, f"body: more than {most} bytes")


MEMBERS = "channel, event, format, heartbeat, last_event_id, since"

OTHER_TYPE = "Content-Type: must be application/json to subscribe with POST /events; POST /send publishes"

SURROGATE = "body: has a lone surrogate, which no event can carry"

OTHER_CHARSET = "Content-Type: charset 'utf-16' is not supported; use utf-8, iso-8859-1 or us-ascii"


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "detail"),
    [
        ("/events", "", b"x", 415, OTHER_TYPE),
        ("/events", "Content-Type: text/plain\r\n", b'{"channel":"a"}', 415, OTHER_TYPE),
        ("/events", "Content-Type: application/x-www-form-urlencoded\r\n", b"channel=a", 415, OTHER_TYPE),
        ("/events", "Content-Type: application/x-ndjson\r\n", b'{"channel":"a"}', 415, OTHER_TYPE),
        ("/events", "Content-Type: application/json; charset=utf-16\r\n", b"{}", 415, OTHER_CHARSET),
        (
            "/events",
            f"{JSON}Content-Encoding: gzip\r\n",
            b"{}",
            415,
            "Content-Encoding: 'gzip' is not supported; send the body uncompressed",
        ),
        (
            "/events?x=1",
            JSON,
            b"{}",
            400,
            "query: POST /events takes no query parameters; send them as members of the JSON body",
        ),
        ("/events", JSON, b'{"channel":"\xff"}', 400, "body: is not UTF-8 at byte 12"),
        ("/events", JSON, b"[]", 422, f"body: must be a JSON object with some of {MEMBERS}"),
        ("/events", JSON, b'{"chanel":"a"}', 422, "chanel: unknown member; did you mean channel?"),
        ("/events", JSON, b'{"channel":null}', 422, "channel: must be text or a list of text"),
        ("/events", JSON, b'{"since":"1h","since":null}', 422, "since: must be text or a list of text"),
        ("/events", JSON, b'{"event":"\\ud800"}', 422, SURROGATE),
        ("/events", JSON, b'{"channel":"a b"}', 400, "channel: must not contain ' ': 'a b'"),
        ("/events", JSON, b'{"channels":["a","b","c","d"]}', 400, "channels: 4 given, at most 3 allowed"),
        ("/events", JSON, b'{"format":["json","json"]}', 400, "format: is given 2 times"),
        ("/events", JSON, b'{"heartbeat":2}', 400, f"heartbeat: must be {HEARTBEATS}, not '2'"),
        ("/events", JSON, b'{"since":"10min"}', 400, f"since: '10min' is {NO_SINCE}"),
    ],
)
async def test_an_invalid_subscription_body_is_refused(
    serve: Serve, path: str, headers: str, body: bytes, status: int, detail: str
) -> None:
    """The error names the fault, and no subscriber is counted."""
    server, client = await serve.connected(max_channels=3)
    assert await client.refused("POST", path, body=body, headers=headers) == (status, detail)
    assert server.broadcaster.counts.opened == 0


@pytest.mark.parametrize("body", [b'{"channels": []}', b'{"channel": []}', b'{"event": []}'])
async def test_an_empty_list_in_a_body_is_refused(client: RawClient, body: bytes) -> None:
    """It is most likely a mistake of the client, and must not mean `default` or every type."""
    await client.request("POST", "/events", body=body, headers=JSON)
    assert (await client.head()).startswith(b"HTTP/1.1 4")


async def test_a_body_that_is_nested_too_deeply_is_refused(client: RawClient) -> None:
    """The nesting is deeper than a parser allows, within the maximum length of a body."""
    body = b'{"channel":%b}' % (b"[" * 12_000 + b"]" * 12_000)
    found = await client.refused("POST", "/events", body=body, headers=JSON)
    assert found == (422, "body: is nested more than 64 deep")


async def test_a_number_too_large_for_a_float_is_refused(client: RawClient) -> None:
    status, answer = await client.ask("POST", "/events", body=b'{"heartbeat":1e400}', headers=JSON)
    assert (status, json.loads(answer)["detail"][:11]) == (422, "body: has a")


async def test_a_subscription_body_is_decoded_by_its_charset(server: LiveServer, client: RawClient) -> None:
    headers = "Content-Type: application/json; charset=ISO-8859-1\r\n"
    await client.request("POST", "/events", body=b'{"event":"\xe9t\xe9"}', headers=headers)
    assert HEAD.fullmatch(await client.head())
    await client.chunk()
    await server.broadcaster.broadcast("other")
    receipt = await server.broadcaster.broadcast("x", event="\u00e9t\u00e9")
    assert await client.chunk() == f"event: \u00e9t\u00e9\ndata: x\nid: {receipt.id}\n\n".encode()


@pytest.mark.both_loops
async def test_a_subscription_body_that_stalls_gets_408(serve: Serve) -> None:
    _, client = await serve.connected(body_timeout=0.05)
    await client.send(f"POST /events HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 10\r\n\r\n{{".encode())
    assert await client.refusal() == (408, "body: did not arrive within 0.05 s")


async def test_a_refusal_of_a_post_repeats_the_id_of_its_body(server: LiveServer) -> None:
    posting, both = await server.connect(), await server.connect()
    await server.broadcaster.close(timeout=1)
    body = b'{"lastEventId":"order-7"}'
    await posting.request("POST", "/events", body=body, headers=JSON + EVENT_STREAM)
    assert (await posting.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert close_block("drain", "order-7").fullmatch(await posting.rest())
    await both.request("POST", "/events", body=body, headers=f"{JSON}{EVENT_STREAM}Last-Event-ID: new\r\n")
    await both.head()
    assert close_block("drain", "new").fullmatch(await both.rest())


@pytest.fixture
async def mounted() -> AsyncIterator[Mounted]:
    async with mounting.mounted(heartbeat=0.1, shutdown_timeout=4, send_buffer=16_384) as mounted:
        yield mounted


@pytest.mark.both_loops
async def test_a_mounted_application_streams_and_publishes(mounted: Mounted) -> None:
    """It runs under a prefix, with the runner's defaults."""
    subscriber, publisher = await mounted.subscriber("/push/events"), await mounted.connect()
    assert (await publisher.ask("POST", "/push/send", body=b"x"))[0] == 200
    assert (await subscriber.events(1))[0].data == "x"
    assert (await publisher.ask("GET", "/push/nope"))[0] == 404
    await mounted.broadcaster.broadcast("from the program")
    assert (await subscriber.events(1))[0].data == "from the program"


@pytest.mark.both_loops
@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_mounted_application_removes_lost_subscribers_at_the_next_heartbeat(
    mounted: Mounted, caplog: Caplog, how: str, version: str
) -> None:
    """By default aiohttp does not cancel a handler whose client has disconnected: the heartbeat finds it."""
    subscriber = await mounted.subscriber("/push/events", version=version)
    await until(lambda: mounted.broadcaster.client_count == 1)
    LEAVING[how](subscriber)
    await until(lambda: mounted.broadcaster.client_count == len(mounted.server.connections) == 0)
    assert "Unhandled exception" not in caplog.text


@pytest.mark.both_loops
async def test_a_mounted_application_ends_its_streams_when_the_runner_stops(mounted: Mounted) -> None:
    subscriber = await mounted.live("/push/events")
    stopping = asyncio.ensure_future(mounted.runner.cleanup())
    assert b"$close" in await subscriber.chunk()
    assert await subscriber.chunk() == b""
    subscriber.close()
    await stopping


@pytest.mark.both_loops
@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
async def test_an_ended_stream_leaves_no_reference_cycle(
    server: LiveServer, client: RawClient, leave: Callable[[RawClient], None]
) -> None:
    """The garbage collector runs too rarely to free streams."""
    with uncollected():
        await client.subscribe()
        await until(lambda: server.broadcaster.client_count == 1)
        leave(client)
        client.close()
        await until(lambda: server.connections == 0)
        await until(lambda: not held(Connection, Outbox, Subscriber, TransportSink))


@pytest.mark.both_loops
@pytest.mark.parametrize("headers", ["", EVENT_STREAM], ids=["as a problem", "as a stream"])
@pytest.mark.parametrize(
    "settings", [{"subscribe_rate": 1, "subscribe_burst": 1}, {"subscribed_channels": 1}]
)
async def test_a_refused_stream_leaves_no_reference_cycle(
    serve: Serve, settings: dict[str, int], headers: str
) -> None:
    server, first = await serve.connected(**settings)
    await first.subscribe()
    with uncollected():
        subscriber = await server.subscriber("/events/other", headers=headers)
        subscriber.close()
        await until(lambda: len(held(Connection)) == 1)


@pytest.mark.both_loops
async def test_a_thousand_subscribers_leave_nothing_behind(serve: Serve) -> None:
    """They leave in every way. The count is exact, and no task or socket remains."""
    server: LiveServer = await serve()
    tasks = len(asyncio.all_tasks())

    async def come_and_go(number: int) -> None:
        subscriber = await RawClient.open(server.port)
        await subscriber.subscribe()
        list(LEAVING.values())[number % 3](subscriber)
        await asyncio.sleep(0)
        subscriber.close()

    for start in range(0, 1000, 50):
        await asyncio.gather(*(come_and_go(number) for number in range(start, start + 50)))
        await server.broadcaster.broadcast("x")
    await until(lambda: server.connections == 0)
    await until(lambda: server.broadcaster.client_count == 0)
    counts = server.broadcaster.counts
    assert (counts.opened, counts.closed) == (1000, {"left": 1000})
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert not outboxes_of(server.broadcaster)
    gc.collect()
