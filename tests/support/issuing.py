"""An issuer of tokens, who publishes keys and changes them."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from tests.support.signing import jwk, jwks
from tests.support.sockets import PATIENCE

OLD, NEW = jwk("EdDSA", kid="old"), jwk("EdDSA", 1, kid="new")


class Issuer:
    """A server that publishes keys, as well or as badly as a test wants it."""

    def __init__(self) -> None:
        self.url = ""
        self.body = jwks(OLD)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()
        self._changed = asyncio.Condition()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        async with self._changed:
            self._changed.notify_all()
        await self.open.wait()
        return web.Response(body=self.body, status=self.status, headers=self.headers)

    async def until_asked(self, times: int) -> None:
        """Wait until it was asked so often."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.asked >= times)


async def issuers() -> AsyncIterator[Issuer]:
    """Start an issuer on a free port, and stop it in the end. A fixture once `pytest.fixture` has seen it."""
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", issuer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    issuer.url = f"http://127.0.0.1:{site.port}/jwks"
    yield issuer
    await runner.cleanup()
