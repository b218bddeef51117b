"""Publish requests: parse the JSON of events, and make drafts of them."""

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
    """An event as JSON. Exactly one of `message` (text) and `data` (any JSON) must be present.

    Unknown members are refused.
    """

    # An event with a misspelt `channel` must not be published to the default channel.

    schema_name: ClassVar = "Message"

    message: str | Unset = UNSET
    data: msgspec.Raw | Unset = UNSET
    event: str | None = None
    id: str | None = None
    # A float, since JSON has one kind of number: 3000.0 is as valid as 3000.
    retry: Annotated[float, msgspec.Meta(ge=SHORTEST_RETRY, le=LONGEST_RETRY, multiple_of=1)] | None = None
    key: str | None = None
    channel: str | None = None
    # Parsed only after its names are counted: a body has room for a million.
    channels: msgspec.Raw | Unset = UNSET

    def to_event(self) -> Event:
        """Return the event. Raises `Problem` or `EventError`."""
        event_type = DEFAULT_TYPE if self.event is None else self.event
        retry = None if self.retry is None else int(self.retry)
        if self.data is UNSET:
            if self.message is UNSET:
                raise Problem(422, "message: is missing; send text as message, or any JSON as data")
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
    "channel": "must be text{not}; use channels for several",
    "channels": "must be a list of names{not}",
}
"""Rule for each member of an event, for error texts."""

_message = JsonShape(PublishBody, EVENT_MEMBERS)
_text = msgspec.json.Decoder(str)
_names = msgspec.json.Decoder(list[str] | None)
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")


def _compact(value: bytes) -> str:
    return msgspec.json.format(value, indent=-1).decode()


class DraftBuilder:
    """Makes drafts of the events of one request.

    `named` are the channels in the URL. `most` is the maximum number of events of a batch. `permit` raises
    `Problem` for channels that the caller is not allowed to publish to.
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
        # Checked once for all events. Without channels in the URL the permission for `default` is checked
        # later, since the events may name other channels.
        self._url_channels = broadcaster.validate_channels(tuple(named) or (DEFAULT_CHANNEL,))
        self._permitted = False
        if named:
            self._permit_url_channels()

    def from_event(self, event: Event) -> Draft:
        """Return the draft of an event for the channels in the URL, or for `default`."""
        if not self._permitted:
            self._permit_url_channels()
        return self._broadcaster.prepare(event, self._url_channels)

    def from_message(self, message: PublishBody) -> Draft:
        """Return the draft of a JSON event, for its own channels or for those in the URL."""
        if message.channel is None and message.channels is UNSET:
            return self.from_event(message.to_event())
        named = self._own_channels(message)
        if named is None:
            return self.from_event(message.to_event())
        channels = self._broadcaster.validate_channels(named)
        self._permit(channels)
        return self._broadcaster.prepare(message.to_event(), shared(channels))

    def from_json(self, body: bytes) -> Draft:
        """Return the draft of a JSON object."""
        return self.from_message(_message.decode(body))

    def from_array(self, body: bytes) -> list[Draft]:
        """Return the drafts of a JSON array. A `Problem` names the bad item."""
        # Each event has at least one brace: with few braces the items need not be counted.
        if body.count(b"{") > self._most and has_more_items(body, self._most):
            raise self._too_many()
        return self._all(_message.decode_array(body), lambda index: f"item {index + 1}")

    def from_ndjson(self, body: bytes) -> list[Draft]:
        """Return the drafts of NDJSON, without its empty lines. A `Problem` names the bad line."""
        lines = list(itertools.islice(_LINE.finditer(body), self._most + 1))
        if len(lines) > self._most:
            raise self._too_many()
        try:
            # The quick decoder does not say what is wrong. After an error each line is decoded again, slowly.
            body.decode()
            messages = [_message.decode_quickly(line[0]) for line in lines]
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            messages = [self._decode_line(line) for line in lines]
        return self._all(messages, lambda index: _line_number(lines[index]))

    def _permit_url_channels(self) -> None:
        self._permit(self._url_channels)
        self._url_channels = shared(self._url_channels)
        self._permitted = True

    def _too_many(self) -> Problem:
        return Problem(413, f"batch: more than {self._most} events")

    def _all(self, messages: Sequence[PublishBody], locate: Callable[[int], str]) -> list[Draft]:
        if not messages:
            raise Problem(422, "batch: is empty")
        if len(messages) > self._most:
            raise self._too_many()
        drafts: list[Draft] = []
        for message in messages:
            try:
                drafts.append(self.from_message(message))
            except (Problem, BroadcastError) as error:
                raise at_line(error, locate(len(drafts))) from None
        return drafts

    def _own_channels(self, message: PublishBody) -> Sequence[str] | None:
        """Return the channels of an event, or None if it names none."""
        channels = None if message.channels is UNSET else self._parse_channels(bytes(message.channels))
        if channels is None and message.channel is None:
            return None
        if self._named:
            raise Problem(422, "channel: the URL of the request already names the channels")
        if channels is None:
            return (message.channel or "",)
        if message.channel is not None:
            raise Problem(422, "channel and channels: only one of them may be given")
        return channels

    def _parse_channels(self, channels: bytes) -> list[str] | None:
        """Parse a JSON list of channel names. Raises `Problem` and `EventError`."""
        # Counted by commas before it is parsed. A name cannot contain one, so no valid list is refused.
        if channels.startswith(b"["):
            self._broadcaster.check_channel_count(channels.count(b",") + 1)
        try:
            return decode_json(_names.decode, channels)
        except msgspec.ValidationError as error:
            raise Problem(422, _message.explain_member("channels", str(error))) from None

    def _decode_line(self, line: re.Match[bytes]) -> PublishBody:
        try:
            return _message.decode(line[0])
        except Problem as problem:
            raise at_line(problem, _line_number(line)) from None


def at_line(error: Problem | BroadcastError, location: str) -> Problem:
    """Return an error as a `Problem` whose detail begins with its line or item."""
    if isinstance(error, Problem):
        return Problem(error.status, f"{location}: {error}", headers=error.headers)
    return Problem(status_of(error), f"{location}: {error}")


def _line_number(line: re.Match[bytes]) -> str:
    """Return `line N` for a match. Only called for a bad line, since it counts from the start of the body."""
    number = line.string.count(b"\n", 0, line.start()) + 1
    return f"line {number}"
