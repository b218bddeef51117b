"""The reserve: a few connections beyond the limit, each kept while one request head of it is read.

So probes and operators get answers while strangers fill the server. Strangers reach the reserve too, so
addresses share it: a new connection replaces one of the address that has most.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

MAX_REJECTING = 24
"""Maximum number of rejected connections being read or answered at once. Beyond it one is aborted."""

MAX_REJECTING_PER_ADDRESS = 8
"""Maximum of one address, or of one /64 network of IPv6. Addresses exempt from limits have no maximum."""

MAX_LET_IN = 24
"""Maximum number of connections of callers with `admin` beyond the limit."""

HANDSHAKE_INTERVAL = 0.005
"""Seconds between two TLS handshakes of connections beyond the limit. A signature with an RSA key of 2,048
bits takes nearly a millisecond, so all of them take at most a fifth of a core."""


class Pending(Protocol):
    """A connection in the reserve."""

    @property
    def key(self) -> str | None:
        """The key that its address is counted by, or None for an address without a count."""

    @property
    def answered(self) -> bool:
        """Whether the answer is written and only the client has to read it."""

    def cut(self) -> None:
        """Leave the reserve at once."""


class Reserve:
    """The connections beyond the limit, and the order of their TLS handshakes. Belongs to one event loop.

    `on_share_reached` is called when an address already has its maximum and one more connection arrives.
    """

    def __init__(self, on_share_reached: Callable[[Pending], None]) -> None:
        self._on_share_reached = on_share_reached
        self._pending: dict[Pending, None] = {}  # in the order of arrival
        self._handshakes: dict[Pending, Callable[[], None]] = {}  # not started yet
        self._timer: asyncio.TimerHandle | None = None  # runs until the next handshake may start

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, pending: Pending) -> None:
        """Add a connection, and abort another if there is no room, if possible one that is answered."""
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
        """Remove a connection, if it is there."""
        self._pending.pop(pending, None)
        self._handshakes.pop(pending, None)

    def queue_handshake(self, pending: Pending, begin: Callable[[], None]) -> None:
        """Call `begin` when it is the connection's turn, unless it has left by then."""
        self._handshakes[pending] = begin
        if self._timer is None:
            self._begin_handshake()

    def close(self) -> None:
        """Abort all connections."""
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
        """Start the first handshake of the address with fewest connections here, then wait."""
        self._timer = None
        if not self._handshakes:
            return
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_INTERVAL, self._begin_handshake)
        held = self._held()
        chosen = min(self._handshakes, key=lambda pending: held[pending.key])
        self._handshakes.pop(chosen)()
