"""Revocation list: subjects, callers and tokens that are refused though their signature is good."""

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
"""Revocations held at one time."""

NEARLY_FULL = 0.8
"""Of those, how many are held when the log says so: there is still time to find out who revokes so much."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """When something was revoked, and until when that is remembered, in seconds since 1970."""

    moment: float
    until: float


class RevocationList:
    """What was revoked since this process began.

    `clock` gives seconds since 1970; `most` are held at one time. What has passed goes first. When
    all that is held is still needed the next one is refused: to forget another would let that one in again.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, most: int = MAX_REVOCATIONS) -> None:
        self._clock = clock
        self._most = most
        self._held: dict[tuple[CredentialKind, str], Revocation] = {}
        # When each that passes may be dropped, the earliest first: all of them are looked through never.
        self._passing: list[tuple[float, tuple[CredentialKind, str]]] = []
        self._warned = False

    def __len__(self) -> int:
        return len(self._held)

    def revoke(self, kind: CredentialKind, name: str, *, until: float = math.inf) -> None:
        """Refuse every token of a `subject` that was issued by now, a token by its `id`, or a `caller`.

        Raises `EventError` for what is no name, `FullError`.
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
        """How long it takes until another can be held, if it is full: None if all are kept for good."""
        return max(0.0, self._passing[0][0] - self._clock()) if self._passing else None

    def refuses(self, principal: Principal) -> bool:
        """Whether a caller's token was revoked; one that does not say when it was issued counts as old."""
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
            elif until < math.inf:  # it was revoked again, for longer
                heapq.heappush(self._passing, (until, key))

    def _require_room(self) -> None:
        if len(self._held) >= self._most:
            logger.error(
                "revocations: one was refused: %(most)s are held, as many as there may be", self._facts
            )
            raise FullError(f"revocations: {self._most} are held, as many as there may be")

    def _warn(self) -> None:
        """Log once that it is nearly full, and once more when it has been less since."""
        nearly = len(self._held) >= NEARLY_FULL * self._most
        if nearly and not self._warned:
            logger.warning("revocations: %(held)s are held, of %(most)s that there may be", self._facts)
        self._warned = nearly

    @property
    def _facts(self) -> dict[str, int]:
        return {"held": len(self._held), "most": self._most}
