"""`sse-broadcast reload`."""

import click

from sse_broadcast.cli.common import run_client, token_option, url_option
from sse_broadcast.cli.visible import say
from sse_broadcast.client import Client
from sse_broadcast.config.schema import Endpoint


@click.command(
    epilog="""\b
Examples:
  sse-broadcast reload

It prints which settings are others now, and which only a restart can change. Where the configuration
cannot be used nothing changes, and it is said why.

Exit codes: 0 it was taken; 1 it cannot be used, the server did not answer, or refused; 2 bad usage;
6 it was taken, but that cannot be printed."""
)
@token_option
@url_option(Endpoint.ADMIN)
def reload(url: str, token: str | None) -> None:
    """Have the server read its configuration again."""
    run_client(lambda: _reload(Client(url, token=token)))


async def _reload(client: Client) -> None:
    async with client:
        answer = await client.reload()
    say(f"changed: {', '.join(answer['changed']) or 'nothing'}")
    if answer["restart"]:
        say(f"needs a restart: {', '.join(answer['restart'])}")
