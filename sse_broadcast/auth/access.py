"""Access: what a caller may do where, and the one question that is asked of it."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from sse_broadcast.interest import ANY, matcher


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

Kind = Literal["caller", "subject", "id"]
"""What a revocation names: a configured caller, the subject of signed tokens, or one of them by its id."""

EVERYTHING: Grants = dict.fromkeys(Action, (ANY,))


@dataclass(frozen=True, slots=True)
class Access:
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
    bearer: tuple[Kind, str | None, str | None] = field(init=False, repr=False, compare=False)
    """Who is limited and remembered as one: the same token, or one that cannot be told from it."""

    def __post_init__(self) -> None:
        kind: Kind = "caller" if self.static else "subject"
        object.__setattr__(self, "bearer", (kind, self.subject, self.id))

    def allows(self, action: Action, channel: str = ANY) -> bool:
        """Whether the caller may do this in a channel, or in every channel of a pattern.

        `*`, the default, is the server as a whole.
        """
        granted = self.grants.get(action)
        return granted is not None and covers(granted, channel)

    def refused(self, action: Action, channels: Sequence[str]) -> str | None:
        """Give the first of the channels in which the caller may not do this, or None."""
        granted = self.grants.get(action, ())
        if ANY in granted:
            return None
        return next((channel for channel in channels if not covers(granted, channel)), None)

    @property
    def anonymous(self) -> bool:
        """Whether it came with no credential."""
        return self.subject is None


@functools.lru_cache(maxsize=4096)
def covers(granted: tuple[str, ...], channel: str) -> bool:
    """Whether one of these patterns covers a channel, or all that a pattern matches.

    A pattern is matched as it is written: its stars are characters that only a star matches, so
    what is between them may be anything.
    """
    return any(pattern == ANY or matcher(pattern)(channel) for pattern in granted)
