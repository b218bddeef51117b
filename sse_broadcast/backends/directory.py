"""Directory: the state of each channel of a store, in the memory of the event loop.

No I/O. After each commit the store reports the channels that changed. The directory then knows what was
evicted, which channels exceed a limit, and which events are too old. A channel takes about 600 bytes here,
however many events it holds.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import msgspec

from sse_broadcast.backends.memory.channel_index import NAMES_PER_PAGE
from sse_broadcast.backends.memory.largest import Largest, ReportShare
from sse_broadcast.backends.memory.lazy_heap import Entry, LazyHeap
from sse_broadcast.backends.memory.publisher_share import PublisherChannels, PublisherShare
from sse_broadcast.backends.memory.watermarks import Watermarks
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.metrics import Share


class ChannelChange(msgspec.Struct, frozen=True):
    """A channel as a commit has left it; `evicted` events were evicted from it by that.

    `oldest_id` is set where its publisher chose it.
    """

    channel: str
    publisher: str
    count: int
    bytes: int
    newest: int
    lost: int
    evicted: int
    oldest: int
    oldest_time: float
    oldest_id: str | None
    forgotten: bool = False


class StoredChannel:
    """The state of one channel of a store."""

    __slots__ = (
        "bytes",
        "channel",
        "class_below",
        "class_from",
        "count",
        "expiry_serial",
        "last_eviction",
        "limits",
        "newest",
        "newest_at_eviction",
        "oldest",
        "oldest_id",
        "oldest_time",
        "share",
        "slot",
        "watermark",
    )

    def __init__(
        self, channel: str, limits: HistoryLimits, share: "PublisherShare[StoredChannel]", slot: int
    ) -> None:
        self.channel = channel
        self.limits = limits
        self.share = share
        self.slot = slot
        self.count = self.bytes = self.newest = self.oldest = 0
        self.oldest_time = 0.0
        self.oldest_id: str | None = None
        self.watermark = self.last_eviction = self.newest_at_eviction = 0
        self.class_from = self.class_below = 0
        self.expiry_serial = 0

    @property
    def held(self) -> int:
        """The bytes of the channel, by which `Largest` compares them."""
        return self.bytes


class Directory:
    """All channels of a store.

    `limits` returns what a channel may hold, `total` bounds the bytes of all, and `max_channels` how many are
    remembered. Over either bound the publisher that holds most gives way.
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
        self.logs: OrderedDict[str, StoredChannel] = OrderedDict()
        """By channel name, the most recently published last."""
        self.slots: list[StoredChannel | None] = []
        """By slot; None where a slot is free."""
        self.watermarks: Watermarks[StoredChannel] = Watermarks(self)
        self.events = self.bytes = 0
        """What all of them hold; what several hold counts once."""
        self._free_slots: list[int] = []
        self._empty = 0
        self._shares: dict[str, PublisherShare[StoredChannel]] = {}
        self._most_bytes = Largest[PublisherShare[StoredChannel]]()
        self._most_channels = Largest[PublisherChannels[StoredChannel]]()
        self._expiring = LazyHeap[StoredChannel](self._is_current)
        self._serial = 0
        # Slots below this one may have channels whose limits were reloaded and not yet applied.
        self._limits_pending = 0

    def named_logs(self, selector: Selector) -> list[StoredChannel]:
        """Return the channels that a selector names, without those of its patterns."""
        return [found for name in selector.names if (found := self.logs.get(name)) is not None]

    @property
    def channels(self) -> int:
        """The number of channels that hold something."""
        return len(self.logs) - self._empty

    def names(self) -> Iterator[Sequence[str]]:
        """Yield the names of the channels that hold something, a few at a time."""
        for begin in range(0, len(self.slots), NAMES_PER_PAGE):
            page = self.slots[begin : begin + NAMES_PER_PAGE]
            yield [each.channel for each in page if each is not None and each.count]

    def begin(self, states: Sequence[ChannelChange], *, events: int, bytes: int, forgotten: int) -> None:
        """Take what a store held when it was opened, in the order of the last publishes."""
        self.watermarks.begin_at(forgotten)
        for state in states:
            self._update(self._opened(state), state)
            if state.lost:
                self.watermarks.record(self.logs[state.channel], 1, max(state.newest, state.lost))
        self.events, self.bytes = events, bytes

    def apply(
        self,
        states: Sequence[ChannelChange],
        *,
        position: int,
        events: int,
        bytes: int,
        forgotten: int,
    ) -> None:
        """Take what a commit has changed. `position` is the newest position behind it."""
        for state in states:
            channel = self.logs.get(state.channel)
            if state.forgotten:
                if channel is not None:
                    self._forget(channel, state.lost, position)
                continue
            channel = channel or self._opened(state)
            self._update(channel, state)
            if state.evicted:
                self.watermarks.record(channel, state.evicted, position)
        self.events, self.bytes = events, bytes
        self.watermarks.forgotten = max(self.watermarks.forgotten, forgotten)

    def overdue(self, now: float, *, most: int) -> list[StoredChannel]:
        """Return channels whose oldest event is too old, each once until it is changed."""
        found: list[StoredChannel] = []
        expiring = self._expiring
        while len(found) < most and (first := expiring.first) and first[0] <= now:
            _, serial, channel = expiring.pop()
            if serial != channel.expiry_serial:
                continue
            channel.expiry_serial = 0
            if channel.count:
                found.append(channel)
        return found

    def expect(self, channel: StoredChannel) -> None:
        """Let `overdue` return a channel again, if its oldest event is still held."""
        if channel.count and not channel.expiry_serial and self.logs.get(channel.channel) is channel:
            self._schedule_expiry(channel)

    def reload_limits(self) -> None:
        """Mark every channel as one whose limits have to be asked for again."""
        self._limits_pending = len(self.slots)

    @property
    def limits_pending(self) -> bool:
        """Whether some channels may not hold to their limits yet, after `reload_limits`."""
        return self._limits_pending > 0

    def apply_limits(self, most: int) -> list[StoredChannel]:
        """Apply the current limits to some more channels, and return those that hold more than they may."""
        over = []
        while self._limits_pending and most > 0:
            channel = self.slots[self._limits_pending - 1]
            self._limits_pending -= 1
            most -= 1
            if channel is None:
                continue
            limits = self._limits(channel.channel)
            if limits != channel.limits:
                channel.limits = limits
                self._schedule_expiry(channel)
            if channel.count > limits.size or channel.bytes > limits.bytes:
                over.append(channel)
        return over

    def largest_over_total(self) -> tuple[StoredChannel, int] | None:
        """Return the channel that gives way, and by how many bytes, where all hold more than they may."""
        excess = self.bytes - self._total
        share = self._most_bytes.find()
        if excess <= 0 or share is None:
            return None
        channel = share.largest_log.find()
        if channel is None:
            return None
        self._report_share(Share.HISTORY_TOTAL, share)
        return channel, min(excess, channel.bytes)

    def next_to_forget(self) -> StoredChannel | None:
        """Return the channel to forget where there are more than may be."""
        if len(self.logs) <= self._max_channels:
            return None
        most = self._most_channels.find()
        if most is None:
            return None
        self._report_share(Share.HISTORY_CHANNELS, most.share)
        return most.next_to_forget()

    def _report_share(self, what: Share, share: PublisherShare[StoredChannel]) -> None:
        if self._report is not None and len(self._shares) > 1:
            self._report(what, share.name)

    def _opened(self, state: ChannelChange) -> StoredChannel:
        share = self._shares.get(state.publisher)
        if share is None:
            share = self._shares[state.publisher] = PublisherShare(state.publisher)
        slot = self._free_slots.pop() if self._free_slots else len(self.slots)
        channel = StoredChannel(state.channel, self._limits(state.channel), share, slot)
        channel.last_eviction = self.watermarks.last_forgotten_eviction
        self.logs[state.channel] = channel
        self.slots[slot : slot + 1] = [channel]
        share.channels.add(channel)
        share.channels.mark_empty(channel)
        self._empty += 1
        self._most_channels.update(share.channels)
        return channel

    def _update(self, channel: StoredChannel, state: ChannelChange) -> None:
        share = channel.share
        if state.newest > channel.newest:
            self.logs.move_to_end(channel.channel)
            share.channels.logs.move_to_end(channel.channel)
        if bool(state.count) != bool(channel.count):
            if state.count:
                share.channels.mark_filled(channel)
                self._empty -= 1
            else:
                share.channels.mark_empty(channel)
                self._empty += 1
        share.bytes += state.bytes - channel.bytes
        was_oldest = channel.oldest if channel.count else 0
        channel.count, channel.bytes, channel.newest = state.count, state.bytes, state.newest
        channel.oldest, channel.oldest_time, channel.oldest_id = (
            state.oldest,
            state.oldest_time,
            state.oldest_id,
        )
        channel.watermark = state.lost
        share.largest_log.update(channel)
        self._most_bytes.update(share)
        if state.count and (state.oldest != was_oldest or not channel.expiry_serial):
            self._schedule_expiry(channel)

    def _forget(self, channel: StoredChannel, lost: int, position: int) -> None:
        if channel.count:
            channel.watermark = lost
            self.watermarks.record(channel, channel.count, position)
        self.watermarks.fold(channel)
        share = channel.share
        if channel.count:
            share.channels.mark_empty(channel)
            self._empty += 1
        share.bytes -= channel.bytes
        channel.count = channel.bytes = 0
        channel.expiry_serial = 0
        share.largest_log.update(channel)
        self._most_bytes.update(share)
        share.channels.remove(channel)
        self._empty -= 1
        self._most_channels.update(share.channels)
        del self.logs[channel.channel]
        self.slots[channel.slot] = None
        self._free_slots.append(channel.slot)
        if not share.channels.logs:
            del self._shares[share.name]
            share.dispose()

    def _schedule_expiry(self, channel: StoredChannel) -> None:
        self._serial += 1
        channel.expiry_serial = self._serial
        count = len(self.logs)
        self._expiring.push(
            (channel.oldest_time + channel.limits.age, self._serial, channel), most=count + count // 4 + 64
        )

    def _is_current(self, entry: Entry[StoredChannel]) -> bool:
        """Return whether an entry is the last one of a channel that is still remembered."""
        _, serial, channel = entry
        return serial == channel.expiry_serial and self.logs.get(channel.channel) is channel
