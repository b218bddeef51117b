"""Groups and outboxes without a dispatcher."""

from sse_broadcast.channels import Selector
from sse_broadcast.encoding import TEXT, Encoding
from sse_broadcast.fanout.group import Batch, SubscriberGroup
from sse_broadcast.fanout.outbox import Outbox, OutboxGroup
from sse_broadcast.fanout.replay import Replay
from sse_broadcast.fanout.subscriber import CloseReason, Subscriber
from tests.support.memory_sinks import MemorySink, publication, terms

DEFAULT = Selector.parse("default")

MANY = 1 << 20
"""A limit in bytes that nothing here reaches."""


class RecordingScheduler:
    """Records its calls, and empties a log that is at its limits."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def schedule_group(self, group: OutboxGroup) -> None:
        self.calls.append("schedule_group")

    def flush_group(self, group: OutboxGroup) -> None:
        self.calls.append("flush_group")
        group.drop_delivered(len(group.log))

    def schedule_outbox(self, outbox: Outbox) -> None:
        self.calls.append("schedule_outbox")

    def flush_outbox(self, outbox: Outbox) -> None:
        self.calls.append("flush_outbox")

    def on_full(self, outbox: Outbox) -> None:
        self.calls.append("on_full")

    def on_drained(self, outbox: Outbox) -> None:
        self.calls.append("on_drained")

    def on_closed(self, outbox: Outbox, reason: CloseReason) -> None:
        self.calls.append(f"on_closed {reason}")


class RecordedGroup(SubscriberGroup[Outbox]):
    """A group whose scheduler records its calls."""

    def __init__(
        self,
        selector: Selector = DEFAULT,
        encoding: Encoding = TEXT,
        *,
        queue_size: int = 10,
        queue_bytes: int = 1000,
    ) -> None:
        self.scheduler = RecordingScheduler()
        super().__init__(selector, encoding, self.scheduler, queue_size=queue_size, queue_bytes=queue_bytes)

    def outbox(self, catching_up: Replay | None = None) -> Outbox:
        """Return an outbox that does not follow the log yet."""
        subscriber = Subscriber(self.selector, terms()[0], catching_up)
        sink = MemorySink()
        outbox = Outbox(self.scheduler, self, subscriber, sink)
        sink.attach(outbox)
        subscriber.consumer = outbox
        return outbox

    def add(self) -> Outbox:
        """Return an outbox that follows the log from its end on."""
        outbox = self.outbox()
        outbox.join_group()
        return outbox

    def publish(self, *data: str) -> None:
        """Publish at the positions 1, 2, 3, ..., with frames of 24 bytes for one character."""
        for position, each in enumerate(data, self.end + 1):
            self.append(publication(each, position=position))


def begin_pass(group: OutboxGroup, *, limit: int, to: int) -> None:
    """Begin a pass over the writer list, and write to the first `to` of it."""
    group.batch = Batch(group, limit=limit)
    group.writers.begin()
    for writer in group.writers.take(to):
        writer.write(group.batch.data)


def end_pass(group: OutboxGroup) -> None:
    """End the pass, which has written to everyone."""
    assert group.writers.done
    assert group.batch is not None
    group.writers.end()
    count, group.batch = group.batch.end - group.batch.base, None
    group.drop_delivered(count)
