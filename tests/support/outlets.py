"""Stand-ins for the far side of a seam, in memory."""

from collections.abc import Callable

from sse_broadcast.config import Overflow
from sse_broadcast.errors import SinkClosedError
from sse_broadcast.event import Event
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Encoding, Publication, text
from sse_broadcast.subscriber import CloseReason, Subscriber, Terms


class Outlet:
    """Notes what a subscriber asks of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.on_relieve: Callable[[], None] = lambda: None

    def ready(self) -> None:
        self.calls.append("ready")

    def relieve(self) -> None:
        self.on_relieve()

    def end(self, reason: CloseReason) -> None:
        self.calls.append(f"end {reason}")


class MemorySink:
    """A sink that keeps what is written, takes only so many writes, and can be lost or broken."""

    encoding: Encoding = staticmethod(text)

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.takes_more = True
        self.gone = False
        self.broken = False
        self.closed = 0
        self.aborted = 0

    @property
    def data(self) -> bytes:
        return b"".join(self.written)

    def frame(self, block: bytes) -> bytes:
        return block

    def write(self, data: bytes) -> bool:
        if self.gone:
            raise SinkClosedError("gone")
        if self.broken:
            raise RuntimeError("broken")
        self.written.append(data)
        return self.takes_more

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1
        self.gone = True


def terms(
    overflow: Overflow = Overflow.DISCONNECT, *, queue_size: int = 3, queue_bytes: int = 1000
) -> tuple[Terms, Metrics, list[Subscriber]]:
    """Give terms, what counts under them, and who is told of closings."""
    metrics, closed = Metrics(), list[Subscriber]()
    return Terms(queue_size, queue_bytes, overflow, metrics, closed.append), metrics, closed


def publication(data: str, channel: str = "default") -> Publication:
    return Publication((channel,), Event(data))


def data_of(publications: list[Publication]) -> list[str]:
    return [publication.event.data for publication in publications]
