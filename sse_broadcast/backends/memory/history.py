"""History: the publications of all channels in memory, in one order, bounded in size, age and bytes.

No I/O, no clock. Each channel has a log of its own, and the newest position evicted from it is its watermark:
a subscriber that was before the watermark has lost something, and any other has lost nothing. What is evicted
from one channel says nothing about another.
"""

import heapq
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from sse_broadcast.backends.base import Gap, HistoryUsage
from sse_broadcast.backends.memory.channel_index import ChannelIndex
from sse_broadcast.backends.memory.channel_log import ChannelLog
from sse_broadcast.backends.memory.custom_ids import CustomIdIndex
from sse_broadcast.backends.memory.largest import Largest, ReportShare
from sse_broadcast.backends.memory.lazy_heap import Entry, LazyHeap
from sse_broadcast.backends.memory.position_index import PositionIndex
from sse_broadcast.backends.memory.publisher_share import PublisherChannels, PublisherShare
from sse_broadcast.backends.memory.retired_ids import RetiredIds
from sse_broadcast.backends.memory.watermarks import Watermarks
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

MAX_EXPIRED_AT_ONCE = 512
"""Publications that one call of `expire` evicts, at most: some 1 ms."""

EVICTION_HEADROOM = 131_072
"""Bytes evicted below the total, at most, so that not every publish has to evict: some 150 publications, and
1 to 2 ms."""

RETIRED_SHARE = 8
"""The part of the total, as a divisor, that ids of evicted events may take."""

_position = attrgetter("position")
_weight = attrgetter("weight")
_channels = attrgetter("channels")


