"""History: publications in memory, in one order, bounded four ways, found by index. No I/O, no clock.

Each channel has a log of its own, so that what is evicted from one channel says nothing of
another, and the newest position evicted from it is its watermark: a reader that was
behind that has lost something, and one that was not has lost nothing.
"""

import heapq
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter

from sse_broadcast.backends.base import Extent, Gap
from sse_broadcast.backends.retired_ids import RetiredIds
from sse_broadcast.event import Event
from sse_broadcast.interest import Interest, matcher
from sse_broadcast.policy import Limits
from sse_broadcast.publication import Publication, place

OVERHEAD = 760
"""Bytes that a publication takes beside its text, which counts twice: as data, and as a frame. Measured
by benchmarks/history.py."""

STRIDE = 2048
"""Publications looked at for one page at most."""

LOOKS = 20_000
"""Publications of other types looked at to find the newest of each channel, at most: some 5 ms."""

VIEWS = 64
"""Sets of patterns whose watermarks are kept up to date; those of others are found by looking at each
channel."""

MIN_RETIRED = 128
"""Ids of evicted events that a channel remembers, however few events it may hold."""

RETIRED_SHARE = 8
"""The part of the total, as a divisor, that ids of evicted events may take."""

_position = attrgetter("position")
_size = attrgetter("size")
_channels = attrgetter("channels")
_time = attrgetter("time")

_GONE = place((), Event(""), epoch="", position=0, time=0.0)
"""Stands where a publication was, until its place is cut off."""


class Log:
    """The publications of one channel, oldest first. `lost` is the newest position evicted."""

    __slots__ = (
        "_first",
        "_items",
        "bytes",
        "channel",
        "count",
        "expected",
        "limits",
        "lost",
        "lost_at",
        "ranked",
        "views",
    )

    def __init__(self, channel: str, limits: Limits, lost: int) -> None:
        self.channel = channel
        self.limits = limits
        self.lost = lost
        self.lost_at = 0  # the eviction it was lost with, by number
        self.count = 0
        self.bytes = 0
        self.ranked = 0  # the bytes under which it stands among the noisiest, or 0
        self.expected = 0  # under this number it stands among those that will expire, or 0
        self.views = 0  # the bits of the views that see it
        self._items: list[Publication] = []
        self._first = 0

    @property
    def oldest(self) -> Publication:
        """The oldest publication held."""
        return self._items[self._first]

    @property
    def newest(self) -> Publication:
        """The newest publication held."""
        return self._items[-1]

    def extend(self, run: Sequence[Publication], weight: int) -> None:
        """Take the next publications, which count so many bytes."""
        self._items += run
        self.count += len(run)
        self.bytes += weight

    def evict(self, count: int) -> list[Publication]:
        """Let go of the oldest ones."""
        items, first = self._items, self._first
        gone = items[first : first + count]
        self._first = first = first + count
        # Cut off in large pieces: a list moves all that is behind.
        if first > 32 and first * 2 > len(items):
            del items[:first]
            self._first = 0
        else:
            items[first - count : first] = [_GONE] * count
        self.count -= count
        self.bytes -= _weight(gone)
        self.lost = gone[-1].position
        return gone

    def since(self, time: float) -> Publication | None:
        """Give the first publication that is not older than this."""
        index = bisect_left(self._items, time, lo=self._first, key=_time)
        return self._items[index] if index < len(self._items) else None

    def expired(self, now: float) -> int:
        """Give how many are older than the log's age."""
        age = self.limits.age
        return bisect_right(self._items, now, lo=self._first, key=lambda item: item.time + age) - self._first

    def after(self, position: int) -> Iterator[Publication]:
        """Give what came after a position. Not to be used on when the log has changed."""
        items = self._items
        for index in range(bisect_right(items, position, lo=self._first, key=_position), len(items)):
            yield items[index]

    def page(self, position: int, limit: int, *, most: int) -> list[Publication]:
        """Give what came after a position: `most` publications, about `limit` bytes, one if there is any."""
        items = self._items
        first = bisect_right(items, position, lo=self._first, key=_position)
        end = min(first + most, len(items))
        for index in range(first, end):
            limit -= items[index].size
            if limit < 0:
                return items[first : max(index, first + 1)]
        return items[first:end]

    def backwards(self) -> Iterator[Publication]:
        """Give what is held, newest first."""
        items = self._items
        for index in range(len(items) - 1, self._first - 1, -1):
            yield items[index]


