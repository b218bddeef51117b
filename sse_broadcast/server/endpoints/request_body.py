"""Request bodies: read whole or by lines, with limits for size and time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import hdrs, web

from sse_broadcast.server.endpoints.body_share import BodyShare
from sse_broadcast.server.http.problem import Problem

LINE_OVERHEAD = 40
"""Bytes of memory that a line takes beside its text: the Python object and its place in a list."""

LONGEST_TYPE = 256
"""Maximum characters of a Content-Type. aiohttp takes 8 s to parse one of 32 KB, and caches the result."""

TYPE_PARAMETERS = 8
"""Maximum parameters of a Content-Type. Parsing takes time quadratic in their number."""

OnSize = Callable[[int], object]
"""A function called with the number of body bytes held. It may raise `Problem` if these exceed a share."""


class LateLineError(TimeoutError):
    """A line of a body did not end within its timeout."""


ToUtf8 = Callable[[bytes], bytes]


_unchanged: ToUtf8 = bytes
"""`bytes` returns its argument without a copy if that is `bytes` already."""


def _from_latin_1(body: bytes) -> bytes:
    # Spring's RestClient declares this charset for every String, also for ASCII.
    return body if body.isascii() else body.decode("latin-1").encode()


def _from_ascii(body: bytes) -> bytes:
    if not body.isascii():
        position = next(position for position, byte in enumerate(body) if byte > 0x7F)
        raise Problem(400, f"body: is not US-ASCII at byte {position}, though its charset says so")
    return body


# Not codecs.lookup(): it imports a module by the name in the request.
_CHARSETS: Mapping[str, ToUtf8] = {
    **dict.fromkeys(("utf-8", "utf8"), _unchanged),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "iso_8859-1", "latin1", "latin-1"), _from_latin_1),
    **dict.fromkeys(("us-ascii", "ascii"), _from_ascii),
}


@dataclass(frozen=True, slots=True)
class BodyType:
    """The declared type of a body: its media type without parameters, and the conversion to UTF-8."""

    name: str
    to_utf8: ToUtf8 = _unchanged


UNDECLARED = BodyType("application/octet-stream")
"""The type of a body without a Content-Type (RFC 9110, 8.3)."""

# As most clients write them. Found here, they need not be parsed.
_COMMON_TYPES = {
    name: BodyType(name)
    for name in (
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
    )
}


def body_type(request: web.Request) -> BodyType:
    """Return the declared type of a request's body.

    Raises `Problem` (415) for a compressed body, for a charset other than UTF-8, ISO-8859-1 and US-ASCII, and
    for a Content-Type that is too long.
    """
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers:
        _require_plain_coding(headers.getall(hdrs.CONTENT_ENCODING))
    declared = headers.get(hdrs.CONTENT_TYPE)
    if declared is None:
        return UNDECLARED
    common = _COMMON_TYPES.get(declared)
    if common is not None:
        return common
    if len(declared) > LONGEST_TYPE or declared.count(";") > TYPE_PARAMETERS:
        allowed = f"{LONGEST_TYPE} characters and {TYPE_PARAMETERS} parameters"
        raise Problem(415, f"Content-Type: has more than {allowed}", closes=True)
    charset = "utf-8" if request.charset is None else request.charset
    to_utf8 = _CHARSETS.get(charset.lower())
    if to_utf8 is None:
        raise Problem(
            415,
            f"Content-Type: charset {charset[:80]!a} is not supported; use utf-8, iso-8859-1 or us-ascii",
            closes=True,
        )
    return BodyType(request.content_type, to_utf8)


def _require_plain_coding(codings: Sequence[str]) -> None:
    """Raise `Problem` for a compressed body."""
    # Its size is not known before it is decompressed, so it cannot be limited.
    if any(coding.lower() != "identity" for coding in codings):
        detail = f"Content-Encoding: {', '.join(codings)[:80]!a} is not supported; send the body uncompressed"
        raise Problem(415, detail, closes=True)


async def read_whole(
    request: web.Request,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - named in the error
    on_size: OnSize | None = None,
) -> bytes:
    """Return the whole body, at most `most` bytes. `timeout` is in seconds.

    `on_size` is called each time the number of bytes held grows. Raises `Problem`, also from `on_size`.
    """
    if (request.content_length or 0) > most:
        raise _too_large(most)
    if request.content.is_eof():
        whole = request.content.read_nowait()
        if len(whole) > most:  # a chunked body has no Content-Length to check
            raise _too_large(most)
        if on_size is not None:
            on_size(len(whole))
        return whole
    return await _read_pieces(request, most=most, timeout=timeout, on_size=on_size)


async def _read_pieces(
    request: web.Request,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - named in the error
    on_size: OnSize | None,
) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > most:
                    raise _too_large(most)
                if on_size is not None:
                    on_size(len(body))
    except TimeoutError:
        raise _timed_out(timeout) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise unreadable(error) from None
    return bytes(body)


async def require_empty(request: web.Request, *, timeout: float) -> None:  # noqa: ASYNC109 - named in the error
    """Read a body that must be empty. Raises `Problem` at its first byte."""
    detail = f"{request.method} {request.path[:80]} takes no body"
    if request.content_length:
        raise Problem(400, detail, closes=True)
    try:
        async with asyncio.timeout(timeout):
            if await request.content.readany():
                raise Problem(400, detail, closes=True)
    except TimeoutError:
        raise _timed_out(timeout) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise unreadable(error) from None


async def read_text(
    request: web.Request,
    declared: BodyType,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - named in the error
) -> bytes:
    """Return the whole body as UTF-8, and count it in its caller's share. Raises as `read_whole` does."""
    with BodyShare(request) as held:
        return declared.to_utf8(await read_whole(request, most=most, timeout=timeout, on_size=held.resize))


