"""Addresses, requests and sockets of the load generator."""

import asyncio
import socket
import ssl

import pytest

from sse_broadcast.bench.http_connection import PeerAddress, encode_request, resolve
from sse_broadcast.errors import ClientError
from tests.support.acceptor import accepting


async def test_a_url_is_resolved_once() -> None:
    address = await resolve("http://127.0.0.1:8123/x")
    assert address == PeerAddress(socket.AF_INET, ("127.0.0.1", 8123), "127.0.0.1:8123", "127.0.0.1", None)
    assert address.is_local
    assert address.port == 8123


async def test_https_has_its_port_and_a_context() -> None:
    address = await resolve("https://user:secret@127.0.0.1/")
    assert (address.where, address.host, address.server_name) == (
        ("127.0.0.1", 443),
        "127.0.0.1",
        "127.0.0.1",
    )
    assert isinstance(address.tls, ssl.SSLContext)


async def test_a_socket_file_has_no_port() -> None:
    address = await resolve("unix:/run/sse.sock")
    assert (address.family, address.where, address.port) == (socket.AF_UNIX, "/run/sse.sock", None)
    assert address.is_local


async def test_a_host_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ClientError, match=r"cannot reach http://no.invalid: no such host"):
        await resolve("http://no.invalid")


async def test_of_two_addresses_the_one_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` is ::1 first on many machines, and the server is at 127.0.0.1."""

    async def handle(*_: object) -> None:
        return

    async with accepting(handle) as acceptor:
        refused = socket.create_server(("127.0.0.1", 0))
        port = refused.getsockname()[1]
        refused.close()

        async def both(*_: object, **__: object) -> list[object]:
            kinds = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kinds, ("127.0.0.1", port)), (*kinds, ("127.0.0.1", acceptor.port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
        assert (await resolve("http://localhost:1")).where == ("127.0.0.1", acceptor.port)


def test_a_header_cannot_bring_another() -> None:
    address = PeerAddress(socket.AF_INET, ("127.0.0.1", 1), "x", "x", None)
    with pytest.raises(ClientError, match="control character"):
        encode_request("GET", "/", address, {"X": "a\r\nY: b"})


async def test_a_frozen_socket_has_a_small_buffer() -> None:
    async def handle(*_: object) -> None:
        return

    async with accepting(handle) as acceptor:
        address = await resolve(f"http://127.0.0.1:{acceptor.port}")
        small, usual = await address.open_socket(frozen=True), await address.open_socket()
        sizes = [each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for each in (small, usual)]
        small.close()
        usual.close()
    assert sizes[0] <= 16_384 < sizes[1]
