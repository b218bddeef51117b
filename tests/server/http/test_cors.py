"""CORS: the requests that pages of other origins may send, and the responses they may read."""

import pytest
from aiohttp.test_utils import make_mocked_request

from sse_broadcast.config.schema import Endpoint, ListenerRule
from sse_broadcast.server.http.cors import Cors, Origins, is_same_origin
from tests.conftest import Serve
from tests.support.asking import Answer, ask, bearer
from tests.support.credentials import STATIC, caller, static
from tests.support.sockets import RawClient, until

APP, OTHER, FOREIGN = "https://app.example", "http://localhost:3000", "https://evil.example"
ORIGINS = {"cors_origins": (APP, OTHER)}
JSON = "Content-Type: application/json\r\n"

SHOWN = "Retry-After, WWW-Authenticate"
ASKED = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, X-Requested-With"


def origin(value: str) -> str:
    return f"Origin: {value}\r\n"


def cors_headers(answer: Answer) -> dict[str, str]:
    """Return the CORS headers of a response."""
    return {
        name: value
        for name, value in answer.headers.items()
        if name.startswith("access-control-") or name == "vary"
    }


OPENED = {
    "vary": "Origin",
    "access-control-allow-origin": APP,
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": SHOWN,
}

ANSWERS = [
    ("GET", "/events", "", b"", 200),
    ("HEAD", "/events", "", b"", 200),
    ("GET", "/events?format=json", "Accept: application/x-ndjson\r\n", b"", 200),
    ("POST", "/send", "", b"x", 200),
    ("GET", "/status", "", b"", 200),
    ("GET", "/channels", "", b"", 200),
    ("GET", "/channels/a", "", b"", 200),
    ("POST", "/tokens", JSON, b'{"grants": {}}', 200),
    ("POST", "/revoke", JSON, b'{"id": "x"}', 200),
    ("GET", "/healthz", "", b"", 200),
    ("GET", "/readyz", "", b"", 200),
    ("OPTIONS", "/send", "", b"", 204),
    ("GET", "/events?format=x", "", b"", 400),
    ("GET", "/events/%ff", "", b"", 400),
    ("GET", "/events?access_token=x", "", b"", 400),
    ("GET", "/nope", "", b"", 404),
    ("GET", "/send", "", b"", 405),
    ("POST", "/send", "Content-Encoding: gzip\r\n", b"x", 415),
    ("POST", "/send", "Expect: a-miracle\r\n", b"x", 417),
    ("POST", "/send", JSON, b"[]", 422),
    ("POST", "/events", JSON, b'{"channel": "a"}', 200),
    ("POST", "/events", "", b"x", 415),
    ("GET", "/events?x=" + "x" * 16_384, "", b"", 414),
    ("GET", "/status", "".join(f"X-{number}: {'x' * 8000}\r\n" for number in range(5)), b"", 431),
    ("POST", "/tokens", JSON, b'{"grants": {"admin": ["*"]}}', 403),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), ANSWERS)
async def test_pages_of_an_allowed_origin_can_read_every_response(
    serve: Serve, method: str, path: str, headers: str, body: bytes, status: int
) -> None:
    """Errors are among them: otherwise a browser reports each one as an error of CORS."""
    server = await serve(**ORIGINS, token=STATIC)
    headers += bearer(STATIC)
    answer = await ask(server, method, path, headers=headers + origin(APP), body=body)
    assert (answer.status, cors_headers(answer)) == (status, OPENED)
    answer = await ask(server, method, path, headers=headers + origin(OTHER), body=body)
    assert (answer.status, cors_headers(answer)) == (status, {**OPENED, "access-control-allow-origin": OTHER})


@pytest.mark.parametrize(
    ("headers", "status"), [("", 401), (bearer("x"), 401), (bearer(static("reader")), 403)]
)
async def test_pages_of_an_allowed_origin_can_read_refusals(serve: Serve, headers: str, status: int) -> None:
    """A page must know when it needs another token."""
    server = await serve(**ORIGINS, caller=(caller("reader", subscribe=("b",)),))
    answer = await ask(server, "GET", "/events/a", headers=headers + origin(APP))
    assert (answer.status, cors_headers(answer)) == (status, OPENED)


