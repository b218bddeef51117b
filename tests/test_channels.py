"""Channel names, patterns and selectors."""

import string
import sys
import weakref
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.channels import (
    DEFAULT_CHANNEL,
    MAX_NAME_LENGTH,
    SHARED_NAMES,
    Selector,
    compile_patterns,
    match_steps,
    shared,
    validate_channels,
)
from sse_broadcast.errors import EventError

LEGAL = string.ascii_letters + string.digits + "._:@~-"
ILLEGAL = [*sorted(set(map(chr, range(256))) - set(LEGAL) - {"*"}), *"\u0663\uff41\u2028\ud800😀"]


@pytest.mark.parametrize("character", LEGAL)
def test_a_name_may_have_this_character(character: str) -> None:
    """Letters, digits and `._:@~-` are literal in names and in patterns."""
    name = f"a{character}b"
    assert validate_channels([name]) == (name,)
    assert Selector.parse(name, name + "*").channels == (name, name + "*")
    assert Selector.parse(name + "*").matches(name)
    assert not Selector.parse(name + "*").matches(f"a{'x' if character != 'x' else 'y'}b")


@pytest.mark.parametrize("character", ILLEGAL)
def test_a_name_may_not_have_this_character(character: str) -> None:
    for refuse in (lambda name: validate_channels(["ok", name]), Selector.parse):
        with pytest.raises(EventError) as caught:
            refuse(f"a{character}")
        assert str(caught.value) == f"channel: must not contain {character!a}: {f'a{character}'!a}"
        assert caught.value.field == "channel"


def test_a_star_makes_a_pattern() -> None:
    """Publishers use names only, subscribers patterns too."""
    with pytest.raises(EventError, match=r"^channel: must not contain '\*': 'a\*'$"):
        validate_channels(["a*"])
    assert Selector.parse("a*").patterns == ("a*",)


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_urls_normalize_is_refused(name: str) -> None:
    """Clients remove these from a URL as names of folders."""
    for refuse in (lambda name: validate_channels([name]), Selector.parse):
        with pytest.raises(EventError) as caught:
            refuse(name)
        assert (
            str(caught.value) == f"channel: must not be {name!r}, which clients resolve as a folder in a path"
        )


@pytest.mark.parametrize("name", ["...", ".a", "a.", "a..b", "-", "~", "@", ":", "_", "1", DEFAULT_CHANNEL])
def test_other_unusual_names_are_accepted(name: str) -> None:
    assert validate_channels((name,)) == (name,)
    assert Selector.parse(name).names == (name,)


def test_consecutive_stars_are_one() -> None:
    """`a**` matches what `a*` matches, and is the same selector."""
    assert Selector.parse("a**b***", "***", "c") == Selector.parse("*", "a*b*", "a**b*", "c")
    assert Selector.parse("a**b***").channels == ("a*b*",)


def test_a_name_has_1_to_128_characters() -> None:
    longest = "x" * MAX_NAME_LENGTH
    assert validate_channels([longest]) == (longest,)
    assert Selector.parse(longest, "a" + "*" * (MAX_NAME_LENGTH - 1)).channels == (longest, "a*")
    for refuse in (lambda name: validate_channels([name]), Selector.parse):
        with pytest.raises(EventError, match=r"^channel: must be 1 to 128 characters: ''$"):
            refuse("")
        with pytest.raises(EventError, match=r"^channel: must be 1 to 128 characters: 'x{80}'$"):
            refuse(longest + "x")
    with pytest.raises(EventError, match=r"^channel: must be 1 to 128 characters"):
        Selector.parse("*" * 129)


def test_at_least_one_channel_is_required() -> None:
    """Both publishing and subscribing need one."""
    with pytest.raises(EventError, match=r"^channels: must name at least one$"):
        validate_channels([])
    with pytest.raises(EventError, match=r"^channels: must name at least one$"):
        Selector.parse()


