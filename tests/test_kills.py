"""A server with its history in a file, killed repeatedly: `benchmarks/kills.py` with a few kills."""

from pathlib import Path

import pytest

from benchmarks import kills


@pytest.mark.timeout(120)
@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_kill_loses_no_acknowledged_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Subscribers get every event once and in order, without a `$reset`."""
    monkeypatch.setattr(kills, "SUBSCRIBERS", 20)
    scene, subscribers = await kills.torture(tmp_path, kills=3, durability=durability)
    checks = list(kills.checked(scene, subscribers, kills=3))
    assert [check for check in checks if not check.met] == []
    assert len(scene.answered) > kills.PUBLISHERS
