"""Each line of the proxies' files in `docs/deploy`: what it is there for, and that it is needed for that."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sse_broadcast.server.run import Server
from tests.conftest import Program, Serve
from tests.support import process
from tests.support.credentials import STATIC
from tests.support.fronts import CADDY, DEPLOY, HASTY, KINDS, NGINX, Front, Fronts, Kind, reading
from tests.support.process import Programs
from tests.support.proxy import Proxy
from tests.support.sockets import until

programs = pytest.fixture(process.programs)

BEARER = {"Authorization": f"Bearer {STATIC}"}
BROWSER = {"Accept": "text/event-stream", "Origin": "https://shop.example"}
SETTINGS: Mapping[str, Any] = {
    "token": STATIC,
    "anonymous_subscribe": ("*",),
    "heartbeat": 3600,
    "cookie": "visitor",
}

MEANWHILE = 50
"""Requests that are answered while something else does not happen."""

IDLE = 0.3
"""Seconds of a timeout that is too short."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A server, the wire to it, and a proxy whose file may have been changed: what a question is asked of."""

    fronts: Fronts
    server: Server
    wire: Proxy
    front: Front

    def client(self, *, http2: bool = True) -> httpx.AsyncClient:
        """Connect to the proxy."""
        return self.fronts.client(self.front, http2=http2)

    def published(self, count: int) -> Callable[[], bool]:
        """Give whether so many have been published."""
        return lambda: self.server.broadcaster.counts.published >= count

    async def comes(self, happened: Callable[[], bool]) -> bool:
        """Whether something happens while requests are answered that are no quicker."""
        async with self.client() as client:
            for _ in range(MEANWHILE):
                if happened():
                    break
                await client.head("/events")
        return happened()


Question = Callable[[Trial], Awaitable[bool]]


async def http2(trial: Trial) -> bool:
    """Whether HTTP/2 is spoken."""
    async with trial.client() as client:
        return (await client.head("/events")).http_version == "HTTP/2"


async def flows(trial: Trial) -> bool:
    """Whether a stream comes as it is written."""

    async def read() -> None:
        async with trial.client(http2=False) as client, reading(client) as reader:
            await reader.block()
            came.set()

    came = asyncio.Event()
    task = asyncio.create_task(read())
    try:
        return await trial.comes(came.is_set)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def plain(trial: Trial) -> bool:
    """Whether a stream is not compressed."""
    async with trial.client() as client, reading(client, **{"Accept-Encoding": "gzip"}) as reader:
        return "content-encoding" not in reader.response.headers


async def lasts(trial: Trial) -> bool:
    """Whether a stream may be silent for longer than is too short."""
    async with trial.client() as client, reading(client) as reader:
        await reader.block()
        return not await ends(reader.end())


async def lets_go(trial: Trial) -> bool:
    """Whether a reader that leaves is gone for the server too."""
    async with trial.client(http2=False) as client, reading(client) as reader:
        await reader.block()
    return await trial.comes(lambda: trial.server.broadcaster.client_count == 0)


async def ends(waiting: Any) -> bool:
    """Whether this is over before thrice the time that is too short."""
    try:
        async with asyncio.timeout(3 * IDLE):
            await waiting
    except TimeoutError:
        return False
    return True


async def shares(trial: Trial) -> bool:
    """Whether publishes share a connection to the server."""
    async with trial.client() as client:
        for _ in range(MEANWHILE):
            assert (await client.post("/send", content=b"x", headers=BEARER)).status_code == 200
    # Not always one: nginx may hear of the next before it has put the connection away.
    return trial.wire.accepted < MEANWHILE / 2


async def own(trial: Trial) -> bool:
    """Whether a page of the proxy's own origin is no foreign one."""
    headers = {"Cookie": f"visitor={STATIC}", "Origin": trial.front.url}
    async with trial.client() as client:
        return (await client.post("/send", content=b"x", headers=headers)).status_code == 200


async def outside(trial: Trial) -> bool:
    """Whether who comes by the proxy is not of this machine."""
    async with trial.client() as client:
        return (await client.post("/send", content=b"x")).status_code == 401


async def large(trial: Trial) -> bool:
    """Whether as much may be published as the server takes."""
    line = b'{"message": "%s"}\n' % (b"x" * 500_000)
    headers = {"Content-Type": "application/x-ndjson", **BEARER}
    async with trial.client(http2=False) as client:
        return (await client.post("/send", content=5 * line, headers=headers)).status_code == 200


async def pipes(trial: Trial) -> bool:
    """Whether a line is published when it was sent."""
    return await _pipe(trial, lambda: trial.comes(trial.published(1)))


async def waits(trial: Trial) -> bool:
    """Whether a pipe may be silent for longer than is too short."""

    async def silent() -> bool:
        await until(trial.published(1))
        return not await ends(trial.wire.idle())

    return await _pipe(trial, silent)


