"""`sse-broadcast status`."""

import json
from typing import Any

import click

from sse_broadcast.cli.common import run, token_option, url_option
from sse_broadcast.client import Client
from sse_broadcast.config import Endpoint


@click.command(
    epilog="""\b
Examples:
  sse-broadcast status
  sse-broadcast status --json | jq .connected_clients

Exit codes: 0 the server answered; 1 it did not, or refused; 2 bad usage."""
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@token_option
@url_option(Endpoint.INSPECT)
def status(url: str, token: str | None, *, as_json: bool) -> None:
    """Show how many listen, and what was counted."""
    answer = run(lambda: _status(Client(url, token=token)))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        click.echo(f"{name.replace('_', ' ')}: {_shown(value)}")


async def _status(client: Client) -> dict[str, Any]:
    async with client:
        return await client.status()


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {reason}" for reason, count in value.items()) or "none"
    return str(value)
