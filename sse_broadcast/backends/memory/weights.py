"""Weights: how many bytes of memory publications, channels and publishers take."""

import sys
from collections.abc import Sequence

from sse_broadcast.event import DEFAULT_TYPE
from sse_broadcast.publication import Publication

# Bytes, measured with tracemalloc by benchmarks/memory.py.
# PUBLICATION_COST is the growth of the process, measured by benchmarks/history.py.

PUBLICATION_COST = 760
"""Each publication, besides its text. The text counts twice: as data and as a frame."""

MULTI_CHANNEL_COST = 128
"""A publication in several channels, in addition: the count of logs that hold it, and the tuple of names."""

PER_CHANNEL_COST = 96
"""Each channel of such a publication, besides the name itself."""

CUSTOM_ID_COST = 256
"""A publication whose publisher chose its id: its entry in the index of these ids."""

CUSTOM_ID_PER_CHANNEL_COST = 104
"""Each channel of such a publication after the first, in that index."""

KEY_COST = 64
"""The key of a publication, besides four bytes for each character."""

CHANNEL_COST = 1024
"""A channel that is remembered, besides its name."""

PUBLISHER_COST = 1024
"""A publisher that has opened channels, besides its name."""


def set_weights(channels: tuple[str, ...], run: Sequence[Publication]) -> tuple[int, bool]:
    """Set the weight of each publication: its bytes in memory, with its text frame.

    Return the sum of the weights, and whether any publication has an id that its publisher chose. Frames in
    other encodings that it may keep take less than its text frame and `publication.KEPT_BYTES` bytes.
    """
    base = PUBLICATION_COST + len(channels[0])
    if len(channels) > 1:
        base += MULTI_CHANNEL_COST + PER_CHANNEL_COST * len(channels) + sum(map(len, channels))
    total, named = 0, False
    for publication in run:
        event = publication.event
        weight = base + 2 * publication.size
        if event.id is not None:
            named = True
            weight += CUSTOM_ID_COST + CUSTOM_ID_PER_CHANNEL_COST * (len(channels) - 1)
        if event.key is not None:
            weight += KEY_COST + 4 * len(event.key)
        # Text that is not ASCII takes up to four bytes a character, and may be kept as UTF-8 beside.
        if not event.data.isascii():
            weight += sys.getsizeof(event.data)
        if event.type is not DEFAULT_TYPE and not event.type.isascii():
            weight += sys.getsizeof(event.type)
        publication.weight = weight
        total += weight
    return total, named


def weight_per_channel(publications: Sequence[Publication]) -> int:
    """Return the part of the weight of publications that counts for each of their channels."""
    if len(publications) == 1:
        return publications[0].weight // len(publications[0].channels)
    return sum(publication.weight // len(publication.channels) for publication in publications)
