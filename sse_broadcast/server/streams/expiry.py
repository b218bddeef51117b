"""Stream expiry: end each stream with its credential, its lifetime, or a revocation."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable

from sse_broadcast.auth.principal import Action, CredentialKind, Principal
from sse_broadcast.config.schema import Config
from sse_broadcast.fanout.subscriber import CloseReason
from sse_broadcast.metrics import Share
from sse_broadcast.quantity import Quantity
from sse_broadcast.server.access.shares import CallerKey
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.refused_stream import RefusalReason
from sse_broadcast.timeouts import Timeouts
from sse_broadcast.work_queue import ITEMS_PER_SLICE, SlicedWork

End = Callable[[CloseReason], None]
CredentialKey = tuple[CredentialKind, str | None, str | None]

CLOCK_CHECK_INTERVAL = 60.0
"""Seconds between two checks of the system time, which may have been set."""

ENDING_COST = 128
"""The cost of ending one stream, in comparisons."""

SPREAD = 0.1
"""Part of `lifetime` by which a stream may end early, so that streams opened together do not end together."""


class TrackedStream:
    """One stream that may be ended, open or about to open.

    It ends once, with the first reason. Only a revocation is passed on after another reason.
    """

    __slots__ = ("_end", "_over", "address", "principal", "timer", "until")

    def __init__(self, principal: Principal, address: str | None, until: float | None) -> None:
        self._end: End | None = None
        self._over: CloseReason | None = None
        self.principal = principal
        self.address = address
        self.until = until  # by the loop's clock
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, end: End) -> None:
        """Set the function that ends the stream. Call it at once if the stream was ended before."""
        self._end = end
        if self._over is not None:
            end(self._over)

    def end(self, reason: CloseReason) -> bool:
        """End the stream. Return whether it was not ending before."""
        # A revoked stream that was ending already must still lose its queued events.
        if self.timer is not None:
            self.timer.cancel()
        first = self._over is None
        if first or (reason is CloseReason.REVOKED and self._over is not reason):
            self._over = reason
            if self._end is not None:
                self._end(reason)
        return first


class StreamExpiry:
    """The streams that have a credential, an end, or a client behind a trusted proxy.

    Other streams are not tracked. A credential expires by the system time, and the check follows within a
    minute if that is set.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], float] = time.time,
        on_limit: Callable[[Share, CallerKey], None] = lambda _share, _caller: None,
    ) -> None:
        self.limit(config)
        self._on_limit = on_limit
        self.clock = clock
        """The current time, in seconds since 1970."""
        self._open: dict[CredentialKey, set[TrackedStream]] = {}
        self._addresses: Counter[str] = Counter()
        # For each running revocation, the streams opened since it began.
        self._revoking: dict[int, set[TrackedStream]] = {}
        # One timer for all: a timer each would cost a tenth of opening a stream.
        self._distant = Timeouts[TrackedStream](CLOCK_CHECK_INTERVAL, self._check)

    def limit(self, config: Config) -> None:
        """Set the limits of open streams and their lifetime, for streams opened from now on."""
        self._per_token = config.max_connections_per_token
        self._per_address = config.max_connections_per_address
        self._lifetime = config.lifetime

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def track(self, principal: Principal, *, address: str | None = None) -> TrackedStream | None:
        """Track a subscriber's stream before it opens, or return None if nothing can end or limit it.

        Call `close` when it is over. Raises `Problem` beyond a limit.
        """
        # No await between the check and the registration, so neither a limit nor a revocation can be raced.
        self._require_room(principal, address)
        until = None
        if self._lifetime:
            until = asyncio.get_running_loop().time() + self._lifetime * random.uniform(1 - SPREAD, 1)
        return self._note(principal, address, until)

    def track_publisher(self, principal: Principal, *, address: str | None = None) -> TrackedStream | None:
        """Track a publisher's stream, which may last as long as its credential.

        It counts for the same limits as a subscriber's. Raises `Problem` beyond one of them.
        """
        self._require_room(principal, address)
        return self._note(principal, address, None)

    def _require_room(self, principal: Principal, address: str | None) -> None:
        most = self._per_token
        if most and principal.subject is not None and len(self._open.get(principal.bearer, ())) >= most:
            self._on_limit(Share.STREAMS, principal.bearer)
            raise Problem(
                429,
                f"max_connections_per_token: this token has {Quantity(most, 'stream')}, the limit",
                reason=RefusalReason.TOKEN,
            )
        most = self._per_address
        if most and address is not None and self._addresses.get(address, 0) >= most:
            if principal.subject is not None and principal.allows(Action.ADMIN):
                return  # an operator may share the address with strangers
            self._on_limit(Share.STREAMS, address)
            raise Problem(
                429,
                f"max_connections_per_address: this address has {Quantity(most, 'stream')}, the limit",
                reason=RefusalReason.ADDRESS,
            )

    def _note(self, principal: Principal, address: str | None, until: float | None) -> TrackedStream | None:
        if principal.subject is None and address is None and until is None:
            return None
        session = TrackedStream(principal, address, until)
        streams = self._open.get(principal.bearer)
        if streams is None:
            streams = self._open[principal.bearer] = set()
        streams.add(session)
        for opened in self._revoking.values():
            opened.add(session)
        if address is not None:
            self._addresses[address] += 1
        if until is not None or principal.expires is not None:
            self._check(session)
        return session

    def close(self, session: TrackedStream) -> None:
        """Stop tracking a stream that is over. Call it once."""
        if session.timer is not None:
            session.timer.cancel()
        self._distant.discard(session)
        token = session.principal.bearer
        streams = self._open[token]
        streams.remove(session)
        if not streams:
            del self._open[token]
        if session.address is not None:
            self._untrack(session.address)

    def _untrack(self, address: str) -> None:
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def revoke(self, kind: CredentialKind, name: str) -> SlicedWork[int]:
        """End the streams of a `subject`, a token's `id` or a `caller`, in slices. Return their number.

        Streams opened after the first slice have valid tokens, and stay.
        """
        opened: set[TrackedStream] = set()
        self._revoking[id(opened)] = opened
        try:
            ended = work = 0
            for token in list(self._open):
                if name == token[2] if kind == "id" else token[:2] == (kind, name):
                    for session in self._open.get(token, set()) - opened:
                        ended += session.end(CloseReason.REVOKED)
                        work += ENDING_COST
                        if work >= ITEMS_PER_SLICE:
                            work = 0
                            yield
                work += 1
                if work >= ITEMS_PER_SLICE:
                    work = 0
                    yield
            return ended
        finally:
            del self._revoking[id(opened)]

    def _check(self, session: TrackedStream) -> None:
        """End a stream whose time has come, or schedule the next check."""
        loop = asyncio.get_running_loop()
        wait, reason = math.inf, CloseReason.EXPIRED
        if session.principal.expires is not None:
            wait = session.principal.expires - self.clock()
        if session.until is not None and session.until - loop.time() < wait:
            wait, reason = session.until - loop.time(), CloseReason.LIFETIME
        if wait == math.inf:
            return
        if wait <= 0:
            session.end(reason)
        elif wait > CLOCK_CHECK_INTERVAL:
            self._distant.add(session)
        else:
            session.timer = loop.call_later(wait, self._check, session)
