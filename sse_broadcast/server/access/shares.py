"""Shares: how much one caller may hold of what all callers use together.

A caller is an address (of IPv6 its /64 network), and the credential used from there; each has its share. A
caller may hold as much as it leaves to others: one caller half, two callers a third each. So there is always
room for the next.
"""

import logging
import math
from typing import TypeVar

from sse_broadcast.auth.principal import Action, CredentialKind, Principal
from sse_broadcast.channels import Selector
from sse_broadcast.config.schema import Config
from sse_broadcast.metrics import Metrics, Share
from sse_broadcast.reminder import Reminder
from sse_broadcast.server.access.rate_limits import Buckets, Unlimited, bucket_key, buckets
from sse_broadcast.server.http.json_body import largest_body
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.refused_stream import RefusalReason

logger = logging.getLogger("sse_broadcast.shares")

T = TypeVar("T")

CallerKey = str | tuple[CredentialKind, str | None, str | None]
"""An address as `client_address.key` gives it, or whose credential it is: `Principal.bearer`."""

Callers = tuple[CallerKey, ...] | None
"""The callers that a request counts for. None is a caller with `admin`, which has no limits."""

BODIES = 32
"""Number of bodies of maximum size that all requests together may hold in memory."""

UNCOUNTED = 16_384
"""Bytes of a body that are not counted: the limits of connections cover as much."""


RATE_SHARES = {"address": 4, "token": 2}
"""Divisors of `subscribe_rate` and `subscribe_burst` for one caller. By default an address may have 1,000
connections and a token 10,000, which may all reconnect at once."""


SHARE_SETTINGS = {
    Share.CHANNELS: "subscribed_channels",
    Share.STREAMS: "max_connections_per_address and max_connections_per_token",
    Share.STREAM_RATE: "subscribe_rate and subscribe_burst",
    Share.BODY_BYTES: "max_body and max_event",
}


def callers_of(principal: Principal, address: str | None) -> Callers:
    """Return the callers that a request counts for. The address None, as of the loopback, is not counted."""
    # Without credentials, loopback clients may do everything. That does not exempt them like `admin`.
    if principal.subject is None:
        return () if address is None else (address,)
    if principal.allows(Action.ADMIN):
        return None
    return (principal.bearer,) if address is None else (address, principal.bearer)


def name_of(caller: CallerKey) -> str:
    """Return a caller's name for the log, never a token."""
    if isinstance(caller, str):
        return f"address {caller}"
    kind, name, _ = caller
    return f"{kind} {ascii(name)[1:-1][:80]}"


class _Follower:
    """The channels and patterns of one caller, with the number of its streams that have each."""

    __slots__ = ("names", "selectors")

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        # Selectors of several channels: a further stream with the same one costs one step, not one per
        # channel.
        self.selectors: dict[Selector, int] = {}

    def count_with(self, selector: Selector) -> int:
        """Return the number of its different channels and patterns with these added."""
        return len(self.names) + sum(name not in self.names for name in selector.channels)

    def add(self, selector: Selector) -> None:
        if len(selector.channels) > 1 and not _added(self.selectors, selector):
            return
        for name in selector.channels:
            _added(self.names, name)

    def remove(self, selector: Selector) -> None:
        if len(selector.channels) > 1 and not _removed(self.selectors, selector):
            return
        for name in selector.channels:
            _removed(self.names, name)


