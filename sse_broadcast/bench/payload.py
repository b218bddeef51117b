"""Payload of a benchmark event: when it was due, who sent it, and its number.

`T<seconds> P<publisher> S<sequence> C<channel> B<run> xxx`. The time is that of CLOCK_MONOTONIC, which all
processes of one machine share.
"""

import re
import secrets
from dataclasses import dataclass

MAX_REMEMBERED = 4096
"""Markers whose numbers are remembered. An event is parsed once, and not by each subscriber."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What an event says about itself."""

    due: float
    publisher: int
    sequence: int
    channel: int


class Markers(dict[bytes, Marker]):
    """The markers of one run: make them, and find them in a stream."""

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self.run = run or secrets.token_hex(6)
        # Anywhere in a data line: some servers wrap what was published into JSON of their own.
        # A greedy `.*` would find the last of several in a line, and each event has one.
        self._pattern = re.compile(
            rb"^data:[^\n]*?(T\d+\.\d+ P\d+ S\d+ C\d+) B%b\b" % self.run.encode(), re.MULTILINE
        )
        self.find = self._pattern.findall
        """Return the markers in some whole lines, as bytes that `self[...]` parses."""

    def encode(self, marker: Marker, *, size: int) -> str:
        """Return the payload, padded to `size` bytes."""
        text = f"T{marker.due:.6f} P{marker.publisher} S{marker.sequence} C{marker.channel} B{self.run} "
        return text.ljust(size, "x")

    def __missing__(self, text: bytes) -> Marker:
        due, publisher, sequence, channel = text.split(b" ")
        marker = Marker(float(due[1:]), int(publisher[1:]), int(sequence[1:]), int(channel[1:]))
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[text] = marker
        return marker
