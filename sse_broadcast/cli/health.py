"""`sse-broadcast health`."""

import ssl

import click

from sse_broadcast.cli.common import run_client, url_option
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.client import ALIVE, Client


@click.command(
    cls=StyledCommand,
    epilog=f"""\b
Examples:
  sse-broadcast health
  sse-broadcast health --url unix:/run/sse.sock || systemctl restart sse-broadcast

The command sends no token and does not verify the server's certificate, like the probes of Kubernetes:
it usually reaches the server beside it by an address that the certificate does not name.

Exit codes: 0 the server is alive; 1 it is not, or does not answer within {ALIVE:.0f} seconds;
2 bad usage.""",
)
@url_option()
def health(url: str) -> None:
    """Ask whether the server is alive. Print nothing if it is."""
    run_client(lambda: _health(Client(url, tls=anyone())))


async def _health(client: Client) -> None:
    async with client:
        await client.health()


def anyone() -> ssl.SSLContext:
    """Return a TLS context that accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
