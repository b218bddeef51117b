"""Long work that waits until its test has seen it wait."""

import contextlib
from collections.abc import Iterator

import pytest

from sse_broadcast.work_queue import Job, WorkQueue


@contextlib.contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep every piece of work that waits for its turn from running inside the `with`."""
    run_slice, held = Job.run_slice, True
    monkeypatch.setattr(Job, "run_slice", lambda job: not held and run_slice(job))
    yield
    held = False


def turns_of(work: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each turn from now on adds how much work is left behind it."""
    turn, left = work._take_turn, list[int]()

    def noted() -> None:
        turn()
        left.append(len(work))

    monkeypatch.setattr(work, "_take_turn", noted)
    return left
