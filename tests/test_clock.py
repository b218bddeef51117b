"""Clock: monotonic, and converted to wall time."""

import time
from collections.abc import Iterator

import pytest

from sse_broadcast.auth.claims import MAX_TIME
from sse_broadcast.clock import Clock, utc, utc_milliseconds

DAY = 86_400.0


class Clocks:
    """The two clocks of a machine in seconds, in sums of powers of two, which are never rounded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.date = 1_700_000_000.0
        self.steady = 512.0
        monkeypatch.setattr(time, "time", lambda: self.date)
        monkeypatch.setattr(time, "clock_gettime", lambda _: self.steady)

    def wait(self, seconds: float) -> None:
        self.date += seconds
        self.steady += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_the_clock_begins_at_the_wall_time(clocks: Clocks) -> None:
    """The unit is seconds since 1970."""
    assert Clock().now() == 1_700_000_000.0


@pytest.mark.parametrize("jump", [DAY, -DAY, 0.5])
def test_setting_the_date_does_not_move_the_clock(clocks: Clocks, jump: float) -> None:
    """A second later it is a second further."""
    clock = Clock()
    clocks.date += jump
    clocks.wait(1.0)
    assert clock.now() == 1_700_000_001.0


@pytest.mark.parametrize("jump", [DAY, -DAY, 0.5])
def test_a_moment_is_converted_with_the_present_date(clocks: Clocks, jump: float) -> None:
    """This holds for moments before the date was set, too: the date was wrong."""
    clock = Clock()
    before = clock.now()
    clocks.date += jump
    clocks.wait(1.0)
    assert clock.to_wall_time(clock.now()) == 1_700_000_001.0 + jump
    assert clock.to_wall_time(before) == 1_700_000_000.0 + jump


def test_a_moment_has_the_same_wall_time_while_the_date_is_not_set(clocks: Clocks) -> None:
    """The two clocks are read one after the other, which takes a varying time."""
    clock = Clock()
    moment = clock.now()
    clocks.date += 2**-12
    assert clock.to_wall_time(moment) == 1_700_000_000.0


def test_the_clock_runs_with_the_machine() -> None:
    clock = Clock()
    before, date = clock.now(), time.time()
    assert clock.now() >= before
    assert abs(clock.to_wall_time(clock.now()) - date) < DAY


def test_times_are_shown_in_utc() -> None:
    assert utc(1_700_000_000.0) == "2023-11-14T22:13:20Z"
    assert utc(MAX_TIME) == "9999-12-31T23:59:59Z"


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setenv("TZ", "XXX-13")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_away")
def test_a_time_is_utc_with_milliseconds() -> None:
    """The local time zone does not matter. It is rounded down, never into the next second."""
    assert time.timezone == -13 * 3600
    assert utc_milliseconds(1_795_381_966.0429) == "2026-11-22T21:12:46.042Z"
    assert utc_milliseconds(0.9999) == "1970-01-01T00:00:00.999Z"
    assert utc_milliseconds(5) == "1970-01-01T00:00:05.000Z"
