"""Resuming over real sockets: long replays with live traffic, every kind of loss, and cuts at every byte."""

import json
import re
import resource
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.config.schema import Overflow
from sse_broadcast.event import Event
from sse_broadcast.fanout.idle import FAR_BEHIND
from sse_broadcast.fanout.subscriber import Subscriber
from sse_broadcast.publication import Draft
from sse_broadcast.server.runner import Server
from sse_broadcast.wire import Decoder
from tests.conftest import Connect, Serve
from tests.support.internals import hub_of, web_server_of
from tests.support.readers import Chunks
from tests.support.sockets import CURSOR_TYPES, RawClient, until

MANY = 100_000
BATCH = 1000
EACH = 10
"""Events that the slow subscriber reads while one more is published."""

UNBOUNDED = {"history_size": 1_000_000, "history_bytes": 1 << 30, "history_total": 1 << 30}
SMALL_BUFFERS = {"send_buffer": 4096}
BIG = "x" * 4000


async def publish(server: Server, *data: str, channel: str = "default", **fields: Any) -> str:
    """Publish events as one batch, and return the id of the last one."""
    drafts = [Draft((channel,), Event(each, **fields)) for each in data]
    return (await server.broadcaster.publish_all(drafts)).id


def position_of(id: str) -> int:
    return int(id.partition("-")[2])


def seen(events: Sequence[Event]) -> list[Event]:
    """Return the events except those that only move the cursor."""
    return [event for event in events if event.type not in CURSOR_TYPES]


def decoded(body: bytes) -> tuple[list[Event], str]:
    """Return the events of a body without moves of the cursor, and the id to resume from."""
    decoder = Decoder()
    return seen(decoder.feed(body)), decoder.last_event_id


def reasons(events: Sequence[Event]) -> list[str]:
    return [json.loads(event.data)["reason"] for event in events if event.type == "$reset"]


def the_subscriber(server: Server) -> Subscriber:
    (subscriber,) = hub_of(server.broadcaster)
    return subscriber


class Body:
    """The body of a stream without its chunk framing, as far as it was read."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.data = b""
        self.events: list[Event] = []
        self.decoder = Decoder()
        self._chunks = Chunks()

    async def more(self) -> None:
        """Read the available bytes."""
        piece = await self.client.take(max(len(self.client.buffer), 1))
        data = self._chunks.feed(piece)
        self.data += data
        self.events += seen(self.decoder.feed(data))

    async def until_id(self, id: str) -> bytes:
        """Read until the cursor is this id, and return all that was read."""
        while self.decoder.last_event_id != id:
            await self.more()
        return self.data


async def subscribe(server: Server, connect: Connect, path: str, *, id: str = "", **options: Any) -> Body:
    client = await connect(server, **options)
    head = await client.subscribe(path=path, headers=f"Last-Event-ID: {id}\r\n" if id else "")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return Body(client)


# A long replay with live traffic.


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def numbered(first: int, count: int) -> list[str]:
    return [f"{number} {'x' * 40}" for number in range(first, first + count)]


def unsent(server: Server) -> int:
    """Return the bytes that wait for the kernel, for the only connection."""
    (connection,) = web_server_of(server).connections
    assert connection.transport is not None
    return connection.transport.get_write_buffer_size()


async def test_a_long_replay_with_live_traffic_uses_limited_memory(serve: Serve, connect: Connect) -> None:
    """A slow subscriber gets 100,000 old events and all new ones in order, and nothing is buffered."""
    server = await serve(**UNBOUNDED, **SMALL_BUFFERS, queue_size=100)
    for first in range(0, MANY, BATCH):
        await publish(server, *numbered(first, BATCH))
    body = await subscribe(server, connect, "/events?since=earliest", receive_buffer=4096)
    await until(lambda: server.broadcaster.client_count == 1)
    subscriber, before, most = the_subscriber(server), resident(), 0
    published, expected = MANY, 0
    while expected < published:
        await body.more()
        for event in body.events:
            assert event.data.partition(" ")[0] == str(expected)
            expected += 1
            if expected % EACH == 0 and expected <= MANY:
                await publish(server, *numbered(published, 1))
                published += 1
        body.events.clear()
        body.data = b""
        assert len(subscriber) <= 100
        most = max(most, unsent(server))
    assert published == MANY + MANY // EACH
    # Besides its event the history keeps the encoded frame, and it has ten thousand events more.
    assert resident() - before < MANY * 1000
    assert most <= 65_536 + 1024
    assert the_subscriber(server) is subscriber
    assert server.broadcaster.counts.resets == {}
    last = await publish(server, "live")
    await body.until_id(last)
    assert [event.data for event in body.events] == ["live"]


# Every kind of loss, cut at every byte.


async def evicted(server: Server, connect: Connect) -> tuple[bytes, str]:
    first = await publish(server, "seen")
    last = await publish(server, *(f"event {number}" for number in range(8)))
    body = await subscribe(server, connect, "/events", id=first)
    return await body.until_id(last), first


async def with_an_odd_id(server: Server, connect: Connect, id: str) -> tuple[bytes, str]:
    await publish(server, "before")
    body = await subscribe(server, connect, "/events", id=id)
    while not body.events:
        await body.more()
    return await body.until_id(await publish(server, "after", "and after")), id


async def of_another_epoch(server: Server, connect: Connect) -> tuple[bytes, str]:
    return await with_an_odd_id(server, connect, "00000000-1")


async def never_ours(server: Server, connect: Connect) -> tuple[bytes, str]:
    return await with_an_odd_id(server, connect, "somebody-elses")


async def fill(server: Server, **fields: Any) -> Subscriber:
    """Publish until the only subscriber's socket is full and its own queue in use, and return it."""
    await until(lambda: server.broadcaster.client_count == 1)
    subscriber = the_subscriber(server)
    while not len(subscriber):
        await publish(server, BIG, **fields)
        await until(lambda: not any(group.log for group in hub_of(server.broadcaster).groups))
    return subscriber


