"""Admission control: connections up to the limits and beyond."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from sse_broadcast import reminder
from sse_broadcast.config.schema import Endpoint, ListenerRule
from sse_broadcast.metrics import Share
from sse_broadcast.server.endpoints.metrics import EXPOSITION
from sse_broadcast.server.transport import admission, rejection, reserve
from sse_broadcast.server.transport.admission import ACCEPTS, OWN_DESCRIPTORS, private_share, room
from sse_broadcast.server.transport.listener import Listener
from sse_broadcast.server.transport.reserve import MAX_LET_IN, MAX_REJECTING, MAX_REJECTING_PER_ADDRESS
from tests.conftest import Caplog, Patch, Serve
from tests.server.blocks import close_block
from tests.server.transport.conftest import ASK, health, refused
from tests.support.credentials import AUDIENCE, ISSUER, STATIC, caller, claims, static, write_jwks
from tests.support.internals import addresses_of
from tests.support.reloading import tasks
from tests.support.signing import token
from tests.support.sockets import RawClient, until


async def test_a_closed_connection_makes_room(serve: Serve) -> None:
    server = await serve(max_connections=2)
    for _ in range(5):
        first, second = await server.subscriber(), await server.connect()
        await second.subscribe()
        first.close()
        second.close()
        await until(lambda: server.connections == 0)


# The limit by address.


TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\n"
    b"Content-Type: application/problem+json\r\n"
    b"Retry-After: 5\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Content-Length: 125\r\n"
    b"Connection: close\r\n\r\n"
    b'{"title":"Too Many Requests","status":429,'
    b'"detail":"connection limit of this address reached (max_connections_per_address)"}\n'
)


@pytest.mark.usefixtures("no_loopback")
async def test_connections_of_an_address_are_limited(serve: Serve) -> None:
    """A further one is rejected with a reconnection time. Others are not affected."""
    server = await serve(max_connections_per_address=2)
    subscribers = [await server.connect(source="127.0.0.2") for _ in range(2)]
    for subscriber in subscribers:
        await subscriber.subscribe()
    for _ in range(3):
        late = await server.connect(source="127.0.0.2")
        await late.send(ASK)
        assert await late.rest() == TOO_MANY
    other = await server.connect(source="127.0.0.3")
    assert (await other.ask("GET", "/healthz"))[0] == 200
    await server.broadcaster.broadcast("still here")
    for subscriber in subscribers:
        assert (await subscriber.events(1))[0].data == "still here"
    assert server.broadcaster.counts.refused == {"address": 3}


@pytest.mark.usefixtures("no_loopback")
async def test_a_browser_beyond_the_limit_of_its_address_reconnects(serve: Serve) -> None:
    """EventSource gets a 200 with a reconnection time."""
    server = await serve(max_connections_per_address=1)
    await (await server.connect(source="127.0.0.2")).subscribe()
    late = await server.connect(source="127.0.0.2")
    head = await late.subscribe(headers="Accept: text/event-stream\r\nLast-Event-ID: order-7\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
    assert close_block("address", "order-7").fullmatch(await late.rest())


@pytest.mark.parametrize("leave", ["fin", "rst", "silent", "malformed"])
@pytest.mark.usefixtures("no_loopback")
async def test_a_closed_connection_makes_room_for_its_address(serve: Serve, leave: str) -> None:
    """It may end in any way. Nothing is kept of an address without connections."""
    server = await serve(max_connections_per_address=2, head_timeout=0.05 if leave == "silent" else 10)
    keeper = await server.connect(source="127.0.0.2")
    await keeper.subscribe()
    for _ in range(10):
        client = await server.connect(source="127.0.0.2")
        await until(lambda: server.connections == 2)
        if leave == "fin":
            client.close()
        elif leave == "rst":
            client.reset()
        elif leave == "malformed":
            await client.send(b"nothing\r\n\r\n")
        await until(lambda: server.connections == 1)
    keeper.close()
    await until(lambda: server.connections == 0)
    counts = server.app[EXPOSITION].connection_counts
    assert counts is not None
    assert addresses_of(counts) == {}


@pytest.mark.usefixtures("no_loopback")
async def test_a_trusted_proxy_is_not_limited(serve: Serve) -> None:
    server = await serve(max_connections_per_address=1, trusted_proxies=("127.0.0.2/31",))
    for source in ("127.0.0.2", "127.0.0.2", "127.0.0.3"):
        assert (await (await server.connect(source=source)).ask("GET", "/healthz"))[0] == 200
    first, second = await server.connect(source="127.0.0.4"), await server.connect(source="127.0.0.4")
    assert (await first.ask("GET", "/healthz"))[0] == 200
    await second.send(ASK)
    assert await second.rest() == TOO_MANY


@pytest.mark.usefixtures("no_loopback")
async def test_a_limit_of_0_is_no_limit(serve: Serve) -> None:
    server = await serve(max_connections_per_address=0)
    for _ in range(5):
        assert (await (await server.connect(source="127.0.0.2")).ask("GET", "/healthz"))[0] == 200


async def test_loopback_is_not_limited(serve: Serve) -> None:
    """Proxies and tools connect from there."""
    server = await serve(max_connections_per_address=1)
    for _ in range(5):
        assert (await (await server.connect(source="127.0.0.1")).ask("GET", "/healthz"))[0] == 200


async def test_an_address_of_a_network_is_counted(serve: Serve) -> None:
    """Nothing is faked here: the machine connects from its own network address."""
    host = own_address()
    server = await serve(host="0.0.0.0", max_connections_per_address=1)
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        clients = []
        for address_of in (host, host, "127.0.0.1", "127.0.0.1"):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            await loop.sock_connect(sock, (address_of, server.port))
            clients.append(RawClient(sock))
            await clients[-1].send(ASK)
        heads = [(await client.head()).split()[1] for client in clients]
    assert heads == [b"401", b"429", b"401", b"401"]
    assert server.broadcaster.counts.refused["address"] == 1


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but the loopback's")
        return str(sock.getsockname()[0])


@pytest.mark.usefixtures("no_loopback")
async def test_rejections_are_logged_once_in_a_while(
    serve: Serve, caplog: Caplog, monkeypatch: Patch
) -> None:
    """Otherwise rejected clients could fill the log."""
    server = await serve(max_connections=2, max_connections_per_address=1)
    await (await server.connect(source="127.0.0.2")).subscribe()
    for _ in range(3):
        assert await refused(await server.connect(source="127.0.0.2"))
    await (await server.connect(source="127.0.0.3")).subscribe()
    for _ in range(3):
        assert await refused(await server.connect(source="127.0.0.4"))
    of_one = (
        "127.0.0.2: 1 connection (max_connections_per_address), rejecting more;"
        " if this is a proxy, add it to trusted_proxies"
    )
    reported = [of_one, "full: 2 connections (max_connections), rejecting more"]
    assert caplog.messages == reported
    assert server.broadcaster.counts.refused == {"address": 3, "full": 3}
    monkeypatch.setattr(reminder, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 60))
    assert await refused(await server.connect(source="127.0.0.4"))
    assert caplog.messages == [*reported, reported[1]]


@pytest.mark.usefixtures("no_loopback")
async def test_rejected_connections_of_one_address_are_limited(serve: Serve) -> None:
    """Those that send nothing are closed unanswered once the reserve is full, and not counted as rejected."""
    server = await serve(max_connections_per_address=1)
    subscriber = await server.connect(source="127.0.0.2")
    await subscriber.subscribe()
    crowd = [await server.connect(source="127.0.0.2") for _ in range(MAX_REJECTING * 2)]
    ended = await asyncio.gather(*(client.rest() for client in crowd), return_exceptions=True)
    assert all(end == b"" or isinstance(end, ConnectionError) for end in ended)
    assert server.connections == 1
    await server.broadcaster.broadcast("x")
    assert (await subscriber.events(1))[0].data == "x"


# Health checks.


# Callers with `admin`, and private listeners.

ADMIN = {
    "caller": (
        caller("operator", publish=["a"], subscribe=["a"], admin=["*"]),
        caller("narrow", publish=["a"], subscribe=["a"]),
    ),
    "token": STATIC,
}


def showing(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


OPERATOR, NARROW = showing(static("operator")), showing(static("narrow"))


async def publishes(client: RawClient, headers: str, *, path: str = "/send/a") -> int:
    """Publish on a new connection, and return the status. The connection is closed and uncounted then."""
    status, _ = await client.ask("POST", path, body=b"x", headers=headers)
    assert await client.rest() == b""
    return status


@pytest.mark.parametrize("reason", ["full", "address"])
@pytest.mark.usefixtures("no_loopback")
async def test_an_admin_publishes_beyond_the_limit(serve: Serve, reason: str) -> None:
    """It has one request per connection, and takes no place. A token without `admin` is refused."""
    limits = {"max_connections": 1} if reason == "full" else {"max_connections_per_address": 1}
    server = await serve(**ADMIN, **limits)
    subscriber = await server.connect(source="127.0.0.2")
    await subscriber.subscribe(path="/events/a", headers=OPERATOR)
    for _ in range(3):
        for headers in (OPERATOR, OPERATOR.lower(), showing(STATIC)):
            assert await publishes(await server.connect(source="127.0.0.2"), headers) == 200
            assert (await subscriber.events(1))[0].data == "x"
        for headers in (NARROW, showing("of-nobody.0123456789"), showing("e30.e30.e30"), ""):
            refused_client = await server.connect(source="127.0.0.2")
            await refused_client.request("POST", "/send/a", body=b"x", headers=headers)
            assert b"connection limit" in await refused_client.rest()
    await until(lambda: server.connections == 1)
    assert server.broadcaster.counts.refused == {reason: 12}


async def test_a_request_of_an_admin_may_come_in_pieces(serve: Serve) -> None:
    """The head and the body arrive separately. A pipelined request is not served."""
    server = await serve(**ADMIN, max_connections=1)
    await (await server.connect()).subscribe(path="/events/a", headers=OPERATOR)
    client = await server.connect()
    head = f"POST /send/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n{OPERATOR}\r\n".encode()
    for piece in (head[:20], head[20:-3], head[-3:] + b"he", b"llo" + ASK):
        await client.send(piece)
        await asyncio.sleep(0)
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("path", ["/events", "/events/a", "http://any.example/events/a?x=1"])
async def test_the_reserve_is_not_for_streams(serve: Serve, path: str) -> None:
    server = await serve(**ADMIN, max_connections=1)
    await (await server.connect()).subscribe(path="/events/a", headers=OPERATOR)
    head = await (await server.connect()).subscribe(path=path, headers=OPERATOR)
    assert head.startswith(b"HTTP/1.1 503 ")


async def test_no_request_is_admin_without_a_credential(serve: Serve) -> None:
    """An open server rejects all connections beyond its limit."""
    server = await serve(max_connections=1)
    await (await server.connect()).subscribe()
    assert await refused(await server.connect())


@pytest.mark.usefixtures("no_loopback")
async def test_many_connections_do_not_keep_an_admin_out(serve: Serve) -> None:
    """One that is slow to send its request is not closed for any number of others."""
    server = await serve(**ADMIN, max_connections=1)
    await (await server.connect(source="127.0.0.2")).subscribe(path="/events/a", headers=OPERATOR)
    operator = await server.connect(source="127.0.0.9")
    await operator.send(b"POST /send/a HTTP/1.1\r\n")
    await until(lambda: len(server.admission.reserve) == 1)
    for number in range(3 * MAX_REJECTING):
        await (await server.connect(source=f"127.0.0.{2 + number % 3}")).send(b"GET")
    await until(lambda: server.broadcaster.metrics.shares_reached[Share.CONNECTIONS] == 1 + 3 * MAX_REJECTING)
    assert len(server.admission.reserve) <= MAX_REJECTING
    await operator.send(f"Host: x\r\nContent-Length: 1\r\n{OPERATOR}\r\nx".encode())
    assert (await operator.answer())[0] == 200


async def test_a_head_that_has_arrived_is_read_before_its_connection_is_closed(
    serve: Serve, monkeypatch: Patch
) -> None:
    """Many connections are accepted in one turn of the loop, before the admin's head is read."""
    monkeypatch.setattr(reserve, "MAX_REJECTING", 4)
    server = await serve(**ADMIN, max_connections=1)
    with ExitStack() as stack:

        def arrive() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))

        first = arrive()
        await until(lambda: server.connections == 1)
        # There is no await between them, so all wait to be accepted.
        for _ in range(3):
            operator = arrive()
            head = f"POST /send/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n{OPERATOR}\r\nx"
            operator.sendall(head.encode())
            for _ in range(2 * MAX_REJECTING):
                arrive()
            answer = await asyncio.to_thread(operator.recv, 4096)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        first.close()


