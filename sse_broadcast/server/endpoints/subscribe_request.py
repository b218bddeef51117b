"""Subscribe requests: parse the query, or a JSON body with the same names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import HttpVersion11, hdrs, web
from multidict import MultiDict, MultiMapping

from sse_broadcast.channels import DEFAULT_CHANNEL, Selector
from sse_broadcast.cursor import Cursor, parse_id, parse_since
from sse_broadcast.encoding import (
    CHUNKED_JSON,
    CHUNKED_NDJSON,
    CHUNKED_TEXT,
    JSON,
    NDJSON,
    TEXT,
    Encoding,
)
from sse_broadcast.fanout.subscriber import LONGEST_HEARTBEAT, SHORTEST_HEARTBEAT
from sse_broadcast.server.access.authorization import IN_QUERY
from sse_broadcast.server.http import json_body, last_event_id, query
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.request_head import channels_of_path
from sse_broadcast.server.services import BROADCASTER

CHANNEL_PARAMETERS = ("channel", "stream", "topic")
"""Names of the channel parameter. r3labs/sse adds `stream=`, and Mercure's clients send `topic=`. If those
were ignored, these clients would get `default`."""

SUBSCRIBE_MEMBERS = ("channel", "event", "format", "heartbeat", last_event_id.PARAMETER, "since")

SUBSCRIBE_PARAMETERS = (*SUBSCRIBE_MEMBERS, IN_QUERY)

CHUNKED = {TEXT: CHUNKED_TEXT, JSON: CHUNKED_JSON, NDJSON: CHUNKED_NDJSON}
"""Encodings of each format for HTTP/1.1. HTTP/1.0 has no chunked transfer coding."""

FORMATS = {"text": TEXT, "json": JSON}

Permit = Callable[[Sequence[str]], object]
"""A function that raises `Problem` for channels that the caller is not allowed to subscribe to."""

_SECONDS = re.compile(r"[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """The parameters of a subscription.

    `silence` is the seconds without an event before a heartbeat, or None for the configured interval. With
    `heartbeat_events` heartbeats are events instead of comments.
    """

    selector: Selector
    encoding: Encoding
    cursor: Cursor | None = None
    silence: int | None = None
    heartbeat_events: bool = False


_NO_PARAMETERS: MultiMapping[str] = MultiDict()


def read_subscribe(request: web.Request, permit: Permit) -> SubscribeRequest:
    """Parse the URL and the headers of a subscribe request. Raises `Problem` and `EventError`.

    Checks the number of channels first, then their names, the permission for them, and the other parameters.
    """
    named = channels_of_path(request, request.app[BROADCASTER].check_channel_count)
    if not request.query_string:
        return _subscribe_request(
            request, _NO_PARAMETERS, _permitted_selector(request, _NO_PARAMETERS, named, permit)
        )
    selector = _permitted_selector(request, request.query, named, permit)
    query.refuse_misspelt(request.query, (*SUBSCRIBE_PARAMETERS, *CHANNEL_PARAMETERS), also=_is_alias)
    return _subscribe_request(request, request.query, selector)


def read_body(data: bytes, *, most: int) -> MultiMapping[str]:
    """Return the members of a JSON body as query parameters.

    Raises `Problem`, also for more than `most` channels or types.
    """
    members = json_body.decode_anything(data)
    if not isinstance(members, dict):
        raise Problem(422, f"body: must be a JSON object with some of {', '.join(SUBSCRIBE_MEMBERS)}")
    parameters = MultiDict[str]()
    for name, value in members.items():
        _require_member(name)
        if value == []:
            # Most likely a mistake of the client: an empty list must not mean `default`, or every type.
            raise Problem(422, f"{name}: must not be an empty list")
        if isinstance(value, list) and len(value) > most:
            raise Problem(400, f"{name}: {len(value)} given, at most {most} allowed")
        for each in value if isinstance(value, list) else [value]:
            parameters.add("channel" if name == "channels" else name, _as_text(name, each))
    return parameters


def _require_member(name: str) -> None:
    if not (name in SUBSCRIBE_MEMBERS or name == "channels" or _is_alias(name)):
        raise Problem(422, json_body.unknown_member(name, SUBSCRIBE_MEMBERS))


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # some languages write 4 as 4.0
    raise Problem(422, f"{name}: must be text or a list of text")


def _is_alias(name: str) -> bool:
    return name in CHANNEL_PARAMETERS or last_event_id.is_name(name)


def parse_subscribe(request: web.Request, parameters: MultiMapping[str], permit: Permit) -> SubscribeRequest:
    """Parse the parameters of a body and the headers, as `read_subscribe` does. Raises the same errors."""
    return _subscribe_request(request, parameters, _permitted_selector(request, parameters, (), permit))


def _subscribe_request(
    request: web.Request, parameters: MultiMapping[str], selector: Selector
) -> SubscribeRequest:
    headers, chunked = request.headers, request.version >= HttpVersion11
    if not parameters and last_event_id.HEADER not in headers and chunked and not _accepts_ndjson(request):
        return SubscribeRequest(selector, CHUNKED_TEXT)  # most subscribers
    encoding = _encoding(request, parameters)
    silence, as_events = _heartbeat(parameters)
    return SubscribeRequest(
        selector,
        CHUNKED[encoding] if chunked else encoding,
        _cursor(request, parameters),
        silence,
        as_events,
    )


def _permitted_selector(
    request: web.Request, parameters: MultiMapping[str], named: Sequence[str], permit: Permit
) -> Selector:
    types: Sequence[str] = ()
    channels = list(named)
    if parameters:
        types = parameters.getall("event", [])
        channels += [value for name, value in parameters.items() if name in CHANNEL_PARAMETERS]
    selector = request.app[BROADCASTER].selector(channels or [DEFAULT_CHANNEL], types=types)
    permit(selector.channels)
    if "" in types:
        raise Problem(400, "event: must not be empty")
    return selector


def _accepts_ndjson(request: web.Request) -> bool:
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    return NDJSON.format.content_type in accept.lower()


def _encoding(request: web.Request, parameters: MultiMapping[str]) -> Encoding:
    name = query.only(parameters, "format")
    if name is not None and name not in FORMATS:
        hint = "; for NDJSON send Accept: application/x-ndjson" if "ndjson" in name[:80].lower() else ""
        raise Problem(400, f"format: must be one of {', '.join(FORMATS)}, not {name[:80]!a}{hint}")
    return NDJSON if _accepts_ndjson(request) else FORMATS[name or "text"]


def _cursor(request: web.Request, parameters: MultiMapping[str]) -> Cursor | None:
    since = query.only(parameters, "since")
    # Before `since`: a reconnecting client repeats its URL, and the last id says how far it has come.
    if last_id := last_event_id.brought(request.headers, parameters):
        return parse_id(last_id)
    return parse_since(since) if since else None


def _heartbeat(parameters: MultiMapping[str]) -> tuple[int | None, bool]:
    """Return the seconds in `heartbeat`, or None, and whether `heartbeat` has `event`."""
    text = query.only(parameters, "heartbeat")
    if text is None:
        return None, False
    seconds, as_events = None, False
    for part in text.split(","):
        if part == "event" and not as_events:
            as_events = True
        elif seconds is None and _SECONDS.fullmatch(part) and _is_allowed_heartbeat(int(part)):
            seconds = int(part)
        else:
            raise Problem(400, f"heartbeat: must be {_HEARTBEAT_RULE}, not {text[:80]!a}")
    return seconds, as_events


def _is_allowed_heartbeat(seconds: int) -> bool:
    return SHORTEST_HEARTBEAT <= seconds <= LONGEST_HEARTBEAT


_HEARTBEAT_RULE = (
    f"event, whole seconds from {SHORTEST_HEARTBEAT} to {LONGEST_HEARTBEAT}, or both as in event,4"
)
