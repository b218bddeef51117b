"""What a subscriber asks for: read from a query, or from a JSON body with the same names."""

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
"""r3labs/sse adds `stream=` by itself, Mercure's clients say `topic=`: ignored, they would get `default`."""

SUBSCRIBE_MEMBERS = ("channel", "event", "format", "heartbeat", last_event_id.PARAMETER, "since")

SUBSCRIBE_PARAMETERS = (*SUBSCRIBE_MEMBERS, IN_QUERY)

CHUNKED = {TEXT: CHUNKED_TEXT, JSON: CHUNKED_JSON, NDJSON: CHUNKED_NDJSON}
"""Each format as HTTP/1.1 has it; HTTP/1.0 knows no chunks."""

FORMATS = {"text": TEXT, "json": JSON}

Permit = Callable[[Sequence[str]], object]
"""Raises `Problem` for channels that the caller may not subscribe to."""

_SECONDS = re.compile(r"[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """What a subscriber asked for.

    `silence` is the seconds before a heartbeat, if not the server's; `heartbeat_events` asks for events
    instead of comments.
    """

    selector: Selector
    encoding: Encoding
    cursor: Cursor | None = None
    silence: int | None = None
    heartbeat_events: bool = False


_NO_PARAMETERS: MultiMapping[str] = MultiDict()


def read_subscribe(request: web.Request, permit: Permit) -> SubscribeRequest:
    """Read what a subscriber asks for in its URL. Raises `Problem` and `EventError`.

    First how many channels there are, then which, and whether it may subscribe to them; then all the rest.
    """
    named = channels_of_path(request, request.app[BROADCASTER].check_channel_count)
    if not request.query_string:
        return _subscribe_request(request, _NO_PARAMETERS, _permitted(request, _NO_PARAMETERS, named, permit))
    selector = _permitted(request, request.query, named, permit)
    query.refuse_misspelt(request.query, (*SUBSCRIBE_PARAMETERS, *CHANNEL_PARAMETERS), also=_is_alias)
    return _subscribe_request(request, request.query, selector)


def read_body(data: bytes, *, most: int) -> MultiMapping[str]:
    """Read the members of a JSON body as a query. Raises `Problem`, also beyond `most` channels or types."""
    members = json_body.decode_anything(data)
    if not isinstance(members, dict):
        raise Problem(422, f"body: must be a JSON object with some of {', '.join(SUBSCRIBE_MEMBERS)}")
    found = MultiDict[str]()
    for name, value in members.items():
        _require_member(name)
        if value == []:
            # A list that came out empty must not give `default`, or every type.
            raise Problem(422, f"{name}: must not be an empty list")
        if isinstance(value, list) and len(value) > most:
            raise Problem(400, f"{name}: {len(value)} are too many, {most} may be named")
        for each in value if isinstance(value, list) else [value]:
            found.add("channel" if name == "channels" else name, _as_text(name, each))
    return found


def _require_member(name: str) -> None:
    if not (name in SUBSCRIBE_MEMBERS or name == "channels" or _is_alias(name)):
        raise Problem(422, json_body.unknown_member(name, SUBSCRIBE_MEMBERS))


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 4.0 is a whole number in JSON, and what some languages write
    raise Problem(422, f"{name}: must be text, or a list of texts")


def _is_alias(name: str) -> bool:
    return name in CHANNEL_PARAMETERS or last_event_id.is_name(name)


def parse_subscribe(request: web.Request, said: MultiMapping[str], permit: Permit) -> SubscribeRequest:
    """Read what a body says as a query, and the headers, as `read_subscribe` does. Raises as that does."""
    return _subscribe_request(request, said, _permitted(request, said, (), permit))


def _subscribe_request(request: web.Request, said: MultiMapping[str], selector: Selector) -> SubscribeRequest:
    headers, chunked = request.headers, request.version >= HttpVersion11
    if not said and last_event_id.HEADER not in headers and chunked and not _accepts_ndjson(request):
        return SubscribeRequest(selector, CHUNKED_TEXT)  # what most subscribers ask for
    encoding = _encoding(request, said)
    silence, as_events = _heartbeat(said)
    return SubscribeRequest(
        selector,
        CHUNKED[encoding] if chunked else encoding,
        _cursor(request, said),
        silence,
        as_events,
    )


def _permitted(
    request: web.Request, said: MultiMapping[str], named: Sequence[str], permit: Permit
) -> Selector:
    types: Sequence[str] = ()
    channels = list(named)
    if said:
        types = said.getall("event", [])
        channels += [value for name, value in said.items() if name in CHANNEL_PARAMETERS]
    selector = request.app[BROADCASTER].selector(channels or [DEFAULT_CHANNEL], types=types)
    permit(selector.channels)
    if "" in types:
        raise Problem(400, "event: must not be empty")
    return selector


def _accepts_ndjson(request: web.Request) -> bool:
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    return NDJSON.format.content_type in accept.lower()


def _encoding(request: web.Request, said: MultiMapping[str]) -> Encoding:
    name = query.only(said, "format")
    if name is not None and name not in FORMATS:
        hint = "; Accept: application/x-ndjson asks for lines" if "ndjson" in name[:80].lower() else ""
        raise Problem(400, f"format: must be one of {', '.join(FORMATS)}, not {name[:80]!a}{hint}")
    return NDJSON if _accepts_ndjson(request) else FORMATS[name or "text"]


def _cursor(request: web.Request, said: MultiMapping[str]) -> Cursor | None:
    since = query.only(said, "since")
    # What a subscriber has seen says more than where it once began.
    if brought := last_event_id.brought(request.headers, said):
        return parse_id(brought)
    return parse_since(since) if since else None


def _heartbeat(said: MultiMapping[str]) -> tuple[int | None, bool]:
    """Return the seconds of `heartbeat=4`, None if there are none, and whether `event` is asked for."""
    text = query.only(said, "heartbeat")
    if text is None:
        return None, False
    seconds, as_events = None, False
    for part in text.split(","):
        if part == "event" and not as_events:
            as_events = True
        elif seconds is None and _SECONDS.fullmatch(part) and _may_be_asked_for(int(part)):
            seconds = int(part)
        else:
            raise Problem(400, f"heartbeat: must be {_HEARTBEATS}, not {text[:80]!a}")
    return seconds, as_events


def _may_be_asked_for(seconds: int) -> bool:
    return SHORTEST_HEARTBEAT <= seconds <= LONGEST_HEARTBEAT


_HEARTBEATS = f"event, whole seconds from {SHORTEST_HEARTBEAT} to {LONGEST_HEARTBEAT}, or both as in event,4"