@pytest.mark.usefixtures("no_loopback")
async def test_the_use_of_a_share_is_visible(serve: Serve, caplog: Caplog) -> None:
    """There are counters, and a line a minute with the address and the setting."""
    server = await serve(**ADMIN, max_connections=1)
    await (await server.connect(source="127.0.0.2")).subscribe(path="/events/a", headers=OPERATOR)
    for _ in range(MAX_REJECTING_PER_ADDRESS + 3):
        await server.connect(source="127.0.0.3")
    await until(lambda: server.broadcaster.metrics.shares_reached[Share.RESERVE] == 3)
    assert caplog.messages == [
        "full: 1 connection (max_connections), rejecting more",
        "127.0.0.3: too many connections beyond max_connections, aborting its oldest",
    ]


async def test_the_number_of_admitted_admins_is_limited(
    serve: Serve, caplog: Caplog, monkeypatch: Patch
) -> None:
    """File descriptors are. Health checks are still answered."""
    monkeypatch.setattr(admission, "MAX_LET_IN", 2)
    server = await serve(**ADMIN, max_connections=1)
    await (await server.connect()).subscribe(path="/events/a", headers=OPERATOR)
    slow = [await server.connect() for _ in range(2)]
    for client in slow:
        await client.send(f"POST /send/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n{OPERATOR}\r\n".encode())
    await until(lambda: server.connections == 3)
    late = await server.connect()
    await late.request("POST", "/send/a", body=b"x", headers=OPERATOR)
    assert b"connection limit reached" in await late.rest()
    assert await health(server) == 200
    assert caplog.messages[1:] == [
        "callers with admin have 2 connections beyond max_connections, rejecting more"
    ]
    for client in slow:
        await client.send(b"x")
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""
    assert await publishes(await server.connect(), OPERATOR) == 200


