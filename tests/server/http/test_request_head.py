"""Request heads that another parser may read differently: none is acted on."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from sse_broadcast.config.schema import ListenerRule
from sse_broadcast.server.http.request_head import is_host, origin_of, requested_host
from tests.conftest import LiveServer, Serve
from tests.support.asking import ask, bearer
from tests.support.credentials import STATIC
from tests.support.sockets import RawClient

APP, FOREIGN, LOCAL = "https://app.example", "https://evil.example", "http://localhost"


PORTS = ("localhost:", "localhost:80", "localhost:0080", "localhost:65535", "[::1]:8000", "my_service:8000")
HOSTS = ("localhost", "LOCALHOST.", "127.0.0.1", "[::1]", "[::ffff:192.0.2.1]", "%2Frun%2Fs", "", "a" * 255)
NO_PORTS = ("localhost:evil", "localhost:80:90", "localhost:65536", "localhost:+80", "localhost:٨٠", "a:80\n")
USERS = ("localhost:80@evil.example", "user@localhost", "[::1]:80@evil.example")
NO_NAMES = ("a/x", "a?x", "a#x", "a\\x", "a, b", "a b", "%zz", "a%4", "lócalhost", "a\udcff", "a" * 262)
NO_ADDRESSES = ("::1", "[::1", "[::1]evil.example", "[1.2.3.4]", "[:]", "[::1%25lo]")


@pytest.mark.parametrize("host", [*HOSTS, *PORTS])
def test_a_host_is_a_name_or_address_with_an_optional_port(host: str) -> None:
    """RFC 9110, 7.2: uri-host and port of RFC 3986, either of which may be empty."""
    assert is_host(host)


@pytest.mark.parametrize("host", [*NO_PORTS, *USERS, *NO_NAMES, *NO_ADDRESSES], ids=ascii)
def test_anything_else_is_no_host(host: str) -> None:
    assert not is_host(host)


@pytest.mark.parametrize("host", ["localhost:80@evil.example", "localhost:evil", "[::1]x"])
async def test_a_request_with_a_malformed_host_is_refused(server: LiveServer, host: str) -> None:
    """This holds for every configuration and listener (RFC 9112, 3.2)."""
    answer = await ask(server, "POST", "/send", body=b"x", host=host)
    shown = "user@" if "@" in host else f"'{host}'"
    assert (answer.status, answer.detail) == (400, f"Host: {shown} is not a host, or a host and a port")
    for path in ("/events", "/healthz", "/nope"):
        assert (await ask(server, "GET", path, host=host)).status == 400
    assert server.broadcaster.counts.published == 0


async def test_a_malformed_host_is_refused_where_no_host_is_checked(serve: Serve) -> None:
    """With credentials or a UNIX socket the server ignores it, but a proxy may use it."""
    host = "localhost:80@evil.example"
    server = await serve(token=STATIC)
    assert (await ask(server, "GET", "/status", headers=bearer(STATIC), host=host)).status == 400
    # Not below tmp_path: its name may be too long for a socket address.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        await serve(listener=(ListenerRule(host=f"unix:{path}"),))
        assert (await ask(path, "GET", "/status", host=host)).status == 400


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/status", "localhost", 200),
        ("HTTPS://localhost:8000/status?x", "LOCALHOST:8000", 200),
        ("http://localhost/status", None, 200),
        ("http://evil.example/status", None, 421),
        ("http://evil.example/status", "evil.example", 421),
        ("http://evil.example/status", "localhost", 400),
        ("http://localhost/status", "evil.example", 400),
        ("http://localhost:80@evil.example/status", "localhost", 400),
        ("http://localhost:80@evil.example/status", None, 400),
        ("http:///status", "localhost", 400),
        ("ftp://localhost/status", "localhost", 400),
    ],
)
async def test_a_target_with_a_host_must_agree_with_the_host_header(
    server: LiveServer, target: str, host: str | None, status: int
) -> None:
    """The header may be missing."""
    version = "1.0" if host is None else "1.1"
    assert (await ask(server, "GET", target, host=host, version=version)).status == status


async def test_a_password_in_a_host_is_not_repeated(server: LiveServer) -> None:
    """Some clients send the user information of their URL."""
    user = "me:pass-word@localhost"
    for target, host in (("/status", user), (f"http://{user}/status", None)):
        version = "1.0" if host is None else "1.1"
        answer = await ask(server, "GET", target, host=host, version=version)
        assert answer.status == 400
        assert b"pass-word" not in answer.body
    answer = await ask(server, "GET", "ftp://localhost/events?access_token=pass-word")
    assert answer.status == 400
    assert b"pass-word" not in answer.body


def test_the_host_of_a_request_is_in_its_target_or_its_header() -> None:
    assert requested_host(make_mocked_request("GET", "/x", headers={"Host": "a:1"})) == "a:1"
    assert requested_host(make_mocked_request("GET", "http://b:2/x")) == "b:2"
    assert requested_host(make_mocked_request("GET", "/x")) == ""


def test_several_origins_count_as_none() -> None:
    assert origin_of(make_mocked_request("GET", "/x", headers={"Origin": APP})) == APP
    assert origin_of(make_mocked_request("GET", "/x")) is None
    two = make_mocked_request("GET", "/x", headers=CIMultiDict([("Origin", APP), ("Origin", FOREIGN)]))
    assert origin_of(two) is None


@pytest.mark.parametrize("origins", [(APP, FOREIGN), (FOREIGN, APP), (APP, APP), (LOCAL, FOREIGN)])
@pytest.mark.parametrize("settings", [{}, {"token": STATIC}], ids=["open", "with credentials"])
async def test_a_request_of_two_origins_is_refused(
    serve: Serve, origins: tuple[str, str], settings: dict[str, str]
) -> None:
    server = await serve(**settings, cors_origins=(APP,))
    headers = bearer(STATIC) + "".join(f"Origin: {origin}\r\n" for origin in origins)
    for method, path in (("POST", "/send"), ("OPTIONS", "/send"), ("GET", "/events"), ("GET", "/nope")):
        answer = await ask(server, method, path, headers=headers)
        assert (answer.status, answer.detail) == (400, "Origin: is given 2 times")
        assert not {name for name in answer.headers if name.startswith("access-control-")}
    assert server.broadcaster.counts.published == 0


async def test_all_lines_of_a_list_header_are_read(server: LiveServer) -> None:
    """The first line alone could hide a compressed body or an unknown expectation."""
    twice = "Content-Encoding: identity\r\nContent-Encoding: "
    assert (await ask(server, "POST", "/send", body=b"x", headers=f"{twice}identity\r\n")).status == 200
    answer = await ask(server, "POST", "/send", body=b"x", headers=f"{twice}gzip\r\n")
    assert (answer.status, answer.detail) == (
        415,
        "Content-Encoding: 'identity, gzip' is not supported; send the body uncompressed",
    )
    expected = "Expect: 100-continue\r\nExpect: a-miracle\r\n"
    answer = await ask(server, "POST", "/send", body=b"x", headers=expected)
    assert (answer.status, answer.detail) == (417, "Expect: '100-continue, a-miracle' is not supported")
    assert server.broadcaster.counts.published == 1


CHUNKS = b"\r\n5\r\nhello\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("more", [b"", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n"])
@pytest.mark.parametrize("coding", [b"chunked", b"gzip, chunked", b""])
async def test_a_chunked_body_of_http_1_0_is_refused(
    server: LiveServer, client: RawClient, more: bytes, coding: bytes
) -> None:
    """A proxy of HTTP/1.0 sees another end of it (RFC 9112, 6.1). Nothing after the head is read."""
    head = b"POST /send HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: " + coding + b"\r\n" + more
    await client.send(head + CHUNKS)
    answered = await client.rest()
    assert re.findall(rb"HTTP/1\.[01] (\d+)", answered) == [b"400"]
    assert server.broadcaster.counts.published == 0


@pytest.mark.parametrize(
    ("coding", "status", "detail"),
    [
        ("gzip, chunked", 501, "Transfer-Encoding: 'gzip, chunked' is not supported; use chunked"),
        (", chunked", 400, "Transfer-Encoding: ', chunked' is not a list of codings"),
    ],
)
async def test_only_chunked_bodies_are_decoded(
    server: LiveServer, client: RawClient, coding: str, status: int, detail: str
) -> None:
    """A body in another coding is not published as text."""
    head = f"POST /send HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {coding}\r\n"
    await client.send(head.encode() + CHUNKS)
    answered = await client.rest()
    assert re.findall(rb"HTTP/1\.[01] (\d+)", answered) == [str(status).encode()]
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["detail"] == detail
    assert server.broadcaster.counts.published == 0


async def test_a_length_beside_an_empty_coding_is_refused(server: LiveServer, client: RawClient) -> None:
    """aiohttp takes the length, and another parser may take the chunks."""
    await client.send(
        b"POST /send HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\r\nContent-Length: 15\r\n" + CHUNKS
    )
    assert re.findall(rb"HTTP/1\.[01] (\d+)", await client.rest()) == [b"400"]
    assert server.broadcaster.counts.published == 0


@pytest.mark.both_loops
async def test_http_1_0_gets_no_interim_response(client: RawClient) -> None:
    """It would take it for the final response (RFC 9110, 10.1.1)."""
    head = b"POST /send HTTP/1.0\r\nHost: localhost\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    await client.send(head + b"x")
    assert re.findall(rb"HTTP/1\.[01] (\d+)", await client.rest()) == [b"200"]


async def test_a_target_has_no_fragment(server: LiveServer) -> None:
    """Parsers that cut it off would see another path."""
    answer = await ask(server, "GET", "/status#/healthz")
    detail = "request line: has a fragment (#), which clients must not send"
    assert (answer.status, answer.detail) == (400, detail)
