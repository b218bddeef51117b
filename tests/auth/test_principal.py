"""Principals: permissions by action and channel."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.auth.principal import EVERYTHING, Action, Principal
from sse_broadcast.channels import compile_patterns

ORDERS = Principal({Action.SUBSCRIBE: ("orders.*", "news"), Action.INSPECT: ("*",)}, "ann")


def test_actions_are_the_words_of_tokens_and_settings() -> None:
    """They are text, and are put into claims unchanged."""
    assert [str(action) for action in Action] == ["publish", "subscribe", "inspect", "admin"]


@pytest.mark.parametrize(
    ("action", "channel", "allowed"),
    [
        (Action.SUBSCRIBE, "orders.17", True),
        (Action.SUBSCRIBE, "orders.", True),
        (Action.SUBSCRIBE, "orders", False),
        (Action.SUBSCRIBE, "news", True),
        (Action.SUBSCRIBE, "newsroom", False),
        (Action.SUBSCRIBE, "News", False),
        (Action.SUBSCRIBE, "orders.*", True),
        (Action.SUBSCRIBE, "orders.1*", True),
        (Action.SUBSCRIBE, "orders.*.new", True),
        (Action.SUBSCRIBE, "orders*", False),
        (Action.SUBSCRIBE, "*", False),
        (Action.SUBSCRIBE, "new*", False),
        (Action.PUBLISH, "orders.17", False),
        (Action.ADMIN, "orders.17", False),
        (Action.INSPECT, "anything", True),
        (Action.INSPECT, "*", True),
    ],
)
def test_a_grant_covers_what_its_patterns_match(action: Action, channel: str, *, allowed: bool) -> None:
    """A requested pattern must be covered as a whole. A grant covers its own action only."""
    assert ORDERS.allows(action, channel) is allowed
    assert ORDERS.first_denied(action, ["orders.17" if action is Action.SUBSCRIBE else channel, channel]) == (
        None if allowed else channel
    )


def test_the_whole_server_is_the_star() -> None:
    """Permission to inspect some channels is none to inspect the server."""
    assert ORDERS.allows(Action.INSPECT)
    assert not ORDERS.allows(Action.SUBSCRIBE)
    assert not Principal({Action.INSPECT: ("orders.*",)}).allows(Action.INSPECT)


def test_the_first_denied_channel_is_named() -> None:
    assert ORDERS.first_denied(Action.SUBSCRIBE, ["news", "b", "a"]) == "b"
    assert ORDERS.first_denied(Action.PUBLISH, ["b", "a"]) == "b"
    assert ORDERS.first_denied(Action.PUBLISH, []) is None


def test_all_permissions_are_every_action_on_every_channel() -> None:
    """An action added later is among them."""
    assert all(
        Principal(EVERYTHING).allows(action, channel) for action in Action for channel in ("*", "a", "a*")
    )


def test_no_permissions_allow_nothing() -> None:
    assert Principal().anonymous
    assert not any(Principal().allows(action, "a") for action in Action)
    assert not Principal(subject="").anonymous


PATTERN = st.text("ab.*", min_size=1, max_size=6)


@given(granted=PATTERN, asked=PATTERN, filling=st.lists(st.text("ab.", max_size=3), max_size=6))
def test_a_covered_pattern_matches_covered_channels_only(
    granted: str, asked: str, filling: list[str]
) -> None:
    principal = Principal({Action.PUBLISH: (granted,)})
    if not principal.allows(Action.PUBLISH, asked):
        return
    pieces = asked.split("*")
    channel = pieces[0] + "".join(
        (filling[index] if index < len(filling) else "") + piece for index, piece in enumerate(pieces[1:])
    )
    assert compile_patterns(asked)(channel)
    assert principal.allows(Action.PUBLISH, channel)


def test_checked_channels_are_not_cached() -> None:
    """A caller may ask for any name and be refused each time."""
    principal = Principal({Action.PUBLISH: ("orders.*", "news")})
    asked = [f"other.{number}" for number in range(10)]
    kept = [sys.getrefcount(name) for name in asked]
    assert all(principal.first_denied(Action.PUBLISH, [name]) for name in asked)
    assert [sys.getrefcount(name) for name in asked] == kept
