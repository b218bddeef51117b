"""Nothing is kept of a request that is refused: what it leaves in memory, by kind, is less than 1 KiB."""

import gc
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import clock
from tests.support.asking import bearer
from tests.support.credentials import caller, static
from tests.support.sockets import RawClient, until

REFUSALS = 40
"""Refusals of a kind that are measured. Of a thousand the mean is lower: what is bounded grows no more."""

BEFORE = 10
"""Refusals that are made before, so that what is made once is there."""

KEPT = 1024
"""Bytes that one may leave, on average."""

JSON = "Content-Type: application/json\r\n"
NARROW = bearer(static("narrow"))
NDJSON = "Content-Type: application/x-ndjson\r\n"
ADMIN = bearer(static("admin"))

WIDE = bearer(static("wide"))

Make = Callable[[str], bytes]
"""Makes the bytes of a refusal of text that no other one has."""


def get(path: str, headers: str = "", *, method: str = "GET", host: str = "localhost") -> bytes:
    """Return a request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode()


def post(path: str, body: str, headers: str = NARROW + JSON) -> bytes:
    """Return one with a body."""
    return get(path, f"Content-Length: {len(body)}\r\n{headers}", method="POST") + body.encode()


def names(text: str, count: int) -> str:
    """Return channels that nobody else names."""
    return ",".join(f"{text}.{number}" for number in range(count))


def parameters(text: str, count: int) -> str:
    """Return parameters of a query, likewise."""
    return "&".join(f"{text}{number}=1" for number in range(count))


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests that are refused in one way: the status, what makes them, and the server's settings."""

    name: str
    status: int
    make: Make
    settings: dict[str, Any] = field(default_factory=dict)


OPEN = {"caller": ()}
SLOW = {"publish_rate": 1, "publish_burst": 1, "max_batch": 1}

