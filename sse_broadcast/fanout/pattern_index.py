"""Pattern index: find the subscribed patterns that match a channel."""

from collections.abc import Iterable, Sequence

from sse_broadcast.channels import ANY, compile_patterns
from sse_broadcast.fanout.outbox import OutboxGroup

GRAM = 6
"""Maximum characters of the texts that patterns are indexed by."""

BUCKET = 8
"""Patterns per text. A pattern beyond it counts as crowded."""

MAX_CROWDED_STEPS = 8192
"""Maximum texts between stars of all crowded patterns together. Searching one in a name takes about 0.1
us."""

BEGIN, END = "^", "$"
"""Marks for the two ends of a name. No name contains them."""


class IndexedPattern:
    """A subscribed pattern and its groups. Newer patterns have greater serials."""

    __slots__ = ("gram", "groups", "matches", "serial", "steps", "text")

    def __init__(self, text: str, serial: int) -> None:
        self.text = text
        self.serial = serial
        self.matches = compile_patterns(text)
        self.groups: dict[OutboxGroup, None] = {}
        self.gram = ""  # the text that it is indexed by
        self.steps = 0  # its part of MAX_CROWDED_STEPS


class PatternIndex:
    """Finds the patterns that match a channel by a text that both contain.

    Each pattern is indexed by one text of up to `GRAM` characters that every matching name contains: the one
    shared with the fewest other patterns. A name is looked up by all its texts, at most about 750. So the
    cost of a new channel is bounded: `BUCKET` patterns for each text, and the crowded patterns, limited to
    `MAX_CROWDED_STEPS` together.
    """

    __slots__ = ("_buckets", "_crowded", "_lengths")

    def __init__(self) -> None:
        self._buckets: dict[str, dict[IndexedPattern, None]] = {}
        self._lengths = [0] * (GRAM + 1)  # the number of buckets per length of text
        self._crowded = 0

    def has_room(self, texts: Iterable[str]) -> bool:
        """Return whether the limit of crowded patterns allows these patterns."""
        steps = sum(_steps(text) for text in texts if self._is_full(self._best(text)))
        return not steps or self._crowded + steps <= MAX_CROWDED_STEPS

    def add(self, pattern: IndexedPattern) -> None:
        """Add a pattern."""
        gram = pattern.gram = self._best(pattern.text)
        if self._is_full(gram):
            pattern.steps = _steps(pattern.text)
            self._crowded += pattern.steps
        bucket = self._buckets.get(gram)
        if bucket is None:
            bucket = self._buckets[gram] = {}
            self._lengths[len(gram)] += 1
        bucket[pattern] = None

    def remove(self, pattern: IndexedPattern) -> None:
        """Remove a pattern."""
        self._crowded -= pattern.steps
        bucket = self._buckets[pattern.gram]
        del bucket[pattern]
        if not bucket:
            del self._buckets[pattern.gram]
            self._lengths[len(pattern.gram)] -= 1

    def matching(self, name: str) -> list[IndexedPattern]:
        """Return the patterns that match a channel, in any order."""
        text = f"{BEGIN}{name}{END}"
        found: list[IndexedPattern] = []
        for length, count in enumerate(self._lengths):
            if not count:
                continue
            grams = {text[at : at + length] for at in range(len(text) - length + 1)}
            for gram in grams:
                # Not `grams & buckets.keys()`: that may iterate a dict with many deleted entries.
                if bucket := self._buckets.get(gram):
                    found += [pattern for pattern in bucket if pattern.matches(name)]
        return found

    def _is_full(self, gram: str) -> bool:
        return len(self._buckets.get(gram, ())) >= BUCKET

    def _best(self, text: str) -> str:
        """Return the text of a pattern that the fewest others share; among equals the longest."""
        buckets = self._buckets
        return min(_grams(text), key=lambda gram: (len(buckets.get(gram, ())), -len(gram)))


def _steps(text: str) -> int:
    return text.count(ANY) + 1


def _grams(text: str) -> Sequence[str]:
    """Return the texts that every matching name contains, or [""] if there is none."""
    pieces = f"{BEGIN}{text}{END}".split(ANY)
    grams: list[str] = []
    for piece in pieces:
        if piece in {"", BEGIN, END}:
            continue
        length = min(GRAM, len(piece))
        grams += [piece[at : at + length] for at in range(len(piece) - length + 1)]
    return grams or [""]
