"""Rate limits: streams opened and events published per second."""

import hashlib
import math
from dataclasses import dataclass
from datetime import timedelta

from throttled import MemoryStore, Throttled, per_duration

from sse_broadcast.auth.principal import Action, Principal
from sse_broadcast.config.schema import Config
from sse_broadcast.quantity import Quantity
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.refused_stream import RefusalReason

MOST_BUCKETS = 65_536
"""Maximum number of addresses, and of tokens, with a bucket: 300 to 600 bytes each."""

PERMIT_BATCH = 16
"""Streams to count at once: a call of the limiter costs more than the rest of counting a stream."""

BATCH_SECONDS = 0.05
"""Seconds of the rate that a slowed publisher publishes at once, so that its events flow evenly."""

LONGEST_KEY = 256
"""Maximum characters of a bucket's key. Longer names are hashed."""

EVERYONE = "everyone"
"""The key of the bucket that all callers share."""

INSTANT = 1e-6
"""Minimum seconds of a refusal: 0 would mean that nothing was refused."""


class Buckets:
    """Buckets by key. Each holds `burst` and gains `rate` every `seconds` (GCRA)."""

    # Beyond MOST_BUCKETS the least recently used bucket is dropped, which makes it full again. To refill a
    # bucket that way a client needs as many other buckets in use, each with a burst of its own: it gains
    # nothing.

    def __init__(self, rate: int, burst: int, *, seconds: int = 1) -> None:
        self._rate = rate / seconds
        self._burst = burst
        store = MemoryStore(options={"MAX_SIZE": MOST_BUCKETS})
        quota = per_duration(timedelta(seconds=seconds), rate, burst)
        self._limiter = Throttled(using="gcra", quota=quota, store=store).limiter

    def take(self, key: str, count: int) -> float:
        """Take `count` from a bucket and return 0.0, or take none and return the seconds to wait."""
        result = self._limiter.limit(key, count)
        return max(result.state.retry_after, INSTANT) if result.limited else 0.0

    def wait_for(self, key: str, count: int) -> float:
        """Return the seconds until a bucket has `count`, 0.0 if it has. Take nothing."""
        state = self._limiter.peek(key)
        if state.remaining >= count:
            return 0.0
        return max(state.reset_after - (self._burst - count) / self._rate, INSTANT)


class Unlimited:
    """Buckets without a limit, for a rate of 0."""

    def take(self, key: str, count: int) -> float:  # noqa: ARG002
        """Return 0.0: never wait."""
        return 0.0

    wait_for = take


def buckets(rate: int, burst: int, *, seconds: int = 1) -> Buckets | Unlimited:
    """Return buckets of a rate. 0 means no limit."""
    return Buckets(rate, burst, seconds=seconds) if rate else Unlimited()


@dataclass(frozen=True, slots=True)
class Delayed:
    """A publisher that must wait, because of its `address` or its `token`."""

    whose: str
    seconds: float


