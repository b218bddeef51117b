"""Client: publish to a server, follow a stream across reconnections, ask for the status."""

import asyncio
import os
import random
import re
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import msgspec

from sse_broadcast import wire
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event

DEFAULT_URL = "http://127.0.0.1:8000"

UNIX = "unix:"
"""What the URL of a UNIX socket begins with; its path follows."""

DEFAULT_RETRY = 3000
"""Milliseconds before a reconnection, until the server names its own."""

MAX_DELAY = 60.0
"""Seconds between two attempts at most, however often they failed, unless `retry` is longer."""

SILENCE = 60.0
"""Seconds without a byte after which a stream is taken for dead: four heartbeats."""

CONNECT_TIMEOUT = 10.0
"""Seconds."""

ALIVE = 2.5
"""Seconds in which a server that lives says so: fewer than a container's health check may take."""

TRANSIENT = {429, 502, 503, 504}
"""What a full or draining server says, and a proxy while the server behind it restarts."""

UNSURE = {500, 502, 504}
"""What is said by a server that may have published all the same."""

BATCH = 500
"""Events of one request at most: half of what a server takes, unless it is told otherwise."""

BATCH_BYTES = 1 << 20
"""Bytes of one request at most, unless a single event has more."""

ATTEMPTS = 10
"""How often a request with lines is made at most, when a server has enough of us for now."""

JSON = "application/json"
NDJSON = "application/x-ndjson"

_UNREACHABLE = (aiohttp.ClientError, TimeoutError, UnicodeError)
"""What a request fails with; UnicodeError for a host name that Python cannot even ask for."""

_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (TimeoutError, "timed out"),
    (ConnectionRefusedError, "refused"),
    ((aiohttp.ClientConnectorDNSError, UnicodeError), "no such host"),
    (aiohttp.InvalidURL, "no such address"),
    ((aiohttp.ServerDisconnectedError, ConnectionError), "it closed the connection"),
    (aiohttp.ClientPayloadError, "it broke off its answer"),
    (aiohttp.ClientResponseError, "it does not speak HTTP"),
)
"""What is said of these; of one of several kinds that of the first."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What an id may have in it and a header may not."""

_IN_A_PATH = re.compile(r"(?!\.\.?$)[A-Za-z0-9._:@~*-]+")
"""Channels that a path can name; the others go into the query, where the server says what is wrong."""

_USER = re.compile(r"(?<=://)[^/?#]*@")
"""The user and password of a URL."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, 2.1."""

_NUMBERED = re.compile(r"line ([0-9]{1,9}): ")
"""How the server begins to tell of one line of several."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a stream as it arrived, and the events it completed.

    `last_event_id` is where the stream was with its last event, "" before it has said so: what to
    subscribe with to go on from there. The opening and a heartbeat may move it without an event.
    """

    raw: bytes
    events: list[Event]
    last_event_id: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one request published: how many events, to how many readers, and the id of the last."""

    count: int
    clients: int
    id: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, and its number in all that is published."""

    number: int
    text: bytes


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


def line(
    message: str,
    *,
    event: str | None = None,
    id: str | None = None,
    key: str | None = None,
    retry: int | None = None,
) -> bytes:
    """Give an event as a line for `publish_lines`. Raises `ClientError` for what has no UTF-8 form."""
    said = {"message": message, "event": event, "id": id, "key": key, "retry": retry}
    try:
        return msgspec.json.encode({name: value for name, value in said.items() if value is not None})
    except UnicodeEncodeError as error:
        raise ClientError(
            f"cannot publish a lone surrogate, {error.object[error.start]!a}, at character {error.start}"
        ) from None


def is_token(text: str) -> bool:
    """Whether a text can be a bearer token (RFC 6750, 2.1)."""
    return _TOKEN.fullmatch(text) is not None


