"""Client: publish to a server, follow a stream across reconnections, ask for the status."""

import asyncio
import random
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from sse_broadcast import wire
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event

DEFAULT_URL = "http://127.0.0.1:8000"

DEFAULT_RETRY = 3000
"""Milliseconds before a reconnection, until the server names its own."""

MAX_DELAY = 60.0
"""Seconds between two attempts at most, however often they failed, unless `retry` is longer."""

SILENCE = 60.0
"""Seconds without a byte after which a stream is taken for dead: four heartbeats."""

CONNECT_TIMEOUT = 10.0
"""Seconds."""

TRANSIENT = {502, 503, 504}
"""What a full or draining server says, and a proxy while the server behind it restarts."""


_UNREACHABLE = (aiohttp.ClientError, TimeoutError, UnicodeError)
"""What a request fails with; UnicodeError for a host name that Python cannot even ask for."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What an id may have in it and a header may not."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a stream as it arrived, and the events it completed."""

    raw: bytes
    events: list[Event]


def delay(retry: int, failures: int) -> float:
    """Give the seconds to wait before reconnecting, after so many failures in a row.

    The server's `retry` (milliseconds) the first time, as the standard asks; twice as long
    for each failure, up to `MAX_DELAY`, with some jitter.
    """
    base = retry / 1000
    if failures == 0:
        return base
    most = max(base, MAX_DELAY)
    return min(max(base, 0.1) * 2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)


class Client:
    """Talks to one server. An async context manager; its errors are `ClientError`."""

    def __init__(self, url: str = DEFAULT_URL, *, tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True),
            headers={"User-Agent": "sse-broadcast"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def publish(self, message: str, *, event: str | None = None) -> dict[str, Any]:
        """Publish one message and give the server's answer."""
        content: dict[str, Any] = {"message": message}
        if event is not None:
            content["event"] = event
        receipt = await self._ask("POST", "/send", content)
        if "clients" not in receipt:
            raise ClientError(f"{self._url}/send: does not answer as this server does", status=200)
        return receipt

    async def status(self) -> dict[str, Any]:
        """Give the server's status."""
        return await self._ask("GET", "/status", None)

    async def subscribe(self) -> AsyncIterator[Piece]:
        """Follow the stream for ever: reconnect when it ends or breaks, after `retry` and a backoff.

        Raises `ClientError` for what no reconnection mends (a 4xx, another content type) and when
        the very first connection fails.
        """
        retry, failures, ever = DEFAULT_RETRY, 0, False
        last_event_id = ""
        while True:
            decoder = wire.Decoder()
            decoder.last_event_id = last_event_id
            try:
                async for data in self._stream(last_event_id):
                    failures, ever = 0, True
                    yield Piece(data, decoder.feed(data))
                ever = True
            except _UNREACHABLE as error:
                if not ever:
                    raise _unreachable(self._url, error) from None
                failures += 1
            except _Busy as busy:
                ever = True
                retry = max(retry, busy.retry_after)
            last_event_id = decoder.last_event_id
            retry = retry if decoder.retry is None else decoder.retry
            await asyncio.sleep(delay(retry, failures))

    async def _stream(self, last_event_id: str) -> AsyncIterator[bytes]:
        assert self._session is not None
        headers = {"Accept": wire.CONTENT_TYPE, "Cache-Control": "no-store"}
        if last_event_id:
            if _CONTROL.search(last_event_id):
                raise ClientError(f"{self._url}: the id {last_event_id[:80]!r} cannot be sent back")
            headers["Last-Event-ID"] = last_event_id
        async with self._session.get(self._url + "/events", headers=headers) as response:
            if response.status in TRANSIENT:
                raise _Busy(response.headers.get("Retry-After", ""))
            if response.status != 200:
                raise await _refused(response)
            if response.content_type != wire.CONTENT_TYPE:
                raise ClientError(
                    f"{response.url}: is {response.content_type}, not {wire.CONTENT_TYPE}", status=200
                )
            async for data in response.content.iter_any():
                yield data

    async def _ask(self, method: str, path: str, content: dict[str, Any] | None) -> dict[str, Any]:
        assert self._session is not None
        body = None if content is None else _encoded(content)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers
            ) as response:
                if response.status != 200:
                    raise await _refused(response)
                return msgspec.json.decode(await response.read(), type=dict[str, Any])
        except _UNREACHABLE as error:
            raise _unreachable(self._url, error) from None
        except msgspec.DecodeError:
            raise ClientError(f"{self._url}{path}: the answer is not a JSON object") from None


class _Busy(Exception):  # noqa: N818 - not an error of the client's caller
    """The server is full or draining; `retry_after` is in milliseconds."""

    def __init__(self, retry_after: str) -> None:
        super().__init__()
        self.retry_after = int(retry_after) * 1000 if retry_after.isascii() and retry_after.isdigit() else 0


def _encoded(content: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError as error:
        raise ClientError(
            f"cannot publish a lone surrogate, {error.object[error.start]!a}, at character {error.start}"
        ) from None


async def _refused(response: aiohttp.ClientResponse) -> ClientError:
    text = (await response.content.read(2000)).decode("utf-8", "replace").strip()
    if response.content_type == "application/problem+json":
        text = _detail(text)
    told = f"{response.url}: {response.status} {response.reason}" + (f": {text}" if text else "")
    return ClientError(_line(told), status=response.status)


def _detail(text: str) -> str:
    try:
        problem = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return text
    return str(problem.get("detail", text))


def _unreachable(url: str, error: BaseException) -> ClientError:
    return ClientError(_line(f"cannot reach {url}: {str(error) or 'timed out'}"))


def _line(text: str) -> str:
    """Give foreign text as one line that does nothing to a terminal."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
