"""Event: the data, type, id, key and retry of a message, and the rules for them."""

import random
import re

import msgspec

from sse_broadcast.errors import EventError

DEFAULT_TYPE = "message"
"""The default type of an event (WHATWG HTML 9.2.6, "dispatch the event")."""

RESERVED = "$"
"""The start of the server's own types (`$reset`, `$close`)."""

OF_EVENT_SOURCE = frozenset({"error", "open"})
"""Types that EventSource dispatches itself. A published one would call a page's handlers for them, and an
`error` without a listener ends a Node process."""

MAX_RETRY = 2**31 - 1
"""Maximum of `retry` in milliseconds: browsers store it as a signed 32-bit integer."""

SHORTEST_RETRY = 500
LONGEST_RETRY = 3_600_000
"""Bounds of a publisher's `retry`, in milliseconds."""

MAX_KEY = 128

_CONTROL = {"\0": "NUL", "\r": "CR", "\n": "LF"}
_find_control = re.compile("[\0\r\n]").search


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event, validated at construction.

    `data` is any text that UTF-8 can encode. SSE has no line end but LF, so CR and CRLF reach subscribers as
    LF. `json` marks data that is a JSON value. `type` and `id` are one line without NUL. `retry` is the
    reconnection time for subscribers, in milliseconds. Events of one channel and one `key` (a line of 1 to
    128 characters) replace one another for subscribers with the policy `conflate`. Raises `EventError` for
    invalid values, `TypeError` for a value that is not text.
    """

    # A msgspec.Struct, not a dataclass: a batch makes thousands, each in a fifth of the time. gc=False: the
    # collector does not scan those that a history holds.

    data: str
    type: str = DEFAULT_TYPE
    id: str | None = None
    retry: int | None = None
    key: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.data, str):
            raise TypeError(f"message: must be text, not {_named(self.data)}")
        if self.type is not DEFAULT_TYPE:
            _require_text("event", self.type)
            if not self.type:
                raise EventError("event", "must not be empty")
            _require_line("event", self.type)
        if not self.data.isascii():
            _require_utf8("data", self.data)
        if self.id is not None:
            _require_text("id", self.id)
            _require_line("id", self.id)
        if self.key is not None:
            _require_text("key", self.key)
            _require_key(self.key)
        if self.retry is not None:
            _require_retry(self.retry)

    @property
    def reserved(self) -> bool:
        """Whether only the server itself may use the type."""
        return self.type.startswith(RESERVED)


def _require_text(field: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{field}: must be text, not {_named(value)}")


def _named(value: object) -> str:
    """Return the type of a value that is not text, and a hint at how to convert it."""
    kind = type(value).__name__
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{kind}; decode it first: .decode()"
    if isinstance(value, (dict, list, tuple, int, float)) or value is None:
        return f"{kind}; json.dumps makes text of it"
    return kind


def _require_retry(retry: object) -> None:
    if not isinstance(retry, int) or isinstance(retry, bool):
        raise TypeError(f"retry: must be a whole number of milliseconds, not {retry!r}")
    if not 0 <= retry <= MAX_RETRY:
        raise EventError("retry", f"must be 0 to {MAX_RETRY} milliseconds, not {retry}")


def _require_key(key: str) -> None:
    if not 1 <= len(key) <= MAX_KEY:
        raise EventError("key", f"must be 1 to {MAX_KEY} characters: {key[:80]!r}")
    _require_line("key", key)


def _require_line(field: str, text: str) -> None:
    if control := _find_control(text):
        raise EventError(field, f"must not contain {_CONTROL[control[0]]}: {text[:80]!r}")
    if not text.isascii():
        _require_utf8(field, text)


def _require_utf8(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EventError(
            field, f"has a lone surrogate, {text[error.start]!a}, at character {error.start}"
        ) from None


def jittered(retry: int, *, spread: int = 0) -> int:
    """Return a random reconnection time in milliseconds: subscribers cut together do not return together.

    It begins at half of `retry`. Its range is `retry` or `spread`, whichever is longer.
    """
    return int(retry * 0.5 + random.random() * max(retry, spread))