class Client:
    """Talks to one server. An async context manager; its errors are `ClientError`.

    `url` is that of the server, or `unix:` and the path of its socket. `token` says who asks; it is sent to
    this server alone, and to no other that a redirect names.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, tls: ssl.SSLContext | None = None, token: str | None = None
    ) -> None:
        self._name = _USER.sub("", url.rstrip("/"), count=1)
        self._socket = url.removeprefix(UNIX) if url.startswith(UNIX) else None
        self._url = url.rstrip("/") if self._socket is None else "http://localhost"
        self._headers = {"User-Agent": "sse-broadcast", **self._authorization(token)}
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The URL of the server, without the user and password that it may have."""
        return self._name

    def _authorization(self, token: str | None) -> dict[str, str]:
        if token is None:
            return {}
        if not is_token(token):
            raise ClientError("token: has characters that no token has (RFC 6750)")
        if _USER.search(self._url):
            raise ClientError(f"{self._name}: a user in the URL and a token: only one of them may be given")
        # aiohttp takes it out of what it sends to another origin.
        return {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE),
        )
        return self

    def _connector(self) -> aiohttp.BaseConnector:
        if self._socket is not None:
            return aiohttp.UnixConnector(self._socket)
        return aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def publish(  # noqa: PLR0913 - a field of the event each
        self,
        message: str,
        *,
        event: str | None = None,
        channels: Sequence[str] = (),
        id: str | None = None,
        key: str | None = None,
        retry: int | None = None,
    ) -> dict[str, Any]:
        """Publish one message to the channels, or to `default`, and give the server's answer."""
        body = line(message, event=event, id=id, key=key, retry=retry)
        return await self.publish_json(body, channels=channels)

    async def publish_json(self, body: bytes, *, channels: Sequence[str] = ()) -> dict[str, Any]:
        """Publish the event of a JSON object, or all or none of an array's; give the server's answer."""
        return await self._send(_address("/send", channels), JSON, body)

    async def publish_lines(
        self, lines: AsyncIterable[Sequence[bytes]], *, channels: Sequence[str] = ()
    ) -> AsyncIterator[Sent]:
        """Publish events in their order, each a line of JSON without its end, and tell of each request.

        Lines that come together are sent together, up to `BATCH` and `BATCH_BYTES`; the next are
        asked for when these are published. Blank ones are no events, and counted. Raises
        `ClientError` for the first line that is refused, naming its number: all before it are
        published, and nothing behind it. Where the connection breaks, the error names the lines
        that were under way, which may have been published or not.
        """
        path = _address("/send", channels)
        before = 0
        async for some in lines:
            for batch in _batches(_Line(before + index, text) for index, text in enumerate(some, 1)):
                async for sent in self._publish_batch(path, batch):
                    yield sent
            before += len(some)

    async def health(self) -> None:
        """Ask whether the server is alive. Raises `ClientError` if it does not say so within `ALIVE`."""
        try:
            async with asyncio.timeout(ALIVE):
                await self._ask("GET", "/healthz")
        except TimeoutError as error:
            raise _unreachable(self._name, error) from None

    async def status(self) -> dict[str, Any]:
        """Give the server's status."""
        return await self._ask("GET", "/status")

    async def subscribers(
        self,
        *,
        sort: str | None = None,
        channel: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Give a page of the readers that are connected by HTTP, or those that come first by `sort`.

        That is `lag`, `queue`, `age`, `events` or `drops`. `after` is the `next` of a page.
        """
        said = {"sort": sort, "channel": channel, "limit": limit, "after": after}
        query = [(name, str(value)) for name, value in said.items() if value is not None]
        answer = await self._ask("GET", _address("/subscribers", (), query))
        if not isinstance(answer.get("subscribers"), list):
            raise ClientError(f"{self._name}/subscribers: does not answer as this server does", status=200)
        return answer

    async def dismiss(self, id: str) -> dict[str, Any]:
        """End the stream of a reader, which may come back. Raises `ClientError` if none has this id."""
        if not (id.isascii() and id.isdigit()):
            raise ClientError(f"id: must be digits, not {id[:80]!a}")
        return await self._ask("DELETE", f"/subscribers/{id}")

    async def reload(self) -> dict[str, Any]:
        """Have the server read its configuration again, and give the names of the settings that has changed.

        Raises `ClientError` for a configuration that cannot be used: then it has changed none.
        """
        answer = await self._ask("POST", "/reload")
        if not isinstance(answer.get("changed"), list) or not isinstance(answer.get("restart"), list):
            raise ClientError(f"{self._name}/reload: does not answer as this server does", status=200)
        return answer

    async def subscribe(
        self,
        channels: Sequence[str] = (),
        *,
        since: str | None = None,
        last_event_id: str = "",
        events: Sequence[str] = (),
        format: str = "text",
    ) -> AsyncIterator[Piece]:
        """Follow channels and patterns, or `default`, for ever: reconnect when the stream ends or breaks.

        It begins after `last_event_id` or, without one, where `since` says (an id, `earliest`, `last`
        or an age); it goes on from the last id that came, after `retry` and a backoff. `events` are the
        only types wanted. With the format `json` an event's data says where it came from, as
        `{"channel","id","event","data","time"}`. Raises `ClientError` for what no reconnection mends
        (a 4xx, another content type) and when the very first connection fails.
        """
        query = [("event", name) for name in events]
        if format != "text":
            query.append(("format", format))
        retry, failures, ever = DEFAULT_RETRY, 0, False
        while True:
            decoder = wire.Decoder()
            decoder.last_event_id = last_event_id
            # What was seen says more than where all began, which a stream may not have said yet.
            begin = [] if last_event_id or not since else [("since", since)]
            try:
                async for data in self._stream(_address("/events", channels, query + begin), last_event_id):
                    failures, ever = 0, True
                    found = decoder.feed(data)
                    yield Piece(data, found, decoder.last_event_id)
                ever = True
            except _UNREACHABLE as error:
                if not ever:
                    raise _unreachable(self._name, error) from None
                failures += 1
            except _Busy as busy:
                ever = True
                retry = max(retry, busy.retry_after)
            last_event_id = decoder.last_event_id
            retry = retry if decoder.retry is None else decoder.retry
            await asyncio.sleep(delay(retry, failures))

    async def _stream(self, path: str, last_event_id: str) -> AsyncIterator[bytes]:
        assert self._session is not None
        headers = {"Accept": wire.CONTENT_TYPE, "Cache-Control": "no-store"}
        if last_event_id:
            if _CONTROL.search(last_event_id):
                raise ClientError(f"{self._name}: the id {last_event_id[:80]!r} cannot be sent back")
            headers["Last-Event-ID"] = last_event_id
        async with self._session.get(self._url + path, headers=headers) as response:
            if response.status in TRANSIENT:
                raise _Busy(_retry_after(response) or 0)
            if response.status != 200:
                raise await self._refused(response)
            if response.content_type != wire.CONTENT_TYPE:
                where = self._where(response)
                raise ClientError(f"{where}: is {response.content_type}, not {wire.CONTENT_TYPE}", status=200)
            async for data in response.content.iter_any():
                yield data

    async def _publish_batch(self, path: str, batch: list[_Line]) -> AsyncIterator[Sent]:
        """Publish a batch, or that part of it which comes before a line that is refused."""
        try:
            answer = await self._send_patiently(path, b"\n".join(each.text for each in batch))
        except _RefusedError as refusal:
            parts, error = refusal.split(batch)
        except ClientError as broken:
            parts, error = [], ClientError(f"{broken}, with {_span(batch)} under way", status=broken.status)
        else:
            yield Sent(answer.get("count", len(batch)), answer["clients"], answer.get("id", ""))
            return
        for part in parts:
            async for sent in self._publish_batch(path, part):
                yield sent
        if error is not None:
            raise error

    async def _send_patiently(self, path: str, body: bytes) -> dict[str, Any]:
        """Publish lines, and again when the server says how long it has had enough of us."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._send(path, NDJSON, body)
            except _RefusedError as refusal:
                if refusal.status != 429 or refusal.retry_after is None:
                    raise
                await asyncio.sleep(min(delay(refusal.retry_after * 1000, 0), MAX_DELAY))
        return await self._send(path, NDJSON, body)

    async def _send(self, path: str, content_type: str, body: bytes) -> dict[str, Any]:
        answer = await self._ask("POST", path, body, {"Content-Type": content_type})
        if "clients" not in answer:
            raise ClientError(f"{self._name}{path}: does not answer as this server does", status=200)
        return answer

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        assert self._session is not None
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers
            ) as response:
                if response.status != 200:
                    raise await self._refused(response)
                return msgspec.json.decode(await response.read(), type=dict[str, Any])
        except _UNREACHABLE as error:
            raise _unreachable(self._name, error) from None
        except msgspec.DecodeError:
            raise ClientError(f"{self._name}{path}: the answer is not a JSON object") from None

    async def _refused(self, response: aiohttp.ClientResponse) -> "_RefusedError":
        text = (await response.content.read(2000)).decode("utf-8", "replace").strip()
        if response.content_type == "application/problem+json":
            text = _detail(text)
        where = f"{self._where(response)}: {response.status} {response.reason}"
        return _RefusedError(where, text, status=response.status, retry_after=_retry_after(response))

    def _where(self, response: aiohttp.ClientResponse) -> str:
        return str(response.url) if self._socket is None else f"{self._name}{response.url.relative()}"


