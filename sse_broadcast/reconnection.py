"""Reconnection: what one connection of a stream received, and when to open the next."""

import time
from collections.abc import Callable

import msgspec

from sse_broadcast import wire
from sse_broadcast.backoff import AttemptError, delay
from sse_broadcast.event import Event

OPEN = "$open"
CLOSE = "$close"
"""The types of the server's first and last event on a stream."""

FINISHED = "finished"
"""The reason in `$close` if the channels will have no more events."""

DEFAULT_RETRY = 3.0
"""Seconds before a reconnection, until the server sends `retry`."""

SILENCE = 60.0
"""Seconds without a byte after which a stream counts as dead, until the server names its heartbeat."""

MIN_SILENCE = 20.0
"""Minimum seconds without a byte before a stream counts as dead: TCP may need them after a burst of lost
packets."""

HEARTBEATS = 4
"""Number of missing heartbeats after which a stream counts as dead."""

STEADY = 10.0
"""Seconds after which a connection counts as working, even without an event."""


class _Opening(msgspec.Struct):
    heartbeat: float


class _Closing(msgspec.Struct):
    reason: str


class ConnectionAttempt:
    """One connection of a stream, judged by the events it received.

    `silence` is the number of seconds without a byte after which it counts as dead. `worked` is whether it
    was more than a refusal.
    """

    def __init__(self, last_event_id: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self.silence = SILENCE
        self.finished = False
        self._decoder = wire.Decoder()
        self._decoder.last_event_id = last_event_id
        self._now = now
        self._opened: float | None = None
        self._brought = 0

    @property
    def last_event_id(self) -> str:
        """The id to resume after, or ""."""
        return self._decoder.last_event_id

    @property
    def retry(self) -> float | None:
        """The last `retry:` in seconds, or None."""
        return None if self._decoder.retry is None else self._decoder.retry / 1000

    @property
    def opened(self) -> bool:
        """Whether the server started a stream."""
        return self._opened is not None

    @property
    def worked(self) -> bool:
        """Whether the connection received anything but `$close`, or lasted for `STEADY` seconds."""
        # A refusal is a stream with only `$close`.
        lasted = self._now() - self._opened if self._opened is not None else 0.0
        return bool(self._brought) or lasted >= STEADY

    def open(self) -> None:
        """Record that the server started a stream."""
        self._opened = self._now()

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that the next bytes complete."""
        events = self._decoder.feed(data)
        for event in events:
            self._note(event)
        return events

    def _note(self, event: Event) -> None:
        if event.type == CLOSE:
            self.finished = _reason_of(event) == FINISHED
            return
        if event.type == OPEN:
            self.silence = _silence_of(event)
        self._brought += 1


class Reconnections:
    """The connections of one subscription, one after the other.

    `reached` is whether the server answered any of them: then later failures are temporary.
    """

    def __init__(self, last_event_id: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self.reached = False
        self._last_event_id = last_event_id
        self._now = now
        self._retry = DEFAULT_RETRY
        self._failures = 0
        self._finished = False

    def begin(self) -> ConnectionAttempt:
        """Return the next connection, which resumes where the previous one ended."""
        return ConnectionAttempt(self._last_event_id, now=self._now)

    def fail(self, connection: ConnectionAttempt, error: AttemptError) -> None:
        """Record the failure of a connection. Raises the error if no reconnection can help."""
        # An answer is temporary or not by its status. Without any answer ever, the address is probably wrong.
        self.reached = self.reached or connection.opened
        if not (error.transient if error.answered else self.reached):
            raise error
        self.reached = True

    def wait_after(self, connection: ConnectionAttempt, *, retry_after: float | None = None) -> float:
        """Return the seconds to wait before the next connection."""
        self.reached = True
        self._last_event_id = connection.last_event_id
        self._retry = self._retry if connection.retry is None else connection.retry
        self._failures = 0 if connection.worked else self._failures + 1
        return delay(self._base(connection), self._failures, at_least=retry_after)

    def _base(self, connection: ConnectionAttempt) -> float:
        # `finished` comes with a `retry` of a minute or more, for clients that ignore the 204 that follows.
        # This client asks for that 204 soon. If the server sends `finished` again instead, wait the minute.
        hurried = connection.finished and not self._finished
        self._finished = connection.finished
        return min(self._retry, DEFAULT_RETRY) if hurried else self._retry


def _silence_of(opening: Event) -> float:
    try:
        heartbeat = msgspec.json.decode(opening.data, type=_Opening).heartbeat
    except msgspec.DecodeError:
        return SILENCE
    return max(HEARTBEATS * heartbeat, MIN_SILENCE) if heartbeat > 0 else SILENCE


def _reason_of(closing: Event) -> str:
    try:
        return msgspec.json.decode(closing.data, type=_Closing).reason
    except msgspec.DecodeError:
        return ""