class View:
    """The watermark of some patterns: the newest position evicted from any channel that matches one.

    Logs know their views by a bit each: that is small, and a view that takes the bit of another
    takes its place in every log.
    """

    __slots__ = ("bit", "lost", "matches")

    def __init__(self, patterns: tuple[str, ...], bit: int) -> None:
        self.matches = matcher(*patterns)
        self.bit = bit
        self.lost = 0

    def look_at(self, log: Log) -> None:
        """See a log, or not, from now on."""
        if self.matches(log.channel):
            log.views |= self.bit
            self.lost = max(self.lost, log.lost)
        else:
            log.views &= ~self.bit


class Order:
    """All publications that any channel holds, by position. What was evicted in the middle leaves a hole."""

    __slots__ = ("_first", "_holes", "_positions", "_publications")

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._publications: list[Publication | None] = []
        self._first = 0
        self._holes = 0

    def __len__(self) -> int:
        return len(self._positions) - self._first - self._holes

    def extend(self, run: Sequence[Publication]) -> None:
        """Take the next publications."""
        self._positions += map(_position, run)
        self._publications += run

    def remove(self, gone: Sequence[Publication]) -> None:
        """Let go of publications that are held no more, given in their order."""
        first = self._first
        end = first + len(gone)
        if self._positions[first] == gone[0].position and self._positions[end - 1] == gone[-1].position:
            self._publications[first:end] = [None] * len(gone)
            self._first = self._past_holes(end)
        else:
            for publication in gone:
                self._publications[bisect_left(self._positions, publication.position, lo=first)] = None
            self._holes += len(gone)
            self._first = self._past_holes(first)
        if (self._first + self._holes) * 2 > len(self._positions) + 64:
            self._close_up()

    def after(self, position: int) -> Iterator[tuple[int, Publication | None]]:
        """Give positions after this one, each with its publication or the hole it left."""
        positions, publications = self._positions, self._publications
        for index in range(bisect_right(positions, position, lo=self._first), len(positions)):
            yield positions[index], publications[index]

    def time_after(self, position: int) -> float | None:
        """Give when the first publication behind a position was published, if one is near."""
        near = islice(self.after(position), STRIDE)
        return next((publication.time for _, publication in near if publication is not None), None)

    def _past_holes(self, index: int) -> int:
        publications = self._publications
        while index < len(publications) and publications[index] is None:
            index += 1
            self._holes -= 1
        return index

    def _close_up(self) -> None:
        # Half of it is gone by now, so this costs each publication a constant.
        del self._publications[: self._first]
        del self._positions[: self._first]
        if self._holes:
            held = [publication for publication in self._publications if publication is not None]
            self._publications = list(held)
            self._positions = list(map(_position, held))
        self._first = self._holes = 0


