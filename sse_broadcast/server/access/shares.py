"""Shares: how much one caller may hold of what all callers use together.

A caller is an address (of IPv6 its /64), and the credential that is shown from there: each has its share. It
may hold as much as it leaves to others. So one can have a half, two can have a third each, and whoever comes
next finds room.
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
"""Those that a request counts for. None is one with `admin`, which no share and no total bounds."""

BODIES = 32
"""Largest bodies that all requests together may hold in memory."""

UNCOUNTED = 16_384
"""Bytes of a body that are not counted: a connection is counted, and may hold as much."""


RATE_SHARES = {"address": 4, "token": 2}
"""The part of `subscribe_rate` and `subscribe_burst`, as a divisor, that one caller may take. By default an
address may have 1,000 connections, and a token 10,000: all of them come back at once."""


SHARE_SETTINGS = {
    Share.CHANNELS: "subscribed_channels",
    Share.STREAMS: "max_connections_per_address and max_connections_per_token",
    Share.STREAM_RATE: "subscribe_rate and subscribe_burst",
    Share.BODY_BYTES: "max_body and max_event",
}


def callers_of(principal: Principal, address: str | None) -> Callers:
    """Return those that a request counts for; an address of None, as the loopback's, is not counted.

    A server without credentials lets everybody on its machine do everything: that is no `admin` yet.
    """
    if principal.subject is None:
        return () if address is None else (address,)
    if principal.allows(Action.ADMIN):
        return None
    return (principal.bearer,) if address is None else (address, principal.bearer)


def name_of(caller: CallerKey) -> str:
    """Return what the log calls a caller: never a token."""
    if isinstance(caller, str):
        return f"address {caller}"
    kind, name, _ = caller
    return f"{kind} {ascii(name)[1:-1][:80]}"


class _Follower:
    """The channels and patterns of one caller, and in how many of its streams each is."""

    __slots__ = ("names", "selectors")

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        # Of several channels, so that streams that ask for the same cost one step and not one for each.
        self.selectors: dict[Selector, int] = {}

    def count_with(self, selector: Selector) -> int:
        """Return how many different ones it follows if it follows these too."""
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
    """Counts what each caller holds of what all use together, and refuses what goes beyond its share.

    What is taken is given back, once, by whoever took it. Belongs to one event loop.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._rate = (-1, -1)  # what `_streams` go by
        self._streams: dict[str, Buckets | Unlimited] = {}
        self.configure(config)
        self._metrics = metrics
        self._followers: dict[CallerKey, _Follower] = {}
        self._bytes: dict[CallerKey, int] = {}
        self._reminder = Reminder()  # a line each time would be one for an attacker
        self.body_bytes = 0
        """Bytes of bodies that are being read, of all callers."""

    def configure(self, config: Config) -> None:
        """Go by another configuration from now on; what is held already stays."""
        self.max_body_bytes = BODIES * largest_body(config)
        rate = (config.subscribe_rate, config.subscribe_burst)
        if rate != self._rate:
            self._rate = rate
            self._streams = {
                kind: buckets(rate[0], max(1, rate[1] // part), seconds=part)
                for kind, part in RATE_SHARES.items()
            }

    def reached(self, share: Share, caller: CallerKey) -> None:
        """Count that a caller was refused for its share, and tell of the first in a minute."""
        self._metrics.share_reached(share)
        if self._reminder.is_due(share):
            logger.warning(
                "%(caller)s has reached its share of %(share)s, more is refused (%(setting)s)",
                {"caller": name_of(caller), "share": str(share), "setting": SHARE_SETTINGS[share]},
            )

    # Streams.

    def open_stream(self, callers: Callers) -> None:
        """Count a stream that is about to be opened. Raises `Problem` beyond the share of a caller."""
        for caller in callers or ():
            if wait := self._streams[_kind(caller)].take(bucket_key(repr(caller)), 1):
                self.reached(Share.STREAM_RATE, caller)
                after, part = str(math.ceil(wait)), RATE_SHARES[_kind(caller)]
                raise Problem(
                    429,
                    f"subscribe_rate: one {_kind(caller)} may open 1/{part} of the streams that may be opened"
                    f" in a second, and of subscribe_burst; try again in {after} s",
                    headers={"Retry-After": after},
                    reason=RefusalReason.RATE,
                )

    # Channels.

    def follow(self, callers: Callers, selector: Selector, *, new: int, left: int) -> None:
        """Count the channels of a stream for its callers. Raises `Problem` beyond a share, and counts none.

        `new` of them nobody follows yet; with those there are `left` that others may follow.
        """
        for caller in callers or ():
            follower = self._followers.get(caller)
            count = len(selector.channels) if follower is None else follower.count_with(selector)
            if new and count > left:
                self.reached(Share.CHANNELS, caller)
                raise _beyond(
                    caller,
                    f"subscribed_channels: this {_kind(caller)} would follow {count} different channels and"
                    f" patterns, and leave room for {left}; it may follow no more than it leaves room for",
                )
        for caller in callers or ():
            follower = self._followers.get(caller)
            if follower is None:
                follower = self._followers[caller] = _Follower()
            follower.add(selector)

    def unfollow(self, callers: Callers, selector: Selector) -> None:
        """Release what `follow` has counted."""
        for caller in callers or ():
            follower = self._followers[caller]
            follower.remove(selector)
            if not follower.names:
                del self._followers[caller]

    # Bodies.

    def hold(self, callers: Callers, count: int) -> None:
        """Count bytes of a body for its callers. Raises `Problem` beyond a share, and counts none."""
        left = self.max_body_bytes - self.body_bytes - count
        if callers is not None and left < 0:
            raise Problem(
                503,
                f"bodies: {self.max_body_bytes} bytes may be read at one time, of all requests; nothing was"
                " published",
                headers={"Retry-After": "1"},
                closes=True,
            )
        for caller in callers or ():
            if self._bytes.get(caller, 0) + count > left:
                self.reached(Share.BODY_BYTES, caller)
                raise _beyond(
                    caller,
                    f"bodies: {self._bytes.get(caller, 0)} bytes of this {_kind(caller)} are being read, and"
                    f" {max(left, 0)} are left for others; it may have no more than it leaves",
                )
        self._hold(callers, count)

    def release(self, callers: Callers, count: int) -> None:
        """Release what `hold` has counted."""
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
