"""The clock of the limits, which goes only as far as it is told to."""

import pytest
import throttled


class Clock:
    """Seconds, by default from a sum of powers of two on: added to such, they are never rounded."""

    def __init__(self, now: float = 1024.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


def stopped(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the limiter's clock."""
    clock = Clock()
    monkeypatch.setattr(throttled.utils, "now_mono_f", clock)
    return clock
