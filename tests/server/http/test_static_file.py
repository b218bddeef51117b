"""Static files: the plain and the compressed form, and the ETag of each."""

import gzip

import pytest
from aiohttp.test_utils import make_mocked_request

from sse_broadcast.server.http.static_file import StaticFile

BODY = b"hello " * 100
FILE = StaticFile(BODY, {"Content-Type": "text/x"})


def test_a_file_is_compressed_for_who_takes_that() -> None:
    """And plain for others, each with an ETag of its own; a cache keeps them apart."""
    plain = FILE.answer(make_mocked_request("GET", "/"))
    zipped = FILE.answer(make_mocked_request("GET", "/", headers={"Accept-Encoding": "br, gzip"}))
    assert plain.body == BODY
    assert gzip.decompress(bytes(zipped.body or b"")) == BODY  # type: ignore[arg-type]
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert plain.headers["ETag"] != zipped.headers["ETag"]
    assert plain.headers["Vary"] == zipped.headers["Vary"] == "Accept-Encoding"
    assert FILE.transferred_bytes < len(BODY)


@pytest.mark.parametrize("accepted", ["gzip;q=0", "gzip; q=0.0", "br", "", "x-gzip-not"])
def test_who_refuses_gzip_is_given_none(accepted: str) -> None:
    answer = FILE.answer(make_mocked_request("GET", "/", headers={"Accept-Encoding": accepted}))
    assert answer.body == BODY


def test_who_has_the_file_is_told_so() -> None:
    """By either ETag: they are of the same file."""
    for headers in ({}, {"Accept-Encoding": "gzip"}):
        tag = FILE.answer(make_mocked_request("GET", "/", headers=headers)).headers["ETag"]
        for said in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = FILE.answer(make_mocked_request("GET", "/", headers={"If-None-Match": said}))
            assert (again.status, again.body) == (304, None)
    other = FILE.answer(make_mocked_request("GET", "/", headers={"If-None-Match": '"other"'}))
    assert other.status == 200


def test_the_same_file_has_the_same_bytes_on_every_node() -> None:
    again = StaticFile(BODY, {"Content-Type": "text/x"})
    request = make_mocked_request("GET", "/", headers={"Accept-Encoding": "gzip"})
    assert again.answer(request).body == FILE.answer(request).body
    assert again.answer(request).headers["ETag"] == FILE.answer(request).headers["ETag"]
