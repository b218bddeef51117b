"""Cursor: the place of a subscriber in the history, as an id, an age or a keyword.

The server's own ids are `<epoch>-<position>`: eight hexadecimal digits that name one life of a history, and a
place in its order. Any other id was chosen by a publisher, or comes from another server.
"""

import re
import secrets
from dataclasses import dataclass, replace
from enum import StrEnum

from sse_broadcast.errors import EventError

MAX_ID = 128

LONGEST_OWN = 8 + 1 + 19
"""Maximum characters of the server's own ids: positions are signed 64-bit integers."""

_OWN = re.compile(r"([0-9a-f]{8})-([0-9]{1,19})")
_AGE = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._-]")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Keyword(StrEnum):
    """The words that `since` accepts besides ids and ages."""

    EARLIEST = "earliest"
    """The whole history."""
    LAST = "last"
    """The newest event of each channel."""


@dataclass(frozen=True, slots=True)
class EventId:
    """One of the server's own ids: the epoch of a history and a position in it."""

    epoch: str
    position: int


@dataclass(frozen=True, slots=True)
class CustomId:
    """An id that a publisher chose, or of another server.

    `said_in_since` marks an id from `since`: it may be a misspelt age or keyword.
    """

    id: str
    said_in_since: bool = False


@dataclass(frozen=True, slots=True)
class Age:
    """A number of seconds before now."""

    seconds: float


Cursor = EventId | CustomId | Age | Keyword


def new_epoch() -> str:
    """Return a random name for a new life of a history."""
    return secrets.token_hex(4)


def format_id(epoch: str, position: int) -> str:
    """Return the id of a position."""
    return f"{epoch}-{position}"


def parse_id(text: str) -> EventId | CustomId:
    """Parse a `Last-Event-ID`. Every text is an id."""
    if own := _OWN.fullmatch(text):
        return EventId(own[1], int(own[2]))
    return CustomId(text)


def parse_since(text: str) -> Cursor:
    """Parse `since`: a keyword, an age such as `10m`, or an id."""
    if text in list(Keyword):
        return Keyword(text)
    if age := _AGE.fullmatch(text):
        return Age(int(age[1]) * _SECONDS[age[2]])
    cursor = parse_id(text)
    return replace(cursor, said_in_since=True) if isinstance(cursor, CustomId) else cursor


def validate_custom_id(text: str) -> None:
    """Raise `EventError` for an id that no publisher may choose."""
    if not 1 <= len(text) <= MAX_ID:
        raise EventError("id", f"must be 1 to {MAX_ID} characters: {text[:80]!r}")
    if bad := _NOT_IN_AN_ID.search(text):
        raise EventError("id", f"must not contain {bad[0]!a}: {text[:80]!a}")
    if not isinstance(cursor := parse_since(text), CustomId):
        kind = "the form of the server's own ids" if isinstance(cursor, EventId) else "a meaning for `since`"
        raise EventError("id", f"{text!r} has {kind}")
