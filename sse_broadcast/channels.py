"""Selector: the channels and event types that a subscriber wants, and the grammar of channel names."""

import functools
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from sse_broadcast.errors import EventError
from sse_broadcast.event import RESERVED

DEFAULT_CHANNEL = "default"
MAX_NAME_LENGTH = 128
ANY = "*"
"""In a name: any characters, none included. It makes the name a pattern."""

Matcher = Callable[[str], bool]
"""What tells whether a channel matches."""

SHARED_NAMES = 1024
"""Channels whose names are shared between their publications; those published to last."""

NAME_CHARACTERS = "A-Za-z0-9._:@~-"
"""What a name is made of, as it stands in a character class of a regular expression; the hyphen is last."""

PATTERN_CHARACTERS = "A-Za-z0-9._:@~*-"
"""What a pattern is made of, likewise."""

NO_FOLDER = r"(?!\.{1,2}$)"
"""Stands before a name in a regular expression: clients resolve the segments `.` and `..` of a path."""

CHANNEL_NAME = re.compile(rf"{NO_FOLDER}[{NAME_CHARACTERS}]{{1,{MAX_NAME_LENGTH}}}")
"""A whole name, for `fullmatch`."""

_PATTERN = re.compile(rf"{NO_FOLDER}[{PATTERN_CHARACTERS}]{{1,{MAX_NAME_LENGTH}}}")
_NOT_IN_A_NAME = re.compile(rf"[^{NAME_CHARACTERS}]")
_NOT_IN_A_PATTERN = re.compile(rf"[^{PATTERN_CHARACTERS}]")
_STARS = re.compile(r"\*{2,}")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Selector:
    """Channels by name and by pattern, and the event types wanted of them (None is all).

    Normalised: who asks for the same in another order has the same selector.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    types: frozenset[str] | None = None
    channels: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names and patterns, as a reader is told of them."""
    # Every reader that joins is looked up by it.
    _hash: int = field(init=False, repr=False, compare=False)
    # Made when it is first needed, and kept: what forgets it would have to make it for each publication.
    _matches: Matcher | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", self.names + self.patterns)
        object.__setattr__(self, "_hash", hash((self.names, self.patterns, self.types)))

    def __hash__(self) -> int:
        return self._hash

    @staticmethod
    def parse(*channels: str, types: Sequence[str] | None = None) -> "Selector":
        """Return the selector of channels and patterns, which all share who ask for it at one time.

        It takes time for each name: let the number be bounded before. Raises `EventError` for a bad name, and
        `TypeError` for what is none.
        """
        for name in channels:
            if not isinstance(name, str):
                _raise_not_text("channels", name)
        if isinstance(types, str):
            raise TypeError(f"events: must be a sequence of types, not the string {types!r}")
        asked = (channels, frozenset(types) if types else None)
        selector = _selectors.get(asked)
        if selector is None:
            selector = _selectors[asked] = _selector(*asked)
        return selector

    def accepts_type(self, event_type: str) -> bool:
        """Whether events of this type pass. The server's own always do."""
        return self.types is None or event_type in self.types or event_type.startswith(RESERVED)

    def matches(self, channel: str) -> bool:
        """Whether the channel is one of those asked for."""
        return channel in self.names or (bool(self.patterns) and self._matched(channel))

    def first_match(self, channels: Sequence[str]) -> str | None:
        """Return the first of a publisher's channels that is one of those asked for, or None."""
        if len(channels) == 1 and not self.patterns:
            return channels[0] if channels[0] in self.names else None
        return next(filter(self.matches, channels), None)

    def _matched(self, channel: str) -> bool:
        matches = self._matches
        if matches is None:
            matches = compile_patterns(*self.patterns)
            object.__setattr__(self, "_matches", matches)
        return matches(channel)


# Weak, so that nothing stays of a request that is refused: a selector is here while somebody has it.
_selectors: weakref.WeakValueDictionary[tuple[tuple[str, ...], frozenset[str] | None], Selector] = (
    weakref.WeakValueDictionary()
)


def _selector(channels: tuple[str, ...], types: frozenset[str] | None) -> Selector:
    if not channels:
        raise EventError("channels", "must name at least one")
    for name in channels:
        if not _PATTERN.fullmatch(name):
            _raise_invalid_name(name, _NOT_IN_A_PATTERN)
    if len(channels) == 1 and ANY not in channels[0]:
        return Selector(channels, (), types)
    names = sorted({name for name in channels if ANY not in name})
    # Of stars in a row each but one says nothing: `a**` is `a*`, and nobody has it matched twice.
    patterns = sorted({_STARS.sub(ANY, name) for name in channels if ANY in name})
    return Selector(tuple(names), tuple(patterns), types)