KINDS = [
    Kind("no credential", 401, lambda text: get(f"/events/{text}")),
    Kind("no credential, 1,200 names", 401, lambda text: get(f"/events/{names(text[:6], 1200)}")),
    Kind("no credential, a long query", 401, lambda text: get(f"/events?{parameters(text[:4], 180)}")),
    Kind("a token of nobody", 401, lambda text: get("/events", bearer(text * 100))),
    Kind(
        "a signed token of nobody",
        401,
        lambda text: get("/events", bearer(f"eyJhbGciOiJub25lIn0.{text * 50}.x")),
    ),
    Kind("a token in the query", 401, lambda text: get(f"/events?access_token={text * 50}")),
    Kind("a longer token", 401, lambda text: get("/events", bearer(text * 300))),
    Kind("another scheme", 401, lambda text: get("/events", f"Authorization: {text * 100} x\r\n")),
    Kind("a channel not allowed", 403, lambda text: get(f"/events/{text}", NARROW)),
    Kind("channels not allowed", 403, lambda text: get(f"/events/{names(text, 100)}", NARROW)),
    Kind("a pattern not allowed", 403, lambda text: get(f"/events/*{text}*,{text}.*", NARROW)),
    Kind("a publish not allowed", 403, lambda text: post(f"/send/{text}", "{}")),
    Kind(
        "a publish not allowed by its body",
        403,
        lambda text: post("/send", f'{{"message":"","channel":"{text}"}}'),
    ),
    Kind("an action not allowed", 403, lambda text: post(f"/tokens?{text * 50}", "{}")),
    Kind("a channel not to be asked about", 403, lambda text: get(f"/channels/{text}", NARROW)),
    Kind("too many names", 400, lambda text: get(f"/events/{names(text[:6], 1200)}", NARROW)),
    Kind(
        "too many names in a body",
        400,
        lambda text: post("/events", f'{{"channels":{names_in_json(text[:8], 900)}}}'),
    ),
    Kind(
        "too many names to publish to",
        400,
        lambda text: post("/send", f'{{"message":"","channels":{names_in_json(text, 5000)}}}'),
    ),
    Kind(
        "too many patterns",
        400,
        lambda text: get("/events/" + ",".join(f"{each}*{text}*" for each in range(11)), ADMIN),
    ),
    Kind("too many parameters", 400, lambda text: get(f"/events?{parameters(text[:3], 1500)}", NARROW)),
    Kind("a bad name", 400, lambda text: get(f"/events/%20{text * 90}", NARROW)),
    Kind("a bad name to publish to", 400, lambda text: post(f"/send/%20{text * 90}", "{}")),
    Kind("a bad name to ask about", 400, lambda text: get(f"/channels/%20{text * 90}", ADMIN)),
    Kind("an unknown parameter of a publish", 400, lambda text: post(f"/send/a?{text * 90}", "{}")),
    Kind("a misspelt parameter", 400, lambda text: get(f"/events/a?chanel={text * 90}", NARROW)),
    Kind("a bad since", 400, lambda text: get(f"/events/a?since=%20{text * 90}", NARROW)),
    Kind("a since that is not known", 400, lambda text: get(f"/events/a?since={text}", NARROW)),
    Kind(
        "a bad format",
        400,
        lambda text: get(f"/events/a?format={text * 90}", NARROW + f"Accept: {text * 90}\r\n"),
    ),
    Kind("a bad heartbeat", 400, lambda text: get(f"/events/a?heartbeat={text * 90}", NARROW)),
    Kind("bad bytes", 400, lambda text: get(f"/{text}%ff{text * 90}")),
    Kind("two tokens", 400, lambda text: get(f"/events?access_token={text * 50}&access_token=x")),
    Kind("no JSON", 400, lambda text: post("/send/a", "x" + text * 3000)),
    Kind(
        "no JSON in a line",
        400,
        lambda text: post("/send/a", f'{{"message":"{text * 1000}"}}\nx{text}', NARROW + NDJSON),
    ),
    Kind(
        "a bad key",
        400,
        lambda text: post("/send/a", '{"message":""}', f"{NARROW}{JSON}Idempotency-Key: {text * 30}\r\n"),
    ),
    Kind("no HTTP", 400, lambda text: f"{text * 100}\r\n\r\n".encode()),
    Kind("no target", 400, lambda text: get(f"{text * 100}://{text}:x{text}/")),
    Kind("a target of a proxy", 404, lambda text: get(f"{text * 10}:443", method="CONNECT")),
    Kind("a host that cannot be", 400, lambda text: get(f"{text * 90}:443", method="CONNECT")),
    Kind("a URL of a host", 400, lambda text: get(f"http://{text * 10}/events/{text * 90}")),
    Kind("a path that is not there", 404, lambda text: get(f"/{text * 200}")),
    Kind("a path that is nearly there", 404, lambda text: get(f"/event/{text * 200}")),
    Kind("a stream that is not there", 404, lambda text: get(f"/subscribers/{text * 200}", ADMIN)),
    Kind("a method that is not taken", 405, lambda text: get(f"/events/{text * 200}", method="DELETE")),
    Kind(
        "a method that there is not",
        400,
        lambda text: get("/send", method="X" + "".join(filter(str.isalpha, text * 2)).upper()),
    ),
    Kind(
        "a body that says it is too large",
        413,
        lambda text: get(
            f"/send/a?event={text * 90}", f"{NARROW}Content-Length: 99999999\r\n", method="POST"
        ),
    ),
    Kind(
        "an event that is too large",
        413,
        lambda text: post("/send/a", text * 300, NARROW),
        {"max_event": 4096},
    ),
    Kind(
        "a batch of too many",
        413,
        lambda text: post("/send/a", f'[{{"message":"{text}"}}' + ",{}" * 2000 + "]"),
    ),
    Kind(
        "a large batch of too many",
        413,
        lambda text: post("/send/a", f'[{{"message":"{text * 9000}"}}' + ",{}" * 2000 + "]"),
    ),
    Kind(
        "a batch of too many lines",
        413,
        lambda text: post("/send/a", f'{{"message":"{text}"}}\n' * 1500, NARROW + NDJSON),
    ),
    Kind("a target that is too long", 414, lambda text: get(f"/events/{text * 1100}")),
    Kind("a query that is too long", 414, lambda text: get(f"/events?{parameters(text, 800)}")),
    Kind(
        "another coding", 415, lambda text: post("/send/a", "x", f"{NARROW}Content-Encoding: {text * 50}\r\n")
    ),
    Kind(
        "another charset",
        415,
        lambda text: post("/send/a", "x", f"{NARROW}Content-Type: text/plain; charset={text}\r\n"),
    ),
    Kind(
        "a type that is too long",
        415,
        lambda text: post("/send/a", "x", f"{NARROW}Content-Type: {text}{';' * 20_000}\r\n"),
    ),
    Kind(
        "a type that is none here",
        415,
        lambda text: post("/events", "x", f"{NARROW}Content-Type: text/{text}\r\n"),
    ),
    Kind("an expectation", 417, lambda text: get("/events", f"Expect: {text * 90}\r\n")),
    Kind("a name that is too long", 400, lambda text: get("/events", host=text * 200), OPEN),
    Kind("a short other name", 421, lambda text: get("/events", host=text), OPEN),
    Kind("a foreign page", 403, lambda text: get("/events", f"Origin: https://{text * 200}\r\n"), OPEN),
    Kind("an unknown member", 422, lambda text: post("/send/a", f'{{"m{text * 2000}":1}}')),
    Kind("no event", 422, lambda text: post("/send/a", f'{{"event":"{text * 2000}"}}')),
    Kind("another shape", 422, lambda text: post("/send/a", f'"{text * 2000}"')),
    Kind("a reserved type", 422, lambda text: post("/send/a", f'{{"message":"","event":"${text * 90}"}}')),
    Kind("a body that is too deep", 422, lambda text: post("/send/a", f'{{"data":["{text}",{"[" * 5000}')),
    Kind("too fast", 429, lambda text: post("/send/a", f'{{"message":"{text * 900}"}}'), SLOW),
    Kind("too fast, and large", 429, lambda text: post("/send/a", f'{{"message":"{text * 9000}"}}'), SLOW),
    Kind(
        "a head that is too long",
        431,
        lambda text: get("/events", "".join(f"X-{number}: {text * 90}\r\n" for number in range(24))),
    ),
    Kind(
        "channels beyond a share of all that may be followed",
        429,
        lambda text: get(f"/events/{names(text, 50)}", WIDE),
        {"subscribed_channels": 2},
    ),
    Kind(
        "a coding of transfers",
        400,
        lambda text: get("/send/a", f"{NARROW}Transfer-Encoding: {text}\r\n", method="POST"),
    ),
    Kind(
        "a page that asks beforehand",
        204,
        lambda text: get(
            f"/events/{text * 90}",
            f"Origin: https://{text * 90}\r\nAccess-Control-Request-Method: GET\r\n",
            method="OPTIONS",
        ),
    ),
]


