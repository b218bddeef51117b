"""Refused requests leave less than 1 KiB in memory, by kind."""

import gc
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from sse_broadcast.server.runner import Server
from tests.conftest import Serve
from tests.support import clock
from tests.support.asking import bearer
from tests.support.credentials import caller, static
from tests.support.sockets import RawClient, until

REFUSALS = 40
"""Measured refusals of each kind. With a thousand the mean is lower, since limited stores stop growing."""

BEFORE = 10
"""Refusals before the measurement, for objects that are made once."""

KEPT = 1024
"""Bytes that a refusal may leave, on average."""

JSON = "Content-Type: application/json\r\n"
NARROW = bearer(static("narrow"))
NDJSON = "Content-Type: application/x-ndjson\r\n"
ADMIN = bearer(static("admin"))

WIDE = bearer(static("wide"))

Make = Callable[[str], bytes]
"""Makes the bytes of a request to be refused, from a unique text."""


def get(path: str, headers: str = "", *, method: str = "GET", host: str = "localhost") -> bytes:
    """Return a request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode()


def post(path: str, body: str, headers: str = NARROW + JSON) -> bytes:
    return get(path, f"Content-Length: {len(body)}\r\n{headers}", method="POST") + body.encode()


def names(text: str, count: int) -> str:
    """Return channels that no other request has."""
    return ",".join(f"{text}.{number}" for number in range(count))


def parameters(text: str, count: int) -> str:
    """Return query parameters that no other request has."""
    return "&".join(f"{text}{number}=1" for number in range(count))


OPEN = {"caller": ()}
SLOW = {"publish_rate": 1, "publish_burst": 1, "max_batch": 1}

REFUSED: Mapping[int, Mapping[str, Make]] = {
    401: {
        "no credential": lambda text: get(f"/events/{text}"),
        "no credential, 1,200 names": lambda text: get(f"/events/{names(text[:6], 1200)}"),
        "no credential, a long query": lambda text: get(f"/events?{parameters(text[:4], 180)}"),
        "a token of nobody": lambda text: get("/events", bearer(text * 100)),
        "a signed token of nobody": lambda text: get("/events", bearer(f"eyJhbGciOiJub25lIn0.{text * 50}.x")),
        "a token in the query": lambda text: get(f"/events?access_token={text * 50}"),
        "a longer token": lambda text: get("/events", bearer(text * 300)),
        "another scheme": lambda text: get("/events", f"Authorization: {text * 100} x\r\n"),
    },
    403: {
        "a channel not allowed": lambda text: get(f"/events/{text}", NARROW),
        "channels not allowed": lambda text: get(f"/events/{names(text, 100)}", NARROW),
        "a pattern not allowed": lambda text: get(f"/events/*{text}*,{text}.*", NARROW),
        "a publish not allowed": lambda text: post(f"/send/{text}", "{}"),
        "a publish not allowed by its body": lambda text: post(
            "/send", f'{{"message":"","channel":"{text}"}}'
        ),
        "an action not allowed": lambda text: post(f"/tokens?{text * 50}", "{}"),
        "a channel not to be asked about": lambda text: get(f"/channels/{text}", NARROW),
        "a foreign page": lambda text: get("/events", f"Origin: https://{text * 200}\r\n"),
    },
    400: {
        "too many names": lambda text: get(f"/events/{names(text[:6], 1200)}", NARROW),
        "too many names in a body": lambda text: post(
            "/events", f'{{"channels":{names_in_json(text[:8], 900)}}}'
        ),
        "too many names to publish to": lambda text: post(
            "/send", f'{{"message":"","channels":{names_in_json(text, 5000)}}}'
        ),
        "too many patterns": lambda text: get(
            "/events/" + ",".join(f"{each}*{text}*" for each in range(11)), ADMIN
        ),
        "too many parameters": lambda text: get(f"/events?{parameters(text[:3], 1500)}", NARROW),
        "a bad name": lambda text: get(f"/events/%20{text * 90}", NARROW),
        "a bad name to publish to": lambda text: post(f"/send/%20{text * 90}", "{}"),
        "a bad name to ask about": lambda text: get(f"/channels/%20{text * 90}", ADMIN),
        "an unknown parameter of a publish": lambda text: post(f"/send/a?{text * 90}", "{}"),
        "a misspelt parameter": lambda text: get(f"/events/a?chanel={text * 90}", NARROW),
        "a bad since": lambda text: get(f"/events/a?since=%20{text * 90}", NARROW),
        "a since that is not known": lambda text: get(f"/events/a?since={text}", NARROW),
        "a bad format": lambda text: get(
            f"/events/a?format={text * 90}", NARROW + f"Accept: {text * 90}\r\n"
        ),
        "a bad heartbeat": lambda text: get(f"/events/a?heartbeat={text * 90}", NARROW),
        "bad bytes": lambda text: get(f"/{text}%ff{text * 90}"),
        "two tokens": lambda text: get(f"/events?access_token={text * 50}&access_token=x"),
        "no JSON": lambda text: post("/send/a", "x" + text * 3000),
        "no JSON in a line": lambda text: post(
            "/send/a", f'{{"message":"{text * 1000}"}}\nx{text}', NARROW + NDJSON
        ),
        "a bad key": lambda text: post(
            "/send/a", '{"message":""}', f"{NARROW}{JSON}Idempotency-Key: {text * 30}\r\n"
        ),
        "no HTTP": lambda text: f"{text * 100}\r\n\r\n".encode(),
        "no target": lambda text: get(f"{text * 100}://{text}:x{text}/"),
        "a host that cannot be": lambda text: get(f"{text * 90}:443", method="CONNECT"),
        "a URL of a host": lambda text: get(f"http://{text * 10}/events/{text * 90}"),
        "a method that there is not": lambda text: get(
            "/send", method="X" + "".join(filter(str.isalpha, text * 2)).upper()
        ),
        "a name that is too long": lambda text: get("/events", host=text * 200),
        "a coding of transfers": lambda text: get(
            "/send/a", f"{NARROW}Transfer-Encoding: {text}\r\n", method="POST"
        ),
    },
    404: {
        "a target of a proxy": lambda text: get(f"{text * 10}:443", method="CONNECT"),
        "a path that is not there": lambda text: get(f"/{text * 200}"),
        "a path that is nearly there": lambda text: get(f"/event/{text * 200}"),
        "a stream that is not there": lambda text: get(f"/subscribers/{text * 200}", ADMIN),
    },
    405: {"a method that is not taken": lambda text: get(f"/events/{text * 200}", method="DELETE")},
    413: {
        "a body that says it is too large": lambda text: get(
            f"/send/a?event={text * 90}", f"{NARROW}Content-Length: 99999999\r\n", method="POST"
        ),
        "an event that is too large": lambda text: post("/send/a", text * 300, NARROW),
        "a batch of too many": lambda text: post("/send/a", f'[{{"message":"{text}"}}' + ",{}" * 2000 + "]"),
        "a large batch of too many": lambda text: post(
            "/send/a", f'[{{"message":"{text * 9000}"}}' + ",{}" * 2000 + "]"
        ),
        "a batch of too many lines": lambda text: post(
            "/send/a", f'{{"message":"{text}"}}\n' * 1500, NARROW + NDJSON
        ),
    },
    414: {
        "a target that is too long": lambda text: get(f"/events/{text * 1100}"),
        "a query that is too long": lambda text: get(f"/events?{parameters(text, 800)}"),
    },
    415: {
        "another coding": lambda text: post("/send/a", "x", f"{NARROW}Content-Encoding: {text * 50}\r\n"),
        "another charset": lambda text: post(
            "/send/a", "x", f"{NARROW}Content-Type: text/plain; charset={text}\r\n"
        ),
        "a type that is too long": lambda text: post(
            "/send/a", "x", f"{NARROW}Content-Type: {text}{';' * 20_000}\r\n"
        ),
        "a type that is none here": lambda text: post(
            "/events", "x", f"{NARROW}Content-Type: text/{text}\r\n"
        ),
    },
    417: {"an expectation": lambda text: get("/events", f"Expect: {text * 90}\r\n")},
    421: {"a short other name": lambda text: get("/events", host=text)},
    422: {
        "an unknown member": lambda text: post("/send/a", f'{{"m{text * 2000}":1}}'),
        "no event": lambda text: post("/send/a", f'{{"event":"{text * 2000}"}}'),
        "another shape": lambda text: post("/send/a", f'"{text * 2000}"'),
        "a reserved type": lambda text: post("/send/a", f'{{"message":"","event":"${text * 90}"}}'),
        "a body that is too deep": lambda text: post("/send/a", f'{{"data":["{text}",{"[" * 5000}'),
    },
    429: {
        "too fast": lambda text: post("/send/a", f'{{"message":"{text * 900}"}}'),
        "too fast, and large": lambda text: post("/send/a", f'{{"message":"{text * 9000}"}}'),
        "channels beyond a share of all that may be followed": lambda text: get(
            f"/events/{names(text, 50)}", WIDE
        ),
    },
    431: {
        "a head that is too long": lambda text: get(
            "/events", "".join(f"X-{number}: {text * 90}\r\n" for number in range(24))
        )
    },
    204: {
        "a page that asks beforehand": lambda text: get(
            f"/events/{text * 90}",
            f"Origin: https://{text * 90}\r\nAccess-Control-Request-Method: GET\r\n",
            method="OPTIONS",
        )
    },
}
"""By status and name, functions that make requests for one kind of refusal."""

SETTINGS: Mapping[str, dict[str, Any]] = {
    "an event that is too large": {"max_event": 4096},
    "a name that is too long": OPEN,
    "a short other name": OPEN,
    "a foreign page": OPEN,
    "too fast": SLOW,
    "too fast, and large": SLOW,
    "channels beyond a share of all that may be followed": {"subscribed_channels": 2},
}
"""The server's settings, apart from the usual ones."""


