"""Connection to what is examined: requests as a browser makes them, and the times at which bytes come."""

import asyncio
import contextlib
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from sse_broadcast.doctor.proxy_marks import Proxy, in_order, mark_of_refusal, marks_of
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event
from sse_broadcast.wire import CONTENT_TYPE, Decoder

PROBE_CONNECT_TIMEOUT = 10.0
"""Seconds."""

MAX_PROBED_BODY = 4000
"""Bytes of an answer that are looked at."""

ProbeBody = bytes | AsyncIterable[bytes] | None

_USER = re.compile(r"(?<=://)[^/?#]*@")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no stream. Names of headers are in lower case; of the body it has the beginning."""

    status: int
    headers: Mapping[str, str]
    body: str
    seconds: float

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object, empty if it is none."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except msgspec.DecodeError:
            return {}


@dataclass(slots=True)
class ProbeStream:
    """An open stream. `raw` is what came, `ended` when it ended, in seconds since it was opened."""

    status: int
    headers: Mapping[str, str]
    opened_at: float
    response: aiohttp.ClientResponse
    raw: bytes = b""
    ended: float | None = None
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    reading: "asyncio.Task[None] | None" = None
    decoder: Decoder = field(default_factory=Decoder)

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream at all."""
        return self.status == 200 and self.headers.get("content-type", "").startswith(CONTENT_TYPE)

    def start(self) -> None:
        """Begin to read."""
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while data := await self.response.content.readany():
                self.raw += data
                if "content-encoding" not in self.headers:
                    for event in self.decoder.feed(data):
                        self.events.put_nowait(event)
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        finally:
            self.ended = time.monotonic() - self.opened_at

    async def event(self, kind: str | None, patience: float) -> Event | None:
        """Return the next event of a type, or for None the next published one; None if none comes in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    found = await self.events.get()
                    if found.type == kind or (kind is None and not found.reserved):
                        return found
        return None

    async def more_than(self, count: int, patience: float) -> bool:
        """Wait until more than `count` bytes have come; False if they do not in time."""
        end = time.monotonic() + patience
        while len(self.raw) <= count and self.ended is None and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return len(self.raw) > count

    async def beginning(self, patience: float) -> str:
        """Return the beginning of a body that is no stream, as far as it comes in time."""
        end = time.monotonic() + patience
        while len(self.raw) < MAX_PROBED_BODY and self.ended is None and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return self.raw[:MAX_PROBED_BODY].decode("utf-8", "replace")

    async def until_ended(self, patience: float) -> bool:
        """Wait for the end; False if it does not come in time."""
        assert self.reading is not None
        done, _ = await asyncio.wait({self.reading}, timeout=patience)
        return bool(done)


class ProbeConnection:
    """Requests to one address. An async context manager.

    Whatever is answered, `proxies` collects the marks of those it has passed.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = 5.0,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        """Seconds that whatever is sent on at once may take."""
        self._tls = tls
        self._headers = {"User-Agent": "sse-broadcast doctor", **(headers or {})}
        self._session: aiohttp.ClientSession | None = None
        self._found: set[Proxy] = set()

    @property
    def name(self) -> str:
        """The URL without the user and password that it may have."""
        return _USER.sub("", self.url, count=1)

    @property
    def secure(self) -> bool:
        """Whether it is https."""
        return self.url.startswith("https:")

    @property
    def proxies(self) -> tuple[Proxy, ...]:
        """Those whose marks were seen."""
        return in_order(self._found)

    async def __aenter__(self) -> Self:
        # A connection each: a proxy that keeps one busy must not hold up the next probe.
        connector = aiohttp.TCPConnector(ssl=self._tls or True, force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PROBE_CONNECT_TIMEOUT)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    @contextlib.asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[ProbeStream | None]:
        """Open a stream, or yield None if no answer begins in time. A redirect is not followed."""
        said = {"Accept": CONTENT_TYPE, "Cache-Control": "no-store", "Accept-Encoding": "identity"}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        begun = time.monotonic()
        assert self._session is not None
        try:
            async with asyncio.timeout(2 * self.patience):
                response = await self._session.get(self.url + path, headers=said, allow_redirects=False)
        except aiohttp.ClientConnectorError as error:
            raise ClientError(f"cannot reach {self.name}: {_reason(error)}") from None
        except (TimeoutError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            yield None
            return
        except aiohttp.ClientError:
            raise ClientError(f"cannot reach {self.name}: it does not speak HTTP") from None
        try:
            heads = {name.lower(): value for name, value in response.headers.items()}
            self._found |= marks_of(heads)
            stream = ProbeStream(response.status, heads, begun, response)
            stream.start()
            try:
                yield stream
            finally:
                assert stream.reading is not None
                stream.reading.cancel()
                await asyncio.gather(stream.reading, return_exceptions=True)
        finally:
            response.close()

    async def ask(self, method: str, path: str, *, body: ProbeBody = None, **headers: str) -> Answer | None:
        """Return a whole answer, or None if none comes in time."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        begun = time.monotonic()
        assert self._session is not None
        try:
            async with (
                asyncio.timeout(2 * self.patience),
                self._session.request(
                    method, self.url + path, data=body, headers=said, allow_redirects=False
                ) as response,
            ):
                heads = {name.lower(): value for name, value in response.headers.items()}
                data = b""
                while len(data) < MAX_PROBED_BODY and (piece := await response.content.readany()):
                    data += piece
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None
        text = data[:MAX_PROBED_BODY].decode("utf-8", "replace")
        self._found |= marks_of(heads, text)
        return Answer(response.status, heads, text, time.monotonic() - begun)

    async def publish(self, channel: str, message: str) -> Answer | None:
        """Publish a message."""
        return await self.ask("POST", f"/send/{channel}", body=message.encode(), Content_Type="text/plain")

    async def provoke(self) -> None:
        """Ask for nothing, and malformed: proxies without a mark refuse that in words of their own."""
        await self.ask("GET", f"/doctor-{secrets.token_hex(6)}")
        if self._found:
            return
        parts = urlsplit(self.url)
        port = parts.port or (443 if self.secure else 80)
        context = (self._tls or ssl.create_default_context()) if self.secure else None
        request = f"GET / HTTP/1.1\r\nHost: {parts.hostname}\r\nbad header: x\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(self.patience):
                reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
                try:
                    writer.write(request.encode())
                    answer = b""
                    while len(answer) < MAX_PROBED_BODY and (piece := await reader.read(MAX_PROBED_BODY)):
                        answer += piece
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
            head, _, body = answer.decode("utf-8", "replace").partition("\r\n\r\n")
            lines = [line.partition(":") for line in head.split("\r\n")[1:]]
            self._found |= mark_of_refusal({name: value.strip() for name, _, value in lines}, body)


def _reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    if isinstance(error.os_error, ConnectionRefusedError):
        return "refused"
    return error.os_error.strerror or str(error.os_error)
