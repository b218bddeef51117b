"""Rate limits: connections and events per second, and the responses beyond."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sse_broadcast.auth.principal import EVERYTHING, Action, Principal
from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.server.access import rate_limits as limits_module
from sse_broadcast.server.access.rate_limits import PERMIT_BATCH, Buckets, RateLimiter, share_name
from sse_broadcast.server.http.problem import Problem
from tests.conftest import LiveServer, Patch, Serve
from tests.server import blocks
from tests.support.clock import Clock, stopped
from tests.support.sockets import RawClient, until

ANYONE = Principal()
ONE, OTHER = Principal(subject="one"), Principal(subject="other")
HERE, THERE = "192.0.2.1", "2001:db8::/64"
NDJSON = "Content-Type: application/x-ndjson\r\n"


# Rates and times here are sums of powers of two, so that nothing is rounded: rounding could refuse the last
# event of a burst for an instant.

clock = pytest.fixture(stopped)


def publishing(rate: int = 8, burst: int = 100) -> RateLimiter:
    return RateLimiter(Config(publish_rate=rate, publish_burst=burst, max_batch=burst or 1))


def taken(publish: Callable[[], object], *, most: int = 10_000) -> int:
    """Return how many times an event can be published before it is refused."""
    for count in range(most):
        try:
            publish()
        except Problem:
            return count
    return most


def left(limits: RateLimiter, address: str | None, principal: Principal = ANYONE) -> int:
    """Publish all the events that an address or a token may publish now, and return their number."""
    return taken(lambda: limits.publish(1, address=address, principal=principal))


# Shares.


def test_a_caller_has_one_share_for_all_its_tokens() -> None:
    """An anonymous caller has that of its address. A subject named like a configured caller is another."""
    named = [
        share_name(Principal(subject="a", id="1"), address=HERE),
        share_name(Principal(subject="a", id="2"), address=THERE),
        share_name(Principal(subject="a", static=True), address=HERE),
        share_name(Principal(id="1"), address=HERE),
        share_name(ANYONE, address=THERE),
        share_name(ANYONE, address=None),
    ]
    assert named == ["subject a", "subject a", "caller a", f"address {HERE}", f"address {THERE}", ""]


def test_the_key_of_a_share_is_short() -> None:
    """Two long subjects have different keys."""
    one, other = (share_name(Principal(subject="x" * 5000 + end), address=None) for end in "ab")
    assert len(one) == len(other) == 64
    assert one != other


# Events.


def test_a_bucket_allows_a_burst_and_then_the_rate(clock: Clock) -> None:
    """It is full at first, and never holds more than the burst."""
    limits = publishing(rate=8, burst=100)
    assert left(limits, HERE) == 100
    clock.forward(0.5)
    assert left(limits, HERE) == 4
    clock.forward(0.125)
    assert left(limits, HERE) == 1
    clock.forward(0.0625)
    assert left(limits, HERE) == 0
    clock.forward(3600)
    assert left(limits, HERE) == 100


def test_an_address_and_a_token_have_a_bucket_each(clock: Clock) -> None:
    """A request counts in both, an anonymous one in that of its address alone."""
    limits = publishing(burst=10)
    assert left(limits, HERE) == 10
    assert left(limits, THERE) == 10
    assert left(limits, None, ONE) == 10
    assert left(limits, "192.0.2.2", ONE) == 0
    assert left(limits, HERE, OTHER) == 0
    assert left(limits, "192.0.2.2", OTHER) == 10


def test_a_caller_without_address_and_token_is_not_limited() -> None:
    """It comes by loopback or a UNIX socket."""
    limits = publishing(burst=1)
    assert taken(lambda: limits.publish(1, address=None, principal=ANYONE)) == 10_000
    assert taken(lambda: limits.publish(50, address=None, principal=ANYONE)) == 10_000


def test_a_rate_of_0_is_no_limit() -> None:
    limits = RateLimiter(Config(publish_rate=0, subscribe_rate=0, publish_burst=1, subscribe_burst=1))
    assert taken(lambda: limits.publish(1000, address=HERE, principal=ONE)) == 10_000
    assert taken(limits.stream) == 10_000
    assert limits.publish_wait(1000, address=HERE, principal=ONE) == 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Principal(subject="a", id="b"), Principal(subject="a", id="c")),
        (Principal(subject="a", id="b"), Principal(subject="a:b")),
        (Principal(subject="a:1", id="b"), Principal(subject="a", id="1:b")),
        (Principal(subject=""), Principal(subject="", id="b")),
        (Principal(subject="x" * 300), Principal(subject="x" * 301)),
        (Principal(subject="x" * 300 + "\udcff"), Principal(subject="x" * 300 + "\udcfe")),
    ],
)
def test_tokens_are_identified_by_subject_and_id(clock: Clock, one: Principal, other: Principal) -> None:
    limits = publishing(burst=10)
    assert left(limits, None, one) == 10
    assert left(limits, None, other) == 10
    assert left(limits, None, one) == 0


def test_checking_for_one_event_takes_none(clock: Clock) -> None:
    """It checks the buckets of the token and of the address."""
    limits = publishing(rate=1, burst=2)
    ann, bob = Principal(subject="ann"), Principal(subject="bob")
    for _ in range(3):
        limits.require_some(address="192.0.2.1", principal=ann)
    limits.publish(2, address="192.0.2.1", principal=ann)
    with pytest.raises(Problem, match="one token may publish 1 event in a second"):
        limits.require_some(address="192.0.2.2", principal=ann)
    with pytest.raises(Problem, match="one address may publish 1 event in a second"):
        limits.require_some(address="192.0.2.1", principal=bob)
    limits.require_some(address="192.0.2.2", principal=bob)
    limits.require_some(address=None, principal=bob)
    with pytest.raises(Problem, match="one token may publish 1 event in a second"):
        limits.require_some(address=None, principal=ann)
    clock.forward(1)
    limits.require_some(address="192.0.2.1", principal=ann)


def test_a_batch_is_allowed_whole_or_not_at_all(clock: Clock) -> None:
    """A refusal takes nothing from either bucket."""
    limits = publishing(burst=100)
    limits.publish(60, address=HERE, principal=ANYONE)
    limits.publish(30, address=None, principal=ONE)
    for _ in range(5):
        with pytest.raises(Problem, match="one address"):
            limits.publish(41, address=HERE, principal=ONE)
    limits.publish(30, address=None, principal=ONE)
    for _ in range(5):
        with pytest.raises(Problem, match="one token"):
            limits.publish(41, address=THERE, principal=ONE)
    assert left(limits, HERE) == 40
    assert left(limits, THERE) == 100
    assert left(limits, None, ONE) == 40


@pytest.mark.parametrize(
    ("address", "principal", "whose"), [(HERE, ANYONE, "address"), (None, ONE, "token"), (HERE, ONE, "token")]
)
@pytest.mark.parametrize(
    ("gone", "count", "after"), [(0.0, 1, 1), (0.0, 8, 1), (0.0, 9, 2), (0.0, 100, 13), (12.4375, 100, 1)]
)
def test_a_refusal_has_the_limit_and_the_wait(
    clock: Clock, address: str | None, principal: Principal, whose: str, gone: float, count: int, after: int
) -> None:
    """The 429 has whose limit it is, the settings, and the seconds to wait for this many events."""
    limits = publishing(rate=8, burst=100)
    limits.publish(100, address=address, principal=principal)
    clock.forward(gone)
    with pytest.raises(Problem) as refused:
        limits.publish(count, address=address, principal=principal)
    problem = refused.value
    assert (problem.status, problem.headers) == (429, {"Retry-After": str(after)})
    assert problem.detail == (
        f"publish_rate: one {whose} may publish 8 events in a second, after 100 at once (publish_burst);"
        f" try again in {after} s"
    )
    clock.forward(after)
    limits.publish(count, address=address, principal=principal)


@pytest.mark.parametrize(("address", "principal"), [(HERE, ANYONE), (None, ONE), (HERE, ONE)])
def test_the_wait_is_exact(clock: Clock, address: str | None, principal: Principal) -> None:
    """After it this many events are allowed, and not before. Asking for it takes nothing."""
    limits = publishing(rate=8, burst=100)
    assert limits.publish_wait(100, address=address, principal=principal) == 0.0
    for _ in range(3):
        assert limits.publish_wait(32, address=address, principal=principal) == 4.0
    clock.forward(3.875)
    assert limits.publish_wait(32, address=address, principal=principal) == 0.125
    clock.forward(0.125)
    assert limits.publish_wait(32, address=address, principal=principal) == 0.0
    assert limits.publish_wait(1, address=address, principal=principal) == 0.125


@pytest.mark.parametrize(
    ("rate", "burst", "portion"),
    [(5000, 50_000, 250), (100_000, 10**6, 256), (1, 10, 1), (1000, 7, 7), (0, 1, 256)],
)
def test_a_slowed_publisher_publishes_in_small_batches(rate: int, burst: int, portion: int) -> None:
    """A batch has the events of a twentieth of a second, and no more than the burst."""
    assert publishing(rate, burst).batch_size(256) == portion


@pytest.mark.parametrize(("address", "principal"), [(HERE, ANYONE), (HERE, ONE)])
def test_a_wait_of_zero_is_still_a_refusal(clock: Clock, address: str | None, principal: Principal) -> None:
    """By rounding the limiter refuses with a wait of 0.0."""
    clock.now = 0.1
    limits, count = publishing(rate=5, burst=7), 0
    for _ in range(50):
        wait = limits.publish_wait(1, address=address, principal=principal)
        count += wait == 0.0
        clock.forward(wait)
    assert count <= 7 + 5 * (clock.now - 0.1)
    assert clock.now > 0.1


@given(start=st.floats(0, 2000), rate=st.integers(1, 60), burst=st.integers(1, 20))
@example(start=0.1, rate=5, burst=7)
@example(start=0.1, rate=3, burst=15)
def test_available_events_can_be_taken(start: float, rate: int, burst: int) -> None:
    """Whatever is rounded, the number returned can be taken, and one more is refused."""
    with pytest.MonkeyPatch.context() as patch:
        clock = stopped(patch)
        clock.now = start
        buckets = Buckets(rate, burst)
        for count in range(40):
            lacks = buckets.wait_for("k", 1 + count % burst)
            wait = buckets.take("k", 1 + count % burst)
            assert (lacks > 0.0) is (wait > 0.0)
            assert lacks == pytest.approx(wait, abs=2e-6)
            clock.forward(wait)


@given(
    rate=st.integers(1, 50),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50), st.booleans(), st.booleans()), max_size=60),
)
def test_no_sequence_of_requests_exceeds_burst_and_rate(
    rate: int, burst: int, steps: list[tuple[float, int, bool, bool]]
) -> None:
    """Batches and waits are mixed, with one or several publishers."""
    with pytest.MonkeyPatch.context() as patch:
        clock = stopped(patch)
        limits, given_to = publishing(rate, burst), {"address": 0, "token": 0}
        for pause, count, by_address, by_token in steps:
            clock.forward(pause)
            address, principal = HERE if by_address else None, ONE if by_token else ANYONE
            if limits.publish_wait(count, address=address, principal=principal) == 0.0:
                given_to["address"] += count * by_address
                given_to["token"] += count * by_token
            most = burst + rate * (clock.now - 1024.0) + 1e-6
            assert max(given_to.values()) <= most


def test_the_number_of_buckets_is_limited(clock: Clock, monkeypatch: Patch) -> None:
    """The least recently used is dropped, and is full again. The others stay."""
    monkeypatch.setattr(limits_module, "MOST_BUCKETS", 3)
    buckets = Buckets(1, 10)
    for key in "abc":
        assert buckets.take(key, 10) == 0.0
    assert buckets.take("a", 1) > 0.0
    assert buckets.wait_for("c", 1) > 0.0
    buckets.take("d", 1)
    assert [buckets.wait_for(key, 10) > 0.0 for key in "abc"] == [True, False, True]


def test_buckets_of_addresses_do_not_displace_those_of_tokens(clock: Clock, monkeypatch: Patch) -> None:
    """A token at its limit stays there, whichever addresses it comes from."""
    monkeypatch.setattr(limits_module, "MOST_BUCKETS", 3)
    limits = publishing(burst=10)
    assert left(limits, HERE, ONE) == 10
    for number in range(100):
        limits.publish(1, address=f"198.51.100.{number}", principal=ANYONE)
    assert left(limits, THERE, ONE) == 0


def test_a_refusal_adds_no_bucket(clock: Clock, monkeypatch: Patch) -> None:
    monkeypatch.setattr(limits_module, "MOST_BUCKETS", 3)
    limits = publishing(burst=10)
    for address in ("192.0.2.1", "192.0.2.2"):
        assert left(limits, address) == 10
    assert left(limits, None, ONE) == 10
    for number in range(100):
        with pytest.raises(Problem):
            limits.publish(1, address=f"198.51.100.{number}", principal=ONE)
    assert left(limits, "192.0.2.1") == 0


# Streams.


def opening(rate: int, burst: int) -> RateLimiter:
    return RateLimiter(Config(subscribe_rate=rate, subscribe_burst=burst))


@pytest.mark.parametrize("burst", [1, 2, 15, 255, 256, 1000, 20_000])
def test_streams_are_opened_in_a_burst_and_then_at_the_rate(clock: Clock, burst: int) -> None:
    """All callers share it. Permits taken in advance are less than a two-hundredth of the burst."""
    limits = opening(8, burst)
    assert taken(limits.stream, most=30_000) == burst
    clock.forward(0.5)
    assert taken(limits.stream) == min(4, burst)
    clock.forward(3600)
    limits.stream()
    clock.forward(3600)
    assert burst <= taken(limits.stream, most=30_000) < burst + min(PERMIT_BATCH, 1 + burst // 200)


def test_a_refused_stream_gets_the_wait(clock: Clock) -> None:
    limits = opening(2, 10)
    taken(limits.stream)
    with pytest.raises(Problem) as refused:
        limits.stream()
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    assert refused.value.detail == (
        "subscribe_rate: 2 streams may be opened in a second, after 10 at once (subscribe_burst);"
        " try again in 1 s"
    )
    clock.forward(0.375)
    assert taken(limits.stream) == 0
    clock.forward(0.125)
    assert taken(limits.stream) == 1


def test_the_limiter_is_asked_for_a_batch_of_permits(monkeypatch: Patch) -> None:
    """Its call is the most expensive part of counting a stream."""
    limits = opening(5000, 20_000)
    asked: list[int] = []
    take = Buckets.take

    def taking(buckets: Buckets, key: str, count: int) -> float:
        asked.append(count)
        return take(buckets, key, count)

    monkeypatch.setattr(Buckets, "take", taking)
    for _ in range(PERMIT_BATCH * 3):
        limits.stream()
    assert asked == [PERMIT_BATCH] * 3


def test_admin_is_not_limited_by_others_at_its_address(clock: Clock) -> None:
    """They may share an untrusted proxy. Its token has its own bucket, apart from theirs."""
    limits = publishing(rate=8, burst=100)
    assert left(limits, HERE) == 100
    admin = Principal(EVERYTHING, subject="operator")
    limits.require_some(address=HERE, principal=admin)
    assert left(limits, HERE, admin) == 100
    clock.forward(1)
    assert left(limits, HERE, admin) == 8
    assert left(limits, HERE) == 8
    assert left(limits, HERE, Principal({Action.PUBLISH: ("*",)}, subject="other")) == 0


# Over HTTP.


def of(address: str) -> str:
    """Return the header by which a trusted proxy names a client."""
    return f"X-Forwarded-For: {address}\r\n"


def bearing(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


async def behind_a_proxy(serve: Serve, **settings: Any) -> LiveServer:
    return await serve(
        **{
            "host": "127.0.0.1",
            "trusted_proxies": ("127.0.0.1",),
            "anonymous_publish": ("*",),
            "publish_rate": 8,
            "publish_burst": 20,
            "max_batch": 20,
            **settings,
        }
    )


REFUSED = (
    b'{"title":"Too Many Requests","status":429,"detail":"publish_rate: one address may publish 8 events'
    b' in a second, after 20 at once (publish_burst); try again in %d s"}\n'
)


async def test_an_address_beyond_its_rate_gets_a_429(serve: Serve, clock: Clock) -> None:
    """Retry-After has the wait. Nothing is published, the connection stays, and others can publish."""
    server = await behind_a_proxy(serve)
    client = await server.connect()
    for _ in range(20):
        assert (await client.ask("POST", "/send", body=b"x", headers=of(HERE)))[0] == 200
    await client.request("POST", "/send", body=b"x", headers=of(HERE))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert await client.take(len(REFUSED % 1)) == REFUSED % 1
    assert (await client.ask("POST", "/send", body=b"x", headers=of("192.0.2.2")))[0] == 200
    assert server.broadcaster.counts.published == 21
    clock.forward(0.125)
    assert (await client.ask("POST", "/send", body=b"x", headers=of(HERE)))[0] == 200


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Type: application/json\r\n", json.dumps([{"message": "x"}] * 15).encode()),
        (NDJSON, b'{"message":"x"}\n' * 15),
    ],
)
async def test_a_batch_counts_as_its_events(serve: Serve, clock: Clock, headers: str, body: bytes) -> None:
    """It is published whole or not at all. An invalid batch counts nothing."""
    server = await behind_a_proxy(serve)
    client = await server.connect()
    headers += of("2001:db8::7")
    assert (await client.ask("POST", "/send", body=body.replace(b"message", b"massage"), headers=headers))[
        0
    ] == 422
    assert (await client.ask("POST", "/send", body=body, headers=headers))[0] == 200
    assert await client.ask("POST", "/send", body=body, headers=headers) == (429, REFUSED % 2)
    for _ in range(5):
        assert (await client.ask("POST", "/send", body=b"x", headers=of("2001:db8::8")))[0] == 200
    assert (await client.ask("POST", "/send", body=b"x", headers=of("2001:db8::8")))[0] == 429
    assert server.broadcaster.counts.published == 20


async def test_loopback_is_not_limited_by_address(serve: Serve, clock: Clock) -> None:
    """A back end beside the server publishes at any rate."""
    server = await behind_a_proxy(serve, trusted_proxies=())
    client = await server.connect()
    for _ in range(30):
        assert (await client.ask("POST", "/send", body=b"x"))[0] == 200


async def test_a_token_is_limited_at_every_address(serve: Serve, clock: Clock) -> None:
    """Loopback is no exception. Another token has its own limit."""
    callers = tuple(CallerRule(name=name, token=name * 20, publish=("*",)) for name in "ab")
    server = await behind_a_proxy(serve, caller=callers)
    client = await server.connect()
    for number in range(20):
        headers = bearing("a" * 20) + (of(f"192.0.2.{number}") if number % 2 else "")
        assert (await client.ask("POST", "/send", body=b"x", headers=headers))[0] == 200
    status, body = await client.ask("POST", "/send", body=b"x", headers=bearing("a" * 20) + of("192.0.2.77"))
    assert (status, body) == (429, (REFUSED % 1).replace(b"address", b"token"))
    assert b"aaaa" not in body
    assert (await client.ask("POST", "/send", body=b"x", headers=bearing("b" * 20)))[0] == 200


async def test_streams_beyond_the_rate_are_refused(serve: Serve, clock: Clock) -> None:
    """A program gets a 429, a browser a reconnection time. Open streams are not affected."""
    server = await serve(subscribe_rate=1, subscribe_burst=2)
    subscribers = [await server.connect(), await server.connect()]
    for subscriber in subscribers:
        assert (await subscriber.subscribe()).startswith(b"HTTP/1.1 200")
        await subscriber.chunk()
    program, browser = await server.connect(), await server.connect()
    await program.request("GET", "/events")
    head = await program.head()
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert b'"detail":"subscribe_rate: 1 stream may be opened' in await program.rest()
    head = await browser.subscribe(headers="Accept: text/event-stream\r\nLast-Event-ID: order-7\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.search(rb"\r\nRetry-After: [123]\d\r\n", head)
    assert blocks.close_block("rate", "order-7").fullmatch(await browser.rest())
    await server.broadcaster.broadcast("x")
    for subscriber in subscribers:
        assert [event.data for event in await subscriber.events(1)] == ["x"]
    assert server.broadcaster.counts.opened == 2


async def test_channels_beyond_the_limit_are_refused(serve: Serve) -> None:
    """A program gets a 503, a browser a reconnection time, until a subscriber leaves."""
    server = await serve(subscribed_channels=3)
    reader, gone = await server.subscriber("/events/a,b*"), await server.connect()
    await gone.subscribe(path="/events/c")
    await until(lambda: server.broadcaster.client_count == 2)
    program, browser, third = [await server.connect() for _ in range(3)]
    await program.request("GET", "/events/a,d")
    head = await program.head()
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 5\r\n" in head
    assert await program.rest() == (
        b'{"title":"Service Unavailable","status":503,"detail":"subscribed_channels: the limit is 3'
        b' different channels and patterns: 3 are in use, so 1 more are too many"}\n'
    )
    head = await browser.subscribe(path="/events/*", headers="Accept: text/event-stream\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert blocks.close_block("full", None).fullmatch(await browser.rest())
    assert (await third.subscribe(path="/events/b*,c")).startswith(b"HTTP/1.1 200 OK\r\n")
    await until(lambda: server.broadcaster.client_count == 3)
    for leaving in (gone, third):
        RawClient.reset(leaving)
    await until(lambda: server.broadcaster.client_count == 1)
    fourth = await server.connect()
    assert (await fourth.subscribe(path="/events/d")).startswith(b"HTTP/1.1 200 OK\r\n")
    await until(lambda: server.broadcaster.client_count == 2)
    await reader.chunk()
    await server.broadcaster.broadcast("x", channels=["bb", "d"])
    assert [event.data for event in await reader.events(1)] == ["x"]


@pytest.mark.both_loops
async def test_a_stream_that_loses_its_room_after_its_head_is_ended(serve: Serve, monkeypatch: Patch) -> None:
    """Others took the last channels meanwhile. The body ends, and the next request gets the reason."""
    server = await serve(subscribed_channels=1)
    other = server.broadcaster.subscribe("other")
    first_frames = server.broadcaster.first_frames

    def meanwhile(*args: Any) -> bytes:
        aiter(other)
        return first_frames(*args)

    monkeypatch.setattr(server.broadcaster, "first_frames", meanwhile)
    subscriber = await server.connect()
    assert (await subscriber.subscribe(path="/events/mine")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert blocks.opening(id=server.broadcaster.cursor).fullmatch(await subscriber.chunk())
    assert await subscriber.rest() == b"0\r\n\r\n"
    assert (server.broadcaster.client_count, server.broadcaster.counts.opened) == (1, 1)
    again = await server.connect()
    assert (await again.ask("GET", "/events/mine"))[0] == 503
    await other.aclose()


async def test_streams_behind_a_proxy_are_limited_by_client_address(serve: Serve) -> None:
    """The limit is that of connections without a proxy. A browser gets a reconnection time."""
    server = await behind_a_proxy(serve, max_connections_per_address=1, anonymous_subscribe=("*",))
    first, second, other = await server.connect(), await server.connect(), await server.connect()
    await first.subscribe(headers=of("192.0.2.1"))
    status, answer = await second.ask("GET", "/events", headers=of("192.0.2.1"))
    detail = "max_connections_per_address: this address has 1 stream, the limit"
    assert (status, json.loads(answer)["detail"]) == (429, detail)
    browser = await server.connect()
    head = await browser.subscribe(headers=f"{of('192.0.2.1')}Accept: text/event-stream\r\n")
    assert b" 200 OK\r\n" in head
    assert b"\r\nConnection: close\r\n" in head
    assert blocks.close_block("address", None).fullmatch(await browser.rest())
    await other.subscribe(headers=of("192.0.2.2"))
    first.close()
    await until(lambda: server.broadcaster.client_count == 1)
    await server.subscriber(headers=of("192.0.2.1"))
    assert server.broadcaster.client_count == 2


def test_buckets_are_kept_if_the_rates_are_the_same(clock: Clock) -> None:
    config = Config(publish_rate=8, publish_burst=4, max_batch=1, subscribe_rate=8, subscribe_burst=4)
    before = RateLimiter(config)
    assert left(before, HERE, ONE) == 4
    assert taken(before.stream) == 4
    same = RateLimiter(config, before=before)
    assert (left(same, HERE, ONE), taken(same.stream)) == (0, 0)
    events = RateLimiter(
        Config(publish_rate=8, publish_burst=5, max_batch=1, subscribe_rate=8, subscribe_burst=4), before=same
    )
    assert (left(events, HERE, ONE), taken(events.stream)) == (5, 0)
    streams = RateLimiter(
        Config(publish_rate=8, publish_burst=5, max_batch=1, subscribe_rate=16, subscribe_burst=4),
        before=events,
    )
    assert (left(streams, HERE, ONE), taken(streams.stream)) == (0, 4)
