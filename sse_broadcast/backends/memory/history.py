"""History: publications in memory, in one order, bounded four ways, found by index. No I/O, no clock.

Each channel has a log of its own, so that what is evicted from one channel says nothing of
another, and the newest position evicted from it is its watermark: a reader that was
behind that has lost something, and one that was not has lost nothing.
"""

import heapq
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import attrgetter

from sse_broadcast.backends.base import Gap, HistoryUsage
from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.largest import Largest, ReportShare
from sse_broadcast.backends.memory.lazy_heap import Entry, LazyHeap
from sse_broadcast.backends.memory.position_index import PositionIndex
from sse_broadcast.backends.memory.publisher_share import PublisherChannels, PublisherShare
from sse_broadcast.backends.memory.retired_ids import RetiredIds
from sse_broadcast.backends.memory.weights import (
    CHANNEL_COST,
    PUBLISHER_COST,
    set_weights,
    weight_per_channel,
)
from sse_broadcast.channels import Selector, match_steps
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.metrics import Share
from sse_broadcast.publication import Publication
from sse_broadcast.work_queue import Steps

LOOKS = 16_384
"""Publications of other types looked at to find the newest of each channel, at most: some 3 ms."""

AT_FIRST = 2048
"""Channels that were published to last, among which the newest publications are looked for at first."""

NEWEST = 2048
"""Channels of which the newest publication of some types is looked for, at most."""

SEARCH_STEP = 8192
"""What is done before a search lets others go on: channels looked at, and texts looked for in their names
(`match_steps`). Some 0.5 ms."""

RECENT_EVICTIONS = 4096
"""Channels that are remembered by the order of their evictions: what was lost after a position that is not
older is found without a look at each channel."""

OVERDUE = 512
"""Publications that are evicted at once because of their age, at most: some 1 ms."""

CHANNELS = 1024
"""Channels that are named at once."""

SLACK = 131_072
"""Bytes evicted beyond what a total asks for, at most: some 150 publications, and 1 to 2 ms."""

MIN_RETIRED = 128
"""Ids of evicted events that a channel remembers, however few events it may hold."""

RETIRED_SHARE = 8
"""The part of the total, as a divisor, that ids of evicted events may take."""

_position = attrgetter("position")
_weight = attrgetter("weight")
_channels = attrgetter("channels")