async def test_allowed_pages_can_read_the_mistakes_an_open_server_refuses(serve: Serve) -> None:
    """Pages of other origins get 421 and 403 without CORS headers."""
    server = await serve(**ORIGINS)
    answer = await ask(server, "GET", "/status", headers=origin(APP), host="evil.example")
    assert (answer.status, cors_headers(answer)) == (421, OPENED)
    answer = await ask(server, "GET", "/status", headers=origin(FOREIGN))
    assert (answer.status, cors_headers(answer)) == (403, {"vary": "Origin"})


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), ANSWERS)
async def test_a_foreign_page_cannot_read_a_response(
    serve: Serve, method: str, path: str, headers: str, body: bytes, status: int
) -> None:
    """Vary keeps caches from serving it to another origin."""
    server = await serve(**ORIGINS, token=STATIC)
    headers += bearer(STATIC)
    for said in ("", origin(FOREIGN)):
        answer = await ask(server, method, path, headers=headers + said, body=body)
        assert (answer.status, cors_headers(answer)) == (status, {"vary": "Origin"})


@pytest.mark.parametrize(
    "value",
    [
        "null",
        "*",
        "",
        "https://APP.example",
        "https://app.example:443",
        "https://app.example/",
        "http://app.example",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://app.exampl",
        "https://sub.app.example",
        f"{APP}, {FOREIGN}",
        f"{APP} {FOREIGN}",
        "http://localhost",
        "http://localhost:30000",
    ],
)
async def test_an_origin_is_compared_exactly(serve: Serve, value: str) -> None:
    server = await serve(**ORIGINS, token=STATIC)
    answer = await ask(server, "GET", "/status", headers=bearer(STATIC) + origin(value))
    assert cors_headers(answer) == {"vary": "Origin"}
    asking = origin(value) + "Access-Control-Request-Method: POST\r\n"
    assert cors_headers(await ask(server, "OPTIONS", "/send", headers=asking)) == {"vary": "Origin"}


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), ANSWERS)
async def test_no_other_origin_is_allowed_by_default(
    serve: Serve, method: str, path: str, headers: str, body: bytes, status: int
) -> None:
    server = await serve(token=STATIC)
    for value in (APP, "http://localhost", "null"):
        answer = await ask(server, method, path, headers=headers + bearer(STATIC) + origin(value), body=body)
        assert (answer.status, cors_headers(answer)) == (status, {})


APPS = ("capacitor://localhost", "chrome-extension://abcdefghijklmnop", "ionic://localhost")


@pytest.mark.parametrize("value", APPS)
async def test_the_origin_of_an_app_may_be_allowed(serve: Serve, value: str) -> None:
    server = await serve(cors_origins=APPS, token=STATIC)
    answer = await ask(server, "GET", "/status", headers=bearer(STATIC) + origin(value))
    assert cors_headers(answer) == {**OPENED, "access-control-allow-origin": value}
    for other in ("capacitor://other", "capacitor://localhost:80", "http://localhost", "https://localhost"):
        answer = await ask(server, "GET", "/status", headers=bearer(STATIC) + origin(other))
        assert cors_headers(answer) == {"vary": "Origin"}


BELOW = {"cors_origins": ("https://*.example.com", "http://*.localhost:3000", "https://example.org")}


@pytest.mark.parametrize(
    "value",
    [
        "https://a.example.com",
        "https://a-b.example.com",
        "https://a.b.c.example.com",
        "https://xn--caf-dma.example.com",
        "https://example.com.example.com",
        "https://a_b.example.com",
        "http://a.localhost:3000",
        "https://example.org",
    ],
)
async def test_all_subdomains_of_a_name_may_be_allowed(serve: Serve, value: str) -> None:
    """They may have several labels. The response has the origin of the request."""
    server = await serve(**BELOW, token=STATIC)
    answer = await ask(server, "GET", "/status", headers=bearer(STATIC) + origin(value))
    assert (answer.status, cors_headers(answer)) == (200, {**OPENED, "access-control-allow-origin": value})
    answer = await ask(server, "OPTIONS", "/send", headers=asking(value, "POST"))
    assert cors_headers(answer)["access-control-allow-methods"] == "POST, PUT, OPTIONS"


