"""Backoff: which failures are temporary, and how long to wait."""

import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast import backoff
from sse_broadcast.backoff import (
    CEILING,
    FLOOR,
    LONGEST_RETRY_AFTER,
    MAX_RETRY_SECONDS,
    PACED,
    PUBLISH_CEILING,
    AttemptError,
    RetryBudget,
    delay,
    is_transient,
    parse_retry_after,
)
from sse_broadcast.errors import ClientError
from tests.support.clock import Clock

SECONDS = st.floats(0, 1e9)


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the jitter by its longest wait."""
    monkeypatch.setattr(backoff, "random", SimpleNamespace(uniform=lambda _, high: high))


def failure(
    status: int | None = 503,
    *,
    transient: bool = True,
    unsure: bool = False,
    retry_after: float | None = None,
) -> AttemptError:
    return AttemptError("away", status=status, transient=transient, unsure=unsure, retry_after=retry_after)


@given(status=st.integers(520, 599))
def test_invented_statuses_of_proxies_are_temporary(status: int) -> None:
    """No list of them could be complete."""
    assert is_transient(status)


PASSING = [408, 425, 429, 500, 502, 503, 504, 507, 511, 599]
NEVER = [100, 204, 304, 400, 401, 403, 404, 405, 409, 410, 414, 415, 421, 422, 431, 499]
NEVER += [501, 505, 506, 508, 510, 600, 999]


@pytest.mark.parametrize("status", [*PASSING, *NEVER])
def test_a_status_is_temporary_unless_it_is_about_the_request(status: int) -> None:
    """One about the features of the server is permanent, and so is an invalid one."""
    assert is_transient(status) == (status in PASSING)


@given(base=st.floats(FLOOR, MAX_RETRY_SECONDS))
def test_the_wait_after_a_success_is_the_servers(base: float) -> None:
    """It is exact to the millisecond: the server has added jitter."""
    assert delay(base, 0) == base


@given(base=SECONDS, failures=st.integers(0, 10**9), at_least=st.none() | SECONDS)
def test_every_wait_is_limited(base: float, failures: int, at_least: float | None) -> None:
    """It is at least the minimum and a reasonable Retry-After, and at most an hour."""
    wait = delay(base, failures, at_least=at_least)
    asked = min(at_least or 0.0, LONGEST_RETRY_AFTER)
    assert max(FLOOR, min(base, MAX_RETRY_SECONDS), asked) <= wait
    assert wait <= max(CEILING, min(base, MAX_RETRY_SECONDS), 1.25 * asked)


@pytest.mark.parametrize(
    ("base", "waits"),
    [
        (3.0, [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]),
        (0.0, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]),
        (90.0, [90.0, 90.0, 90.0]),
        (86_400.0, [3600.0, 3600.0]),
    ],
)
@pytest.mark.usefixtures("longest")
def test_the_wait_doubles_with_each_failure(base: float, waits: list[float]) -> None:
    """The limit is a minute, or a longer wait of the server."""
    assert [delay(base, failures) for failures in range(len(waits))] == pytest.approx(waits)


def test_the_wait_after_a_failure_has_jitter() -> None:
    """Clients that lost their server together, or got the same wait, do not reconnect together."""
    for some, low, high in (
        ({delay(1.0, 1) for _ in range(50)}, 1.0, 2.0),
        ({delay(1.0, 6) for _ in range(50)}, 30.0, 60.0),
        ({delay(1.0, 0, at_least=20.0) for _ in range(50)}, 20.0, 25.0),
    ):
        assert len(some) > 1
        assert low <= min(some) <= max(some) <= high


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        (" 007 ", 7.0),
        ("0", 0.0),
        ("9" * 5000, 1e9),
        ("Thu, 01 Jan 1970 00:02:05 GMT", 25.0),
        ("Thursday, 01-Jan-70 00:02:05 GMT", 25.0),
        ("Thu Jan  1 00:02:05 1970", 25.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        *((text, None) for text in ("", "-1", "1.5", "²", "soon", "5, 6")),
        ("Thu, 99 Jan 1970 00:00:05 GMT", None),
        ("Thu, 01 Jan 99999 00:00:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    """The date has one of the three forms of RFC 9110, 5.6.7. Any other value is ignored."""
    assert parse_retry_after(text, now=lambda: 100.0) == seconds


def test_a_date_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "America/New_York")
        time.tzset()
        seconds = parse_retry_after("Thu Jan  1 00:02:05 1970", now=lambda: 100.0)
    time.tzset()
    assert seconds == 25.0


@given(text=st.text(max_size=40) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ [\d:]+ [+-]?\w+", fullmatch=True))
def test_any_retry_after_is_accepted(text: str) -> None:
    """Whatever a server sends is non-negative seconds, or nothing."""
    seconds = parse_retry_after(text)
    assert seconds is None or seconds >= 0.0


# The wait of a publisher.


@pytest.mark.usefixtures("longest")
def test_a_publisher_retries_until_its_time_is_over() -> None:
    """Waits grow up to a limit. The last attempt is at the end of the time."""
    clock, error = Clock(), failure()
    budget = RetryBudget(30.0, paced=True, now=clock)
    for wait in (1.0, 2.0, 4.0, 8.0, PUBLISH_CEILING, 5.0):
        assert budget.wait_after(error) == wait
        clock.forward(wait)
    with pytest.raises(AttemptError) as caught:
        budget.wait_after(error)
    assert caught.value is error


@pytest.mark.usefixtures("longest")
def test_a_publishers_time_includes_its_attempts() -> None:
    """One to an unreachable server may take ten seconds."""
    clock = Clock()
    budget = RetryBudget(30.0, paced=True, now=clock)
    assert budget.wait_after(failure()) == 1.0
    clock.forward(29.5)
    assert budget.wait_after(failure()) == 0.5
    clock.forward(0.5)
    with pytest.raises(AttemptError):
        budget.wait_after(failure())


@pytest.mark.parametrize("seconds", [0.0, float("nan")])
def test_a_publisher_without_time_fails_at_once(seconds: float) -> None:
    reported: list[ClientError] = []
    with pytest.raises(AttemptError):
        RetryBudget(seconds, paced=True, on_retry=reported.append).wait_after(failure())
    assert reported == []


@pytest.mark.parametrize("error", [failure(unsure=True), failure(401, transient=False)])
def test_a_publisher_does_not_retry_what_may_be_done_or_is_refused(error: AttemptError) -> None:
    with pytest.raises(AttemptError) as caught:
        RetryBudget(60.0, paced=True).wait_after(error)
    assert caught.value is error


def test_an_outage_is_reported_once() -> None:
    reported: list[ClientError] = []
    budget, first = RetryBudget(60.0, paced=True, on_retry=reported.append), failure()
    for error in (first, failure(), failure()):
        budget.wait_after(error)
    assert reported == [first]


def test_a_rate_limit_is_no_outage() -> None:
    """A 429 with a wait is not reported and costs none of the retry time, but its time is limited too."""
    reported: list[ClientError] = []
    budget = RetryBudget(0.0, paced=True, on_retry=reported.append)
    late = failure(429, retry_after=7.0)
    assert [budget.wait_after(late) for _ in range(PACED - 1)] == [7.0] * (PACED - 1)
    with pytest.raises(AttemptError):
        budget.wait_after(late)
    assert reported == []


@pytest.mark.parametrize(("reported", "wait"), [(0.0, FLOOR), (1e9, CEILING)])
def test_a_wait_for_a_rate_limit_is_limited(reported: float, wait: float) -> None:
    assert RetryBudget(0.0, paced=True).wait_after(failure(429, retry_after=reported)) == wait


@pytest.mark.usefixtures("longest")
def test_a_single_message_does_not_wait_for_a_rate_limit() -> None:
    """The 429 is a failure like any other."""
    late = failure(429, retry_after=7.0)
    assert RetryBudget(60.0, paced=False).wait_after(late) == 8.75
    with pytest.raises(AttemptError):
        RetryBudget(0.0, paced=False).wait_after(late)
