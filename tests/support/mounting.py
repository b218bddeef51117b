"""Our application inside somebody's, under aiohttp's default runner, which cancels no handlers."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from sse_broadcast import BROADCASTER, Broadcaster, Config, create_app
from tests.support.sockets import Reachable


class Mounted(Reachable):
    """An application below `/push`, and the runner of the one that it is in."""

    def __init__(self, runner: web.AppRunner, app: web.Application, clients: contextlib.ExitStack) -> None:
        self.runner = runner
        self.clients = clients
        self.app = app

    @property
    def port(self) -> int:
        return int(self.runner.addresses[0][1])

    @property
    def broadcaster(self) -> Broadcaster:
        return self.app[BROADCASTER]

    @property
    def server(self) -> web.Server:
        """aiohttp's server, before the runner is cleaned up."""
        assert self.runner.server is not None
        return self.runner.server


@contextlib.asynccontextmanager
async def mounted(**settings: Any) -> AsyncIterator[Mounted]:
    """Mount an application at a free port of the loopback, and clean its runner up in the end."""
    inner, outer = create_app(Config(**settings)), web.Application()
    outer.add_subapp("/push/", inner)
    runner = web.AppRunner(outer)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with contextlib.ExitStack() as clients:
            yield Mounted(runner, inner, clients)
    finally:
        await runner.cleanup()
