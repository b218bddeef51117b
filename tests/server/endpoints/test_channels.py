"""GET /channels and GET /channels/{channel}."""

import json
import re
from typing import Any

import pytest

from sse_broadcast import broadcaster
from sse_broadcast.backends.memory import channel_index
from tests.conftest import LiveServer, Patch, Serve
from tests.support.sockets import RawClient, until
from tests.support.work import held_up, turns_of


async def fill(server: LiveServer, *channels: str) -> None:
    """Publish an event to each of these channels."""
    for channel in channels:
        await server.broadcaster.broadcast("x", channels=[channel])


async def get(client: RawClient, path: str) -> Any:
    status, body = await client.ask("GET", path)
    assert status == 200, body
    return json.loads(body)


async def test_a_page_lists_channels_by_name(server: LiveServer) -> None:
    """They have history or subscribers."""
    await fill(server, "b", "b", "a")
    epoch = server.broadcaster.cursor.partition("-")[0]
    _, client = await server.live("/events/b,c"), await server.connect()
    assert await client.ask("GET", "/channels") == (
        200,
        (
            '{"channels":['
            f'{{"channel":"a","subscribers":0,"cursor":"{epoch}-3","events":1,"oldest":"{epoch}-3"}},'
            f'{{"channel":"b","subscribers":1,"cursor":"{epoch}-3","events":2,"oldest":"{epoch}-1"}},'
            f'{{"channel":"c","subscribers":1,"cursor":"{epoch}-3","events":0,"oldest":null}}'
            '],"next":null}\n'
        ).encode(),
    )


async def test_a_server_without_channels_has_an_empty_page(server: LiveServer) -> None:
    _, client = await server.live("/events/*"), await server.connect()
    assert await client.ask("GET", "/channels") == (200, b'{"channels":[],"next":null}\n')


async def test_a_channel_has_its_counts_cursor_and_oldest_id(server: LiveServer) -> None:
    """The oldest id is the publisher's own if the event has one."""
    await server.broadcaster.broadcast("x", id="mine", channels=["a"])
    client = await server.connect()
    cursor = server.broadcaster.cursor
    assert await client.ask("GET", "/channels/a") == (
        200,
        f'{{"channel":"a","subscribers":0,"cursor":"{cursor}","events":1,"oldest":"mine"}}\n'.encode(),
    )


@pytest.mark.parametrize("name", ["default", "never-heard-of", "AZaz09._:@~-", "x" * 128, "...", "%61"])
async def test_a_channel_never_used_has_a_state(server: LiveServer, client: RawClient, name: str) -> None:
    """Reading it creates no channel."""
    assert await get(client, f"/channels/{name}") == {
        "channel": name.replace("%61", "a"),
        "subscribers": 0,
        "cursor": server.broadcaster.cursor,
        "events": 0,
        "oldest": None,
    }
    assert server.broadcaster.channels(limit=10) == []


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/channels/a%20b", "channel: must not contain ' ': 'a b'"),
        ("/channels/*", "channel: must not contain '*': '*'"),
        ("/channels/a%2Fb", "channel: must not contain '/': 'a/b'"),
        ("/channels/%2e", "channel: must not be '.', which clients resolve as a folder in a path"),
        ("/channels/%ff", "path: is not UTF-8: '/channels/%ff'"),
        ("/channels?limit=0", "limit: must be 1 to 1000, not '0'"),
        ("/channels?limit=1001", "limit: must be 1 to 1000, not '1001'"),
        ("/channels?limit=" + "9" * 5000, f"limit: must be 1 to 1000, not '{'9' * 80}'"),
        ("/channels?limit=ten", "limit: must be 1 to 1000, not 'ten'"),
        ("/channels?limit=1&limit=1", "limit: is given 2 times"),
        ("/channels?after=a&after=b", "after: is given 2 times"),
        ("/channels?prefx=a", "prefx: unknown parameter; did you mean prefix?"),
        ("/channels?limits=3", "limits: unknown parameter; did you mean limit?"),
    ],
)
async def test_an_invalid_parameter_is_refused(client: RawClient, path: str, detail: str) -> None:
    """The 400 names the parameter, the value and the character."""
    assert await client.refused("GET", path) == (400, detail)


