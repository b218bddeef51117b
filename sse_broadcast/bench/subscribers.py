"""Subscribers of a run: raw protocols that count what arrives, and when."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from sse_broadcast.bench.histogram import LatencyHistogram
from sse_broadcast.bench.http_connection import new_parser, parse_failure
from sse_broadcast.bench.payload import Markers
from sse_broadcast.bench.sequence import Arrival, SequenceCheck

RESET = b"\nevent: $reset"
"""How this server tells of a loss."""

MAX_TAIL = 1 << 24
"""Bytes of a line whose end has not come, before the stream is given up."""


@dataclass(slots=True)
class Tally:
    """What all subscribers of a run have seen. One object, since they share one loop."""

    markers: Markers
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    connect: LatencyHistogram = field(default_factory=LatencyHistogram)
    deliveries: int = 0
    repeats: int = 0
    late: int = 0
    misrouted: int = 0
    resets: int = 0
    bytes: int = 0
    disconnects: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    per_second: Counter[int] = field(default_factory=Counter)
    """Deliveries in each second of CLOCK_MONOTONIC."""
    slowest_in: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """The largest latency in each second."""
    last_delivery: float = 0.0
    counts: bool = True
    """Whether the end of a connection is the server's doing."""


class Subscription:
    """One subscriber: checks each event that comes. It does no I/O: bytes and their time of arrival go in.

    `opened` is done with the head of the response: with True for a stream, False for anything else.
    """

    __slots__ = (
        "_begun",
        "_channel",
        "_content_type",
        "_failure",
        "_now",
        "_parser",
        "_tail",
        "_tally",
        "_thawed",
        "check",
        "close",
        "is_frozen",
        "is_open",
        "opened",
        "pause",
        "resume",
    )

    def __init__(self, tally: Tally, *, channel: int, publishers: int, frozen: bool) -> None:
        self.check = SequenceCheck(publishers)
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.is_open = False
        self.is_frozen = frozen
        self.close: Callable[[], object] = lambda: None
        """Ends the connection at once; the connection sets it."""
        self.pause: Callable[[], object] = lambda: None
        self.resume: Callable[[], object] = lambda: None
        """Stop reading, and read on; the connection sets them."""
        self._tally = tally
        self._channel = channel
        self._begun = self._now = time.monotonic()
        self._content_type = b""
        self._tail = b""
        self._thawed = False
        self._parser = new_parser(self)
        self._failure = parse_failure()

    @property
    def channel(self) -> int:
        """The number of its channel."""
        return self._channel

    def feed(self, data: bytes, now: float) -> None:
        """Take the next bytes. `now` is when they arrived, in seconds of CLOCK_MONOTONIC."""
        if self._thawed:
            return
        self._now = now
        try:
            self._parser.feed_data(data)
        except self._failure:
            self._give_up("no HTTP")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        if name.lower() == b"content-type":
            self._content_type = value

    def on_headers_complete(self) -> None:
        """Note that the stream is there, or why it is not."""
        status = self._parser.get_status_code()
        if status != 200 or not self._content_type.startswith(b"text/event-stream"):
            kind = self._content_type.decode("latin-1") or "no content type"
            self._give_up(f"status {status}" if status != 200 else kind)
            return
        self._tally.connect.record(max(self._now - self._begun, 0.0))
        self.is_open = True
        if not self.opened.done():
            self.opened.set_result(True)
        if self.is_frozen:
            self.pause()

    def on_body(self, body: bytes) -> None:
        """Count the events whose lines are complete."""
        now, tally = self._now, self._tally
        tally.bytes += len(body)
        if self._tail:
            body = self._tail + body
        end = body.rfind(b"\n") + 1
        self._tail = body[end:]
        lines = body[:end]
        if RESET in lines:
            tally.resets += lines.count(RESET)
        markers = tally.markers
        for text in markers.find(lines):
            marker = markers[text]
            tally.deliveries += 1
            tally.last_delivery = now
            latency = now - marker.due
            tally.latency.recent[int(latency * 1e6)] += 1
            second = int(now)
            tally.per_second[second] += 1
            if latency > tally.slowest_in[second]:  # noqa: PLR1730 - max() costs three times this
                tally.slowest_in[second] = latency
            if marker.channel != self._channel:
                tally.misrouted += 1
            elif (arrival := self.check.take(marker.publisher, marker.sequence)) is not Arrival.IN_ORDER:
                self._note(arrival)
        if len(self._tail) > MAX_TAIL:
            self._give_up("a line without end")

    def _note(self, arrival: Arrival) -> None:
        self._tally.repeats += arrival is Arrival.REPEAT
        self._tally.late += arrival is Arrival.LATE

    def on_message_complete(self) -> None:
        """Note that the server has ended the stream."""
        if self.is_open:
            self._end("ended by the server")

    def lost(self, error: BaseException | None) -> None:
        """Note that the connection is gone."""
        if self.is_open:
            self._end("reset by the server" if isinstance(error, ConnectionResetError) else "cut off")
        else:
            self._give_up("closed without a response")

    def _give_up(self, reason: str) -> None:
        if self.is_open:
            self._end(reason)
        elif not self.opened.done():
            self._tally.refusals[reason] += 1
            self.opened.set_result(False)
        self.close()

    def _end(self, reason: str) -> None:
        self.is_open = False
        if self._tally.counts and not self.is_frozen:
            self._tally.disconnects[reason] += 1
        self.close()

    def thaw(self) -> None:
        """Read on, to see whether the server has ended a frozen connection; what comes is not counted.

        What the server had written before it ended comes first, and its end behind that.
        """
        self._thawed = True
        self.resume()
