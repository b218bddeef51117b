"""The response head of an event stream: aiohttp-sse's, made once for all streams with the same headers."""

import functools
import math
import time
from collections.abc import Mapping
from email.utils import formatdate

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from sse_broadcast import wire
from sse_broadcast.server.http.responses import SERVER

LONGEST_KEPT = 1024
"""Longest own headers of a stream, in characters, whose head is cached. An origin that a pattern of
`cors_origins` matches may be as long as a head."""


class SseResponse(EventSourceResponse):
    """aiohttp-sse's response, for streams whose head aiohttp sends: of HTTP/1.0, and in mounted applications.

    It has our headers, starts no ping task, and closes the connection with the stream. It leaves
    TCP_USER_TIMEOUT alone: the base class sets it and takes it back at the end, and then a frozen peer's last
    bytes would stay in the kernel for minutes.
    """

    def __init__(self, content_type: str) -> None:
        super().__init__(ping_interval=math.inf, send_timeout=None)
        headers = self.headers
        headers["Content-Type"] = content_type
        headers["Cache-Control"] = "no-store, no-transform"
        headers["Server"] = SERVER
        # The base class always says keep-alive; aiohttp itself knows better.
        del headers["Connection"]
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head. The base class would start a ping task, a kilobyte for each subscriber."""
        return await web.StreamResponse.prepare(self, request)

    async def write_eof(self, data: bytes = b"") -> None:
        """End the body, and nothing else."""
        await web.StreamResponse.write_eof(self, data)


class AlreadySent(SseResponse):
    """What a handler returns to aiohttp for a stream that began with `chunked_response_head`, and is over."""

    prepared = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        """Do nothing: the head was sent."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the body was ended."""


ALREADY_SENT = AlreadySent(wire.CONTENT_TYPE_HEADER)


def chunked_response_head(content_type: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a chunked HTTP/1.1 stream, with these headers beside those of every stream.

    These are the bytes that aiohttp makes of an `SseResponse`. Making them for each subscriber was a fifth of
    what connecting cost.
    """
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
