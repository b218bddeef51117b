"""Response head of an event stream: aiohttp-sse's, made once for all streams with the same headers."""

import functools
import math
import time
from collections.abc import Mapping
from email.utils import formatdate

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse
from typing_extensions import override

from sse_broadcast import wire
from sse_broadcast.server.http.responses import SERVER

LONGEST_KEPT = 1024
"""Maximum characters of a stream's own headers for its head to be cached. An origin that matches a pattern of
`cors_origins` may be as long as a whole head."""


class SseResponse(EventSourceResponse):
    """aiohttp-sse's response, for HTTP/1.0 and mounted applications, where aiohttp sends the head.

    It has our headers, starts no ping task, and closes the connection after the stream.
    """

    def __init__(self, content_type: str) -> None:
        super().__init__(ping_interval=math.inf, send_timeout=None)
        headers = self.headers
        headers["Content-Type"] = content_type
        headers["Cache-Control"] = "no-store, no-transform"
        headers["Server"] = SERVER
        # The base class always sends keep-alive; aiohttp sets the right value.
        del headers["Connection"]
        self.force_close()

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        # The base class would start a ping task here, a kilobyte for each subscriber.
        return await web.StreamResponse.prepare(self, request)

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        # The base class sets TCP_USER_TIMEOUT and removes it here: the last bytes of a frozen peer would
        # stay in the kernel for minutes.
        await web.StreamResponse.write_eof(self, data)


class AlreadySent(SseResponse):
    """The result of a handler whose stream `chunked_response_head` started, and which is over."""

    prepared = True

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    @override
    async def write_eof(self, data: bytes = b"") -> None: ...


ALREADY_SENT = AlreadySent(wire.CONTENT_TYPE_HEADER)


def chunked_response_head(content_type: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a chunked HTTP/1.1 stream, with these headers added.

    The bytes are those that aiohttp would send for an `SseResponse`.
    """
    # Cached: making the head for each subscriber was a fifth of the cost of connecting.
    make = _fixed if sum(map(len, headers.values())) <= LONGEST_KEPT else _fixed.__wrapped__
    return make(content_type, tuple(headers.items())) + _dated(int(time.time()))


@functools.lru_cache(maxsize=256)
def _fixed(content_type: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    stream = SseResponse(content_type)
    stream.headers.extend(headers)
    stream.headers[hdrs.TRANSFER_ENCODING] = "chunked"
    lines = [f"HTTP/1.1 {stream.status} {stream.reason}"]
    lines += [f"{name}: {value}" for name, value in stream.headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


@functools.lru_cache(maxsize=1)
def _dated(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\nConnection: close\r\n\r\n".encode()