def test_channels_of_a_publish_are_in_order_without_duplicates() -> None:
    """A subscriber's envelope has the first one that it asked for."""
    assert validate_channels(["b", "a", "b", "c", "a"]) == ("b", "a", "c")


def test_a_string_instead_of_a_list_of_channels_is_refused() -> None:
    """Otherwise each letter would be a channel."""
    with pytest.raises(TypeError, match=r"^channels: must be a sequence of names, not the string 'news'$"):
        validate_channels("news")


def test_equal_requests_share_one_selector() -> None:
    """Order and repetition do not matter: it is the same object."""
    wanted = [
        Selector.parse(*channels, types=types)
        for channels in permutations(["b", "a", "x*", "*y"])
        for types in (["t", "u"], ["u", "t", "t"])
    ]
    assert set(wanted) == {Selector(("a", "b"), ("*y", "x*"), frozenset({"t", "u"}))}
    assert Selector.parse("a", "a", "b*", "b*") == Selector(("a",), ("b*",), None)
    assert Selector.parse("a") is Selector.parse("a")


def test_an_unused_selector_is_not_cached() -> None:
    """Neither are its names: a refused request leaves nothing."""
    names = tuple(f"channel.{number}" for number in range(100))
    unused = [sys.getrefcount(name) for name in names]
    selector = weakref.ref(Selector.parse(*names))
    assert selector() is None
    assert [sys.getrefcount(name) for name in names] == unused


def test_only_valid_names_are_cached() -> None:
    """Validation itself caches nothing. Publications of one channel share the same tuple."""
    name = f"{SHARED_NAMES}.new"
    unused = sys.getrefcount(name)
    validate_channels((name,))
    assert sys.getrefcount(name) == unused
    assert shared((f"{SHARED_NAMES}.new",)) is shared((name,))
    assert shared(("a", "b")) == ("a", "b")


def test_an_empty_list_of_types_is_all_types() -> None:
    assert Selector.parse("a", types=[]) == Selector.parse("a", types=None) == Selector.parse("a")
    assert Selector.parse("a").accepts_type("anything")


def test_a_filter_passes_its_types_and_system_events() -> None:
    """Types are compared exactly."""
    selector = Selector.parse("a", types=["news", "x"])
    kinds = ["news", "x", "$reset", "$x", "message", "News", "newsy", "", "a$"]
    assert [kind for kind in kinds if selector.accepts_type(kind)] == kinds[:4]
    assert not Selector.parse("a", types=[""]).accepts_type("message")


def test_the_channels_of_a_selector_are_its_names_and_then_its_patterns() -> None:
    """Each are in alphabetical order, as in a `$reset`."""
    assert Selector.parse("*", "b", "z*", "a").channels == ("a", "b", "*", "z*")


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ["a", "a.b", ".", "*"], []),
        (
            "orders.*",
            ["orders.", "orders.eu", "orders.eu.1"],
            ["orders", "xorders.eu", "Orders.eu", "ordersXeu"],
        ),
        ("*.eu", ["orders.eu", ".eu", "a.b.eu"], ["eu", "orders.eux", "ordersXeu"]),
        ("a*b*c", ["abc", "aXbYc", "abcbc", "a.b.c"], ["ab", "abcd", "acb", "bc"]),
        ("a**c", ["ac", "abc"], ["a", "c"]),
        ("**", ["a"], []),
        ("a.b*", ["a.b", "a.bc"], ["aXb"]),
        ("~@:-_*", ["~@:-_", "~@:-_x"], ["~@:-x"]),
    ],
)
def test_a_star_matches_any_characters_or_none(pattern: str, matching: list[str], others: list[str]) -> None:
    """All other characters are literal, and the whole name must match."""
    assert [name for name in matching + others if Selector.parse(pattern).matches(name)] == matching


