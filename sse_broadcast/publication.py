"""Publication: an event placed in its channels, with each encoding made once and shared."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sse_broadcast import clock, wire
from sse_broadcast.cursor import format_id
from sse_broadcast.encoding import Encoding
from sse_broadcast.event import Event

KEPT_BYTES = 112
"""Bytes of frames that a publication keeps beside twice its text frame's size and its channel's name."""

MAX_FRAMES = 4
"""Frames that a publication keeps at most."""


class Publication(msgspec.Struct, gc=False, eq=False):
    """One event on its way to every subscriber of its channels. Made by `place`.

    `position` is its place in the one order of its history, `time` when it got that, in seconds
    by `clock`. `id` is the text a reader sees: the publisher's own, or the position's. `size` is
    the length of its text frame in bytes; it is what an event counts for in a queue,
    whichever encoding its reader takes. `weight` is the bytes that it takes in a history, which says so.
    """

    # A msgspec.Struct: made in a third of the time, and never looked at by the collector, of which
    # a history full of them would else be most of the work.

    channels: tuple[str, ...]
    event: Event
    position: int
    time: float
    id: str
    size: int
    weight: int = 0
    # Made with the first frame: most of what a history holds is never read again.
    _frames: dict[Encoding | tuple[Encoding, str | None], bytes] | None = None

    def frame(self, encoding: Encoding, channel: str | None = None) -> bytes:
        """Return the event in this encoding: made when first asked for, then the same object for all.

        `channel` is the one it came on, for formats that name it. What is kept is bounded: beyond text and
        one other format, or a few channels of that, a frame is made each time that it is asked for.
        """
        frames = self._frames
        if frames is None:
            frames = self._frames = {}
        key = encoding if channel is None else (encoding, channel)
        frame = frames.get(key)
        if frame is None:
            block = encoding.format.block(
                self.event, id=self.id, channel=channel, time=clock.to_wall_time(self.time)
            )
            frame = encoding.frame(block)
            # None that is kept makes room: where each group asks for another, all would be made anew.
            if len(frames) < MAX_FRAMES:
                room = 2 * self.size + KEPT_BYTES + (0 if channel is None else len(channel))
                if len(frame) + sum(map(len, frames.values())) <= room:
                    frames[key] = frame
        return frame


def place(channels: tuple[str, ...], event: Event, *, epoch: str, position: int, time: float) -> Publication:
    """Return an event its place: a position of this epoch, at this moment by `clock`."""
    id = event.id or format_id(epoch, position)
    return Publication(channels, event, position, time, id, wire.size(event, id))


def cut(publications: Sequence[Publication], limit: int) -> Sequence[Publication]:
    """Return the first publication, and those behind it that `limit` bytes hold as well."""
    for count, publication in enumerate(publications):
        limit -= publication.size
        if limit < 0:
            return publications[: max(count, 1)]
    return publications[:]


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event and the channels it is meant for, before it has its place."""

    channels: tuple[str, ...]
    event: Event


@dataclass(frozen=True, slots=True)
class Received:
    """What a `Stream` gives: an event, and the channel it came on ("" for the server's own)."""

    channel: str
    data: str
    event: str
    id: str | None = None
    retry: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a publish: what was published has its place in the order, whoever reads it.

    `clients` is how many subscribers wanted any of it at that moment, streams included. `id` is
    the id of the last event, `channels` are its channels, `count` is the number of events.
    """

    clients: int
    channels: tuple[str, ...]
    id: str
    count: int = 1
