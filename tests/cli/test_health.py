"""`sse-broadcast health`."""

import asyncio
from pathlib import Path

import pytest
import trustme

from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import process
from tests.support.acceptor import accepting
from tests.support.certificates import write_certificate
from tests.support.process import Ended, Programs

programs = pytest.fixture(process.programs)


async def test_a_healthy_server_prints_nothing(server: Server, programs: Programs) -> None:
    """The exit code is the result."""
    assert await programs.run("health", "--url", server.url) == Ended(0)


async def test_a_server_that_requires_tokens_is_healthy(serve: Serve, programs: Programs) -> None:
    """The request has none."""
    server = await serve(token="a-token-of-somebody")
    env = {"SSE_BROADCAST_TOKEN": "a-bad-one-of-somebody"}
    assert await programs.run("health", "--url", server.url, env=env) == Ended(0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*"])
async def test_the_server_is_found_by_its_environment(server: Server, programs: Programs, host: str) -> None:
    env = {"SSE_BROADCAST_HOST": host, "SSE_BROADCAST_PORT": str(server.port)}
    assert await programs.run("health", env=env) == Ended(0)


async def test_a_certificate_of_another_name_is_healthy(
    serve: Serve, programs: Programs, tmp_path: Path
) -> None:
    """The address of the request is not in the certificate, and no secret is sent."""
    certificate, key = write_certificate(trustme.CA(), tmp_path)
    server = await serve(certificate=certificate, key=key)
    assert await programs.run("health", "--url", server.url) == Ended(0)


async def test_no_token_is_sent_to_an_unverified_server(programs: Programs) -> None:
    """Another program could receive it."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with accepting(answer) as server:
        url = f"http://127.0.0.1:{server.port}"
        env = {"SSE_BROADCAST_TOKEN": "a-token-of-somebody"}
        assert await programs.run("health", "--url", url, env=env) == Ended(0)
    (head,) = heads
    assert head.startswith(b"GET /healthz HTTP/1.1\r\n")
    assert b"uthorization" not in head


async def test_an_unreachable_server_is_1(programs: Programs, tmp_path: Path) -> None:
    url = f"unix:{tmp_path}/nowhere"
    ended = await programs.run("health", "--url", url)
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.startswith(f"sse-broadcast: cannot reach {url}: ".encode())
    assert ended.err.count(b"\n") == 1