async def _pipe(trial: Trial, asked: Callable[[], Awaitable[bool]]) -> bool:
    async def body() -> AsyncIterator[bytes]:
        yield b"a line\n"
        await asyncio.Event().wait()

    async with trial.client() as client:
        answer = asyncio.create_task(client.post("/send?stream=1", content=body(), headers=BEARER))
        try:
            return await asked()
        finally:
            answer.cancel()
            await asyncio.wait([answer])


async def closed(trial: Trial) -> bool:
    """Whether what is not for everyone is nowhere."""
    async with trial.client() as client:
        return (await client.get("/")).status_code == 404


async def secret(trial: Trial) -> bool:
    """Whether no log has a token, be the server there or not."""
    path = f"/events?access_token={STATIC}"
    async with trial.client() as client:
        async with reading(client, path) as reader:
            await reader.block()
        trial.wire.cut()
        await client.get(path)
    await trial.front.stop()
    return STATIC not in trial.front.said()


async def patient(trial: Trial) -> bool:
    """Whether a request waits for a server that restarts."""
    return await _restarted(trial, "GET", "/events?chanel=a", 400)


async def patient_too(trial: Trial) -> bool:
    """Whether a publish does too."""
    return await _restarted(trial, "POST", "/send", 401)


async def _restarted(trial: Trial, method: str, path: str, status: int) -> bool:
    trial.wire.cut()
    async with trial.client() as client:
        asking = asyncio.create_task(client.request(method, path))
        await asyncio.wait([asking], timeout=3 * IDLE)
        await trial.wire.restore()
        return (await asking).status_code == status


async def comes_back(trial: Trial) -> bool:
    """Whether an EventSource of any page is told when to come again, while the server is away."""
    trial.wire.cut()
    async with trial.client() as client:
        answer = await client.get("/events", headers=BROWSER)
    said = {name: answer.headers.get(name) for name in AWAY}
    return answer.status_code == 200 and said == AWAY and answer.content.startswith(b"retry: ")


AWAY = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "access-control-allow-origin": BROWSER["Origin"],
    "access-control-allow-credentials": "true",
}


async def scatters(trial: Trial) -> bool:
    """Whether they are not all told the same."""
    trial.wire.cut()
    async with trial.client() as client:
        told = {(await client.get("/events", headers=BROWSER)).content for _ in range(MEANWHILE)}
    return len(told) == 4


async def told(trial: Trial) -> bool:
    """Whether a program is told when to come again, while the server is away."""
    trial.wire.cut()
    async with trial.client() as client:
        answer = await client.get("/events", headers={"Accept": "application/json"})
    return (answer.status_code, answer.headers.get("retry-after")) == (503, "5")


@dataclass(frozen=True, slots=True)
class Line:
    """A line, what would stand in its place, and the question whose answer is yes with it and no without."""

    kind: Kind
    text: str
    instead: str
    question: Question
    around: Mapping[str, str] = field(default_factory=dict)
    """What else is other than in the file, with the line and without it."""
    open: bool = False
    """Whether the server has nothing configured."""

    def __str__(self) -> str:
        return f"{self.kind.program}: {self.text.split(chr(10))[0].strip()}"


COMPRESSING = {"    access_log": "    gzip on; gzip_types *; gzip_proxied any;\n    access_log"}

