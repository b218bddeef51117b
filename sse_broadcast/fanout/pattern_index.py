"""Pattern index: the patterns that somebody follows, and which of them match a channel."""

from collections.abc import Iterable, Sequence

from sse_broadcast.channels import ANY, compile_patterns
from sse_broadcast.fanout.outbox import OutboxGroup

GRAM = 6
"""Characters of the texts by which patterns are found, at most."""

BUCKET = 8
"""Patterns that one text finds, before a pattern counts as crowded."""

MAX_CROWDED_STEPS = 8192
"""Texts between stars, of all crowded patterns together. To look for one in a name takes some 0.1 us."""

BEGIN, END = "^", "$"
"""Stand for a name's two ends: no name has them."""


class IndexedPattern:
    """A pattern that somebody follows, and who that is. `serial` is greater than that of every older one."""

    __slots__ = ("gram", "groups", "matches", "serial", "steps", "text")

    def __init__(self, text: str, serial: int) -> None:
        self.text = text
        self.serial = serial
        self.matches = compile_patterns(text)
        self.groups: dict[OutboxGroup, None] = {}
        self.gram = ""  # the text by which it is found
        self.steps = 0  # what it counts for among the crowded


class PatternIndex:
    """Finds the patterns that match a channel among those that have a text in common with its name.

    Each pattern is filed under one text of up to `GRAM` characters that every name it matches contains: the
    one that finds the fewest other patterns. A name is asked for all of its texts, some 750 at most. So what
    a new channel costs is bounded: `BUCKET` patterns for each of these texts, and the crowded ones, for which
    all of their texts were taken, and which count `MAX_CROWDED_STEPS` together.
    """

    __slots__ = ("_buckets", "_crowded", "_lengths")

    def __init__(self) -> None:
        self._buckets: dict[str, dict[IndexedPattern, None]] = {}
        self._lengths = [0] * (GRAM + 1)  # how many buckets have a text of this length
        self._crowded = 0

    def has_room(self, texts: Iterable[str]) -> bool:
        """Return whether patterns may be added, as far as they are crowded."""
        steps = sum(_steps(text) for text in texts if self._is_full(self._best(text)))
        return not steps or self._crowded + steps <= MAX_CROWDED_STEPS

    def add(self, pattern: IndexedPattern) -> None:
        """Find a pattern from now on."""
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
        """Find a pattern no longer."""
        self._crowded -= pattern.steps
        bucket = self._buckets[pattern.gram]
        del bucket[pattern]
        if not bucket:
            del self._buckets[pattern.gram]
            self._lengths[len(pattern.gram)] -= 1

    def matching(self, name: str) -> list[IndexedPattern]:
        """Return the patterns that match a channel, in no order."""
        text = f"{BEGIN}{name}{END}"
        found: list[IndexedPattern] = []
        for length, count in enumerate(self._lengths):
            if not count:
                continue
            grams = {text[at : at + length] for at in range(len(text) - length + 1)}
            for gram in grams:
                # Not by intersection: that may walk through a dict from which many have gone.
                if bucket := self._buckets.get(gram):
                    found += [pattern for pattern in bucket if pattern.matches(name)]
        return found

    def _is_full(self, gram: str) -> bool:
        return len(self._buckets.get(gram, ())) >= BUCKET

    def _best(self, text: str) -> str:
        """Return the text of a pattern that finds the fewest others; of several the longest."""
        buckets = self._buckets
        return min(_grams(text), key=lambda gram: (len(buckets.get(gram, ())), -len(gram)))


def _steps(text: str) -> int:
    return text.count(ANY) + 1


def _grams(text: str) -> Sequence[str]:
    """Return the texts that every name contains that a pattern matches: "" if there is none."""
    pieces = f"{BEGIN}{text}{END}".split(ANY)
    grams: list[str] = []
    for piece in pieces:
        if piece in {"", BEGIN, END}:
            continue
        length = min(GRAM, len(piece))
        grams += [piece[at : at + length] for at in range(len(piece) - length + 1)]
    return grams or [""]
