"""POST /send: publish one event."""

import asyncio
import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from aiohttp import web

from sse_broadcast.event import DEFAULT_TYPE, MAX_RETRY, Event
from sse_broadcast.server.problem import Problem
from sse_broadcast.server.state import BROADCASTER, CONFIG

ESCAPED = 6
"""JSON may write any character of one byte in six: `\\u000a`. A body has room for such an event."""

ENVELOPE = 4096
"""Bytes of a JSON body around its message."""


PARAMETERS = ("event", "retry")
"""What a query may say of a body that is text."""

NOT_TAKEN = ("id", "key", "channel", "channels")
"""Said by publishers to other servers of this kind. To publish without them would be to lose
something silently, so they are refused."""


class Message(msgspec.Struct):
    """A published event as JSON. Exactly one of `message` (text) and `data` (any JSON) is given."""

    message: str | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    event: str | None = None
    retry: Annotated[int, msgspec.Meta(ge=0, le=MAX_RETRY)] | None = None
    id: Any = None
    key: Any = None
    channel: Any = None
    channels: Any = None

    def to_event(self) -> Event:
        """Give the event that is meant. Raises `Problem` or `EventError`."""
        for name in NOT_TAKEN:
            if getattr(self, name) is not None:
                raise _not_taken(name)
        return Event(self._text(), DEFAULT_TYPE if self.event is None else self.event, retry=self.retry)

    def _text(self) -> str:
        match self.message, self.data:
            case str() as text, msgspec.UnsetType():
                return text
            case msgspec.UnsetType(), msgspec.Raw() as raw:
                return _compact(raw)
            case msgspec.UnsetType(), msgspec.UnsetType():
                raise Problem(422, "message: missing")
            case _:
                raise Problem(422, "message and data: only one of them may be given")


_decoder = msgspec.json.Decoder(Message)


async def send(request: web.Request) -> web.Response:
    """Publish the body to everyone who listens, and say how many they are."""
    _require_plain_coding(request)
    body = await _read(request)
    # From here to the answer nothing waits for anything: a publisher that hangs up, and so
    # cancels this handler, has published or has not.
    event = _from_json(body) if _is_json(request) else _from_text(body, request)
    receipt = await request.app[BROADCASTER].publish(event)
    return _answer(
        {
            "status": "sent",
            "clients": receipt.clients,
            "message": event.data,
            "channel": receipt.channels[0],
            "channels": receipt.channels,
        }
    )


def _answer(content: dict[str, object]) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def _is_json(request: web.Request) -> bool:
    return request.content_type == "application/json"


def _require_plain_coding(request: web.Request) -> None:
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise Problem(415, f"Content-Encoding: {coding[:80]!a} is not taken", closes=True)


async def _read(request: web.Request) -> bytes:
    """Give the body, bounded in size and time whatever application this one is mounted in."""
    config = request.app[CONFIG]
    most = config.max_event * ESCAPED + ENVELOPE
    if (request.content_length or 0) > most:
        raise _too_large(most)
    if request.content.is_eof():
        return request.content.read_nowait()
    body = bytearray()
    try:
        async with asyncio.timeout(config.body_timeout):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise Problem(408, f"body: did not arrive within {config.body_timeout:g} s", closes=True) from None
    except web.RequestPayloadError as error:
        raise Problem(400, f"body: {error}"[:200], closes=True) from None
    return bytes(body)


def _too_large(most: int) -> Problem:
    return Problem(413, f"body: more than {most} bytes", closes=True)


def _from_json(body: bytes) -> Event:
    try:
        return _decoder.decode(body).to_event()
    except msgspec.ValidationError as error:
        raise Problem(422, str(error)) from None
    except UnicodeDecodeError as error:
        raise Problem(400, f"body: is not UTF-8 at byte {error.start}") from None
    except msgspec.DecodeError as error:
        raise _not_json(body, error) from None


def _not_json(body: bytes, error: msgspec.DecodeError) -> Problem:
    # msgspec calls half of a surrogate pair truncated input; it is JSON, of text that has no
    # UTF-8 form, and is told so.
    try:
        json.loads(body)
    except ValueError:
        return Problem(400, f"body: is not JSON: {error}")
    return Problem(422, "body: has a lone surrogate, which no event can carry")


def _compact(raw: msgspec.Raw) -> str:
    value = bytes(raw)
    if value.startswith(b'"'):
        return msgspec.json.decode(value, type=str)
    return msgspec.json.format(value, indent=-1).decode()


def _from_text(body: bytes, request: web.Request) -> Event:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, f"body: is not UTF-8 at byte {error.start}") from None
    if not request.query_string:
        return Event(text)
    _require_known(request.query)
    return Event(text, request.query.get("event", DEFAULT_TYPE), retry=_retry(request.query.get("retry")))


def _require_known(query: Mapping[str, str]) -> None:
    for name in query:
        if name in NOT_TAKEN:
            raise _not_taken(name)
        if name in PARAMETERS:
            continue
        # A typing error must not publish something else than was meant.
        if meant := difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.8):
            raise Problem(400, f"{name[:80]}: unknown parameter; {meant[0]} was meant?")


def _not_taken(name: str) -> Problem:
    return Problem(422, f"{name}: not taken by this server")


def _retry(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Problem(400, f"retry: must be a number of milliseconds, not {text[:80]!a}")
    return min(int(text[:20]), MAX_RETRY + 1)
