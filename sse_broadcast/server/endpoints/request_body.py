"""Bodies that are published: read whole, or line by line, bounded in size and time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import hdrs, web

from sse_broadcast.server.endpoints.held_body import HeldBody
from sse_broadcast.server.http.problem import Problem

LINE_OVERHEAD = 40
"""Bytes that a line takes beside its text, as an object of Python's and in a list."""


LONGEST_TYPE = 256
"""Characters of a Content-Type. aiohttp remembers what it makes of one, and takes 8 s for one of 32 KB."""

TYPE_PARAMETERS = 8
"""Parameters of a Content-Type: to read them takes the square of the time for one."""

OnSize = Callable[[int], object]
"""Is told how many bytes of a body are held. May raise `Problem`, if these are too many."""


class LateLineError(TimeoutError):
    """A line of a body was not finished in time."""


ToUtf8 = Callable[[bytes], bytes]


_as_it_is: ToUtf8 = bytes
"""Returns its argument, which is bytes already, and makes no copy."""


def _from_latin_1(body: bytes) -> bytes:
    # Spring's RestClient declares this charset for every String.
    return body if body.isascii() else body.decode("latin-1").encode()


def _from_ascii(body: bytes) -> bytes:
    if not body.isascii():
        place = next(place for place, byte in enumerate(body) if byte > 0x7F)
        raise Problem(400, f"body: is not US-ASCII at byte {place}, though its charset says so")
    return body


# A table, and not Python's codecs: those look for a module of any name that they are asked for.
_CHARSETS: Mapping[str, ToUtf8] = {
    **dict.fromkeys(("utf-8", "utf8"), _as_it_is),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "iso_8859-1", "latin1", "latin-1"), _from_latin_1),
    **dict.fromkeys(("us-ascii", "ascii"), _from_ascii),
}


@dataclass(frozen=True, slots=True)
class BodyType:
    """What a body is declared to be: its media type without parameters, and what makes UTF-8 of it."""

    name: str
    to_utf8: ToUtf8 = _as_it_is


UNDECLARED = BodyType("application/octet-stream")
"""The type of a body that declares none (RFC 9110, 8.3)."""


# As most clients write them: they need not be parsed.
_USUAL = {
    name: BodyType(name)
    for name in (
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
    )
}


def body_type(request: web.Request) -> BodyType:
    """Return what the body of a request is declared to be.

    Raises `Problem`, 415, for a compressed body, a charset other than UTF-8, ISO-8859-1 and US-ASCII, and a
    Content-Type that is too long to be parsed.
    """
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers:
        _require_plain_coding(headers.getall(hdrs.CONTENT_ENCODING))
    declared = headers.get(hdrs.CONTENT_TYPE)
    if declared is None:
        return UNDECLARED
    usual = _USUAL.get(declared)
    if usual is not None:
        return usual
    if len(declared) > LONGEST_TYPE or declared.count(";") > TYPE_PARAMETERS:
        allowed = f"{LONGEST_TYPE} characters and {TYPE_PARAMETERS} parameters"
        raise Problem(415, f"Content-Type: has more than {allowed}", closes=True)
    charset = "utf-8" if request.charset is None else request.charset
    to_utf8 = _CHARSETS.get(charset.lower())
    if to_utf8 is None:
        raise Problem(
            415,
            f"Content-Type: charset {charset[:80]!a} is not taken; utf-8, iso-8859-1 and us-ascii are",
            closes=True,
        )
    return BodyType(request.content_type, to_utf8)


def _require_plain_coding(codings: Sequence[str]) -> None:
    """Refuse a compressed body: its size cannot be bounded before it is decompressed."""
    if any(coding.lower() != "identity" for coding in codings):
        raise Problem(415, f"Content-Encoding: {', '.join(codings)[:80]!a} is not taken", closes=True)


async def read_whole(
    request: web.Request,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - a deadline to tell of
    on_size: OnSize | None = None,
) -> bytes:
    """Return the whole body. `timeout` is in seconds.

    `on_size` is told how many bytes are held, each time these are more. Raises `Problem`, as it may too.
    """
    if (request.content_length or 0) > most:
        raise _too_large(most)
    if request.content.is_eof():
        whole = request.content.read_nowait()
        if len(whole) > most:  # in chunks, it has said no length
            raise _too_large(most)
        if on_size is not None:
            on_size(len(whole))
        return whole
    return await _read_pieces(request, most=most, timeout=timeout, on_size=on_size)


async def _read_pieces(
    request: web.Request,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - a deadline to tell of
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
        raise _late(timeout) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise broken(error) from None
    return bytes(body)


async def require_empty(request: web.Request, *, timeout: float) -> None:  # noqa: ASYNC109 - a deadline to tell of
    """Read a body that should have nothing in it. Raises `Problem` at its first byte."""
    detail = f"{request.method} {request.path[:80]} takes no body"
    if request.content_length:
        raise Problem(400, detail, closes=True)
    try:
        async with asyncio.timeout(timeout):
            if await request.content.readany():
                raise Problem(400, detail, closes=True)
    except TimeoutError:
        raise _late(timeout) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise broken(error) from None


async def read_text(
    request: web.Request,
    declared: BodyType,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - a deadline to tell of
) -> bytes:
    """Return the whole body as UTF-8. Raises as `read_whole` does."""
    with HeldBody(request) as held:
        return declared.to_utf8(await read_whole(request, most=most, timeout=timeout, on_size=held.resize))


async def lines(
    request: web.Request,
    *,
    most: int,
    timeout: float,  # noqa: ASYNC109 - a deadline to tell of
    on_size: OnSize = lambda _: None,
) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a body as they arrive, without their ends: those of each piece together.

    A last line that has no end is one once the body has ended. A line of more than `most` bytes is the
    last that is given, as far as it came. `on_size` is told how many bytes are held of what has come.

    A line that has begun has `timeout` seconds to end, without the time that is spent on those before it;
    between two lines there may be any time. Raises `LateLineError`, and `Problem` for a body that breaks off:
    what is left of its last line is then nothing.
    """
    tail = bytearray()
    left = timeout
    loop = asyncio.get_running_loop()
    pieces = aiter(request.content.iter_any())
    try:
        while True:
            began = loop.time()
            piece = await _next(pieces, left if tail else None)
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
                # What comes of it is told by whoever counts the lines.
                yield [bytes(tail)]
                return
    except (web.RequestPayloadError, ConnectionError) as error:
        raise broken(error) from None
    if tail:
        yield [bytes(tail)]


async def _next(pieces: AsyncIterator[bytes], seconds: float | None) -> bytes:
    """Return the next bytes of a body, b"" at its end. Raises `LateLineError` after so many seconds."""
    if seconds is None:
        return await anext(pieces, b"")
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await anext(pieces, b"")
    except TimeoutError:
        if deadline.expired():
            raise LateLineError from None
        raise  # what others have ended the body with


def broken(error: BaseException) -> Problem:
    """Return the problem of a body that cannot be read to its end."""
    return Problem(400, f"body: {error}"[:200], closes=True)


def _late(timeout: float) -> Problem:
    return Problem(408, f"body: did not arrive within {timeout:g} s", closes=True)


def _too_large(most: int) -> Problem:
    return Problem(413, f"body: more than {most} bytes", closes=True)
