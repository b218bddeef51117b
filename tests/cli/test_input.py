"""Input of `publish`, read in chunks."""

import asyncio
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.cli import input as module
from sse_broadcast.cli.input import InputSource, open_source, source_of
from sse_broadcast.errors import ClientError, ConfigError


class Chunks(io.BytesIO):
    """A file whose reads return the given chunks."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)

    def read1(self, size: int | None = -1, /) -> bytes:
        return next(self._pieces, b"")


def source(*pieces: bytes) -> InputSource:
    return InputSource(Chunks(list(pieces)), name="x", size=1)


async def lines(given: InputSource) -> list[list[bytes]]:
    return [some async for some in given.lines()]


@given(pieces=st.lists(st.text("ab\r\n", min_size=1).map(str.encode)))
def test_lines_are_complete_wherever_chunks_are_cut(pieces: list[bytes]) -> None:
    """Each is yielded without its LF, the only line end. The last one may lack it."""
    expected = b"".join(pieces).split(b"\n")
    if not expected[-1]:
        expected.pop()
    found = asyncio.run(lines(source(*pieces)))
    assert [line for some in found for line in some] == expected


async def test_lines_of_a_chunk_are_returned_together() -> None:
    """None is kept back for an incomplete line after it."""
    assert await lines(source(b"a\nb\nc", b"d", b"\n\n", b"e")) == [[b"a", b"b"], [b"cd", b""], [b"e"]]


async def test_the_next_chunk_is_read_when_the_last_is_processed() -> None:
    counted: list[int] = []
    given = source(b"a\nb", b"c\n")
    given.on_taken = counted.append
    found = given.lines()
    assert (await anext(found), counted) == ([b"a"], [])
    assert (await anext(found), counted) == ([b"bc"], [3])
    assert [some async for some in found] == []
    assert counted == [3, 2]


async def test_an_endless_line_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that returns zeros for ever does not fill the memory. Earlier lines are returned."""
    monkeypatch.setattr(module, "MAX_LINE", 10)
    found = source(b"a\nb\n", *[b"\0" * 4] * 1000).lines()
    assert await anext(found) == [b"a", b"b"]
    with pytest.raises(ClientError, match=r"^line 3: has more than 10 bytes$"):
        await anext(found)
    with pytest.raises(ClientError, match=r"^x: has more than 10 bytes$"):
        await source(*[b"\0" * 4] * 1000).document()


async def test_a_document_is_read_as_a_whole() -> None:
    assert await source(b"{\n", b"}").document() == b"{\n}"
    assert await source().document() == b""


async def test_an_argument_keeps_its_bytes() -> None:
    """Those that are not UTF-8 too: the server refuses them."""
    assert await source_of("é\udcff").document() == b"\xc3\xa9\xff"


async def test_a_file_has_a_size_and_a_pipe_has_none(tmp_path: Path) -> None:
    """The size is the number of bytes left to read."""
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    opened = await open_source(str(file))
    assert (opened.size, await opened.document()) == (5, b"12345")
    opened.close()
    reading, writing = os.pipe()
    try:
        os.write(writing, b"x")
        piped = await open_source(f"/dev/fd/{reading}")
        os.close(writing)
        assert (piped.size, await piped.document()) == (None, b"x")
        piped.close()
    finally:
        os.close(reading)


async def test_an_empty_non_blocking_pipe_is_not_at_its_end() -> None:
    """Another process that shares it may have made it non-blocking."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    given = InputSource(os.fdopen(reading, "rb"), name="x", size=None)
    whole = asyncio.create_task(given.document())
    done, _ = await asyncio.wait([whole], timeout=0.1)
    os.write(writing, b"late")
    os.close(writing)
    assert (done, await whole) == (set(), b"late")
    given.close()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/none", "No such file or directory"), ("/", "Is a directory"), ("\0", "embedded null byte")],
)
async def test_a_file_that_cannot_be_opened_is_reported(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^--file: {path}: cannot be read: {reason}$"):
        await open_source(path)


async def test_a_read_error_is_reported() -> None:
    """It is an error of this package, and the lines before it are returned."""

    class Broken(Chunks):
        def read1(self, size: int | None = -1, /) -> bytes:
            """Return the next chunk, and fail after the last."""
            if piece := super().read1(size):
                return piece
            raise OSError(5, "Input/output error")

    found = InputSource(Broken([b"a\nb"]), name="disk", size=9).lines()
    assert await anext(found) == [b"a"]
    with pytest.raises(ClientError, match=r"^disk: cannot be read: Input/output error$"):
        await anext(found)
