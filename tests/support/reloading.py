"""A server that is given another configuration while it runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from sse_broadcast.config.schema import Config
from sse_broadcast.config.sources import ConfigChange
from sse_broadcast.server.runner import Server

BASE: dict[str, Any] = {"port": 0, "shutdown_timeout": 2.0, "allowed_hosts": ("x",)}


class Reloadable:
    """A server, and what it is told when it reads its configuration again."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {**BASE, **settings}
        self.load: Callable[[], Config] = lambda: Config(**self.settings)
        self.server = Server(Config(**self.settings), load=self._load)

    def _load(self) -> Config:
        return self.load()

    @property
    def config(self) -> Config:
        """What is in force."""
        return self.server.config

    async def change(self, **settings: Any) -> ConfigChange:
        """Have it reload, with other values of these settings."""
        self.settings |= settings
        return await self.server.reloader.reload()


async def reloadables() -> AsyncIterator[Callable[..., Any]]:
    """Start such servers, and stop them when the test ends. A fixture once `pytest.fixture` has seen it."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Reloadable:
            reloadable = Reloadable(**settings)
            await reloadable.server.start()
            stack.push_async_callback(reloadable.server.stop)
            return reloadable

        yield start


def tasks() -> int:
    """Return how many tasks there are on this loop."""
    return len(asyncio.all_tasks())


def unchanged(config: Config) -> ConfigChange:
    """Return what comes of a reload that finds everything as it was."""
    return ConfigChange(config, (), ())
