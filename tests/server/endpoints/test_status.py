"""GET /status."""

from tests.conftest import LiveServer
from tests.support.sockets import RawClient, until


async def test_status_is_these_bytes(client: RawClient) -> None:
    """Every counter, and nothing that is not counted."""
    await client.ask("POST", "/send", body=b"x")
    assert await client.ask("GET", "/status") == (
        200,
        b'{"connected_clients":0,"published":1,"opened":0,"closed":{},"dropped":{},"resets":{},"aborted":0,"refused":{}}\n',
    )


async def test_what_befell_readers_is_told_by_its_reason(server: LiveServer) -> None:
    reader, client = await server.connect(), await server.connect()
    await reader.subscribe(path="/events?last_event_id=nobody-knows")
    assert (await reader.events(1))[0].type == "$reset"
    assert await client.ask("GET", "/status") == (
        200,
        (
            b'{"connected_clients":1,"published":0,"opened":1,"closed":{},"dropped":{},'
            b'"resets":{"unknown":1},"aborted":0,"refused":{}}\n'
        ),
    )
    reader.close()
    await until(lambda: server.broadcaster.client_count == 0)
    assert b'"closed":{"left":1}' in (await client.ask("GET", "/status"))[1]


async def test_a_batch_counts_each_of_its_events(server: LiveServer, client: RawClient) -> None:
    """And an event that an idempotency key kept from being published again counts once."""
    for _ in range(2):
        await client.ask(
            "POST",
            "/send",
            body=b'{"message":"a"}\n{"message":"b"}\n',
            headers="Content-Type: application/x-ndjson\r\nIdempotency-Key: k\r\n",
        )
    assert server.broadcaster.counts.published == 2
