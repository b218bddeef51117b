"""Real clients: curl, httpx-sse and aiohttp's own client."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import httpx
import httpx_sse
import pytest

from sse_broadcast.event import Event
from sse_broadcast.server.runner import Server
from sse_broadcast.wire import Decoder
from tests.conftest import Program, Serve
from tests.support.sockets import CURSOR_TYPES, until

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


def published(events: list[Event]) -> list[Event]:
    """Return the events without those that only move the cursor."""
    return [event for event in events if event.type not in CURSOR_TYPES]


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
async def test_curl_publishes_and_curl_subscribes(server: Server, program: Program, what: str) -> None:
    async with curl(program, server, f"{server.url}/events") as subscriber:
        await until(lambda: server.broadcaster.client_count == 1)
        url = f"{server.url}/send?event=message"  # Without a parameter an empty body is refused.
        async with curl(program, server, "--data-binary", "@-", url) as publisher:
            answer, _ = await publisher.communicate(MESSAGES[what].encode())
            assert answer.startswith(b'{"status":"sent","clients":1,')
        assert subscriber.stdout is not None
        decoder = Decoder()
        events: list[Event] = []
        async with asyncio.timeout(30):
            while not events:
                events = published(decoder.feed(await subscriber.stdout.read(1 << 16)))
        assert [event.data for event in events] == [arrives_as(MESSAGES[what])]


@pytest.mark.parametrize("what", MESSAGES)
async def test_httpx_sse_gets_the_published_events(serve: Serve, what: str) -> None:
    """Heartbeats are no events, and `$open` is one with its own type."""
    server = await serve(heartbeat=0.05)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client,
        httpx_sse.aconnect_sse(client, "GET", "/events") as source,
    ):
        answer = await client.post("/send", json={"message": MESSAGES[what], "event": "t"})
        epoch = server.broadcaster.cursor.partition("-")[0]
        found: list[httpx_sse.ServerSentEvent] = []
        async for event in source.aiter_sse():
            found.append(event)
            if len(found) == 2:
                break
        assert [(event.event, event.data, event.id) for event in found] == [
            ("$open", '{"heartbeat": 0.05}', f"{epoch}-0"),
            ("t", arrives_as(MESSAGES[what]), answer.json()["id"]),
        ]


async def test_httpx_sse_resumes(server: Server) -> None:
    ids = [(await server.broadcaster.broadcast(str(number))).id for number in range(3)]
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client,
        httpx_sse.aconnect_sse(client, "GET", "/events", headers={"Last-Event-ID": ids[0]}) as source,
    ):
        found: list[tuple[str, str, str]] = []
        async for event in source.aiter_sse():
            found.append((event.event, event.data, event.id))
            if len(found) == 3:
                break
    assert found == [
        ("$open", '{"heartbeat": 4}', ids[0]),
        ("message", "1", ids[1]),
        ("message", "2", ids[2]),
    ]


@pytest.mark.parametrize("what", MESSAGES)
async def test_aiohttp_gets_the_published_events(server: Server, what: str) -> None:
    decoder = Decoder()
    events: list[Event] = []
    async with aiohttp.ClientSession(server.url) as session, session.get("/events") as response:
        async with session.post("/send", json={"message": MESSAGES[what]}) as answer:
            assert answer.status == 200
            await answer.read()
        async with asyncio.timeout(30):
            async for data in response.content.iter_any():
                if events := published(decoder.feed(data)):
                    break
    assert [event.data for event in events] == [arrives_as(MESSAGES[what])]


async def test_curl_puts_a_file(
    server: Server, program: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`curl -T` sends a PUT with Expect."""
    file = tmp_path_factory.mktemp("put") / "message.txt"
    file.write_text("x" * 200_000)
    async with curl(program, server, "-T", str(file), f"{server.url}/send") as putting:
        answer, _ = await putting.communicate()
    assert answer.startswith(b'{"status":"sent","clients":0,')


async def test_curl_needs_no_dash_n_to_see_the_end(server: Server, program: Program) -> None:
    """A stream that the server ends is a complete transfer with exit code 0."""
    async with curl(program, server, f"{server.url}/events") as subscriber:
        await until(lambda: server.broadcaster.client_count == 1)
        await server.broadcaster.close(timeout=10)
        out, _ = await subscriber.communicate()
        assert subscriber.returncode == 0
        assert out.endswith(f'data: {{"reason": "drain"}}\nid: {server.broadcaster.cursor}\n\n'.encode())


def ids_of(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["id"] for line in lines]


async def test_curl_publishes_a_pipe_line_by_line(server: Server, program: Program) -> None:
    """`tail -F log | curl -T - ...?stream=1`: a line is published before the next is written."""
    reading = curl(program, server, "-H", "Accept: application/x-ndjson", f"{server.url}/events/logs")
    publishing = curl(program, server, "-T", "-", f"{server.url}/send/logs?stream=1")
    async with reading as subscriber, publishing as publisher:
        assert subscriber.stdout is not None
        assert publisher.stdin is not None
        await until(lambda: server.broadcaster.client_count == 1)
        async with asyncio.timeout(30):
            assert json.loads(await subscriber.stdout.readline())["event"] == "$open"
        for number in range(10):
            publisher.stdin.write(f"line {number}\n".encode())
            async with asyncio.timeout(30):
                while (line := await subscriber.stdout.readline()) == b"\n":
                    pass
            envelope = json.loads(line)
            assert (envelope["channel"], envelope["data"]) == ("logs", f"line {number}")
        answer, _ = await publisher.communicate(b"the last one")
        assert answer.decode() == (
            f'{{"status":"sent","count":11,"clients":1,"id":"{server.broadcaster.cursor}"}}\n'
        )


