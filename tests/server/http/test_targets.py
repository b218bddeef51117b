"""Request targets: limited before they are parsed, and not cached beyond their request."""

import pytest
from aiohttp.test_utils import make_mocked_request
from yarl import URL, _url

from sse_broadcast.server.http import request_head
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.request_head import MAX_TARGET, forget_targets, require_fitting_target
from sse_broadcast.server.runner import Server
from sse_broadcast.server.transport.aiohttp_internals import URL_CACHES
from tests.support.sockets import RawClient


def is_kept(target: str) -> bool:
    """Return whether yarl caches the URL that aiohttp's parser makes of a target."""
    path, _, query = target.partition("?")
    hits = _url.build_pre_encoded_url.cache_info().hits
    URL.build(path=path, query_string=query, encoded=True)
    return bool(_url.build_pre_encoded_url.cache_info().hits > hits)


def test_the_cleared_caches_are_those_of_yarl() -> None:
    """A cache renamed in another version would fill up unnoticed."""
    assert len(request_head.CLEAR) == 1 + len(URL_CACHES)


@pytest.mark.parametrize(
    ("target", "status", "kept"),
    [
        ("/events/" + "x" * 123 + "," + "x" * 124, 200, True),
        ("/events/" + "x" * 123 + "," + "x" * 125, 200, False),
        ("/events?x=" + "x" * 54, 200, True),
        ("/events?x=" + "x" * 55, 200, False),
        ("/events/%20", 400, False),
        ("/" + "x" * 30_000, 414, False),
    ],
)
async def test_a_long_target_is_not_cached(
    client: RawClient, target: str, status: int, *, kept: bool
) -> None:
    """Neither is a refused one. Targets in the cache take almost no memory."""
    await client.request("HEAD", target)
    assert (await client.head()).startswith(b"HTTP/1.1 %d " % status)
    assert is_kept(target) is kept


@pytest.mark.parametrize(
    "line", [f"CONNECT {'x' * 5000}:1", f"CONNECT {'x:' * 500}", f"GET http://x:y{'z' * 999}/"]
)
async def test_a_target_without_a_route_is_not_cached(client: RawClient, line: str) -> None:
    forget_targets()
    await client.send(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await client.rest()
    assert [cache.cache_info().currsize for cache in URL_CACHES] == [0, 0, 0, 0]


def test_parameters_are_counted_before_they_are_parsed() -> None:
    """The limit is the number of channels and a hundred more."""
    fitting = make_mocked_request("GET", "/events?" + "&".join(f"a{each}=1" for each in range(103)))
    require_fitting_target(fitting, max_channels=3)
    many = make_mocked_request("GET", "/events?" + "&".join(f"a{each}=1" for each in range(104)))
    with pytest.raises(Problem, match=r"^query: has 104 parameters, more than 103$") as raised:
        require_fitting_target(many, max_channels=3)
    assert raised.value.status == 400
    assert "query" not in many.rel_url._cache


def test_a_target_is_limited_in_bytes() -> None:
    require_fitting_target(make_mocked_request("GET", "/".ljust(MAX_TARGET, "x")), max_channels=1)
    with pytest.raises(Problem, match=r"^request line: has 16385 bytes, more than 16384; send"):
        require_fitting_target(make_mocked_request("GET", "/".ljust(MAX_TARGET + 1, "x")), max_channels=1)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
@pytest.mark.parametrize("host", ["xn--" + "a" * 15_000, "xn--" + "a" * 100, "x" * 256])
async def test_a_malformed_host_in_a_target_is_refused(
    server: Server, client: RawClient, method: str, host: str
) -> None:
    """A long one is not parsed. The refusal is counted as any other."""
    target = f"{host}:443" if method == "CONNECT" else f"http://{host}/healthz"
    await client.send(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    said = f"request line: its host is not valid, in a target of {len(target)} characters"
    assert said.encode() in answer
    assert sum(server.broadcaster.metrics.refused_requests.values()) == 1


@pytest.mark.parametrize("host", ["localhost", "[::1]:80", "xn--bcher-kva.example"])
async def test_a_target_may_name_any_well_formed_host(client: RawClient, host: str) -> None:
    """A client that takes the server for its proxy sends one."""
    await client.send(f"GET http://{host}/healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert (await client.answer())[0] == 200
