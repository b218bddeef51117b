"""Stream expiry: end each stream with its credential or its lifetime."""

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
"""Seconds after which a clock that may have been set is asked again."""

ENDING_COST = 128
"""Those that may be compared while one stream is ended."""

SPREAD = 0.1
"""Of `lifetime`, what a stream may end early: those that began together do not come back together."""


class TrackedStream:
    """One open stream, or one about to be. Its end comes once, with the reason; a revocation also then."""

    __slots__ = ("_end", "_over", "address", "principal", "timer", "until")

    def __init__(self, principal: Principal, address: str | None, until: float | None) -> None:
        self._end: End | None = None
        self._over: CloseReason | None = None
        self.principal = principal
        self.address = address
        self.until = until  # by the loop's clock
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, end: End) -> None:
        """Say how to end the stream. It is ended at once if that was to be before there was one."""
        self._end = end
        if self._over is not None:
            end(self._over)

    def end(self, reason: CloseReason) -> bool:
        """Have the stream end, and say whether it was not ending already.

        One that was and is revoked is told of that too: it gets no more of what it was to end behind.
        """
        if self.timer is not None:
            self.timer.cancel()
        first = self._over is None
        if first or (reason is CloseReason.REVOKED and self._over is not reason):
            self._over = reason
            if self._end is not None:
                self._end(reason)
        return first


class StreamExpiry:
    """The open streams that have a credential, an end, or a proxy that speaks for their client.

    What has none of these is not held here. A credential's end is a time of the day, and kept to within a
    minute of a clock that is set.
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
        """Gives the time of the day, in seconds since 1970."""
        self._open: dict[CredentialKey, set[TrackedStream]] = {}
        self._addresses: Counter[str] = Counter()
        # The streams that were opened since, of each revocation that goes on.
        self._revoking: dict[int, set[TrackedStream]] = {}
        # A timer for each would be a tenth of what opening a stream costs.
        self._distant = Timeouts[TrackedStream](CLOCK_CHECK_INTERVAL, self._check)

    def limit(self, config: Config) -> None:
        """Have a configuration say how many streams may be opened from now on, and how long those last."""
        self._per_token = config.max_connections_per_token
        self._per_address = config.max_connections_per_address
        self._lifetime = config.lifetime

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def track(self, principal: Principal, *, address: str | None = None) -> TrackedStream | None:
        """Take note of a reader before it has its stream, if anything may end or limit it.

        `close` it when it is over. Raises `Problem` beyond a limit. There is nothing to wait for between a
        limit and what it counts, nor between a credential and its revocation.
        """
        self._require_room(principal, address)
        until = None
        if self._lifetime:
            until = asyncio.get_running_loop().time() + self._lifetime * random.uniform(1 - SPREAD, 1)
        return self._note(principal, address, until)

    def track_publisher(self, principal: Principal, *, address: str | None = None) -> TrackedStream | None:
        """Register a publisher's stream, which may last as long as its credential.

        It counts for the same limits as a reader's. Raises `Problem` beyond one of them.
        """
        self._require_room(principal, address)
        return self._note(principal, address, None)

    def _require_room(self, principal: Principal, address: str | None) -> None:
        most = self._per_token
        if most and principal.subject is not None and len(self._open.get(principal.bearer, ())) >= most:
            self._on_limit(Share.STREAMS, principal.bearer)
            raise Problem(
                429,
                f"max_connections_per_token: this token has {Quantity(most, 'stream')}, as many as it may",
                reason=RefusalReason.TOKEN,
            )
        most = self._per_address
        if most and address is not None and self._addresses.get(address, 0) >= most:
            if principal.subject is not None and principal.allows(Action.ADMIN):
                return  # strangers may have the same address
            self._on_limit(Share.STREAMS, address)
            raise Problem(
                429,
                f"max_connections_per_address: this address has {Quantity(most, 'stream')},"
                " as many as it may",
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
        """Forget a stream that is over; once."""
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
        """End the streams of a `subject`, a token's `id` or a `caller`, and return how many they were.

        In pieces. Streams that were opened after the first are of tokens that are good, and go on.
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
        """End a stream whose time has come, or look again when it may have."""
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
