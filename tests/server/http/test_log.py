"""The log of what clients do."""

import logging
from pathlib import Path

import pytest
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from sse_broadcast.config.schema import ListenerRule
from sse_broadcast.logs.formatters import JsonFormatter, TextFormatter, facts
from sse_broadcast.logs.rate_limit import LEFT_OUT, MAX_LINES_A_SECOND, RateLimitFilter
from sse_broadcast.server.http.log import fault_of, http_logger, refusal_logger
from tests.conftest import Caplog, LiveServer, Serve
from tests.support.asking import ask, bearer
from tests.support.credentials import OWN_SECRET, STATIC, caller, own, static
from tests.support.internals import web_server_of
from tests.support.sockets import RawClient, until


@pytest.fixture(autouse=True)
def calm() -> None:
    """Reset the rate limit of log lines."""
    for logger in (http_logger(), refusal_logger()):
        (flood,) = (each for each in logger.filters if isinstance(each, RateLimitFilter))
        logger.removeFilter(flood)
        logger.addFilter(RateLimitFilter())


REFUSED = {
    "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    "bad version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "smuggling": b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "long line": b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n",
}


@pytest.mark.both_loops
@pytest.mark.parametrize("what", REFUSED)
async def test_a_request_that_cannot_be_parsed_is_one_line(
    client: RawClient, caplog: Caplog, what: str
) -> None:
    """The client gets a 400. The log has a line at most, and no traceback."""
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
    "long URL": b"GET /?access_token=%b" + b"x" * 66_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: %b" + b"x" * 66_000 + b"\r\n\r\n",
    "length": b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n",
    "coding": b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: %b\r\n\r\n",
    "chunk": b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n",
}


@pytest.mark.parametrize("what", TELLING)
async def test_nothing_of_a_malformed_request_is_logged_or_repeated(
    client: RawClient, caplog: Caplog, what: str
) -> None:
    """It may have a token anywhere."""
    caplog.set_level(logging.DEBUG)
    await client.send(TELLING[what].replace(b"%b", SECRET))
    answer = await client.rest()
    assert b" 400 Bad Request\r\n" in answer
    assert SECRET[:6] not in answer
    lines = [record for record in caplog.records if record.name != "asyncio"]
    assert len(lines) == 1
    assert SECRET[:6].decode() not in caplog.text
    assert lines[0].exc_info is None
    assert lines[0].getMessage().startswith("Error handling request from 127.0.0.1: ")


