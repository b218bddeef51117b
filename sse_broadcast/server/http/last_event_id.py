"""Last-Event-ID: the id that a request brings, under each of the names by which clients send it."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_plus

from aiohttp import hdrs
from multidict import MultiMapping

HEADER = hdrs.LAST_EVENT_ID

PARAMETER = "last_event_id"
"""The name that documents use; `is_name` tells the others."""

_NAMES = frozenset({"lasteventid", "evslasteventid"})
"""Without case, hyphens and underscores. event-source-polyfill and reconnecting-eventsource send
`lastEventId`, Mercure's clients `lastEventID` and `Last-Event-ID`, amvtek's polyfill `evs_last_event_id`."""

_SHORTEST_NAME = len("lasteventid")
_LONGEST_NAME = len("evs_last_event_id")

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


def is_name(parameter: str) -> bool:
    """Return whether a query parameter of this name is an id to resume after."""
    if len(parameter) > _LONGEST_NAME:
        return False
    return parameter.lower().replace("-", "").replace("_", "") in _NAMES


def brought(headers: MultiMapping[str], query: MultiMapping[str]) -> str:
    """Return the id that a request brings, or "".

    The header wins: a client that reconnects repeats its URL. Of several the last counts that is not empty.
    """
    if HEADER in headers and (id := last_of(headers.getall(HEADER))):
        return id
    return last_of(value for name, value in query.items() if is_name(name)) if query else ""


def last_of(values: Iterable[str]) -> str:
    """Return the last id of some values, each of which may be a list that a proxy joined with commas.

    reqwest-eventsource sends two: the id it began with, then the one it learnt.
    """
    ids = [id for value in values for part in value.split(",") if (id := part.strip())]
    return ids[-1] if ids else ""


def fit_to_repeat(id: str) -> str | None:
    """Return an id that may be written into a block as it is, or None."""
    return id if _WELL_FORMED.fullmatch(id) else None


def brought_in_head(headers: Mapping[str, str], query: str) -> str:
    """Return what `brought` does, from headers by lower-case names (repeated ones joined) and a raw query.

    Only what may be an id is decoded, since the client is refused anyway: all of 8 KiB can take 8 ms.
    """
    if id := last_of([headers.get(HEADER.lower(), "")]):
        return id
    for pair in reversed(query.split("&")):
        name, _, value = pair.partition("=")
        if len(name) < _SHORTEST_NAME:
            continue
        if is_name(unquote_plus(name[: 3 * _LONGEST_NAME])) and (id := last_of([unquote_plus(value)])):
            return id
    return ""