@pytest.mark.parametrize(
    "value",
    [
        "https://example.com",  # the name itself is not its own subdomain
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://a.example.com.evil.example",
        "https://evilexample.com",
        "https://.example.com",
        "https://a..example.com",
        "https://a/.example.com",
        "https://evil.example/.example.com",
        "https://evil.example#.example.com",
        "https://user@a.example.com",
        "https://A.example.com",
        "https://a.example.com/",
        "https://aXexample.com",
        "https://*.example.com",
        "https://a.example.com https://evil.example",
        "capacitor://a.example.com",
        "http://a.localhost",
        "http://localhost:3000",
        "https://a.example.org",
        "null",
        "",
    ],
)
async def test_other_origins_do_not_match_a_wildcard(serve: Serve, value: str) -> None:
    """The name itself does not, nor another scheme or port, nor `null`."""
    server = await serve(**BELOW, token=STATIC)
    answer = await ask(server, "GET", "/status", headers=bearer(STATIC) + origin(value))
    assert (answer.status, cors_headers(answer)) == (200, {"vary": "Origin"})


async def test_a_page_of_an_allowed_subdomain_may_use_an_open_server(serve: Serve) -> None:
    server = await serve(**BELOW)
    for value, status in (("https://a.example.com", 200), ("https://example.com", 403), ("null", 403)):
        assert (await ask(server, "GET", "/status", headers=origin(value))).status == status


def test_allowed_origins_are_those_configured() -> None:
    assert not Origins(())
    assert Origins((APP,))
    assert Origins(("https://*.example.com",))
    assert APP in Origins((APP,))
    assert 7 not in Origins((APP, "https://*.example.com"))
    assert None not in Origins((APP, "https://*.example.com"))


@pytest.mark.parametrize(
    ("value", "host", "secure", "same"),
    [
        ("http://a.example", "a.example", False, True),
        ("https://a.example", "a.example", False, True),  # The proxy in front terminates TLS.
        ("https://a.example", "a.example", True, True),
        ("http://a.example", "a.example", True, False),
        ("HTTP://A.example:8000", "a.EXAMPLE:8000", False, True),
        ("http://a.example", "a.example:8000", False, False),
        ("http://b.example", "a.example", False, False),
        ("ftp://a.example", "a.example", False, False),
        ("null", "null", False, False),
        ("http://", "", False, False),
        ("", "", False, False),
    ],
)
def test_a_page_of_the_servers_own_address_is_same_origin(
    value: str, host: str, *, secure: bool, same: bool
) -> None:
    """The address is the Host of the request with its port."""
    request = make_mocked_request("GET", "/", {"Host": host, "Origin": value})
    request = request.clone(scheme="https" if secure else "http")
    assert is_same_origin(value, request) == same
    assert Cors(()).kept_from(request) == (None if same else value)
    assert Cors((value,)).kept_from(request) is None


def test_a_request_without_an_origin_is_not_restricted() -> None:
    assert Cors((APP,)).kept_from(make_mocked_request("GET", "/", {"Host": "x"})) is None


# Preflights.


