"""Client: publish to a server, subscribe with reconnections, query the status."""

import asyncio
import contextlib
import functools
import os
import re
import ssl
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec

from sse_broadcast import wire
from sse_broadcast.auth.bearer_token import is_token
from sse_broadcast.backoff import AttemptError, RetryBudget, is_transient, parse_retry_after
from sse_broadcast.channels import NO_FOLDER, PATTERN_CHARACTERS
from sse_broadcast.errors import ClientError
from sse_broadcast.event import Event
from sse_broadcast.reconnection import ConnectionAttempt, Reconnections
from sse_broadcast.unix_address import unix_path
from sse_broadcast.wire import JSON_TYPE, NDJSON_TYPE

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"

CONNECT_TIMEOUT = 10.0
"""Maximum seconds to connect."""

ANSWER = 60.0
"""Maximum seconds until an answer starts, and between two bytes of an answer that is not a stream."""

STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
"""aiohttp's time limits of a stream. Silence is limited per stream, since each server names its heartbeat."""

ALIVE = 2.5
"""Maximum seconds for the answer of a health check: less than a container's health check may take."""

# Node and uvicorn close an idle connection after 5 seconds. A publish that crosses such a close may or may
# not be carried out, and the client cannot tell.
KEPT = 4.0
"""Seconds for which an idle connection is used again."""

BATCH = 500
"""Maximum events of one request: half of a server's default limit."""

BATCH_BYTES = 1 << 20
"""Maximum bytes of one request, unless a single event is larger."""

PROBLEM = "application/problem+json"

REFUSAL = 2000
"""Maximum bytes of a refusal to read."""

MAYBE_PUBLISHED = "may have been published"
"""The server's words in a 503 when its store did not confirm the events."""

OnRetry = Callable[[ClientError], object]
"""A function called with a failure that another attempt follows."""

_sleep = asyncio.sleep
"""The wait between attempts. Tests replace it."""

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, UnicodeError)
"""Errors of a request before it is sent."""

_HOPELESS = (aiohttp.InvalidURL, UnicodeError, aiohttp.ClientSSLError)
"""Errors that another attempt cannot help: a bad address, a bad certificate, a port without TLS."""

_UNREACHABLE = (aiohttp.ClientError, TimeoutError, UnicodeError)
"""Errors of a request. UnicodeError: a host name that cannot be encoded for DNS."""

_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (TimeoutError, "timed out"),
    (ConnectionRefusedError, "refused"),
    ((aiohttp.ClientConnectorDNSError, UnicodeError), "no such host"),
    (aiohttp.InvalidURL, "no such address"),
    ((aiohttp.ServerDisconnectedError, ConnectionError), "it closed the connection"),
    (aiohttp.ClientPayloadError, "it broke off its answer"),
    (aiohttp.ClientResponseError, "it does not speak HTTP"),
)
"""Words for errors. The first kind that matches counts."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that an id may contain and a header may not."""

_IN_A_PATH = re.compile(rf"{NO_FOLDER}[{PATTERN_CHARACTERS}]+")
"""Channels that fit into a path. Others go into the query, so that the server can explain what is wrong."""

_USER = re.compile(r"(?<=://)[^/?#]*@")
"""The user and password of a URL."""