async def slow(server: Server, connect: Connect) -> tuple[bytes, str]:
    begin = server.broadcaster.cursor
    body = await subscribe(server, connect, "/events", receive_buffer=4096)
    await fill(server)
    last = await publish(server, *(f"event {number}" for number in range(10)))
    await body.until_id(last)
    return await body.until_id(await publish(server, "after", "and after")), begin


Lose = Callable[[Server, Connect], Awaitable[tuple[bytes, str]]]

LOSSES: dict[str, tuple[Lose, dict[str, Any]]] = {
    "evicted": (evicted, {"history_size": 4}),
    "epoch": (of_another_epoch, {}),
    "unknown": (never_ours, {}),
    "drop-oldest": (slow, {"overflow": Overflow.DROP_OLDEST, "queue_size": 3, **SMALL_BUFFERS}),
    "drop-newest": (slow, {"overflow": Overflow.DROP_NEWEST, "queue_size": 3, **SMALL_BUFFERS}),
}


@pytest.mark.parametrize("way", LOSSES)
async def test_a_loss_is_reported_once_wherever_the_stream_is_cut(
    serve: Serve, connect: Connect, way: str
) -> None:
    """There is one `$reset`, then all later events.

    A cut at any byte after it brings no second one and no gap, and so does a cut before `$open`, which
    the `$reset` precedes.
    """
    lose, settings = LOSSES[way]
    server = await serve(**settings)
    body, begin = await lose(server, connect)
    events, _ = decoded(body)
    reason = "slow" if way.startswith("drop") else way
    assert reasons(events) == [reason]
    require_nothing_missing(server, events, begin)
    start = max(body.index(b"event: $reset") - 40, 1)
    cuts = [decoded(body[:place]) for place in range(start, len(body) + 1)]
    resumed = [await subscribe(server, connect, "/events", id=last or begin) for _, last in cuts]
    await until(lambda: server.broadcaster.client_count == len(cuts) + 1)
    final = await publish(server, "final")
    for (before, _), behind in zip(cuts, resumed, strict=True):
        await behind.until_id(final)
        everything = before + behind.events
        # Events dropped for a slow subscriber are in the history: cut before its `$reset`, it lost nothing.
        reported = [reason] if reason != "slow" or reasons(before) else []
        assert reasons(everything) == reported, everything
        require_nothing_missing(server, everything, begin)


def require_nothing_missing(server: Server, events: Sequence[Event], begin: str) -> None:
    """Assert that each event is the next one, except after a `$reset`, whose id is its predecessor."""
    at = position_of(begin) if begin.startswith(server.broadcaster.cursor[:9]) else 0
    for event in events:
        assert event.id is not None
        place = position_of(event.id)
        if event.type == "$reset":
            missed = json.loads(event.data)["missed"]
            assert missed is None or place == at + missed, events
        else:
            assert place == at + 1, events
        at = place
    assert events[-1].id == server.broadcaster.cursor


async def test_a_reset_for_an_eviction_precedes_the_kept_events(serve: Serve, connect: Connect) -> None:
    """Its id is the position before the first kept event. Whole bytes are compared."""
    server = await serve(history_size=2)
    first = await publish(server, "1")
    last = await publish(server, "2", "3", "4", "5")
    epoch = first.partition("-")[0]
    body = await subscribe(server, connect, "/events", id=first)
    data = await body.until_id(last)
    preamble = re.match(rb": \nretry: [0-9]+\n", data)
    assert preamble is not None
    assert data[preamble.end() :].decode() == (
        'event: $reset\ndata: {"reason": "evicted", "channels": ["default"], "missed": null}\n'
        f"id: {epoch}-3\n\n"
        f'event: $open\ndata: {{"heartbeat": 4}}\nid: {epoch}-3\n\n'
        f"data: 4\nid: {epoch}-4\n\ndata: 5\nid: {epoch}-5\n\n"
    )


