"""GET /subscribers and /subscribers/{id}: the open streams. DELETE closes one."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from sse_broadcast.config.schema import Endpoint, ListenerRule, Overflow
from tests.conftest import LiveServer, Serve
from tests.server.blocks import close_block
from tests.support.asking import Answer, ask, bearer
from tests.support.credentials import STATIC, caller, static
from tests.support.sockets import RawClient, until


def is_joined(server: LiveServer, count: int) -> bool:
    return server.broadcaster.client_count == count


async def join(server: LiveServer, *paths: str) -> list[RawClient]:
    """Open a stream for each path."""
    clients = []
    for path in paths:
        client = await server.subscriber(path)
        clients.append(client)
        await until(partial(is_joined, server, len(clients)))
    return clients


async def get(server: LiveServer, query: str = "") -> Any:
    answer = await ask(server, "GET", f"/subscribers{query}")
    assert answer.status == 200, answer
    return answer.json


def ids(page: dict[str, Any]) -> list[str]:
    return [each["id"] for each in page["subscribers"]]


async def test_a_page_describes_each_subscriber(server: LiveServer) -> None:
    await join(server, "/events/a,x.*?event=t")
    answer = await ask(server, "GET", "/subscribers")
    age = answer.json["subscribers"][0]["age"]
    assert answer.body == (
        b'{"subscribers":[{"id":"1","address":"127.0.0.1","channels":["a","x.*"],"types":["t"],"format":"text",'
        b'"caller":null,"state":"live","age":%s,"events":0,"drops":0,"behind":0,"queued_bytes":0,"lag":0.0}],'
        b'"total":1,"next":null}\n' % str(age).encode()
    )
    assert answer.headers["content-type"] == "application/json"


async def test_a_server_without_subscribers_has_an_empty_page(server: LiveServer) -> None:
    assert (await ask(server, "GET", "/subscribers")).body == b'{"subscribers":[],"total":0,"next":null}\n'


async def test_next_leads_from_page_to_page(server: LiveServer) -> None:
    """It is null on the last page. A subscriber that left in between makes no gap."""
    clients = await join(server, *["/events"] * 5)
    page = await get(server, "?limit=2")
    assert (ids(page), page["total"], page["next"]) == (["1", "2"], 5, "2")
    clients[2].close()
    await until(lambda: server.broadcaster.client_count == 4)
    page = await get(server, f"?limit=2&after={page['next']}")
    assert (ids(page), page["total"], page["next"]) == (["4", "5"], 4, None)


async def test_channel_selects_the_subscribers_that_receive_its_events(server: LiveServer) -> None:
    await join(server, "/events/a", "/events/b", "/events/a,b", "/events/a*", "/events/*b")
    for channel, found in (("a", ["1", "3", "4"]), ("ab", ["4", "5"]), ("c", [])):
        assert ids(await get(server, f"?channel={channel}")) == found
        assert ids(await get(server, f"?channel={channel}&sort=age")) == found
    page = await get(server, "?channel=a&limit=2")
    assert (ids(page), page["total"], page["next"]) == (["1", "3"], 5, "3")
    assert ids(await get(server, "?channel=a&limit=2&after=3")) == ["4"]


async def test_a_sorted_list_has_no_next_page(server: LiveServer) -> None:
    """The order changes all the time, so no position in it is stable."""
    clients = await join(server, "/events/a", "/events/b", "/events/c")
    for channels in (["c"], ["c"], ["b"]):
        await server.broadcaster.broadcast("x", channels=channels)
    for client, count in zip(clients, (0, 1, 2), strict=True):
        await client.events(count)
    page = await get(server, "?sort=events&limit=2")
    assert (ids(page), page["total"], page["next"]) == (["3", "2"], 3, None)


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("sort=slow", "sort: must be one of lag, queue, age, events, drops, not 'slow'"),
        ("sort=", "sort: must be one of lag, queue, age, events, drops, not ''"),
        ("sort=lag&sort=lag", "sort: is given 2 times"),
        ("sort=lag&after=1", "after: cannot be combined with sort; pages are in the order of opening"),
        ("after=", "after: must be an id, not ''"),
        ("after=x", "after: must be an id, not 'x'"),
        ("after=%C2%B2", "after: must be an id, not '\\xb2'"),
        (f"after={'1' * 20}", f"after: must be an id, not '{'1' * 20}'"),
        ("limit=0", "limit: must be 1 to 1000, not '0'"),
        ("limit=1001", "limit: must be 1 to 1000, not '1001'"),
        ("channel=a&channel=b", "channel: is given 2 times"),
        ("channel=a*", "channel: must not contain '*': 'a*'"),
        ("channel=", "channel: must be 1 to 128 characters: ''"),
        ("channels=a", "channels: unknown parameter; did you mean channel?"),
    ],
)
async def test_an_invalid_parameter_is_refused(server: LiveServer, query: str, detail: str) -> None:
    answer = await ask(server, "GET", f"/subscribers?{query}")
    assert (answer.status, answer.detail) == (400, detail)


async def test_one_subscriber_is_described_as_on_a_page(server: LiveServer) -> None:
    await join(server, "/events/a", "/events/b")
    one = (await ask(server, "GET", "/subscribers/2")).json
    (_, listed) = (await get(server))["subscribers"]
    assert {**one, "age": 0} == {**listed, "age": 0}
    assert (await ask(server, "HEAD", "/subscribers/2")).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("id", ["2", "x", "%20", "1" * 200, "%C2%B9"])
async def test_an_unknown_id_is_not_found(server: LiveServer, method: str, id: str) -> None:
    await join(server, "/events")
    answer = await ask(server, method, f"/subscribers/{id}")
    assert answer.status == 404
    if method != "HEAD":
        assert answer.detail.startswith("id: no open stream has the id '")
        assert len(answer.detail) < 120
    assert server.broadcaster.client_count == 1


async def disconnect(server: LiveServer, id: str) -> Answer:
    return await ask(server, "DELETE", f"/subscribers/{id}")


@pytest.mark.both_loops
async def test_delete_closes_the_stream_of_one_subscriber(server: LiveServer) -> None:
    """It gets its queued events, then `$close` with a `retry`. The others stay."""
    one, other = await join(server, "/events", "/events")
    receipt = await server.broadcaster.broadcast("last words")
    assert (await disconnect(server, "1")).body == b'{"status":"disconnected","id":"1"}\n'
    await one.chunk()
    assert await one.chunk() == f"data: last words\nid: {receipt.id}\n\n".encode()
    assert close_block("disconnected", receipt.id).fullmatch(await one.chunk())
    assert await one.rest() == b"0\r\n\r\n"
    await until(lambda: server.connections == 1)
    assert server.broadcaster.counts.closed == {"disconnected": 1}
    assert ids(await get(server)) == ["2"]
    assert (await disconnect(server, "1")).status == 404
    await server.broadcaster.broadcast("x")
    assert (await other.events(2))[1].data == "x"


@pytest.mark.both_loops
async def test_delete_aborts_a_frozen_subscriber_after_its_timeout(serve: Serve) -> None:
    """Until then it is listed, and a second DELETE changes nothing."""
    server = await serve(
        send_buffer=16_384, heartbeat=3600.0, write_timeout=0.5, overflow=Overflow.DROP_OLDEST, queue_size=3
    )
    frozen = await server.connect(receive_buffer=4096)
    await frozen.request("GET", "/events")
    await until(lambda: server.broadcaster.client_count == 1)
    while not server.broadcaster.counts.dropped:
        await server.broadcaster.broadcast("x" * 4000)
    for _ in range(2):
        assert (await disconnect(server, "1")).status == 200
    assert (await ask(server, "GET", "/subscribers/1")).json["state"] == "ending"
    await until(lambda: server.connections == 0)
    assert server.broadcaster.counts.closed == {"disconnected": 1}
    assert ids(await get(server)) == []


async def statuses(server: LiveServer, headers: str, *asked: tuple[str, str]) -> list[int]:
    return [(await ask(server, method, path, headers=headers)).status for method, path in asked]


ASKED = (("GET", "/subscribers"), ("GET", "/subscribers/1"), ("DELETE", "/subscribers/1"))


@pytest.mark.parametrize(
    ("grants", "gets"),
    [
        ({"inspect": ("*",)}, [200, 200, 403]),
        ({"inspect": ("default",)}, [403, 403, 403]),
        ({"admin": ("*",)}, [403, 403, 200]),
        ({"subscribe": ("*",), "publish": ("*",)}, [403, 403, 403]),
        ({"inspect": ("*",), "admin": ("*",)}, [200, 200, 200]),
    ],
)
async def test_only_callers_that_inspect_the_server_see_addresses(
    serve: Serve, grants: dict[str, Sequence[str]], gets: list[int]
) -> None:
    """Only `admin` may close a stream. Others do not learn whether an id exists."""
    server = await serve(caller=(caller("one", **grants),), anonymous_subscribe=("*",))
    await join(server, "/events")
    assert await statuses(server, bearer(static("one")), *ASKED) == gets
    assert await statuses(server, "", *ASKED) == [401, 401, 401]
    assert await statuses(server, "", ("GET", "/subscribers/2"), ("DELETE", "/subscribers/2")) == [401, 401]


@pytest.mark.parametrize(
    ("endpoints", "gets", "allowed"),
    [
        ((Endpoint.INSPECT,), [200, 200, 404], "GET, HEAD, OPTIONS"),
        ((Endpoint.ADMIN,), [404, 404, 200], "DELETE, OPTIONS"),
        ((Endpoint.INSPECT, Endpoint.ADMIN), [200, 200, 200], "GET, HEAD, DELETE, OPTIONS"),
        ((Endpoint.PUBLISH,), [404, 404, 404], None),
    ],
)
async def test_a_listener_accepts_the_methods_of_its_endpoints(
    serve: Serve, endpoints: tuple[Endpoint, ...], gets: list[int], allowed: str | None
) -> None:
    """GET and DELETE belong to different endpoints. Allow has the accepted methods."""
    public = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.SUBSCRIBE,))
    server = await serve(
        listener=(ListenerRule(host="127.0.0.1", port=0, endpoints=endpoints), public),
        token=STATIC,
        anonymous_subscribe=("*",),
    )
    subscriber = await RawClient.open(server.listeners[1].port or 0)
    await subscriber.subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    assert await statuses(server, bearer(STATIC), *ASKED) == gets
    for method, status in (("OPTIONS", 204), ("PATCH", 405)):
        answer = await ask(server, method, "/subscribers/1")
        assert (answer.status, answer.headers.get("allow")) == ((status, allowed) if allowed else (404, None))
    subscriber.close()


async def test_the_response_contains_no_token(serve: Serve) -> None:
    server, client = await serve.connected(token=STATIC)
    await client.subscribe(path=f"/events?access_token={STATIC}")
    await until(lambda: server.broadcaster.client_count == 1)
    answer = await ask(server, "GET", "/subscribers", headers=bearer(STATIC))
    assert json.loads(answer.body)["subscribers"][0]["caller"] == {"kind": "caller", "name": "token"}
    assert STATIC.encode() not in answer.body