_NUMBERED = re.compile(r"line ([0-9]{1,9}): ")
"""The start of the server's message about one line of several."""


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of a stream as it arrived, and the events that it completed.

    `last_event_id` is the id to resume after, "" until the server sends one. The opening event and a
    heartbeat may change it without an event of a publisher.
    """

    raw: bytes
    events: list[Event]
    last_event_id: str = ""


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The result of one request: the number of events, the number of subscribers, and the last id."""

    count: int
    clients: int
    id: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, and its number among all published lines."""

    number: int
    text: bytes


def encode_line(
    message: str,
    *,
    event: str | None = None,
    id: str | None = None,
    key: str | None = None,
    retry: int | None = None,
) -> bytes:
    """Return an event as a line for `publish_lines`. Raises `ClientError` for a lone surrogate."""
    said = {"message": message, "event": event, "id": id, "key": key, "retry": retry}
    try:
        return msgspec.json.encode({name: value for name, value in said.items() if value is not None})
    except UnicodeEncodeError as error:
        raise ClientError(
            f"cannot publish a lone surrogate, {error.object[error.start]!a}, at character {error.start}"
        ) from None


class Client:
    """A client of one server, as an async context manager. Its errors are `ClientError`.

    `url` is the server's, or `unix:` and the path of its socket. `token` is sent to this server only, never
    to another one that a redirect names.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
    ) -> None:
        self._name = _USER.sub("", url.rstrip("/"), count=1)
        self._socket = unix_path(url)
        self._url = url.rstrip("/") if self._socket is None else "http://localhost"
        self._headers = {"User-Agent": "sse-broadcast", **self._authorization(token), **(headers or {})}
        self._proxy = proxy
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The URL of the server, without user and password."""
        return self._name

    def _authorization(self, token: str | None) -> dict[str, str]:
        if token is None:
            return {}
        if not is_token(token):
            raise ClientError("token: has characters that a token cannot have (RFC 6750)")
        if _USER.search(self._url):
            raise ClientError(f"{self._name}: a user in the URL and a token: set only one of them")
        # aiohttp removes this header when a redirect leads to another origin.
        return {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            headers=self._headers,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=ANSWER),
        )
        return self

    def _connector(self) -> aiohttp.BaseConnector:
        if self._socket is not None:
            return aiohttp.UnixConnector(self._socket, keepalive_timeout=KEPT)
        return aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True, keepalive_timeout=KEPT)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def publish(  # noqa: PLR0913 - one parameter per field of the event
        self,
        message: str,
        *,
        event: str | None = None,
        channels: Sequence[str] = (),
        id: str | None = None,
        key: str | None = None,
        retry: int | None = None,
        retry_for: float = 0.0,
        on_retry: OnRetry | None = None,
    ) -> dict[str, Any]:
        """Publish one message to the channels, or to `default`. Return the server's answer.

        `retry_for` and `on_retry` are those of `publish_lines`.
        """
        body = encode_line(message, event=event, id=id, key=key, retry=retry)
        return await self.publish_json(body, channels=channels, retry_for=retry_for, on_retry=on_retry)

    async def publish_json(
        self,
        body: bytes,
        *,
        channels: Sequence[str] = (),
        retry_for: float = 0.0,
        on_retry: OnRetry | None = None,
    ) -> dict[str, Any]:
        """Publish a JSON object as an event, or an array of them, all or none. Return the server's answer.

        `retry_for` and `on_retry` are those of `publish_lines`.
        """
        budget = RetryBudget(retry_for, paced=False, on_retry=on_retry)
        return await self._send_again(_address("/send", channels), JSON_TYPE, body, budget)

    async def publish_lines(
        self,
        lines: AsyncIterable[Sequence[bytes]],
        *,
        channels: Sequence[str] = (),
        retry_for: float = 0.0,
        on_retry: OnRetry | None = None,
    ) -> AsyncIterator[PublishResult]:
        """Publish events in order, each a line of JSON without line end, and yield the results.

        Lines that arrive together are sent together, up to `BATCH` and `BATCH_BYTES`. The next lines are
        taken when these are published. Blank lines are not events, but count for the numbers.

        A request that certainly published nothing is sent again for `retry_for` seconds: the server could not
        be reached, or it answered 408, 425, 429 or a 503 of its own. `on_retry` is called once per outage. A
        429 with `Retry-After` is waited out even if `retry_for` is shorter.

        Raises `ClientError` for the first line that the server refuses, with its number: all lines before it
        are published, and none after it. If it is unknown whether a request was carried out, the error names
        its lines.
        """
        path = _address("/send", channels)
        budget = functools.partial(RetryBudget, retry_for, paced=True, on_retry=on_retry)
        before = 0
        async for some in lines:
            for batch in _batches(_Line(before + index, text) for index, text in enumerate(some, 1)):
                async for sent in self._publish_batch(path, batch, budget):
                    yield sent
            before += len(some)

    async def health(self) -> None:
        """Ask whether the server is alive. Raises `ClientError` if it does not confirm within `ALIVE`."""
        try:
            async with asyncio.timeout(ALIVE):
                await self._ask("GET", "/healthz")
        except TimeoutError as error:
            raise self._unreachable(error) from None

    async def status(self) -> dict[str, Any]:
        """Return the server's status."""
        return await self._ask("GET", "/status")

    async def subscribers(
        self,
        *,
        sort: str | None = None,
        channel: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of the subscribers connected by HTTP, or those with the highest `sort`.

        `sort` is `lag`, `queue`, `age`, `events` or `drops`. `after` is the `next` of the page before.
        """
        said = {"sort": sort, "channel": channel, "limit": limit, "after": after}
        query = [(name, str(value)) for name, value in said.items() if value is not None]
        answer = await self._ask("GET", _address("/subscribers", (), query))
        if not isinstance(answer.get("subscribers"), list):
            raise ClientError(f"{self._name}/subscribers: does not answer as this server does", status=200)
        return answer

    async def disconnect(self, id: str) -> dict[str, Any]:
        """Close the stream of a subscriber, which may reconnect. Raises `ClientError` for an unknown id."""
        if not (id.isascii() and id.isdigit()):
            raise ClientError(f"id: must be digits, not {id[:80]!a}")
        return await self._ask("DELETE", f"/subscribers/{id}")

    async def reload(self) -> dict[str, Any]:
        """Make the server reload its configuration. Return the names of changed settings.

        Raises `ClientError` for a configuration that cannot be used: the server then keeps the one it has.
        """
        answer = await self._ask("POST", "/reload")
        if not isinstance(answer.get("changed"), list) or not isinstance(answer.get("restart"), list):
            raise ClientError(f"{self._name}/reload: does not answer as this server does", status=200)
        return answer

    async def subscribe(  # noqa: PLR0913 - one parameter per choice of the subscriber
        self,
        channels: Sequence[str] = (),
        *,
        since: str | None = None,
        last_event_id: str = "",
        events: Sequence[str] = (),
        format: str = "text",
        on_retry: OnRetry | None = None,
    ) -> AsyncIterator[StreamChunk]:
        """Subscribe to channels and patterns, or to `default`. Reconnect when the stream ends or breaks.

        It starts after `last_event_id` or, without one, at `since` (an id, `earliest`, `last` or an age), and
        resumes after the last id received. `events` are the only types wanted. With the format `json`, the
        data of an event is `{"channel","id","event","data","time"}`.

        The wait before a reconnection is the server's `retry`, at least `backoff.FLOOR`. It grows with each
        connection in a row that received neither an event nor `$open`; `on_retry` is called with each that
        failed. A 204 ends the iteration.

        Raises `ClientError` for an answer that no reconnection can change (see `is_transient`; another
        content type), and if the first attempt cannot reach the server. A temporary first answer, such as a
        proxy's 502, is tried again.
        """
        query = [("event", name) for name in events]
        if format != "text":
            query.append(("format", format))
        reconnections = Reconnections(last_event_id)
        while True:
            connection = reconnections.begin()
            # `since` counts until the first id arrives: then the id is the better place to resume at.
            begin = [] if connection.last_event_id or not since else [("since", since)]
            stream = self._stream(_address("/events", channels, query + begin), connection)
            retry_after: float | None = None
            try:
                async with contextlib.aclosing(stream):
                    async for data in stream:
                        yield StreamChunk(data, connection.feed(data), connection.last_event_id)
            except _NoContent:
                return
            except AttemptError as error:
                reconnections.fail(connection, error)
                retry_after = error.retry_after
                if on_retry is not None and not connection.worked:
                    on_retry(error)
            await _sleep(reconnections.wait_after(connection, retry_after=retry_after))

    async def _stream(self, path: str, connection: ConnectionAttempt) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one connection. Raises `AttemptError`, and `_NoContent` for a 204."""
        assert self._session is not None
        headers = {"Accept": wire.CONTENT_TYPE, "Cache-Control": "no-store"}
        if connection.last_event_id:
            headers["Last-Event-ID"] = self._header_of(connection.last_event_id)
        request = self._session.get(self._url + path, headers=headers, timeout=STREAM_TIMEOUT)
        try:
            async with await _within(ANSWER, request) as response:
                await self._require_stream(response)
                connection.open()
                while data := await _within(connection.silence, response.content.readany()):
                    yield data
        except _UNREACHABLE as error:
            raise self._unreachable(error) from None

    def _header_of(self, last_event_id: str) -> str:
        if _CONTROL.search(last_event_id):
            raise ClientError(f"{self._name}: the id {last_event_id[:80]!r} cannot be sent back")
        return last_event_id

    async def _require_stream(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 204:
            raise _NoContent
        if response.status != 200:
            raise await self._refused(response)
        if response.content_type != wire.CONTENT_TYPE:
            where = self._where(response)
            raise ClientError(f"{where}: is {response.content_type}, not {wire.CONTENT_TYPE}", status=200)

    async def _publish_batch(
        self, path: str, batch: list[_Line], budget: Callable[[], RetryBudget]
    ) -> AsyncIterator[PublishResult]:
        """Publish a batch, or the part before a refused line."""
        try:
            body = b"\n".join(each.text for each in batch)
            answer = await self._send_again(path, NDJSON_TYPE, body, budget())
        except _RefusedError as refusal:
            parts, error = refusal.split(batch)
        except AttemptError as broken:
            parts, error = [], _located(broken, batch)
        else:
            yield PublishResult(answer.get("count", len(batch)), answer["clients"], answer.get("id", ""))
            return
        for part in parts:
            async for sent in self._publish_batch(path, part, budget):
                yield sent
        if error is not None:
            raise error

    async def _send_again(
        self, path: str, content_type: str, body: bytes, budget: RetryBudget
    ) -> dict[str, Any]:
        """Send a request, and send it again after failures that certainly published nothing."""
        # No Idempotency-Key would make it safe to repeat an unsure request. The server keeps keys in
        # memory: after a restart, the likeliest reason for a lost answer, it would publish twice. And a
        # busy pipe's keys would push those of other publishers out of its memory.
        while True:
            try:
                return await self._send(path, content_type, body)
            except AttemptError as error:
                await _sleep(budget.wait_after(error))

    async def _send(self, path: str, content_type: str, body: bytes) -> dict[str, Any]:
        answer = await self._ask("POST", path, body, {"Content-Type": content_type})
        if "clients" not in answer:
            raise self._foreign(path, "does not answer as this server does", status=200)
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
            raise self._unreachable(error) from None
        except msgspec.DecodeError:
            raise self._foreign(path, "the answer is not a JSON object") from None

    def _foreign(self, path: str, what: str, *, status: int | None = None) -> AttemptError:
        message = f"{self._name}{path}: {what}"
        return AttemptError(message, status=status, transient=False, unsure=True)

    def _unreachable(self, error: BaseException) -> AttemptError:
        return AttemptError(
            _one_line(f"cannot reach {self._name}: {_reason(error)}"),
            transient=not isinstance(error, _HOPELESS),
            unsure=not isinstance(error, _NOT_SENT),
        )

    async def _refused(self, response: aiohttp.ClientResponse) -> "_RefusedError":
        ours = response.content_type == PROBLEM
        text = await _beginning(response)
        where = f"{self._where(response)}: {response.status} {response.reason or ''}".rstrip()
        return _RefusedError(
            where,
            _detail(text) if ours else text,
            status=response.status,
            retry_after=parse_retry_after(response.headers.get("Retry-After", "")),
            ours=ours,
        )

    def _where(self, response: aiohttp.ClientResponse) -> str:
        return str(response.url) if self._socket is None else f"{self._name}{response.url.relative()}"


class _NoContent(Exception):  # noqa: N818 - not an error: the subscription is complete
    """The server answered 204: no more events will come (WHATWG HTML 9.2.2)."""


class _RefusedError(AttemptError):
    """An answer other than 200, with its text. `ours` marks a problem document (RFC 9457)."""

    def __init__(
        self, where: str, detail: str, *, status: int, retry_after: float | None, ours: bool
    ) -> None:
        super().__init__(
            _one_line(f"{where}: {detail}" if detail else where),
            status=status,
            transient=is_transient(status),
            unsure=_is_unsure(status, detail if ours else ""),
            retry_after=retry_after,
        )
        self._where = where
        self._detail = detail

    def split(self, batch: list[_Line]) -> "tuple[list[list[_Line]], ClientError | None]":
        """Return the parts of a refused batch to try again, and the error after them, if any."""
        number, detail = self._numbered(len(batch))
        if number:
            faulty = _one_line(f"{self._where}: line {batch[number - 1].number}: {detail}")
            return [batch[: number - 1]] if number > 1 else [], ClientError(faulty, status=self.status)
        if self.status == 413:
            # The server's limits are below its defaults. Halve the batch until a single line is refused.
            middle = len(batch) // 2
            return [batch[:middle], batch[middle:]], None
        return [], _located(self, batch)

    def _numbered(self, count: int) -> tuple[int, str]:
        """Return the number of the refused line among `count`, and the fault; 0 if no line is named."""
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
    # A surrogate becomes bytes that are not UTF-8, which the server refuses with an explanation.
    return f"{path}?{urlencode(query, errors='surrogatepass')}" if query else path


def _batches(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Group lines into requests, without blank lines."""
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


def _located(error: AttemptError, batch: list[_Line]) -> ClientError:
    """Return the error with the lines that were not, or may have been, published."""
    if error.unsure:
        return ClientError(f"{error}, with {_span(batch)} under way", status=error.status)
    if error.transient:
        first = batch[0].number
        return ClientError(f"{error}; line {first} and all after it were not published", status=error.status)
    return error


def _is_unsure(status: int, problem: str) -> bool:
    """Return whether a server that answered with this status may have published all the same."""
    # A 503 is certain only in the server's own words. A proxy (Envoy, Varnish) also sends it when the
    # connection breaks after it passed the request on.
    if status == 503 and problem:
        return MAYBE_PUBLISHED in problem
    return status < 300 or (status >= 500 and is_transient(status))


async def _within(seconds: float, doing: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await doing


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Return the first `REFUSAL` bytes of an answer, or fewer if they do not arrive."""
    data = b""
    with contextlib.suppress(*_UNREACHABLE):
        async with asyncio.timeout(CONNECT_TIMEOUT):
            while len(data) < REFUSAL and (piece := await response.content.readany()):
                data += piece
    return data[:REFUSAL].decode("utf-8", "replace").strip()


def _detail(text: str) -> str:
    try:
        problem = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return text
    return str(problem.get("detail", text))


def _reason(error: BaseException) -> str:
    """Return why there was no answer, in a few words."""
    # Not aiohttp's messages: they repeat the address.
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
    # Without an errno the message is "Can not write request body for" and the address.
    return "it closed the connection" if isinstance(error, aiohttp.ClientOSError) else str(error)


def _one_line(text: str) -> str:
    """Return untrusted text as one line without control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
