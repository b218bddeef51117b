"""Client: publish to a server, follow a stream across reconnections, ask for the status."""

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
"""Seconds."""

ANSWER = 60.0
"""Seconds that an answer may take to begin, and seconds without a byte of one that is no stream."""

STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
"""Silence is watched per stream, since each server says how long it may last."""

ALIVE = 2.5
"""Seconds in which a server that lives says so: fewer than a container's health check may take."""

KEPT = 4.0
"""Seconds for which an idle connection is used again.

Less than the five after which Node and uvicorn close one: a publish that crosses that close is lost, or
is not, and nobody can say which.
"""

BATCH = 500
"""Events of one request at most: half of what a server takes, unless it is told otherwise."""

BATCH_BYTES = 1 << 20
"""Bytes of one request at most, unless a single event has more."""

PROBLEM = "application/problem+json"

REFUSAL = 2000
"""Bytes of a refusal that are read."""

MAYBE_PUBLISHED = "may have been published"
"""What the server says in a 503 when its store has not answered whether it has the events."""

OnRetry = Callable[[ClientError], object]
"""Called with a failure after which another attempt is made."""

_sleep = asyncio.sleep
"""Waits between attempts; tests replace it."""

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, UnicodeError)
"""What a request fails with before there is a connection to send it on."""

_HOPELESS = (aiohttp.InvalidURL, UnicodeError, aiohttp.ClientSSLError)
"""What a publisher need not try again: a bad address, a bad certificate, a port without TLS."""

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

_IN_A_PATH = re.compile(rf"{NO_FOLDER}[{PATTERN_CHARACTERS}]+")
"""Channels that a path can name; the others go into the query, where the server says what is wrong."""

_USER = re.compile(r"(?<=://)[^/?#]*@")
"""The user and password of a URL."""

