"""Rate limits: streams opened and events published in a second."""

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
"""Addresses that are remembered, and tokens: 300 to 600 bytes each."""

PERMIT_BATCH = 16
"""Streams that are counted at once: to ask the limiter costs more than the rest of counting one."""

BATCH_SECONDS = 0.05
"""Seconds' worth of events that a publisher who is slowed publishes at once, so that they flow."""

LONGEST_KEY = 256
"""Characters of a bucket's name; a token's subject may be longer."""

EVERYONE = "everyone"
"""The name of the bucket that all share."""

INSTANT = 1e-6
"""Seconds that a refusal is for at least: 0 is none."""


class Buckets:
    """Buckets by key: each holds `burst` and is given `rate` in so many `seconds` (GCRA).

    The one that was asked for least recently is forgotten when there are `MOST_BUCKETS`, and to be
    forgotten is to be full again. So to fill a bucket before its time takes as many others that something
    is taken from meanwhile, and each of those has a burst of its own: nobody gains by it who would not gain
    more without. Nobody loses by it: what is forgotten refuses nothing.
    """

    def __init__(self, rate: int, burst: int, *, seconds: int = 1) -> None:
        self._rate = rate / seconds
        self._burst = burst
        store = MemoryStore(options={"MAX_SIZE": MOST_BUCKETS})
        quota = per_duration(timedelta(seconds=seconds), rate, burst)
        self._limiter = Throttled(using="gcra", quota=quota, store=store).limiter

    def take(self, key: str, count: int) -> float:
        """Take so many from a bucket and give 0.0; or take none, and give the seconds until it has them."""
        result = self._limiter.limit(key, count)
        return max(result.state.retry_after, INSTANT) if result.limited else 0.0

    def wait_for(self, key: str, count: int) -> float:
        """Return the seconds until a bucket has so many, 0.0 if it has, and take none."""
        state = self._limiter.peek(key)
        if state.remaining >= count:
            return 0.0
        return max(state.reset_after - (self._burst - count) / self._rate, INSTANT)


class Unlimited:
    """Buckets that have whatever is asked of them: a rate of 0."""

    def take(self, key: str, count: int) -> float:  # noqa: ARG002
        """See `Buckets`."""
        return 0.0

    wait_for = take


def buckets(rate: int, burst: int, *, seconds: int = 1) -> Buckets | Unlimited:
    """Return buckets of a rate, of which 0 is any number."""
    return Buckets(rate, burst, seconds=seconds) if rate else Unlimited()


@dataclass(frozen=True, slots=True)
class Delayed:
    """A publisher that must wait, and what for: the events of its `address` or of its `token`."""

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
        """Count a stream that is about to be opened. Raises `Problem` beyond the rate, and counts none."""
        if not self._permits:
            self._permits = self._more_permits()
        self._permits -= 1

    def publish(self, count: int, *, address: str | None, principal: Principal) -> None:
        """Count events that are about to be published: all, or none and raise `Problem`."""
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
        """Raise `Problem` for a caller that may not publish one event now, and count none.

        For work that is done before it is known how many events there are.
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
        """Count events as `publish` does and give 0.0; or count none, and give the seconds to wait before.

        For a publisher that is slowed and not refused. Others may take what it waits for: ask again then.
        """
        late = self._take(count, address, principal)
        return late.seconds if late else 0.0

    def batch_size(self, most: int) -> int:
        """Return how many of so many events a publisher that may be slowed should publish at once."""
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
        # Only the last that is asked may refuse what another has given: nothing is given back.
        if token and address and (wait := self._tokens.wait_for(token, count)):
            return Delayed("token", wait)
        if address and (wait := self._addresses.take(address, count)):
            return Delayed("address", wait)
        if token and (wait := self._tokens.take(token, count)):
            return Delayed("token", wait)
        return None


def _limited(principal: Principal, address: str | None) -> tuple[str | None, str | None]:
    """Return the token and the address that a request counts for, each None if it counts for none."""
    if principal.subject is None:
        return None, address
    # Strangers may have the address of a caller with `admin`, and have used it up.
    return _name(principal), None if principal.allows(Action.ADMIN) else address


def share_name(principal: Principal, *, address: str | None) -> str:
    """Return the name under which a caller has its share of what all callers use.

    That is the caller, whichever of its tokens it shows; where it shows none its address, as `address.key`
    gives it. What comes by the loopback without a token has one share, named "".
    """
    kind, subject, _ = principal.bearer
    if subject is None:
        return f"address {address}" if address else ""
    return bucket_key(f"{kind} {subject}")


def _name(principal: Principal) -> str:
    # With the length, or another subject and id could have the same name.
    kind, subject, id = principal.bearer
    return bucket_key(f"{kind}:{len(subject or '')}:{subject}:{id or ''}")


def bucket_key(name: str) -> str:
    """Return a name as the key of a bucket, or a digest of one that is long."""
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
