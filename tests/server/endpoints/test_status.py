"""GET /status."""

from tests.conftest import LiveServer
from tests.support.sockets import RawClient, until


async def test_status_has_every_counter(client: RawClient) -> None:
    """It has nothing that is not counted."""
    await client.ask("POST", "/send", body=b"x")
    assert await client.ask("GET", "/status") == (
        200,
        b'{"connected_clients":0,"published":1,"opened":0,"closed":{},"dropped":{},"resets":{},"aborted":0,"refused":{}}\n',
    )


async def test_status_counts_resets_and_closed_subscribers_by_reason(server: LiveServer) -> None:
    subscriber, client = await server.connect(), await server.connect()
    await subscriber.subscribe(path="/events?last_event_id=nobody-knows")
    assert (await subscriber.events(1))[0].type == "$reset"
    assert await client.ask("GET", "/status") == (
        200,
        (
            b'{"connected_clients":1,"published":0,"opened":1,"closed":{},"dropped":{},'
            b'"resets":{"unknown":1},"aborted":0,"refused":{}}\n'
        ),
    )
    subscriber.close()
    await until(lambda: server.broadcaster.client_count == 0)
    assert b'"closed":{"left":1}' in (await client.ask("GET", "/status"))[1]


async def test_a_batch_counts_each_of_its_events(server: LiveServer, client: RawClient) -> None:
    """An event that an idempotency key kept from being published again counts once."""
    for _ in range(2):
        await client.ask(
            "POST",
            "/send",
            body=b'{"message":"a"}\n{"message":"b"}\n',
            headers="Content-Type: application/x-ndjson\r\nIdempotency-Key: k\r\n",
        )
    assert server.broadcaster.counts.published == 2
