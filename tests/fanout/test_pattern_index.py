"""Pattern index: find the patterns that match a channel without matching all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.channels import Matcher, Selector, compile_patterns
from sse_broadcast.fanout import pattern_index
from sse_broadcast.fanout.pattern_index import BUCKET, MAX_CROWDED_STEPS, IndexedPattern, PatternIndex

names = st.text("ab.^$", min_size=1, max_size=12).map(lambda name: name.replace("^", "c").replace("$", "d"))
patterns = st.lists(st.text("ab.*", max_size=10).map(lambda text: f"{text}*"), max_size=40)


class Indexed:
    """An index, and the patterns in it."""

    def __init__(self, *texts: str) -> None:
        self.index = PatternIndex()
        self.patterns: dict[str, IndexedPattern] = {}
        for serial, text in enumerate(dict.fromkeys(texts), 1):
            self.patterns[text] = IndexedPattern(text, serial)
            self.index.add(self.patterns[text])

    def matching(self, name: str) -> list[str]:
        return sorted(pattern.text for pattern in self.index.matching(name))

    def remove(self, text: str) -> None:
        self.index.remove(self.patterns.pop(text))


@given(patterns, st.lists(names, max_size=5), st.data())
def test_the_index_finds_what_matching_all_patterns_finds(
    texts: list[str], channels: list[str], data: st.DataObject
) -> None:
    """It finds each once, after any additions and removals."""
    canonical = Selector.parse("x", *texts).patterns
    filed = Indexed(*canonical)
    for text in canonical:
        if data.draw(st.booleans()):
            filed.remove(text)
    for name in channels:
        assert filed.matching(name) == sorted(text for text in filed.patterns if compile_patterns(text)(name))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("*", "a"), ("a*", "a"), ("*a", "a"), ("*a*", "a"), ("ab*", "ab"), ("*bc", "abc"), ("a*c", "ac")],
)
def test_the_ends_of_a_pattern_are_indexed(pattern: str, name: str) -> None:
    """A star may match nothing, and a pattern may have no literal text but its ends."""
    filed = Indexed(pattern)
    assert filed.matching(name) == [pattern]
    filed.remove(pattern)
    assert filed.matching(name) == []


def test_a_name_is_matched_with_patterns_that_share_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand patterns, each with a text of its own, it is a handful."""
    asked: list[str] = []

    def noted(pattern: str) -> Matcher:
        def matches(name: str) -> bool:
            asked.append(pattern)
            return compile_patterns(pattern)(name)

        return matches

    monkeypatch.setattr(pattern_index, "compile_patterns", noted)
    filed = Indexed(*(f"user.{number}.*" for number in range(10_000)))
    assert filed.matching("user.1234.x") == ["user.1234.*"]
    assert len(asked) <= BUCKET


def test_the_cost_of_a_new_channel_is_limited() -> None:
    """Similar patterns beyond the room in their buckets are refused."""
    filed = Indexed()
    steps = 0
    for number in range(MAX_CROWDED_STEPS):
        text = "*" + "*".join(f"{number:014b}") + "*"
        if not filed.index.has_room([text]):
            break
        filed.patterns[text] = pattern = IndexedPattern(text, number)
        filed.index.add(pattern)
        steps += text.count("*") + 1
    assert MAX_CROWDED_STEPS - 16 < steps - 2 * BUCKET * 16 <= MAX_CROWDED_STEPS
    assert filed.index.has_room(["*2*"])
    for text in tuple(filed.patterns):
        filed.remove(text)
    assert filed.index.has_room(["*" + "*".join(f"{0:014b}") + "*"])
