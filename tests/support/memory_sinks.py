"""In-memory sinks and consumers, and builders for publications, options and broadcasters."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Self

from sse_broadcast.backends.base import Far, ReplayPage
from sse_broadcast.backends.memory.backend import MemoryBackend, open_memory
from sse_broadcast.broadcaster import Broadcaster
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config, Overflow
from sse_broadcast.cursor import parse_since
from sse_broadcast.encoding import TEXT, Encoding
from sse_broadcast.errors import SinkClosedError
from sse_broadcast.event import DEFAULT_TYPE, Event
from sse_broadcast.fanout.outbox import Outbox
from sse_broadcast.fanout.subscriber import CloseReason, Heartbeat, Subscriber, SubscriberOptions
from sse_broadcast.metrics import Metrics, SubscriberKind
from sse_broadcast.publication import Draft, Publication, place
from sse_broadcast.work_queue import SlicedWork, run_to_completion
from tests.support.internals import backend_of, set_clock

EPOCH = "0123abcd"
"""The epoch of everything that is placed here."""

# Of six digits each, so that the same data makes a frame of the same size wherever it is placed.
_places = itertools.count(100_001)


class RecordingConsumer:
    """A consumer that records the calls of its subscriber."""

    kind = SubscriberKind.HTTP

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.on_make_room: Callable[[], None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None

    def on_ready(self) -> None:
        self.calls.append("on_ready")

    def make_room(self) -> None:
        self.on_make_room()

    def on_closed(self, reason: CloseReason) -> None:
        self.calls.append(f"on_closed {reason}")
        self.on_close()


class MemorySink:
    """A sink that records its writes, and can be full, gone or broken."""

    def __init__(self, encoding: Encoding = TEXT, *, takes_more: bool = True) -> None:
        self.encoding = encoding
        self.written: list[bytes] = []
        self.takes_more = takes_more
        self.gone = False
        self.broken = False
        self.closed = 0
        self.aborted = 0
        self.outbox: Outbox | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.written)

    @property
    def writer(self) -> Self:
        return self

    def attach(self, outbox: Outbox | None) -> None:
        self.outbox = outbox

    def write(self, data: bytes) -> None:
        if self.gone:
            raise SinkClosedError("gone")
        if self.broken:
            raise RuntimeError("broken")
        self.written.append(data)
        if not self.takes_more and self.outbox is not None:
            self.outbox.on_full()

    def drain(self) -> None:
        """Take all that was written, and more from now on."""
        self.takes_more = True
        assert self.outbox is not None
        self.outbox.on_drained()

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1
        self.gone = True


class Broken:
    """A writer that fails."""

    def write(self, _: bytes, /) -> None:
        raise RuntimeError("broken")


def break_off(outbox: Outbox) -> None:
    """Make every write of an outbox fail from now on."""
    outbox.group.leave(outbox)
    outbox.writer = Broken()
    outbox.group.enter(outbox)


def terms(
    overflow: Overflow = Overflow.DISCONNECT,
    *,
    queue_size: int = 3,
    queue_bytes: int = 1000,
    on_close: Callable[[Subscriber], None] | None = None,
) -> tuple[SubscriberOptions, Metrics, list[Subscriber]]:
    """Return terms, what counts under them, and who is told of closings (unless it is `on_close`)."""
    metrics, closed = Metrics(), list[Subscriber]()
    given = SubscriberOptions(
        queue_size=queue_size,
        queue_bytes=queue_bytes,
        overflow=overflow,
        metrics=metrics,
        on_close=on_close or closed.append,
        epoch=EPOCH,
        heartbeat=Heartbeat(15.0),
        retry=2000,
    )
    return given, metrics, closed


def publication(
    data: str, *channels: str, key: str | None = None, event: str = DEFAULT_TYPE, position: int | None = None
) -> Publication:
    """Return an event in its place, behind all that were placed here before unless a position is given."""
    return place(
        channels or ("default",),
        Event(data, event, key=key),
        epoch=EPOCH,
        position=next(_places) if position is None else position,
        time=1_700_000_000.0,
    )


def data_of(publications: Sequence[Publication]) -> list[str]:
    return [publication.event.data for publication in publications]


def make_broadcaster(**settings: object) -> Broadcaster:
    """Return a broadcaster of the one epoch, whose clock stands still."""
    broadcaster = Broadcaster(Config(**settings))  # type: ignore[arg-type]
    backend_of(broadcaster).epoch = EPOCH
    set_clock(broadcaster, lambda: 1_700_000_000.0)
    return broadcaster


async def make_memory(*data: str, **settings: object) -> MemoryBackend:
    """Return a history of the one epoch that delivers to nobody, with these events on `default`."""
    config = Config(**settings)  # type: ignore[arg-type]
    memory = open_memory(config, ChannelPolicies(config), lambda _: 0)
    memory.epoch = EPOCH
    for each in data:
        await memory.publish([Draft(("default",), Event(each))])
    return memory


def connect(
    broadcaster: Broadcaster,
    *channels: str,
    since: str | None = None,
    types: Sequence[str] | None = None,
    sink: MemorySink | None = None,
    heartbeat: Heartbeat | None = None,
    takes_more: bool = True,
) -> tuple[Outbox, MemorySink]:
    """Connect a subscriber as the server does, from now on or from `since` on.

    With `takes_more` false its sink is full after the first write.
    """
    sink = sink or MemorySink(takes_more=takes_more)
    selector = broadcaster.selector(channels or ("default",), types=types)
    start = broadcaster.start_point(selector, None if since is None else parse_since(since))
    return broadcaster.connect(sink, selector, start, heartbeat or broadcaster.heartbeat()), sink


def block(position: int, data: object) -> bytes:
    """Return the text frame of what was published at a position of the one epoch."""
    return f"data: {data}\nid: {EPOCH}-{position}\n\n".encode()


class Away:
    """Makes a memory answer as one does that has to ask a store: each page comes when the gate is open."""

    def __init__(self, memory: MemoryBackend) -> None:
        self.gate = asyncio.Event()
        self.asked = 0
        self.error: Exception | None = None
        self._replay = memory.replay
        memory.replay = self.replay  # type: ignore[method-assign, assignment]

    def replay(self, selector: Selector, **words: int) -> SlicedWork[ReplayPage | Far[ReplayPage]]:
        """Return an answer that has to be waited for."""
        yield from ()
        self.asked += 1

        async def fetch() -> ReplayPage:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            return run_to_completion(self._replay(selector, **words))

        return Far(fetch)
