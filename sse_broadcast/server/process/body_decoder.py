"""Body decoder: decode large bodies in a thread, so that the event loop stays free."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web

T = TypeVar("T")

LARGE = 262_144
"""Maximum bytes of a body that is decoded on the event loop. Decoding that many takes 1 to 4 ms."""


class BodyDecoder:
    """Decodes large bodies, one after the other, in one thread.

    A request that is cancelled before its turn is not decoded.
    """

    def __init__(self) -> None:
        # One thread: decoding needs the interpreter lock, so a second would gain nothing. The thread starts
        # with the first large body.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")

    async def run(self, decode: Callable[[], T], *, size: int) -> T:
        """Call `decode` and return its result: at once, or in the thread if `size` is above `LARGE` bytes.

        Only the thread is waited for. A caller must check again afterwards what it checked before.
        """
        if size <= LARGE:
            return decode()
        return await asyncio.get_running_loop().run_in_executor(self._pool, decode)

    def close(self) -> None:
        """Cancel the bodies that wait. The one being decoded is finished, and its result dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


DECODER: web.AppKey[BodyDecoder] = web.AppKey("sse_broadcast.decoder", BodyDecoder)
"""The decoder of an application."""


async def close_decoder(app: web.Application) -> None:
    """Close the decoder of an application after its last request."""
    app[DECODER].close()
