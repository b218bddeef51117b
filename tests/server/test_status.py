"""GET /status."""

from tests.conftest import Connect, Serve


async def test_status_is_these_bytes(serve: Serve, connect: Connect) -> None:
    """Every counter, and nothing that is not counted."""
    server = await serve()
    client = await connect(server)
    await client.ask("POST", "/send", body=b"x")
    assert await client.ask("GET", "/status") == (
        200,
        b'{"connected_clients":0,"published":1,"opened":0,"closed":{},"dropped":{},"aborted":0}',
    )