@pytest.mark.both_loops
async def test_an_interrupted_body_is_one_line(server: LiveServer, client: RawClient, caplog: Caplog) -> None:
    await client.send(b"POST /send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    await until(lambda: web_server_of(server).requests_count == 1)
    caplog.set_level(logging.INFO)
    await client.send(SECRET + b"\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    assert caplog.messages == ["Error reading a body: is not in chunks, as Transfer-Encoding says"]


NO_HOST = "Missing 'Host' header in request."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BadHttpMessage("Too many headers received"), "BadHttpMessage: Too many headers received"),
        (BadHttpMessage(NO_HOST), f"BadHttpMessage: {NO_HOST}"),
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
def test_a_logged_reason_quotes_nothing_of_the_request(error: HttpProcessingError, said: str) -> None:
    """This holds for both parsers of aiohttp."""
    assert fault_of(error) == said


async def test_a_server_error_keeps_its_traceback(caplog: Caplog) -> None:
    """The filter drops only those of client errors."""
    http_logger().error("Error handling request", exc_info=RuntimeError("ours"))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.levelno == logging.ERROR


async def test_many_malformed_requests_are_a_few_lines_and_a_count(serve: Serve, caplog: Caplog) -> None:
    """Each gets its response. After a second a line has the number of dropped lines."""
    caplog.set_level(logging.INFO, http_logger().name)
    server = await serve()
    for _ in range(MAX_LINES_A_SECOND + 30):
        client = await server.connect()
        await client.send(REFUSED["no host"])
        assert (await client.head()).split(b" ")[1] == b"400"
    await until(lambda: caplog.records[-1].msg == LEFT_OUT)
    lines = [record for record in caplog.records if record.msg != LEFT_OUT]
    reported = [facts(record)["left_out"] for record in caplog.records if record.msg == LEFT_OUT]
    assert len(lines) + sum(reported) == MAX_LINES_A_SECOND + 30
    assert len(lines) <= MAX_LINES_A_SECOND * (len(reported) + 1)
    assert lines[0].args == {"address": "127.0.0.1", "reason": f"BadHttpMessage: {NO_HOST}"}


# Refused requests.

READER = caller("reader", subscribe=("a",))

STREAM = "Accept: text/event-stream\r\n"

APP, FOREIGN = "https://app.example", "https://evil.example"


def lines_of(caplog: Caplog) -> list[tuple[int, str]]:
    """Return the level and text of the lines about refusals."""
    records = [record for record in caplog.records if record.name == "sse_broadcast.refused"]
    return [(record.levelno, record.getMessage()) for record in records]


NO_SINCE = (
    "neither an age (500ms, 30s, 10m, 2h, 7d), nor earliest or last, nor the id of an event that is held"
)

NOT_GET = "/send/a does not support GET, but POST, PUT, OPTIONS; GET /events/a subscribes"
EMPTY = "body: is empty; send the message, or ?event=TYPE for an event without one"

REFUSALS = [
    ("GET", "/nope", "", b"", 404, "nothing is at /nope; GET /events subscribes, POST /send publishes"),
    ("GET", "/send/a", "", b"", 405, NOT_GET),
    ("GET", "/events?since=yesterday&x=1", "", b"", 400, f"since: 'yesterday' is {NO_SINCE}"),
    ("POST", "/send", "", b"", 422, EMPTY),
    ("POST", "/send", "", b"x" * 20_000, 413, "body: more than 10096 bytes"),
    (
        "POST",
        "/send",
        "Content-Encoding: gzip\r\n",
        b"x",
        415,
        "Content-Encoding: 'gzip' is not supported; send the body uncompressed",
    ),
    ("POST", "/send", "Expect: a-miracle\r\n", b"x", 417, "Expect: 'a-miracle' is not supported"),
    (
        "GET",
        "/status?x=" + "x" * 16_384,
        "",
        b"",
        414,
        (
            "request line: has 16394 bytes, more than 16384;"
            " send a long list of channels in the body of POST /events"
        ),
    ),
    ("GET", "/status", "X: " + "x" * 40_000 + "\r\n", b"", 431, "head: has 40029 bytes, more than 32768"),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "detail"), REFUSALS)
async def test_a_refusal_is_a_line_at_debug(
    serve: Serve, caplog: Caplog, method: str, path: str, headers: str, body: bytes, status: int, detail: str
) -> None:
    """It has the address, the status, the request without its query, and the detail."""
    server = await serve(max_event=1000)
    caplog.set_level(logging.DEBUG)
    answer = await ask(server, method, path, headers=headers, body=body)
    assert (answer.status, answer.detail) == (status, detail)
    shown = path.partition("?")[0]
    assert lines_of(caplog) == [(logging.DEBUG, f"refused 127.0.0.1: {status} {method} {shown}: {detail}")]


@pytest.mark.parametrize(
    ("path", "headers", "status", "detail"),
    [
        ("/events/a", "", 401, None),
        ("/events/a", bearer("x" * 20), 401, None),
        ("/events/a?access_token=SECRET", "", 401, None),
        ("/events/b", bearer(static("reader")), 403, "subscribe 'b': the token does not allow it"),
    ],
)
async def test_a_refused_credential_is_a_line_at_info(
    serve: Serve, caplog: Caplog, path: str, headers: str, status: int, detail: str | None
) -> None:
    """Attempts with bad tokens are visible by default. The line has nothing of the token."""
    server = await serve(caller=(READER,))
    caplog.set_level(logging.INFO)
    answer = await ask(server, "GET", path, headers=headers)
    assert answer.status == status
    assert detail in {None, answer.detail}
    shown = path.partition("?")[0]
    said = f"refused 127.0.0.1: {status} GET {shown}: {answer.detail}"
    assert lines_of(caplog) == [(logging.INFO, said)]
    assert "SECRET" not in caplog.text
    assert "x" * 20 not in caplog.text
    assert static("reader") not in caplog.text


