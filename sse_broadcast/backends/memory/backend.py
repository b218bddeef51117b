"""Memory: a history in this process, gone with it."""

from collections.abc import Callable, Iterator, Sequence

from sse_broadcast import clock
from sse_broadcast.backends.base import Deliver, Extent, Holding, Replay, ResetReason, Start, Token
from sse_broadcast.backends.memory.history import STRIDE, History
from sse_broadcast.backends.memory.idempotency import IdempotencyKeys
from sse_broadcast.backends.memory.largest import ReportShare
from sse_broadcast.channels import Interest
from sse_broadcast.config.policy import Policies
from sse_broadcast.config.schema import Config
from sse_broadcast.cursor import Age, Cursor, Named, Place, Word, new_epoch, own_id
from sse_broadcast.publication import Draft, Publication, Receipt, place
from sse_broadcast.work_queue import Steps

MAX_LAST = 1000
"""Channels of which `last` gives the newest event, at most."""

SETTLED = 512
"""Channels that are looked at in one tidying, and publications evicted, when channels may hold more or less
than before: some 1 ms."""


class Memory:
    """A backend whose history lives as long as its process. See `Backend`.

    `window` is how many seconds an idempotency key is remembered; `clock` gives seconds.
    """

    def __init__(
        self,
        history: History,
        deliver: Deliver,
        *,
        window: float,
        clock: Callable[[], float] = clock.now,
        report: ReportShare | None = None,
    ) -> None:
        self.epoch = new_epoch()
        self._history = history
        self._deliver = deliver
        self._window = window
        self._clock = clock
        self.position = 0
        self._now = 0.0
        self._overdue = False
        self._keys = IdempotencyKeys(report)

    @property
    def trouble(self) -> None:
        """See `Backend`. What is in our own memory is never away."""

    @property
    def untidy(self) -> bool:
        """See `Backend`."""
        return self._overdue or self._history.unsettled

    async def publish(
        self, drafts: Sequence[Draft], token: Token | None = None, publisher: str = ""
    ) -> Receipt:
        """See `Backend`."""
        now = self._tick()
        if token is None:
            return self._append(drafts, now, publisher)
        self._keys.expire(now)
        seen = self._keys.find(token, publisher)
        if seen is not None:
            # What was sent is the same, so the rest of the receipt is in it.
            last = drafts[-1]
            id = last.event.id or own_id(self.epoch, seen.position)
            return Receipt(seen.clients, last.channels, id, seen.count)
        receipt = self._append(drafts, now, publisher)
        self._keys.remember(
            token,
            publisher,
            position=self.position,
            count=receipt.count,
            clients=receipt.clients,
            expires=now + self._window,
        )
        return receipt

    def find(self, cursor: Cursor, interest: Interest) -> Steps[Start]:
        """See `Backend`."""
        now = self._tick()
        match cursor:
            case Place(epoch, _) if epoch != self.epoch:
                return self._lost(ResetReason.EPOCH)
            case Place(_, position):
                return (yield from self._resumed(interest, position if position <= self.position else None))
            case Named(name):
                named = yield from self._history.position_of(name, interest)
                return (yield from self._resumed(interest, named))
            case Word.LAST:
                began = self.position
                newest = yield from self._history.newest_of(interest, upto=began, most=MAX_LAST)
                return Start(began, first=tuple(newest))
            case Word.EARLIEST:
                return (yield from self._from_first(interest, None))
            case Age(seconds):
                return (yield from self._from_first(interest, now - seconds))

    def replay(self, interest: Interest, *, after: int, told: int, limit: int) -> Steps[Replay]:
        """See `Backend`."""
        self._tick()
        history = self._history
        lost = yield from history.lost(interest, after=after, told=told)
        if lost:
            gap = history.gap(interest, after, lost)
            return Replay((), gap.position, gap, told=history.evictions)
        if (log := history.only_log(interest)) is not None:
            # What most readers ask for: a third of the cost of the general way.
            page = log.page(after, limit, most=STRIDE)
            more = bool(page) and page[-1] is not log.newest
            return Replay(page, page[-1].position if more else self.position, told=history.evictions)
        return self._replay(interest, after, limit)

    def _replay(self, interest: Interest, after: int, limit: int) -> Replay:
        found: list[Publication] = []
        upto, told, room = after, self._history.evictions, STRIDE
        for position, publication, cost in self._history.after(interest, after):
            if publication is not None:
                if found and publication.size > limit:
                    return Replay(found, upto, told=told)
                limit -= publication.size
                found.append(publication)
            upto = position
            room -= cost
            if room <= 0:
                return Replay(found, upto, told=told)
        return Replay(found, self.position, told=told)

    def replayable(self, interest: Interest, *, after: int) -> bool:
        """See `Backend`."""
        self._tick()
        return not self._history.may_have_lost(interest, after=after)

    def oldest(self, interest: Interest, *, after: int) -> float | None:
        """See `Backend`."""
        return self._history.time_after(interest, after)

    def relimit(self) -> None:
        """See `Backend`."""
        self._history.relimit()

    def tidy(self) -> bool:
        """See `Backend`."""
        left = self._history.settle(SETTLED)
        self._keys.expire(self._tick())
        return bool(left or self._history.bytes or self._keys)

    def holding(self, channel: str) -> Holding:
        """See `Backend`."""
        self._tick()
        log = self._history.log_of(channel)
        return Holding(log.count, log.oldest.id) if log is not None and log.count else Holding(0, None)

    def channels(self) -> Iterator[Sequence[str]]:
        """See `Backend`."""
        self._tick()
        return self._history.channels()

    def extent(self) -> Extent:
        """See `Backend`."""
        self._tick()
        return self._history.extent

    def _append(self, drafts: Sequence[Draft], now: float, publisher: str) -> Receipt:
        """Give positions, hold, announce: one ordered act, and nothing in it waits."""
        epoch = self.epoch
        batch = [
            place(draft.channels, draft.event, epoch=epoch, position=position, time=now)
            for position, draft in enumerate(drafts, self.position + 1)
        ]
        self.position += len(batch)
        self._history.extend(batch, publisher)
        last = batch[-1]
        return Receipt(self._deliver(batch), last.channels, last.id, len(batch))

    def _resumed(self, interest: Interest, position: int | None) -> Steps[Start]:
        if position is None:
            return self._lost(ResetReason.UNKNOWN)
        lost = yield from self._history.lost(interest, after=position)
        if not lost:
            return Start(position)
        gap = self._history.gap(interest, position, lost)
        return Start(gap.position, lost=ResetReason.EVICTED, channels=gap.channels)

    def _from_first(self, interest: Interest, since: float | None) -> Steps[Start]:
        began = self.position
        first = yield from self._history.first_of(interest, since=since)
        # What was published meanwhile may have been passed by, and comes after where this began.
        return Start(began if first is None else min(first - 1, began), told=self._history.evictions)

    def _lost(self, reason: ResetReason) -> Start:
        return Start(self.position, lost=reason)

    def _tick(self) -> float:
        """Take the time, which never goes back, and let go of what is too old."""
        self._now = now = max(self._now, self._clock())
        self._overdue = self._history.expire(now)
        return now


def open_memory(
    config: Config, policies: Policies, deliver: Deliver, report: ReportShare | None = None
) -> Memory:
    """Return the backend that a configuration describes. It calls `report` when a share is reached."""
    history = History(
        lambda channel: policies.of(channel).limits,
        total=config.history_total,
        max_channels=config.history_channels,
        report=report,
    )
    return Memory(history, deliver, window=config.idempotency_window, report=report)