async def test_next_leads_from_page_to_page(server: LiveServer) -> None:
    """`after` takes the value of `next`, which is null on the last page, even if that is full."""
    names = [f"n{number:03}" for number in range(250)]
    await fill(server, *reversed(names))
    client = await server.connect()
    for limit, sizes in (("", [100, 100, 50]), ("limit=125", [125, 125]), ("limit=1000", [250])):
        seen: list[str] = []
        after: str | None = ""
        for size in sizes:
            page = await get(client, f"/channels?after={after}&{limit}")
            assert len(page["channels"]) == size
            seen += [channel["channel"] for channel in page["channels"]]
            after = page["next"]
            assert after in {None, seen[-1]}
        assert (seen, after) == (names, None)


async def test_a_prefix_selects_channels_literally(server: LiveServer) -> None:
    """Its pages work as those of all channels. A prefix without channels has an empty page."""
    await fill(server, "orders.2", "order", "orders.10", "prices.1", "x.orders.3")
    client = await server.connect()

    async def names(query: str) -> tuple[list[str], str | None]:
        page = await get(client, f"/channels?{query}")
        return [channel["channel"] for channel in page["channels"]], page["next"]

    assert await names("prefix=orders.") == (["orders.10", "orders.2"], None)
    assert await names("prefix=order&limit=2") == (["order", "orders.10"], "orders.10")
    assert await names("prefix=order&limit=2&after=orders.10") == (["orders.2"], None)
    assert await names("prefix=orders.*") == ([], None)
    assert await names("prefix=%C3%A9") == ([], None)
    assert await names("after=prices.1") == (["x.orders.3"], None)
    assert await names("after=zzz") == ([], None)
    assert await names("prefix=&after=&limit=1") == (["order"], "order")


async def test_a_subscription_can_begin_at_a_channels_cursor(server: LiveServer) -> None:
    """`since` with it begins right after the events published before the request."""
    await fill(server, "a")
    client, subscriber = await server.connect(), await server.connect()
    cursor = (await get(client, "/channels/a"))["cursor"]
    await server.broadcaster.broadcast("elsewhere")
    await server.broadcaster.broadcast("next", channels=["a"])
    await subscriber.subscribe(path=f"/events/a?since={cursor}")
    assert [event.data for event in await subscriber.events(1)] == ["next"]


async def test_evicted_events_are_not_counted(serve: Serve) -> None:
    """The count and the oldest id describe the events that a subscriber can still get."""
    server = await serve(history_size=3)
    await fill(server, *["a"] * 10)
    client = await server.connect()
    state = await get(client, "/channels/a")
    assert (state["events"], state["oldest"]) == (3, state["cursor"].replace("-10", "-8"))


async def test_subscribers_by_pattern_are_counted(server: LiveServer) -> None:
    """Each counts once, whatever its types."""
    for path in ("/events/orders.1", "/events/orders.*", "/events/*,orders.1?event=x", "/events/orders.2"):
        await server.live(path)
    client = await server.connect()
    assert (await get(client, "/channels/orders.1"))["subscribers"] == 3


@pytest.mark.parametrize("path", ["/channels", "/channels/a"])
async def test_head_is_answered_without_a_body(client: RawClient, path: str) -> None:
    await client.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: application/json\r\n" in head
    await client.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    refused = await client.head()
    assert re.search(rb"\r\nAllow: GET, HEAD, OPTIONS\r\n", refused)


async def test_many_channels_are_listed_in_slices(serve: Serve, monkeypatch: Patch) -> None:
    """The page is the same. Channels created meanwhile may be in it. A client that leaves ends the work."""
    monkeypatch.setattr(broadcaster, "ITEMS_PER_SLICE", 8)
    monkeypatch.setattr(broadcaster, "CHANNELS_PER_SLICE", 2)
    monkeypatch.setattr(channel_index, "NAMES_PER_PAGE", 4)
    server = await serve()
    await fill(server, *(f"c{number:03}" for number in range(200)))
    waiting = turns_of(server.broadcaster.work, monkeypatch)
    client, leaving = await server.connect(), await server.connect()
    page = await get(client, "/channels?limit=50&after=c009")
    assert [each["channel"] for each in page["channels"]] == [f"c{number:03}" for number in range(10, 60)]
    assert page["next"] == "c059"
    assert len(waiting) > 20
    with held_up(monkeypatch):
        await leaving.request("GET", "/channels?limit=50")
        await until(lambda: len(server.broadcaster.work) == 1)
        leaving.reset()
        await until(lambda: len(server.broadcaster.work) == 0)
    assert (await get(client, "/channels?limit=1"))["next"] == "c000"