async def test_a_foreign_host_name_is_a_line_at_info(server: LiveServer, caplog: Caplog) -> None:
    """It is a 421: a page whose name resolves to this server."""
    caplog.set_level(logging.INFO)
    answer = await ask(server, "GET", "/status", host="evil.example")
    assert answer.status == 421
    assert lines_of(caplog) == [(logging.INFO, f"refused 127.0.0.1: 421 GET /status: {answer.detail}")]


async def test_other_refusals_are_not_logged_by_default(server: LiveServer, caplog: Caplog) -> None:
    caplog.set_level(logging.INFO)
    for method, path in (("GET", "/nope"), ("GET", "/send"), ("POST", "/send"), ("GET", "/events?sinse=1")):
        assert (await ask(server, method, path)).status >= 400
    assert lines_of(caplog) == []


@pytest.mark.parametrize(
    ("settings", "status", "detail"),
    [
        ({"subscribe_rate": 1, "subscribe_burst": 1}, 429, "subscribe_rate: "),
        ({"subscribed_channels": 1}, 503, "subscribed_channels: "),
    ],
)
async def test_a_refusal_as_a_stream_is_logged_with_its_error_status(
    serve: Serve, caplog: Caplog, settings: dict[str, int], status: int, detail: str
) -> None:
    server = await serve(**settings)
    await (await server.connect()).subscribe()
    await until(lambda: server.broadcaster.client_count == 1)
    caplog.set_level(logging.DEBUG)
    for headers in (STREAM, ""):
        caplog.clear()
        answer = await ask(server, "GET", "/events/other", headers=headers)
        assert answer.status == (200 if headers else status)
        ((level, said),) = lines_of(caplog)
        assert level == logging.DEBUG
        assert said.startswith(f"refused 127.0.0.1: {status} GET /events/other: {detail}")


async def test_a_refusal_has_the_client_address_of_a_trusted_proxy(serve: Serve, caplog: Caplog) -> None:
    """Other clients cannot forge it."""
    caplog.set_level(logging.INFO)
    forwarded = "X-Forwarded-For: 192.0.2.7\r\n"
    trusting = await serve(token=STATIC, trusted_proxies=("127.0.0.1",))
    await ask(trusting, "GET", "/status", headers=forwarded)
    doubting = await serve(token=STATIC)
    await ask(doubting, "GET", "/status", headers=forwarded)
    assert [said.split(":")[0] for _, said in lines_of(caplog)] == ["refused 192.0.2.7", "refused 127.0.0.1"]


async def test_a_refusal_at_a_unix_socket_has_no_address(
    serve: Serve, caplog: Caplog, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    await serve(token=STATIC, listener=(ListenerRule(host=f"unix:{path}"),))
    caplog.set_level(logging.INFO)
    answer = await ask(path, "GET", "/status")
    assert lines_of(caplog) == [(logging.INFO, f"refused unix: 401 GET /status: {answer.detail}")]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/caf%C3%A9", "/caf\\xe9"),
        ("/a%0Arefused%20192.0.2.1:%20401", "/a\\nrefused 192.0.2.1: 401"),
        ("/%1b%5b2J", "/\\x1b[2J"),
        ("/a'b", "/a'b"),
        ("/" + "x" * 200, "/" + "x" * 79),
    ],
)
async def test_a_logged_target_is_one_line(server: LiveServer, caplog: Caplog, path: str, shown: str) -> None:
    """It is ASCII and cut: it can neither add a line nor send control characters to a terminal."""
    caplog.set_level(logging.DEBUG)
    assert (await ask(server, "GET", path)).status == 404
    ((_, said),) = lines_of(caplog)
    assert said.startswith(f"refused 127.0.0.1: 404 GET {shown}: nothing is at ")
    line = TextFormatter().format(caplog.records[-1])
    assert "\n" not in line
    assert line.isprintable()


