"""Publication: an event with its place in its channels. Each encoding of it is made once and shared."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sse_broadcast import clock, wire
from sse_broadcast.cursor import format_id
from sse_broadcast.encoding import Encoding
from sse_broadcast.event import Event

KEPT_BYTES = 112
"""Bytes of frames that a publication may keep, besides twice the size of its text frame and its channel's
name."""

MAX_FRAMES = 4
"""Maximum number of frames that a publication keeps."""


class Publication(msgspec.Struct, gc=False, eq=False):
    """One event on its way to all subscribers of its channels. Made by `place`.

    `position` is its place in the order of the history. `time` is when it got that place, in seconds by
    `clock`. `id` is the text that clients see: the publisher's own, or made from the position. `size` is the
    length of its text frame in bytes, for queues of every encoding. `weight` is the bytes that it takes in a
    history, set by the history.
    """

    # A msgspec.Struct: made in a third of the time. gc=False: a full history would otherwise be most of the
    # collector's work.

    channels: tuple[str, ...]
    event: Event
    position: int
    time: float
    id: str
    size: int
    weight: int = 0
    # Created with the first frame: most events in a history are never read again.
    _frames: dict[Encoding | tuple[Encoding, str | None], bytes] | None = None

    def frame(self, encoding: Encoding, channel: str | None = None) -> bytes:
        """Return the event in an encoding. Once made, a frame is shared by all subscribers.

        `channel` is the channel of the event, for formats that name it. Only a few frames are kept: beyond
        text and one other format, or a few channels of that, a frame is made at each call.
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
            # A new frame never replaces a kept one: if each group asked for a different frame, every call
            # would make one again.
            if len(frames) < MAX_FRAMES:
                room = 2 * self.size + KEPT_BYTES + (0 if channel is None else len(channel))
                if len(frame) + sum(map(len, frames.values())) <= room:
                    frames[key] = frame
        return frame


def place(channels: tuple[str, ...], event: Event, *, epoch: str, position: int, time: float) -> Publication:
    """Return the publication of an event at a position of an epoch, at a time by `clock`."""
    id = event.id or format_id(epoch, position)
    return Publication(channels, event, position, time, id, wire.size(event, id))


def cut(publications: Sequence[Publication], limit: int) -> Sequence[Publication]:
    """Return the first publication, and the following ones that fit into `limit` bytes."""
    for count, publication in enumerate(publications):
        limit -= publication.size
        if limit < 0:
            return publications[: max(count, 1)]
    return publications[:]


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event and its channels, before it has a position."""

    channels: tuple[str, ...]
    event: Event


@dataclass(frozen=True, slots=True)
class Received:
    """An event that a `Stream` yields, and its channel ("" for the server's own)."""

    channel: str
    data: str
    event: str
    id: str | None = None
    retry: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of a publish. The events have their place in the order; subscribers may not have them yet.

    `clients` is the number of subscribers of any of the channels at that moment, streams included. `id` is
    the id of the last event, `channels` are its channels, `count` is the number of events.
    """

    clients: int
    channels: tuple[str, ...]
    id: str
    count: int = 1