@pytest.fixture
def issued(tmp_path: Path) -> dict[str, str]:
    """Return settings for accepting the tokens of an issuer."""
    return {"jwt_jwks": write_jwks(tmp_path), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


def signed(grants: dict[str, list[str]]) -> str:
    return showing(token("RS256", claims(grants=grants), header={"kid": "RS256"}))


async def test_a_signed_token_is_verified_before_admission(serve: Serve, issued: dict[str, str]) -> None:
    """That may wait for a remote key. A token without `admin` is refused."""
    server = await serve(**issued, max_connections=1, anonymous_subscribe=("a",))
    await (await server.connect()).subscribe(path="/events/a")
    operator = signed({"publish": ["a"], "admin": ["*"]})
    for _ in range(2):
        assert await publishes(await server.connect(), operator) == 200
    other = await server.connect()
    await other.request("POST", "/send/a", body=b"x", headers=signed({"publish": ["a"]}))
    assert b"connection limit reached" in await other.rest()


@pytest.mark.parametrize("end", ["verified", "late", "closed", "broken"])
async def test_a_slow_verification_is_cut_off(
    serve: Serve, issued: dict[str, str], monkeypatch: Patch, caplog: Caplog, end: str
) -> None:
    """The connection keeps its place no longer than any other, and nothing of it is left."""
    monkeypatch.setattr(rejection, "REJECTION_TIMEOUT", 0.1 if end == "late" else 600)
    server = await serve(**issued, max_connections=1, anonymous_subscribe=("a",))
    verified, asked = asyncio.Event(), asyncio.Event()

    async def verify(_: str) -> bool:
        asked.set()
        await verified.wait()
        if end == "broken":
            raise ZeroDivisionError
        return True

    monkeypatch.setattr(server.services.authorizer, "verify_admin", verify)
    await (await server.connect()).subscribe(path="/events/a")
    await until(lambda: server.broadcaster.client_count == 1)
    client, before = await server.connect(), tasks()
    await client.request("POST", "/send/a", body=b"x", headers=signed({"publish": ["a"], "admin": ["*"]}))
    await asked.wait()
    assert len(server.admission.reserve) == 1
    if end == "closed":
        await server.stop()
    elif end == "late":
        assert await client.rest() == b""
    else:
        verified.set()
        status, _ = await client.answer()
        assert status == (503 if end == "broken" else 200)
        assert ("cannot verify the token of a connection beyond max_connections" in caplog.text) == (
            end == "broken"
        )
    await until(lambda: tasks() <= before)
    if end in {"late", "closed"}:
        assert len(server.admission.reserve) == 0


PUBLIC = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.SUBSCRIBE, Endpoint.PUBLISH))
PRIVATE = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.PUBLISH, Endpoint.INSPECT))

