"""What is logged of what clients do."""

import logging

import pytest

from sse_broadcast.server.log import http_logger
from tests.conftest import Connect, Serve

REFUSED = {
    "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    "bad version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "smuggling": b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "long line": b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_the_parser_refuses_is_one_line(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """400 for the client, at most a line for the log, and no traceback."""
    server = await serve()
    client = await connect(server)
    await client.send(REFUSED[what])
    assert (await client.head()).split(b" ")[1] == b"400"
    assert all(record.exc_info is None and record.levelno < logging.WARNING for record in caplog.records)
    assert len(caplog.records) <= 1


async def test_a_fault_of_ours_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The filter touches nothing but what a client did."""
    http_logger().error("Error handling request", exc_info=RuntimeError("ours"))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.levelno == logging.ERROR