class RateLimiter:
    """The rates: of streams that everyone opens, of events that one address and one token publish.

    An address is as `address.key` gives it. Of None, which is nobody's, any number is taken. What was taken
    `before` is remembered for the rates that are the same.
    """

    def __init__(self, config: Config, *, before: "RateLimiter | None" = None) -> None:
        self._config = config
        self._permits = 0
        # So few that they are no part of the burst: those that are left over go beyond it.
        self._pack = min(PERMIT_BATCH, 1 + config.subscribe_burst // 256)
        self._streams = buckets(config.subscribe_rate, config.subscribe_burst)
        self._addresses = buckets(config.publish_rate, config.publish_burst)
        self._tokens = buckets(config.publish_rate, config.publish_burst)
        if before is not None:
            self._remember(before)

    def _remember(self, before: "RateLimiter") -> None:
        was, now = before._config, self._config  # noqa: SLF001 - one of its own kind
        if (was.subscribe_rate, was.subscribe_burst) == (now.subscribe_rate, now.subscribe_burst):
            self._streams = before._streams  # noqa: SLF001
        if (was.publish_rate, was.publish_burst) == (now.publish_rate, now.publish_burst):
            self._addresses, self._tokens = before._addresses, before._tokens  # noqa: SLF001

    def stream(self) -> None:
        """Count a stream about to be opened. Raises `Problem` beyond the rate, and counts nothing then."""
        if not self._permits:
            self._permits = self._more_permits()
        self._permits -= 1

    def publish(self, count: int, *, address: str | None, principal: Principal) -> None:
        """Count events about to be published. Raises `Problem` beyond the rate, and counts none then."""
        if address is None and principal.subject is None:
            return
        if late := self._take(count, address, principal):
            raise self._too_many_events(late)

    def _too_many_events(self, late: Delayed) -> Problem:
        rate, burst = Quantity(self._config.publish_rate, "event"), self._config.publish_burst
        return _too_many(
            f"publish_rate: one {late.whose} may publish {rate} in a second, after {burst} at once"
            " (publish_burst)",
            late.seconds,
        )

    def require_some(self, *, address: str | None, principal: Principal) -> None:
        """Raise `Problem` for a caller that may not publish one event now. Count nothing.

        For work that comes before the number of events is known.
        """
        token, address = _limited(principal, address)
        waits = (
            ("token", self._tokens.wait_for(token, 1) if token else 0.0),
            ("address", self._addresses.wait_for(address, 1) if address else 0.0),
        )
        for whose, wait in waits:
            if wait:
                raise self._too_many_events(Delayed(whose, wait))

    def publish_wait(self, count: int, *, address: str | None, principal: Principal) -> float:
        """Count events and return 0.0, or count nothing and return the seconds to wait.

        For a publisher that is slowed, not refused. Ask again after the wait: others may have taken its
        events.
        """
        late = self._take(count, address, principal)
        return late.seconds if late else 0.0

    def batch_size(self, most: int) -> int:
        """Return how many events a slowed publisher should publish at once, at most `most`."""
        rate = self._config.publish_rate
        return max(1, min(most, int(rate * BATCH_SECONDS), self._config.publish_burst)) if rate else most

    def _more_permits(self) -> int:
        if not self._streams.take(EVERYONE, self._pack):
            return self._pack
        if wait := self._streams.take(EVERYONE, 1):
            rate, burst = Quantity(self._config.subscribe_rate, "stream"), self._config.subscribe_burst
            raise _too_many(
                f"subscribe_rate: {rate} may be opened in a second, after {burst} at once (subscribe_burst)",
                wait,
            )
        return 1

    def _take(self, count: int, address: str | None, principal: Principal) -> Delayed | None:
        token, address = _limited(principal, address)
        # Nothing can be returned to a bucket: check the token before taking from the address.
        if token and address and (wait := self._tokens.wait_for(token, count)):
            return Delayed("token", wait)
        if address and (wait := self._addresses.take(address, count)):
            return Delayed("address", wait)
        if token and (wait := self._tokens.take(token, count)):
            return Delayed("token", wait)
        return None


def _limited(principal: Principal, address: str | None) -> tuple[str | None, str | None]:
    """Return the token and the address that a request counts for, each None if not counted."""
    if principal.subject is None:
        return None, address
    # Strangers may share the address of a caller with `admin`, and have used its rate.
    return _name(principal), None if principal.allows(Action.ADMIN) else address


def share_name(principal: Principal, *, address: str | None) -> str:
    """Return the name of a caller's share of what all callers use.

    It is the caller for any of its tokens, or the address without a token, as `client_address.key` returns
    it. All loopback clients without a token share the name "".
    """
    kind, subject, _ = principal.bearer
    if subject is None:
        return f"address {address}" if address else ""
    return bucket_key(f"{kind} {subject}")


def _name(principal: Principal) -> str:
    # The length keeps different subjects and ids from making the same name.
    kind, subject, id = principal.bearer
    return bucket_key(f"{kind}:{len(subject or '')}:{subject}:{id or ''}")


def bucket_key(name: str) -> str:
    """Return a name as the key of a bucket; a digest if it is long."""
    if len(name) <= LONGEST_KEY:
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _too_many(detail: str, seconds: float) -> Problem:
    after = max(1, math.ceil(seconds))
    return Problem(
        429,
        f"{detail}; try again in {after} s",
        headers={"Retry-After": str(after)},
        reason=RefusalReason.RATE,
    )
