"""Long work that waits until its test has seen it wait."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from sse_broadcast.work_queue import WorkQueue


@contextlib.contextmanager
def held_up(work: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep every piece of work from running inside the `with`."""
    turn, held = work._take_turn, True

    def wait() -> None:
        if held and len(work):
            work._turn = asyncio.get_running_loop().call_soon(wait)
        elif len(work):
            turn()
        else:
            work._turn = None

    monkeypatch.setattr(work, "_take_turn", wait)
    yield
    held = False