class _Busy(Exception):  # noqa: N818 - not an error of the client's caller
    """The server is full or draining; `retry_after` is in milliseconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__()
        self.retry_after = retry_after * 1000


class _RefusedError(ClientError):
    """A refusal, and what the server itself said of it; `retry_after` is in seconds."""

    def __init__(self, where: str, detail: str, *, status: int, retry_after: int | None) -> None:
        super().__init__(_one_line(f"{where}: {detail}" if detail else where), status=status)
        self.retry_after = retry_after
        self._where = where
        self._detail = detail

    def split(self, batch: list[_Line]) -> "tuple[list[list[_Line]], ClientError | None]":
        """Give what of a batch that was refused may yet be published, and the error after that, if any."""
        number, detail = self._numbered(len(batch))
        if number:
            faulty = _one_line(f"{self._where}: line {batch[number - 1].number}: {detail}")
            return [batch[: number - 1]] if number > 1 else [], ClientError(faulty, status=self.status)
        if self.status == 413:
            # By a server that takes less than others. Which line is too long, one alone will say.
            middle = len(batch) // 2
            return [batch[:middle], batch[middle:]], None
        if self.status in UNSURE:
            return [], ClientError(f"{self}, with {_span(batch)} under way", status=self.status)
        return [], self

    def _numbered(self, count: int) -> tuple[int, str]:
        """Give which line of so many it is about, from 1, and what is wrong with it; 0 for none of them."""
        said = _NUMBERED.match(self._detail)
        if said is not None and 1 <= int(said[1]) <= count:
            return int(said[1]), self._detail[said.end() :]
        return int(self.status == 413 and count == 1), self._detail


def _address(path: str, channels: Sequence[str], query: Sequence[tuple[str, str]] = ()) -> str:
    if isinstance(channels, str):
        raise TypeError(f"channels must be a sequence of names, not the string {channels!r}")
    if not all(map(_IN_A_PATH.fullmatch, channels)):
        query = [*(("channel", name) for name in channels), *query]
    elif channels:
        path = f"{path}/{','.join(channels)}"
    # A surrogate becomes bytes that are not UTF-8, which the server refuses as any others.
    return f"{path}?{urlencode(query, errors='surrogatepass')}" if query else path


def _batches(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Put lines together, as many as go into a request; leave out the blank ones."""
    batch: list[_Line] = []
    size = 0
    for each in lines:
        if not each.text.strip():
            continue
        if batch and (len(batch) == BATCH or size + len(each.text) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += len(each.text) + 1
    if batch:
        yield batch


def _span(batch: list[_Line]) -> str:
    first, last = batch[0].number, batch[-1].number
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _retry_after(response: aiohttp.ClientResponse) -> int | None:
    said = response.headers.get("Retry-After", "")
    return int(said) if said.isascii() and said.isdigit() else None


def _detail(text: str) -> str:
    try:
        problem = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return text
    return str(problem.get("detail", text))


def _unreachable(url: str, error: BaseException) -> ClientError:
    return ClientError(_one_line(f"cannot reach {url}: {_reason(error)}"))


def _reason(error: BaseException) -> str:
    """Give why there was no answer, in few words: aiohttp's own have the address once more."""
    for kinds, reason in _REASONS:
        if isinstance(error, kinds):
            return reason
    match error:
        case aiohttp.ClientConnectorCertificateError(
            certificate_error=ssl.SSLCertVerificationError() as fault
        ):
            return f"certificate verify failed: {fault.verify_message}"
        case aiohttp.ClientConnectorError(os_error=OSError() as fault):
            return _reason(fault)
        case ssl.SSLError(reason=str(fault)):
            return f"no agreement on TLS: {fault.lower().replace('_', ' ')}"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
    return str(error)


def _one_line(text: str) -> str:
    """Give foreign text as one line that does nothing to a terminal."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
