"""Large bodies: decoded in a thread, so that connections, heartbeats and other requests do not wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web

T = TypeVar("T")

LARGE = 262_144
"""Bytes of a body beyond which it is decoded in the thread. To decode so many takes 1 to 4 ms."""


class BodyDecoder:
    """Decodes large bodies, one after the other, in one thread.

    One: decoding is work for the processor, and Python does one thing at a time. What waits for it is a body
    of a request that waits too. A request that is cancelled before its turn is never decoded.
    """

    def __init__(self) -> None:
        # Its thread begins with the first large body.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")

    async def run(self, decode: Callable[[], T], *, size: int) -> T:
        """Return what `decode` returns of a body of `size` bytes: at once, or in the thread if it is large.

        Only a large body is waited for: whatever was asked before has to be asked again then.
        """
        if size <= LARGE:
            return decode()
        return await asyncio.get_running_loop().run_in_executor(self._pool, decode)

    def close(self) -> None:
        """Decode nothing more. What is being decoded comes to its end, for nobody."""
        self._pool.shutdown(wait=False, cancel_futures=True)


DECODER: web.AppKey[BodyDecoder] = web.AppKey("sse_broadcast.decoder", BodyDecoder)
"""Where large bodies of an application are decoded."""


async def close_decoder(app: web.Application) -> None:
    """Close the decoder of an application, behind its last request."""
    app[DECODER].close()