def naive_match(pattern: str, name: str) -> bool:
    """Match a pattern one character at a time, with a set of possible positions."""
    places = {0}
    for character in pattern:
        if character == "*":
            places = {after for place in places for after in range(place, len(name) + 1)}
        else:
            places = {place + 1 for place in places if name[place : place + 1] == character}
    return len(name) in places


PATTERNS = st.text("ab.*", min_size=1, max_size=12)
NAMES = st.text("ab.", min_size=1, max_size=12)


@given(st.lists(PATTERNS, min_size=1, max_size=5), NAMES)
def test_a_name_matches_if_one_of_the_patterns_does(patterns: list[str], name: str) -> None:
    selector = Selector((), tuple(patterns))
    assert selector.matches(name) == any(naive_match(pattern, name) for pattern in patterns)
    assert bool(compile_patterns(*patterns)(name)) == selector.matches(name)


@given(PATTERNS, NAMES)
def test_matching_agrees_with_a_naive_matcher(pattern: str, name: str) -> None:
    """Taking the leftmost position of each piece is enough."""
    assert bool(compile_patterns(pattern)(name)) == naive_match(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("a*" * 60, "a" * 128),
        ("a*" * 60 + "b", "a" * 128),
        ("*a" * 63 + "b", "a" * 127 + "c"),
        ("*a*" * 42, "a" * 128),
        ("*" * 127 + "b", "a" * 128),
        ("*ab" * 42 + "c", "ab" * 64),
        ("*a*b*a*b*a*b*a*b*a*b*c", "ab" * 64),
    ],
)
def test_no_pattern_takes_long(pattern: str, name: str) -> None:
    """A matcher with backtracking would never end."""
    assert bool(compile_patterns(pattern)(name)) == naive_match(pattern, name)


class CountedName(str):
    """A name that counts the searches in it."""

    __slots__ = ("looks",)

    def find(self, *args: Any) -> int:
        self.looks = getattr(self, "looks", 0) + 1
        return super().find(*args)


def test_each_piece_of_a_pattern_is_searched_once() -> None:
    """Between the two ends there are 62 searches, without backtracking, in any name."""
    name = CountedName("a" * 128)
    assert not compile_patterns("a*" * 63 + "b*")(name)
    assert compile_patterns("*a" * 63 + "*")(name)
    assert name.looks == 63 + 63
    assert match_steps(["*a" * 63 + "*", "a", "b*"]) == 65 + 1 + 2


def test_patterns_are_not_cached() -> None:
    """A caller may send any number of them."""
    assert not hasattr(compile_patterns, "cache_info")
    assert compile_patterns("a*", "*b") is not compile_patterns("a*", "*b")


@pytest.mark.parametrize(
    ("channels", "published", "first"),
    [
        (["a"], ("a",), "a"),
        (["a"], ("b",), None),
        (["a", "b"], ("b", "a"), "b"),
        (["a", "b"], ("x", "b", "a"), "b"),
        (["a"], ("x", "y"), None),
        (["x*"], ("xy",), "xy"),
        (["x*"], ("y",), None),
        (["a", "x*"], ("b", "xz", "a"), "xz"),
        (["*"], ("q", "a"), "q"),
        (["a"], (), None),
    ],
)
def test_the_first_publishers_channel_that_matches(
    channels: list[str], published: tuple[str, ...], first: str | None
) -> None:
    assert Selector.parse(*channels).first_match(published) == first


@pytest.mark.parametrize(
    ("channels", "published", "named"),
    [
        (["a"], ("a",), "a"),
        (["a"], ("b",), None),
        (["a", "b"], ("b", "x", "a"), "b,a"),
        (["a"], ("x", "y"), None),
        (["a", "x*"], ("b", "xz", "a"), "xz,a"),
        (["x*"], ("y",), None),
        (["a"], (), None),
    ],
)
def test_all_of_a_publishers_channels_that_were_asked_for(
    channels: list[str], published: tuple[str, ...], named: str | None
) -> None:
    assert Selector.parse(*channels).matches_in(published) == named
