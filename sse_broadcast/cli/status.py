"""`sse-broadcast status`."""

import json
from typing import Any

import click

from sse_broadcast.cli.common import run_client
from sse_broadcast.cli.help import StyledCommand
from sse_broadcast.cli.live_status import JsonView, LineView, View, watch
from sse_broadcast.cli.screen import Screen, can_draw
from sse_broadcast.cli.server_options import ServerOptions, server_options
from sse_broadcast.cli.visible import say
from sse_broadcast.client import Client
from sse_broadcast.config.schema import Endpoint

INTERVAL = 2.0
"""Default of --interval, in seconds."""


@click.command(
    cls=StyledCommand,
    epilog="""\b
Examples:
  sse-broadcast status
  sse-broadcast status --json | jq .connected_clients
  sse-broadcast status --watch
  sse-broadcast status --watch --interval 60 >> status.log

On a terminal, --watch shows the counts per second and the subscribers that are furthest behind.
Elsewhere it prints one line for each query, or a JSON object with --json. If the server stops
answering, --watch keeps trying.

Exit codes: 0 the server answered; 1 it did not answer, or refused; 2 bad usage;
6 output cannot be written; 130 Ctrl-C.""",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("--watch", "watched", is_flag=True, help="Query repeatedly, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=86_400.0),
    metavar="SECONDS",
    help=f"Time between two queries of --watch.  [default: {INTERVAL:g}]",
)
@server_options(Endpoint.INSPECT)
def status(*, server: ServerOptions, as_json: bool, watched: bool, interval: float | None) -> None:
    """Show how many subscribers are connected, and the server's counters."""
    if interval is not None and not watched:
        raise click.UsageError("--interval: needs --watch")
    if watched:
        run_client(lambda: _watch(server.client(), interval or INTERVAL, as_json=as_json))
        return
    answer = run_client(lambda: _status(server.client()))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        say(f"{name.replace('_', ' ')}: {_shown(value)}")


async def _status(client: Client) -> dict[str, Any]:
    async with client:
        return await client.status()


async def _watch(client: Client, interval: float, *, as_json: bool) -> None:
    show: View = JsonView() if as_json else LineView()
    if not as_json and can_draw():
        show = Screen(client.name, interval)
    await watch(client, show, interval=interval)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {reason}" for reason, count in value.items()) or "none"
    return str(value)
