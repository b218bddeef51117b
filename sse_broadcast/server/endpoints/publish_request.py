"""Published bodies: their shapes, and the drafts made of them."""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import msgspec

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.channels import DEFAULT_CHANNEL, shared
from sse_broadcast.errors import BroadcastError
from sse_broadcast.event import DEFAULT_TYPE, LONGEST_RETRY, SHORTEST_RETRY, Event
from sse_broadcast.publication import Draft
from sse_broadcast.server.http.json_body import JsonShape, decode_json, has_more_items, require_shallow
from sse_broadcast.server.http.problem import Problem, status_of
from sse_broadcast.server.http.responses import UNSET

Unset = msgspec.UnsetType


class PublishBody(msgspec.Struct, forbid_unknown_fields=True):
    """A published event as JSON. Exactly one of `message` (text) and `data` (any JSON) is given.

    A member of another name is refused: a misspelt `channel` must not publish to everybody.
    """

    schema_name: ClassVar = "Message"

    message: str | Unset = UNSET
    data: msgspec.Raw | Unset = UNSET
    event: str | None = None
    id: str | None = None
    # JSON has one kind of number: 3000.0 is as whole as 3000.
    retry: Annotated[float, msgspec.Meta(ge=SHORTEST_RETRY, le=LONGEST_RETRY, multiple_of=1)] | None = None
    key: str | None = None
    channel: str | None = None
    # Taken apart when it is known to be few: a body has room for a million names.
    channels: msgspec.Raw | Unset = UNSET

    def to_event(self) -> Event:
        """Return the event that is meant. Raises `Problem` or `EventError`."""
        event_type = DEFAULT_TYPE if self.event is None else self.event
        retry = None if self.retry is None else int(self.retry)
        if self.data is UNSET:
            if self.message is UNSET:
                raise Problem(422, "message: is missing; it is the text to publish, data any JSON")
            return Event(self.message, event_type, self.id, retry, self.key)
        if self.message is not UNSET:
            raise Problem(422, "message and data: only one of them may be given")
        value = bytes(self.data)
        require_shallow(value)
        if value.startswith(b'"'):
            return Event(decode_json(_text.decode, value), event_type, self.id, retry, self.key)
        data = decode_json(_compact, value)
        return Event(data, event_type, self.id, retry, self.key, json=True)


EVENT_MEMBERS = {
    "message": "must be text{not}; JSON goes in data",
    "data": "must be JSON",
    "event": "must be text{not}",
    "id": "must be text{not}",
    "retry": f"must be whole milliseconds from {SHORTEST_RETRY} to {LONGEST_RETRY}{{not}}",
    "key": "must be text{not}",
    "channel": "must be text{not}; several go in channels",
    "channels": "must be a list of names{not}",
}
"""What each member of an event must be."""

_message = JsonShape(PublishBody, EVENT_MEMBERS)
_text = msgspec.json.Decoder(str)
_names = msgspec.json.Decoder(list[str] | None)
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")


def _compact(value: bytes) -> str:
    return msgspec.json.format(value, indent=-1).decode()


class DraftBuilder:
    """Turns what one request publishes into drafts.

    `named` are the channels its address names, `most` is the number of events that a batch may have. `permit`
    raises `Problem` for channels that the caller may not publish to.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        named: Sequence[str],
        *,
        most: int,
        permit: Callable[[Sequence[str]], object],
    ) -> None:
        self._broadcaster = broadcaster
        self._most = most
        self._named = bool(named)
        self._permit = permit
        # Checked once for all that goes there: at once, unless the events may name others themselves.
        self._places = broadcaster.validate_channels(tuple(named) or (DEFAULT_CHANNEL,))
        self._permitted = False
        if named:
            self._permit_places()

    def from_event(self, event: Event) -> Draft:
        """Return an event for the channels of the address."""
        if not self._permitted:
            self._permit_places()
        return self._broadcaster.prepare(event, self._places)

    def from_message(self, message: PublishBody) -> Draft:
        """Return a JSON event, for the channels it names itself if the address named none."""
        if message.channel is None and message.channels is UNSET:
            return self.from_event(message.to_event())
        named = self._own_channels(message)
        if named is None:
            return self.from_event(message.to_event())
        places = self._broadcaster.validate_channels(named)
        self._permit(places)
        return self._broadcaster.prepare(message.to_event(), shared(places))

    def from_json(self, body: bytes) -> Draft:
        """Return the one event of a JSON object."""
        return self.from_message(_message.decode(body))

    def from_array(self, body: bytes) -> list[Draft]:
        """Return the events of a JSON array. A `Problem` names the item it is about."""
        # Each event has a brace at least, so that most bodies need not be counted.
        if body.count(b"{") > self._most and has_more_items(body, self._most):
            raise self._too_many()
        return self._all(_message.decode_array(body), lambda index: f"item {index + 1}")

    def from_ndjson(self, body: bytes) -> list[Draft]:
        """Return the events of NDJSON; empty lines are none. A `Problem` names the line it is about."""
        lines = list(itertools.islice(_LINE.finditer(body), self._most + 1))
        if len(lines) > self._most:
            raise self._too_many()
        try:
            body.decode()
            messages = [_message.decode_quickly(line[0]) for line in lines]
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            messages = [self._line(line) for line in lines]
        return self._all(messages, lambda index: _place_of(lines[index]))

    def _permit_places(self) -> None:
        self._permit(self._places)
        self._places = shared(self._places)
        self._permitted = True

    def _too_many(self) -> Problem:
        return Problem(413, f"batch: more than {self._most} events")

    def _all(self, messages: Sequence[PublishBody], place: Callable[[int], str]) -> list[Draft]:
        if not messages:
            raise Problem(422, "batch: is empty")
        if len(messages) > self._most:
            raise self._too_many()
        drafts: list[Draft] = []
        for message in messages:
            try:
                drafts.append(self.from_message(message))
            except (Problem, BroadcastError) as error:
                raise at_line(error, place(len(drafts))) from None
        return drafts

    def _own_channels(self, message: PublishBody) -> Sequence[str] | None:
        """Return the channels that an event names itself, or None if it names none."""
        several = None if message.channels is UNSET else self._several(bytes(message.channels))
        if several is None and message.channel is None:
            return None
        if self._named:
            raise Problem(422, "channel: the address of the request names the channels already")
        if several is None:
            return (message.channel or "",)
        if message.channel is not None:
            raise Problem(422, "channel and channels: only one of them may be given")
        return several

    def _several(self, channels: bytes) -> list[str] | None:
        """Take apart the JSON of a list of names, which has as many commas as it has names, less one."""
        if channels.startswith(b"["):
            self._broadcaster.check_channel_count(channels.count(b",") + 1)
        try:
            return decode_json(_names.decode, channels)
        except msgspec.ValidationError as error:
            raise Problem(422, _message.explain_member("channels", str(error))) from None

    def _line(self, line: re.Match[bytes]) -> PublishBody:
        try:
            return _message.decode(line[0])
        except Problem as problem:
            raise at_line(problem, _place_of(line)) from None


def at_line(error: Problem | BroadcastError, place: str) -> Problem:
    """Return an error as the problem it is, saying in which line or item."""
    if isinstance(error, Problem):
        return Problem(error.status, f"{place}: {error}", headers=error.headers)
    return Problem(status_of(error), f"{place}: {error}")


def _place_of(line: re.Match[bytes]) -> str:
    """Return which line of its body this is; only one that is wrong is counted up to."""
    number = line.string.count(b"\n", 0, line.start()) + 1
    return f"line {number}"
