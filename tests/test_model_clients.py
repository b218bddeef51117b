"""Models of all kinds of clients, cut at every byte: no loss without a `$reset`, and no repetition."""

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from sse_broadcast.event import Event
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.http.refused_stream import RefusalReason, refused_stream
from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support.internals import outboxes_of
from tests.support.model_clients import (
    CLIENTS,
    AsItPasses,
    HoldsBlocks,
    Latin1,
    Request,
    Shown,
    ShowsHalves,
    Standard,
)
from tests.support.sockets import RawClient

BEFORE = "published before"

LAST = "the last one"

AFTER = "published while the client was away"

PUBLISHED = [
    Event("one"),
    Event("typed", "price"),
    Event("two\nlines\n", retry=700),
    Event("with an id", id="order-7"),
    Event('{"total": 12}', json=True),
    Event(""),
    Event("caf\u00e9 \u0085 \U0001f600"),
    Event(LAST),
]


@dataclass(frozen=True, slots=True)
class Recording:
    """The bytes of a stream, from its first frames to its end, for a client with this last id."""

    server: Server
    data: bytes
    brought: str = ""

    @property
    def opening(self) -> int:
        """Return the number of bytes before the subscriber has a cursor."""
        mark = self.data.index(b"event: $open")
        return self.data.index(b"\n\n", mark) + 2


class Answers:
    """The responses to clients that reconnect, cached since the history does not change."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: dict[Request, bytes] = {}
        self._shown: dict[Request, list[Shown]] = {}

    async def shown_to(self, client: Standard) -> list[Shown]:
        """Return the events of a client that reconnects, up to the last one."""
        request = client.again()
        if request not in self._shown:
            again = type(client)(client.last_id)
            again.feed(await self._to(request))
            self._shown[request] = again.shown
        return self._shown[request]

    async def _to(self, request: Request) -> bytes:
        if request not in self._known:
            headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
            async with stream(self._server, headers=headers, query=request.query) as client:
                body = await up_to(client, "$open")
                brings_cursor = bool(headers) or "lastEventId" in request.query
                # A client without a cursor, or with an unknown one, gets none of the past.
                if brings_cursor and not any(reason in body for reason in (b'"unknown"', b'"epoch"')):
                    body += await up_to(client, AFTER)
                self._known[request] = body
        return self._known[request]


@asynccontextmanager
async def stream(server: Server, *, headers: str = "", query: str = "") -> AsyncIterator[RawClient]:
    client = await RawClient.open(server.port)
    try:
        await client.subscribe(path=f"/events/a?{query}", headers=headers)
        yield client
    finally:
        client.close()


async def up_to(client: RawClient, text: str) -> bytes:
    """Return a stream's bytes up to the block with this text."""
    body = b""
    while text.encode() not in body:
        body += await client.chunk()
    return body


async def record(server: Server, *, brought: str) -> bytes:
    """Return the bytes of a stream with published events, a heartbeat that moves the cursor, and the end."""
    headers = f"Last-Event-ID: {brought}\r\n" if brought else ""
    async with stream(server, headers=headers, query="heartbeat=event") as client:
        body = await up_to(client, "$open")
        for event in PUBLISHED[:-1]:
            await server.broadcaster.publish(event, ["a"])
        body += await up_to(client, "$heartbeat")
        await server.broadcaster.publish(PUBLISHED[-1], ["a"])
        body += await up_to(client, LAST)
        server.broadcaster.end(next(iter(outboxes_of(server.broadcaster))), CloseReason.LIFETIME)
        body += await up_to(client, "$close")
    return body


@pytest.fixture(params=["fresh", "resumed", "epoch", "unknown", "evicted"])
async def recording(request: pytest.FixtureRequest, serve: Serve) -> Recording:
    """Record a stream that begins in this way."""
    server = await serve(history_size=len(PUBLISHED) + 2, heartbeat=0.05)
    before = [await server.broadcaster.broadcast(f"{BEFORE} {number}", channels=["a"]) for number in range(2)]
    match request.param:
        case "fresh":
            brought = ""
        case "resumed":
            brought = before[-1].id
        case "epoch":
            brought = "00000000-5"
        case "unknown":
            brought = "never-heard-of"
        case _:
            brought = before[0].id
            for number in range(20):
                await server.broadcaster.broadcast(f"{BEFORE} {number}", channels=["a"])
    recording = Recording(server, await record(server, brought=brought), brought)
    await server.broadcaster.broadcast(AFTER, channels=["a"])
    return recording


