"""`sse-broadcast reload`."""

import click

from sse_broadcast.cli.common import run_client
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.cli.server_options import ServerOptions, server_options
from sse_broadcast.cli.visible import say
from sse_broadcast.client import Client
from sse_broadcast.config.schema import Endpoint


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast reload

The command prints the settings that changed, and those that need a restart. If the configuration
has a fault, the server keeps the one it has, and the command prints the fault.

Exit codes: 0 reloaded; 1 the configuration has a fault, the server refused or did not answer;
2 bad usage; 6 reloaded, but output cannot be written.""",
)
@server_options(Endpoint.ADMIN)
def reload(*, server: ServerOptions) -> None:
    """Make the server read its configuration again."""
    run_client(lambda: _reload(server.client()))


async def _reload(client: Client) -> None:
    async with client:
        answer = await client.reload()
    say(f"changed: {', '.join(answer['changed']) or 'nothing'}")
    if answer["restart"]:
        say(f"needs a restart: {', '.join(answer['restart'])}")
