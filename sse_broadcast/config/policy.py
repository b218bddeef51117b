"""Channel policies: the history, overflow and retry that hold for each channel."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from sse_broadcast.channels import Selector, compile_patterns
from sse_broadcast.config.schema import ChannelRule, Config, Overflow

T = TypeVar("T")

REMEMBERED = 131_072
"""Channels whose policy is remembered."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """What the history of one channel may hold: events, bytes, and seconds of age."""

    size: int
    bytes: int
    age: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one channel. `retry` is in milliseconds."""

    limits: HistoryLimits
    overflow: Overflow
    retry: int


class ChannelPolicies:
    """The policies of a configuration. The first rule that matches a channel is the one."""

    def __init__(self, config: Config) -> None:
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Go by a configuration from now on."""
        self._rules = [(compile_patterns(rule.match), _policy(config, rule)) for rule in config.channel]
        self._servers = _policy(config, ChannelRule(match="*"))
        self._readers = self._servers.overflow, self._servers.retry
        self._of = functools.lru_cache(maxsize=REMEMBERED)(self._first_match)

    def for_channel(self, channel: str) -> Policy:
        """Return the policy of a channel."""
        return self._of(channel) if self._rules else self._servers

    def for_subscriber(self, selector: Selector) -> tuple[Overflow, int]:
        """Return a reader's overflow policy and its reconnection time: its channels', where they agree.

        Else they are the one that loses nothing, and the server's.
        """
        if not self._rules or selector.patterns:
            return self._readers
        policies = [self._of(name) for name in selector.names]
        return (
            _agreed((policy.overflow for policy in policies), Overflow.DISCONNECT),
            _agreed((policy.retry for policy in policies), self._servers.retry),
        )

    def _first_match(self, channel: str) -> Policy:
        return next((policy for matches, policy in self._rules if matches(channel)), self._servers)


def _policy(config: Config, rule: ChannelRule) -> Policy:
    return Policy(
        HistoryLimits(
            _either(rule.history_size, config.history_size),
            _either(rule.history_bytes, config.history_bytes),
            _either(rule.history_age, config.history_age),
        ),
        _either(rule.overflow, config.overflow),
        _either(rule.retry, config.retry),
    )


def _either(ruled: T | None, servers: T) -> T:
    return servers if ruled is None else ruled


def _agreed(said: Iterable[T], otherwise: T) -> T:
    found = set(said)
    return found.pop() if len(found) == 1 else otherwise