OF_NGINX = [
    Line(NGINX, "listen 443 ssl http2;", "listen 443 ssl;", http2),
    Line(NGINX, "gzip off;", "", plain, COMPRESSING),
    Line(NGINX, "proxy_read_timeout 60s;", f"proxy_read_timeout {IDLE * 1000:.0f}ms;", lasts),
    Line(NGINX, "keepalive 16;", "", shares),
    Line(NGINX, "proxy_http_version 1.1;", "", shares),
    Line(NGINX, 'proxy_set_header Connection "";', "", shares),
    Line(NGINX, "proxy_set_header Host $http_host;", "", own),
    Line(NGINX, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", "", outside, open=True),
    Line(NGINX, "client_max_body_size 0;", "", large),
    Line(NGINX, "proxy_request_buffering off;", "", pipes),
    Line(NGINX, "client_body_timeout 1d;", f"client_body_timeout {IDLE * 1000:.0f}ms;", waits),
    Line(NGINX, "return 404;", "", closed),
    Line(NGINX, "$request_method $uri $server_protocol", "$request", secret),
    Line(NGINX, "error_log /var/log/nginx/error.log crit;", "", secret),
    Line(NGINX, "error_page 502 504 = @away;", "", comes_back),
    Line(NGINX, "default_type text/event-stream;", "", comes_back),
    Line(NGINX, "add_header Cache-Control no-store always;", "", comes_back),
    Line(NGINX, "add_header Access-Control-Allow-Origin $http_origin always;", "", comes_back),
    Line(NGINX, "add_header Access-Control-Allow-Credentials true always;", "", comes_back),
    Line(NGINX, "if ($http_accept !~* text/event-stream) {", "if ($http_accept = none) {", told),
    Line(NGINX, "add_header Retry-After 5 always;", "", told),
    Line(NGINX, "split_clients $request_id $come_back {", "split_clients $host $come_back {", scatters),
    Line(NGINX, "gzip off;", "proxy_ignore_headers X-Accel-Buffering;", flows),
]

OF_CADDY = [
    Line(CADDY, "protocols h1 h2", "protocols h1", http2),
    Line(CADDY, "read_timeout 60s", f"read_timeout {IDLE}s", lasts),
    Line(CADDY, "respond 404\n", "respond 200\n", closed),
    Line(CADDY, "lb_try_duration 10s\n\t\t\ttransport", "flush_interval -1\n\t\t\ttransport", lets_go),
    Line(CADDY, "lb_try_duration 10s\n\t\t\ttransport", "transport", patient),
    Line(CADDY, "lb_try_duration 10s\n\t\t}\n\t}\n\n\t# What", "}\n\t}\n\n\t# What", patient_too),
    Line(CADDY, "header Accept *text/event-stream*", "header Accept none", comes_back, HASTY["caddy"]),
    Line(CADDY, "header Content-Type text/event-stream", "", comes_back, HASTY["caddy"]),
    Line(CADDY, "header Cache-Control no-store", "", comes_back, HASTY["caddy"]),
    Line(
        CADDY,
        "header @page Access-Control-Allow-Origin {http.request.header.Origin}",
        "",
        comes_back,
        HASTY["caddy"],
    ),
    Line(CADDY, "header @page Access-Control-Allow-Credentials true", "", comes_back, HASTY["caddy"]),
    Line(CADDY, "header Accept *text/event-stream*", "", told, HASTY["caddy"]),
    Line(CADDY, "header Retry-After 5", "", told, HASTY["caddy"]),
    Line(CADDY, "map {http.request.uuid}", "map {http.request.host}", scatters, HASTY["caddy"]),
]


@pytest.fixture
def fronts(programs: Programs, program: Program, tmp_path: Path) -> Fronts:
    return Fronts(programs, program, tmp_path)


TRIED = [*OF_NGINX, *OF_CADDY]


@pytest.mark.parametrize("line", TRIED, ids=str)
async def test_a_line_is_there_for_something(serve: Serve, fronts: Fronts, line: Line) -> None:
    """With it that is so, and without it, or with another, it is not."""
    answers = []
    for changes in (line.around, {line.text: line.instead, **line.around}):
        server = await serve(**({} if line.open else SETTINGS))
        async with Proxy(server.port) as wire:
            front = await fronts.put(line.kind, wire.port, changes)
            answers.append(await line.question(Trial(fronts, server, wire, front)))
            await front.kill()
    assert answers == [True, False]


GIVEN = {
    NGINX: [
        r"worker_\w+ \w+;",
        r"error_log /var/log/nginx/error.log;",
        r"access_log \S+ no_query;",
        r"'\$body_bytes_sent \$request_time';",
        r"server 127.0.0.1:8000;",
        r"25% \d+;|\* +5000;",
        r"listen (\[::\]:)?(80|443 ssl http2);",
        r"server_name push.example.com;",
        r"ssl_certificate(_key)? \S+;",
        r"proxy_pass http://sse_broadcast;",
        r"return (301|503|200) ?.*;",
        r"\}|(events|http|upstream sse_broadcast|server|location .*) \{",
    ],
    CADDY: [
        r"grace_period 5s",
        r"(\{\$SSE_SITE.*|reverse_proxy .*|transport http|handle( @\w+)?|servers|handle_errors|@browser) \{",
        r"\{|@page header Origin \*",
        r"@(events|send|program) path .*|path .*|expression .*",
        r"\S+ [2345]000",
        r"respond (503|\"\" \{http.error.status_code\}|\"retry: \{come_back\})|\" 200|\}",
    ],
}
"""Lines that say where and how much, without which there is no proxy, or that have tests of their own."""


@pytest.mark.parametrize("kind", KINDS, ids=[kind.program for kind in KINDS])
def test_no_line_is_there_for_nothing(kind: Kind) -> None:
    """Each is given, or is tried above."""
    lines = [line.strip() for line in (DEPLOY / kind.file).read_text().splitlines()]
    tried = [line.text.split("\n")[0].strip() for line in TRIED if line.kind is kind]
    untold = [
        line
        for line in lines
        if line
        and not line.startswith("#")
        and not any(re.fullmatch(given, line) for given in GIVEN[kind])
        and not any(text in line for text in tried)
    ]
    assert untold == []
