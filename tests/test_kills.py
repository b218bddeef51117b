"""A server that is killed while it keeps its history in a file: `benchmarks/kills.py` with a few kills."""

from pathlib import Path

import pytest

from benchmarks import kills


@pytest.mark.timeout(120)
@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_kill_loses_nothing_that_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Whoever follows has everything once and in order, and nobody is told of a loss."""
    monkeypatch.setattr(kills, "SUBSCRIBERS", 20)
    scene, subscribers = await kills.torture(tmp_path, kills=3, durability=durability)
    checks = list(kills.checked(scene, subscribers, kills=3))
    assert [check for check in checks if not check.met] == []
    assert len(scene.answered) > kills.PUBLISHERS
