"""POST /send: publish one event, or a batch of them.

The handler checks in this order: the credential (before it is called), permission to publish to any channel,
the number of channels in the URL, permission for each of them, and then the other parameters. Then it reads
the body. It checks the number of events, the channels of each, permission for them, and last each event.
"""

import asyncio
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from multidict import istr

from sse_broadcast.auth.principal import Action
from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.event import DEFAULT_TYPE, MAX_RETRY, Event
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.server.access.authorization import PRINCIPAL, require_any_channel, require_permission
from sse_broadcast.server.access.rate_limits import share_name
from sse_broadcast.server.access.shares import UNCOUNTED
from sse_broadcast.server.endpoints import request_body
from sse_broadcast.server.endpoints.body_share import BodyShare
from sse_broadcast.server.endpoints.publish_request import EVENT_MEMBERS, DraftBuilder
from sse_broadcast.server.endpoints.publish_stream import LINES_PER_PUBLISH, LineStream
from sse_broadcast.server.endpoints.request_body import BodyType
from sse_broadcast.server.http import query
from sse_broadcast.server.http.json_body import ESCAPED
from sse_broadcast.server.http.log import tell_published
from sse_broadcast.server.http.problem import Problem, given_several_times
from sse_broadcast.server.http.request_head import channels_of_path
from sse_broadcast.server.http.responses import Sent, SentBatch, answered
from sse_broadcast.server.process.body_decoder import DECODER, LARGE
from sse_broadcast.server.services import (
    ACTIVE_SERVICES,
    BATCH_LOCK,
    BROADCASTER,
    Services,
    caller_of,
    confirm,
)
from sse_broadcast.wire import JSON_TYPE, NDJSON_TYPE

OF_TEXT = ("event", "id", "key", "retry")
"""Query parameters that describe the event of a text body."""

PUBLISH_PARAMETERS = (*OF_TEXT, "channel", "stream")

FORM = "application/x-www-form-urlencoded"

LONGEST_SHOWN = 65_536
"""Maximum bytes of a message, as JSON, that the response repeats. Spring's WebClient raises for a response
over 256 KiB, although the event has been published."""

MOST_FIELDS = 32
"""Maximum number of form fields that are parsed."""

FIELDS = frozenset({*EVENT_MEMBERS, "private", "topic", "topics", "type"})
"""Field names of a form that describes an event: this server's members, and Mercure's."""

MAX_IDEMPOTENCY_KEY = 255
"""Maximum characters of an idempotency key."""

IDEMPOTENCY_KEY = istr("Idempotency-Key")

