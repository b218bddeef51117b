"""Ids of evicted events, as hashes: an id that is used again must not pass for its first use."""

from collections import OrderedDict
from collections.abc import Iterable

from sse_broadcast.channels import Selector

ID_BYTES = 260
"""Bytes that one id of one channel takes, measured with tracemalloc."""

CHANNEL_BYTES = 280
"""Bytes that a channel takes beside its ids."""

MAX_CHANNELS_SEARCHED = 64
"""Channels of one id that are compared with patterns. Of more, any may be one that a pattern matches."""

MAX_EXPIRED_IDS = 2000
"""Ids that are forgotten in one go because of their time: a millisecond."""

EXPIRY_INTERVAL = 1.0
"""Seconds between two such goes: `expire` is called with each publish."""

RetiredId = tuple[int, float]
"""The oldest evicted position of an id, and until when that is remembered."""


class RetiredIds:
    """The ids that publishers chose for events which their channels no longer hold.

    A channel remembers so many ids as it may hold events; beyond that its own oldest goes. All together take
    `max_bytes` at most: a channel that finds no room gives up its own, so that no channel takes another's.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.bytes = 0
        """The bytes of the ids that are remembered."""
        self._max_bytes = max_bytes
        self._swept = -EXPIRY_INTERVAL
        self._marks: OrderedDict[str, dict[int, RetiredId]] = OrderedDict()
        # The channels of each hash. Nearly always it is one, which needs no dict of its own.
        self._channels: dict[int, str | dict[str, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._marks.values()))

    def add(
        self, channel: str, ids: Iterable[tuple[str, int]], *, until: float, now: float, most: int
    ) -> None:
        """Remember ids and their positions until a time. The channel remembers `most` of them."""
        marks = self._marks.get(channel)
        if marks is None:
            marks = self._marks[channel] = {}
            self.bytes += CHANNEL_BYTES
        for id, position in ids:
            key = hash(id)
            known = marks.pop(key, None)
            if known is None:
                self._index(key, channel)
                self.bytes += ID_BYTES
            elif known[1] > now:
                position = known[0]  # noqa: PLW2901 - the oldest use is the one that counts
            marks[key] = (position, until)
            if len(marks) > most or self.bytes > self._max_bytes:
                self._forget_first(channel, marks)
        if not marks:
            self._forget_channel(channel)

    def oldest(self, id: str, selector: Selector, *, now: float) -> int | None:
        """Return the oldest position that a selector's channels evicted under an id, or None."""
        key = hash(id)
        channels = self._channels.get(key)
        if channels is None:
            return None
        if selector.patterns and len(channels) > MAX_CHANNELS_SEARCHED and isinstance(channels, dict):
            return 0
        searched: Iterable[str] = (channels,) if isinstance(channels, str) else channels
        if not selector.patterns and isinstance(channels, dict):
            searched = filter(channels.__contains__, selector.names)
        found = (self._marks[channel][key] for channel in searched if selector.matches(channel))
        return min((position for position, until in found if until > now), default=None)

    def expire(self, now: float) -> None:
        """Forget ids whose time has come, `SWEEP` of them at most, once in `SWEEP_PAUSE` seconds."""
        if now - self._swept < EXPIRY_INTERVAL:
            return
        self._swept = now
        room = MAX_EXPIRED_IDS
        for _ in range(min(MAX_EXPIRED_IDS // 4, len(self._marks))):
            channel, marks = next(iter(self._marks.items()))
            room = self._expire(channel, marks, now, room)
            if not room:
                return
            if not marks:
                self._forget_channel(channel)
            else:
                self._marks.move_to_end(channel)

    def _expire(self, channel: str, marks: dict[int, RetiredId], now: float, room: int) -> int:
        while room and marks and next(iter(marks.values()))[1] <= now:
            self._forget_first(channel, marks)
            room -= 1
        return room

    def _forget_channel(self, channel: str) -> None:
        del self._marks[channel]
        self.bytes -= CHANNEL_BYTES

    def _forget_first(self, channel: str, marks: dict[int, RetiredId]) -> None:
        key = next(iter(marks))
        del marks[key]
        self.bytes -= ID_BYTES
        channels = self._channels[key]
        if isinstance(channels, dict):
            del channels[channel]
            if channels:
                return
        del self._channels[key]

    def _index(self, key: int, channel: str) -> None:
        channels = self._channels.get(key)
        if channels is None:
            self._channels[key] = channel
        elif isinstance(channels, str):
            self._channels[key] = {channels: None, channel: None}
        else:
            channels[channel] = None
