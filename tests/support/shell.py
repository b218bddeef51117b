"""Blocks of the documentation, run as a reader would run them."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from sse_broadcast.event import Event
from sse_broadcast.wire import Decoder
from tests.support.pages import ROOT
from tests.support.process import LISTENS, SCRIPT, Process, Programs


async def bash(
    programs: Programs,
    code: str,
    port: int,
    *,
    env: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Process:
    """Run shell code with `sse-broadcast` on the path, which finds the server at this port."""
    around = {
        "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}",
        "SSE_BROADCAST_URL": f"http://127.0.0.1:{port}",
    }
    return await programs.start("bash", "-euc", f"cd {folder}\n{code}", env={**around, **(env or {})})


async def published(subscriber: Process, count: int) -> list[Event]:
    """Return the first events on a stream that are not the server's own."""
    decoder = Decoder()
    events: list[Event] = []
    while len(events) < count:
        events += [event for event in decoder.feed(await subscriber.line()) if not event.reserved]
    return events


async def serving_at(server: Process, *, patience: float = 60) -> str:
    """Wait until a server that somebody's command starts says where it listens, and return that."""
    async with asyncio.timeout(patience):
        while not (said := LISTENS.fullmatch(line := await server.any_line())):
            assert line, await server.ended()
    return said[1].decode()
