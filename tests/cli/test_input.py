"""What is published, read in pieces."""

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


class Pieces(io.BytesIO):
    """A file whose reads give what a test says."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)

    def read1(self, size: int | None = -1, /) -> bytes:
        return next(self._pieces, b"")


def source(*pieces: bytes) -> InputSource:
    return InputSource(Pieces(list(pieces)), name="x", size=1)


async def lines(given: InputSource) -> list[list[bytes]]:
    return [some async for some in given.lines()]


@given(pieces=st.lists(st.text("ab\r\n", min_size=1).map(str.encode)))
def test_lines_are_whole_wherever_they_were_cut(pieces: list[bytes]) -> None:
    """Without their ends; a last one without an end is one; what is no LF is no end."""
    expected = b"".join(pieces).split(b"\n")
    if not expected[-1]:
        expected.pop()
    found = asyncio.run(lines(source(*pieces)))
    assert [line for some in found for line in some] == expected


async def test_lines_that_come_together_are_given_together() -> None:
    """And none is kept back for one that has not come."""
    assert await lines(source(b"a\nb\nc", b"d", b"\n\n", b"e")) == [[b"a", b"b"], [b"cd", b""], [b"e"]]


async def test_whoever_asks_for_more_has_dealt_with_what_came() -> None:
    counted: list[int] = []
    given = source(b"a\nb", b"c\n")
    given.on_taken = counted.append
    found = given.lines()
    assert (await anext(found), counted) == ([b"a"], [])
    assert (await anext(found), counted) == ([b"bc"], [3])
    assert [some async for some in found] == []
    assert counted == [3, 2]


async def test_a_line_without_end_is_not_read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that gives zeros for ever does not fill the memory; the lines before it have been given."""
    monkeypatch.setattr(module, "MAX_LINE", 10)
    found = source(b"a\nb\n", *[b"\0" * 4] * 1000).lines()
    assert await anext(found) == [b"a", b"b"]
    with pytest.raises(ClientError, match=r"^line 3: has more than 10 bytes$"):
        await anext(found)
    with pytest.raises(ClientError, match=r"^x: has more than 10 bytes$"):
        await source(*[b"\0" * 4] * 1000).document()


async def test_a_document_is_all_of_it() -> None:
    assert await source(b"{\n", b"}").document() == b"{\n}"
    assert await source().document() == b""


async def test_what_was_typed_is_as_it_was_typed() -> None:
    """Bytes that are not UTF-8 included, which the server is to refuse."""
    assert await source_of("é\udcff").document() == b"\xc3\xa9\xff"


async def test_a_file_has_a_size_and_a_pipe_has_none(tmp_path: Path) -> None:
    """The size is what is left to read."""
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


async def test_a_pipe_that_is_empty_is_not_at_its_end() -> None:
    """Though it does not block: another process that has it may have said so."""
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
async def test_what_cannot_be_opened_is_said(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^--file: {path}: cannot be read: {reason}$"):
        await open_source(path)


async def test_what_breaks_while_it_is_read_is_said() -> None:
    """An error of the disk is one of ours, and has the lines before it read."""

    class Broken(Pieces):
        def read1(self, size: int | None = -1, /) -> bytes:
            """Return the next piece, and then fail."""
            if piece := super().read1(size):
                return piece
            raise OSError(5, "Input/output error")

    found = InputSource(Broken([b"a\nb"]), name="disk", size=9).lines()
    assert await anext(found) == [b"a"]
    with pytest.raises(ClientError, match=r"^disk: cannot be read: Input/output error$"):
        await anext(found)