class History:
    """Publications of all channels.

    `limits` gives what a channel may hold, `total` is the bytes of all together, `max_channels` how
    many channels are remembered. Over the total, or beyond so many channels, the publisher gives first that
    holds the most: of channels the one published to longest ago, of bytes its fullest channel. A
    publisher alone has all of it. `report` is told when one of several has to give.
    """

    def __init__(
        self,
        limits: Callable[[str], HistoryLimits],
        *,
        total: int,
        max_channels: int,
        report: ReportShare | None = None,
    ) -> None:
        self._limits = limits
        self._total = total
        self._max_channels = max_channels
        self._report = report
        self._logs: OrderedDict[str, ChannelLog] = OrderedDict()
        self._order = PositionIndex()
        self._bytes = 0
        self._overhead = 0  # bytes of channels and shares
        # Publications in several channels, and how many of those still hold them.
        self._copies: dict[int, int] = {}
        # For each id that a publisher chose, the channels that hold it, and where each held it first. A
        # later event with the id is not in here: with the first one gone, which one was seen is unknown.
        self._named: dict[str, dict[str, int]] = {}
        self._names = 0  # events with such an id, in each channel that holds them
        self._retired = RetiredIds(max_bytes=total // RETIRED_SHARE)
        self._now = 0.0
        # Each log at its slot, or None: what a search goes through piece by piece, whatever comes and goes.
        self._slots: list[ChannelLog | None] = []
        self._free: list[int] = []
        # Logs by their last evictions, the newest last. A log that is forgotten is not kept here either.
        self._recent: OrderedDict[ChannelLog, None] = OrderedDict()
        self._unordered_at = 0  # the newest eviction whose log is not among these any more
        self._newest = 0
        self._newest_lost = 0
        # (when, serial, log): one entry that counts for each log that is not empty.
        self._expiring = LazyHeap[ChannelLog](self._is_expected)
        # So many slots, from the first one on, have logs whose limits may be others than they had.
        self._unsettled = 0
        self._serial = 0
        self._empty = 0  # channels that hold nothing
        self._shares: dict[str, PublisherShare[ChannelLog]] = {}
        self._most_bytes = Largest[PublisherShare[ChannelLog]]()
        self._most_channels = Largest[PublisherChannels[ChannelLog]]()
        # The newest position evicted from any channel that is no longer remembered.
        self._forgotten = 0
        self._forgotten_at = 0
        self.evictions = 1
        """The number of the newest eviction, for readers to say what is no news to them."""

    @property
    def bytes(self) -> int:
        """What publications take, in bytes; one in several channels counts once."""
        return self._bytes

    @property
    def usage(self) -> HistoryUsage:
        """How much is held. Its bytes are of channels that hold nothing, and of retired ids too."""
        return HistoryUsage(len(self._logs) - self._empty, len(self._order), self._counted)

    @property
    def _counted(self) -> int:
        """The bytes of everything, which `total` bounds."""
        return self._bytes + self._overhead + self._retired.bytes

    def extend(self, publications: Sequence[Publication], publisher: str = "") -> None:
        """Hold publications, in their order, and evict what there is no more room for.

        `publisher` names whoever is to be compared with others.
        """
        if len(publications) == 1:
            self._extend(publications[0].channels, publications, publisher)
            return
        # What follows one another in the same channels, a batch as a rule, is one step for each of
        # them: that is a third of the cost of a publication each.
        for channels, run in groupby(publications, _channels):
            self._extend(channels, list(run), publisher)

    def _extend(self, channels: tuple[str, ...], run: Sequence[Publication], publisher: str) -> None:
        weight, named = set_weights(channels, run)
        # Most often they are the very same, since what was asked before is remembered.
        log = self._logs.get(channels[0])
        if log is not None and log.count and log.newest.channels is not channels:
            self._share_names(log.newest.channels, run)
        self._newest = run[-1].position
        self._order.extend(run)
        self._bytes += weight
        part = weight
        if len(channels) > 1:
            part = weight_per_channel(run)
            self._copies.update(dict.fromkeys(map(_position, run), len(channels)))
        if named:
            self._name(run)
        for channel in channels:
            self._extend_log(self._log(channel, run[0].position, publisher), run, weight, part)
        if self._bytes + self._overhead + self._retired.bytes > self._total:
            self._evict_to_total()

    def _name(self, run: Sequence[Publication]) -> None:
        for publication in run:
            if publication.event.id is not None:
                held = self._named.setdefault(publication.event.id, {})
                for channel in publication.channels:
                    held.setdefault(channel, publication.position)
                self._names += len(publication.channels)

    @staticmethod
    def _share_names(held: tuple[str, ...], run: Sequence[Publication]) -> None:
        """Replace the channel names of publications by equal ones that are held already."""
        if held == run[0].channels:
            for publication in run:
                publication.channels = held

    def _log(self, channel: str, position: int, publisher: str) -> ChannelLog:
        log = self._logs.get(channel)
        if log is None:
            return self._remember(channel, position, publisher)
        self._logs.move_to_end(channel)
        log.share.channels.logs.move_to_end(channel)
        return log

    def expire(self, now: float, *, most: int = OVERDUE) -> bool:
        """Evict what is too old, at most so many publications; return whether more is."""
        self._now = now
        if self._retired.bytes:
            self._retired.expire(now)
        expiring = self._expiring
        while (first := expiring.first) and first[0] <= now:
            if most <= 0:
                return True
            _, serial, log = expiring.pop()
            if serial != log.expiry_serial:
                continue  # expected anew since
            log.expiry_serial = 0
            if count := min(log.expired(now), most):
                self._evict(log, count)
                most -= count
            if log.count:
                self._expect(log)
        return False

    def reload_limits(self) -> None:
        """Have every channel asked again what it may hold, by `settle`."""
        # Channels that come from now on are given what holds from now on.
        self._unsettled = len(self._slots)

    @property
    def unsettled(self) -> bool:
        """Whether channels are left that may hold other than they should since `relimit`."""
        return self._unsettled > 0

    def settle(self, most: int) -> bool:
        """See that some more channels hold what they may since `relimit`; return whether any are left.

        `most` is how many channels are looked at and publications evicted, about.
        """
        while self._unsettled and most > 0:
            log = self._slots[self._unsettled - 1]
            most -= 1
            if log is not None:
                most -= self._settle(log, most)
                if self._is_over(log):
                    break
            self._unsettled -= 1
        return bool(self._unsettled)

    def _settle(self, log: ChannelLog, most: int) -> int:
        """Apply the current limits to a log, and return how many publications that evicted."""
        limits = self._limits(log.channel)
        if limits != log.limits:
            log.limits = limits
            log.expiry_serial = 0
            if log.count:
                self._expect(log)
        before = log.count
        if self._is_over(log):
            self._trim(log, most=max(most, 1))
        return before - log.count

    def _is_over(self, log: ChannelLog) -> bool:
        return log.count > log.limits.size or log.bytes > log.limits.bytes

    # Searches. Each is a generator that pauses after some work, so that the loop may serve others, and what
    # is published or evicted meanwhile may change what it goes through. Logs have slots: one that is there
    # from the beginning of a search to its end is seen once, and one that comes or goes may be seen or not.

    def position_of(self, name: str, selector: Selector) -> Steps[int | None]:
        """Return the oldest position that an interest's channels have held under a publisher's id.

        A subscriber that says this id has seen the event there or a later one, and is given everything
        since: some of it may be repeated. None if that position is no longer held, or unknown. The same id
        in a channel of somebody else's says nothing of where this subscriber was.
        """
        held = self._named.get(name)
        if held is None:
            return None
        found = [held[channel] for channel in selector.names if channel in held]
        if selector.patterns:
            cost, work = 1 + match_steps(selector.patterns), 0
            for channel in list(held):
                if selector.matches(channel) and channel in held:
                    found.append(held[channel])
                work += cost
                if work >= SEARCH_STEP:
                    work = 0
                    yield
        if not found:
            return None
        first = min(found)
        retired = self._retired.oldest(name, selector, now=self._now)
        # The same position may be gone from one channel, and be held by another.
        return first if retired is None or retired >= first else None

    def first_of(self, selector: Selector, *, since: float | None = None) -> Steps[int | None]:
        """Return the position of the first publication held of an interest, or of those not older than this.

        Of each log as it was when it was its turn: what was published meanwhile may be left out.
        """
        first: int | None = None

        def likely(log: ChannelLog) -> bool:
            if not log.count or (first is not None and log.oldest.position >= first):
                return False
            return since is None or log.newest.time >= since

        for log in self._look_through(selector, likely):
            if log is None:
                yield
            elif since is None:
                first = log.oldest.position
            elif publication := log.since(since):
                first = publication.position if first is None else min(first, publication.position)
        return first

    def _look_through(
        self, selector: Selector, likely: Callable[[ChannelLog], bool]
    ) -> Iterator[ChannelLog | None]:
        """Yield the logs of an interest that are likely to be wanted, and None where the search pauses.

        To ask for that costs less than to match a name, and is done first.
        """
        if not selector.patterns:
            yield from filter(likely, self._named_logs(selector))
            return
        cost, work = match_steps(selector.patterns), 0
        for log in self._slots:
            work += 1
            if log is not None and likely(log):
                work += cost
                if selector.matches(log.channel):
                    yield log
            if work >= SEARCH_STEP:
                work = 0
                yield None

    def only_log(self, selector: Selector) -> ChannelLog | None:
        """Give the log that is all of an interest, if there is one such and it holds something."""
        if len(selector.names) != 1 or selector.patterns or selector.types is not None:
            return None
        log = self._logs.get(selector.names[0])
        return log if log is not None and log.count else None

    def time_after(self, selector: Selector, position: int) -> float | None:
        """Give when the first publication behind a position was published, of any channel for patterns."""
        if selector.patterns:
            return self._order.time_after(position)
        first = [next(log.after(position), None) for log in self._named_logs(selector)]
        return min((publication.time for publication in first if publication is not None), default=None)

    def newest_of(self, selector: Selector, *, upto: int, most: int) -> Steps[list[Publication]]:
        """Return the newest publication, up to a position, of each channel of an interest, in order.

        Of `most` channels, those that were published to last. Where few types are wanted, no more than
        `LOOKS` publications are looked at for it, of `NEWEST` channels.
        """
        found: dict[int, Publication] = {}
        looks, work = LOOKS, 0
        logs = yield from self._published_last(selector, most if selector.types is None else NEWEST)
        # From the channel that was published to last, so that what is left out is the oldest.
        for log in logs:
            before = looks
            for publication in log.backwards():
                if publication.position > upto:
                    continue
                if selector.accepts_type(publication.event.type):
                    found[publication.position] = publication
                    break
                looks -= 1
                if not looks:
                    break
            if not looks or len(found) == most:
                break
            work += 4 * (1 + before - looks)
            if work >= SEARCH_STEP:
                work = 0
                yield
        return [found[position] for position in sorted(found)]

    def _published_last(self, selector: Selector, most: int) -> Steps[list[ChannelLog]]:
        """Return the logs of an interest that were published to last, the last one first."""
        last: list[tuple[int, int, ChannelLog]] = []

        recent = yield from self._recently_published(selector, most)
        if len(recent) == most:
            return recent

        def likely(log: ChannelLog) -> bool:
            return log.count > 0 and (len(last) < most or log.newest.position > last[0][0])

        for log in self._look_through(selector, likely):
            if log is None:
                yield
                continue
            entry = (log.newest.position, log.slot, log)
            if len(last) < most:
                heapq.heappush(last, entry)
            else:
                heapq.heapreplace(last, entry)
        return [log for _, _, log in sorted(last, reverse=True)]

    def _recently_published(self, selector: Selector, most: int) -> Steps[list[ChannelLog]]:
        """Return those of the `AT_FIRST` last ones, where an interest has patterns: these may be enough."""
        found: list[ChannelLog] = []
        if not selector.patterns:
            return found
        cost, work = 1 + match_steps(selector.patterns), 0
        for log in list(islice(reversed(self._logs.values()), AT_FIRST)):
            if log.count and selector.matches(log.channel):
                found.append(log)
                if len(found) == most:
                    break
            work += cost
            if work >= SEARCH_STEP:
                work = 0
                yield
        return found

    def channels(self) -> Iterator[Sequence[str]]:
        """Yield the channels that hold something, a few at a time."""
        slots = self._slots
        for begin in range(0, len(slots), CHANNELS):
            some = slots[begin : begin + CHANNELS]
            yield [log.channel for log in some if log is not None and log.count]

    def log_of(self, channel: str) -> ChannelLog | None:
        """Give the log of a channel, if it is remembered."""
        return self._logs.get(channel)

    def lost(self, selector: Selector, *, after: int = 0, told: int = 0) -> Steps[int]:
        """Return the newest position behind another at which an interest may have lost something, or 0.

        Unless it is 0, evictions up to the number `told` do not count. It is true when it is returned,
        whatever was evicted while it was looked for.
        """
        lost = 0
        if selector.patterns and self._newest_lost > after:
            lost = yield from self._lost_by_patterns(selector, after, told)
            if self._forgotten_at > told:
                lost = max(lost, self._forgotten)
        lost = max(lost, self._lost_by_names(selector, after, told))
        return lost if lost > after else 0

    def may_have_lost(self, selector: Selector, *, after: int) -> bool:
        """Return whether an interest may have lost something behind a position.

        Where it has patterns that may be what another channel lost: no name is looked at.
        """
        if selector.patterns and self._newest_lost > after:
            return True
        return any(self._lost_by_name(name) > after for name in selector.names)

    def _lost_by_patterns(self, selector: Selector, after: int, told: int) -> Steps[int]:
        lost, since, work = 0, told, 0
        cost = match_steps(selector.patterns)
        while True:
            reached = self.evictions
            for log in self._evicted_since(since, after):
                work += 1
                # What was lost is compared first: of most channels that is older than what is found by then.
                if (
                    log is not None
                    and log.watermark > lost
                    and log.watermark > after
                    and log.last_eviction > told
                ):
                    work += cost
                    if selector.matches(log.channel):
                        lost = log.watermark
                if work >= SEARCH_STEP:
                    work = 0
                    yield
            if self.evictions == reached:
                return lost
            since = reached  # what was evicted meanwhile is looked at as well

    def _evicted_since(self, eviction: int, after: int) -> Sequence[ChannelLog | None]:
        """Return all that evicted something since an eviction and behind a position; it may be more."""
        found: list[ChannelLog | None] = []
        for log in reversed(self._recent):
            # What was evicted before that is no newer than what there was then.
            if log.last_eviction <= eviction or log.newest_at_eviction <= after:
                return found
            found.append(log)
        return found if self._unordered_at <= eviction else list(self._slots)

    def _lost_by_names(self, selector: Selector, after: int, told: int) -> int:
        newest = max((self._lost_by_name(name) for name in selector.names), default=0)
        if newest <= after or not told:
            return newest
        unknown = any(name not in self._logs for name in selector.names)
        lost = self._forgotten if unknown and self._forgotten_at > told else 0
        return max([lost, *(log.watermark for log in self._named_logs(selector) if log.last_eviction > told)])

    def _named_logs(self, selector: Selector) -> list[ChannelLog]:
        return [log for name in selector.names if (log := self._logs.get(name)) is not None]

    def gap(self, selector: Selector, after: int, lost: int) -> Gap:
        """Give what an interest misses between a position and `lost`, its newest loss.

        Everything in between is given up, held or not: nothing newer than a loss may come before
        the news of it, and a reader that is cut behind that must not lose the rest again.
        """
        hit = [name for name in selector.names if self._hit(name, after, lost)]
        first = next((position for position, _, _ in self.after(selector, lost)), None)
        return Gap((*hit, *selector.patterns), lost if first is None else first - 1)

    def after(self, selector: Selector, position: int) -> Iterator[tuple[int, Publication | None, int]]:
        """Yield the publications of an interest after a position, in order, each with its position and cost.

        None stands for what the interest does not want: a place to pause at. The cost is of the look at it:
        1 for some 0.3 us.
        """
        if selector.patterns:
            return self._matching(selector, position)
        logs = self._named_logs(selector)
        if len(logs) == 1:
            found: Iterable[Publication] = logs[0].after(position)
        else:
            found = heapq.merge(*(log.after(position) for log in logs), key=_position)
        return _once(found, selector)

    def _matching(self, selector: Selector, position: int) -> Iterator[tuple[int, Publication | None, int]]:
        steps = match_steps(selector.patterns)
        for reached, publication in self._order.after(position):
            if publication is None:
                yield reached, None, 1
                continue
            channels = publication.channels
            of_it = selector.first_match(channels) is not None
            cost = 1 + steps * len(channels) // 8
            yield reached, _wanted(publication, selector) if of_it else None, cost

    def _lost_by_name(self, name: str) -> int:
        log = self._logs.get(name)
        return self._forgotten if log is None else log.watermark

    def _hit(self, name: str, after: int, upto: int) -> bool:
        log = self._logs.get(name)
        if log is None:
            return self._forgotten > after
        held = next(log.after(after), None)
        return log.watermark > after or (held is not None and held.position <= upto)

    def _remember(self, channel: str, position: int, publisher: str) -> ChannelLog:
        if len(self._logs) >= self._max_channels:
            self._make_room(publisher)
        share = self._shares.get(publisher) or self._open_share(publisher)
        # A channel of which nothing is known may have been forgotten.
        slot = self._free.pop() if self._free else len(self._slots)
        lost = min(self._forgotten, position - 1)
        log = ChannelLog(channel, self._limits(channel), watermark=lost, share=share, slot=slot)
        log.last_eviction = self._forgotten_at
        self._logs[channel] = log
        self._slots[slot : slot + 1] = [log]
        share.channels.add(log)
        self._empty += 1
        self._most_channels.update(share.channels)
        self._take_overhead(share, CHANNEL_COST + len(channel))
        return log

    def _make_room(self, publisher: str) -> None:
        """Forget a channel of whoever has most, of the publisher itself if it has about as many."""
        most, own = self._most_channels.find(), self._shares.get(publisher)
        if most is None:
            return
        if own is not None and own.channels.class_from == most.class_from:
            most = own.channels
        self._tell_share(Share.HISTORY_CHANNELS, most.share)
        self._forget(most.next_to_forget())

    def _open_share(self, publisher: str) -> PublisherShare[ChannelLog]:
        share = self._shares[publisher] = PublisherShare(publisher)
        self._take_overhead(share, PUBLISHER_COST + len(publisher))
        return share

    def _take_overhead(self, share: PublisherShare[ChannelLog], bytes: int) -> None:
        self._overhead += bytes
        share.bytes += bytes
        self._most_bytes.update(share)

    def _forget(self, log: ChannelLog) -> None:
        channel, share = log.channel, log.share
        if log.count:
            self._evict(log, log.count)
        self._forgotten = max(self._forgotten, log.watermark)
        self._forgotten_at = max(self._forgotten_at, log.last_eviction)
        self._empty -= 1
        del self._logs[channel]
        self._slots[log.slot] = None
        self._free.append(log.slot)
        self._recent.pop(log, None)
        share.channels.remove(log)
        self._take_overhead(share, -CHANNEL_COST - len(channel))
        self._most_channels.update(share.channels)
        if not share.channels.logs:
            self._take_overhead(share, -PUBLISHER_COST - len(share.name))
            del self._shares[share.name]
            share.dispose()

    def _tell_share(self, what: Share, share: PublisherShare[ChannelLog]) -> None:
        if self._report is not None and len(self._shares) > 1:
            self._report(what, share.name)

    def _extend_log(self, log: ChannelLog, run: Sequence[Publication], weight: int, part: int) -> None:
        share = log.share
        if not log.count:
            share.channels.mark_filled(log)
            self._empty -= 1
        log.extend(run, weight)
        share.bytes += part
        if not log.expiry_serial:
            self._expect(log)
        self._trim(log)
        # Asked here, since it is no as a rule, and a call costs more than the answer.
        if log.bytes >= log.class_below:
            share.largest_log.update(log)
        if share.bytes >= share.class_below:
            self._most_bytes.update(share)

    def _trim(self, log: ChannelLog, *, most: int = sys.maxsize) -> None:
        limits = log.limits
        if log.count > limits.size:
            count = min(log.count - limits.size, most)
            self._evict(log, count)
            most -= count
        while log.bytes > limits.bytes and most:
            self._evict(log, 1)
            most -= 1

    def _evict(self, log: ChannelLog, count: int) -> None:
        held = log.bytes
        gone = log.evict(count)
        weight = held - log.bytes
        self.evictions += count
        log.last_eviction = self.evictions
        log.newest_at_eviction = self._newest
        self._recent[log] = None
        self._recent.move_to_end(log)
        if len(self._recent) > RECENT_EVICTIONS:
            self._unordered_at = self._recent.popitem(last=False)[0].last_eviction
        if log.watermark > self._newest_lost:  # noqa: PLR1730 - max() costs each eviction 0.1 us
            self._newest_lost = log.watermark
        self._shrink(log, weight_per_channel(gone) if self._copies else weight)
        if self._names:
            self._retire_names(log, gone)
        if self._copies:
            gone = [publication for publication in gone if not self._held_elsewhere(publication)]
            weight = gone[0].weight if len(gone) == 1 else sum(map(_weight, gone))
        if gone:
            self._bytes -= weight
            self._order.remove(gone)

    def _shrink(self, log: ChannelLog, part: int) -> None:
        """Count out what a log has evicted, of which its publisher held `part` bytes."""
        share = log.share
        if not log.count:
            share.channels.mark_empty(log)
            self._empty += 1
        share.bytes -= part
        if log.bytes < log.class_from:
            share.largest_log.update(log)
        if share.bytes < share.class_from:
            self._most_bytes.update(share)

    def _held_elsewhere(self, publication: Publication) -> bool:
        """Take note that one channel less holds it, and say whether another one does."""
        if len(publication.channels) == 1:
            return False
        self._copies[publication.position] -= 1
        if self._copies[publication.position]:
            return True
        del self._copies[publication.position]
        return False

    def _retire_names(self, log: ChannelLog, gone: Sequence[Publication]) -> None:
        """Remember the ids of what a channel no longer holds for as long as it could have held a later use.

        Such a use was published before this eviction, and so is gone as well by then.
        """
        ids = [(one.event.id, one.position) for one in gone if one.event.id is not None]
        if not ids:
            return
        self._names -= len(ids)
        for name, position in ids:
            held = self._named.get(name, {})
            if held.get(log.channel) == position:
                del held[log.channel]
                if not held:
                    del self._named[name]
        until = self._now + log.limits.age
        self._retired.add(
            log.channel, ids, until=until, now=self._now, most=max(log.limits.size, MIN_RETIRED)
        )

    def _evict_to_total(self) -> None:
        """Evict from whoever holds the most, a little more than needed, so as not to come here each time."""
        enough = self._total - min(self._total // 64, SLACK)
        told = False
        while self._counted > enough and (share := self._largest()) is not None:
            if not told:
                self._tell_share(Share.HISTORY_TOTAL, share)
                told = True
            log = share.largest_log.find()
            # Channels are forgotten only where they take more than all events: with each of them the
            # watermark rises of all channels that are not remembered.
            if log is None or self._overhead > self._bytes:
                self._forget(share.channels.next_to_forget())
            else:
                self._evict(log, 1)

    def _largest(self) -> PublisherShare[ChannelLog] | None:
        """Return who has to give: of what there is more, channels or bytes of events, whoever has most."""
        if self._overhead > self._bytes and (most := self._most_channels.find()) is not None:
            return most.share
        return self._most_bytes.find()

    def _expect(self, log: ChannelLog) -> None:
        self._serial += 1
        log.expiry_serial = self._serial
        self._expiring.push((log.oldest.time + log.limits.age, self._serial, log), most=self._crowded)

    def _is_expected(self, entry: Entry[ChannelLog]) -> bool:
        _, serial, log = entry
        return serial == log.expiry_serial and self._logs.get(log.channel) is log

    @property
    def _crowded(self) -> int:
        return len(self._logs) + len(self._logs) // 4 + 64


def _wanted(publication: Publication | None, selector: Selector) -> Publication | None:
    return publication if publication is not None and selector.accepts_type(publication.event.type) else None


def _once(found: Iterable[Publication], selector: Selector) -> Iterator[tuple[int, Publication | None, int]]:
    """Give each publication once, though several of its channels hold it."""
    last = -1
    for publication in found:
        if publication.position != last:
            last = publication.position
            yield last, _wanted(publication, selector), 1