def names_in_json(text: str, count: int) -> str:
    """Return channels as JSON, as a body has them."""
    return "[" + ",".join(f'"{text}.{number}"' for number in range(count)) + "]"


def texts() -> Iterator[str]:
    """Yield unique texts of 16 characters."""
    number = 0
    while True:
        number += 1
        yield hashlib.sha256(str(number).encode()).hexdigest()[:16]


class Requester:
    """Sends one request after another, on one connection as long as it is open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._client: RawClient | None = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    async def status(self, request: bytes) -> int:
        try:
            return await self._ask(request)
        except ConnectionError:  # The previous response had closed it.
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


@pytest.mark.parametrize(
    ("status", "name"),
    [pytest.param(status, name, id=name) for status in REFUSED for name in REFUSED[status]],
)
async def test_a_refused_request_leaves_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int, name: str
) -> None:
    make, settings = REFUSED[status][name], SETTINGS.get(name, {})
    if settings is SLOW:
        clock.stopped(monkeypatch)  # Otherwise a slow machine would allow one more.
    callers = (
        caller("narrow", publish=("a",), subscribe=("a",)),
        caller("wide", subscribe=("*",)),
        caller("admin", subscribe=("*",), inspect=("*",), admin=("*",)),
    )
    server = await serve(**{"caller": callers, **settings})
    asking, text = Requester(server.port), texts()
    statuses = {await asking.status(make(next(text))) for _ in range(BEFORE)} - {200}
    tracemalloc.start()
    try:
        before = await _held(asking, server)
        statuses |= {await asking.status(make(next(text))) for _ in range(REFUSALS)}
        kept = (await _held(asking, server) - before) / REFUSALS
    finally:
        tracemalloc.stop()
        asking.close()
    assert statuses == {status}
    assert kept < KEPT


async def _held(asking: Requester, server: Server) -> int:
    """Return the allocated bytes without those of the connection, which keeps its last request."""
    asking.close()
    await until(lambda: not server.connections)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
