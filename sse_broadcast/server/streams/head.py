"""The head of an event stream: aiohttp-sse's, made once for all streams that have the same."""

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
"""Characters of a stream's own headers whose head is remembered. An origin that a pattern of `cors_origins`
matches may be as long as a head."""


class SseResponse(EventSourceResponse):
    """aiohttp-sse's response, without what a broadcast server does for all streams at once.

    It starts no ping task (delivery sends the heartbeats of all streams from one timer), its
    headers are those of http-api, and the connection closes with the stream. TCP_USER_TIMEOUT,
    which the base class sets to `timeout` seconds, stays set to the end: given back, it
    would leave a frozen peer's last bytes in the kernel for minutes. With None it is left as the
    listening socket had it.
    """

    # The head waits for the first bytes of the body, and both leave in one write.
    _send_headers_immediately = False

    def __init__(self, content_type: str, *, timeout: float | None) -> None:
        super().__init__(ping_interval=math.inf, send_timeout=timeout)
        headers = self.headers
        headers["Content-Type"] = content_type
        headers["Cache-Control"] = "no-store, no-transform"
        headers["Server"] = SERVER
        # The base class always says keep-alive; aiohttp itself knows better.
        del headers["Connection"]
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Make the head ready. The base class would start a task here, a kilobyte for each reader."""
        if not self.prepared:  # aiohttp asks for it again at the end, when there may be no connection
            self._set_tcp_user_timeout(request)
        return await web.StreamResponse.prepare(self, request)

    async def write_eof(self, data: bytes = b"") -> None:
        """End the body, and leave TCP_USER_TIMEOUT as it is."""
        await web.StreamResponse.write_eof(self, data)


class AlreadySent(SseResponse):
    """What a handler gives aiohttp for a stream that was begun with `chunked_head`, and is over."""

    prepared = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        """Do nothing: the head was sent."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the body was ended."""


ALREADY_SENT = AlreadySent(wire.CONTENT_TYPE_HEADER, timeout=None)


def chunked_response_head(content_type: str, headers: Mapping[str, str]) -> bytes:
    """Give the head of a stream in chunks of HTTP/1.1, with these headers beside those of every stream.

    It is the bytes that aiohttp makes of an `EventStream`. To have them made for each reader was a fifth of
    what connecting cost.
    """
    make = _fixed if sum(map(len, headers.values())) <= LONGEST_KEPT else _fixed.__wrapped__
    return make(content_type, tuple(headers.items())) + _dated(int(time.time()))


@functools.lru_cache(maxsize=256)
def _fixed(content_type: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    stream = SseResponse(content_type, timeout=None)
    stream.headers.extend(headers)
    stream.headers[hdrs.TRANSFER_ENCODING] = "chunked"
    lines = [f"HTTP/1.1 {stream.status} {stream.reason}"]
    lines += [f"{name}: {value}" for name, value in stream.headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


@functools.lru_cache(maxsize=1)
def _dated(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\nConnection: close\r\n\r\n".encode()
