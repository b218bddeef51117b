"""`sse-broadcast disconnect`."""

import pytest

from tests.conftest import Connect, Serve
from tests.support import process
from tests.support.credentials import STATIC
from tests.support.process import Ended, Programs
from tests.support.sockets import until

programs = pytest.fixture(process.programs)


async def test_a_subscriber_is_disconnected(serve: Serve, connect: Connect, programs: Programs) -> None:
    """It gets the reason. No other is affected, and the command prints nothing."""
    server = await serve(token=STATIC, anonymous_subscribe=("*",))
    one, other = await connect(server), await connect(server)
    for client in (one, other):
        await client.subscribe()
    await until(lambda: server.broadcaster.client_count == 2)
    env = {"SSE_BROADCAST_TOKEN": STATIC}
    assert await programs.run("disconnect", "1", "--url", server.url, env=env) == Ended(0)
    assert b'data: {"reason": "disconnected"}' in await one.rest()
    assert server.broadcaster.client_count == 1
    again = await programs.run("disconnect", "1", "--url", server.url, env=env)
    assert again == Ended(
        1,
        err=(
            f"sse-broadcast: {server.url}/subscribers/1: 404 Not Found: id: no open stream has the id '1'\n"
        ).encode(),
    )


async def test_disconnecting_needs_a_permission(serve: Serve, connect: Connect, programs: Programs) -> None:
    server = await serve(token=STATIC, anonymous_subscribe=("*",))
    await (await connect(server)).subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    ended = await programs.run("disconnect", "1", "--url", server.url)
    assert ended.code == 1
    assert b"401 Unauthorized: admin '*': needs a token" in ended.err
    assert b"set SSE_BROADCAST_TOKEN" in ended.err
    assert server.broadcaster.client_count == 1


@pytest.mark.parametrize("id", ["", "x", "-1", "1/../2", "1?x", "\u0661"])
async def test_a_malformed_id_sends_no_request(programs: Programs, id: str) -> None:
    ended = await programs.run("disconnect", "--url", "http://not.used.invalid", "--", id)
    assert (ended.code, b"is not an id" in ended.err) == (2, True)
