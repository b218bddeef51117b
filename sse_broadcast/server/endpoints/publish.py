"""POST /send: publish one event, or a batch of them.

The handler asks in this order: who is it (before it is called), may it publish at all, how many channels does
the address name, may it publish there, and only then what else the request says. A body is read then: how
many events it has, to which channels each goes, whether the caller may publish to them, and last what it is.
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

from sse_broadcast.auth.principal import Action
from sse_broadcast.backends.base import IdempotencyKey
from sse_broadcast.config.schema import Config
from sse_broadcast.event import DEFAULT_TYPE, MAX_RETRY, Event
from sse_broadcast.publication import Draft, Receipt
from sse_broadcast.server.access.authorization import PRINCIPAL, require_any_channel, require_permission
from sse_broadcast.server.access.rate_limits import share_name
from sse_broadcast.server.access.shares import UNCOUNTED
from sse_broadcast.server.endpoints import request_body
from sse_broadcast.server.endpoints.held_body import HeldBody
from sse_broadcast.server.endpoints.publish_request import EVENT_MEMBERS, DraftBuilder
from sse_broadcast.server.endpoints.publish_stream import LINES_PER_PUBLISH, LineStream
from sse_broadcast.server.http import query
from sse_broadcast.server.http.client_address import key
from sse_broadcast.server.http.json_body import ESCAPED, largest_body, largest_event
from sse_broadcast.server.http.log import tell_published
from sse_broadcast.server.http.problem import Problem, given_several_times
from sse_broadcast.server.http.responses import Sent, SentBatch, answered
from sse_broadcast.server.process.body_decoder import DECODER, LARGE
from sse_broadcast.server.services import BATCH_LOCK, BROADCASTER, Services, confirm, services_of
from sse_broadcast.wire import JSON_TYPE, NDJSON_TYPE

OF_TEXT = ("event", "id", "key", "retry")
"""What a query says of a body that is text."""

PUBLISH_PARAMETERS = (*OF_TEXT, "channel", "stream")

FORM = "application/x-www-form-urlencoded"

LONGEST_SHOWN = 65_536
"""Bytes of a message, as JSON, that an answer repeats. Spring's WebClient raises over 256 KiB of an answer,
when the event has been published."""

MOST_FIELDS = 32
"""Fields of a form that are looked at."""

FIELDS = frozenset({*EVENT_MEMBERS, "private", "topic", "topics", "type"})
"""What forms of events have: our own members, and those of Mercure's."""

MAX_IDEMPOTENCY_KEY = 255
"""Characters of an idempotency key."""

_ARRAY = re.compile(rb"\s*\[")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a body asks to have published, checked in all but the rate."""

    data: bytes
    drafts: list[Draft]
    idempotency_key: IdempotencyKey | None


PrepareBody = Callable[[bytes], Prepared]
"""Makes what is to be published of a body. Raises `Problem` or a `BroadcastError`."""


async def post_send(request: web.Request) -> web.Response:
    """Publish the body to everyone who listens, and say how many they are."""
    require_any_channel(request, Action.PUBLISH)
    broadcaster, services = request.app[BROADCASTER], services_of(request)
    config = services.config
    permit = functools.partial(require_permission, request, Action.PUBLISH)
    builder = DraftBuilder(broadcaster, _channels(request), most=config.max_batch, permit=permit)
    request_body.require_plain_coding(request)
    kind = request_body.type_of(request)
    _require_no_multipart(kind)
    to_utf8 = request_body.charset_of(request)
    if request.query_string:
        query.refuse_unknown(request.query, PUBLISH_PARAMETERS)
        _require_text_for_its_parameters(request, kind)
    if _is_stream(request):
        return await _line_stream(request, services, builder, kind, to_utf8).run()
    prepare = functools.partial(_prepare, request, builder, kind, to_utf8)
    most, timeout = _most(config, kind), config.body_timeout
    length = request.content_length
    if length is not None and length <= UNCOUNTED:
        # As a rule: it counts for nothing, so that nothing need be counted.
        data = await request_body.read_whole(request, most=most, timeout=timeout)
        return await _publish_body(request, services, kind, prepare, data)
    with HeldBody(request) as held:
        data = await request_body.read_whole(request, most=most, timeout=timeout, on_size=held.resize)
        return await _publish_body(request, services, kind, prepare, data)


async def _publish_body(
    request: web.Request, services: Services, kind: str, prepare: PrepareBody, data: bytes
) -> web.Response:
    if len(data) > LARGE:
        prepare = await _prepared_in_thread(request, services, prepare, data)
    if kind == NDJSON_TYPE or (kind == JSON_TYPE and _ARRAY.match(data)):
        return await _publish_batch(request, services, prepare, data)
    # Nothing waits within the publish: a publisher that hangs up, and so cancels this handler, has
    # published or has not. The same holds for a batch, behind its turn.
    prepared = prepare(data)
    receipt = await _publish(request, services, prepared)
    tell_published(receipt, request[PRINCIPAL], prepared.data)
    return _answer(receipt, prepared.drafts[0].event)


async def _prepared_in_thread(
    request: web.Request, services: Services, prepare: PrepareBody, data: bytes
) -> PrepareBody:
    """Prepare a large body in the decoder's thread, for a caller that may publish an event now."""
    services.rate_limiter.require_some(
        address=key(services.proxies.client(request)), principal=request[PRINCIPAL]
    )
    prepared = await request.app[DECODER].run(functools.partial(prepare, data), size=len(data))
    return lambda _: prepared