class Shares:
    """Counts what each caller holds of shared resources, and refuses what exceeds its share.

    Whoever takes something must release it once. Belongs to one event loop.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._rate = (-1, -1)  # the rate and burst of `_streams`
        self._streams: dict[str, Buckets | Unlimited] = {}
        self.configure(config)
        self._metrics = metrics
        self._followers: dict[CallerKey, _Follower] = {}
        self._bytes: dict[CallerKey, int] = {}
        self._reminder = Reminder()  # a line for each refusal would let an attacker flood the log
        self.body_bytes = 0
        """Bytes of bodies being read, of all callers."""

    def configure(self, config: Config) -> None:
        """Use another configuration for new requests. What is held stays."""
        self.max_body_bytes = BODIES * largest_body(config)
        rate = (config.subscribe_rate, config.subscribe_burst)
        if rate != self._rate:
            self._rate = rate
            self._streams = {
                kind: buckets(rate[0], max(1, rate[1] // part), seconds=part)
                for kind, part in RATE_SHARES.items()
            }

    def reached(self, share: Share, caller: CallerKey) -> None:
        """Count a refusal because of a share, and log the first in a minute."""
        self._metrics.share_reached(share)
        if self._reminder.is_due(share):
            logger.warning(
                "%(caller)s has reached its share of %(share)s, refusing more (%(setting)s)",
                {"caller": name_of(caller), "share": str(share), "setting": SHARE_SETTINGS[share]},
            )

    # Streams.

    def open_stream(self, callers: Callers) -> None:
        """Count a stream about to be opened. Raises `Problem` beyond the share of a caller."""
        for caller in callers or ():
            if wait := self._streams[_kind(caller)].take(bucket_key(repr(caller)), 1):
                self.reached(Share.STREAM_RATE, caller)
                after, part = str(math.ceil(wait)), RATE_SHARES[_kind(caller)]
                raise Problem(
                    429,
                    f"subscribe_rate: one {_kind(caller)} may open 1/{part} of subscribe_rate per second,"
                    f" and of subscribe_burst at once; try again in {after} s",
                    headers={"Retry-After": after},
                    reason=RefusalReason.RATE,
                )

    # Channels.

    def follow(self, callers: Callers, selector: Selector, *, new: int, left: int) -> None:
        """Count the channels of a stream for its callers. Raises `Problem` beyond a share, counting none.

        `new` of them have no subscriber yet. With those, `left` is the room for other callers.
        """
        for caller in callers or ():
            follower = self._followers.get(caller)
            count = len(selector.channels) if follower is None else follower.count_with(selector)
            if new and count > left:
                self.reached(Share.CHANNELS, caller)
                raise _beyond(
                    caller,
                    f"subscribed_channels: this {_kind(caller)} would have {count} different channels and"
                    f" patterns, and leave room for {left}; it may not have more than it leaves to others",
                )
        for caller in callers or ():
            follower = self._followers.get(caller)
            if follower is None:
                follower = self._followers[caller] = _Follower()
            follower.add(selector)

    def unfollow(self, callers: Callers, selector: Selector) -> None:
        """Release what `follow` counted."""
        for caller in callers or ():
            follower = self._followers[caller]
            follower.remove(selector)
            if not follower.names:
                del self._followers[caller]

    # Bodies.

    def hold(self, callers: Callers, count: int) -> None:
        """Count bytes of a body for its callers. Raises `Problem` beyond a share, counting none."""
        left = self.max_body_bytes - self.body_bytes - count
        if callers is not None and left < 0:
            raise Problem(
                503,
                f"bodies: the limit of {self.max_body_bytes} bytes of all requests together is reached;"
                " nothing was published",
                headers={"Retry-After": "1"},
                closes=True,
            )
        for caller in callers or ():
            if self._bytes.get(caller, 0) + count > left:
                self.reached(Share.BODY_BYTES, caller)
                raise _beyond(
                    caller,
                    f"bodies: {self._bytes.get(caller, 0)} bytes of this {_kind(caller)} are being read, and"
                    f" {max(left, 0)} are left for others; it may not have more than it leaves to others",
                )
        self._hold(callers, count)

    def release(self, callers: Callers, count: int) -> None:
        """Release what `hold` counted."""
        self._hold(callers, -count)

    def _hold(self, callers: Callers, count: int) -> None:
        self.body_bytes += count
        for caller in callers or ():
            held = self._bytes.get(caller, 0) + count
            if held:
                self._bytes[caller] = held
            else:
                del self._bytes[caller]


def _kind(caller: CallerKey) -> str:
    return "address" if isinstance(caller, str) else "token"


def _beyond(caller: CallerKey, detail: str) -> Problem:
    reason = RefusalReason.ADDRESS if isinstance(caller, str) else RefusalReason.TOKEN
    return Problem(429, detail, reason=reason, closes=True)


def _added(counts: dict[T, int], key: T) -> bool:
    """Count one more, and return whether it is the first."""
    count = counts.get(key, 0)
    counts[key] = count + 1
    return not count


def _removed(counts: dict[T, int], key: T) -> bool:
    """Count one less, and return whether it was the last."""
    count = counts[key] - 1
    if count:
        counts[key] = count
    else:
        del counts[key]
    return not count
