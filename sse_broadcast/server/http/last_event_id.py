"""Last-Event-ID: the id that a client wants to resume after, under each name that clients use."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_plus

from aiohttp import hdrs
from multidict import MultiMapping

HEADER = hdrs.LAST_EVENT_ID

PARAMETER = "last_event_id"
"""The documented name; `is_name` accepts more."""

_NAMES = frozenset({"lasteventid", "evslasteventid"})
"""Names without case, hyphens and underscores. event-source-polyfill and reconnecting-eventsource send
`lastEventId`, Mercure's clients `lastEventID` and `Last-Event-ID`, amvtek's polyfill `evs_last_event_id`."""

_SHORTEST_NAME = len("lasteventid")
_LONGEST_NAME = len("evs_last_event_id")

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


def is_name(parameter: str) -> bool:
    """Return whether a query parameter of this name holds an id to resume after."""
    if len(parameter) > _LONGEST_NAME:
        return False
    return parameter.lower().replace("-", "").replace("_", "") in _NAMES


def brought(headers: MultiMapping[str], query: MultiMapping[str]) -> str:
    """Return the id that a request wants to resume after, or "". The header overrides the query."""
    # A client that reconnects repeats its URL with the old id, and sends the new id in the header.
    if HEADER in headers and (id := last_of(headers.getall(HEADER))):
        return id
    return last_of(value for name, value in query.items() if is_name(name)) if query else ""


def last_of(values: Iterable[str]) -> str:
    """Return the last id that is not empty. Each value may be a list that a proxy joined with commas."""
    # reqwest-eventsource sends two: the id that it started with, then the last one that it received.
    ids = [id for value in values for part in value.split(",") if (id := part.strip())]
    return ids[-1] if ids else ""


def fit_to_repeat(id: str) -> str | None:
    """Return the id if it may be written into a stream as it is, else None."""
    return id if _WELL_FORMED.fullmatch(id) else None


def brought_in_head(headers: Mapping[str, str], query: str) -> str:
    """Return the same as `brought`, from lower-case headers (repeated ones joined) and a raw query."""
    # For rejected connections. Only names that may match are decoded: decoding all of 8 KiB takes up to 8 ms.
    if id := last_of([headers.get(HEADER.lower(), "")]):
        return id
    for pair in reversed(query.split("&")):
        name, _, value = pair.partition("=")
        if len(name) < _SHORTEST_NAME:
            continue
        if is_name(unquote_plus(name[: 3 * _LONGEST_NAME])) and (id := last_of([unquote_plus(value)])):
            return id
    return ""
