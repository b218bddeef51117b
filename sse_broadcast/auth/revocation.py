"""Revocation: subjects and tokens that are refused though nothing else is wrong with them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sse_broadcast.auth.access import Access
from sse_broadcast.auth.claims import MAX_NAME
from sse_broadcast.errors import EventError, FullError

MOST = 100_000
"""Revocations held at one time."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """When something was revoked, and until when that is remembered, in seconds since 1970."""

    moment: float
    until: float


class Revocations:
    """What was revoked since this process began.

    `clock` gives seconds since 1970; `most` are held at one time.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._held: dict[tuple[str, str], Revocation] = {}

    def __len__(self) -> int:
        return len(self._held)

    def revoke_subject(self, subject: str, *, until: float = math.inf) -> None:
        """Refuse every token of a subject that was issued by now. Raises `EventError`, `FullError`."""
        self._hold("subject", subject, until)

    def revoke_id(self, id: str, *, until: float = math.inf) -> None:
        """Refuse one token by its id. Raises `EventError`, `FullError`."""
        self._hold("id", id, until)

    def refuses(self, access: Access) -> bool:
        """Whether a caller's token was revoked; one that does not say when it was issued counts as old."""
        if not self._held:
            return False
        if access.id is not None and self._find("id", access.id) is not None:
            return True
        if access.subject is None:
            return False
        revoked = self._find("subject", access.subject)
        return revoked is not None and (access.issued is None or access.issued <= revoked.moment)

    def _find(self, kind: str, name: str) -> Revocation | None:
        revoked = self._held.get((kind, name))
        return revoked if revoked is not None and self._clock() < revoked.until else None

    def _hold(self, kind: str, name: str, until: float) -> None:
        if not 1 <= len(name) <= MAX_NAME:
            raise EventError(kind, f"must be 1 to {MAX_NAME} characters, not {len(name)}")
        key = (kind, name)
        if key not in self._held:
            self._require_room()
        before = self._held.get(key)
        until = until if before is None else max(until, before.until)
        self._held[key] = Revocation(self._clock(), until)

    def _require_room(self) -> None:
        if len(self._held) < self._most:
            return
        now = self._clock()
        self._held = {key: revoked for key, revoked in self._held.items() if now < revoked.until}
        if len(self._held) >= self._most:
            raise FullError(f"revocations: {self._most} are held, as many as there may be")