async def test_a_reset_and_the_open_event_are_one_write(server: Server, connect: Connect) -> None:
    """A client with the cursor has the `$reset` too."""
    cursor = await publish(server, "1")
    client = await connect(server)
    await client.subscribe(headers="Last-Event-ID: 00000000-1\r\n")
    preamble, reset, opening, rest = re.split(rb"(?=event: \$)|(?<=\n\n)$", await client.chunk())
    assert re.fullmatch(rb": \nretry: [0-9]+\n", preamble)
    assert reset.decode() == (
        'event: $reset\ndata: {"reason": "epoch", "channels": ["default"], "missed": null}\n'
        f"id: {cursor}\n\n"
    )
    assert opening.decode() == f'event: $open\ndata: {{"heartbeat": 4}}\nid: {cursor}\n\n'
    assert rest == b""


# Without a loss.


@pytest.mark.parametrize("overflow", [Overflow.DISCONNECT, Overflow.CONFLATE])
async def test_disconnecting_on_overflow_loses_nothing_in_the_history(
    serve: Serve, connect: Connect, overflow: Overflow
) -> None:
    """A slow subscriber resumes with its last id.

    Conflation disconnects one too, since events without a key replace nothing.
    """
    server = await serve(overflow=overflow, queue_size=3, history_size=10_000, **SMALL_BUFFERS)
    begin = server.broadcaster.cursor
    client = await connect(server, receive_buffer=4096)
    await client.subscribe()
    await fill(server)
    newest = await publish(server, *(f"event {number}" for number in range(10)))
    assert server.broadcaster.counts.closed == {"slow": 1}
    events, last = decoded(Chunks().feed(await client.rest()))
    before = [event for event in events if event.type != "$close"]
    assert [json.loads(event.data) for event in events if event.type == "$close"] == [{"reason": "slow"}]
    assert (events[-1].type, events[-1].id) == ("$close", before[-1].id)
    resumed = await subscribe(server, connect, "/events", id=last)
    await resumed.until_id(newest)
    require_nothing_missing(server, before + resumed.events, begin)
    assert server.broadcaster.counts.resets == {}


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset])
async def test_a_subscriber_of_an_unused_channel_misses_nothing(
    server: Server, connect: Connect, leave: Any
) -> None:
    """Cut before its first event, it resumes with the id of its first frames."""
    await publish(server, "elsewhere")
    body = await subscribe(server, connect, "/events/quiet")
    given = server.broadcaster.cursor
    await body.until_id(given)
    leave(body.client)
    await until(lambda: server.broadcaster.client_count == 0)
    first = await publish(server, "meanwhile", channel="quiet")
    await publish(server, "elsewhere")
    resumed = await subscribe(server, connect, "/events/quiet", id=given)
    last = await publish(server, "live", channel="quiet")
    await resumed.until_id(last)
    assert [(event.data, event.id) for event in resumed.events] == [("meanwhile", first), ("live", last)]


async def test_conflation_keeps_the_newest_of_each_key(serve: Serve, connect: Connect) -> None:
    """A slow subscriber gets them in their order, without a `$reset`."""
    server = await serve(overflow=Overflow.CONFLATE, queue_size=4, **SMALL_BUFFERS)
    body = await subscribe(server, connect, "/events", receive_buffer=4096)
    subscriber = await fill(server, key="filling")
    newest = ""
    for number in range(50):
        for key in ("b", "c", "a") if number else ("a", "b", "c"):
            newest = await publish(server, f"{key}{number}", key=key)
            assert len(subscriber) <= 4
    await body.until_id(newest)
    small = [event.data for event in body.events if event.data != BIG]
    assert small == ["b49", "c49", "a49"]
    places = [position_of(event.id or "") for event in body.events]
    assert places == sorted(set(places))
    assert server.broadcaster.client_count == 1
    assert server.broadcaster.counts.resets == {}


@pytest.mark.parametrize(("path", "count"), [("/events?event=rare", 50), ("/events/quiet,q*", FAR_BEHIND)])
async def test_heartbeats_advance_the_cursor_of_an_idle_subscriber(
    serve: Serve, connect: Connect, path: str, count: int
) -> None:
    """Its id stays in the history while no event matches: cut, it resumes without a `$reset`.

    The cursor advances when its channels have lost events, or when it is far behind.
    """
    server = await serve(history_size=20, heartbeat=0.1)
    body = await subscribe(server, connect, path)
    await until(lambda: server.broadcaster.client_count == 1)
    given = server.broadcaster.cursor
    passed = await publish(server, *numbered(0, count))
    data = await body.until_id(passed)
    assert body.events == []
    assert data.endswith(f"event: $heartbeat\ndata: {{}}\nid: {passed}\n\n".encode())
    body.client.reset()
    await until(lambda: server.broadcaster.client_count == 0)
    await publish(server, *numbered(count, 19))
    wanted = await publish(server, "wanted", channel="default" if "rare" in path else "quiet", type="rare")
    resumed = await subscribe(server, connect, path, id=passed)
    await resumed.until_id(wanted)
    assert [(event.data, event.id) for event in resumed.events] == [("wanted", wanted)]
    far_behind = await subscribe(server, connect, "/events?event=rare", id=given)
    while not far_behind.events:
        await far_behind.more()
    assert reasons(far_behind.events[:1]) == ["evicted"]
