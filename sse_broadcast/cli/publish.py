"""`sse-broadcast publish`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable

import click

from sse_broadcast.cli.common import Exit, run, url_option
from sse_broadcast.client import Client


@click.command(
    epilog="""\b
Examples:
  sse-broadcast publish hello
  sse-broadcast publish --event price '{"EUR": 1.08}'
  tail -F app.log | sse-broadcast publish -

Exit codes: 0 published; 1 refused, or no server there; 2 bad usage."""
)
@click.argument("message", default="-")
@click.option("--event", metavar="TYPE", help="The event's type; browsers get it by addEventListener(TYPE).")
@url_option
def publish(message: str, event: str | None, url: str) -> None:
    """Publish MESSAGE, or with - each line of standard input as it comes."""
    run(lambda: _publish(message, event, url))


async def _publish(message: str, event: str | None, url: str) -> None:
    async with Client(url) as client:
        if message != "-":
            receipt = await client.publish(message, event=event)
            click.echo(f"sent to {receipt['clients']} clients")
            return
        count = 0
        async for line in _lines():
            await client.publish(line, event=event)
            count += 1
        click.echo(f"sent {count} lines")


async def _lines() -> AsyncIterator[str]:
    # A thread reads: standard input may be a file, which no event loop can wait for.
    while line := await _read(sys.stdin.buffer.readline):
        yield line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")


async def _read(readline: Callable[[], bytes]) -> bytes:
    try:
        return await asyncio.to_thread(readline)
    except asyncio.CancelledError:
        # Ctrl-C. The thread waits for a line that may never come, and asyncio would wait for it.
        os._exit(Exit.INTERRUPTED)