async def _publish_batch(
    request: web.Request, services: Services, prepare: PrepareBody, data: bytes
) -> web.Response:
    # One in each turn of the loop: a batch is milliseconds of work, and readers that have all taken
    # what they were sent must not wait for those of every other publisher.
    async with request.app[BATCH_LOCK]:
        prepared = prepare(data)
        receipt = await _publish(request, services, prepared)
        await asyncio.sleep(0)
    tell_published(receipt, request[PRINCIPAL], prepared.data)
    return _answer_batch(receipt)


def _prepare(
    request: web.Request, builder: DraftBuilder, kind: str, to_utf8: request_body.ToUtf8, data: bytes
) -> Prepared:
    """Make drafts of a body. It reads the request and changes nothing, so that a thread may do it."""
    data = to_utf8(data)
    token = _idempotency_key(request, kind, data)
    if kind == NDJSON_TYPE:
        drafts = builder.from_ndjson(data)
    elif kind != JSON_TYPE:
        drafts = [builder.from_event(_from_body(data, request, kind))]
    elif _ARRAY.match(data):
        drafts = builder.from_array(data)
    else:
        drafts = [builder.from_json(data)]
    return Prepared(data, drafts, token)


async def _publish(request: web.Request, services: Services, prepared: Prepared) -> Receipt:
    """Publish for a caller that may still do so. Raises `Problem`.

    Its body may have been long in coming, and the turn of a batch as well.
    """
    principal, address = confirm(request), key(services.proxies.client(request))
    services.rate_limiter.publish(len(prepared.drafts), address=address, principal=principal)
    publisher = share_name(principal, address=address)
    return await request.app[BROADCASTER].publish_all(
        prepared.drafts, prepared.idempotency_key, publisher=publisher
    )


def _channels(request: web.Request) -> list[str]:
    named = query.channels_of_path(request, request.app[BROADCASTER].require_few)
    return named + request.query.getall("channel", []) if request.query_string else named


def _answer(receipt: Receipt, event: Event) -> web.Response:
    channels = receipt.channels
    shown = event.data if _is_short(event.data) else msgspec.UNSET
    return answered(
        Sent(
            status="sent",
            clients=receipt.clients,
            message=shown,
            id=receipt.id,
            channel=channels[0],
            channels=channels,
        )
    )


def _is_short(message: str) -> bool:
    """Return whether an answer repeats a message. JSON writes a character in six bytes at most."""
    if len(message) * ESCAPED <= LONGEST_SHOWN:
        return True
    return len(message) <= LONGEST_SHOWN and len(msgspec.json.encode(message)) <= LONGEST_SHOWN


def _answer_batch(receipt: Receipt) -> web.Response:
    return answered(SentBatch("sent", receipt.count, receipt.clients, receipt.id))


def _most(config: Config, kind: str) -> int:
    return largest_body(config) if kind in {JSON_TYPE, NDJSON_TYPE} else largest_event(config)