def names_in_json(text: str, count: int) -> str:
    """Return channels as the JSON of a body has them."""
    return "[" + ",".join(f'"{text}.{number}"' for number in range(count)) + "]"


def texts() -> Iterator[str]:
    """Yield texts of 16 characters, each of which comes once."""
    number = 0
    while True:
        number += 1
        yield hashlib.sha256(str(number).encode()).hexdigest()[:16]


class Asking:
    """Makes one request after the other, on a connection as long as that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._client: RawClient | None = None

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
        self._client = None

    async def status(self, request: bytes) -> int:
        """Return the status of the answer."""
        try:
            return await self._ask(request)
        except ConnectionError:  # it was closed behind the answer before
            self.close()
            return await self._ask(request)

    async def _ask(self, request: bytes) -> int:
        client = self._client = self._client or await RawClient.open(self._port)
        await client.send(request)
        head = (await client.head()).lower()
        length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        await client.take(int(length or 0))
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head.split()[1])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_a_refusal_keeps_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """Of bytes that no other request had, whoever sent them."""
    if kind.settings is SLOW:
        clock.stopped(monkeypatch)  # or one more would be allowed on a slow machine
    callers = (
        caller("narrow", publish=("a",), subscribe=("a",)),
        caller("wide", subscribe=("*",)),
        caller("admin", subscribe=("*",), inspect=("*",), admin=("*",)),
    )
    server = await serve(**{"caller": callers, **kind.settings})
    asking, text = Asking(server.port), texts()
    statuses = {await asking.status(kind.make(next(text))) for _ in range(BEFORE)} - {200}
    tracemalloc.start()
    try:
        before = await _held(asking, server)
        statuses |= {await asking.status(kind.make(next(text))) for _ in range(REFUSALS)}
        kept = (await _held(asking, server) - before) / REFUSALS
    finally:
        tracemalloc.stop()
        asking.close()
    assert statuses == {kind.status}
    assert kept < KEPT


async def _held(asking: Asking, server: Server) -> int:
    """Return the bytes that are held without the connection, whose last request is not over before it is."""
    asking.close()
    await until(lambda: not server.connections)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
