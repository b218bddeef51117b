"""`sse-broadcast disconnect`."""

import click

from sse_broadcast.cli.common import run_client
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.cli.server_options import ServerOptions, server_options
from sse_broadcast.client import Client
from sse_broadcast.config.schema import Endpoint


def _require_id(_: click.Context, __: click.Parameter, id: str) -> str:
    if not (id.isascii() and id.isdigit()):
        raise click.BadParameter(f"{id!r} is not an id; `status --watch` and the server's log show the ids")
    return id


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast disconnect 17

The subscriber gets the event `$close` with the reason `disconnected`. Browsers reconnect after a while:
to keep a subscriber away, revoke its token. A connection that takes no bytes is cut after write_timeout.

Exit codes: 0 disconnected; 1 no such subscriber, the server refused or did not answer; 2 bad usage.""",
)
@click.argument("id", callback=_require_id)
@server_options(Endpoint.ADMIN)
def disconnect(*, server: ServerOptions, id: str) -> None:
    """End the stream of one subscriber."""
    run_client(lambda: _disconnect(server.client(), id))


async def _disconnect(client: Client, id: str) -> None:
    async with client:
        await client.disconnect(id)
