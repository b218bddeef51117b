"""Backoff: which failures are temporary, and how long to wait before the next attempt."""

import email.utils
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sse_broadcast.errors import ClientError

FLOOR = 0.5
"""Minimum seconds between two attempts, even if a server sends `retry: 0`."""

CEILING = 60.0
"""Maximum seconds between two attempts, unless the server asks for more."""

MAX_RETRY_SECONDS = 3600.0
"""Maximum of `retry:` in seconds: the most that a publisher may set."""

# A maintenance page often says an hour and is gone in two minutes. Twelve requests an hour do no harm.
LONGEST_RETRY_AFTER = 300.0
"""Maximum of `Retry-After` in seconds. Longer times are cut to it."""

PUBLISH_CEILING = 10.0
"""Maximum seconds between two attempts of a publisher: the events behind it wait meanwhile."""

PACED = 10
"""Maximum attempts of one request that a 429 asked to wait."""

MAX_DIGITS = 9
"""Maximum digits of a number of seconds. Python refuses to convert thousands of digits."""

TRANSIENT_4XX = frozenset({408, 425, 429})
"""Statuses below 500 that ask for the same request at another time (RFC 9110, 8470, 6585)."""

PERMANENT_5XX = frozenset({501, 505, 506, 508, 510})
"""Statuses from 500 on that describe how a server was built or configured.

All others are temporary, including those that proxies invent (520 to 530, 561, 598, 599) and 511, of a
network that waits for its user to log in.
"""


def is_transient(status: int) -> bool:
    """Return whether the same request, unchanged, may get another answer later."""
    return status in TRANSIENT_4XX or (500 <= status <= 599 and status not in PERMANENT_5XX)


class AttemptError(ClientError):
    """A failed request, and what the failure means for the next attempt.

    `transient`: another attempt may succeed. `unsure`: the server may have carried out the request, so it
    must not be sent again if that would do its work twice. `answered`: an HTTP server answered. `retry_after`
    is in seconds, None if no answer named it.
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
    """Return the seconds to wait before the next attempt, after `failures` failed ones in a row.

    `base` is the wait after a successful attempt, and the minimum. From the first failure on the wait doubles
    up to `ceiling`, with a random part. `at_least` is the time of `Retry-After`.
    """
    # The random part spreads clients that lost their server together: they must not all return together.
    base = min(max(base, FLOOR), MAX_RETRY_SECONDS)
    wait = base
    if failures:
        grown = min(base * 2.0 ** min(failures, 20), ceiling)
        wait = max(base, grown * random.uniform(0.5, 1.0))
    if at_least is not None:
        # All clients got the same number of seconds.
        wait = max(wait, min(at_least, LONGEST_RETRY_AFTER) * random.uniform(1.0, 1.25))
    return wait


class RetryBudget:
    """The attempts that one request of a publisher may make.

    A request that was not carried out is sent again for `seconds` from the first failure on. With `paced`, a
    429 with `Retry-After` does not count as a failure: the request waits as long as the answer asks, up to
    `PACED` attempts. `on_retry` is called with the first failure, if another attempt follows.
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
        """Return the seconds to wait before the next attempt. Raises the error if there is none."""
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
        if not left > 0:  # "not": also for NaN
            raise error
        if not self._failures and self._on_retry is not None:
            self._on_retry(error)
        self._failures += 1
        wait = delay(FLOOR, self._failures, at_least=error.retry_after, ceiling=PUBLISH_CEILING)
        # The last attempt comes at the end of the budget, even if Retry-After asks for more.
        return min(wait, left)


def parse_retry_after(text: str, *, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds of a `Retry-After` header, or None if it has neither seconds nor a date.

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
    # An HTTP-date is always UTC. The obsolete asctime form does not name the zone.
    return date if date.tzinfo else date.replace(tzinfo=UTC)
