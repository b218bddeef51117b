"""Stream registry: the open streams, their data, their log lines, and their removal."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sse_broadcast.config.schema import ListenerRule, Overflow
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.http.responses import Caller, SubscriberState
from sse_broadcast.server.runner import Server
from sse_broadcast.server.streams import registry as registry_module
from sse_broadcast.server.streams.registry import (
    STREAM_REGISTRY,
    SortKey,
    StreamEntry,
    StreamRegistry,
    StreamState,
)
from sse_broadcast.unix_address import UNIX_PREFIX
from tests.conftest import Caplog, LiveServer, Patch, Serve
from tests.support.asking import ask, bearer
from tests.support.credentials import OWN_SECRET, STATIC, caller, own, static
from tests.support.internals import set_clock, tracked_streams_of
from tests.support.memory_sinks import break_off
from tests.support.sockets import RawClient, until

MESSAGE = "x" * 4000
SMALL = {"send_buffer": 16_384, "heartbeat": 3600.0}
"""Settings with which sockets are soon full and streams stay open."""


def registry_of(server: LiveServer) -> StreamRegistry:
    return server.app[STREAM_REGISTRY]


def entry_of(server: LiveServer, id: int = 1) -> StreamEntry:
    entry = registry_of(server).find(str(id))
    assert entry is not None
    return entry


async def join(server: LiveServer, client: RawClient, path: str = "/events", **options: Any) -> StreamEntry:
    """Open a stream, and return its entry in the registry."""
    before = len(registry_of(server))
    await client.subscribe(path=path, **options)
    await until(lambda: len(registry_of(server)) > before)
    return entry_of(server, max(entry.id for entry in registry_of(server)))


async def freeze(server: LiveServer, **options: Any) -> RawClient:
    """Open a stream that is never read, and publish until its socket is full."""
    frozen = await server.connect(receive_buffer=4096)
    before = len(registry_of(server))
    await frozen.request("GET", "/events", **options)
    await until(lambda: len(registry_of(server)) > before)
    entry = entry_of(server, max(entry.id for entry in registry_of(server)))
    while not entry.outbox.blocked:
        await server.broadcaster.broadcast(MESSAGE)
        await asyncio.sleep(0)
    return frozen


@asynccontextmanager
async def held(*entries: StreamEntry) -> AsyncIterator[None]:
    """Keep sinks full for a while."""
    for entry in entries:
        entry.outbox.blocked = True
        entry.outbox.leave_to_own_queue()
    yield
    for entry in entries:
        entry.outbox.on_drained()


# Removal.


async def fin(_: Server, client: RawClient) -> None:
    client.close()


async def rst(_: Server, client: RawClient) -> None:
    client.reset()


async def half(_: Server, client: RawClient) -> None:
    client.half_close()


async def drained(server: LiveServer, client: RawClient) -> None:
    await server.broadcaster.close(timeout=5)
    assert b'"reason": "drain"' in await client.rest()


async def disconnected(server: LiveServer, client: RawClient) -> None:
    entry = entry_of(server)
    server.broadcaster.end(entry.outbox, CloseReason.DISCONNECTED)
    assert b'"reason": "disconnected"' in await client.rest()


async def aborted(server: LiveServer, client: RawClient) -> None:
    entry_of(server).outbox.sink.abort()
    with pytest.raises(ConnectionError):
        await client.rest()


async def broken(server: LiveServer, client: RawClient) -> None:
    break_off(entry_of(server).outbox)
    await server.broadcaster.broadcast("x")


@pytest.mark.parametrize("end", [fin, rst, half, drained, disconnected, aborted, broken])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_no_stream_is_registered_after_its_end(
    server: LiveServer, client: RawClient, end: Callable[[Server, RawClient], Any], version: str
) -> None:
    await join(server, client, version=version)
    await end(server, client)
    await until(lambda: len(registry_of(server)) == 0)
    await until(lambda: server.connections == 0)
    assert list(registry_of(server)) == []


async def test_a_frozen_stream_is_removed_after_its_deadline(serve: Serve) -> None:
    server = await serve(**SMALL, write_timeout=0.2, overflow=Overflow.DROP_OLDEST)
    await freeze(server)
    await until(lambda: len(registry_of(server)) == 0)


async def test_a_refused_stream_is_not_registered(serve: Serve) -> None:
    """Neither is one with a reconnection time, nor a HEAD request."""
    server = await serve(subscribed_channels=1)
    await join(server, await server.connect())
    for path in ("/events/another", "/events?format=x"):
        assert (await (await server.connect()).ask("GET", path))[0] in {400, 503}
    await server.subscriber("/events/another", headers="Accept: text/event-stream\r\n")
    head = await server.connect()
    await head.send(b"HEAD /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await head.head()
    assert len(registry_of(server)) == 1


async def test_an_id_is_never_reused(server: LiveServer) -> None:
    client = await server.connect()
    assert (await join(server, client)).id == 1
    client.close()
    await until(lambda: len(registry_of(server)) == 0)
    assert (await join(server, await server.connect())).id == 2
    assert registry_of(server).find("1") is None


@pytest.mark.parametrize("id", ["", "0", "2", "-1", "1.0", "x", "1" * 30, "1" * 5000, "²", "\u0661"])
async def test_an_unknown_id_finds_nothing(server: LiveServer, id: str) -> None:
    await join(server, await server.connect())
    assert registry_of(server).find(id) is None


# The data of an entry.


async def test_the_data_of_an_entry(serve: Serve) -> None:
    server, client = await serve.connected(caller=(caller("shop", subscribe=("*",)),))
    entry = await join(
        server, client, "/events/b,a,x.*?event=t&event=s&format=json", headers=bearer(static("shop"))
    )
    entry.opened -= 100
    for channel in ("a", "b", "other"):
        await server.broadcaster.broadcast("x", channels=[channel], event="t")
    await client.events(2)
    found = entry.described()
    assert found.age >= 100
    assert found == SubscriberState(
        id="1",
        address="127.0.0.1",
        channels=("a", "b", "x.*"),
        types=["s", "t"],
        format="json",
        caller=Caller("caller", "shop"),
        state=StreamState.LIVE,
        age=found.age,
        events=2,
        drops=0,
        behind=0,
        queued_bytes=0,
        lag=0.0,
    )


@pytest.mark.parametrize(
    ("path", "headers", "format"),
    [
        ("/events", "", "text"),
        ("/events?format=json", "", "json"),
        ("/events", "Accept: application/x-ndjson\r\n", "ndjson"),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_format_has_its_name(
    server: LiveServer, path: str, headers: str, format: str, version: str
) -> None:
    entry = await join(server, await server.connect(), path, headers=headers, version=version)
    assert entry.described().format == format


async def test_the_caller_of_a_signed_token_is_its_subject(serve: Serve) -> None:
    """Its kind is not that of a configured caller. The entry has nothing of the token itself."""
    server = await serve(token_secret=OWN_SECRET)
    token = own(sub="ada", jti="one", grants={"subscribe": ["*"]})
    entry = await join(server, await server.connect(), headers=bearer(token))
    assert entry.caller == Caller("subject", "ada")


async def test_a_caller_without_a_token_is_anonymous(server: LiveServer) -> None:
    assert (await join(server, await server.connect())).caller is None


@pytest.mark.parametrize(
    ("trusted", "address"),
    [((), "127.0.0.1"), (("127.0.0.1",), "192.0.2.7"), (("192.0.2.0/24",), "127.0.0.1")],
)
async def test_the_address_is_that_named_by_a_trusted_proxy(
    serve: Serve, trusted: tuple[str, ...], address: str
) -> None:
    """Headers of others are ignored."""
    server, client = await serve.connected(trusted_proxies=trusted, anonymous_subscribe=("*",))
    entry = await join(server, client, headers="X-Forwarded-For: 203.0.113.5, 192.0.2.7\r\n")
    assert entry.address == address
    client.close()
    await until(lambda: len(registry_of(server)) == 0)
    assert entry.address == address


async def test_a_unix_socket_has_no_address(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s"
    rule = ListenerRule(host=f"{UNIX_PREFIX}{path}")
    server = await serve(listener=(rule,), trusted_proxies=("unix",), anonymous_subscribe=("*",))
    plain, proxied = await RawClient.open_unix(str(path)), await RawClient.open_unix(str(path))
    assert (await join(server, plain)).address == "unix"
    entry = await join(server, proxied, headers="X-Forwarded-For: 203.0.113.5\r\n")
    assert entry.address == "203.0.113.5"
    plain.close()
    proxied.close()
    await until(lambda: len(registry_of(server)) == 0)
    # A lost connection has no socket name any more.
    assert entry.address == "203.0.113.5"


async def test_a_replaying_stream_is_marked(serve: Serve) -> None:
    """Its backlog is what the history still has, and replayed events count as sent."""
    server = await serve(**SMALL, overflow=Overflow.DROP_OLDEST)
    for _ in range(200):
        await server.broadcaster.broadcast(MESSAGE)
    client = await server.connect(receive_buffer=4096)
    await client.request("GET", "/events?since=earliest")
    await until(lambda: len(registry_of(server)) == 1)
    entry = entry_of(server)
    assert entry.state in {StreamState.CATCHING_UP, StreamState.FULL}
    await until(lambda: entry.outbox.blocked)
    found = entry.described()
    assert found.state == StreamState.FULL
    assert 0 < found.events < 200
    assert (found.events + found.behind, found.queued_bytes, found.drops) == (200, 0, 0)
    entry.outbox.blocked = False
    assert entry.state is StreamState.CATCHING_UP
    entry.outbox.blocked = True


async def test_a_full_stream_is_marked(serve: Serve) -> None:
    """Its queue is its backlog, and lost events are counted."""
    server = await serve(**SMALL, queue_size=3, overflow=Overflow.DROP_OLDEST)
    await freeze(server)
    entry = entry_of(server)
    given = entry.outbox.given
    for _ in range(5):
        await server.broadcaster.broadcast(MESSAGE)
    found = entry.described()
    assert (found.state, found.events) == (StreamState.FULL, given)
    assert (found.behind, found.drops) == (3, server.broadcaster.counts.published - given - 3)
    assert 3 * len(MESSAGE) < found.queued_bytes < 3 * len(MESSAGE) + 200
    server.broadcaster.end(entry.outbox, CloseReason.DISCONNECTED)
    assert entry.described().state == StreamState.ENDING


async def test_the_lag_is_that_of_the_oldest_queued_event(server: LiveServer, monkeypatch: Patch) -> None:
    """Neither the newest event nor the last sent one matters."""
    entry = await join(server, await server.connect())
    now = 1_700_000_000.0
    monkeypatch.setattr("sse_broadcast.clock.now", lambda: now)
    for later in (0.0, 10.0):
        set_clock(server.broadcaster, itertools.repeat(now - 60 + later).__next__)
        async with held(entry):
            await server.broadcaster.broadcast("x")
            await server.broadcaster.broadcast("x")
            assert entry.described().lag == 60.0 - later
        await until(lambda: entry.outbox.behind == 0)
        assert entry.described().lag == 0.0


# Order.


async def three(server: LiveServer) -> list[StreamEntry]:
    return [await join(server, await server.connect(), f"/events/{name}") for name in ("a", "b", "a,b")]


def ids(found: Sequence[SubscriberState]) -> list[str]:
    return [each.id for each in found]


async def test_pages_are_in_the_order_of_opening(server: LiveServer, monkeypatch: Patch) -> None:
    """The size of a slice does not matter. A filter applies to all pages."""
    entries, registry = await three(server), registry_of(server)
    for portion in (1, 2, 500):
        monkeypatch.setattr(registry_module, "ENTRIES_PER_TURN", portion)
        assert ids(await registry.page(after=0, limit=10)) == ["1", "2", "3"]
        assert ids(await registry.page(after=0, limit=2)) == ["1", "2"]
        assert ids(await registry.page(after=2, limit=2)) == ["3"]
        assert ids(await registry.page(after=3, limit=2)) == []
        wanted = await registry.page(after=0, limit=2, wanted=lambda selector: selector.matches("b"))
        assert ids(wanted) == ["2", "3"]
    assert [entry.id for entry in entries] == [1, 2, 3]


ORDERS = {
    SortKey.LAG: ["2", "3", "1"],
    SortKey.QUEUE: ["3", "2", "1"],
    SortKey.AGE: ["2", "1", "3"],
    SortKey.EVENTS: ["3", "1", "2"],
    SortKey.DROPS: ["1", "3", "2"],
}


@pytest.mark.parametrize("portion", [1, 2, 500])
@pytest.mark.parametrize("order", SortKey)
async def test_the_top_streams_are_found(
    serve: Serve, monkeypatch: Patch, order: SortKey, portion: int
) -> None:
    """They are ordered by the given key, with any size of a slice."""
    monkeypatch.setattr(registry_module, "ENTRIES_PER_TURN", portion)
    server = await serve()
    one, two, both = await three(server)
    two.opened -= 10
    clock = itertools.count(1_700_000_000)
    set_clock(server.broadcaster, lambda: float(next(clock)))
    one.outbox.subscriber.dropped, both.outbox.subscriber.dropped = 7, 3
    one.outbox.subscriber.taken, both.outbox.subscriber.taken = 50, 60
    async with held(two, both):
        await server.broadcaster.broadcast("x", channels=["b"])
        for channel in ("a", "a", "a"):
            await server.broadcaster.broadcast("x", channels=[channel])
        await until(lambda: one.outbox.behind == 0)
        # Its oldest event is younger than that of the other, but it has more events.
        both.outbox.subscriber.take(1)
        registry = registry_of(server)
        assert ids(await registry.top(order, limit=10)) == ORDERS[order]
        assert ids(await registry.top(order, limit=2)) == ORDERS[order][:2]
        wanted = await registry.top(order, limit=1, wanted=lambda selector: selector.names == ("a",))
        assert ids(wanted) == ["1"]


async def test_equal_streams_are_in_the_order_of_opening(server: LiveServer) -> None:
    """A list of the top streams then does not flicker."""
    await three(server)
    assert ids(await registry_of(server).top(SortKey.DROPS, limit=2)) == ["1", "2"]


async def test_other_tasks_run_while_many_entries_are_read(serve: Serve, monkeypatch: Patch) -> None:
    """A stream that closes meanwhile is left out, and a new one may be in or not."""
    monkeypatch.setattr(registry_module, "ENTRIES_PER_TURN", 1)
    server = await serve()
    entries, registry = await three(server), registry_of(server)
    found = asyncio.ensure_future(registry.top(SortKey.DROPS, limit=10))
    await asyncio.sleep(0)
    registry.remove(entries[2])
    assert not found.done()
    assert ids(await found) == ["1", "2"]
    monkeypatch.setattr(registry, "remove", lambda _: None)  # Its handler calls it too.
    server.broadcaster.end(entries[2].outbox, CloseReason.DISCONNECTED)
    await until(lambda: server.connections == 2)


# The log.


def lines(caplog: Caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "sse_broadcast.streams"]


@pytest.fixture
def records(caplog: Caplog) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.INFO, "sse_broadcast.streams")
    return lambda: lines(caplog)


Records = Callable[[], list[logging.LogRecord]]


async def test_a_stream_is_logged_when_it_opens_and_when_it_closes(
    server: LiveServer, client: RawClient, records: Records
) -> None:
    await join(server, client, "/events/b,a?since=earliest")
    await server.broadcaster.broadcast("x", channels=["a"])
    await client.events(1)
    client.close()
    await until(lambda: len(records()) == 2)
    opened, closed = records()
    facts = {"id": "1", "address": "127.0.0.1", "channels": "a,b"}
    assert (opened.args, opened.levelno) == (facts, logging.INFO)
    assert opened.getMessage() == "stream 1 opened by 127.0.0.1: a,b"
    assert isinstance(closed.args, dict)
    duration = closed.args["duration"]
    assert closed.args == {
        **facts,
        "reason": "left",
        "duration": duration,
        "events": 1,
        "drops": 0,
        "lag": 0.0,
    }
    assert closed.getMessage() == (
        f"stream 1 of 127.0.0.1 closed: left, after {duration} s, with 1 event sent and 0 dropped,"
        " 0.0 s behind: a,b"
    )


async def expire(server: LiveServer) -> None:
    for session in tracked_streams_of(server):
        session.end(CloseReason.EXPIRED)


async def revoke(server: LiveServer) -> None:
    body = b'{"caller": "token"}'
    headers = f"Content-Type: application/json\r\n{bearer(STATIC)}"
    assert (await ask(server, "POST", "/revoke", headers=headers, body=body)).status == 200


async def disconnect(server: LiveServer) -> None:
    assert (await ask(server, "DELETE", "/subscribers/1", headers=bearer(STATIC))).status == 200


async def drain(server: LiveServer) -> None:
    await server.broadcaster.close(timeout=0.1)


@pytest.mark.parametrize(
    ("end", "reason"),
    [(expire, "expired"), (revoke, "revoked"), (disconnect, "disconnected"), (drain, "drain")],
)
async def test_a_line_has_the_reason_of_the_end(
    serve: Serve, records: Records, end: Callable[[Server], Any], reason: str
) -> None:
    server, client = await serve.connected(token=STATIC)
    await join(server, client, headers=bearer(STATIC))
    await end(server)
    assert f'"reason": "{reason}"'.encode() in await client.rest()
    await until(lambda: len(records()) == 2)
    args = records()[1].args
    assert isinstance(args, dict)
    assert args["reason"] == reason


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"overflow": Overflow.DROP_OLDEST, "write_timeout": 0.2}, "stalled"),
        ({"overflow": Overflow.DISCONNECT, "write_timeout": 0.5}, "slow"),
    ],
)
async def test_the_line_of_a_slow_subscriber_has_its_backlog_and_its_loss(
    serve: Serve, records: Records, settings: dict[str, Any], reason: str
) -> None:
    """Both are as of its end, when the queue is dropped."""
    server = await serve(**SMALL, **settings, queue_size=3)
    await freeze(server)
    entry = entry_of(server)
    for _ in range(5):
        await server.broadcaster.broadcast(MESSAGE)
    drops, given = entry.outbox.subscriber.dropped, entry.outbox.given
    await until(lambda: len(records()) == 2)
    args = records()[1].args
    assert isinstance(args, dict)
    assert (args["reason"], args["drops"], args["events"]) == (reason, drops, given)
    assert (drops > 0) == (reason == "stalled")
    assert 0 < entry.outbox.waited < args["duration"]
    assert args["lag"] == round(entry.outbox.waited, 3)


async def test_nothing_is_computed_without_logging(
    server: LiveServer, client: RawClient, monkeypatch: Patch, caplog: Caplog
) -> None:
    """The peer's name costs a microsecond, the formatting of a line more."""
    caplog.set_level(logging.WARNING, "sse_broadcast.streams")
    monkeypatch.setattr(StreamEntry, "address", property(lambda _: pytest.fail("was asked for")))
    await join(server, client)
    client.close()
    await until(lambda: len(registry_of(server)) == 0)
    assert lines(caplog) == []


async def test_a_line_has_no_token_and_no_query(serve: Serve, records: Records) -> None:
    """This holds for each place of a token, and for every parameter."""
    server, client = await serve.connected(token=STATIC)
    await join(server, client, f"/events/a?access_token={STATIC}&event=secret&last_event_id=secret")
    client.close()
    await until(lambda: len(records()) == 2)
    for record in records():
        said = f"{record.getMessage()} {record.args}"
        assert STATIC not in said
        assert "secret" not in said
        assert "?" not in said


async def test_a_line_has_a_few_channels_only(server: LiveServer, records: Records) -> None:
    """A subscriber may have a hundred of a hundred characters each."""
    names = [f"c{number:02}" for number in range(12)]
    await join(server, await server.connect(), f"/events/{','.join(names)}")
    await until(lambda: bool(records()))
    (opened,) = records()
    assert opened.getMessage() == f"stream 1 opened by 127.0.0.1: {','.join(names[:10])} and 2 more"


def test_the_formats_are_those_that_can_be_requested() -> None:
    assert sorted(registry_module.FORMAT_NAMES.values()) == ["json", "ndjson", "text"]
