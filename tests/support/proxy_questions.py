"""What is asked of a proxy whose file may have been changed: questions that a line answers with yes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from sse_broadcast.server.runner import Server
from tests.support.acceptor import accepting
from tests.support.credentials import STATIC
from tests.support.fronts import REFUSAL, SSE, Front, Fronts, ask_for_stream, reading
from tests.support.proxy import Proxy
from tests.support.sockets import until

BEARER = {"Authorization": f"Bearer {STATIC}"}
BROWSER = {**SSE, "Origin": "https://shop.example"}
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
        """Return whether so many have been published."""
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
    async with trial.client() as client, reading(client, **{"Accept-Encoding": "gzip, br"}) as reader:
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
        answer = asyncio.create_task(client.put("/send?stream=1", content=body(), headers=BEARER))
        try:
            return await asked()
        finally:
            answer.cancel()
            await asyncio.wait([answer])


async def closed(trial: Trial) -> bool:
    """Whether what is not for everyone is nowhere."""
    async with trial.client() as client:
        return {(await client.get(path)).status_code for path in ("/", "/status")} == {404}


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
    """Whether an EventSource of any page is told when to come again while the server is away, with its id."""
    trial.wire.cut()
    return await _is_refused(trial, b"id: k3f9-1041\n", {"Last-Event-ID": "k3f9-1041"})


async def comes_anew(trial: Trial) -> bool:
    """Whether one without an id is told the same, and given none."""
    trial.wire.cut()
    return await _is_refused(trial, None)


async def comes_back_after_a_cut(trial: Trial) -> bool:
    """Whether it is told the same by a server that goes before it has answered."""
    return await _is_refused_instead(trial, lambda reader: reader.readuntil(b"\r\n\r\n"))


async def comes_back_after_silence(trial: Trial) -> bool:
    """Whether it is told the same when a server does not answer."""
    return await _is_refused_instead(trial, lambda reader: reader.read())


async def _is_refused_instead(
    trial: Trial, serve: Callable[[asyncio.StreamReader], Awaitable[bytes]]
) -> bool:
    """Have something in the server's place read what comes to it, and close the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader)

    trial.wire.cut()
    async with accepting(answer, port=trial.wire.port):
        return await _is_refused(trial, b"id: k3f9-1041\n", {"Last-Event-ID": "k3f9-1041"})


async def _is_refused(trial: Trial, line: bytes | None, headers: Mapping[str, str] | None = None) -> bool:
    async with trial.client(http2=False) as client:
        answer = await ask_for_stream(client, {**BROWSER, **(headers or {})}, "/events")
    said = {name: answer.headers.get(name) for name in AWAY}
    refusal = REFUSAL.fullmatch(answer.content)
    return (answer.status_code, said) == (200, AWAY) and refusal is not None and refusal[2] == line


AWAY = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "retry-after": "5",
    "access-control-allow-origin": BROWSER["Origin"],
    "access-control-allow-credentials": "true",
}


async def scatters(trial: Trial) -> bool:
    """Whether they are not all told the same."""
    trial.wire.cut()
    async with trial.client() as client:
        told = {(await ask_for_stream(client, BROWSER)).content for _ in range(20)}
    return len(told) > 1


async def told(trial: Trial) -> bool:
    """Whether a program of any page is told when to come again, while the server is away."""
    trial.wire.cut()
    async with trial.client() as client:
        answer = await ask_for_stream(client, {"Accept": "application/json", "Origin": BROWSER["Origin"]})
    said = {name: answer.headers.get(name) for name in AWAY}
    return answer.status_code >= 502 and said == {**AWAY, "content-type": said["content-type"]}


async def doubts(trial: Trial) -> bool:
    """Whether a publish, while the server is away, is not said to have failed for certain."""
    trial.wire.cut()
    async with trial.client() as client:
        return (await client.post("/send", content=b"x", headers=BEARER)).status_code == 502


async def authorized(trial: Trial) -> bool:
    """Whether a publisher's token is passed on."""
    async with trial.client() as client:
        return (await client.post("/send", content=b"x", headers=BEARER)).status_code == 200
