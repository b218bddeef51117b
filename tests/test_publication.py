"""Encodings, made once."""

from sse_broadcast.event import Event
from sse_broadcast.publication import Publication, chunked_text, text


def test_an_encoding_is_made_once_and_shared() -> None:
    """Everyone who asks for an encoding gets the same object."""
    publication = Publication(("default",), Event("hello"))
    assert publication.frame(text) == b"data: hello\n\n"
    assert publication.frame(chunked_text) == b"d\r\ndata: hello\n\n\r\n"
    assert publication.frame(text) is publication.frame(text)
    assert publication.frame(chunked_text) is publication.frame(chunked_text)


def test_its_size_is_that_of_the_text_frame() -> None:
    """What an event counts for in a queue does not depend on who reads it."""
    assert Publication(("default",), Event("hello")).size == 13
