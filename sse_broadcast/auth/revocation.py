"""Revocation: subjects and tokens that are refused though nothing else is wrong with them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sse_broadcast.auth.access import Access, Kind
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
        self._held: dict[tuple[Kind, str], Revocation] = {}

    def __len__(self) -> int:
        return len(self._held)

    def revoke(self, kind: Kind, name: str, *, until: float = math.inf) -> None:
        """Refuse every token of a `subject` that was issued by now, a token by its `id`, or a `caller`.

        Raises `EventError` for what is no name, `FullError`.
        """
        if not 1 <= len(name) <= MAX_NAME:
            raise EventError(kind, f"must be 1 to {MAX_NAME} characters, not {len(name)}")
        now = self._clock()
        before = self._held.get((kind, name))
        if before is None:
            self._require_room()
        self._held[kind, name] = Revocation(now, until if before is None else max(until, before.until))

    def refuses(self, access: Access) -> bool:
        """Whether a caller's token was revoked; one that does not say when it was issued counts as old."""
        if not self._held:
            return False
        kind, name, id = access.bearer
        if id is not None and self._find("id", id) is not None:
            return True
        revoked = None if name is None else self._find(kind, name)
        return revoked is not None and (access.issued is None or access.issued <= revoked.moment)

    def _find(self, kind: Kind, name: str) -> Revocation | None:
        revoked = self._held.get((kind, name))
        return revoked if revoked is not None and self._clock() < revoked.until else None

    def _require_room(self) -> None:
        if len(self._held) < self._most:
            return
        now = self._clock()
        self._held = {key: revoked for key, revoked in self._held.items() if now < revoked.until}
        if len(self._held) >= self._most:
            raise FullError(f"revocations: {self._most} are held, as many as there may be")
