"""What real clients make of the stream: curl, httpx-sse, aiohttp's own client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import httpx
import httpx_sse
import pytest

from sse_broadcast.event import Event
from sse_broadcast.server.run import Server
from sse_broadcast.wire import Decoder
from tests.conftest import Program, Serve
from tests.support.sockets import until

MESSAGES = {
    "one line": "hello",
    "several lines": "a\nb\n\nc\n",
    "CR and CRLF": "a\rb\r\nc",
    "empty": "",
    "a megabyte": "0123456789abcdef" * 62_500,
    "emoji": "\U0001f600 \u00e9 \u4e2d",
    "a byte order mark": "\ufeffx",
    "NUL": "a\0b",
    "leading and trailing space": "  x  ",
    "like a field": "event: x\nid: 7\n: y",
    "line ends that are none": "a\u2028b\u2029c\u0085d\x0be\x0cf",
}


def arrives_as(message: str) -> str:
    return message.replace("\r\n", "\n").replace("\r", "\n")


@asynccontextmanager
async def curl(
    program: Program, server: Server, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        program("curl"), "-sN", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("what", MESSAGES)
async def test_curl_publishes_and_curl_subscribes(serve: Serve, program: Program, what: str) -> None:
    """What goes in with --data-binary comes out of -N."""
    server = await serve()
    async with curl(program, server, f"{server.url}/events") as reader:
        await until(lambda: server.broadcaster.client_count == 1)
        async with curl(program, server, "--data-binary", "@-", f"{server.url}/send") as publisher:
            answer, _ = await publisher.communicate(MESSAGES[what].encode())
            assert answer.startswith(b'{"status":"sent","clients":1,')
        assert reader.stdout is not None
        decoder = Decoder()
        events: list[Event] = []
        async with asyncio.timeout(30):
            while not events:
                events = decoder.feed(await reader.stdout.read(1 << 16))
        assert [event.data for event in events] == [arrives_as(MESSAGES[what])]


@pytest.mark.parametrize("what", MESSAGES)
async def test_httpx_sse_gets_what_was_sent(serve: Serve, what: str) -> None:
    """One event for one event, and none for the opening or a heartbeat."""
    server = await serve(heartbeat=0.05)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client,
        httpx_sse.aconnect_sse(client, "GET", "/events") as source,
    ):
        await client.post("/send", json={"message": MESSAGES[what], "event": "t"})
        async for event in source.aiter_sse():
            assert (event.event, event.data) == ("t", arrives_as(MESSAGES[what]))
            break


@pytest.mark.parametrize("what", MESSAGES)
async def test_aiohttp_gets_what_was_sent(serve: Serve, what: str) -> None:
    """Through its chunk parser, in whatever pieces."""
    server = await serve()
    decoder = Decoder()
    events: list[Event] = []
    async with aiohttp.ClientSession(server.url) as session, session.get("/events") as response:
        async with session.post("/send", json={"message": MESSAGES[what]}) as answer:
            assert answer.status == 200
            await answer.read()
        async with asyncio.timeout(30):
            async for data in response.content.iter_any():
                if events := decoder.feed(data):
                    break
    assert [event.data for event in events] == [arrives_as(MESSAGES[what])]


async def test_curl_put_a_file(
    serve: Serve, program: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`curl -T` sends PUT, and asks first with Expect."""
    server = await serve()
    file = tmp_path_factory.mktemp("put") / "message.txt"
    file.write_text("x" * 200_000)
    async with curl(program, server, "-T", str(file), f"{server.url}/send") as putting:
        answer, _ = await putting.communicate()
    assert answer.startswith(b'{"status":"sent","clients":0,')


async def test_curl_dash_n_is_not_needed_to_see_the_end(serve: Serve, program: Program) -> None:
    """A stream that the server ends is a complete transfer to curl: exit 0."""
    server = await serve()
    async with curl(program, server, f"{server.url}/events") as reader:
        await until(lambda: server.broadcaster.client_count == 1)
        await server.broadcaster.close(timeout=10)
        out, _ = await reader.communicate()
        assert reader.returncode == 0
        assert out.endswith(b'data: {"reason": "drain"}\n\n')
