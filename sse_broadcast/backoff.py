"""Backoff: which failures pass by themselves, and how long to wait before the next attempt."""

import email.utils
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sse_broadcast.errors import ClientError

FLOOR = 0.5
"""Seconds between two attempts at least, even where a server says `retry: 0`."""

CEILING = 60.0
"""Seconds to which waits grow, unless the server itself asks for more."""

MAX_RETRY_SECONDS = 3600.0
"""Seconds of `retry:` that are kept: the most that a publisher may set."""

LONGEST_RETRY_AFTER = 300.0
"""Seconds of `Retry-After` that are kept.

A maintenance page says an hour and is gone in two minutes; twelve requests an hour harm nobody.
"""

PUBLISH_CEILING = 10.0
"""Seconds to which the waits of a publisher grow: what it has to publish is held up meanwhile."""

PACED = 10
"""Attempts of one request at most, each after the time that a 429 named."""

MAX_DIGITS = 9
"""Digits of a number of seconds that are read; Python refuses to convert thousands of them."""

TRANSIENT_4XX = frozenset({408, 425, 429})
"""The statuses below 500 that ask for the same request at another time (RFC 9110, 8470, 6585)."""

PERMANENT_5XX = frozenset({501, 505, 506, 508, 510})
"""The statuses from 500 on that say how a server was built or configured, and not how it is doing.

All others pass, those that proxies invent included (520 to 530, 561, 598, 599). So does 511, of a
network that waits for its user to log in.
"""


def is_transient(status: int) -> bool:
    """Return whether the same request may be answered otherwise later, with nothing changed in it."""
    return status in TRANSIENT_4XX or (500 <= status <= 599 and status not in PERMANENT_5XX)


class AttemptError(ClientError):
    """A request that failed, and what that means for the next attempt.

    `transient`: another attempt may succeed. `unsure`: the request may have been carried out, and must not
    be sent again if that would do its work twice. `answered`: an HTTP server was there. `retry_after` is in
    seconds, None if no answer said it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        transient: bool,
        unsure: bool,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.transient = transient
        self.answered = status is not None
        self.unsure = unsure
        self.retry_after = retry_after


def delay(base: float, failures: int, *, at_least: float | None = None, ceiling: float = CEILING) -> float:
    """Return the seconds to wait before the next attempt, after so many failed ones in a row.

    `base` is the wait after an attempt that worked. From the first failure on it doubles with each, up to
    `ceiling`, and is spread, so that clients that lost their server together do not return together. It is
    never shorter than `base`. `at_least` is what `Retry-After` said.
    """
    base = min(max(base, FLOOR), MAX_RETRY_SECONDS)
    wait = base
    if failures:
        grown = min(base * 2.0 ** min(failures, 20), ceiling)
        wait = max(base, grown * random.uniform(0.5, 1.0))
    if at_least is not None:
        # Everybody was told the same number of seconds.
        wait = max(wait, min(at_least, LONGEST_RETRY_AFTER) * random.uniform(1.0, 1.25))
    return wait


class RetryBudget:
    """The attempts that one request of a publisher may take.

    A request that was not carried out is sent again for `seconds` from the first failure on. With `paced`, a
    429 that names its time is no outage: the request waits as long as it is told, `PACED` attempts in all,
    and none of that counts. `on_retry` is called with the first failure, if there is another attempt.
    """

    def __init__(
        self,
        seconds: float,
        *,
        paced: bool,
        on_retry: Callable[[ClientError], object] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._pauses = PACED - 1 if paced else 0
        self._on_retry = on_retry
        self._now = now
        self._failures = 0
        self._end = 0.0

    def wait_after(self, error: AttemptError) -> float:
        """Return the seconds to wait before the request is sent again. Raises the error if it may not be."""
        if error.status == 429 and error.retry_after is not None and self._pauses:
            self._pauses -= 1
            return min(max(error.retry_after, FLOOR), CEILING)
        if error.unsure or not error.transient:
            raise error
        return self._wait_out(error)

    def _wait_out(self, error: AttemptError) -> float:
        if not self._failures:
            self._end = self._now() + self._seconds
        left = self._end - self._now()
        if not left > 0:  # nor if it is no number
            raise error
        if not self._failures and self._on_retry is not None:
            self._on_retry(error)
        self._failures += 1
        wait = delay(FLOOR, self._failures, at_least=error.retry_after, ceiling=PUBLISH_CEILING)
        # The last attempt is at the end of the time, whatever was told: there is no later one.
        return min(wait, left)


def parse_retry_after(text: str, *, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, or None if it says neither seconds nor a date.

    A date in the past is 0 seconds (RFC 9110, 10.2.3).
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= MAX_DIGITS else float(10**MAX_DIGITS)
    date = _parse_date(text)
    return None if date is None else max(date.timestamp() - now(), 0.0)


def _parse_date(text: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # An HTTP-date is always UTC; the obsolete asctime form does not say so.
    return date if date.tzinfo else date.replace(tzinfo=UTC)
