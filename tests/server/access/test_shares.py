"""Shares: limits of one caller, so that others and an admin find room."""

import logging
from typing import Any

import pytest

from sse_broadcast.auth.principal import EVERYTHING, Principal
from sse_broadcast.channels import Selector
from sse_broadcast.config.schema import Config
from sse_broadcast.metrics import Metrics, Share
from sse_broadcast.server.access.shares import BODIES, Shares, callers_of, name_of
from sse_broadcast.server.http.json_body import largest_body
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.services import SHARES
from tests.conftest import Caplog, Serve
from tests.support.asking import Answer, ask, bearer
from tests.support.credentials import STATIC, caller, static
from tests.support.internals import followed_of, held_bytes_of
from tests.support.sockets import until

PROXY: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",), "anonymous_subscribe": ("*",), "token": STATIC}


def shares_of(**settings: Any) -> Shares:
    return Shares(Config(**settings), Metrics())


def from_address(host: str) -> str:
    return f"X-Forwarded-For: {host}\r\n"


def test_a_request_counts_for_its_address_and_its_credential() -> None:
    """A loopback address does not count, and an admin counts for neither."""
    one = Principal(subject="one", static=True)
    assert callers_of(Principal(), None) == ()
    assert callers_of(Principal(), "192.0.2.1") == ("192.0.2.1",)
    assert callers_of(one, "192.0.2.1") == ("192.0.2.1", ("caller", "one", None))
    assert callers_of(Principal(EVERYTHING), None) == ()
    assert callers_of(Principal(EVERYTHING, "root", static=True), "192.0.2.1") is None
    assert [name_of("192.0.2.1"), name_of(("subject", "a\nb", "id"))] == [
        "address 192.0.2.1",
        r"subject a\nb",
    ]


async def follow_all(serve: Serve, hosts: list[str]) -> tuple[Any, dict[str, int]]:
    """Subscribe from each address in turn to new channels until all are refused.

    Return the channels of each.
    """
    server = await serve(**PROXY, subscribed_channels=30)
    held, left = dict.fromkeys(hosts, 0), set(hosts)
    while left:
        for host in sorted(left):
            number = sum(held.values())
            client = await server.connect()
            head = await client.subscribe(path=f"/events/c{number}", headers=from_address(host))
            if head.startswith(b"HTTP/1.1 200"):
                held[host] += 1
                await until(lambda count=number: server.broadcaster.client_count == count + 1)  # type: ignore[misc]
            else:
                assert head.startswith(b"HTTP/1.1 429")
                left.remove(host)
    return server, held


async def test_two_addresses_cannot_take_all_channels(serve: Serve, caplog: Caplog) -> None:
    """A third gets as many as each. A refusal is counted, and logged once with its address."""
    hosts = ["192.0.2.1", "192.0.2.2"]
    with caplog.at_level(logging.WARNING, "sse_broadcast.shares"):
        server, held = await follow_all(serve, hosts)
    assert list(held.values()) == [10, 10]
    answer = await ask(server, "GET", "/events/other", headers=from_address(hosts[0]))
    reported = "subscribed_channels: this address would have 11 different channels and patterns"
    assert (answer.status, answer.detail) == (
        429,
        f"{reported}, and leave room for 9; it may not have more than it leaves to others",
    )
    third = await server.connect()
    assert b" 200 " in await third.subscribe(path="/events/mine", headers=from_address("192.0.2.3"))
    shared = await server.connect()
    assert b" 200 " in await shared.subscribe(path="/events/c0,c1", headers=from_address(hosts[1]))
    assert server.broadcaster.metrics.shares_reached == {Share.CHANNELS: 3}
    assert [record.getMessage() for record in caplog.records] == [
        "address 192.0.2.1 has reached its share of channels, refusing more (subscribed_channels)"
    ]


async def test_an_admin_is_not_refused_for_what_others_use(serve: Serve) -> None:
    """None of their channels, streams, rates and connections counts for it."""
    server = await serve(
        **PROXY,
        subscribed_channels=2,
        subscribe_rate=1,
        subscribe_burst=2,
        publish_rate=1,
        publish_burst=1000,
    )
    for number in range(2):
        await server.subscriber(f"/events/c{number}")
    await until(lambda: server.broadcaster.client_count == 2)
    assert (await ask(server, "GET", "/events/new")).status in {429, 503}
    for number in range(3):
        root = await server.connect()
        head = await root.subscribe(path=f"/events/r{number},*", headers=bearer(STATIC))
        assert head.startswith(b"HTTP/1.1 200")


async def test_a_caller_gets_its_channels_back_when_it_leaves(serve: Serve) -> None:
    server = await serve(**PROXY, subscribed_channels=30, caller=(caller("one", subscribe=("*",)),))
    clients = []
    for channels in ("a", "a", "a,b", "a,b", "b,c*"):
        clients.append(await server.connect())
        await clients[-1].subscribe(
            path=f"/events/{channels}", headers=from_address("192.0.2.1") + bearer(static("one"))
        )
    shares = server.app[SHARES]
    await until(lambda: server.broadcaster.client_count == 5)
    assert followed_of(shares) == [["a", "b", "c*"]] * 2
    for client in clients:
        client.close()
    await until(lambda: not followed_of(shares))


async def test_bodies_being_read_have_shares() -> None:
    """One caller may have half of the room, and the next one half of the rest."""
    shares = shares_of(max_event=1000, max_body=1000)
    total = BODIES * largest_body(Config(max_event=1000, max_body=1000))
    shares.hold(("a",), total // 2)
    with pytest.raises(Problem, match="bytes of this address are being read"):
        shares.hold(("a",), 1)
    shares.hold(("b",), total // 4)
    with pytest.raises(Problem, match="bytes of all requests together is reached"):
        shares.hold((), total)
    shares.hold(None, total)
    shares.release(None, total)
    shares.release(("a",), total // 2)
    shares.release(("b",), total // 4)
    assert (shares.body_bytes, held_bytes_of(shares)) == (0, {})


async def test_one_address_cannot_take_the_rate_of_streams(serve: Serve) -> None:
    server = await serve(**PROXY, subscribe_rate=4, subscribe_burst=8)
    found: list[Answer] = []
    for host in ["192.0.2.1"] * 2:
        client = await server.connect()
        assert b" 200 " in await client.subscribe(headers=from_address(host))
    found.append(await ask(server, "GET", "/events", headers=from_address("192.0.2.1")))
    assert (found[0].status, found[0].headers["retry-after"]) == (429, "1")
    client = await server.connect()
    assert b" 200 " in await client.subscribe(headers=from_address("192.0.2.2"))


async def test_channels_with_subscribers_are_open_beyond_a_share() -> None:
    """They cost nothing more."""
    shares = shares_of()
    shares.follow(("a",), Selector.parse("x", "y", "z"), new=3, left=3)
    with pytest.raises(Problem, match="would have 4"):
        shares.follow(("a",), Selector.parse("new"), new=1, left=2)
    shares.follow(("a",), Selector.parse("old"), new=0, left=0)
