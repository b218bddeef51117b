"""Principal: who a caller is, and what it may do in which channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from sse_broadcast.channels import ANY, Matcher, compile_patterns


class Action(StrEnum):
    """What a caller may be allowed to do."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    INSPECT = "inspect"
    """Ask about channels; with `*`, about the server itself: its status, metrics and readers."""
    ADMIN = "admin"
    """Make tokens and revoke them, end streams, have the configuration read again."""


Grants = Mapping[Action, tuple[str, ...]]
"""Channels and patterns, by what may be done in them. An action that is not there is not allowed."""

CredentialKind = Literal["caller", "subject", "id"]
"""What a revocation names: a configured caller, the subject of signed tokens, or one of them by its id."""

EVERYTHING: Grants = dict.fromkeys(Action, (ANY,))


@dataclass(frozen=True, slots=True)
class Principal:
    """What a caller is allowed, and who it is.

    `subject` is None for the anonymous caller; `id` is the token's own (jti), if it has one. Tokens of one
    subject that have none count as one token, and so do all that name neither: what is limited by token
    is limited for them together. `static` is the bearer of a configured token: whoever signs tokens chooses
    their subjects, and one that is called like a configured caller is somebody else. `issued` and `expires`
    are seconds since 1970.
    """

    grants: Grants = field(default_factory=dict)
    subject: str | None = None
    id: str | None = None
    issued: float | None = None
    expires: float | None = None
    static: bool = False
    bearer: tuple[CredentialKind, str | None, str | None] = field(init=False, repr=False, compare=False)
    """Who is limited and remembered as one: the same token, or one that cannot be told from it."""
    # Made when first asked, of the grants alone: what is asked about is kept nowhere.
    _matchers: dict[Action, Matcher] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kind: CredentialKind = "caller" if self.static else "subject"
        object.__setattr__(self, "bearer", (kind, self.subject, self.id))

    def allows(self, action: Action, channel: str = ANY) -> bool:
        """Whether the caller may do this in a channel, or in every channel of a pattern.

        `*`, the default, is the server as a whole.
        """
        return self.first_denied(action, (channel,)) is None

    def first_denied(self, action: Action, channels: Sequence[str]) -> str | None:
        """Return the first of the channels in which the caller may not do this, or None.

        A pattern is matched as it is written: its stars are characters that only a star matches, so
        what is between them may be anything.
        """
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
        """Whether it came with no credential."""
        return self.subject is None


def _nothing(_: str) -> bool:
    return False