async def lines(
    request: web.Request,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - named in the error
    on_size: OnSize = lambda _: None,
) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a body as they arrive, without line ends, as a list for each piece of the body.

    The last line needs no line end. After a line of more than `most` bytes nothing more is yielded, and that
    line may be incomplete. `on_size` is called with the number of bytes held.

    A line must end within `timeout` seconds of its first byte, without the time that the caller spends on
    earlier lines. There is no limit for the time between lines. Raises `LateLineError`, and `Problem` for a
    body that breaks off: its unfinished line is dropped.
    """
    tail = bytearray()
    left = timeout
    loop = asyncio.get_running_loop()
    pieces = aiter(request.content.iter_any())
    try:
        while True:
            began = loop.time()
            piece = await _next_piece(pieces, left if tail else None)
            if not piece:
                break
            left -= loop.time() - began if tail else 0.0
            first, *rest = piece.split(b"\n")
            tail += first
            if rest:
                whole = [bytes(tail), *rest[:-1]]
                on_size(len(tail) + len(piece) + LINE_OVERHEAD * len(whole))
                tail[:] = rest[-1]
                left = timeout
                yield whole
            on_size(len(tail))
            if len(tail) > most:
                # Yielded, not raised: the caller knows the line number for the error.
                yield [bytes(tail)]
                return
    except (web.RequestPayloadError, ConnectionError) as error:
        raise unreadable(error) from None
    if tail:
        yield [bytes(tail)]


async def _next_piece(pieces: AsyncIterator[bytes], seconds: float | None) -> bytes:
    """Return the next bytes of a body, or b"" at its end. Raises `LateLineError` after `seconds`."""
    if seconds is None:
        return await anext(pieces, b"")
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await anext(pieces, b"")
    except TimeoutError:
        if deadline.expired():
            raise LateLineError from None
        raise  # set by the server with `set_exception`, such as ShuttingDownError


def unreadable(error: BaseException) -> Problem:
    """Return the problem of a body that breaks off or is malformed."""
    return Problem(400, f"body: {error}"[:200], closes=True)


def _timed_out(timeout: float) -> Problem:
    return Problem(408, f"body: did not arrive within {timeout:g} s", closes=True)


def _too_large(most: int) -> Problem:
    return Problem(413, f"body: more than {most} bytes", closes=True)