async def test_a_refusal_has_its_facts_as_fields(server: LiveServer, caplog: Caplog) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await ask(server, "GET", "/nope?access_token=SECRET")
    (record,) = [record for record in caplog.records if record.name == "sse_broadcast.refused"]
    assert facts(record) == {
        "address": "127.0.0.1",
        "method": "GET",
        "path": "/nope",
        "status": 404,
        "detail": answer.detail,
    }
    assert "SECRET" not in JsonFormatter().format(record)


async def test_many_refusals_are_a_few_lines_and_a_count(serve: Serve, caplog: Caplog) -> None:
    server = await serve(token=STATIC)
    caplog.set_level(logging.INFO)
    client = await server.connect()
    for _ in range(MAX_LINES_A_SECOND + 10):
        assert (await client.ask("GET", "/status"))[0] == 401
    await until(lambda: caplog.records[-1].msg == LEFT_OUT)
    lines = [record for record in caplog.records if record.msg != LEFT_OUT]
    reported = [facts(record)["left_out"] for record in caplog.records if record.msg == LEFT_OUT]
    assert len(lines) + sum(reported) == MAX_LINES_A_SECOND + 10
    assert len(lines) <= MAX_LINES_A_SECOND * (len(reported) + 1)


# Pages that CORS keeps from reading.


def origin(value: str) -> str:
    return f"Origin: {value}\r\n"


async def test_a_refused_page_is_logged_with_its_origin(serve: Serve, caplog: Caplog) -> None:
    """The origin has 80 characters at most. It is left out if the detail names the setting for it."""
    server = await serve(token=STATIC, cors_origins=(APP,))
    caplog.set_level(logging.DEBUG)
    long = "https://" + "x" * 200
    for value, shown in ((FOREIGN, FOREIGN), ("null", "null"), (long, long[:80])):
        caplog.clear()
        answer = await ask(server, "GET", "/nope", headers=origin(value))
        said = (
            f"refused 127.0.0.1: 404 GET /nope: {answer.detail}; it is a page of {shown}, which"
            " is not in cors_origins"
        )
        assert lines_of(caplog) == [(logging.DEBUG, said)]
        (record,) = [record for record in caplog.records if record.name == "sse_broadcast.refused"]
        assert facts(record)["origin"] == shown


async def test_a_refused_page_is_logged_without_origin_if_the_setting_is_named(
    server: LiveServer, caplog: Caplog
) -> None:
    """An open server explains why it refuses a foreign page."""
    caplog.set_level(logging.INFO)
    answer = await ask(server, "GET", "/status", headers=origin(FOREIGN))
    assert answer.status == 403
    assert "cors_origins" in answer.detail
    assert lines_of(caplog) == [(logging.INFO, f"refused 127.0.0.1: 403 GET /status: {answer.detail}")]


async def test_a_page_that_can_read_its_refusal_is_logged_without_origin(
    serve: Serve, caplog: Caplog
) -> None:
    server = await serve(token=STATIC, cors_origins=(APP, "https://*.example.org"))
    caplog.set_level(logging.DEBUG)
    for value in (APP, "https://a.b.example.org", "http://localhost"):
        caplog.clear()
        answer = await ask(server, "GET", "/nope", headers=origin(value))
        assert lines_of(caplog) == [(logging.DEBUG, f"refused 127.0.0.1: 404 GET /nope: {answer.detail}")]


KEPT = (
    "kept from 127.0.0.1: the browser hides the answer to {} {} from a page of {},"
    " which is not in cors_origins"
)


