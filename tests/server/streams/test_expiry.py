"""Stream expiry: streams that end with their credential or their maximum lifetime."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from sse_broadcast.auth.principal import EVERYTHING, Action, CredentialKind, Principal
from sse_broadcast.config.schema import Config, Overflow
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.runner import Server
from sse_broadcast.server.services import STREAM_EXPIRY
from sse_broadcast.server.streams import expiry
from sse_broadcast.server.streams.expiry import StreamExpiry, TrackedStream
from sse_broadcast.work_queue import ITEMS_PER_SLICE, run_to_completion
from tests.conftest import LiveServer, Patch, Serve
from tests.server.blocks import close_block
from tests.support.asking import ask, bearer
from tests.support.credentials import OWN_SECRET, STATIC, caller, own, static
from tests.support.internals import tracked_streams_of
from tests.support.sockets import RawClient, until

JSON = "Content-Type: application/json\r\n"

READER = caller("reader", subscribe=("*",))
SETTINGS = {"token": STATIC, "token_secret": OWN_SECRET, "caller": (READER,)}

MESSAGE = "x" * 4000
SMALL = {"send_buffer": 16_384, "heartbeat": 3600.0, "overflow": Overflow.DROP_OLDEST}
"""Settings with which sockets are soon full and streams stay open."""


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def attentive(monkeypatch: Patch) -> None:
    # A clock set by the test is checked often.
    monkeypatch.setattr(expiry, "CLOCK_CHECK_INTERVAL", 0.005)


def ends() -> tuple[list[CloseReason], Callable[[CloseReason], None]]:
    """Return a list, and an end callback that adds the reason to it."""
    found: list[CloseReason] = []
    return found, found.append


def opened(server: LiveServer) -> StreamExpiry:
    return server.app[STREAM_EXPIRY]


def set_clock(server: LiveServer) -> Clock:
    """Replace the clock of stream expiry. New tokens have the real time."""
    clock = Clock()
    opened(server).clock = clock
    return clock


async def read(server: LiveServer, token: str, path: str = "/events", **options: Any) -> RawClient:
    """Open a stream, and wait until it is registered."""
    before = server.broadcaster.client_count
    subscriber = await server.connect(**options)
    assert (await subscriber.subscribe(path=path, headers=bearer(token))).startswith(b"HTTP/1.1 200")
    await until(lambda: server.broadcaster.client_count > before)
    return subscriber


async def revoke(server: LiveServer, **whom: object) -> int:
    """Revoke over HTTP, and return the number of streams that ended."""
    answer = await ask(
        server, "POST", "/revoke", headers=JSON + bearer(STATIC), body=json.dumps(whom).encode()
    )
    assert answer.json["status"] == "revoked"
    return int(answer.json["streams"])


async def gone(server: LiveServer) -> None:
    """Wait until nothing is left of any stream."""
    await until(lambda: server.connections == 0 and len(opened(server)) == 0)
    assert server.broadcaster.client_count == 0
    assert len(opened(server)) == 0


def ids_of(rest: bytes) -> list[str]:
    """Return the ids of all blocks that are in the bytes of a stream."""
    return re.findall(r"\nid: (\S+)\n\n", rest.decode())


# The ends of streams.


async def test_a_stream_ends_when_its_token_expires(serve: Serve) -> None:
    """It gets the events published before, then the reason, and its connection is closed."""
    server = await serve(**SETTINGS)
    clock = set_clock(server)
    subscriber = await read(server, own(exp=clock.now + 3600, grants={"subscribe": ["default"]}))
    await subscriber.chunk()
    clock.now += 3599
    first = await server.broadcaster.broadcast("good")
    assert await subscriber.chunk() == f"data: good\nid: {first.id}\n\n".encode()
    clock.now += 1
    last = await server.broadcaster.broadcast("last words")
    await until(lambda: server.broadcaster.client_count == 0)
    await server.broadcaster.broadcast("too late")
    assert await subscriber.chunk() == f"data: last words\nid: {last.id}\n\n".encode()
    assert close_block("expired", last.id).fullmatch(await subscriber.chunk())
    assert await subscriber.chunk() == b""
    assert await subscriber.rest() == b""
    await gone(server)
    assert server.broadcaster.counts.closed == {"expired": 1}


@pytest.mark.parametrize("whom", [{"subject": "ada"}, {"id": "one"}])
async def test_a_stream_ends_when_its_token_is_revoked(serve: Serve, whom: dict[str, str]) -> None:
    """It ends at once, without the events that are still queued."""
    server = await serve(**SETTINGS)
    subscriber = await read(server, own(sub="ada", jti="one"), path="/events/a")
    await subscriber.chunk()
    receipt = await server.broadcaster.broadcast("good", channels=["a"])
    assert await subscriber.chunk() == f"data: good\nid: {receipt.id}\n\n".encode()
    assert await revoke(server, **whom) == 1
    await server.broadcaster.broadcast("secret", channels=["a"])
    assert close_block("revoked", receipt.id).fullmatch(await subscriber.chunk())
    assert await subscriber.rest() == b"0\r\n\r\n"
    await gone(server)
    assert server.broadcaster.counts.closed == {"revoked": 1}


async def test_queued_events_are_not_sent_to_a_revoked_stream(serve: Serve) -> None:
    """Each of two streams has the id of its own last event, so it can resume there with another token."""
    server = await serve(**SETTINGS)
    start = server.broadcaster.cursor
    mine = await read(server, own(sub="ada", jti="1"), path="/events/a")
    expired = await read(server, own(sub="eve", jti="2"), path="/events/a")
    for subscriber in (mine, expired):
        await subscriber.chunk()
    receipt = await server.broadcaster.broadcast("x", channels=["a"])
    assert revoked(opened(server), "subject", "ada") == 1
    (session,) = (each for each in tracked_streams_of(server) if each.principal.subject == "eve")
    session.end(CloseReason.EXPIRED)
    assert close_block("revoked", start).fullmatch(await mine.chunk())
    assert await expired.chunk() == f"data: x\nid: {receipt.id}\n\n".encode()
    assert close_block("expired", receipt.id).fullmatch(await expired.chunk())


async def test_streams_of_a_static_token_end_when_its_name_is_revoked(serve: Serve) -> None:
    server = await serve(**SETTINGS)
    mine = [await read(server, static("reader")) for _ in range(3)]
    other = await read(server, STATIC)
    assert await revoke(server, caller="reader") == 3
    for subscriber in mine:
        await subscriber.chunk()
        assert close_block("revoked", server.broadcaster.cursor).fullmatch(await subscriber.chunk())
    await until(lambda: server.broadcaster.client_count == 1)
    receipt = await server.broadcaster.broadcast("x")
    await other.chunk()
    assert await other.chunk() == f"data: x\nid: {receipt.id}\n\n".encode()
    assert (await ask(server, "GET", "/events", headers=bearer(static("reader")))).status == 401


async def test_a_stream_is_counted_once_however_often_it_is_revoked(serve: Serve) -> None:
    server = await serve(**SETTINGS, **SMALL, write_timeout=60)
    await freeze(server, static("reader"))
    assert await revoke(server, caller="reader") == 1
    assert await revoke(server, caller="reader") == 0
    assert server.broadcaster.counts.closed == {"revoked": 1}


async def test_a_stream_ends_after_its_maximum_lifetime(serve: Serve) -> None:
    """It gets the events published before, and the client may reconnect at once."""
    server, subscriber = await serve.connected(lifetime=3600)
    await subscriber.subscribe()
    await until(lambda: len(opened(server)) == 1)
    await subscriber.chunk()
    receipt = await server.broadcaster.broadcast("last words")
    (session,) = tracked_streams_of(server)
    session.until = 0.0  # The time is over on the loop's clock already.
    assert await subscriber.chunk() == f"data: last words\nid: {receipt.id}\n\n".encode()
    assert close_block("lifetime", receipt.id).fullmatch(await subscriber.chunk())
    assert await subscriber.rest() == b"0\r\n\r\n"
    await gone(server)
    again = await server.connect()
    assert b"200 OK" in await again.subscribe()


async def test_a_short_lifetime_is_kept(serve: Serve) -> None:
    server, subscriber = await serve.connected(lifetime=0.05)
    await subscriber.subscribe()
    await subscriber.chunk()
    assert close_block("lifetime", server.broadcaster.cursor).fullmatch(await subscriber.chunk())
    await gone(server)


@pytest.mark.parametrize(
    ("path", "headers", "version", "close"),
    [
        ("/events?format=json", "", "1.1", None),
        ("/events", "", "1.0", None),
        (
            "/events",
            "Accept: application/x-ndjson\r\n",
            "1.1",
            r'{"channel":null,"id":"ID","event":"\$close","data":{"reason": "expired"},"time":[\d.]+}\n',
        ),
    ],
)
async def test_the_end_has_a_form_in_each_format(
    serve: Serve, path: str, headers: str, version: str, close: str | None
) -> None:
    server = await serve(**SETTINGS)
    clock = set_clock(server)
    subscriber = await server.connect()
    token = own(exp=clock.now + 60, grants={"subscribe": ["*"]})
    await subscriber.subscribe(path=path, version=version, headers=headers + bearer(token))
    await until(lambda: len(opened(server)) == 1)
    clock.now += 60
    rest = await subscriber.rest()
    cursor = server.broadcaster.cursor
    last = close.replace("ID", cursor).encode() if close else close_block("expired", cursor).pattern
    assert re.search(last + rb"(\r\n0\r\n\r\n)?$", rest), rest
    await gone(server)


# Clients that do not read, and long replays.


async def freeze(server: LiveServer, token: str) -> RawClient:
    """Open a stream that is never read, and publish until its socket is full."""
    frozen = await server.connect(receive_buffer=4096)
    await frozen.request("GET", "/events", headers=bearer(token))
    await until(lambda: server.broadcaster.client_count >= 1)
    for _ in range(100):
        await server.broadcaster.broadcast(MESSAGE)
        await asyncio.sleep(0)
    return frozen


async def expire(server: LiveServer) -> None:
    clock = set_clock(server)
    clock.now += 7200


async def revoke_all(server: LiveServer) -> None:
    assert await revoke(server, subject="visitor") == 1


@pytest.mark.parametrize("end_it", [expire, revoke_all])
async def test_a_frozen_client_is_disconnected_after_its_stream_ended(
    serve: Serve, end_it: Callable[[Server], Any]
) -> None:
    """`write_timeout` applies, and its tracked stream is removed with its socket."""
    server = await serve(**SETTINGS, **SMALL, write_timeout=0.3)
    await freeze(server, own(grants={"subscribe": ["default"]}))
    await end_it(server)
    await gone(server)


async def test_a_client_that_reads_again_after_its_token_expired_gets_its_queue(serve: Serve) -> None:
    """The events were published while the token was valid."""
    server = await serve(**SETTINGS, **SMALL, write_timeout=60)
    frozen = await freeze(server, own(grants={"subscribe": ["default"]}))
    await expire(server)
    await until(lambda: server.broadcaster.client_count == 0)
    await server.broadcaster.broadcast("too late")
    rest = await frozen.rest()
    assert rest.count(MESSAGE.encode()) == 100
    assert b"too late" not in rest
    assert close_block("expired", ids_of(rest)[-2]).search(rest)
    await gone(server)


async def test_a_client_that_reads_again_after_a_revocation_gets_nothing_queued(serve: Serve) -> None:
    """It gets what its socket held already."""
    server = await serve(**SETTINGS, **SMALL, write_timeout=60)
    frozen = await freeze(server, own(grants={"subscribe": ["default"]}))
    await revoke_all(server)
    rest = await frozen.rest()
    count = rest.count(MESSAGE.encode())
    assert 0 < count < 50
    ids = ids_of(rest)
    assert len(ids) == count + 2  # with the first frames and the close
    assert close_block("revoked", ids[-2]).search(rest)
    await gone(server)


@pytest.mark.parametrize("end_it", [expire, revoke_all])
async def test_a_stream_ended_during_its_replay_can_resume(
    serve: Serve, end_it: Callable[[Server], Any]
) -> None:
    """With another token it gets each event once, whatever ended it."""
    server = await serve(**SETTINGS, **SMALL, write_timeout=60)
    ids = [(await server.broadcaster.broadcast(MESSAGE)).id for _ in range(300)]
    token = own(grants={"subscribe": ["default"]})
    subscriber = await read(server, token, path="/events?since=earliest", receive_buffer=4096)
    await end_it(server)
    await until(lambda: server.broadcaster.client_count == 0)
    rest = await subscriber.rest()
    *got, last = ids_of(rest)[1:]  # without that of the first frames
    assert 0 < len(got) < 300
    assert last == got[-1]
    assert b"event: $close\n" in rest
    again = await server.connect()
    await again.subscribe(headers=f"Last-Event-ID: {got[-1]}\r\n{bearer(static('reader'))}")
    got += [await next_id(again) for _ in range(300 - len(got))]
    assert got == ids


async def next_id(subscriber: RawClient) -> str:
    await subscriber.events(1)
    return subscriber.last_event_id


async def test_no_stream_is_tracked_after_its_end(serve: Serve) -> None:
    server = await serve(**SETTINGS, lifetime=3600)
    subscribers = [await read(server, static("reader")) for _ in range(3)]
    assert len(opened(server)) == 3
    subscribers[0].close()
    subscribers[1].reset()
    subscribers[2].half_close()
    await gone(server)
    for method, path in (("HEAD", "/events"), ("GET", "/events?format=x"), ("GET", "/status")):
        await ask(server, method, path, headers=bearer(static("reader")))
    await gone(server)


async def test_a_stream_that_cannot_expire_is_not_tracked(server: LiveServer) -> None:
    await server.subscriber()
    await until(lambda: server.broadcaster.client_count == 1)
    assert len(opened(server)) == 0


# Publish streams.


async def publish(server: LiveServer, token: str, *lines: bytes, **settings: Any) -> RawClient:
    """Begin a stream of lines, and leave it open."""
    publisher = await server.connect()
    await publisher.begin("/send/a?stream=1", headers=f"Content-Type: text/plain\r\n{bearer(token)}")
    before = server.broadcaster.counts.published
    for line in lines:
        await publisher.send_chunk(line)
    await until(lambda: server.broadcaster.counts.published == before + len(lines))
    return publisher


@pytest.mark.parametrize(
    ("end_it", "why"), [(expire, "token: has expired"), (revoke_all, "token: was revoked")]
)
async def test_a_publish_stream_ends_with_its_token(
    serve: Serve, end_it: Callable[[Server], Any], why: str
) -> None:
    """The 401 has the number of published lines. Later lines are ignored."""
    server = await serve(**SETTINGS)
    publisher = await publish(server, own(grants={"publish": ["a"]}), b"one\n", b"two\n")
    await end_it(server)
    head = (await publisher.head()).decode()
    assert head.startswith("HTTP/1.1 401 Unauthorized\r\n")
    assert 'WWW-Authenticate: Bearer realm="sse-broadcast", error="invalid_token"\r\n' in head
    assert json.loads(await publisher.rest()) == {
        "title": "Unauthorized",
        "status": 401,
        "detail": f"{why}; 2 published",
        "published": 2,
    }
    await gone(server)
    assert server.broadcaster.counts.published == 2


async def test_received_lines_of_a_revoked_publisher_are_not_published(serve: Serve) -> None:
    server = await serve(**SETTINGS, publish_rate=1, publish_burst=1000)
    token = own(grants={"publish": ["a"]})
    server.services.rate_limiter.publish(1000, address=None, principal=Principal(subject="visitor"))
    publisher = await publish(server, token)
    await publisher.send_chunk(b"line\n" * 500)
    await until(lambda: len(opened(server)) == 1)
    await revoke_all(server)
    assert b" 401 " in await publisher.head()
    await gone(server)
    assert server.broadcaster.counts.published == 0


async def test_a_publish_stream_has_no_maximum_lifetime(serve: Serve) -> None:
    server = await serve(**SETTINGS, lifetime=0.02)
    publisher = await publish(server, STATIC, b"one\n")
    reader = await server.subscriber(headers=bearer(STATIC))
    assert close_block("lifetime", server.broadcaster.cursor).search(await reader.rest())
    await publisher.send_chunk(b"two\n")
    await publisher.send_chunk()
    status, answer = await publisher.answer()
    assert (status, json.loads(answer)["count"]) == (200, 2)
    publisher.close()
    await gone(server)


async def test_an_anonymous_publish_stream_is_not_tracked(serve: Serve) -> None:
    """It cannot expire."""
    server, publisher = await serve.connected(anonymous_publish=("a",), lifetime=3600)
    await publisher.begin("/send/a?stream=1", headers="Content-Type: text/plain\r\n")
    await publisher.send_chunk(b"one\n")
    await until(lambda: server.broadcaster.counts.published == 1)
    assert len(opened(server)) == 0


# The limit of streams per token.


async def test_streams_of_a_token_are_limited(serve: Serve) -> None:
    """A further one is refused, for a browser with a reconnection time. Open ones are not affected."""
    server = await serve(**SETTINGS, max_connections_per_token=2)
    subscribers = [await read(server, static("reader")) for _ in range(2)]
    refused = await ask(server, "GET", "/events", headers=bearer(static("reader")))
    assert (refused.status, refused.headers["retry-after"]) == (429, "5")
    assert refused.detail == "max_connections_per_token: this token has 2 streams, the limit"
    browser = await server.connect()
    headers = f"Accept: text/event-stream\r\nLast-Event-ID: order-7\r\n{bearer(static('reader'))}"
    head = await browser.subscribe(headers=headers)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.search(rb"\r\nRetry-After: [123]\d\r\n", head)
    assert close_block("token", "order-7").fullmatch(await browser.rest())
    assert (await ask(server, "GET", "/events", headers=bearer(STATIC))).status == 200
    receipt = await server.broadcaster.broadcast("x")
    for subscriber in subscribers:
        await subscriber.chunk()
        assert await subscriber.chunk() == f"data: x\nid: {receipt.id}\n\n".encode()
    subscribers[0].reset()
    await until(lambda: len(opened(server)) == 1)
    await read(server, static("reader"))


async def test_anonymous_streams_do_not_share_the_limit_of_a_token(serve: Serve) -> None:
    """They are limited by address and in total."""
    server = await serve(max_connections_per_token=1, lifetime=3600)
    for _ in range(3):
        subscriber = await server.connect()
        assert b"200 OK" in await subscriber.subscribe()
    await until(lambda: len(opened(server)) == 3)


# The unit, without a server.


def principal(**said: Any) -> Principal:
    return Principal(EVERYTHING, **{"subject": "ada", "id": "one", **said})


def holding(*, clock: Callable[[], float] = time.time, **settings: Any) -> StreamExpiry:
    return StreamExpiry(
        Config(max_connections_per_address=settings.pop("max_connections_per_address", 0), **settings),
        clock=clock,
    )


def revoked(held: StreamExpiry, kind: CredentialKind, name: str) -> int:
    """Revoke, and return the number of streams that ended."""
    return run_to_completion(held.revoke(kind, name))


def begun(
    held: StreamExpiry, principal: Principal, end: Callable[[CloseReason], None]
) -> TrackedStream | None:
    session = held.track(principal)
    if session is not None:
        session.begin(end)
    return session


async def test_a_credential_ends_when_the_clock_says_so() -> None:
    clock = Clock()
    held = holding(clock=clock)
    found, note = ends()
    begun(held, principal(expires=clock.now + 86_400), note)
    for passed in (0.0, 86_399.5):
        clock.now += passed
        await asyncio.sleep(0.05)
        assert found == []
    clock.now += 0.5
    await until(lambda: found == [CloseReason.EXPIRED])


async def test_an_expired_credential_ends_a_stream_at_once() -> None:
    clock = Clock()
    held = holding(clock=clock)
    found, note = ends()
    session = begun(held, principal(expires=clock.now), note)
    assert found == [CloseReason.EXPIRED]
    assert session is not None
    held.close(session)
    assert len(held) == 0


async def test_the_earlier_end_counts() -> None:
    clock = Clock()
    held = holding(lifetime=3600, clock=clock)
    found, note = ends()
    begun(held, principal(expires=clock.now + 60), note)
    clock.now += 60
    await until(lambda: found == [CloseReason.EXPIRED])
    short = holding(lifetime=0.02, clock=clock)
    begun(short, principal(expires=clock.now + 60), note)
    await until(lambda: found == [CloseReason.EXPIRED, CloseReason.LIFETIME])


async def test_lifetimes_have_jitter(monkeypatch: Patch) -> None:
    """The jitter is a tenth: streams opened together do not reconnect together."""
    held = holding(lifetime=1000)
    now = asyncio.get_running_loop().time()
    rooms = [begun(held, Principal(), lambda _: None) for _ in range(200)]
    lives = [room.until - now for room in rooms if room is not None and room.until is not None]
    assert len(lives) == 200
    assert 900 <= min(lives) < 920
    assert 980 < max(lives) <= 1001
    for room in rooms:
        assert room is not None
        held.close(room)


@pytest.mark.parametrize("begun", [True, False])
async def test_an_ending_stream_may_still_be_revoked(*, begun: bool) -> None:
    """Its queue is dropped. It is not counted as another stream ended."""
    held, found = StreamExpiry(Config()), list[CloseReason]()
    session = held.track(Principal(EVERYTHING, "visitor"))
    assert session is not None
    if begun:
        session.begin(found.append)
    assert session.end(CloseReason.EXPIRED)
    assert revoked(held, "subject", "visitor") == revoked(held, "subject", "visitor") == 0
    if not begun:
        session.begin(found.append)
    assert found == [CloseReason.EXPIRED, CloseReason.REVOKED][not begun :]
    held.close(session)


async def test_a_stream_ends_once() -> None:
    clock = Clock()
    held = holding(clock=clock)
    found, note = ends()
    begun(held, principal(expires=clock.now + 60), note)
    ended = [revoked(held, "subject", "ada"), revoked(held, "id", "one"), revoked(held, "subject", "ada")]
    assert ended == [1, 0, 0]
    clock.now += 60
    await asyncio.sleep(0.05)
    assert found == [CloseReason.REVOKED]


async def test_a_closed_expiry_ends_no_stream() -> None:
    clock = Clock()
    held = holding(clock=clock)
    found, note = ends()
    session = begun(held, principal(expires=clock.now + 60), note)
    assert session is not None
    held.close(session)
    clock.now += 60
    await asyncio.sleep(0.05)
    assert (found, revoked(held, "subject", "ada"), len(held)) == ([], 0, 0)


async def test_revoking_many_streams_is_done_in_slices() -> None:
    """Streams opened meanwhile have newer tokens, and stay open."""
    held = holding(lifetime=3600)
    found: list[CloseReason] = []
    for number in range(100):
        begun(held, Principal(EVERYTHING, subject="ada", id=f"{number % 3}"), found.append)
    steps, counts = held.revoke("subject", "ada"), [0]
    for _ in steps:
        counts.append(len(found))
        begun(held, Principal(EVERYTHING, subject="ada", id="1"), found.append)
    most = ITEMS_PER_SLICE // expiry.ENDING_COST
    assert counts == [0, *range(most, 100, most)]
    assert (len(found), len(held)) == (100, 100 + len(counts) - 1)
    assert held._revoking == {}


async def test_a_revocation_ends_exactly_its_streams() -> None:
    held = holding(lifetime=3600)
    found: dict[tuple[str | None, str | None], list[CloseReason]] = {}
    for subject, id in (("ada", "one"), ("ada", "two"), ("ada", None), ("eve", "three"), (None, None)):
        found[subject, id], note = ends()
        begun(held, Principal(EVERYTHING, subject=subject, id=id), note)
    assert revoked(held, "id", "two") == 1
    assert revoked(held, "subject", "nobody") == revoked(held, "id", "ada") == 0
    assert revoked(held, "subject", "ada") == 2
    assert [bool(reasons) for reasons in found.values()] == [True, True, True, False, False]


async def test_a_closed_stream_makes_room_for_its_token() -> None:
    held = holding(max_connections_per_token=1)
    session = begun(held, principal(), lambda _: None)
    assert session is not None
    with pytest.raises(Problem, match="1 stream, the limit") as raised:
        held.track(principal())
    assert (raised.value.status, raised.value.headers) == (429, {"Retry-After": "5"})
    held.track(principal(id="two"))
    held.track(principal(subject="eve"))
    held.close(session)
    held.track(principal())


async def test_a_closed_stream_makes_room_for_its_address_behind_a_proxy() -> None:
    """Its other streams may have any tokens."""
    held = holding(max_connections_per_address=2)
    first = held.track(Principal(), address="192.0.2.1")
    held.track(principal(), address="192.0.2.1")
    assert first is not None
    subscriber = Principal({Action.SUBSCRIBE: ("*",)}, subject="eve")
    with pytest.raises(Problem, match="max_connections_per_address: this address has 2 streams"):
        held.track(subscriber, address="192.0.2.1")
    held.track(Principal(), address="192.0.2.2")
    held.close(first)
    held.track(subscriber, address="192.0.2.1")
    assert len(held) == 3


async def test_admin_is_not_limited_by_others_at_its_address() -> None:
    held = holding(max_connections_per_address=1, max_connections_per_token=2)
    held.track(Principal(), address="192.0.2.1")
    for _ in range(2):
        held.track(principal(), address="192.0.2.1")
    with pytest.raises(Problem, match="max_connections_per_token"):
        held.track(principal(), address="192.0.2.1")


async def test_a_stream_cannot_start_with_a_token_revoked_before() -> None:
    """There is no await between the check of a credential and the registration."""
    held = holding()
    found, note = ends()
    session = held.track(principal())
    assert session is not None
    assert revoked(held, "subject", "ada") == 1
    assert found == []
    session.begin(note)
    assert found == [CloseReason.REVOKED]