class History:
    """Publications of all channels.

    `limits` gives what a channel may hold, `total` is the bytes of all together, `max_channels` how
    many channels are remembered. Over the total, whichever channel holds the most gives first.
    """

    def __init__(self, limits: Callable[[str], Limits], *, total: int, max_channels: int) -> None:
        self._limits = limits
        self._total = total
        self._max_channels = max_channels
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self._order = Order()
        self._bytes = 0
        # Publications in several channels, and how many of those still hold them.
        self._copies: dict[int, int] = {}
        # For each id that a publisher chose, the channels that hold it, and where each held it first. A
        # later event with the id is not in here: with the first one gone, which one was seen is unknown.
        self._named: dict[str, dict[str, int]] = {}
        self._names = 0  # events with such an id, in each channel that holds them
        self._retired = RetiredIds(max_bytes=total // RETIRED_SHARE)
        self._now = 0.0
        # By patterns; from the one that was asked for longest ago.
        self._views: dict[tuple[str, ...], View] = {}
        # (when, serial, log): one entry that counts for each log that is not empty.
        self._expiring: list[tuple[float, int, Log]] = []
        # Channels whose limits may be others since they were last looked at.
        self._unsettled: list[str] = []
        # (-bytes, serial, log): what is said is never less than what the log holds.
        self._noisiest: list[tuple[int, int, Log]] = []
        self._serial = 0
        self._empty: OrderedDict[str, Log] = OrderedDict()
        # The newest position evicted from any channel that is no longer remembered.
        self._forgotten = 0
        self._forgotten_at = 0
        self.evictions = 1
        """The number of the newest eviction, for readers to say what is no news to them."""

    @property
    def bytes(self) -> int:
        """What is held, in bytes; a publication in several channels counts once."""
        return self._bytes

    @property
    def extent(self) -> Extent:
        """How much is held."""
        bytes = self._bytes + self._retired.bytes
        return Extent(len(self._logs) - len(self._empty), len(self._order), bytes)

    def extend(self, publications: Sequence[Publication]) -> None:
        """Hold publications, in their order, and evict what there is no more room for."""
        if len(publications) == 1:
            self._extend(publications[0].channels, publications)
            return
        # What follows one another in the same channels, a batch as a rule, is one step for each of
        # them: that is a third of the cost of a publication each.
        for channels, run in groupby(publications, _channels):
            self._extend(channels, list(run))

    def _extend(self, channels: tuple[str, ...], run: Sequence[Publication]) -> None:
        weight = _weight(run)
        self._order.extend(run)
        self._bytes += weight
        for publication in run:
            if publication.event.id is not None:
                held = self._named.setdefault(publication.event.id, {})
                for channel in channels:
                    held.setdefault(channel, publication.position)
                self._names += len(channels)
            if len(channels) > 1:
                self._copies[publication.position] = len(channels)
        for channel in channels:
            self._extend_log(self._log(channel, run[0].position), run, weight)
        if self._bytes + self._retired.bytes > self._total:
            self._shed()

    def _log(self, channel: str, position: int) -> Log:
        log = self._logs.get(channel)
        if log is None:
            return self._remember(channel, position)
        self._logs.move_to_end(channel)
        return log

    def expire(self, now: float) -> None:
        """Evict what is too old."""
        self._now = now
        if self._retired.bytes:
            self._retired.expire(now)
        expiring = self._expiring
        while expiring and expiring[0][0] <= now:
            _, serial, log = heapq.heappop(expiring)
            if serial != log.expected:
                continue  # expected anew since
            log.expected = 0
            if count := log.expired(now):
                self._evict(log, count)
            if log.count:
                self._expect(log)

    def relimit(self) -> None:
        """Have every channel asked again what it may hold, by `settle`."""
        self._unsettled = list(self._logs)

    def settle(self, most: int) -> bool:
        """See that so many more channels hold what they may since `relimit`; say whether any are left."""
        for channel in self._unsettled[-most:]:
            log = self._logs.get(channel)
            if log is not None:
                self._settle(log)
        del self._unsettled[-most:]
        return bool(self._unsettled)

    def _settle(self, log: Log) -> None:
        limits = self._limits(log.channel)
        if limits == log.limits:
            return
        log.limits = limits
        self._trim(log)
        log.expected = 0
        if log.count:
            self._expect(log)

    def position_of(self, name: str, interest: Interest) -> int | None:
        """Return the oldest position that an interest's channels have held under a publisher's id.

        A subscriber that says this id has seen the event there or a later one, and is given everything
        since: some of it may be repeated. None if that position is no longer held, or unknown. The same id
        in a channel of somebody else's says nothing of where this subscriber was.
        """
        held = self._named.get(name)
        if held is None:
            return None
        first = self._first_held(held, interest)
        if first is None:
            return None
        retired = self._retired.oldest(name, interest, now=self._now)
        # The same position may be gone from one channel, and be held by another.
        return first if retired is None or retired >= first else None

    def _first_held(self, held: Mapping[str, int], interest: Interest) -> int | None:
        if not interest.patterns:
            return min((held[name] for name in interest.names if name in held), default=None)
        return min((position for channel, position in held.items() if interest.covers(channel)), default=None)

    def logs_of(self, interest: Interest) -> list[Log]:
        """Give the logs of an interest's channels that hold something."""
        if interest.patterns:
            return [log for log in self._logs.values() if log.count and interest.covers(log.channel)]
        return [log for log in self._named_logs(interest) if log.count]

    def only_log(self, interest: Interest) -> Log | None:
        """Give the log that is all of an interest, if there is one such and it holds something."""
        if len(interest.names) != 1 or interest.patterns or interest.types is not None:
            return None
        log = self._logs.get(interest.names[0])
        return log if log is not None and log.count else None

    def time_after(self, interest: Interest, position: int) -> float | None:
        """Give when the first publication behind a position was published, of any channel for patterns."""
        if interest.patterns:
            return self._order.time_after(position)
        first = [next(log.after(position), None) for log in self._named_logs(interest)]
        return min((publication.time for publication in first if publication is not None), default=None)

    def newest_of(self, interest: Interest, *, most: int) -> list[Publication]:
        """Give the newest publication of each channel that the interest wants, `most` of them, in order.

        Where it wants few types, no more than `LOOKS` publications are looked at for it.
        """
        found: dict[int, Publication] = {}
        looks = LOOKS
        # From the channel that was published to last, so that what is left out is the oldest.
        for log in self._newest_first(interest):
            for publication in log.backwards():
                if interest.wants(publication.event.type):
                    found[publication.position] = publication
                    break
                looks -= 1
                if not looks:
                    break
            if not looks or len(found) == most:
                break
        return [found[position] for position in sorted(found)]

    def _newest_first(self, interest: Interest) -> Iterator[Log]:
        if interest.patterns:
            return (
                log for log in reversed(self._logs.values()) if log.count and interest.covers(log.channel)
            )
        held = [log for log in self._named_logs(interest) if log.count]
        return iter(sorted(held, key=lambda log: log.newest.position, reverse=True))

    def log_of(self, channel: str) -> Log | None:
        """Give the log of a channel, if it is remembered."""
        return self._logs.get(channel)

    def channels(self) -> list[str]:
        """Give the channels that hold something."""
        return [channel for channel, log in self._logs.items() if log.count]

    def lost(self, interest: Interest, *, after: int = 0, told: int = 0) -> int:
        """Give the newest position at which an interest may have lost something.

        Unless it is 0, evictions up to the number `told` do not count.
        """
        newest = self._lost(interest)
        if newest <= after or not told:
            return newest
        unknown = interest.patterns or any(name not in self._logs for name in interest.names)
        lost = self._forgotten if unknown and self._forgotten_at > told else 0
        for log in self._logs.values() if interest.patterns else self._named_logs(interest):
            if log.lost_at > told and log.lost > lost and interest.covers(log.channel):
                lost = log.lost
        return lost

    def _named_logs(self, interest: Interest) -> list[Log]:
        return [log for name in interest.names if (log := self._logs.get(name)) is not None]

    def _lost(self, interest: Interest) -> int:
        lost = max((self._lost_by_name(name) for name in interest.names), default=0)
        if interest.patterns:
            lost = max(lost, self._view(interest.patterns).lost, self._forgotten)
        return lost

    def gap(self, interest: Interest, after: int, lost: int) -> Gap:
        """Give what an interest misses between a position and `lost`, its newest loss.

        Everything in between is given up, held or not: nothing newer than a loss may come before
        the news of it, and a reader that is cut behind that must not lose the rest again.
        """
        hit = [name for name in interest.names if self._hit(name, after, lost)]
        first = next((position for position, _ in self.after(interest, lost)), None)
        return Gap((*hit, *interest.patterns), lost if first is None else first - 1)

    def after(self, interest: Interest, position: int) -> Iterator[tuple[int, Publication | None]]:
        """Give what is held of an interest after a position, in order, each with its position.

        None stands for what the interest does not want: a place to pause at.
        """
        if interest.patterns:
            return self._matching(interest, position)
        logs = self._named_logs(interest)
        if len(logs) == 1:
            found: Iterable[Publication] = logs[0].after(position)
        else:
            found = heapq.merge(*(log.after(position) for log in logs), key=_position)
        return _once(found, interest)

    def _matching(self, interest: Interest, position: int) -> Iterator[tuple[int, Publication | None]]:
        for reached, publication in self._order.after(position):
            of_it = publication is not None and interest.first_of(publication.channels) is not None
            yield reached, _wanted(publication, interest) if of_it else None

    def _lost_by_name(self, name: str) -> int:
        log = self._logs.get(name)
        return self._forgotten if log is None else log.lost

    def _hit(self, name: str, after: int, upto: int) -> bool:
        log = self._logs.get(name)
        if log is None:
            return self._forgotten > after
        held = next(log.after(after), None)
        return log.lost > after or (held is not None and held.position <= upto)

    def _view(self, patterns: tuple[str, ...]) -> View:
        view = self._views.pop(patterns, None)
        if view is None:
            view = View(patterns, self._free_bit())
            for log in self._logs.values():
                view.look_at(log)
        self._views[patterns] = view
        return view

    def _free_bit(self) -> int:
        """Give the next bit, or the one of the view that was asked for longest ago, which ends."""
        if len(self._views) < VIEWS:
            return 1 << len(self._views)
        return self._views.pop(next(iter(self._views))).bit

    def _remember(self, channel: str, position: int) -> Log:
        if len(self._logs) >= self._max_channels:
            self._forget(next(iter(self._empty), None) or next(iter(self._logs)))
        # A channel of which nothing is known may have been forgotten.
        log = self._logs[channel] = Log(channel, self._limits(channel), min(self._forgotten, position - 1))
        log.lost_at = self._forgotten_at
        for view in self._views.values():
            view.look_at(log)
        return log

    def _forget(self, channel: str) -> None:
        log = self._logs[channel]
        if log.count:
            self._evict(log, log.count)
        self._forgotten = max(self._forgotten, log.lost)
        self._forgotten_at = max(self._forgotten_at, log.lost_at)
        self._empty.pop(channel, None)
        log.ranked = 0
        del self._logs[channel]

    def _extend_log(self, log: Log, run: Sequence[Publication], weight: int) -> None:
        if not log.count:
            self._empty.pop(log.channel, None)
        log.extend(run, weight)
        if not log.expected:
            self._expect(log)
        self._trim(log)
        if log.bytes > log.ranked:
            # Twice as much, so that a log that grows is ranked anew only each time it doubles.
            self._rank(log, log.bytes * 2)

    def _trim(self, log: Log) -> None:
        limits = log.limits
        if log.count > limits.size:
            self._evict(log, log.count - limits.size)
        while log.bytes > limits.bytes:
            self._evict(log, 1)

    def _evict(self, log: Log, count: int) -> None:
        held = log.bytes
        gone = log.evict(count)
        weight = held - log.bytes
        self.evictions += count
        log.lost_at = self.evictions
        if log.views:
            self._tell_views(log)
        if not log.count:
            self._empty[log.channel] = log
        if self._names:
            self._retire_names(log, gone)
        if self._copies:
            gone = [publication for publication in gone if not self._held_elsewhere(publication)]
            weight = _weight(gone)
        if gone:
            self._bytes -= weight
            self._order.remove(gone)

    def _tell_views(self, log: Log) -> None:
        for view in self._views.values():
            if log.views & view.bit and view.lost < log.lost:
                view.lost = log.lost

    def _held_elsewhere(self, publication: Publication) -> bool:
        """Take note that one channel less holds it, and say whether another one does."""
        if len(publication.channels) == 1:
            return False
        self._copies[publication.position] -= 1
        if self._copies[publication.position]:
            return True
        del self._copies[publication.position]
        return False

    def _retire_names(self, log: Log, gone: Sequence[Publication]) -> None:
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

    def _shed(self) -> None:
        """Evict from the noisiest channels, a little more than needed, so as not to come here each time."""
        enough = self._total - self._total // 64
        while self._bytes + self._retired.bytes > enough and self._noisiest:
            said, _, log = heapq.heappop(self._noisiest)
            if -said != log.ranked:
                continue  # ranked anew since
            if -said == log.bytes:
                self._evict(log, 1)
            log.ranked = 0
            if log.count:
                self._rank(log, log.bytes)

    def _rank(self, log: Log, bytes: int) -> None:
        log.ranked = bytes
        self._serial += 1
        heapq.heappush(self._noisiest, (-bytes, self._serial, log))
        if len(self._noisiest) > self._crowded:
            # What was ranked anew, or forgotten, since.
            self._noisiest = [entry for entry in self._noisiest if -entry[0] == entry[2].ranked]
            heapq.heapify(self._noisiest)

    def _expect(self, log: Log) -> None:
        self._serial += 1
        log.expected = self._serial
        heapq.heappush(self._expiring, (log.oldest.time + log.limits.age, self._serial, log))
        if len(self._expiring) > self._crowded:
            self._expiring = [entry for entry in self._expiring if self._counts(entry[1], entry[2])]
            heapq.heapify(self._expiring)

    def _counts(self, serial: int, log: Log) -> bool:
        return serial == log.expected and self._logs.get(log.channel) is log

    @property
    def _crowded(self) -> int:
        return 2 * len(self._logs) + 64


def _weight(publications: Sequence[Publication]) -> int:
    if len(publications) == 1:
        return 2 * publications[0].size + OVERHEAD
    text: int = sum(map(_size, publications))
    return 2 * text + OVERHEAD * len(publications)


def _wanted(publication: Publication | None, interest: Interest) -> Publication | None:
    return publication if publication is not None and interest.wants(publication.event.type) else None


def _once(found: Iterable[Publication], interest: Interest) -> Iterator[tuple[int, Publication | None]]:
    """Give each publication once, though several of its channels hold it."""
    last = -1
    for publication in found:
        if publication.position != last:
            last = publication.position
            yield last, _wanted(publication, interest)
