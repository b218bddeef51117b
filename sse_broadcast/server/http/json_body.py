"""JSON bodies: decode them, and explain in plain words what is wrong."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

import msgspec

from sse_broadcast.config.schema import Config
from sse_broadcast.config.suggestions import meant
from sse_broadcast.json_depth import TOO_DEEP, first_deep_item, is_too_deep
from sse_broadcast.server.http.problem import Problem

T = TypeVar("T")
D = TypeVar("D")

NOT = "{not}"
"""The place in a rule for the actual type: `must be text{not}` becomes `must be text, not a number`."""

_UNKNOWN = "Object contains unknown field `"
_ITEM = re.compile(r"\$\[(\d{1,9})\]`")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_GOT = re.compile(r"Expected `.*`, got `(\w+)`")
_PATH = re.compile(r"(?:key` in `)?\$(?:\[(\d{1,9})\])?(?:\.(\w{1,64}))?[^`]*`")
"""A place in msgspec's messages: an item of an array, a member of an object."""

_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a number",
    "null": "null",
    "object": "an object",
    "str": "text",
}
"""Plain words for msgspec's types."""


ESCAPED = 6
"""JSON may escape a character of one byte in six bytes: `\\u000a`. A body must have room for that."""

ENVELOPE = 4096
"""Bytes of a JSON body besides its message."""


def largest_event(config: Config) -> int:
    """Return the maximum bytes of one event as JSON."""
    return config.max_event * ESCAPED + ENVELOPE


def largest_body(config: Config) -> int:
    """Return the maximum bytes of a publish's body."""
    return max(largest_event(config), config.max_body)


class JsonShape(Generic[T]):
    """A JSON type to decode, with the rule of each member for error messages.

    A rule continues the member's name ("must be text"), and may contain `NOT`.
    """

    def __init__(self, kind: type[T], members: Mapping[str, str]) -> None:
        self._members = members
        self._one: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._many: msgspec.json.Decoder[list[T]] = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]

    def decode(self, body: bytes) -> T:
        """Decode one object. Raises `Problem`: 400 for invalid JSON, 422 for the wrong shape."""
        return self._decode(self._one.decode, body, in_array=False)

    def decode_array(self, body: bytes) -> list[T]:
        """Decode an array of objects. A `Problem` names the item with the fault."""
        return self._decode(self._many.decode, body, in_array=True)

    def decode_quickly(self, body: bytes) -> T:
        """Decode one object that is probably valid. Raises msgspec's errors."""
        return self._one.decode(body)

    def _decode(self, decode: Callable[[bytes], D], body: bytes, *, in_array: bool) -> D:
        try:
            return decode_json(decode, body, in_array=in_array)
        except msgspec.ValidationError as error:
            raise Problem(422, self._explain(str(error), in_array=in_array)) from None

    def _explain(self, said: str, *, in_array: bool) -> str:
        """Return what is wrong: the place, what the value must be, and what it is."""
        if said.startswith(_UNKNOWN):
            return self._explain_unknown(said.removeprefix(_UNKNOWN), in_array=in_array)
        what, _, path = said.rpartition(" - at `")
        found = _PATH.fullmatch(path)
        if found is None:
            return self._explain_at(said, None)
        item, member = found.groups()
        where = "" if item is None else f"item {int(item) + 1}: "
        return where + self._explain_at(what, member)

    def explain_member(self, member: str, said: str) -> str:
        """Return what is wrong with a member that was decoded separately, from msgspec's message."""
        return self._explain_at(said.partition(" - at `")[0], member)

    def _explain_unknown(self, said: str, *, in_array: bool) -> str:
        # The member's name comes from the client and may look like a place. msgspec adds one only in an
        # array.
        name, _, place = said.rpartition("` - at `")
        if in_array and (item := _ITEM.fullmatch(place)):
            return f"item {int(item[1]) + 1}: {unknown_member(name, self._members)}"
        return unknown_member(said.removesuffix("`"), self._members)

    def _explain_at(self, what: str, member: str | None) -> str:
        if missing := _MISSING.fullmatch(what):
            return f"{missing[1]}: is missing"
        got = _GOT.fullmatch(what)
        is_now = f", not {_WORDS.get(got[1], got[1])}" if got else ""
        if member is None:
            return f"must be a JSON object{is_now}"
        return f"{member}: {self._members[member].replace(NOT, is_now)}"


def unknown_member(name: str, known: Collection[str]) -> str:
    """Return the message for an unknown member, with a suggestion."""
    suggestion = meant(name, known)
    hint = f"did you mean {suggestion}?" if suggestion else f"{', '.join(known)} are known"
    return f"{name[:80]}: unknown member; {hint}"


def decode_json(decode: Callable[[bytes], D], body: bytes, *, in_array: bool = False) -> D:
    """Decode a JSON body. Raises `Problem` for what is not JSON, `msgspec.ValidationError` for its shape.

    A shape bounds how deep all is nested but what may be anything: see `require_shallow`.
    """
    require_utf8(body)
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise _not_json(body, error) from None
    except RecursionError:
        item = f"item {first_deep_item(body)}: " if in_array else ""
        raise Problem(422, f"{item}body: {TOO_DEEP}") from None


def decode_anything(body: bytes) -> object:
    """Decode JSON of any shape. Raises `Problem`."""
    require_shallow(body)
    try:
        return decode_json(msgspec.json.decode, body)
    except msgspec.ValidationError:
        raise Problem(422, "body: has a number that is too large") from None


def has_more_items(array: bytes, most: int) -> bool:
    """Return whether a JSON array has more than `most` items, while keeping one item at a time.

    Invalid JSON in it is left to the decoder. Raises `Problem`.
    """
    require_utf8(array)
    text = array.decode()
    place = text.index("[")
    try:
        for _ in range(most):
            _, place = _ITEMS.raw_decode(text, _behind_blank(text, place + 1))
            place = _behind_blank(text, place)
            if text[place : place + 1] != ",":
                return False
    except ValueError:
        return False
    except RecursionError:
        raise Problem(422, f"body: {TOO_DEEP}") from None
    return True


def _behind_blank(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return place if found is None else found.end()


def require_shallow(data: bytes) -> None:
    """Raise `Problem` for JSON that is nested too deep."""
    # A limit of our own: the decoder's depends on the interpreter.
    if is_too_deep(data):
        raise Problem(422, f"body: {TOO_DEEP}")


def require_utf8(body: bytes) -> None:
    """Raise `Problem` for a body that is not UTF-8, naming the byte."""
    # Before decoding: msgspec counts bytes from the start of the faulty string, and skips parts that it
    # does not need.
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, f"body: is not UTF-8 at byte {error.start}") from None


def _not_json(body: bytes, error: msgspec.DecodeError) -> Problem:
    if is_too_deep(body):  # which fault a decoder finds first depends on the interpreter
        return Problem(422, f"body: {TOO_DEEP}")
    # msgspec reports a lone surrogate as truncated input. It is valid JSON, for text that UTF-8 cannot
    # encode.
    try:
        json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return Problem(400, f"body: is not JSON: {error}")
    return Problem(422, "body: has a lone surrogate, which no event can carry")


def _refuse_constant(name: str) -> None:
    """Raise for NaN and Infinity, which Python accepts and JSON does not have."""
    raise ValueError(name)


# Numbers stay text: Python refuses to convert those of thousands of digits, which JSON allows.
_ITEMS = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
_BLANK = re.compile(r"[ \t\r\n]*")
