"""Revocation list: subjects, callers and token ids that are refused despite a valid signature."""

import heapq
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sse_broadcast.auth.claims import MAX_SUBJECT
from sse_broadcast.auth.principal import CredentialKind, Principal
from sse_broadcast.errors import EventError, FullError

logger = logging.getLogger("sse_broadcast.revocations")

MAX_REVOCATIONS = 100_000
"""Maximum number of revocations."""

NEARLY_FULL = 0.8
"""Share of that number from which a warning is logged, early enough to find the cause."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """The time of a revocation and the end of its validity, in seconds since 1970."""

    moment: float
    until: float


class RevocationList:
    """The revocations of this process, at most `most`.

    `clock` gives seconds since 1970. Expired revocations are dropped first. If none has expired, the next
    revocation is refused.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, most: int = MAX_REVOCATIONS) -> None:
        self._clock = clock
        self._most = most
        self._held: dict[tuple[CredentialKind, str], Revocation] = {}
        # A heap of the revocations that expire, earliest first: dropping them never scans all.
        self._passing: list[tuple[float, tuple[CredentialKind, str]]] = []
        self._warned = False

    def __len__(self) -> int:
        return len(self._held)

    def revoke(self, kind: CredentialKind, name: str, *, until: float = math.inf) -> None:
        """Refuse the tokens of a `subject` issued until now, the token with an `id`, or a `caller`.

        Raises `EventError` for an invalid name, `FullError` if no more can be held.
        """
        if not 1 <= len(name) <= MAX_SUBJECT:
            raise EventError(kind, f"must be 1 to {MAX_SUBJECT} characters, not {len(name)}")
        now = self._clock()
        self._drop_passed(now)
        before = self._held.get((kind, name))
        if before is None:
            self._require_room()
            if until < math.inf:
                heapq.heappush(self._passing, (until, (kind, name)))
        self._held[kind, name] = Revocation(now, until if before is None else max(until, before.until))
        self._warn()

    def seconds_to_room(self) -> float | None:
        """Return the seconds until the first revocation expires, or None if none of them expires."""
        return max(0.0, self._passing[0][0] - self._clock()) if self._passing else None

    def refuses(self, principal: Principal) -> bool:
        """Return whether a token was revoked. A token without `iat` counts as older than the revocation."""
        if not self._held:
            return False
        kind, name, id = principal.bearer
        if id is not None and self._find("id", id) is not None:
            return True
        revoked = None if name is None else self._find(kind, name)
        return revoked is not None and (principal.issued is None or principal.issued <= revoked.moment)

    def _find(self, kind: CredentialKind, name: str) -> Revocation | None:
        revoked = self._held.get((kind, name))
        return revoked if revoked is not None and self._clock() < revoked.until else None

    def _drop_passed(self, now: float) -> None:
        while self._passing and self._passing[0][0] <= now:
            _, key = heapq.heappop(self._passing)
            until = self._held[key].until
            if until <= now:
                del self._held[key]
            elif until < math.inf:  # revoked again meanwhile, with a later end
                heapq.heappush(self._passing, (until, key))

    def _require_room(self) -> None:
        # Full: the new one is refused. Dropping another would let a revoked token in again.
        if len(self._held) >= self._most:
            logger.error("revocations: refused one more, the limit of %(most)s is reached", self._facts)
            raise FullError(f"revocations: the limit of {self._most} is reached")

    def _warn(self) -> None:
        """Log once when the list is nearly full, and again only after it was less full."""
        nearly = len(self._held) >= NEARLY_FULL * self._most
        if nearly and not self._warned:
            logger.warning("revocations: %(held)s of at most %(most)s are held", self._facts)
        self._warned = nearly

    @property
    def _facts(self) -> dict[str, int]:
        return {"held": len(self._held), "most": self._most}