def asking(value: str, method: str) -> str:
    return (
        f"{origin(value)}Access-Control-Request-Method: {method}\r\n"
        "Access-Control-Request-Headers: authorization,content-type\r\n"
    )


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/events", "GET, HEAD, POST, OPTIONS"),
        ("/events/a,b?since=earliest", "GET, HEAD, OPTIONS"),
        ("/send", "POST, PUT, OPTIONS"),
        ("/send/a", "POST, PUT, OPTIONS"),
        ("/status", "GET, HEAD, OPTIONS"),
        ("/channels", "GET, HEAD, OPTIONS"),
        ("/channels/a", "GET, HEAD, OPTIONS"),
        ("/tokens", "POST, OPTIONS"),
        ("/revoke", "POST, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_preflight_is_answered(serve: Serve, path: str, methods: str) -> None:
    """Browsers send no credential with it.

    The response has the allowed methods and headers.
    """
    server = await serve(**ORIGINS, token=STATIC)
    answer = await ask(server, "OPTIONS", path, headers=asking(APP, "POST"))
    assert answer.status == 204
    assert answer.body == b""
    assert answer.headers["allow"] == methods
    assert cors_headers(answer) == {
        **OPENED,
        "access-control-allow-methods": methods,
        "access-control-allow-headers": ASKED,
        "access-control-max-age": "7200",
    }


async def test_a_preflight_of_a_foreign_page_allows_nothing(serve: Serve) -> None:
    server = await serve(**ORIGINS)
    for said in (asking(FOREIGN, "POST"), asking("null", "PUT"), "Access-Control-Request-Method: POST\r\n"):
        answer = await ask(server, "OPTIONS", "/send", headers=said)
        assert (answer.status, cors_headers(answer)) == (204, {"vary": "Origin"})


async def test_options_without_a_requested_method_is_no_preflight(serve: Serve) -> None:
    """Such a request of an allowed page gets the CORS headers of any response."""
    server = await serve(**ORIGINS)
    assert cors_headers(await ask(server, "OPTIONS", "/send", headers=origin(APP))) == OPENED


async def test_a_preflight_for_an_unknown_path_can_be_read(serve: Serve) -> None:
    server = await serve(**ORIGINS)
    answer = await ask(server, "OPTIONS", "/nope", headers=asking(APP, "POST"))
    assert (answer.status, cors_headers(answer)) == (404, OPENED)


async def test_endpoints_of_another_listener_are_unknown_to_pages_too(serve: Serve) -> None:
    listener = ListenerRule(host="127.0.0.1", port=0, endpoints=(Endpoint.SUBSCRIBE,))
    server = await serve(**ORIGINS, listener=(listener,))
    answer = await ask(server, "POST", "/send", headers=origin(APP), body=b"x")
    assert (answer.status, cors_headers(answer)) == (404, OPENED)


# Rejected streams.


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
async def test_a_refusal_for_too_many_streams_can_be_read_across_origins(serve: Serve, accept: str) -> None:
    """An EventSource that cannot read a response never reconnects."""
    server, subscriber = await serve.connected(**ORIGINS, token=STATIC, max_connections_per_token=1)
    await subscriber.subscribe(headers=bearer(STATIC))
    await until(lambda: server.broadcaster.client_count == 1)
    headers = f"Accept: {accept}\r\n{bearer(STATIC)}{origin(APP)}"
    answer = await ask(server, "GET", "/events", headers=headers)
    assert (answer.status, cors_headers(answer)) == (200 if "event-stream" in accept else 429, OPENED)


async def test_a_refusal_while_draining_can_be_read_across_origins(serve: Serve) -> None:
    server = await serve(**ORIGINS)
    await server.broadcaster.close(timeout=1)
    answer = await ask(server, "GET", "/events", headers=origin(APP))
    assert (answer.status, cors_headers(answer)) == (503, OPENED)


@pytest.mark.both_loops
@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
async def test_a_rejected_connection_can_be_read_across_origins(serve: Serve, accept: str) -> None:
    """Admission control knows the allowed origins too."""
    server, keeper = await serve.connected(**ORIGINS, max_connections=1)
    await keeper.subscribe()
    for said, expected in ((origin(APP), OPENED), (origin(FOREIGN), {"vary": "Origin"})):
        client = await RawClient.open(server.port)
        await client.request("GET", "/events", headers=f"Accept: {accept}\r\n{said}")
        head = (await client.head()).decode().lower().split("\r\n")[1:-2]
        client.close()
        found = dict(line.split(": ", 1) for line in head)
        for name, value in expected.items():
            assert found[name] == value.lower()
        assert ("access-control-allow-origin" in found) == (said == origin(APP))