class History:
    """The publications of all channels.

    `limits` returns what a channel may hold, `total` bounds the bytes of all channels, and `max_channels` how
    many channels are remembered. Over either bound, the publisher that holds most gives way: its least
    recently published channel is forgotten, or its largest channel evicts. A publisher alone has all of it.
    `report` is called when one of several publishers has to give way.
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
        self.channel_index = ChannelIndex()
        self.watermarks: Watermarks[ChannelLog] = Watermarks(self.channel_index)
        self._retired = RetiredIds(max_bytes=total // RETIRED_SHARE)
        self.custom_ids = CustomIdIndex(self._retired)
        self._logs = self.channel_index.logs  # the same dict, asked for with each publish
        self._position_index = PositionIndex()
        self._bytes = 0
        self._overhead_bytes = 0  # of channels and publishers
        self._newest_position = 0
        # For each publication in several channels, how many of these still hold it.
        self._holders: dict[int, int] = {}
        # (when, serial, log): one entry that counts for each log that is not empty.
        self._expiring = LazyHeap[ChannelLog](self._is_current)
        self._serial = 0
        # Slots below this one may have logs whose limits were reloaded and not yet applied.
        self._limits_pending = 0
        self._empty_channels = 0
        self._shares: dict[str, PublisherShare[ChannelLog]] = {}
        self._most_bytes = Largest[PublisherShare[ChannelLog]]()
        self._most_channels = Largest[PublisherChannels[ChannelLog]]()

    @property
    def bytes(self) -> int:
        """The bytes of publications; one in several channels counts once."""
        return self._bytes

    @property
    def usage(self) -> HistoryUsage:
        """How much is held. The bytes include those of empty channels and of retired ids."""
        channels = len(self._logs) - self._empty_channels
        return HistoryUsage(channels, len(self._position_index), self._total_bytes)

    @property
    def _total_bytes(self) -> int:
        """The bytes of everything, which `total` bounds."""
        return self._bytes + self._overhead_bytes + self._retired.bytes

    def extend(self, publications: Sequence[Publication], publisher: str = "") -> None:
        """Append publications, in their order, and evict what exceeds a limit.

        `publisher` names the share that the publications count for.
        """
        if len(publications) == 1:
            self._extend(publications[0].channels, publications, publisher)
            return
        # Consecutive publications in the same channels, most often a whole batch, are appended together:
        # that takes a third of the time of appending each alone.
        for channels, run in groupby(publications, _channels):
            self._extend(channels, list(run), publisher)

    def _extend(self, channels: tuple[str, ...], run: Sequence[Publication], publisher: str) -> None:
        weight, has_custom_id = set_weights(channels, run)
        # Most often it is the same tuple, since `channels.shared` remembers the last ones.
        log = self._logs.get(channels[0])
        if log is not None and log.count and log.newest.channels is not channels:
            self._share_names(log.newest.channels, run)
        self._newest_position = run[-1].position
        self._position_index.extend(run)
        self._bytes += weight
        part = weight
        if len(channels) > 1:
            part = weight_per_channel(run)
            self._holders.update(dict.fromkeys(map(_position, run), len(channels)))
        if has_custom_id:
            self.custom_ids.add(run)
        for channel in channels:
            self._extend_log(self._log(channel, run[0].position, publisher), run, weight, part)
        if self._bytes + self._overhead_bytes + self._retired.bytes > self._total:
            self._evict_to_total()

    @staticmethod
    def _share_names(held: tuple[str, ...], run: Sequence[Publication]) -> None:
        """Replace the channel names of publications by equal ones that are held already."""
        if held == run[0].channels:
            for publication in run:
                publication.channels = held

    def _log(self, channel: str, position: int, publisher: str) -> ChannelLog:
        log = self._logs.get(channel)
        if log is None:
            return self._open_channel(channel, position, publisher)
        self._logs.move_to_end(channel)
        log.share.channels.logs.move_to_end(channel)
        return log

    def expire(self, now: float, *, most: int = MAX_EXPIRED_AT_ONCE) -> bool:
        """Evict publications that are too old, at most `most`, and return whether any are left."""
        self.custom_ids.now = now
        if self._retired.bytes:
            self._retired.expire(now)
        expiring = self._expiring
        while (first := expiring.first) and first[0] <= now:
            if most <= 0:
                return True
            _, serial, log = expiring.pop()
            if serial != log.expiry_serial:
                continue  # a later entry has replaced this one
            log.expiry_serial = 0
            if count := min(log.expired(now), most):
                self._evict(log, count)
                most -= count
            if log.count:
                self._schedule_expiry(log)
        return False

    def reload_limits(self) -> None:
        """Mark every channel as one whose limits have to be asked for again, by `apply_limits`."""
        # Channels that are opened later get the current limits anyway.
        self._limits_pending = len(self.channel_index.slots)

    @property
    def limits_pending(self) -> bool:
        """Whether some channels may not hold to their current limits yet, after `reload_limits`."""
        return self._limits_pending > 0

    def apply_limits(self, most: int) -> bool:
        """Apply the current limits to some more channels, and return whether any are left.

        `most` bounds the channels examined and the publications evicted, taken together and about.
        """
        while self._limits_pending and most > 0:
            log = self.channel_index.slots[self._limits_pending - 1]
            most -= 1
            if log is not None:
                most -= self._apply_limits(log, most)
                if self._is_over(log):
                    break
            self._limits_pending -= 1
        return bool(self._limits_pending)

    def _apply_limits(self, log: ChannelLog, most: int) -> int:
        """Apply the current limits to a log, and return how many publications were evicted."""
        limits = self._limits(log.channel)
        if limits != log.limits:
            log.limits = limits
            log.expiry_serial = 0
            if log.count:
                self._schedule_expiry(log)
        before = log.count
        if self._is_over(log):
            self._trim(log, most=max(most, 1))
        return before - log.count

    def _is_over(self, log: ChannelLog) -> bool:
        return log.count > log.limits.size or log.bytes > log.limits.bytes

    def remove(self, position: int) -> bool:
        """Remove one publication from every channel. See `Backend.remove`."""
        found = next(self._position_index.after(position - 1), None)
        if found is None or found[0] != position or found[1] is None:
            return False
        publication = found[1]
        for channel in publication.channels:
            log = self._logs.get(channel)
            if log is not None:
                self._discard(log, publication)
        return True

    def clear(self, channel: str) -> int:
        """Remove all publications of a channel. See `Backend.clear`."""
        log = self._logs.get(channel)
        if log is None:
            return 0
        held = list(log.after(0))
        for publication in held:
            self._discard(log, publication)
        return len(held)

    def _discard(self, log: ChannelLog, publication: Publication) -> None:
        """Remove a publication from one channel. No watermark rises: nobody is told of a loss."""
        if not log.discard(publication):
            return
        share = log.share
        if not log.count:
            share.channels.mark_empty(log)
            self._empty_channels += 1
        share.bytes -= publication.weight // len(publication.channels)
        share.largest_log.update(log)
        self._most_bytes.update(share)
        self.custom_ids.discard(log.channel, publication)
        if not self._held_elsewhere(publication):
            self._bytes -= publication.weight
            self._position_index.remove([publication])

    def time_after(self, selector: Selector, position: int) -> float | None:
        """Return the time of the first publication after a position; of any channel if there are patterns."""
        if selector.patterns:
            return self._position_index.time_after(position)
        first = [next(log.after(position), None) for log in self.channel_index.named_logs(selector)]
        return min((publication.time for publication in first if publication is not None), default=None)

    def gap(self, selector: Selector, after: int, lost: int) -> Gap:
        """Return the gap of a selector between a position and `lost`, its newest loss.

        Everything in between is given up, held or not: no newer event may come before the news of the loss,
        and a subscriber that is disconnected behind it must not lose the rest again.
        """
        affected = [name for name in selector.names if self._is_affected(name, after, lost)]
        first = next((position for position, _, _ in self.after(selector, lost)), None)
        return Gap((*affected, *selector.patterns), lost if first is None else first - 1)

    def _is_affected(self, name: str, after: int, upto: int) -> bool:
        log = self._logs.get(name)
        if log is None:
            return self.watermarks.forgotten > after
        held = next(log.after(after), None)
        return log.watermark > after or (held is not None and held.position <= upto)

    def after(self, selector: Selector, position: int) -> Iterator[tuple[int, Publication | None, int]]:
        """Yield the publications of a selector after a position, in order, each with its position and cost.

        None stands for a publication that is not wanted: the caller may pause there. The cost is the number
        of steps that it took to examine it, some 0.3 us each.
        """
        if selector.patterns:
            return self._matching(selector, position)
        logs = self.channel_index.named_logs(selector)
        if len(logs) == 1:
            found: Iterable[Publication] = logs[0].after(position)
        else:
            found = heapq.merge(*(log.after(position) for log in logs), key=_position)
        return _without_repeats(found, selector)

    def _matching(self, selector: Selector, position: int) -> Iterator[tuple[int, Publication | None, int]]:
        steps = match_steps(selector.patterns)
        for reached, publication in self._position_index.after(position):
            if publication is None:
                yield reached, None, 1
                continue
            channels = publication.channels
            matches = selector.first_match(channels) is not None
            cost = 1 + steps * len(channels) // 8
            yield reached, _if_accepted(publication, selector) if matches else None, cost

    def _open_channel(self, channel: str, position: int, publisher: str) -> ChannelLog:
        if len(self._logs) >= self._max_channels:
            self._make_room(publisher)
        share = self._shares.get(publisher) or self._open_share(publisher)
        # An unknown channel may have been known and forgotten, and have lost what was then evicted.
        log = ChannelLog(
            channel,
            self._limits(channel),
            watermark=min(self.watermarks.forgotten, position - 1),
            share=share,
            slot=self.channel_index.allocate_slot(),
        )
        log.last_eviction = self.watermarks.last_forgotten_eviction
        self.channel_index.add(log)
        share.channels.add(log)
        self._empty_channels += 1
        self._most_channels.update(share.channels)
        self._add_overhead(share, CHANNEL_COST + len(channel))
        return log

    def _make_room(self, publisher: str) -> None:
        """Forget a channel of the publisher that has most; of `publisher` itself if it has about as many."""
        most, own = self._most_channels.find(), self._shares.get(publisher)
        if most is None:
            return
        if own is not None and own.channels.class_from == most.class_from:
            most = own.channels
        self._report_share(Share.HISTORY_CHANNELS, most.share)
        self._forget(most.next_to_forget())

    def _open_share(self, publisher: str) -> PublisherShare[ChannelLog]:
        share = self._shares[publisher] = PublisherShare(publisher)
        self._add_overhead(share, PUBLISHER_COST + len(publisher))
        return share

    def _add_overhead(self, share: PublisherShare[ChannelLog], bytes: int) -> None:
        self._overhead_bytes += bytes
        share.bytes += bytes
        self._most_bytes.update(share)

    def _forget(self, log: ChannelLog) -> None:
        channel, share = log.channel, log.share
        if log.count:
            self._evict(log, log.count)
        self.watermarks.fold(log)
        self._empty_channels -= 1
        self.channel_index.remove(log)
        share.channels.remove(log)
        self._add_overhead(share, -CHANNEL_COST - len(channel))
        self._most_channels.update(share.channels)
        if not share.channels.logs:
            self._add_overhead(share, -PUBLISHER_COST - len(share.name))
            del self._shares[share.name]
            share.dispose()

    def _report_share(self, what: Share, share: PublisherShare[ChannelLog]) -> None:
        if self._report is not None and len(self._shares) > 1:
            self._report(what, share.name)

    def _extend_log(self, log: ChannelLog, run: Sequence[Publication], weight: int, part: int) -> None:
        share = log.share
        if not log.count:
            share.channels.mark_filled(log)
            self._empty_channels -= 1
        log.extend(run, weight)
        share.bytes += part
        if not log.expiry_serial:
            self._schedule_expiry(log)
        self._trim(log)
        # Compared here because the answer is nearly always no, and a call costs more than the comparison.
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
        before = log.bytes
        evicted = log.evict(count)
        weight = before - log.bytes
        self.watermarks.record(log, count, self._newest_position)
        share = log.share
        if not log.count:
            share.channels.mark_empty(log)
            self._empty_channels += 1
        share.bytes -= weight_per_channel(evicted) if self._holders else weight
        if log.bytes < log.class_from:
            share.largest_log.update(log)
        if share.bytes < share.class_from:
            self._most_bytes.update(share)
        if self.custom_ids.count:
            self.custom_ids.retire(log, evicted)
        if self._holders:
            evicted = [publication for publication in evicted if not self._held_elsewhere(publication)]
            weight = evicted[0].weight if len(evicted) == 1 else sum(map(_weight, evicted))
        if evicted:
            self._bytes -= weight
            self._position_index.remove(evicted)

    def _held_elsewhere(self, publication: Publication) -> bool:
        """Count one channel less that holds a publication, and return whether another one does."""
        if len(publication.channels) == 1:
            return False
        self._holders[publication.position] -= 1
        if self._holders[publication.position]:
            return True
        del self._holders[publication.position]
        return False

    def _evict_to_total(self) -> None:
        """Evict from the largest share until all is below the total, by some headroom."""
        target = self._total - min(self._total // 64, EVICTION_HEADROOM)
        reported = False
        while self._total_bytes > target and (share := self._largest_share()) is not None:
            if not reported:
                self._report_share(Share.HISTORY_TOTAL, share)
                reported = True
            log = share.largest_log.find()
            # Channels are forgotten only where they take more than all events: with each of them the
            # watermark rises of all channels that are not remembered.
            if log is None or self._overhead_bytes > self._bytes:
                self._forget(share.channels.next_to_forget())
            else:
                self._evict(log, 1)

    def _largest_share(self) -> PublisherShare[ChannelLog] | None:
        """Return the share with most channels if these take more bytes than events, else with most bytes."""
        if self._overhead_bytes > self._bytes and (most := self._most_channels.find()) is not None:
            return most.share
        return self._most_bytes.find()

    def _schedule_expiry(self, log: ChannelLog) -> None:
        self._serial += 1
        log.expiry_serial = self._serial
        logs = len(self._logs)
        self._expiring.push((log.oldest.time + log.limits.age, self._serial, log), most=logs + logs // 4 + 64)

    def _is_current(self, entry: Entry[ChannelLog]) -> bool:
        """Return whether an entry is the last one of a log that is still remembered."""
        _, serial, log = entry
        return serial == log.expiry_serial and self._logs.get(log.channel) is log


def _if_accepted(publication: Publication, selector: Selector) -> Publication | None:
    return publication if selector.accepts_type(publication.event.type) else None


def _without_repeats(
    found: Iterable[Publication], selector: Selector
) -> Iterator[tuple[int, Publication | None, int]]:
    """Yield each publication once, though several of its channels hold it."""
    last = -1
    for publication in found:
        if publication.position != last:
            last = publication.position
            yield last, _if_accepted(publication, selector), 1
