"""Channel policies: the history limits, the overflow and the retry of each channel."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from sse_broadcast.channels import Selector, compile_patterns
from sse_broadcast.config.schema import ChannelRule, Config, Overflow

T = TypeVar("T")

REMEMBERED = 131_072
"""Maximum number of channels whose policy is cached."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """Maximum events, bytes, and age in seconds of the history of one channel."""

    size: int
    bytes: int
    age: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of one channel. `retry` is in milliseconds."""

    limits: HistoryLimits
    overflow: Overflow
    retry: int


class ChannelPolicies:
    """The policies of a configuration. The first `[[channel]]` table that matches a channel holds for it."""

    def __init__(self, config: Config) -> None:
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Replace the policies by those of another configuration."""
        self._rules = [(compile_patterns(rule.match), _policy(config, rule)) for rule in config.channel]
        self._servers = _policy(config, ChannelRule(match="*"))
        self._readers = self._servers.overflow, self._servers.retry
        self._of = functools.lru_cache(maxsize=REMEMBERED)(self._first_match)

    def for_channel(self, channel: str) -> Policy:
        """Return the policy of a channel."""
        return self._of(channel) if self._rules else self._servers

    def for_subscriber(self, selector: Selector) -> tuple[Overflow, int]:
        """Return the overflow and the retry of a subscriber: those of its channels, if they all agree.

        Otherwise the overflow is `disconnect`, and the retry is the server's.
        """
        if not self._rules or selector.patterns:
            return self._readers
        # One queue serves all channels of a subscriber. `disconnect` is the policy that loses no event: the
        # subscriber comes back and gets what it missed from the history.
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
