"""The reserve: connections beyond the limit, each kept while one request head of it is read.

A few at a time, so that probes and operators are answered when strangers fill the server. Strangers come here
as well, so the reserve is shared by address: a newcomer takes the place of one whose address has most.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

MAX_REJECTING = 24
"""Connections whose head is read, or that take their answer, at one time. For one more another is cut."""

MAX_REJECTING_PER_ADDRESS = 8
"""Those of one address, or of one /64 of IPv6. Addresses that limits do not count share the whole."""

MAX_LET_IN = 24
"""Connections beyond the limit that were let in at one time: of callers with `admin`."""

HANDSHAKE_INTERVAL = 0.005
"""Seconds between two TLS handshakes of connections beyond the limit. A signature with an RSA key of 2,048
bits takes nearly a millisecond: these take a fifth of a core at most, however many are refused."""


class Pending(Protocol):
    """A connection in the reserve."""

    @property
    def key(self) -> str | None:
        """What its address is counted by; None of one that is not counted."""

    @property
    def answered(self) -> bool:
        """Whether all that is left for it to do is to take its answer."""

    def cut(self) -> None:
        """Leave the reserve at once."""


class Reserve:
    """The connections beyond the limit, and the turns of their handshakes. Belongs to one event loop.

    `on_share_reached` is called when an address that has its share brings one more.
    """

    def __init__(self, on_share_reached: Callable[[Pending], None]) -> None:
        self._on_share_reached = on_share_reached
        self._pending: dict[Pending, None] = {}  # in the order in which they came
        self._handshakes: dict[Pending, Callable[[], None]] = {}  # those that wait for their turn
        self._timer: asyncio.TimerHandle | None = None  # while nobody else may begin

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, pending: Pending) -> None:
        """Take one in, and cut another where there is no room: nobody who has still to ask, if possible."""
        held = self._held()
        if pending.key is not None and held[pending.key] >= MAX_REJECTING_PER_ADDRESS:
            self._on_share_reached(pending)
            self._cut_one([each for each in self._pending if each.key == pending.key])
        elif len(self._pending) >= MAX_REJECTING:
            answered = [each for each in self._pending if each.answered]
            most = max(held.values())
            self._cut_one(answered or [each for each in self._pending if held[each.key] == most])
        self._pending[pending] = None

    def remove(self, pending: Pending) -> None:
        """Forget one, whether it is here or not."""
        self._pending.pop(pending, None)
        self._handshakes.pop(pending, None)

    def queue_handshake(self, pending: Pending, begin: Callable[[], None]) -> None:
        """Call `begin` when it is the turn of this one, unless it has left by then."""
        self._handshakes[pending] = begin
        if self._timer is None:
            self._begin_handshake()

    def close(self) -> None:
        """Cut everyone."""
        for pending in tuple(self._pending):
            pending.cut()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _held(self) -> Counter[str | None]:
        return Counter(pending.key for pending in self._pending)

    def _cut_one(self, of: list[Pending]) -> None:
        next((pending for pending in of if pending.answered), of[0]).cut()

    def _begin_handshake(self) -> None:
        """Begin the handshake of one whose address has fewest here, of several the first; then wait."""
        self._timer = None
        if not self._handshakes:
            return
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_INTERVAL, self._begin_handshake)
        held = self._held()
        chosen = min(self._handshakes, key=lambda pending: held[pending.key])
        self._handshakes.pop(chosen)()
