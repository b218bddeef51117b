"""Channels: the grammar of their names, patterns, and the selector of a subscriber."""

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
"""A function that returns whether a channel matches."""

SHARED_NAMES = 1024
"""Number of recently used channels whose publications share one name tuple."""

NAME_CHARACTERS = "A-Za-z0-9._:@~-"
"""Characters of a name, for a character class of a regular expression. The hyphen is last."""

PATTERN_CHARACTERS = "A-Za-z0-9._:@~*-"
"""Characters of a pattern, in the same form."""

NO_FOLDER = r"(?!\.{1,2}$)"
"""A lookahead that refuses the names `.` and `..`: clients resolve such segments of a path."""

CHANNEL_NAME = re.compile(rf"{NO_FOLDER}[{NAME_CHARACTERS}]{{1,{MAX_NAME_LENGTH}}}")
"""A whole name, for `fullmatch`."""

_PATTERN = re.compile(rf"{NO_FOLDER}[{PATTERN_CHARACTERS}]{{1,{MAX_NAME_LENGTH}}}")
_NOT_IN_A_NAME = re.compile(rf"[^{NAME_CHARACTERS}]")
_NOT_IN_A_PATTERN = re.compile(rf"[^{PATTERN_CHARACTERS}]")
_STARS = re.compile(r"\*{2,}")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Selector:
    """The channels of a subscriber by name and by pattern, and the event types it wants (None is all).

    It is normalised: the same channels in another order make an equal selector.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    types: frozenset[str] | None = None
    channels: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names and patterns, as users see them."""
    # Computed once: each subscriber that joins looks its group up by the selector.
    _hash: int = field(init=False, repr=False, compare=False)
    # Compiled at first use and kept: each publication needs it.
    _matches: Matcher | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", self.names + self.patterns)
        object.__setattr__(self, "_hash", hash((self.names, self.patterns, self.types)))

    def __hash__(self) -> int:
        return self._hash

    @staticmethod
    def parse(*channels: str, types: Sequence[str] | None = None) -> "Selector":
        """Return the selector of channels and patterns. Concurrent callers with the same ones share it.

        Its time grows with the number of names: limit them before. Raises `EventError` for an invalid name,
        and `TypeError` for one that is not text.
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
        """Return whether the subscriber gets events of this type. It always gets the server's own."""
        return self.types is None or event_type in self.types or event_type.startswith(RESERVED)

    def matches(self, channel: str) -> bool:
        """Return whether the selector contains a channel."""
        return channel in self.names or (bool(self.patterns) and self._matched(channel))

    def first_match(self, channels: Sequence[str]) -> str | None:
        """Return the first of a publication's channels that the selector contains, or None."""
        if len(channels) == 1 and not self.patterns:
            return channels[0] if channels[0] in self.names else None
        return next(filter(self.matches, channels), None)

    def matches_in(self, channels: Sequence[str]) -> str | None:
        """Return all of a publisher's channels that were asked for, in its order, with commas between."""
        if len(channels) == 1 and not self.patterns:
            return channels[0] if channels[0] in self.names else None
        return ",".join(filter(self.matches, channels)) or None

    def _matched(self, channel: str) -> bool:
        matches = self._matches
        if matches is None:
            matches = compile_patterns(*self.patterns)
            object.__setattr__(self, "_matches", matches)
        return matches(channel)


# Weak: a selector stays while someone uses it. A strong cache would keep the names of refused requests.
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
    # `a**` means the same as `a*`. Without this, many stars would cost many steps for each match.
    patterns = sorted({_STARS.sub(ANY, name) for name in channels if ANY in name})
    return Selector(tuple(names), tuple(patterns), types)


def compile_patterns(*patterns: str) -> Matcher:
    """Return a function that tells whether a channel matches one of the patterns.

    Compiling takes microseconds. Matching takes time in proportion to the length of the name, for each text
    between two stars.
    """
    # No regular expressions: each piece is searched once, at its first place, and never tried again
    # elsewhere. So no pattern of a client can make a match slow. Callers need not cache the result.
    if len(patterns) == 1:
        return _matcher_of(patterns[0])
    prefixes, suffixes, inner, others = [], [], [], []
    for pattern in patterns:
        first, middle, last = _pieces(pattern)
        if ANY not in pattern or sum(map(bool, (first, last, *middle))) > 1:
            # A name without the longest piece cannot match. Checking that first costs a tenth of a call.
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
    """Return the maximum number of texts to search in a name for these patterns, some 0.1 us each."""
    return sum(pattern.count(ANY) + 1 for pattern in patterns)


def _any_of(
    prefixes: tuple[str, ...], suffixes: tuple[str, ...], inner: list[str], others: list[tuple[str, Matcher]]
) -> Matcher:
    if not (suffixes or inner or others):
        return lambda name: name.startswith(prefixes)

    def match(name: str) -> bool:
        if name.startswith(prefixes) or name.endswith(suffixes):
            return True
        # Loops: any() takes four times as long.
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
    """Return the start, the inner texts in order, and the end that a matching name must have."""
    first, *middle = pattern.split(ANY)
    last = middle.pop() if middle else ""
    return first, [piece for piece in middle if piece], last


def validate_channels(channels: Sequence[str]) -> tuple[str, ...]:
    """Return the channels of a publish in order, without duplicates. Raises `EventError`, `TypeError`.

    Its time grows with the number of names: limit them before.
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
    """Return the names of a publication; for one channel, the same tuple each time."""
    # Publications keep their names: sharing saves 150 bytes each. Not for names of refused requests, since
    # the cache keeps some of them.
    return _one_name(names[0]) if len(names) == 1 else names


@functools.lru_cache(maxsize=SHARED_NAMES)
def _one_name(name: str) -> tuple[str, ...]:
    return (name,)


def _raise_not_text(what: str, name: object) -> NoReturn:
    given = type(name).__name__
    hint = "; give the names one by one, or with a * before the list" if given in {"list", "tuple"} else ""
    raise TypeError(f"{what}: a name must be text, not {given}{hint}")


def _raise_invalid_name(name: str, unwanted: re.Pattern[str]) -> NoReturn:
    """Raise the `EventError` that explains what is wrong with a name."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise EventError("channel", f"must be 1 to {MAX_NAME_LENGTH} characters: {name[:80]!r}")
    if bad := unwanted.search(name):
        raise EventError("channel", f"must not contain {bad[0]!a}: {name[:80]!a}")
    raise EventError("channel", f"must not be {name!r}, which clients resolve as a folder in a path")
