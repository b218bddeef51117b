"""What is held stays within its bound in memory, whatever it is made of."""

import tracemalloc
from collections.abc import Callable, Sequence

import pytest

from sse_broadcast.backends.memory.history import History
from sse_broadcast.config.policy import HistoryLimits
from sse_broadcast.encoding import CHUNKED_JSON, CHUNKED_NDJSON, CHUNKED_TEXT, JSON, NDJSON, TEXT
from sse_broadcast.event import Event
from sse_broadcast.publication import place
from tests.backends.memory.history_cases import ALL, FOREVER

ENCODINGS = (TEXT, CHUNKED_TEXT, JSON, CHUNKED_JSON, NDJSON, CHUNKED_NDJSON)


HUNDRED = tuple(f"channel.{number:03}" for number in range(100))


Shape = Callable[[int], tuple[Sequence[str], Event]]


SHAPES: dict[str, Shape] = {
    "small": lambda n: (["a"], Event(f"{n}")),
    "large": lambda n: (["a"], Event(f"{n}".ljust(5000, "x"))),
    "wide": lambda n: (["a"], Event(f"{n}".ljust(2000, "x") + "\U0001f600", f"\U0001f600{n}")),
    "escaped in JSON": lambda n: (["a"], Event(f"{n}" + "\x01" * 2000)),
    "lines": lambda n: (["a"], Event(f"{n}" + "\n" * 500)),
    "own ids": lambda n: (["a"], Event("x", id=f"id{n}")),
    "one id": lambda n: (["a"], Event("x", id="id")),
    "keys": lambda n: (["a"], Event("x", key=f"{n}".ljust(128, "\u0100"))),
    "own ids in many channels": lambda n: (HUNDRED, Event("x", id=f"id{n}")),
    "many channels": lambda n: (HUNDRED, Event(f"{n}".ljust(500, "x"))),
    "new channels": lambda n: ([f"channel.{n}".ljust(128, "x")], Event("x")),
    "many new channels": lambda n: (
        [f"{n}.{part}".ljust(128, "x") for part in range(99)] + ["a"],
        Event("x"),
    ),
    "ids in new channels": lambda n: ([f"channel.{n}"], Event("x", id=f"id{n}")),
}


@pytest.mark.parametrize(
    ("shape", "publishers"), [*((shape, 1) for shape in SHAPES), ("new channels", ALL), ("many channels", 7)]
)
def test_what_is_kept_is_within_one_and_a_half_of_the_total(shape: str, publishers: int) -> None:
    """With all that it implies: ids, channels, publishers, and frames in all encodings."""
    total = 1 << 19
    history = History(lambda _: HistoryLimits(ALL, ALL, FOREVER), total=total, max_channels=ALL)
    came = most = number = 0
    tracemalloc.start()
    while came < 2 * total:
        number += 1
        channels, event = SHAPES[shape](number)
        # Text of its own each time, as if it had come with a request.
        names = tuple("".join([*name]) for name in channels)
        one = place(names, event, epoch="0123abcd", position=number, time=float(number))
        history.extend([one], f"address {number % publishers}")
        for encoding in ENCODINGS:
            for channel in names if encoding.format.names_channel else (None,):
                one.frame(encoding, channel)
        came += one.weight
        most = max(most, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert history.usage.bytes <= total
    # Less where publications share the names of their channels, which count for each of them.
    assert 0.3 * total < most <= 1.5 * total