_NUMBERED = re.compile(r"line ([0-9]{1,9}): ")
"""How the server begins to tell of one line of several."""


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of a stream as it arrived, and the events it completed.

    `last_event_id` is where the stream was with its last event, "" before it has said so: what to
    subscribe with to go on from there. The opening and a heartbeat may move it without an event.
    """

    raw: bytes
    events: list[Event]
    last_event_id: str = ""


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What one request published: how many events, to how many readers, and the id of the last."""

    count: int
    clients: int
    id: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, and its number in all that is published."""

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
    """Return an event as a line for `publish_lines`. Raises `ClientError` for what has no UTF-8 form."""
    said = {"message": message, "event": event, "id": id, "key": key, "retry": retry}
    try:
        return msgspec.json.encode({name: value for name, value in said.items() if value is not None})
    except UnicodeEncodeError as error:
        raise ClientError(
            f"cannot publish a lone surrogate, {error.object[error.start]!a}, at character {error.start}"
        ) from None


class Client:
    """Talks to one server. An async context manager; its errors are `ClientError`.

    `url` is that of the server, or `unix:` and the path of its socket. `token` says who asks; it is sent to
    this server alone, and to no other that a redirect names.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, tls: ssl.SSLContext | None = None, token: str | None = None
    ) -> None:
        self._name = _USER.sub("", url.rstrip("/"), count=1)
        self._socket = unix_path(url)
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
            raise ClientError(f"{self._name}: a user in the URL and a token: set only one of them")
        # aiohttp takes it out of what it sends to another origin.
        return {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            headers=self._headers,
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

    async def publish(  # noqa: PLR0913 - a field of the event each
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
        """Publish one message to the channels, or to `default`, and return the server's answer.

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
        """Publish the event of a JSON object, or all or none of an array's; return the server's answer.

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
        """Publish events in their order, each a line of JSON without its end, and yield what was published.

        Lines that come together are sent together, up to `BATCH` and `BATCH_BYTES`; the next are asked for
        when these are published. Blank lines are no events, but they are numbered.

        A request that certainly published nothing is sent again for `retry_for` seconds: the server could
        not be reached, or said so in a 408, 425, 429 or a 503 of its own. `on_retry` is called once for
        each outage. A 429 with `Retry-After` is waited out whatever `retry_for` says.

        Raises `ClientError` for the first line that is refused, naming its number: all lines before it are
        published, and none after it. Where nobody can say whether a request was carried out, the error
        names its lines.
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
        """Ask whether the server is alive. Raises `ClientError` if it does not say so within `ALIVE`."""
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
        """Return a page of the readers that are connected by HTTP, or those that come first by `sort`.

        That is `lag`, `queue`, `age`, `events` or `drops`. `after` is the `next` of a page.
        """
        said = {"sort": sort, "channel": channel, "limit": limit, "after": after}
        query = [(name, str(value)) for name, value in said.items() if value is not None]
        answer = await self._ask("GET", _address("/subscribers", (), query))
        if not isinstance(answer.get("subscribers"), list):
            raise ClientError(f"{self._name}/subscribers: does not answer as this server does", status=200)
        return answer

    async def disconnect(self, id: str) -> dict[str, Any]:
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

    async def subscribe(  # noqa: PLR0913 - a choice of the subscriber each
        self,
        channels: Sequence[str] = (),
        *,
        since: str | None = None,
        last_event_id: str = "",
        events: Sequence[str] = (),
        format: str = "text",
        on_retry: OnRetry | None = None,
    ) -> AsyncIterator[StreamChunk]:
        """Follow channels and patterns, or `default`: reconnect whenever the stream ends or breaks.

        It begins after `last_event_id` or, without one, where `since` says (an id, `earliest`, `last`
        or an age), and resumes after the last id that came. `events` are the only types wanted. With the
        format `json` an event's data says where it came from, as `{"channel","id","event","data","time"}`.

        The wait is the server's `retry`, at least `backoff.FLOOR`. It grows with each connection in a row
        that brought neither an event nor `$open`; `on_retry` is called with each that failed. A 204 ends
        the iteration. Raises `ClientError` for an answer that no reconnection mends (`is_transient` has the
        rule; another content type), and when the very first attempt finds no server. A first answer that
        passes, such as a proxy's 502, is waited for.
        """
        query = [("event", name) for name in events]
        if format != "text":
            query.append(("format", format))
        reconnections = Reconnections(last_event_id)
        while True:
            connection = reconnections.begin()
            # An id says more than where all began, which a stream may not have said yet.
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
        """Publish a batch, or that part of it which comes before a line that is refused."""
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
        """Publish, and send again what certainly published nothing.

        What is unsure is not sent again, and no `Idempotency-Key` would make that safe: the server keeps
        keys in memory, so one that was restarted meanwhile, the likeliest reason for a lost answer, takes
        the key for a new one and publishes twice. The epoch in the ids tells a restart, but only in the
        answer, when it has happened. Nor is a key free: a busy pipe's keys would push those of other
        publishers out of the server's memory.
        """
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
    """The server answered 204: there is nothing to come back for (WHATWG HTML 9.2.2)."""


class _RefusedError(AttemptError):
    """An answer other than 200, with what the server said in it. `ours` is a problem document (RFC 9457)."""

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
        """Return the parts of a refused batch that may yet be published, and the error after them, if any."""
        number, detail = self._numbered(len(batch))
        if number:
            faulty = _one_line(f"{self._where}: line {batch[number - 1].number}: {detail}")
            return [batch[: number - 1]] if number > 1 else [], ClientError(faulty, status=self.status)
        if self.status == 413:
            # By a server that takes less than others. Which line is too long, one alone will say.
            middle = len(batch) // 2
            return [batch[:middle], batch[middle:]], None
        return [], _located(self, batch)

    def _numbered(self, count: int) -> tuple[int, str]:
        """Return which line of so many it is about, from 1, and what is wrong with it; 0 for none of them."""
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


def _located(error: AttemptError, batch: list[_Line]) -> ClientError:
    """Return the error with the lines of a batch that may have been published, or were not."""
    if error.unsure:
        return ClientError(f"{error}, with {_span(batch)} under way", status=error.status)
    if error.transient:
        first = batch[0].number
        return ClientError(f"{error}; line {first} and all after it were not published", status=error.status)
    return error


def _is_unsure(status: int, problem: str) -> bool:
    """Return whether a server that answered so may have published all the same.

    A 503 is sure only in the server's own words: a proxy (Envoy, Varnish) says it too when the
    connection breaks on which it had passed the request on.
    """
    if status == 503 and problem:
        return MAYBE_PUBLISHED in problem
    return status < 300 or (status >= 500 and is_transient(status))


async def _within(seconds: float, doing: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await doing


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Return the first `REFUSAL` bytes of an answer; its status counts, even if they do not come."""
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
    """Return why there was no answer, in few words: aiohttp's own have the address once more."""
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
    # Without a number it is "Can not write request body for", and the address.
    return "it closed the connection" if isinstance(error, aiohttp.ClientOSError) else str(error)


def _one_line(text: str) -> str:
    """Return foreign text as one line that does nothing to a terminal."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