ComeBy = Callable[[Listener, str], Awaitable[RawClient]]


@pytest.fixture
async def come_by() -> AsyncIterator[ComeBy]:
    """Connect to a listener from an address, and close the sockets when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_socket(listener: Listener, source: str) -> RawClient:
            assert listener.port is not None
            client = await RawClient.open(listener.port, source=source)
            stack.callback(client.close)
            return client

        yield open_socket


@pytest.mark.usefixtures("no_loopback")
async def test_a_private_listener_has_a_share_of_the_connections(serve: Serve, come_by: ComeBy) -> None:
    """Public ones cannot use it. It may have more while there is room."""
    server = await serve(**ADMIN, listener=(PUBLIC, PRIVATE), max_connections=4)
    public, private = server.listeners
    assert (server.room, server.private_share) == (4, 1)
    subscribers = [await come_by(public, f"127.0.0.{number}") for number in range(2, 6)]
    heads = [await subscriber.subscribe(path="/events/a", headers=OPERATOR) for subscriber in subscribers]
    assert [head.split()[1] for head in heads] == [b"200", b"200", b"200", b"503"]
    operator = await come_by(private, "127.0.0.2")
    assert (await operator.ask("POST", "/send/a", body=b"x", headers=NARROW))[0] == 200
    assert (await subscribers[0].events(1))[0].data == "x"
    late = await come_by(private, "127.0.0.2")
    await late.request("POST", "/send/a", body=b"x", headers=NARROW)
    assert b"connection limit reached" in await late.rest()
    for subscriber in subscribers[1:]:
        subscriber.close()
    await until(lambda: server.connections == 2)
    others = [await come_by(private, "127.0.0.2") for _ in range(2)]
    for other in others:
        assert (await other.ask("POST", "/send/a", body=b"x", headers=NARROW))[0] == 200
    assert server.connections == 4
    full = await come_by(public, "127.0.0.2")
    assert (await full.subscribe(path="/events/a", headers=NARROW)).startswith(b"HTTP/1.1 503 ")


@pytest.mark.usefixtures("no_loopback")
async def test_a_private_listener_counts_addresses_separately(serve: Serve, come_by: ComeBy) -> None:
    """Clients of public listeners at the same address take none of its places."""
    server = await serve(**ADMIN, listener=(PUBLIC, PRIVATE), max_connections_per_address=1)
    public, private = server.listeners
    for listener in (public, private):
        client = await come_by(listener, "127.0.0.2")
        assert (await client.ask("POST", "/send/a", body=b"x", headers=NARROW))[0] == 200
        late = await come_by(listener, "127.0.0.2")
        await late.request("POST", "/send/a", body=b"x", headers=NARROW)
        assert await late.rest() == TOO_MANY


async def test_an_admin_is_admitted_at_a_unix_socket_too(serve: Serve, tmp_path: Path) -> None:
    """Its clients have no address, and do not count against one another."""
    path = str(tmp_path / "socket")
    rule = ListenerRule(host=f"unix:{path}", endpoints=tuple(Endpoint))
    server = await serve(**ADMIN, listener=(rule,), max_connections=1)
    first = await RawClient.open_unix(path)
    await first.subscribe(path="/events/a", headers=OPERATOR)
    for _ in range(2):
        client = await RawClient.open_unix(path)
        assert await publishes(client, OPERATOR) == 200
        client.close()
    first.close()
    await until(lambda: server.connections == 0)


@pytest.mark.parametrize(("connections", "share"), [(1, 0), (2, 1), (16, 1), (144, 9), (100_000, 256)])
def test_the_share_of_private_listeners_is_within_the_limit(connections: int, share: int) -> None:
    """Public ones have a place at least."""
    assert private_share(connections) == share


# The limit itself.


def test_the_limit_leaves_descriptors_for_everything_else() -> None:
    """With 256 descriptors, connections get those beyond the reserve and the server's own."""
    assert room(256, sockets=1) == 256 - MAX_REJECTING - MAX_LET_IN - OWN_DESCRIPTORS
    assert room(256, sockets=3) == room(256, sockets=1) - 2 * 2 * ACCEPTS
    assert room(10, sockets=1) == 1
