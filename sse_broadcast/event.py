"""Event: what a publisher says, and what it may not say."""

from dataclasses import dataclass

from sse_broadcast.errors import EventError

DEFAULT_TYPE = "message"
"""The type of an event that names none (WHATWG HTML 9.2.6, "dispatch the event")."""

RESERVED = "$"
"""Types beginning with this are the server's own (`$reset`, `$close`)."""

MAX_RETRY = 2**31 - 1
"""Milliseconds. Browsers keep `retry` in a signed 32-bit integer."""


@dataclass(frozen=True, slots=True)
class Event:
    r"""One event, well formed by construction.

    `data` is any text that has a UTF-8 form; its CR and CRLF reach an SSE reader
    as LF, since the format has no other line end. `type` and `id` are one line
    without NUL. `retry` is the reconnection time the reader is told, in
    milliseconds. Raises `EventError` for anything else.
    """

    data: str
    type: str = DEFAULT_TYPE
    id: str | None = None
    retry: int | None = None

    def __post_init__(self) -> None:
        if not self.type:
            raise EventError("event", "must not be empty")
        _require_line("event", self.type)
        _require_utf8("data", self.data)
        if self.id is not None:
            _require_line("id", self.id)
        if self.retry is not None and not 0 <= self.retry <= MAX_RETRY:
            raise EventError("retry", f"must be 0 to {MAX_RETRY} milliseconds, not {self.retry}")

    @property
    def reserved(self) -> bool:
        """Whether the type is one only the server itself may use."""
        return self.type.startswith(RESERVED)


def _require_line(field: str, text: str) -> None:
    for name, character in (("NUL", "\0"), ("CR", "\r"), ("LF", "\n")):
        if character in text:
            raise EventError(field, f"must not contain {name}: {text[:80]!r}")
    _require_utf8(field, text)


def _require_utf8(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EventError(
            field, f"has a lone surrogate, {text[error.start]!a}, at character {error.start}"
        ) from None