@pytest.mark.parametrize("pipe", ["-", "."])
async def test_curl_gets_the_refusal_of_its_pipe(server: Server, program: Program, pipe: str) -> None:
    """With `-T -` it is at its next line, since curl waits for input. With `-T .` it is at once."""
    async with curl(program, server, "-T", pipe, f"{server.url}/send/logs?stream=1") as publisher:
        assert publisher.stdin is not None
        publisher.stdin.write(b"good\n\xff\n")
        await until(lambda: server.broadcaster.counts.published == 1)
        if pipe == "-":
            publisher.stdin.write(b"next\n")
        async with asyncio.timeout(30):
            assert publisher.stdout is not None
            assert await publisher.stdout.readuntil(b"}") == (
                b'{"title":"Bad Request","status":400,'
                b'"detail":"line 2: body: is not UTF-8 at byte 0; 1 published","published":1}'
            )


@pytest.mark.parametrize("pipe", ["-", "."])
async def test_curl_gets_the_stop_of_the_server(server: Server, program: Program, pipe: str) -> None:
    """An idle pipe gets a 503 with the number of published lines."""
    async with curl(
        program, server, "-w", "%{http_code}", "-T", pipe, f"{server.url}/send?stream=1"
    ) as publisher:
        assert publisher.stdin is not None
        publisher.stdin.write(b"a\nb\n")
        await until(lambda: server.broadcaster.counts.published == 2)
        await server.stop()
        if pipe == "-":
            publisher.stdin.write(b"next\n")
        async with asyncio.timeout(30):
            assert publisher.stdout is not None
            assert await publisher.stdout.readuntil(b"}\n503") == (
                b'{"title":"Service Unavailable","status":503,'
                b'"detail":"the server is shutting down; 2 published","published":2}\n503'
            )


async def test_curl_publishes_a_file_of_events(
    server: Server, program: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is NDJSON with --data-binary. A subscription with `since=earliest` gets the same events."""
    file = tmp_path_factory.mktemp("batch") / "events.ndjson"
    file.write_text("".join(f'{{"data":{{"n":{number}}},"channel":"a"}}\n' for number in range(100)))
    kind = "Content-Type: application/x-ndjson"
    async with curl(
        program, server, "-H", kind, "--data-binary", f"@{file}", f"{server.url}/send"
    ) as putting:
        answer, _ = await putting.communicate()
    assert json.loads(answer)["count"] == 100
    accept = "Accept: application/x-ndjson"
    async with curl(program, server, "-H", accept, f"{server.url}/events/a?since=earliest") as subscriber:
        assert subscriber.stdout is not None
        lines: list[bytes] = []
        async with asyncio.timeout(30):
            assert json.loads(await subscriber.stdout.readline())["event"] == "$open"
            while len(lines) < 100:
                if (line := await subscriber.stdout.readline()) != b"\n":
                    lines.append(line)
    assert [json.loads(line)["data"] for line in lines] == [{"n": number} for number in range(100)]
    epoch = server.broadcaster.cursor.partition("-")[0]
    assert ids_of(lines) == [f"{epoch}-{position}" for position in range(1, 101)]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["-d", "message=%C3%A9&event=n"], 422, "body: is a form"),
        (["--data-urlencode", "data={}", "-d", "topic=orders"], 422, "body: is a form"),
        (["-F", "message=hi"], 415, "Content-Type: 'multipart/form-data' is a form"),
        (["-d", ""], 422, "body: is empty"),
        (["-X", "POST"], 422, "body: is empty"),
    ],
)
async def test_curl_gets_an_error_for_a_form(
    server: Server, program: Program, arguments: list[str], status: int, said: str
) -> None:
    """`-d` and `-F` send one. An empty body is an error too, on a line of its own."""
    async with curl(program, server, "-w", "%{http_code}", *arguments, f"{server.url}/send") as publisher:
        answer, _ = await publisher.communicate()
    problem, code = answer.decode().split("\n")
    assert json.loads(problem)["detail"].startswith(said)
    assert code == str(status)
    assert server.broadcaster.counts.published == 0


async def test_curl_resumes_by_its_own_header(server: Server, program: Program) -> None:
    """Clients that keep their first id send two. The later one counts."""
    ids = [(await server.broadcaster.broadcast(str(number))).id for number in range(3)]
    headers = [argument for id in ids[:2] for argument in ("-H", f"Last-Event-ID: {id}")]
    async with curl(program, server, *headers, f"{server.url}/events") as subscriber:
        assert subscriber.stdout is not None
        async with asyncio.timeout(30):
            assert (await subscriber.stdout.readuntil(b"\n\n")).endswith(f"id: {ids[1]}\n\n".encode())
            assert await subscriber.stdout.readuntil(b"\n\n") == f"data: 2\nid: {ids[2]}\n\n".encode()


async def test_curl_is_refused_by_status_unless_it_accepts_event_streams(
    server: Server, program: Program
) -> None:
    await server.broadcaster.close(timeout=1)
    for accept, code in (("*/*", 22), ("text/event-stream", 0)):
        async with curl(
            program, server, "-f", "-H", f"Accept: {accept}", f"{server.url}/events"
        ) as subscriber:
            out, _ = await subscriber.communicate()
        assert subscriber.returncode == code
        assert (b'data: {"reason": "drain"}\n' in out) == (code == 0)


async def test_curl_that_requests_http_2_gets_http_1_1(server: Server, program: Program) -> None:
    """It asks for an upgrade. With prior knowledge it fails at once."""
    for flag, works in (("--http2", True), ("--http2-prior-knowledge", False)):
        async with curl(program, server, flag, "-m", "20", f"{server.url}/healthz") as asking:
            out, _ = await asking.communicate()
        assert (out == b'{"status":"alive"}\n') == (asking.returncode == 0) == works
        assert asking.returncode != 28  # a timeout