_ARRAY = re.compile(rb"\s*\[")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The events of a body, checked except for the rate limit. `data` is the body as UTF-8."""

    data: bytes
    drafts: list[Draft]
    idempotency_key: IdempotencyKey | None


PrepareBody = Callable[[bytes], Prepared]
"""A function that parses and checks a body. Raises `Problem` or a `BroadcastError`."""


class Publishing:
    """The handler of an application's /send. It looks up its services once."""

    def __init__(self, app: web.Application) -> None:
        self._broadcaster = app[BROADCASTER]
        self._active = app[ACTIVE_SERVICES]
        self._decoder = app[DECODER]
        self._batch_lock = app[BATCH_LOCK]

    async def post(self, request: web.Request) -> web.Response:
        """Publish the body, and return the number of subscribers and the id."""
        require_any_channel(request, Action.PUBLISH)
        services = self._active.services
        config = services.config
        named = channels_of_path(request, self._broadcaster.check_channel_count)
        if request.query_string:
            named += request.query.getall("channel", [])
        permit = functools.partial(require_permission, request, Action.PUBLISH)
        builder = DraftBuilder(self._broadcaster, named, most=config.max_batch, permit=permit)
        declared = request_body.body_type(request)
        kind = declared.name
        if kind.startswith("multipart/"):
            raise _multipart(kind)
        if request.query_string:
            query.refuse_unknown(request.query, PUBLISH_PARAMETERS)
            _require_text_for_its_parameters(request, kind)
            if _is_stream(request):
                return await self._line_stream(request, services, builder, declared).run()
        prepare = functools.partial(_prepare, request, builder, declared)
        most = services.largest_body if kind in {JSON_TYPE, NDJSON_TYPE} else services.largest_event
        length = request.content_length
        if length is not None and length <= UNCOUNTED:
            # The usual case: such a body counts for no share, and needs no `BodyShare`.
            data = await request_body.read_whole(request, most=most, timeout=config.body_timeout)
            return await self._publish_body(request, services, kind, prepare, data)
        with BodyShare(request) as held:
            data = await request_body.read_whole(
                request, most=most, timeout=config.body_timeout, on_size=held.resize
            )
            return await self._publish_body(request, services, kind, prepare, data)

    async def _publish_body(
        self, request: web.Request, services: Services, kind: str, prepare: PrepareBody, data: bytes
    ) -> web.Response:
        if len(data) > LARGE:
            prepare = await self._prepared_in_thread(request, services, prepare, data)
        if kind == NDJSON_TYPE or (kind == JSON_TYPE and _ARRAY.match(data)):
            return await self._publish_batch(request, services, prepare, data)
        # No `await` yields between here and the end of the publish. A client that disconnects cancels this
        # handler, and must not split a publish. A batch does the same after it has the lock.
        prepared = prepare(data)
        receipt = await self._publish(request, services, prepared)
        return _answer(receipt, prepared.drafts[0].event)

    async def _prepared_in_thread(
        self, request: web.Request, services: Services, prepare: PrepareBody, data: bytes
    ) -> PrepareBody:
        """Prepare a large body in the decoder's thread, and return a function that returns the result."""
        # A caller over its rate limit must not occupy the thread.
        services.rate_limiter.require_some(
            address=services.proxies.limit_key(request), principal=request[PRINCIPAL]
        )
        prepared = await self._decoder.run(functools.partial(prepare, data), size=len(data))
        return lambda _: prepared

    async def _publish_batch(
        self, request: web.Request, services: Services, prepare: PrepareBody, data: bytes
    ) -> web.Response:
        principal = request[PRINCIPAL]
        if principal.subject is not None and principal.allows(Action.ADMIN):
            return _answer_batch(await self._publish(request, services, prepare(data)))
        # One batch per iteration of the event loop: a batch takes milliseconds, and subscribers must get its
        # events before the batches of other publishers are parsed. An operator waits for none of them.
        await self._batch_lock.acquire(caller_of(request))
        # In the next iteration, and not behind the commit: a store commits several batches together.
        asyncio.get_running_loop().call_soon(self._batch_lock.release)
        return _answer_batch(await self._publish(request, services, prepare(data)))

    async def _publish(self, request: web.Request, services: Services, prepared: Prepared) -> Receipt:
        """Publish prepared events, if the credential and the rate limit allow it. Raises `Problem`."""
        principal = request[PRINCIPAL]
        # Reading the body or waiting for the lock took time: the credential may have expired or been revoked.
        if principal.subject is not None:
            confirm(request)
        address = services.proxies.limit_key(request)
        services.rate_limiter.publish(len(prepared.drafts), address=address, principal=principal)
        receipt = await self._broadcaster.publish_all(
            prepared.drafts, prepared.idempotency_key, publisher=share_name(principal, address=address)
        )
        tell_published(receipt, principal, prepared.data)
        return receipt

    def _line_stream(
        self, request: web.Request, services: Services, builder: DraftBuilder, declared: BodyType
    ) -> LineStream:
        if IDEMPOTENCY_KEY in request.headers:
            raise Problem(400, "Idempotency-Key: cannot be used with stream=1", closes=True)
        if "id" in request.query:
            raise Problem(
                400, "id: cannot be used with stream=1: each line is an event of its own", closes=True
            )
        limits, principal = services.rate_limiter, request[PRINCIPAL]
        address = services.proxies.limit_key(request)
        line_stream = functools.partial(
            LineStream,
            request,
            pace=functools.partial(limits.publish_wait, address=address, principal=principal),
            portion=limits.batch_size(LINES_PER_PUBLISH),
            publisher=share_name(principal, address=address),
        )
        to_utf8 = declared.to_utf8
        if declared.name == NDJSON_TYPE:
            return line_stream(
                lambda line: builder.from_json(to_utf8(line)) if line.strip() else None,
                most=services.largest_event,
            )
        # Checks the query parameters now: otherwise a bad one would be refused at the first line.
        builder.from_event(_text_event(b"", request))
        return line_stream(
            lambda line: builder.from_event(_text_event(to_utf8(line), request)),
            most=services.config.max_event,
        )