@pytest.mark.parametrize(
    ("method", "path", "more", "value"),
    [
        *(("GET", "/events", bearer(STATIC), value) for value in (FOREIGN, "null", f"{APP}:8443")),
        ("OPTIONS", "/send/a", "Access-Control-Request-Method: POST\r\n", FOREIGN),
    ],
)
async def test_a_response_that_a_browser_withholds_from_its_page_is_logged(
    serve: Serve, caplog: Caplog, method: str, path: str, more: str, value: str
) -> None:
    """The level is info: the page sees an error without a reason. A preflight that allows nothing counts."""
    server = await serve(token=STATIC, cors_origins=(APP,))
    caplog.set_level(logging.INFO)
    answer = await ask(server, method, f"{path}?since=earliest", headers=origin(value) + more)
    assert answer.status == (204 if method == "OPTIONS" else 200)
    assert lines_of(caplog) == [(logging.INFO, KEPT.format(method, path, value))]


async def test_a_page_that_can_read_its_response_is_not_logged(serve: Serve, caplog: Caplog) -> None:
    """Neither is a client without Origin, nor OPTIONS that is no preflight."""
    server = await serve(token=STATIC, cors_origins=(APP,))
    caplog.set_level(logging.DEBUG)
    asking = "Access-Control-Request-Method: POST\r\n"
    for value in (origin(APP), origin("http://localhost"), ""):
        assert (await ask(server, "GET", "/events", headers=bearer(STATIC) + value)).status == 200
        assert (await ask(server, "OPTIONS", "/send", headers=value + asking)).status == 204
    assert (await ask(server, "OPTIONS", "/send", headers=origin(FOREIGN))).status == 204
    assert lines_of(caplog) == []


# Publishes.

PUBLISHED = "published {id} in default, by anyone"

PUBLISHES = [
    ("/send", "", b"DATA", "published {id} in default, by anyone: 1 event of 4 bytes for 1 client"),
    ("/send/a,b?id=mine", "", b"DATA", "published mine in a,b, by anyone: 1 event of 4 bytes for 0 clients"),
    (
        "/send",
        "Content-Type: application/x-ndjson\r\n",
        b'{"message":"DATA"}\n{"message":"DATA"}\n',
        "published {id} in default, by anyone: 2 events of 38 bytes for 1 client",
    ),
    ("/send?stream=1", "", b"DATA\n" * 3, f"{PUBLISHED}: 3 events of 12 bytes for 1 client"),
]


@pytest.mark.parametrize(("path", "headers", "body", "line"), PUBLISHES)
async def test_a_publish_is_a_line_at_debug(
    server: LiveServer, caplog: Caplog, path: str, headers: str, body: bytes, line: str
) -> None:
    """It has channels, size and number of subscribers, and nothing of the data."""
    _, publisher = await server.subscriber(), await server.connect()
    await until(lambda: server.broadcaster.client_count == 1)
    caplog.set_level(logging.INFO)
    assert (await publisher.ask("POST", path, body=body, headers=headers))[0] == 200
    assert caplog.messages == []
    caplog.set_level(logging.DEBUG)
    assert (await publisher.ask("POST", path, body=body, headers=headers))[0] == 200
    (record,) = [record for record in caplog.records if record.name == "sse_broadcast.published"]
    assert (record.levelno, record.getMessage()) == (logging.DEBUG, line.format(id=server.broadcaster.cursor))
    assert "DATA" not in caplog.text


async def test_a_publish_is_logged_with_its_publisher(serve: Serve, caplog: Caplog) -> None:
    """It is the configured caller or the subject of a signed token, and never the token."""
    server = await serve(caller=(caller("shop", publish=("*",)),), token_secret=OWN_SECRET)
    caplog.set_level(logging.DEBUG)
    publisher = await server.connect()
    for token, by in ((static("shop"), "caller shop"), (own(sub="eve"), "subject eve")):
        caplog.clear()
        bearer = f"Authorization: Bearer {token}\r\n"
        assert (await publisher.ask("POST", "/send/a", body=b"x", headers=bearer))[0] == 200
        (record,) = [record for record in caplog.records if record.name == "sse_broadcast.published"]
        assert facts(record)["caller"] == by
        assert token not in caplog.text