def published(shown: list[Shown]) -> list[Shown]:
    """Return the published events since the recording began, without system events."""
    return [each for each in shown if not (each.type.startswith("$") or each.data.startswith(BEFORE))]


EXPECTED = [*(Shown(event.type, event.data) for event in PUBLISHED), Shown("message", AFTER)]


def test_the_id_of_a_block_is_last(recording: Recording) -> None:
    """Every block has data and an id as its last line. Comments are at the beginning only."""
    preamble, _, rest = recording.data.partition(b"event: $")
    assert preamble.startswith(b": \nretry: ")
    for block in (b"event: $" + rest).removesuffix(b"\n\n").split(b"\n\n"):
        lines = block.split(b"\n")
        assert lines[-1].startswith(b"id: "), block
        assert any(line.startswith(b"data: ") for line in lines), block


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_cut_at_any_byte_loses_nothing_without_a_reset(recording: Recording, name: str) -> None:
    """Events before and after the cut are together all published ones, each once."""
    answers, client = Answers(recording.server), CLIENTS[name](recording.brought)
    wrong: dict[int, list[Shown]] = {}
    for place, _ in enumerate(recording.data):
        if place >= recording.opening:
            shown = published(client.shown + await answers.shown_to(client))
            if shown != EXPECTED:
                wrong[place] = shown
        client.feed(recording.data[place : place + 1])
    if name == AsItPasses.__name__:
        # The one client error that no server can prevent: the id was taken before the event is complete.
        assert sorted(wrong) == inside_ids(recording)
    else:
        assert wrong == {}


def inside_ids(recording: Recording) -> list[int]:
    """Return the offsets between the id line and the blank line of published events."""
    places, start = [], recording.opening
    while (end := recording.data.find(b"\n\n", start)) >= 0:
        if not recording.data[start:].startswith((b"event: $", f"data: {BEFORE}".encode())):
            places.append(end + 1)
        start = end + 2
    return places


async def test_a_clean_end_at_any_byte_loses_nothing_without_a_reset(recording: Recording) -> None:
    """Clients that take half a block for a whole one repeat events or show half of one, and lose none."""
    answers, whole = Answers(recording.server), ShowsHalves(recording.brought)
    for place, _ in enumerate(recording.data):
        client = copy.deepcopy(whole)
        whole.feed(recording.data[place : place + 1])
        if place < recording.opening:
            continue
        client.end()
        came = await answers.shown_to(client)
        shown = client.shown + came
        reported = any(each.type == "$reset" for each in came)
        missing = [each for each in EXPECTED if each not in shown]
        line = recording.data[:place].rpartition(b"\n")[2]
        assert reported or not missing or line in {b"i", b"id", b"id:", b"id: "}, (place, missing)


@pytest.mark.parametrize("brought", ["", "0123abcd-7", "order-7"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_refusal_keeps_the_cursor(name: str, brought: str) -> None:
    _, block = refused_stream(RefusalReason.FULL, brought=brought)
    client = CLIENTS[name](brought)
    for place, _ in enumerate(block):
        client.feed(block[place : place + 1])
        assert client.last_id == brought
    assert client.shown == [Shown("$close", '{"reason": "full"}')]


async def test_requests_decodes_utf8(server: Server) -> None:
    """The header has the charset. In Latin-1 a line would end at U+0085."""
    client = await RawClient.open(server.port)
    head = (await client.subscribe(path="/events/a")).decode()
    content_type = head.partition("Content-Type: ")[2].partition("\r\n")[0]
    decoder = Latin1(content_type=content_type)
    decoder.feed(await client.chunk())
    await server.broadcaster.broadcast("caf\u00e9 \u0085", channels=["a"])
    decoder.feed(await client.chunk())
    assert published(decoder.shown) == [Shown("message", "caf\u00e9 \u0085")]
    client.close()


async def test_an_hour_of_heartbeats_makes_no_long_block() -> None:
    """Clients that buffer comments until a blank line get one every four seconds for an hour."""
    client = HoldsBlocks()
    client.feed(b": \n" * (3600 // 3))
    client.feed(b"event: $heartbeat\ndata: {}\nid: e-1\n\n")
    assert client.last_id == "e-1"
