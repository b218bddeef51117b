"""Request bodies, read whole and by lines."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.server.endpoints.request_body import (
    body_type,
    lines,
    read_text,
    read_whole,
    require_empty,
    unreadable,
)
from sse_broadcast.server.http.problem import Problem
from tests.support.problems import refused


class Content:
    """A body that arrives in these pieces, and then ends or breaks off."""

    def __init__(self, pieces: Sequence[bytes], *, breaks_off: bool = False) -> None:
        self._pieces = list(pieces)
        self._breaks_off = breaks_off
        self.taken = 0

    def is_eof(self) -> bool:
        return len(self._pieces) < 2 and not self._breaks_off

    def read_nowait(self) -> bytes:
        return b"".join(self._pieces)

    async def readany(self) -> bytes:
        async for piece in self.iter_any():
            return piece
        return b""

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.taken += 1
            yield piece
        if self._breaks_off:
            raise web.RequestPayloadError("connection lost")


class Endless(Content):
    """A body that never arrives."""

    async def readany(self) -> bytes:
        await asyncio.Event().wait()
        return b""


def request(
    content: Content, *, content_length: int | None = None, charset: str | None = None
) -> web.Request:
    headers = {} if charset is None else {"Content-Type": "text/plain; charset=..."}
    said = {"content": content, "content_length": content_length, "charset": charset, "headers": headers}
    return cast(
        "web.Request", SimpleNamespace(method="GET", path="/" + "x" * 100, content_type="text/plain", **said)
    )


async def read(content: Content, *, charset: str | None, most: int) -> bytes:
    """Return a body with this declared charset as UTF-8."""
    declaring = request(content, charset=charset)
    return await read_text(declaring, body_type(declaring), most=most, timeout=1)


async def lines_of(pieces: Sequence[bytes], *, most: int = 100) -> list[bytes]:
    return [line async for some in lines(request(Content(pieces)), most=most, timeout=30.0) for line in some]


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([], []),
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a\nb"], [b"a", b"b"]),
        ([b"a", b"b", b"\n", b"c"], [b"ab", b"c"]),
        ([b"\n\n", b"\n"], [b"", b"", b""]),
        ([b"a\r\nb\r", b"\nc\rd"], [b"a\r", b"b\r", b"c\rd"]),
        ([b"a\n", b"\nb"], [b"a", b"", b"b"]),
        (["\u2028x\u0085".encode()], ["\u2028x\u0085".encode()]),
    ],
)
async def test_lines_end_with_lf(pieces: list[bytes], found: list[bytes]) -> None:
    """The pieces they arrive in do not matter. The last line needs no line end."""
    assert await lines_of(pieces) == found


@given(st.lists(st.binary(max_size=8), max_size=10), st.data())
async def test_lines_do_not_depend_on_where_a_body_is_cut(said: list[bytes], data: st.DataObject) -> None:
    body = b"\n".join(said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    whole = body.split(b"\n")
    if whole[-1] == b"":
        whole.pop()
    assert await lines_of([piece for piece in pieces if piece]) == whole


async def test_the_lines_of_one_piece_are_yielded_together() -> None:
    """No complete line is held back."""
    content = Content([b"a\nb\nc", b"d\n", b"e"])
    found = [some async for some in lines(request(content), most=100, timeout=30.0)]
    assert found == [[b"a", b"b"], [b"cd"], [b"e"]]


async def test_a_line_too_long_is_yielded_and_nothing_more_is_read() -> None:
    """The caller names its number in the error. A line of 10 MB is never held."""
    content = Content([b"ok\n", *[b"x" * 10] * 1000])
    found = [line async for some in lines(request(content), most=25, timeout=30.0) for line in some]
    assert found == [b"ok", b"x" * 30]
    assert content.taken == 4


async def test_a_line_of_the_maximum_length_is_accepted() -> None:
    assert await lines_of([b"x" * 20, b"x" * 5 + b"\n", b"y"], most=25) == [b"x" * 25, b"y"]


async def test_an_unfinished_line_of_a_broken_body_is_dropped() -> None:
    """The complete lines are yielded, then a `Problem` that closes the connection."""
    content = Content([b"a\nb\nhal"], breaks_off=True)
    found: list[bytes] = []
    problem: Problem | None = None
    try:
        async for some in lines(request(content), most=100, timeout=30.0):
            found += some
    except Problem as raised:
        problem = raised
    assert problem is not None
    assert found == [b"a", b"b"]
    assert (problem.status, problem.detail, problem.closes) == (400, "body: connection lost", True)


@pytest.mark.parametrize("pieces", [[], [b"abc"], [b"a", b"b", b"c"]])
async def test_a_body_is_read_whole(pieces: list[bytes]) -> None:
    assert await read_whole(request(Content(pieces)), most=3, timeout=1) == b"".join(pieces)


async def test_a_body_with_too_large_a_content_length_is_not_read() -> None:
    content = Content([b"abc", b"d"])
    with pytest.raises(Problem, match=r"^body: more than 3 bytes$"):
        await read_whole(request(content, content_length=4), most=3, timeout=1)
    assert content.taken == 0


async def test_a_body_that_grows_too_large_is_not_read_to_its_end() -> None:
    content = Content([b"ab"] * 100)
    with pytest.raises(Problem) as raised:
        await read_whole(request(content), most=3, timeout=1)
    assert (raised.value.status, raised.value.closes, content.taken) == (413, True, 2)


async def test_a_body_that_breaks_off_is_a_problem() -> None:
    with pytest.raises(Problem, match=r"^body: connection lost$"):
        await read_whole(request(Content([b"a"], breaks_off=True)), most=3, timeout=1)


def test_the_detail_of_a_parser_error_is_cut() -> None:
    """The error quotes what the client sent, which may be long."""
    assert unreadable(web.RequestPayloadError("x" * 1000)).detail == "body: " + "x" * 194


@pytest.mark.parametrize("coding", ["identity", "Identity"])
def test_content_encoding_identity_is_accepted(coding: str) -> None:
    coded = make_mocked_request("POST", "/send", {"Content-Encoding": coding})
    assert body_type(coded) == body_type(make_mocked_request("POST", "/send"))


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", ""])
def test_a_compressed_body_is_refused(coding: str) -> None:
    """It is a 415: the size cannot be limited before the body is decompressed."""
    with refused(
        415, f"Content-Encoding: {coding!r} is not supported; send the body uncompressed", closes=True
    ):
        body_type(make_mocked_request("POST", "/send", {"Content-Encoding": coding}))


# Bodies that must be empty.

NO_BODY = f"GET /{'x' * 79} takes no body"


async def test_an_empty_body_counts_as_no_body() -> None:
    await require_empty(request(Content([])), timeout=1)
    await require_empty(request(Content([]), content_length=0), timeout=1)


async def test_an_unexpected_body_is_refused_at_its_first_byte() -> None:
    """With a Content-Length nothing is read at all."""
    for content, length, taken in ((Content([b"x"] * 9), None, 1), (Content([b"x"] * 9), 9, 0)):
        with refused(400, NO_BODY, closes=True):
            await require_empty(request(content, content_length=length), timeout=1)
        assert content.taken == taken


async def test_an_empty_body_that_does_not_end_gets_408() -> None:
    with refused(408, "body: did not arrive within 0.01 s", closes=True):
        await require_empty(request(Endless([])), timeout=0.01)


async def test_an_empty_body_that_breaks_off_is_a_problem() -> None:
    with refused(400, "body: connection lost"):
        await require_empty(request(Content([], breaks_off=True)), timeout=1)


# Charsets.


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        (None, b"\xff", b"\xff"),
        ("utf-8", "\u20ac".encode(), "\u20ac".encode()),
        ("UTF-8", b"\xff", b"\xff"),
        ("utf8", b"a", b"a"),
        ("iso-8859-1", b"caf\xe9\x80\xff", "caf\u00e9\u0080\u00ff".encode()),
        ("ISO-8859-1", b"plain", b"plain"),
        ("iso8859-1", b"\xe9", "\u00e9".encode()),
        ("iso_8859-1", b"\xe9", "\u00e9".encode()),
        ("Latin1", b"\xe9", "\u00e9".encode()),
        ("latin-1", b"\xe9", "\u00e9".encode()),
        ("US-ASCII", b"\x00a\x7f", b"\x00a\x7f"),
        ("ascii", b"", b""),
    ],
)
async def test_a_body_is_converted_to_utf8_by_its_charset(
    charset: str | None, body: bytes, text: bytes
) -> None:
    """A body declared as UTF-8, or without a charset, is not changed."""
    assert body_type(request(Content([]), charset=charset)).to_utf8(body) == text
    assert await read(Content([body[:1], body[1:]]), charset=charset, most=100) == text


@pytest.mark.parametrize("body", [b"\x80", b"ab\xe9", b"a" * 9999 + b"\xff"])
async def test_a_byte_that_is_not_ascii_is_named(body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        await read(Content([body]), charset="us-ascii", most=10_000)
    detail = f"body: is not US-ASCII at byte {len(body) - 1}, though its charset says so"
    assert (raised.value.status, raised.value.detail) == (400, detail)


@pytest.mark.parametrize(
    "charset", ["", "utf-16", "utf-8-sig", "windows-1252", "rot13", "os", "caf\u00e9", "x" * 500]
)
async def test_another_charset_is_refused(charset: str) -> None:
    """The body is not read, and no codec is looked up by that name."""
    content = Content([b"a"])
    with pytest.raises(Problem) as raised:
        await read(content, charset=charset, most=100)
    problem = raised.value
    assert (problem.status, problem.closes, content.taken) == (415, True, 0)
    assert problem.detail == (
        f"Content-Type: charset {charset[:80]!a} is not supported; use utf-8, iso-8859-1 or us-ascii"
    )


async def test_the_limit_of_a_body_counts_the_bytes_received() -> None:
    """Its conversion to UTF-8 may be twice as long."""
    assert len(await read(Content([b"\xe9" * 9]), charset="latin1", most=9)) == 18
    with pytest.raises(Problem, match=r"^body: more than 8 bytes$"):
        await read(Content([b"\xe9" * 9]), charset="latin1", most=8)


@pytest.mark.parametrize(
    "declared", ["a/b" + "x" * 254, "a/b" + ";" * 9, "a/b" + ";a=b" * 8000, 'a/b;x="' + '"' * 16_000]
)
def test_a_long_content_type_is_refused(declared: str) -> None:
    """aiohttp takes eight seconds to parse one of 32 KB."""
    request = make_mocked_request("POST", "/send", {"Content-Type": declared})
    with pytest.raises(
        Problem, match=r"^Content-Type: has more than 256 characters and 8 parameters$"
    ) as raised:
        body_type(request)
    assert (raised.value.status, raised.value.closes) == (415, True)
    assert "_content_type" not in vars(request)


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("application/json; charset=utf-8", "application/json"),
        ("a/b" + ";c=d" * 8, "a/b"),
        ("a/" + "b" * 254, "a/" + "b" * 254),
        (None, "application/octet-stream"),
    ],
)
def test_a_body_type_has_no_parameters(declared: str | None, kind: str) -> None:
    headers = {} if declared is None else {"Content-Type": declared}
    assert body_type(make_mocked_request("POST", "/send", headers)).name == kind