def compile_patterns(*patterns: str) -> Matcher:
    """Return what tells whether a channel matches one of the patterns.

    To make it takes microseconds, so that nothing need be kept of what a caller sends. To match takes time
    in proportion to the name's length for each text between two stars: the first place of each is taken,
    and none is ever taken back.
    """
    if len(patterns) == 1:
        return _matcher_of(patterns[0])
    prefixes, suffixes, inner, others = [], [], [], []
    for pattern in patterns:
        first, middle, last = _pieces(pattern)
        if ANY not in pattern or sum(map(bool, (first, last, *middle))) > 1:
            # A name without its longest piece is out at once: that is a tenth of what the call costs.
            longest = max((last, *reversed(middle), first), key=len)
            others.append((longest, _matcher_of(pattern)))
        elif middle:
            inner.append(middle[0])
        elif last:
            suffixes.append(last)
        else:
            prefixes.append(first)
    return _any_of(tuple(prefixes), tuple(suffixes), inner, others)


def match_steps(patterns: Iterable[str]) -> int:
    """Return how many texts are looked for in a name at most, to tell whether a pattern matches.

    Each takes some 0.1 us.
    """
    return sum(pattern.count(ANY) + 1 for pattern in patterns)


def _any_of(
    prefixes: tuple[str, ...], suffixes: tuple[str, ...], inner: list[str], others: list[tuple[str, Matcher]]
) -> Matcher:
    if not (suffixes or inner or others):
        return lambda name: name.startswith(prefixes)

    def match(name: str) -> bool:
        if name.startswith(prefixes) or name.endswith(suffixes):
            return True
        # Loops, where any() would take four times as long.
        for piece in inner:
            if piece in name:
                return True
        for piece, matches in others:  # noqa: SIM110
            if piece in name and matches(name):
                return True
        return False

    return match


def _matcher_of(pattern: str) -> Matcher:
    first, middle, last = _pieces(pattern)
    if ANY not in pattern:
        return lambda name: name == first
    if not middle:
        return _ends_matcher(first, last)
    if not first and not last and len(middle) == 1:
        piece = middle[0]
        return lambda name: piece in name
    return _pieces_matcher(first, middle, last)


def _ends_matcher(first: str, last: str) -> Matcher:
    # Slices: startswith() and endswith() with one text take half as long again.
    begin, end = len(first), -len(last)
    if not last:
        return lambda name: name[:begin] == first
    if not first:
        return lambda name: name[end:] == last
    least = len(first) + len(last)
    return lambda name: name[end:] == last and name[:begin] == first and len(name) >= least


def _pieces_matcher(first: str, middle: Sequence[str], last: str) -> Matcher:
    begin, behind = len(first), len(last)
    least = begin + sum(map(len, middle)) + behind

    def match(name: str) -> bool:
        end = len(name) - behind
        if end + behind < least or name[:begin] != first or name[end:] != last:
            return False
        at = begin
        for piece in middle:
            at = name.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return match


def _pieces(pattern: str) -> tuple[str, list[str], str]:
    """Return what a name begins with, what follows in it in this order, and what it ends with."""
    first, *middle = pattern.split(ANY)
    last = middle.pop() if middle else ""
    return first, [piece for piece in middle if piece], last


def validate_channels(channels: Sequence[str]) -> tuple[str, ...]:
    """Return channels to publish to, each once, in their order. Raises `EventError`, `TypeError`.

    It takes time for each name, and keeps none: let the number be bounded before.
    """
    if isinstance(channels, str):
        raise TypeError(f"channels: must be a sequence of names, not the string {channels!r}")
    if not channels:
        raise EventError("channels", "must name at least one")
    for name in channels:
        if not isinstance(name, str):
            _raise_not_text("channels", name)
        if not CHANNEL_NAME.fullmatch(name):
            _raise_invalid_name(name, _NOT_IN_A_NAME)
    return tuple(channels) if len(channels) == 1 else tuple(dict.fromkeys(channels))


def shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a publication, for one channel the same tuple each time.

    Publications keep it: that is 150 bytes less for each. Call it for names that may be published to, since
    it remembers some.
    """
    return _one_name(names[0]) if len(names) == 1 else names


@functools.lru_cache(maxsize=SHARED_NAMES)
def _one_name(name: str) -> tuple[str, ...]:
    return (name,)


def _raise_not_text(what: str, name: object) -> NoReturn:
    given = type(name).__name__
    hint = "; give the names one by one, or with a * before the list" if given in {"list", "tuple"} else ""
    raise TypeError(f"{what}: a name must be text, not {given}{hint}")


def _raise_invalid_name(name: str, unwanted: re.Pattern[str]) -> NoReturn:
    """Raise the `EventError` that says what is wrong with a name."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise EventError("channel", f"must be 1 to {MAX_NAME_LENGTH} characters: {name[:80]!r}")
    if bad := unwanted.search(name):
        raise EventError("channel", f"must not contain {bad[0]!a}: {name[:80]!a}")
    raise EventError("channel", f"must not be {name!r}, which clients take for a folder")
