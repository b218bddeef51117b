"""What is logged of what clients do."""

import logging

import pytest
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from sse_broadcast.logs.flood import LEFT_OUT, MOST, Flood
from sse_broadcast.logs.formats import facts
from sse_broadcast.server.log import http_logger, reason
from tests.conftest import Connect, Serve
from tests.support.credentials import OWN_SECRET, caller, own, static
from tests.support.sockets import until


@pytest.fixture(autouse=True)
def calm() -> None:
    """Have no flood from the test before."""
    (flood,) = (each for each in http_logger().filters if isinstance(each, Flood))
    flood._seconds.clear()


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


SECRET = b"0123456789.access.token"

TELLING = {
    "no HTTP": b"%b\r\n\r\n",
    "method": b"%b / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad version": b"GET /events?access_token=%b HTTP/9.9\r\nHost: x\r\n\r\n",
    "no host": b"GET /events?access_token=%b HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /events?access_token=%b HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "header name": b"GET / HTTP/1.1\r\nHost: x\r\nAuth\x01orization: %b\r\n\r\n",
    "header value": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: \x00%b\r\n\r\n",
    "header line": b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n",
    "URL": b"GET http://[%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL and no path": b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL with a byte": b"GET /\x80%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL with a port": b"GET http://a:%b/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "long URL": b"GET /?access_token=%b" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: %b" + b"x" * 9000 + b"\r\n\r\n",
    "length": b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n",
    "coding": b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: %b\r\n\r\n",
    "chunk": b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n",
}


@pytest.mark.parametrize("what", TELLING)
async def test_nothing_that_a_client_sent_is_logged_or_repeated(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """A request that cannot be read may have a token in it anywhere."""
    caplog.set_level(logging.DEBUG)
    server = await serve()
    client = await connect(server)
    await client.send(TELLING[what].replace(b"%b", SECRET))
    answer = await client.rest()
    assert b" 400 Bad Request\r\n" in answer
    assert SECRET[:6] not in answer
    lines = [record for record in caplog.records if record.name != "asyncio"]
    assert len(lines) == 1
    assert SECRET[:6].decode() not in caplog.text
    assert lines[0].exc_info is None
    assert lines[0].getMessage().startswith("Error handling request from 127.0.0.1: ")


async def test_a_body_that_breaks_is_one_line(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Though aiohttp finds out when its answer is on the way."""
    server = await serve()
    client = await connect(server)
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    await until(lambda: server._runner.server is not None and server._runner.server.requests_count == 1)
    caplog.set_level(logging.INFO)
    await client.send(SECRET + b"\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    assert caplog.messages == ["Error reading a body: is not in chunks, as Transfer-Encoding says"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BadHttpMessage("Too many headers received"), "BadHttpMessage: Too many headers received"),
        (
            BadHttpMessage("Missing 'Host' header in request."),
            "BadHttpMessage: Missing 'Host' header in request.",
        ),
        (BadHttpMessage("Duplicate 'Host' header found."), "BadHttpMessage: Duplicate 'Host' header found."),
        (BadHttpMessage("Expected CRLF:\n\n  b'secret'\n   ^"), "BadHttpMessage: Expected CRLF"),
        (BadHttpMessage('it can\'t be:  "secret"'), "BadHttpMessage: it can't be"),
        (InvalidHeader(b"secret"), "InvalidHeader: Invalid HTTP header"),
        (InvalidHeader("secret"), "InvalidHeader: Invalid HTTP header"),
        (LineTooLong(b"secret", 5), "LineTooLong: Got more than 5 bytes when reading"),
        (LineTooLong(bytearray(b"secret"), 5), "LineTooLong: Got more than 5 bytes when reading"),  # type: ignore[arg-type]
        (BadStatusLine("secret"), "BadStatusLine: Bad status line"),
        (InvalidURLError("/secret"), "InvalidURLError"),
        (BadHttpMessage("x" * 200), "BadHttpMessage: " + "x" * 100),
    ],
)
def test_a_reason_has_no_word_of_the_request(error: HttpProcessingError, said: str) -> None:
    """Whichever of aiohttp's parsers it is that quotes it."""
    assert reason(error) == said


async def test_a_fault_of_ours_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The filter touches nothing but what a client did."""
    http_logger().error("Error handling request", exc_info=RuntimeError("ours"))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.levelno == logging.ERROR


async def test_a_flood_of_them_is_a_few_lines_and_a_number(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is answered, whatever is logged; what was left out is told when the second is over."""
    caplog.set_level(logging.INFO, http_logger().name)
    server = await serve()
    for _ in range(MOST + 30):
        client = await connect(server)
        await client.send(REFUSED["no host"])
        assert (await client.head()).split(b" ")[1] == b"400"
    await until(lambda: caplog.records[-1].msg == LEFT_OUT)
    lines = [record for record in caplog.records if record.msg != LEFT_OUT]
    told = [facts(record)["left_out"] for record in caplog.records if record.msg == LEFT_OUT]
    assert len(lines) + sum(told) == MOST + 30
    assert len(lines) <= MOST * (len(told) + 1)
    assert lines[0].args == {
        "address": "127.0.0.1",
        "reason": "BadHttpMessage: Missing 'Host' header in request.",
    }


PUBLISHES = [
    ("/send", "", b"DATA", "published {id} in default, by anyone: 1 event of 4 bytes for 1 client"),
    (
        "/send/a,b?id=mine",
        "",
        b"DATA",
        "published mine in a,b, by anyone: 1 event of 4 bytes for 0 clients",
    ),
    (
        "/send",
        "Content-Type: application/x-ndjson\r\n",
        b'{"message":"DATA"}\n{"message":"DATA"}\n',
        "published {id} in default, by anyone: 2 events of 38 bytes for 1 client",
    ),
    (
        "/send?stream=1",
        "",
        b"DATA\nDATA\nDATA\n",
        "published {id} in default, by anyone: 3 events of 12 bytes for 1 client",
    ),
]


@pytest.mark.parametrize(("path", "headers", "body", "line"), PUBLISHES)
async def test_a_publish_is_told_at_debug(
    serve: Serve,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    path: str,
    headers: str,
    body: bytes,
    line: str,
) -> None:
    """Where, how much and for how many, and nothing of what it says."""
    server = await serve()
    reader, publisher = await connect(server), await connect(server)
    await reader.subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    caplog.set_level(logging.INFO)
    assert (await publisher.ask("POST", path, body=body, headers=headers))[0] == 200
    assert caplog.messages == []
    caplog.set_level(logging.DEBUG)
    assert (await publisher.ask("POST", path, body=body, headers=headers))[0] == 200
    (record,) = [record for record in caplog.records if record.name == "sse_broadcast.server.publish"]
    assert (record.levelno, record.getMessage()) == (
        logging.DEBUG,
        line.format(id=server.broadcaster.cursor),
    )
    assert "DATA" not in caplog.text


async def test_a_publish_names_who_it_is_from(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The configured caller, or the subject that a signed token has, and no token."""
    server = await serve(caller=(caller("shop", publish=("*",)),), token_secret=OWN_SECRET)
    caplog.set_level(logging.DEBUG)
    publisher = await connect(server)
    for token, by in ((static("shop"), "caller shop"), (own(sub="eve"), "subject eve")):
        caplog.clear()
        bearer = f"Authorization: Bearer {token}\r\n"
        assert (await publisher.ask("POST", "/send/a", body=b"x", headers=bearer))[0] == 200
        (record,) = [record for record in caplog.records if record.name == "sse_broadcast.server.publish"]
        assert facts(record)["caller"] == by
        assert token not in caplog.text