def _prepare(request: web.Request, builder: DraftBuilder, declared: BodyType, data: bytes) -> Prepared:
    """Parse and check a body. Only reads the request, so it may run in a thread."""
    kind = declared.name
    data = declared.to_utf8(data)
    key = _idempotency_key(request, kind, data) if IDEMPOTENCY_KEY in request.headers else None
    if kind == NDJSON_TYPE:
        drafts = builder.from_ndjson(data)
    elif kind == JSON_TYPE:
        drafts = builder.from_array(data) if _ARRAY.match(data) else [builder.from_json(data)]
    else:
        if not data or kind == FORM:
            _require_message(data, request, kind)
        drafts = [builder.from_event(_text_event(data, request))]
    return Prepared(data, drafts, key)


def _answer(receipt: Receipt, event: Event) -> web.Response:
    channels, message = receipt.channels, event.data
    # JSON takes at most six bytes for a character, so most messages need not be encoded to be measured.
    shown = len(message) * ESCAPED <= LONGEST_SHOWN or _is_short(message)
    return answered(
        Sent(
            status="sent",
            clients=receipt.clients,
            message=message if shown else msgspec.UNSET,
            id=receipt.id,
            channel=channels[0],
            channels=channels,
        )
    )


def _is_short(message: str) -> bool:
    """Return whether a message is at most `LONGEST_SHOWN` bytes as JSON."""
    return len(message) <= LONGEST_SHOWN and len(msgspec.json.encode(message)) <= LONGEST_SHOWN


def _answer_batch(receipt: Receipt) -> web.Response:
    return answered(SentBatch("sent", receipt.count, receipt.clients, receipt.id))


def _require_text_for_its_parameters(request: web.Request, kind: str) -> None:
    if kind != NDJSON_TYPE and (kind != JSON_TYPE or _is_stream(request)):
        return
    for name in OF_TEXT:
        if name in request.query:
            raise Problem(400, f"{name}: must be in the body, not in the query, for {kind}")


def _multipart(kind: str) -> Problem:
    detail = f"Content-Type: {kind[:80]!a} is a form, not an event; send JSON, or the message as the body"
    return Problem(415, detail, closes=True)


def _require_message(data: bytes, request: web.Request, kind: str) -> None:
    """Raise `Problem` for a text body that is most likely a mistake: empty, or a form."""
    if not data and not any(name in request.query for name in OF_TEXT):
        raise Problem(422, "body: is empty; send the message, or ?event=TYPE for an event without one")
    if kind == FORM and _is_form(data):
        raise Problem(
            422,
            "body: is a form whose fields are the members of an event; send them as JSON, with"
            " Content-Type: application/json",
        )


def _is_form(data: bytes) -> bool:
    """Return whether a urlencoded body is a form whose fields are all members of an event."""
    # curl -d declares this type for any text, so only a certain form is refused.
    if b"message=" not in data and b"data=" not in data:
        return False
    try:
        fields = parse_qsl(
            data.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=MOST_FIELDS
        )
    except ValueError:
        return False
    names = {name for name, _ in fields}
    return names <= FIELDS and not names.isdisjoint({"message", "data"})


def _text_event(data: bytes, request: web.Request) -> Event:
    """Return the event of a text body and its query parameters. Raises `Problem`."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, f"body: is not UTF-8 at byte {error.start}") from None
    if not request.query_string:
        return Event(text)
    parameters = request.query
    event_type = query.only(parameters, "event")
    return Event(
        text,
        DEFAULT_TYPE if event_type is None else event_type,
        id=query.only(parameters, "id"),
        retry=_retry(query.only(parameters, "retry")),
        key=query.only(parameters, "key"),
    )


def _retry(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Problem(400, f"retry: must be a number of milliseconds, not {text[:80]!a}")
    # Cut: int() of a very long text raises. Any number above the limit is refused later, with the range.
    return min(int(text[:20]), MAX_RETRY + 1)


def _is_stream(request: web.Request) -> bool:
    match query.only(request.query, "stream"):
        case None | "0":
            return False
        case "1":
            return True
        case other:
            raise Problem(400, f"stream: must be 1, not {other[:80]!a}")


def _idempotency_key(request: web.Request, kind: str, data: bytes) -> IdempotencyKey:
    keys = request.headers.getall(IDEMPOTENCY_KEY)
    if len(keys) > 1:
        raise given_several_times(IDEMPOTENCY_KEY, len(keys))
    (key,) = keys
    if not (1 <= len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise Problem(
            400, f"Idempotency-Key: must be 1 to {MAX_IDEMPOTENCY_KEY} visible characters: {key[:80]!a}"
        )
    content = hashlib.sha256(f"{kind}\0{request.query_string}\0".encode())
    content.update(data)
    principal = request[PRINCIPAL]
    return IdempotencyKey((*principal.bearer, request.path, key), content.digest())
