"""Fixtures of the fan-out tests."""

import pytest

from sse_broadcast.broadcaster import Broadcaster
from tests.support.dispatching import LoopClock
from tests.support.groups import RecordedGroup
from tests.support.memory_sinks import make_broadcaster


@pytest.fixture
def broadcaster() -> Broadcaster:
    """Return a broadcaster of the default configuration, with a fixed epoch."""
    return make_broadcaster()


@pytest.fixture
def group() -> RecordedGroup:
    """Return a group of the default channel, in text."""
    return RecordedGroup()


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    """Replace the time of the running loop."""
    return LoopClock(monkeypatch)
