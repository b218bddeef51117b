"""The shapes a published body takes, and the drafts they become."""

import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

import msgspec

from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.errors import BroadcastError
from sse_broadcast.event import DEFAULT_TYPE, MAX_RETRY, Event
from sse_broadcast.interest import DEFAULT_CHANNEL
from sse_broadcast.publication import Draft
from sse_broadcast.server.problem import Problem, status_of

T = TypeVar("T")

Unset = msgspec.UnsetType
UNSET = msgspec.UNSET


class Message(msgspec.Struct):
    """A published event as JSON. Exactly one of `message` (text) and `data` (any JSON) is given."""

    message: str | Unset = UNSET
    data: msgspec.Raw | Unset = UNSET
    event: str | None = None
    id: str | None = None
    # JSON has one kind of number: 3000.0 is as whole as 3000.
    retry: Annotated[float, msgspec.Meta(ge=0, le=MAX_RETRY, multiple_of=1)] | None = None
    key: str | None = None
    channel: str | None = None
    channels: list[str] | None = None

    def to_event(self) -> Event:
        """Give the event that is meant. Raises `Problem` or `EventError`."""
        event_type = DEFAULT_TYPE if self.event is None else self.event
        retry = None if self.retry is None else int(self.retry)
        if self.data is UNSET:
            if self.message is UNSET:
                raise Problem(422, "message: missing")
            return Event(self.message, event_type, self.id, retry, self.key)
        if self.message is not UNSET:
            raise Problem(422, "message and data: only one of them may be given")
        value = bytes(self.data)
        if value.startswith(b'"'):
            return Event(decoded(_text.decode, value), event_type, self.id, retry, self.key)
        data = decoded(_compact, value)
        return Event(data, event_type, self.id, retry, self.key, json=True)


_one = msgspec.json.Decoder(Message)
_many = msgspec.json.Decoder(list[Message])
_text = msgspec.json.Decoder(str)

_ITEM = re.compile(r"(.*) - at `\$\[(\d+)\](.*)`")
"""How msgspec names a place in an array."""


def _compact(value: bytes) -> str:
    return msgspec.json.format(value, indent=-1).decode()


class Desk:
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
        self._places = broadcaster.places(tuple(named) or (DEFAULT_CHANNEL,))
        self._permitted = False
        if named:
            self._require_places()

    def draft(self, event: Event) -> Draft:
        """Give an event for the channels of the address."""
        self._require_places()
        return self._broadcaster.draft_for(event, self._places)

    def message(self, message: Message) -> Draft:
        """Give a JSON event, for the channels it names itself if the address named none."""
        if message.channel is None and message.channels is None:
            return self.draft(message.to_event())
        draft = self._broadcaster.draft(message.to_event(), self._own_channels(message))
        self._permit(draft.channels)
        return draft

    def object(self, body: bytes) -> Draft:
        """Give the one event of a JSON object."""
        require_utf8(body)
        return self.message(decoded(_one.decode, body))

    def array(self, body: bytes) -> list[Draft]:
        """Give the events of a JSON array. A `Problem` names the item it is about."""
        require_utf8(body)
        try:
            messages = decoded(_many.decode, body)
        except Problem as problem:
            raise _item_of(problem) from None
        return self._all(messages, lambda index: f"item {index + 1}")

    def lines(self, body: bytes) -> list[Draft]:
        """Give the events of NDJSON; empty lines are none. A `Problem` names the line it is about."""
        lines = list(itertools.islice(_numbered(body), self._most + 1))
        if len(lines) > self._most:
            raise self._too_many()
        try:
            require_utf8(body)
            messages = [_one.decode(line) for _, line in lines]
        except (Problem, msgspec.DecodeError, RecursionError):
            messages = [self._line(number, line) for number, line in lines]
        return self._all(messages, lambda index: f"line {lines[index][0]}")

    def _require_places(self) -> None:
        if not self._permitted:
            self._permit(self._places)
            self._permitted = True

    def _too_many(self) -> Problem:
        return Problem(413, f"batch: more than {self._most} events")

    def _all(self, messages: Sequence[Message], place: Callable[[int], str]) -> list[Draft]:
        if not messages:
            raise Problem(422, "batch: is empty")
        if len(messages) > self._most:
            raise self._too_many()
        drafts: list[Draft] = []
        for message in messages:
            try:
                drafts.append(self.message(message))
            except (Problem, BroadcastError) as error:
                raise placed(error, place(len(drafts))) from None
        return drafts

    def _own_channels(self, message: Message) -> Sequence[str]:
        if self._named:
            raise Problem(422, "channel: the address of the request names the channels already")
        if message.channels is None:
            return (message.channel or "",)
        if message.channel is not None:
            raise Problem(422, "channel and channels: only one of them may be given")
        return message.channels

    def _line(self, number: int, line: bytes) -> Message:
        try:
            require_utf8(line)
            return decoded(_one.decode, line)
        except Problem as problem:
            raise placed(problem, f"line {number}") from None


def _item_of(problem: Problem) -> Problem:
    """Give the problem of an array as that of the item to blame, if it is one's."""
    found = _ITEM.fullmatch(problem.detail)
    if found is None:
        return problem
    said, index, rest = found.groups()
    where = f" - at `${rest}`" if rest else ""
    return Problem(problem.status, f"item {int(index) + 1}: {said}{where}")


def placed(error: Problem | BroadcastError, place: str) -> Problem:
    """Give an error as the problem it is, saying in which line or item."""
    if isinstance(error, Problem):
        return Problem(error.status, f"{place}: {error}", headers=error.headers)
    return Problem(status_of(error), f"{place}: {error}")


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """Give what a JSON body says. Raises `Problem`: 400 for what is not JSON, 422 for another shape."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, str(error)) from None
    except msgspec.DecodeError as error:
        raise _not_json(body, error) from None
    except RecursionError:
        raise Problem(422, "body: is nested too deeply") from None


def require_utf8(body: bytes) -> None:
    """Refuse a body that is not text. Raises `Problem`, naming the byte."""
    # Beforehand: msgspec counts from the beginning of the string that has the fault, and passes
    # over what it does not read.
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, f"body: is not UTF-8 at byte {error.start}") from None


def _not_json(body: bytes, error: msgspec.DecodeError) -> Problem:
    # msgspec calls half of a surrogate pair truncated input; it is JSON, of text that has no
    # UTF-8 form, and is told so.
    try:
        json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return Problem(400, f"body: is not JSON: {error}")
    return Problem(422, "body: has a lone surrogate, which no event can carry")


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python takes and JSON does not know."""
    raise ValueError(name)


def _numbered(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the lines that are not empty, with their numbers."""
    for number, line in enumerate(io.BytesIO(body), 1):
        if line.strip():
            yield number, line
