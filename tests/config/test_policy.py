"""Channel policies: the settings for a channel, and for a subscriber of several."""

from typing import Any

import pytest

from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies, HistoryLimits, Policy
from sse_broadcast.config.schema import ChannelRule, Config, Overflow


def policies(*rules: ChannelRule, **settings: Any) -> ChannelPolicies:
    return ChannelPolicies(
        Config(
            **{
                "history_size": 10,
                "history_bytes": 1000,
                "history_age": 60.0,
                "overflow": Overflow.DROP_OLDEST,
                "retry": 500,
                **settings,
                "channel": rules,
            }
        )
    )


SERVERS = Policy(HistoryLimits(10, 1000, 60.0), Overflow.DROP_OLDEST, 500)


def test_without_rules_every_channel_has_the_servers_policy() -> None:
    """All share one object, and nothing is cached by channel."""
    settled = policies()
    assert settled.for_channel("a") == SERVERS
    assert settled.for_channel("a") is settled.for_channel("b")


def test_a_rule_changes_only_its_own_settings() -> None:
    settled = policies(ChannelRule(match="prices.*", history_size=1, overflow=Overflow.CONFLATE))
    assert settled.for_channel("prices.eur") == Policy(HistoryLimits(1, 1000, 60.0), Overflow.CONFLATE, 500)
    assert settled.for_channel("prices") == settled.for_channel("other") == SERVERS


def test_a_rule_may_change_every_setting() -> None:
    """They are history size, bytes and age, overflow policy and reconnection time."""
    rule = ChannelRule(
        match="a", history_size=2, history_bytes=3, history_age=4.5, overflow=Overflow.DROP_NEWEST, retry=6
    )
    assert policies(rule).for_channel("a") == Policy(HistoryLimits(2, 3, 4.5), Overflow.DROP_NEWEST, 6)


def test_a_rule_may_set_zero() -> None:
    """Zero is a value of its own: no history, and reconnection at once."""
    settled = policies(ChannelRule(match="a", history_size=0, history_bytes=0, retry=0))
    assert settled.for_channel("a") == Policy(HistoryLimits(0, 0, 60.0), Overflow.DROP_OLDEST, 0)


def test_the_first_matching_rule_applies() -> None:
    """A later one does not apply, not even for settings that the first leaves out."""
    settled = policies(
        ChannelRule(match="a.b", history_size=1),
        ChannelRule(match="a.*", history_size=2, retry=9),
        ChannelRule(match="*", history_size=3),
    )
    assert [settled.for_channel(name).limits.size for name in ("a.b", "a.c", "z")] == [1, 2, 3]
    assert [settled.for_channel(name).retry for name in ("a.b", "a.c", "z")] == [500, 9, 500]


def test_a_rule_matches_whole_names() -> None:
    settled = policies(ChannelRule(match="a", history_size=1))
    assert [settled.for_channel(name).limits.size for name in ("a", "ab", "ba", "A")] == [1, 10, 10, 10]


def test_a_policy_is_computed_once() -> None:
    settled = policies(ChannelRule(match="a*", history_size=1))
    assert settled.for_channel("ab") is settled.for_channel("ab") is settled.for_channel("ac")


@pytest.mark.parametrize(
    ("channels", "overflow", "retry"),
    [
        (["prices.a"], Overflow.CONFLATE, 100),
        (["prices.a", "prices.b"], Overflow.CONFLATE, 100),
        (["news"], Overflow.DROP_NEWEST, 100),
        (["other"], Overflow.DROP_OLDEST, 500),
        (["other", "another"], Overflow.DROP_OLDEST, 500),
        (["prices.a", "news"], Overflow.DISCONNECT, 100),
        (["prices.a", "other"], Overflow.DISCONNECT, 500),
        (["prices.a", "news", "other"], Overflow.DISCONNECT, 500),
        (["prices.*"], Overflow.DROP_OLDEST, 500),
        (["prices.a", "prices.*"], Overflow.DROP_OLDEST, 500),
        (["*"], Overflow.DROP_OLDEST, 500),
    ],
)
def test_a_subscriber_has_the_settings_its_channels_agree_on(
    channels: list[str], overflow: Overflow, retry: int
) -> None:
    """Otherwise it has the overflow policy that loses nothing, and the server's time.

    A pattern has the server's.
    """
    settled = policies(
        ChannelRule(match="prices.*", overflow=Overflow.CONFLATE, retry=100),
        ChannelRule(match="news", overflow=Overflow.DROP_NEWEST, retry=100),
    )
    selector = Selector.parse(*channels)
    assert settled.for_subscriber(selector) == (overflow, retry)


def test_without_rules_every_subscriber_has_the_servers_settings() -> None:
    settled = policies()
    for selector in (Selector.parse("a"), Selector.parse("a", "b"), Selector.parse("*")):
        assert settled.for_subscriber(selector) == (Overflow.DROP_OLDEST, 500)


def test_a_rule_with_the_servers_values_agrees_with_no_rule() -> None:
    """The values are compared, and not the rules."""
    settled = policies(ChannelRule(match="a", overflow=Overflow.DROP_OLDEST, history_size=1))
    assert settled.for_subscriber(Selector.parse("a", "b"))[0] is Overflow.DROP_OLDEST


def test_another_configuration_applies_at_once() -> None:
    settled = policies(ChannelRule(match="a", history_size=1))
    assert settled.for_channel("a").limits.size == 1
    settled.reload(Config(history_size=7, channel=(ChannelRule(match="b", history_size=2),)))
    assert [settled.for_channel(name).limits.size for name in "ab"] == [7, 2]
    settled.reload(Config(history_size=8))
    assert [settled.for_channel(name).limits.size for name in "ab"] == [8, 8]
    assert settled.for_subscriber(Selector.parse("a"))[1] == 3000
