"""Policy: what the settings come to for a channel, and for a reader of several."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from sse_broadcast.config import ChannelRule, Config, Overflow
from sse_broadcast.interest import Interest, matcher

T = TypeVar("T")

REMEMBERED = 131_072
"""Channels whose policy is remembered."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the history of one channel may hold: events, bytes, and seconds of age."""

    size: int
    bytes: int
    age: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one channel. `retry` is in milliseconds."""

    limits: Limits
    overflow: Overflow
    retry: int


class Policies:
    """The policies of a configuration. The first rule that matches a channel is the one."""

    def __init__(self, config: Config) -> None:
        self.settle(config)

    def settle(self, config: Config) -> None:
        """Go by a configuration from now on."""
        self._rules = [(matcher(rule.match), _policy(config, rule)) for rule in config.channel]
        self._servers = _policy(config, ChannelRule(match="*"))
        self._of = functools.lru_cache(maxsize=REMEMBERED)(self._first_match)

    def of(self, channel: str) -> Policy:
        """Give the policy of a channel."""
        return self._of(channel) if self._rules else self._servers

    def overflow(self, interest: Interest) -> Overflow:
        """Give a reader's overflow policy: its channels' if they agree, else the one that loses nothing."""
        if not self._rules or interest.patterns:
            return self._servers.overflow
        return _agreed((self._of(name).overflow for name in interest.names), Overflow.DISCONNECT)

    def retry(self, interest: Interest) -> int:
        """Give a reader's reconnection time: its channels' if they agree, else the server's."""
        if not self._rules or interest.patterns:
            return self._servers.retry
        return _agreed((self._of(name).retry for name in interest.names), self._servers.retry)

    def _first_match(self, channel: str) -> Policy:
        return next((policy for matches, policy in self._rules if matches(channel)), self._servers)


def _policy(config: Config, rule: ChannelRule) -> Policy:
    return Policy(
        Limits(
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
