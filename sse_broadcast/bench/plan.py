"""Plan of a bench run: how many subscribers, how many events a second, and which event is sent when."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shot:
    """One event to publish: its number on its publisher and channel, and the second it is due.

    `due` counts from the start of the load.
    """

    publisher: int
    channel: int
    sequence: int
    due: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does. `rate` is events a second, of all publishers on all channels together.

    `ramp` is the seconds over which subscribers connect, `drain` the seconds without a delivery after which
    what has not arrived is lost. `frozen` subscribers stop reading once they are connected.
    """

    subscribers: int = 100
    rate: float = 10.0
    publishers: int = 1
    size: int = 100
    duration: float = 10.0
    frozen: int = 0
    channels: int = 1
    ramp: float = 0.0
    drain: float = 5.0

    @property
    def events(self) -> int:
        """How many events are due before the load ends."""
        return max(round(self.rate * self.duration), 1)

    def shots(self, publisher: int) -> Iterator[Shot]:
        """Yield the events of one publisher in their order.

        Events go to the channels in turn. A channel's events go to the publishers in turn.
        """
        step = self.channels * self.publishers
        # A whole turn at a time: at a million events a second, nobody has time for the others' numbers.
        for turn in range(0, self.events, step):
            first = turn + publisher * self.channels
            for number in range(first, min(first + self.channels, self.events)):
                yield Shot(publisher, number - first, turn // step + 1, number / self.rate)
