"""Bodies that are published: read whole, or line by line, bounded in size and time."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from sse_broadcast.server.problem import Problem


def require_plain_coding(request: web.Request) -> None:
    """Refuse a compressed body: what it would become cannot be bounded before it is made."""
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise Problem(415, f"Content-Encoding: {coding[:80]!a} is not taken", closes=True)


async def read(request: web.Request, *, most: int, timeout: float) -> bytes:  # noqa: ASYNC109 - a deadline to tell of
    """Give the body, whatever application this one is mounted in. `timeout` is in seconds."""
    if (request.content_length or 0) > most:
        raise _too_large(most)
    if request.content.is_eof():
        return request.content.read_nowait()
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise Problem(408, f"body: did not arrive within {timeout:g} s", closes=True) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise broken(error) from None
    return bytes(body)


async def lines(request: web.Request, *, most: int) -> AsyncIterator[list[bytes]]:
    """Give the lines of a body as they arrive, without their ends: those of each piece together.

    A last line that has no end is one once the body has ended. A line of more than `most` bytes is the
    last that is given, as far as it came. Raises `Problem` for a body that breaks off; what is left of
    its last line is then nothing.
    """
    tail = bytearray()
    try:
        async for piece in request.content.iter_any():
            first, *rest = piece.split(b"\n")
            tail += first
            if rest:
                whole = [bytes(tail), *rest[:-1]]
                tail[:] = rest[-1]
                yield whole
            if len(tail) > most:
                # What comes of it is told by whoever counts the lines.
                yield [bytes(tail)]
                return
    except (web.RequestPayloadError, ConnectionError) as error:
        raise broken(error) from None
    if tail:
        yield [bytes(tail)]


def broken(error: BaseException) -> Problem:
    """Give the problem of a body that cannot be read to its end."""
    return Problem(400, f"body: {error}"[:200], closes=True)


def _too_large(most: int) -> Problem:
    return Problem(413, f"body: more than {most} bytes", closes=True)