def _require_text_for_its_parameters(request: web.Request, kind: str) -> None:
    if kind != NDJSON_TYPE and (kind != JSON_TYPE or _is_stream(request)):
        return
    for name in OF_TEXT:
        if name in request.query:
            raise Problem(400, f"{name}: is said in the body, where that is {kind}")


def _require_no_multipart(kind: str) -> None:
    if kind.startswith("multipart/"):
        raise Problem(
            415,
            f"Content-Type: {kind[:80]!a} is a form, and no event; send JSON, or the message as the body",
            closes=True,
        )


def _from_body(data: bytes, request: web.Request, kind: str) -> Event:
    """Return the event of a body that is text. Raises `Problem` for what only a mistake looks like."""
    if not data and not any(name in request.query for name in OF_TEXT):
        raise Problem(422, "body: is empty, and is the message; with ?event=TYPE an event may do without any")
    if kind == FORM and _is_form(data):
        raise Problem(
            422,
            "body: is a form, with the members of an event as its fields; send them as JSON, with"
            " Content-Type: application/json",
        )
    return _from_text(data, request)


def _is_form(data: bytes) -> bool:
    """Return whether a urlencoded body is a form helper's work: all its fields are an event's.

    curl declares this type of whatever it is told to post, so only what is certain is refused.
    """
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


def _from_text(data: bytes, request: web.Request) -> Event:
    text = _text(data)
    if not request.query_string:
        return Event(text)
    return Event(
        text,
        _or(query.only(request.query, "event"), DEFAULT_TYPE),
        id=query.only(request.query, "id"),
        retry=_retry(query.only(request.query, "retry")),
        key=query.only(request.query, "key"),
    )


def _or(said: str | None, otherwise: str) -> str:
    return otherwise if said is None else said


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, f"body: is not UTF-8 at byte {error.start}") from None


def _retry(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Problem(400, f"retry: must be a number of milliseconds, not {text[:80]!a}")
    return min(int(text[:20]), MAX_RETRY + 1)


def _is_stream(request: web.Request) -> bool:
    match query.only(request.query, "stream") if request.query_string else None:
        case None | "0":
            return False
        case "1":
            return True
        case other:
            raise Problem(400, f"stream: must be 1, not {other[:80]!a}")


def _line_stream(
    request: web.Request, services: Services, builder: DraftBuilder, kind: str, to_utf8: request_body.ToUtf8
) -> LineStream:
    if "Idempotency-Key" in request.headers:
        raise Problem(400, "Idempotency-Key: cannot be kept for a stream", closes=True)
    if "id" in request.query:
        raise Problem(400, "id: cannot be that of every line of a stream", closes=True)
    config, limits = services.config, services.rate_limiter
    address = key(services.proxies.client(request))
    pace = functools.partial(limits.publish_wait, address=address, principal=request[PRINCIPAL])
    publisher = share_name(request[PRINCIPAL], address=address)
    begin = functools.partial(
        LineStream, request, pace=pace, portion=limits.batch_size(LINES_PER_PUBLISH), publisher=publisher
    )
    if kind == NDJSON_TYPE:
        most = largest_event(config)
        return begin(lambda line: builder.from_json(to_utf8(line)) if line.strip() else None, most=most)
    builder.from_event(_from_text(b"", request))  # what the query says is wrong before the first line is
    return begin(lambda line: builder.from_event(_from_text(to_utf8(line), request)), most=config.max_event)


def _idempotency_key(request: web.Request, kind: str, data: bytes) -> IdempotencyKey | None:
    keys = request.headers.getall("Idempotency-Key", ())
    if not keys:
        return None
    if len(keys) > 1:
        raise given_several_times("Idempotency-Key", len(keys))
    (key,) = keys
    if not (1 <= len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise Problem(
            400, f"Idempotency-Key: must be 1 to {MAX_IDEMPOTENCY_KEY} visible characters: {key[:80]!a}"
        )
    said = hashlib.sha256(f"{kind}\0{request.query_string}\0".encode())
    said.update(data)
    principal = request[PRINCIPAL]
    return IdempotencyKey((*principal.bearer, request.path, key), said.digest())
