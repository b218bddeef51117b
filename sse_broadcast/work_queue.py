"""Work queue: long work on the event loop, in slices, with callers taking turns."""

import asyncio
from collections import deque
from collections.abc import Generator, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

ITEMS_PER_SLICE = 4096
"""Items per slice if examining one is cheap: a slice takes about 0.5 ms."""

SlicedWork = Generator[None, None, T]
"""A generator that pauses after each slice of about half a millisecond, and returns a result. Closing it at a
pause must release the same things as its end."""


def run_to_completion(steps: SlicedWork[T]) -> T:
    """Run all slices at once, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class FairQueue(Generic[T]):
    """A queue of items of several callers. It yields one item of each caller in turn."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: dict[Hashable, deque[T]] = {}
        """What waits, by its caller; the caller whose turn is next comes first."""

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def append(self, thing: T, *, caller: Hashable) -> None:
        """Append an item after those of the same caller."""
        self.waiting.setdefault(caller, deque()).append(thing)

    def popleft(self) -> T:
        """Remove and return the next item."""
        caller = next(iter(self.waiting))
        things = self.waiting.pop(caller)
        thing = things.popleft()
        if things:
            self.waiting[caller] = things  # behind all others
        return thing


class FairLock:
    """A lock that is passed on from caller to caller: each caller's next waiter has its turn in the round.

    `asyncio.Lock` serves waiters in their order, so that one caller's hundred requests delay everybody.
    """

    __slots__ = ("_locked", "_waiting")

    def __init__(self) -> None:
        self._locked = False
        self._waiting = FairQueue[asyncio.Future[None]]()

    def __len__(self) -> int:
        return sum(not turn.done() for turns in self._waiting.waiting.values() for turn in turns)

    def locked(self) -> bool:
        """Return whether somebody has the lock."""
        return self._locked

    async def acquire(self, caller: Hashable = None) -> None:
        """Wait for the lock. `release` it afterwards."""
        if not self._locked:
            self._locked = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn, caller=caller)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()  # the turn came together with the cancellation
            raise

    def release(self) -> None:
        """Pass the lock on to the next waiter that was not cancelled."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._locked = False


class Job:
    """Work in slices, and the future of its result."""

    __slots__ = ("result", "steps")

    def __init__(self, steps: SlicedWork[Any]) -> None:
        self.steps = steps
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def run_slice(self) -> bool:
        """Run the next slice. Return whether it was the last."""
        try:
            next(self.steps)
        except StopIteration as end:
            if not self.result.done():
                self.result.set_result(end.value)
            return True
        except Exception as error:  # noqa: BLE001 - the future raises it in the caller
            if not self.result.done():
                self.result.set_exception(error)
            return True
        return False


class WorkQueue:
    """Runs one slice of work in each turn of the loop, for one caller after another.

    A caller's jobs run one after the other, and none is refused. However much work one caller adds, another
    waits for at most one slice of each caller.
    """

    def __init__(self) -> None:
        # The caller whose turn is next comes first.
        self._jobs: dict[Hashable, deque[Job]] = {}
        self._turn: asyncio.Handle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    async def run(self, steps: SlicedWork[T], *, caller: Hashable) -> T:
        """Run work and return its result or raise its error. Cancelling the caller ends the work.

        Work of a single slice is done at once, unless its caller has other work in the queue.
        """
        if caller not in self._jobs:
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
        job = self._add(Job(steps), caller)
        try:
            result = await job.result
        finally:
            self._discard(job, caller)
        return result

    def start(self, steps: SlicedWork[T], *, caller: Hashable) -> "asyncio.Future[T]":
        """Start work that runs to its end even if nobody waits for the result.

        Work of a single slice is done at once, as in `run`.
        """
        job = Job(steps)
        if caller in self._jobs or not job.run_slice():
            self._add(job, caller)
        return job.result

    def _add(self, job: Job, caller: Hashable) -> Job:
        self._jobs.setdefault(caller, deque()).append(job)
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turn)
        return job

    def _take_turn(self) -> None:
        caller = next(iter(self._jobs))
        jobs = self._jobs.pop(caller)
        if jobs[0].run_slice():
            jobs.popleft()
        if jobs:
            self._jobs[caller] = jobs  # after all other callers
        self._turn = asyncio.get_running_loop().call_soon(self._take_turn) if self._jobs else None

    def _discard(self, job: Job, caller: Hashable) -> None:
        jobs = self._jobs.get(caller)
        if jobs is None or job not in jobs:
            return
        jobs.remove(job)
        job.steps.close()
        if jobs:
            return
        del self._jobs[caller]
        if not self._jobs and self._turn is not None:
            self._turn.cancel()
            self._turn = None
