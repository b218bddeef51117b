"""Principal: the identity of a caller, and its grants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from sse_broadcast.channels import ANY, Matcher, compile_patterns


class Action(StrEnum):
    """An action that a grant can allow."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    INSPECT = "inspect"
    """Inspect channels; with `*` the server too: its status, its metrics and its subscribers."""
    ADMIN = "admin"
    """Issue and revoke tokens, disconnect subscribers, reload the configuration."""


Grants = Mapping[Action, tuple[str, ...]]
"""Channels and patterns by action. An action that is missing is not allowed."""

CredentialKind = Literal["caller", "subject", "id"]
"""What a revocation names: a configured caller, the subject of signed tokens, or the id of one token."""

EVERYTHING: Grants = dict.fromkeys(Action, (ANY,))


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity and the grants of a caller.

    `subject` is None for the anonymous caller, `id` is the token's `jti`. `static` marks the bearer of a
    configured token. `issued` and `expires` are in seconds since 1970.
    """

    grants: Grants = field(default_factory=dict)
    subject: str | None = None
    id: str | None = None
    issued: float | None = None
    expires: float | None = None
    static: bool = False
    bearer: tuple[CredentialKind, str | None, str | None] = field(init=False, repr=False, compare=False)
    """The key for limits per token. Tokens of one subject without `jti` share it: they look the same."""
    # Built at first use and from the grants only: channel names of requests are not stored.
    _matchers: dict[Action, Matcher] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Issuers choose their subjects: a subject named like a configured caller is not that caller.
        kind: CredentialKind = "caller" if self.static else "subject"
        object.__setattr__(self, "bearer", (kind, self.subject, self.id))

    def allows(self, action: Action, channel: str = ANY) -> bool:
        """Return whether the caller may do this in a channel, or in every channel of a pattern.

        The default `*` stands for the whole server.
        """
        return self.first_denied(action, (channel,)) is None

    def first_denied(self, action: Action, channels: Sequence[str]) -> str | None:
        """Return the first of the channels in which the caller may not do this, or None."""
        # A pattern is matched like a name: "*" is not in the alphabet of names, so only a star of a grant
        # matches it, and then matches everything that the pattern can.
        granted = self.grants.get(action, ())
        if ANY in granted:
            return None
        for channel in channels:
            if channel not in granted and not self._matches(action, granted, channel):
                return channel
        return None

    def _matches(self, action: Action, granted: tuple[str, ...], channel: str) -> bool:
        matches = self._matchers.get(action)
        if matches is None:
            patterns = [pattern for pattern in granted if ANY in pattern]
            matches = self._matchers[action] = compile_patterns(*patterns) if patterns else _nothing
        return matches(channel)

    @property
    def anonymous(self) -> bool:
        """Whether the request carried no credential."""
        return self.subject is None


def _nothing(_: str) -> bool:
    return False
